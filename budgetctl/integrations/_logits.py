"""Thinking budgets inside ``model.generate``: the processor that keeps them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from budgetctl.channels import CLOSE_TAG, OPEN_TAG
from budgetctl.integrations._rows import RowBudgets, token_tables
from budgetctl.types import Budget

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from budgetctl.integrations._watch import Watch

TRANSITION = "\n\nTime to answer based on the reasoning so far.\n"


def close_ids(tokenizer: PreTrainedTokenizerBase, *, close_text: str | None, close_tag: str) -> list[int]:
    """Return the tokens that end a thought: ``close_text``, by default a short transition and the tag.

    A ``close_text`` without the tag gets the tag and an empty line behind it.
    """
    text = TRANSITION if close_text is None else close_text
    if close_tag not in text:
        text = f"{text}{close_tag}\n\n"
    return [int(i) for i in tokenizer.encode(text, add_special_tokens=False)]


class BudgetLogitsProcessor(LogitsProcessor):
    """Keep a thinking budget per row of ``model.generate``.

    From the cap on a row may finish its sentence (10 % grace, outside code and formulas); then the closing
    text is forced, token by token. Deadlines are looked at every 16 steps, loops every 64; both end the
    thought at once. Rows whose budget is None stay untouched, and no token is ever banned. One object serves
    one call of ``generate``, without beams or assisted decoding. Presets that need trial answers act as
    ``safe``: it takes the model to ask for any, which ``generate`` of this package has.

    Example:
        >>> budget = BudgetLogitsProcessor(tokenizer, [Budget(reasoning_tokens=256)])  # doctest: +SKIP
        >>> model.generate(**inputs, logits_processor=[budget],
        ...                stopping_criteria=[budget.answer_limit()])  # doctest: +SKIP

    Args:
        tokenizer: The tokenizer of the model.
        budgets: One per row; ``answer_tokens`` needs :meth:`answer_limit`, a budget of 0 closes the thought
            as soon as it opens (``generate`` of this package switches it off in the prompt instead).
        close_text: Text that ends a thought; None is a short transition, the closing tag, an empty line.
        open_tag: The tag before thinking, one token.
        close_tag: The tag after it, one token.
        clock: Seconds, monotonic.
        started: Time on ``clock`` from which deadlines count; None is now.
        watch: Soft criteria of the rows; None where no row has any.

    Raises:
        ConfigError: A tag is not a single token, or the batch has another size than ``budgets``.
    """

    supports_continuous_batching = False

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        budgets: Sequence[Budget | None],
        *,
        close_text: str | None = None,
        open_tag: str = OPEN_TAG,
        close_tag: str = CLOSE_TAG,
        clock: Callable[[], float] = time.perf_counter,
        started: float | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.watch = watch
        self.rows = RowBudgets(
            budgets,
            tables=token_tables(tokenizer, open_tag, close_tag),
            close=close_ids(tokenizer, close_text=close_text, close_tag=close_tag),
            clock=clock,
            started=clock() if started is None else started,
        )

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores with the rows that are being closed held to their next closing token."""
        self.rows.advance(input_ids)
        if self.watch is not None:
            self.watch.look(input_ids, scores, self.rows)
        forced = self.rows.forced()
        if forced:
            scores = scores.clone()
            for row, token in forced:
                scores[row] = -math.inf
                scores[row, token] = 0.0
        return scores

    def answer_limit(self) -> StoppingCriteria:
        """Return the criterion that ends each row at the answer tokens of its budget."""
        return _AnswerLimit(self.rows)


class _AnswerLimit(StoppingCriteria):
    def __init__(self, rows: RowBudgets) -> None:
        self._rows = rows

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        self._rows.advance(input_ids)
        return torch.tensor(self._rows.answers_full, device=input_ids.device)
