"""The probabilities that ``model.generate`` drew its tokens with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria


class TokenLogprobs(LogitsProcessor):
    """Notes the log-probability of every token that is taken, as the processors before it leave the scores.

    It keeps one number per row and step, on the device, and is read once at the end: ``output_scores`` of
    ``generate`` would keep the whole vocabulary.
    """

    supports_continuous_batching = False

    def __init__(self) -> None:
        self._offered: Tensor | None = None
        self._taken: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Look at the scores of a step, and leave them as they are."""
        self._offered = scores.float().log_softmax(dim=-1)
        return scores

    def taken(self) -> StoppingCriteria:
        """Return what sees the token that was taken; it ends nothing."""
        return _Taken(self)

    def note(self, tokens: Tensor) -> None:
        """Note the tokens of a step, one per row."""
        assert self._offered is not None
        self._taken.append(self._offered.gather(1, tokens[:, None]).squeeze(1))

    def of_rows(self) -> list[list[float]]:
        """Return the log-probabilities row by row; what stands behind the end of a row means nothing."""
        return [[float(v) for v in row] for row in torch.stack(self._taken, dim=1).tolist()]


class _Taken(StoppingCriteria):
    def __init__(self, notes: TokenLogprobs) -> None:
        self._notes = notes

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        self._notes.note(input_ids[:, -1])
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
