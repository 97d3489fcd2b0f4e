"""Row-wise thinking budgets inside ``model.generate``, as tensor operations only.

Every decision about caps, deadlines and loops is made on the device the scores live on: nothing is read
back, so the host never waits for the accelerator because of a budget. Soft criteria look from outside
(``_watch``); a batch without any does not pay for them.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from budgetctl.channels import CLOSE_TAG, OPEN_TAG
from budgetctl.errors import ConfigError
from budgetctl.stopping import ANSWER_TOKENS, with_grace
from budgetctl.types import Budget, StopReason

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from budgetctl.integrations._watch import Watch

TRANSITION = "\n\nTime to answer based on the reasoning so far.\n"
REASONS = (
    StopReason.NATURAL,
    StopReason.CAP,
    StopReason.DEADLINE,
    StopReason.LOOP,
    StopReason.SETTLED,
)
CHECK_EVERY = 16
"""Steps between two looks at the deadline."""
LOOPS_EVERY = 64
"""Steps between two looks for loops, which take longer."""

_NEVER = torch.iinfo(torch.int64).max
_LOOP_TAIL = 384
_LOOP_REPEATS = 4
_MIN_PERIOD = 4
_ENDS = re.compile(r"""(?:\n|[.!?]["')\]*]*)[ \t]*\Z""")


class TokenTables:
    """What the tokens of a vocabulary mean for budgets. Made by :func:`token_tables`.

    Attributes:
        open_id: The token that starts thinking.
        close_id: The token that ends it.
        flags: Bool, one row per token: its text ends a sentence or a line; holds an odd number of code
            fences; holds an odd number of dollar signs; ends a line, and with it an inline formula.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, open_tag: str, close_tag: str) -> None:
        self.open_id = _tag_id(tokenizer, open_tag)
        self.close_id = _tag_id(tokenizer, close_tag)
        texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], skip_special_tokens=True)
        self.flags = torch.tensor(
            [
                (_ENDS.search(t) is not None, t.count("```") % 2 == 1, t.count("$") % 2 == 1, "\n" in t)
                for t in texts
            ]
        )


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


def close_ids(tokenizer: PreTrainedTokenizerBase, *, close_text: str | None, close_tag: str) -> list[int]:
    """Return the tokens that end a thought: ``close_text``, by default a short transition and the tag.

    A ``close_text`` without the tag gets the tag and an empty line behind it.
    """
    text = TRANSITION if close_text is None else close_text
    if close_tag not in text:
        text = f"{text}{close_tag}\n\n"
    return [int(i) for i in tokenizer.encode(text, add_special_tokens=False)]


class RowBudgets:
    """Where every row of a batch stands: one tensor entry per row, advanced once per decode step.

    A row is thinking from its last opening tag on, in the prompt or generated, until a closing tag. Tokens
    of thinking are counted over all blocks of the turn, so a block that opens again after a forced close
    gets no second budget; the forced tokens themselves are not counted.
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
        rows = [budget or Budget(stop="none") for budget in budgets]
        self.tables = tables
        self.clock = clock
        self.started = started
        self.stamps: list[float] = []
        self._seen = 0
        self._has_deadlines = any(b.deadline_s is not None for b in rows)
        self._has_loops = any(b.stop != "none" for b in rows)
        self._close = torch.tensor(list(close))
        self._caps = _ints(b.reasoning_tokens for b in rows)
        self._limits = _ints(None if (n := b.reasoning_tokens) is None else with_grace(n) for b in rows)
        self._answer_caps = _ints(b.answer_tokens for b in rows)
        self._reserves = torch.tensor([float(b.answer_tokens or ANSWER_TOKENS) for b in rows])
        self._deadlines = torch.tensor([math.inf if b.deadline_s is None else b.deadline_s for b in rows])
        self._watched = torch.tensor([b.stop != "none" for b in rows], dtype=torch.bool)
        self._spent = torch.zeros(len(rows), dtype=torch.int64)
        self._answered = torch.zeros_like(self._spent)
        self._cause = torch.full_like(self._spent, REASONS.index(StopReason.CAP))
        self._reason = torch.zeros_like(self._spent)
        self._at = torch.full_like(self._spent, -1)
        self._thinking = torch.zeros(len(rows), dtype=torch.bool)
        self._boundary = torch.zeros_like(self._thinking)
        self._fenced = torch.zeros_like(self._thinking)
        self._formula = torch.zeros_like(self._thinking)

    @property
    def reasons(self) -> list[StopReason]:
        """Why thinking ended, per row, as far as budgets are concerned. Waits for the device."""
        return [REASONS[i] for i in self._reason.tolist()]

    @property
    def answers_full(self) -> Tensor:
        """Bool per row: it has used up its answer tokens."""
        return self._answered >= self._answer_caps

    @property
    def standing(self) -> tuple[Tensor, Tensor, Tensor]:
        """Per row: it is thinking freely; its last token ended a sentence or a line; tokens of thinking."""
        return self._thinking & (self._at < 0), self._boundary, self._spent

    @property
    def elapsed_s(self) -> float:
        """Seconds from the start to the last step."""
        return self.stamps[-1] - self.started if self.stamps else 0.0

    @property
    def s_per_token(self) -> float | None:
        """Seconds per step so far; None before the second."""
        steps = len(self.stamps)
        return (self.stamps[-1] - self.stamps[0]) / (steps - 1) if steps > 1 else None

    def forced(self) -> tuple[Tensor, Tensor]:
        """Return which rows must take a given token next, and which token (any, where not forced)."""
        return self._at >= 0, self._close[self._at.clamp(min=0)]

    def advance(self, ids: Tensor, *, vocabulary: int) -> None:
        """Take the ids so far; what was seen before is not counted again."""
        if ids.shape[1] == self._seen:
            return
        if self._seen == 0:
            self._start(ids, vocabulary=vocabulary)
        else:
            self.stamps.append(self.clock())
            self._step(ids)
        self._seen = ids.shape[1]

    def _start(self, ids: Tensor, *, vocabulary: int) -> None:
        if ids.shape[0] != len(self._spent):
            raise ConfigError(
                f"one budget per row, seen {len(self._spent)} for {ids.shape[0]} rows (no beams)"
            )
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(ids.device))
        flags = self.tables.flags
        self._flags = torch.nn.functional.pad(flags, (0, 0, 0, max(vocabulary - len(flags), 0))).to(
            ids.device
        )
        self._periods = _loop_index(ids.device)
        places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        opened = ((ids == self.tables.open_id) * places).amax(dim=1)
        closed = ((ids == self.tables.close_id) * places).amax(dim=1)
        self._thinking = opened > closed
        self._spent = torch.where(self._thinking, ids.shape[1] - opened, 0)
        self._decide(torch.zeros_like(self._thinking), torch.zeros_like(self._thinking))

    def _step(self, ids: Tensor) -> None:
        token = ids[:, -1]
        forced = self._at >= 0
        opens, closes = token == self.tables.open_id, token == self.tables.close_id
        self._thinking = (self._thinking | opens) & ~closes
        free = ~(forced | opens | closes)
        self._spent += self._thinking & free
        self._answered += ~self._thinking & free
        boundary, fence, dollar, newline = self._flags[token].unbind(1)
        self._fenced = self._fenced ^ fence
        self._formula = (self._formula ^ dollar) & ~newline
        self._boundary = boundary & ~self._fenced & ~self._formula
        self._check(ids)
        self._decide(forced, self._boundary)

    def _decide(self, forced: Tensor, boundary: Tensor) -> None:
        """Set what the next token of each row is to be."""
        over = (self._spent >= self._caps) & (boundary | (self._spent >= self._limits))
        due = over & self._thinking & ~forced
        self._reason = torch.where(due, self._cause, self._reason)
        after = torch.where(self._at + 1 < len(self._close), self._at + 1, -1)
        self._at = torch.where(forced, after, torch.where(due, 0, -1))

    def _check(self, ids: Tensor) -> None:
        steps = len(self.stamps)
        if self._has_deadlines and steps % CHECK_EVERY == 0:
            left = self._reserves * (self.s_per_token or 0.0)
            self._end(self.elapsed_s + left >= self._deadlines, StopReason.DEADLINE)
        if self._has_loops and steps % LOOPS_EVERY == 0 and steps >= _LOOP_TAIL:
            loops = _loops(ids[:, -_LOOP_TAIL:], self._periods)
            self._end(loops & self._watched, StopReason.LOOP)

    def settle(self, rows: Tensor) -> None:
        """Close the thinking of these rows from the next token on: a soft criterion found its evidence."""
        self._end(rows, StopReason.SETTLED)
        due = rows & self._thinking & (self._at < 0)
        self._reason = torch.where(due, self._cause, self._reason)
        self._at = torch.where(due, 0, self._at)

    def _end(self, rows: Tensor, reason: StopReason) -> None:
        """End the thinking of these rows at the next step, wherever they are in a sentence."""
        first = rows & self._thinking & (self._cause == REASONS.index(StopReason.CAP))
        self._cause = torch.where(first, REASONS.index(reason), self._cause)
        self._caps = torch.where(first, 0, self._caps)
        self._limits = torch.where(first, 0, self._limits)


