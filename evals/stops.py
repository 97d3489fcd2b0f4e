"""Stop presets on recorded traces: what a live run would have seen at each recorded point, and no more.

A preset sees the points of a trace in order, each as the end of a sentence, with the signals that the cube
has there:

=====================================  ======================================================================
``trial_confidence`` or ``p_top``      probability of the trial answer among the valid ones
``answer_mass`` or ``p_choice_mass``   probability that falls on any valid answer
``trial_answer``                       the trial answer; without it, the answer of the row that is cut there
``trial_tokens``                       tokens that the trial generated; without it, 1: a letter
``close_margin``                       see :class:`budgetctl.types.Progress`
``entropy_after``                      the same; one token
=====================================  ======================================================================

Probes are asked for and paid as in a live run: only where a criterion asks, within a tenth of the thinking so
far, after a wait that grows. Loops leave no mark on a recording without its text, and token confidence is a
mean over every token, so neither can act here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from budgetctl.evals.cube import CubeRow
from budgetctl.evals.results import Result

from budgetctl.errors import EvalError
from budgetctl.stopping import ProbeLedger, Trials
from budgetctl.stopping.compose import Criterion, Signal, asks, needs
from budgetctl.stopping.presets import WITH_TRIALS, Preset, soft
from budgetctl.types import Evidence, Pace, Progress, Trial

CONFIDENCE = ("trial_confidence", "p_top")
MASS = ("answer_mass", "p_choice_mass")
EVERY = Trials().every
"""Tokens of thinking after a trial that ended nothing until the next one, the first time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """What a stop preset did to a recorded trace.

    Attributes:
        row: The recorded point at which it ended the thinking; None where it did not.
        evidence: Why.
        probe_tokens: Tokens that its probes generated.
        missing: Signals that it reads and that no point had.
    """

    row: CubeRow | None
    evidence: Evidence | None
    probe_tokens: int
    missing: frozenset[Signal]


def watch(
    points: Sequence[tuple[int, CubeRow]],
    result: Result,
    *,
    pace: Pace,
    presets: Mapping[str, Preset] | None = None,
    every: int = EVERY,
) -> Stop | None:
    """Play the stop preset of a result's budget over recorded points.

    Args:
        points: (Tokens of thinking, row) in order.
        result: What the call comes to without the preset.
        pace: The speed profile.
        presets: Other criteria for the presets, as for :func:`budgetctl.stopping.soft`.
        every: As :attr:`budgetctl.stopping.Trials.every`.

    Returns:
        None for a preset without soft criteria.

    Raises:
        ConfigError: ``presets`` names an unknown preset, criterion or argument.
        EvalError: A recorded signal is not what it should be.
    """
    budget = result.budget
    if budget.stop not in WITH_TRIALS:
        return None
    criterion = soft(budget.stop, cap=budget.reasoning_tokens, presets=presets)
    if criterion is None:
        return None
    ledger = ProbeLedger(gap=every)
    for at, row in points:
        evidence = _look(criterion, ledger, at=at, row=row, pace=pace)
        if evidence is not None:
            return Stop(row=row, evidence=evidence, probe_tokens=ledger.generated, missing=frozenset())
    missing = needs(criterion) - {"text"} - _recorded([row for _, row in points])
    return Stop(row=None, evidence=None, probe_tokens=ledger.generated, missing=missing)


def _look(criterion: Criterion, ledger: ProbeLedger, *, at: int, row: CubeRow, pace: Pace) -> Evidence | None:
    """Show a criterion one point: first what is free there, then the probe that it asks for."""
    free = Progress(
        reasoning_tokens=at,
        reasoning="",
        elapsed_s=pace.seconds(at + ledger.generated),
        s_per_token=pace.s_per_token,
        at_boundary=True,
        close_margin=_number(row, "close_margin"),
    )
    evidence = criterion.observe(free)
    if evidence is not None:
        return evidence
    wanted, trial, entropy = asks(criterion, free), _trial(row), _number(row, "entropy_after")
    cost = int(_number(row, "trial_tokens") or 1)
    if "trial" not in wanted or not (ledger.due(thought=at) and ledger.affords(cost, thought=at)):
        trial, cost = None, 1
    # A trial brings the entropy of its first token along.
    if trial is None and not ("entropy_after" in wanted and ledger.affords(cost, thought=at)):
        return None
    if trial is None and entropy is None:
        return None
    ledger.charge(generated=cost, prefilled=at)
    # Only what is new: the rest of this point was observed before.
    evidence = criterion.observe(replace(free, close_margin=None, trial=trial, entropy_after=entropy))
    if evidence is None and trial is not None:
        ledger.in_vain(thought=at)
    return evidence


def _recorded(rows: Sequence[CubeRow]) -> frozenset[Signal]:
    """Return the signals that any of the rows has."""
    found: dict[Signal, bool] = {
        "trial": any(_trial(row) is not None for row in rows),
        "close_margin": any(_number(row, "close_margin") is not None for row in rows),
        "entropy_after": any(_number(row, "entropy_after") is not None for row in rows),
    }
    return frozenset(signal for signal, there in found.items() if there)


def _trial(row: CubeRow) -> Trial | None:
    confidence, mass = _probability(row, CONFIDENCE), _probability(row, MASS)
    if confidence is None or mass is None:
        return None
    answer = row.signals.get("trial_answer", row.answer)
    return Trial(confidence=confidence, mass=mass, answer=None if answer is None else str(answer))


def _probability(row: CubeRow, names: tuple[str, ...]) -> float | None:
    name = next((name for name in names if row.signals.get(name) is not None), None)
    value = None if name is None else _number(row, name)
    if value is not None and not 0 <= value <= 1:
        raise EvalError(f"{row.question_key}: signals.{name}: seen {value!r}, expected a number from 0 to 1")
    return value


def _number(row: CubeRow, name: str) -> float | None:
    value = row.signals.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise EvalError(f"{row.question_key}: signals.{name}: seen {value!r}, expected a number")
    return float(value)
