"""Where every row of ``model.generate`` stands with its thinking budget."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from torch import Tensor

from budgetctl.errors import ConfigError
from budgetctl.stopping import ANSWER_TOKENS, with_grace
from budgetctl.types import Budget, StopReason

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHECK_EVERY = 16
"""Steps between two looks at the deadline."""
LOOPS_EVERY = 64
"""Steps between two looks for loops, which take longer."""

ENDS, FENCE, DOLLAR, LINE, TAG = 1, 2, 4, 8, 16

_LOOP_TAIL = 384
_LOOP_REPEATS = 4
_PERIODS = range(4, _LOOP_TAIL // _LOOP_REPEATS + 1)
_ENDS = re.compile(r"""(?:\n|[.!?]["')\]*]*)[ \t]*\Z""")


class TokenTables:
    """What the tokens of a vocabulary mean for budgets. Made by :func:`token_tables`.

    Attributes:
        open_id: The token that starts thinking.
        close_id: The token that ends it.
        marks: Per token the sum of what it is: ``ENDS`` a sentence or a line, holds an odd number of code
            fences (``FENCE``) or of dollar signs (``DOLLAR``), ends a ``LINE`` and with it an inline formula,
            is a ``TAG``.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, open_tag: str, close_tag: str) -> None:
        self.open_id = _tag_id(tokenizer, open_tag)
        self.close_id = _tag_id(tokenizer, close_tag)
        texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], skip_special_tokens=True)
        self.marks = [
            ENDS * (_ENDS.search(t) is not None)
            + FENCE * (t.count("```") % 2)
            + DOLLAR * (t.count("$") % 2)
            + LINE * ("\n" in t)
            for t in texts
        ]
        for tag in (self.open_id, self.close_id):
            self.marks[tag] |= TAG


@lru_cache(maxsize=4)
def token_tables(tokenizer: PreTrainedTokenizerBase, open_tag: str, close_tag: str) -> TokenTables:
    """Return the tables of a tokenizer, kept because decoding a large vocabulary takes about a second.

    Raises:
        ConfigError: A tag is not a single token of this tokenizer.
    """
    return TokenTables(tokenizer, open_tag=open_tag, close_tag=close_tag)


def _tag_id(tokenizer: PreTrainedTokenizerBase, tag: str) -> int:
    ids = tokenizer.encode(tag, add_special_tokens=False)
    if len(ids) != 1:
        raise ConfigError(
            f"the thinking tag {tag!r} must be one token of the tokenizer, seen {len(ids)}: {ids}"
        )
    return int(ids[0])


@dataclass(slots=True)
class Row:
    """Where one row stands.

    Attributes:
        cap: Tokens of thinking from which on it ends at a boundary.
        limit: Tokens at which it ends wherever it is.
        answer_cap: Tokens of answer that it may have.
        deadline_s: Seconds from the start.
        reserve: Tokens of answer to keep time for.
        watched: It is looked at for loops.
        thinking: Between an opening and a closing tag.
        boundary: Its last token ended a sentence or a line, outside code and formulas.
        spent: Tokens of thinking.
        answered: Tokens of answer.
        at: Which closing token comes next; -1 while the row writes freely.
        cause: What it will have been if thinking ends.
        reason: Why thinking ended, as far as budgets are concerned.
    """

    cap: float
    limit: float
    answer_cap: float
    deadline_s: float
    reserve: int
    watched: bool
    thinking: bool = False
    boundary: bool = False
    fenced: bool = False
    formula: bool = False
    spent: int = 0
    answered: int = 0
    at: int = -1
    cause: StopReason = StopReason.CAP
    reason: StopReason = StopReason.NATURAL

    @classmethod
    def of(cls, budget: Budget | None) -> Row:
        """Return the row of a budget before its first token; None is no budget."""
        budget = budget or Budget(stop="none")
        cap = budget.reasoning_tokens
        return cls(
            cap=math.inf if cap is None else cap,
            limit=math.inf if cap is None else with_grace(cap),
            answer_cap=math.inf if budget.answer_tokens is None else budget.answer_tokens,
            deadline_s=math.inf if budget.deadline_s is None else budget.deadline_s,
            reserve=budget.answer_tokens or ANSWER_TOKENS,
            watched=budget.stop != "none",
        )

    def take(self, token: int, marks: int, *, open_id: int, closing: int) -> None:
        """Take the token that the row has just got; ``closing`` tokens end a thought."""
        forced = self.at >= 0
        if marks & TAG:
            self.thinking = token == open_id
        elif not forced:
            if self.thinking:
                self.spent += 1
            else:
                self.answered += 1
        if marks & FENCE:
            self.fenced = not self.fenced
        if marks & LINE:
            self.formula = False
        elif marks & DOLLAR:
            self.formula = not self.formula
        self.boundary = bool(marks & ENDS) and not self.fenced and not self.formula
        if forced:
            self.at = self.at + 1 if self.at + 1 < closing else -1

    def decide(self) -> None:
        """Begin to close the thought if that is due."""
        over = self.spent >= self.limit or (self.boundary and self.spent >= self.cap)
        if over and self.thinking and self.at < 0:
            self.reason, self.at = self.cause, 0

    def end(self, reason: StopReason) -> None:
        """End the thinking at the next step, wherever it is in a sentence."""
        if self.thinking and self.cause is StopReason.CAP:
            self.cause, self.cap, self.limit = reason, 0, 0


class RowBudgets:
    """The rows of a batch, advanced once per decode step.

    A row is thinking from its last opening tag on, in the prompt or generated, until a closing tag. Tokens
    of thinking are counted over all blocks of the turn, so a block that opens again after a forced close
    gets no second budget; the forced tokens themselves are not counted.

    One token per row is read back from the device at each step. ``generate`` waits for the device once per
    step anyway, and for so few numbers the processor is faster than some thirty operations on the device.
    """

    def __init__(
        self,
        budgets: Sequence[Budget | None],
        *,
        tables: TokenTables,
        close: Sequence[int],
        clock: Callable[[], float],
        started: float,
    ) -> None:
        self.rows = [Row.of(budget) for budget in budgets]
        self.tables = tables
        self.clock = clock
        self.started = started
        self.stamps: list[float] = []
        self._close = list(close)
        self._seen = 0
        self._has_deadlines = any(row.deadline_s < math.inf for row in self.rows)
        self._has_loops = any(row.watched for row in self.rows)

    @property
    def reasons(self) -> list[StopReason]:
        """Why thinking ended, per row, as far as budgets are concerned."""
        return [row.reason for row in self.rows]

    @property
    def answers_full(self) -> list[bool]:
        """Per row: it has used up its answer tokens."""
        return [row.answered >= row.answer_cap for row in self.rows]

    @property
    def elapsed_s(self) -> float:
        """Seconds from the start to the last step."""
        return self.stamps[-1] - self.started if self.stamps else 0.0

    @property
    def s_per_token(self) -> float | None:
        """Seconds per step so far; None before the second."""
        steps = len(self.stamps)
        return (self.stamps[-1] - self.stamps[0]) / (steps - 1) if steps > 1 else None

    def forced(self) -> list[tuple[int, int]]:
        """Return the rows that must take a given token next, and which token."""
        return [(i, self._close[row.at]) for i, row in enumerate(self.rows) if row.at >= 0]

    def advance(self, ids: Tensor) -> None:
        """Take the ids so far; what was seen before is not counted again.

        Raises:
            ConfigError: There are more or fewer rows than budgets.
        """
        if ids.shape[1] == self._seen:
            return
        if self._seen == 0:
            self._start(ids)
        else:
            self.stamps.append(self.clock())
            self._step(ids)
        self._seen = ids.shape[1]

    def settle(self, i: int) -> None:
        """Close the thinking of a row from the next token on: a soft criterion found its evidence."""
        row = self.rows[i]
        row.end(StopReason.SETTLED)
        row.decide()

    def _start(self, ids: Tensor) -> None:
        if ids.shape[0] != len(self.rows):
            raise ConfigError(f"one budget per row, seen {len(self.rows)} for {ids.shape[0]} rows (no beams)")
        for row, prompt in zip(self.rows, ids.tolist(), strict=True):
            opened, closed = (_last(prompt, tag) for tag in (self.tables.open_id, self.tables.close_id))
            for token in prompt[opened:] if opened > closed else ():
                self._take(row, token)
            row.decide()

    def _step(self, ids: Tensor) -> None:
        for row, token in zip(self.rows, ids[:, -1].tolist(), strict=True):
            self._take(row, token)
        self._check(ids)
        for row in self.rows:
            row.decide()

    def _take(self, row: Row, token: int) -> None:
        marks = self.tables.marks
        # A model may have more tokens than its tokenizer has texts.
        mark = marks[token] if token < len(marks) else 0
        row.take(token, mark, open_id=self.tables.open_id, closing=len(self._close))

    def _check(self, ids: Tensor) -> None:
        steps = len(self.stamps)
        if self._has_deadlines and steps % CHECK_EVERY == 0:
            for row in self.rows:
                if self.elapsed_s + row.reserve * (self.s_per_token or 0.0) >= row.deadline_s:
                    row.end(StopReason.DEADLINE)
        if self._has_loops and steps % LOOPS_EVERY == 0 and steps >= _LOOP_TAIL:
            for row, tail in zip(self.rows, ids[:, -_LOOP_TAIL:].tolist(), strict=True):
                if row.watched and row.thinking and looping(tail):
                    row.end(StopReason.LOOP)


def _last(ids: Sequence[int], token: int) -> int:
    """Return the place of the last ``token``, -1 where there is none."""
    return next((i for i in range(len(ids) - 1, -1, -1) if ids[i] == token), -1)


def looping(tail: Sequence[int]) -> bool:
    """Return whether tokens are one pattern of 4 to 96 over and over.

    This is the pattern rule of :class:`budgetctl.stopping.LoopStop` on the last 384 tokens: the others need
    the text.
    """
    return any(tail[period:] == tail[:-period] for period in _PERIODS if tail[-1] == tail[-1 - period])
