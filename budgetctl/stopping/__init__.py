"""Stopping: criteria that end a thought, and their composition."""

from __future__ import annotations

from budgetctl.types import Budget

from .boundary import Boundaries
from .candidate import CandidateSeen, StallStop
from .compose import AllOf, AnyOf, Criterion, Signal
from .criteria import ANSWER_TOKENS, GRACE, Deadline, ReasoningCap, Tail, with_grace
from .guard import MIN_SHARE, MIN_THINK, Guarded
from .loop import LoopStop
from .presets import PRESETS, Preset, preset, soft
from .probes import ProbeLedger, Trials
from .signals import CloseMargin, EntropyAfterThink, LowConfidence
from .trial import AnswerAgreement, TrialAnswer

__all__ = [
    "ANSWER_TOKENS",
    "GRACE",
    "MIN_SHARE",
    "MIN_THINK",
    "PRESETS",
    "AllOf",
    "AnswerAgreement",
    "AnyOf",
    "Boundaries",
    "CandidateSeen",
    "CloseMargin",
    "Criterion",
    "Deadline",
    "EntropyAfterThink",
    "Guarded",
    "LoopStop",
    "LowConfidence",
    "Preset",
    "ProbeLedger",
    "ReasoningCap",
    "Signal",
    "StallStop",
    "Tail",
    "TrialAnswer",
    "Trials",
    "monitor",
    "preset",
    "soft",
    "with_grace",
]


def monitor(budget: Budget, *, tail_s: Tail | None = None) -> Criterion:
    """Build the criteria that keep ``budget``, fresh for one call.

    The cap and the deadline, where the budget has them, hold whatever the stop preset.

    Args:
        tail_s: What the deadline keeps time for; None is the answer at the pace of the stream.
    """
    criteria: list[Criterion] = []
    if budget.reasoning_tokens is not None:
        criteria.append(ReasoningCap(budget.reasoning_tokens))
    if budget.deadline_s is not None:
        reserve = ANSWER_TOKENS if budget.answer_tokens is None else budget.answer_tokens
        criteria.append(Deadline(budget.deadline_s, answer_tokens=reserve, tail_s=tail_s))
    return AnyOf(*criteria, *preset(budget.stop, cap=budget.reasoning_tokens).criteria)
