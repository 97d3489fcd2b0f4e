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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from budgetctl.evals.columns import Columns, Floats, Ints

from budgetctl.errors import EvalError
from budgetctl.stopping import ProbeLedger, Trials
from budgetctl.stopping.compose import Criterion, Signal, asks, needs
from budgetctl.stopping.presets import WITH_TRIALS, Preset, soft
from budgetctl.types import Budget, Evidence, Pace, Progress, Trial

CONFIDENCE = ("trial_confidence", "p_top")
MASS = ("answer_mass", "p_choice_mass")
EVERY = Trials().every
"""Tokens of thinking after a trial that ended nothing until the next one, the first time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """What a stop preset did to a recorded trace.

    Attributes:
        row: Number of the row at which it ended the thinking; None where it did not.
        evidence: Why.
        probe_tokens: Tokens that its probes generated.
        missing: Signals that it reads and that no point had.
    """

    row: int | None
    evidence: Evidence | None
    probe_tokens: int
    missing: frozenset[Signal]


class Point(NamedTuple):
    """What was recorded at one point of a trace; see the module."""

    row: int
    at: int
    trial: Trial | None
    trial_tokens: int
    close_margin: float | None
    entropy_after: float | None


def points(rows: Columns, numbers: Ints) -> list[Point]:
    """Return what some rows of a cube say about the points at which they were cut.

    Raises:
        EvalError: A recorded signal is not what it should be.
    """
    if rows.faulty:
        _refuse_faulty(rows, frozenset(numbers.tolist()))
    confidence, mass = _probability(rows, numbers, CONFIDENCE), _probability(rows, numbers, MASS)
    answer = rows.answer[numbers]
    if rows.trial_answer is not None:
        answer = np.where(rows.trial_answer[numbers] < 0, answer, rows.trial_answer[numbers])
    said = [None if i < 0 else rows.answers[i] for i in answer.tolist()]
    trials = [
        None if c is None or m is None else Trial(confidence=c, mass=m, answer=a)
        for c, m, a in zip(confidence, mass, said, strict=True)
    ]
    return list(
        map(
            Point,
            numbers.tolist(),
            rows.measures["reasoning_tokens"][numbers].astype(int).tolist(),
            trials,
            [int(tokens or 1) for tokens in _numbers(rows, numbers, "trial_tokens")],
            _numbers(rows, numbers, "close_margin"),
            _numbers(rows, numbers, "entropy_after"),
        )
    )


def watch(
    points: Sequence[Point],
    *,
    budget: Budget,
    pace: Pace,
    presets: Mapping[str, Preset] | None = None,
    every: int = EVERY,
) -> Stop | None:
    """Play the stop preset of a budget over recorded points.

    Args:
        points: In order.
        budget: What the policy gave.
        pace: The speed profile.
        presets: Other criteria for the presets, as for :func:`budgetctl.stopping.soft`.
        every: As :attr:`budgetctl.stopping.Trials.every`.

    Returns:
        None for a preset without soft criteria.

    Raises:
        ConfigError: ``presets`` names an unknown preset, criterion or argument.
    """
    if budget.stop not in WITH_TRIALS:
        return None
    criterion = soft(budget.stop, cap=budget.reasoning_tokens, presets=presets)
    if criterion is None:
        return None
    ledger = ProbeLedger(gap=every)
    for point in points:
        evidence = _look(criterion, ledger, point, pace=pace)
        if evidence is not None:
            return Stop(row=point.row, evidence=evidence, probe_tokens=ledger.generated, missing=frozenset())
    missing = needs(criterion) - {"text"} - _recorded(points)
    return Stop(row=None, evidence=None, probe_tokens=ledger.generated, missing=missing)


def _look(criterion: Criterion, ledger: ProbeLedger, point: Point, *, pace: Pace) -> Evidence | None:
    """Show a criterion one point: first what is free there, then the probe that it asks for."""
    free = Progress(
        reasoning_tokens=point.at,
        reasoning="",
        elapsed_s=pace.seconds(point.at + ledger.generated),
        s_per_token=pace.s_per_token,
        at_boundary=True,
        close_margin=point.close_margin,
    )
    evidence = criterion.observe(free)
    if evidence is not None:
        return evidence
    wanted, trial, entropy, cost = asks(criterion, free), point.trial, point.entropy_after, point.trial_tokens
    if "trial" not in wanted or not (ledger.due(thought=point.at) and ledger.affords(cost, thought=point.at)):
        trial, cost = None, 1
    # A trial brings the entropy of its first token along.
    if trial is None and not ("entropy_after" in wanted and ledger.affords(cost, thought=point.at)):
        return None
    if trial is None and entropy is None:
        return None
    ledger.charge(generated=cost, prefilled=point.at)
    # Only what is new: the rest of this point was observed before.
    probed = Progress(
        reasoning_tokens=point.at,
        reasoning="",
        elapsed_s=free.elapsed_s,
        s_per_token=pace.s_per_token,
        at_boundary=True,
        trial=trial,
        entropy_after=entropy,
    )
    evidence = criterion.observe(probed)
    if evidence is None and trial is not None:
        ledger.in_vain(thought=point.at)
    return evidence


def _recorded(points: Sequence[Point]) -> frozenset[Signal]:
    """Return the signals that any of the points has."""
    found: dict[Signal, bool] = {
        "trial": any(point.trial is not None for point in points),
        "close_margin": any(point.close_margin is not None for point in points),
        "entropy_after": any(point.entropy_after is not None for point in points),
    }
    return frozenset(signal for signal, there in found.items() if there)


def _probability(rows: Columns, numbers: Ints, names: tuple[str, ...]) -> list[float | None]:
    """Return the first of several signals that each row has."""
    found = np.full(len(numbers), np.nan)
    for name in names:
        if name not in rows.signals:
            continue
        values = rows.signals[name][numbers]
        wrong = np.flatnonzero((values < 0) | (values > 1))
        if len(wrong):
            raise _faulty(rows, int(numbers[wrong[0]]), name, float(values[wrong[0]]), "a number from 0 to 1")
        found = np.where(np.isnan(found), values, found)
    return _or_none(found)


def _numbers(rows: Columns, numbers: Ints, name: str) -> list[float | None]:
    if name not in rows.signals:
        return [None] * len(numbers)
    return _or_none(rows.signals[name][numbers])


def _or_none(values: Floats) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]


def _refuse_faulty(rows: Columns, numbers: frozenset[int]) -> None:
    for (row, name), value in rows.faulty.items():
        if row in numbers:
            raise _faulty(rows, row, name, value, "a number")


def _faulty(rows: Columns, row: int, name: str, value: object, expected: str) -> EvalError:
    question = rows.questions[int(rows.question[row])]
    return EvalError(f"{question}: signals.{name}: seen {value!r}, expected {expected}")