def _ints(values: Iterable[int | None]) -> Tensor:
    return torch.tensor([_NEVER if value is None else value for value in values], dtype=torch.int64)


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
        self.rows.advance(input_ids, vocabulary=scores.shape[1])
        if self.watch is not None:
            self.watch.look(input_ids, scores, self.rows)
        forced, token = (t[:, None] for t in self.rows.forced())
        kept = scores.gather(1, token).masked_fill(forced, 0.0)
        return scores.masked_fill(forced, -math.inf).scatter_(1, token, kept)

    def answer_limit(self) -> StoppingCriteria:
        """Return the criterion that ends each row at the answer tokens of its budget."""
        return _AnswerLimit(self.rows)


class _AnswerLimit(StoppingCriteria):
    def __init__(self, rows: RowBudgets) -> None:
        self._rows = rows

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        self._rows.advance(input_ids, vocabulary=0)
        return self._rows.answers_full


def _loop_index(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return, per period and place of the tail, the place one period earlier, and whether there is one."""
    periods = torch.arange(_MIN_PERIOD, _LOOP_TAIL // _LOOP_REPEATS + 1, device=device)[:, None]
    places = torch.arange(_LOOP_TAIL, device=device)
    return (places - periods).clamp(min=0), places >= periods


def _loops(tail: Tensor, index: tuple[Tensor, Tensor]) -> Tensor:
    """Return, per row, whether its last 384 tokens are one pattern of 4 to 96, four times or more.

    This is the pattern rule of :class:`budgetctl.stopping.LoopStop` on tokens: the others need the text.
    """
    earlier, exists = index
    return ((tail[:, None, :] == tail[:, earlier]) | ~exists).all(dim=2).any(dim=1)
