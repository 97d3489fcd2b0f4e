"""The budget that all model calls of one user's turn share."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from budgetctl.policy import ANSWER_RESERVE, Situation, at_most, expect
from budgetctl.types import Budget, Decision, tighter

if TYPE_CHECKING:
    from budgetctl.outcomes import Outcome

VOID = "a budget of the turn limits the call"


@dataclass(kw_only=True)
class Turn:
    """What the model calls of one turn may spend, and have spent.

    Attributes:
        tokens: Thinking tokens that they may spend together; None is no limit.
        usd: Dollars likewise: prompts, thinking and answers.
        spent_tokens: Thinking tokens so far. A call whose thinking nobody counted is charged with all of its
            output, so that the limit still holds.
        spent_usd: Dollars so far, of the calls whose cost is known.
    """

    tokens: int | None = None
    usd: float | None = None
    spent_tokens: int = 0
    spent_usd: float = 0.0

    def tighten(self, decision: Decision, situation: Situation) -> Decision:
        """Return the decision within what is left; at nothing left, with as little thinking as can be."""
        left, reasons = self._left(situation)
        stop = decision.budget.stop
        within = Budget(stop=stop, reasons=reasons)
        if left is not None:
            within = at_most(left, *reasons, stop=stop, situation=situation)
        budget = tighter(decision.budget, within)
        return replace(
            decision,
            budget=budget,
            policy=f"{decision.policy}&{self}",
            policy_hash=hashlib.blake2b(f"{decision.policy_hash}&{self}".encode(), digest_size=8).hexdigest(),
            expected=expect(budget, situation),
            reasons=(*decision.reasons, *within.reasons),
            certificate=None,
            certificate_void_reason=VOID,
        )

    def charge(self, outcome: Outcome | None, *, output_tokens: int | None) -> None:
        """Take what a call has spent off the budget.

        Args:
            outcome: The call's record, if there is one.
            output_tokens: All that it generated, if known.
        """
        thought = None if outcome is None else outcome.reasoning_tokens
        self.spent_tokens += (output_tokens or 0) if thought is None else thought
        self.spent_usd += 0.0 if outcome is None else outcome.cost_usd or 0.0

    def __str__(self) -> str:
        """Name it as a part of a policy: ``turn:8000,$0.05``."""
        limits = [str(self.tokens)] if self.tokens is not None else []
        limits += [f"${self.usd:g}"] if self.usd is not None else []
        return f"turn:{','.join(limits)}"

    def _left(self, situation: Situation) -> tuple[int | None, tuple[str, ...]]:
        """Return the thinking tokens that are left, and what the records should say about it."""
        lefts: list[int] = []
        reasons: list[str] = []
        if self.tokens is not None:
            lefts.append(max(0, self.tokens - self.spent_tokens))
            reasons.append(f"turn: {lefts[-1]:,} of {self.tokens:,} thinking tokens left")
        if self.usd is not None:
            dollars = max(0.0, self.usd - self.spent_usd)
            tokens = _affordable(dollars, situation)
            if situation.price is None:
                reasons.append("turn: the model's price is unknown, so its dollars are not limited")
            else:
                reasons.append(f"turn: ${dollars:.6f} of ${self.usd:g} left")
            lefts += [] if tokens is None else [tokens]
        return min(lefts, default=None), tuple(reasons)


def _affordable(dollars: float, situation: Situation) -> int | None:
    """Return the thinking tokens that ``dollars`` buy beside the prompt and the answer; None is no limit."""
    price = situation.price
    if price is None:
        return None
    answer = situation.facts.answer_tokens or ANSWER_RESERVE
    fixed = price.cost(prompt=situation.query.prompt_tokens, reasoning=0, answer=answer)
    per_token = price.cost(prompt=0, reasoning=1, answer=0)
    # The small term undoes binary rounding, as in fit_cap.
    return None if per_token == 0 else max(0, math.floor((dollars - fixed) / per_token + 1e-9))


_current: ContextVar[Turn | None] = ContextVar("budgetctl_turn", default=None)


def current_turn() -> Turn | None:
    """Return the turn that a model call in this thread or task belongs to."""
    return _current.get()


@contextmanager
def spending(turn: Turn) -> Iterator[None]:
    """Let the model calls inside the ``with`` block spend from ``turn``."""
    token = _current.set(turn)
    try:
        yield
    finally:
        _current.reset(token)
