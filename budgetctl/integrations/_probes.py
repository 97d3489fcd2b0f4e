"""Probes: what a model would say if its thought ended now.

A row's own tokens, the closing text and a cue are read by a forward pass of their own, and a few tokens are
decoded greedily. That draws no random number, so looking changes nothing about a sampled thought.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from budgetctl.errors import ConfigError
from budgetctl.stopping import Trials
from budgetctl.types import Trial

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a probe found: the trial answer, if one was asked for, and the entropy of its first token."""

    trial: Trial | None
    entropy: float
    generated: int
    prefilled: int


class Prober:
    """Asks the model what it would say if its thought ended now.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        trials: How trial answers are asked for.
        close: Tokens that end a thought.
        ends: Tokens that end a text.
        pad: The padding token.

    Raises:
        ConfigError: Two of the choices begin with the same token.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        trials: Trials,
        *,
        close: Sequence[int],
        ends: Sequence[int],
        pad: int,
    ) -> None:
        self.trials = trials
        self.ends = frozenset(ends)
        self._model: Any = model  # the mixins of transformers are not typed
        self._tokenizer: Any = tokenizer
        self._pad = pad
        self._suffix = [*close, *self._ids(trials.cue)]
        self._choices = [self._first_id(choice) for choice in trials.choices]
        if len(set(self._choices)) < len(self._choices):
            raise ConfigError(f"choices must differ in their first token, seen {trials.choices!r}")

    @property
    def window(self) -> int:
        """The most tokens that a trial answer generates."""
        return 1 if self._choices else self.trials.tokens

    def __call__(self, prefixes: Sequence[list[int]], *, trial: Sequence[bool]) -> list[Reading]:
        """Close each prefix and read on, for a trial answer or for the next token's entropy only."""
        rows = [[*prefix, *self._suffix] for prefix in prefixes]
        windows = [self.window if wanted else 1 for wanted in trial]
        ids, seen = left_padded(rows, pad=self._pad, device=self._model.device)
        notes = _Notes(self._choices)
        out = self._model.generate(
            input_ids=ids,
            attention_mask=seen,
            logits_processor=[notes],
            stopping_criteria=[_Enough(self, width=ids.shape[1], windows=windows)],
            max_new_tokens=max(windows),
            eos_token_id=sorted(self.ends),
            pad_token_id=self._pad,
            **_GREEDY,
        )
        new = getattr(out, "sequences", out)[:, ids.shape[1] :].tolist()
        logp = torch.stack(notes.best, dim=1).tolist()
        replies = [self.reply(row, window=window) for row, window in zip(new, windows, strict=True)]
        return [
            Reading(
                trial=self._trial(replies[i], logp[i], notes.of_choices[i].tolist()) if trial[i] else None,
                entropy=entropy,
                generated=replies[i].generated,
                prefilled=len(row),
            )
            for i, (row, entropy) in enumerate(zip(rows, notes.entropy.tolist(), strict=True))
        ]

    def reply(self, ids: Sequence[int], *, window: int) -> _Reply:
        """Return how far a trial answer of at most ``window`` tokens has come."""
        for n, token in enumerate(ids[:window], start=1):
            if token in self.ends:
                return _Reply(text=self.text(ids[: n - 1]), generated=n, ended=True)
            text = self.text(ids[:n])
            end = text.find(self.trials.until) if self.trials.until else -1
            while end >= 0 and text.count("{", 0, end) > text.count("}", 0, end):
                end = text.find(self.trials.until, end + 1)
            if end >= 0:
                return _Reply(text=text[:end], generated=n, ended=True)
        return _Reply(text="", generated=min(len(ids), window), ended=False)

    def _trial(self, reply: _Reply, logp: Sequence[float], of_choices: Sequence[float]) -> Trial:
        if of_choices:
            mass, best = sum(of_choices), max(of_choices)
            answer = self.trials.choices[of_choices.index(best)]
            return Trial(confidence=best / mass if mass else 0.0, mass=min(mass, 1.0), answer=answer)
        if not (reply.ended and reply.text.strip()):
            return Trial(confidence=0.0, mass=0.0)
        mean = sum(logp[: reply.generated]) / reply.generated
        return Trial(confidence=math.exp(mean), mass=1.0, answer=reply.text.strip())

    def _first_id(self, choice: str) -> int:
        cue = self._ids(self.trials.cue)
        ids = self._ids(self.trials.cue + choice)
        if ids[: len(cue)] != cue or len(ids) == len(cue):
            raise ConfigError(f"choice {choice!r} merges with the cue {self.trials.cue!r} into other tokens")
        return ids[len(cue)]

    def _ids(self, text: str) -> list[int]:
        return [int(i) for i in self._tokenizer.encode(text, add_special_tokens=False)]

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, without special ones."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


_GREEDY = {"do_sample": False, "num_beams": 1, "temperature": 1.0, "top_p": 1.0, "top_k": 50}
"""Greedy decoding whatever the model's own defaults; the last three, at their neutral values, keep quiet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    """A trial answer as generated; one that ended has its text. The token that ends it counts too."""

    text: str
    generated: int
    ended: bool


class _Notes(LogitsProcessor):
    """Notes the probabilities that greedy decoding passes by."""

    def __init__(self, choices: Sequence[int]) -> None:
        self._choices = list(choices)
        self.best: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logp = scores.float().log_softmax(dim=-1)
        if not self.best:
            self.entropy = torch.special.entr(logp.exp()).sum(dim=-1)
            self.of_choices = logp[:, self._choices].exp()
        self.best.append(logp.max(dim=-1).values)
        return scores


class _Enough(StoppingCriteria):
    """Ends each row of a probe where its answer or its window ends."""

    def __init__(self, prober: Prober, *, width: int, windows: Sequence[int]) -> None:
        self._prober, self._width, self._windows = prober, width, windows

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        new = input_ids[:, self._width :].tolist()
        replies = (self._prober.reply(row, window=w) for row, w in zip(new, self._windows, strict=True))
        done = [r.ended or r.generated == w for r, w in zip(replies, self._windows, strict=True)]
        return torch.tensor(done, device=input_ids.device)


def left_padded(rows: Sequence[list[int]], *, pad: int, device: Any) -> tuple[Tensor, Tensor]:
    """Return rows of ids as one tensor, padded on the left, and which of them are no padding."""
    width = max(map(len, rows))
    ids = [[pad] * (width - len(row)) + row for row in rows]
    seen = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(seen, device=device)
