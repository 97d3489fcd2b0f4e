"""Stopping: criteria that end a thought, and their composition."""

from __future__ import annotations

from budgetctl.types import Budget

from .boundary import Boundaries
from .criteria import ANSWER_TOKENS, GRACE, AnyOf, Criterion, Deadline, ReasoningCap, with_grace
from .loop import LoopStop
from .presets import PRESETS, preset
from .trial import TrialAnswer

__all__ = [
    "ANSWER_TOKENS",
    "GRACE",
    "PRESETS",
    "AnyOf",
    "Boundaries",
    "Criterion",
    "Deadline",
    "LoopStop",
    "ReasoningCap",
    "TrialAnswer",
    "monitor",
    "preset",
    "with_grace",
]


def monitor(budget: Budget) -> Criterion:
    """Build the criteria that keep ``budget``, fresh for one call.

    The cap and the deadline, where the budget has them, hold whatever the stop preset.
    """
    criteria: list[Criterion] = []
    if budget.reasoning_tokens is not None:
        criteria.append(ReasoningCap(budget.reasoning_tokens))
    if budget.deadline_s is not None:
        reserve = ANSWER_TOKENS if budget.answer_tokens is None else budget.answer_tokens
        criteria.append(Deadline(budget.deadline_s, answer_tokens=reserve))
    return AnyOf(*criteria, *preset(budget.stop).criteria)
