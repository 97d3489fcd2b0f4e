"""Baselines that every result is shown against: full, off, the curve of fixed caps, random mixes, the oracle.

The headline number is the lift over the fixed cap at matched tokens: a classifier that chooses a budget
per question has to beat one cap for all questions that spends the same mean tokens. The cap with exactly
those mean tokens is read off the curve of fixed caps (off and full are its ends): between two neighbouring
caps it is the random mix of both, which anyone can run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from budgetctl.evals.recording import Recording
from budgetctl.evals.replay import play, replay
from budgetctl.evals.replayed import Replayed
from budgetctl.evals.results import Floats, Result, column
from numpy.typing import ArrayLike, NDArray

from budgetctl.policy import MAX_CAP, Cap, Full, Off
from budgetctl.types import Pace, StopReason

ORACLE = "oracle"
ORACLE_LABEL = "cheapest right budget per question, known afterwards (chance-inflated: max over budgets)"
MOST_CAPS = 100
"""Recordings with more different caps than this were cut at places of each trace's own."""
CAP_SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def cap_grid(lengths: Sequence[int] | Floats, *, shares: Sequence[float] = CAP_SHARES) -> list[int]:
    """Return caps at quantiles of the natural lengths, in tokens, ascending, without doubles.

    Choosing the grid on the data at hand favours the baseline: it makes the lift harder to get.
    """
    if not len(lengths):
        return []
    values = np.quantile(np.asarray(lengths, dtype=float), shares)
    return sorted({min(max(1, math.ceil(value)), MAX_CAP) for value in values})


def fixed_curve(
    recording: Recording, *, pace: Pace, caps: Iterable[int] | None = None
) -> dict[str, Replayed]:
    """Replay full, off (where recorded) and a grid of fixed caps.

    Args:
        recording: What was recorded.
        pace: The speed profile.
        caps: The grid; None takes recorded caps near quantiles of the natural lengths.
    """
    grid: Sequence[int] = []
    if recording.has_lengths:
        grid = _recorded(recording, cap_grid(recording.lengths)) if caps is None else sorted(set(caps))
    runs = {"full": replay(recording, Full(), pace=pace)}
    if recording.has_off:
        runs["off"] = replay(recording, Off(), pace=pace)
    for cap in grid:
        runs[f"cap:{cap}"] = replay(recording, Cap(cap), pace=pace)
    return runs


def _recorded(recording: Recording, grid: Sequence[int]) -> list[int]:
    """Return the recorded caps nearest to ``grid``; ``grid`` itself where every trace has caps of its own."""
    caps = np.unique(recording.rows.value[recording.prefixes])
    recorded = set(caps[caps > 0].tolist())
    if not recorded or len(recorded) > MOST_CAPS:
        return list(grid)
    return sorted({min(recorded, key=lambda cap: (abs(cap - wanted), cap)) for wanted in grid})


def _known(first: int | None, second: int | None) -> int | None:
    return second if first is None else first


def oracle(runs: Mapping[str, Sequence[Result]]) -> Sequence[Result]:
    """Return per call the cheapest right result of any fixed budget, or the cheapest where none is right.

    This knows the outcome. It bounds what any choice among these budgets could reach, and is inflated by
    chance: the best of many noisy tries looks better than any of them is.
    """
    tables = [results for results in runs.values() if isinstance(results, Replayed)]
    if len(tables) == len(runs) and len({id(table.recording) for table in tables}) == 1:
        return Replayed.pick(tables, _cheapest_right(tables))
    best: dict[tuple[str, str, int], Result] = {}
    for results in runs.values():
        for result in results:
            other = best.get(result.key)
            if other is None or _rank(result) < _rank(other):
                best[result.key] = result
    return list(best.values())


def _rank(result: Result) -> tuple[bool, float]:
    tokens = result.output_tokens if result.reasoning_tokens is None else result.reasoning_tokens
    return not result.correct, math.inf if tokens is None else tokens


def _cheapest_right(tables: Sequence[Replayed]) -> NDArray[np.int64]:
    """Return for each call the position of the table with the least rank; of equals the first."""
    choice, wrong, least = np.zeros(len(tables[0]), dtype=np.int64), np.ones(0), np.ones(0)
    for i, table in enumerate(tables):
        wrongs, tokens = column(table, "correct") == 0, column(table, "reasoning_tokens")
        tokens = np.where(np.isnan(tokens), column(table, "output_tokens"), tokens)
        tokens = np.where(np.isnan(tokens), np.inf, tokens)
        if i:
            better = (wrongs < wrong) | ((wrongs == wrong) & (tokens < least))
            choice = np.where(better, i, choice)
            wrongs, tokens = np.where(better, wrongs, wrong), np.where(better, tokens, least)
        wrong, least = wrongs, tokens
    return choice


def random_stop(results: Replayed, *, seed: int, tokens: float | None = None) -> Replayed:
    """Return what stopping by lot comes to, at the tokens of thinking of ``results``.

    Every recorded point of every trace ends its thinking with the same probability, which is chosen so that
    the sums agree as closely as the recording allows. Budgets are those of ``results``.

    Args:
        results: What a policy with a stop preset came to.
        seed: Of the lots.
        tokens: Another sum of tokens to spend.
    """
    recording = results.recording
    whole = play(recording, results.given, results.which, pace=results.pace)
    ends = np.nan_to_num(whole.column("reasoning_tokens"))
    of_natural = np.array([b.effort is None and not b.off for b in results.given.budgets])[results.which]
    traces, rows = recording.points(np.where(of_natural, ends, -1.0))
    lots = np.random.default_rng(seed).random(len(rows))
    at = recording.rows.measures["reasoning_tokens"][rows]
    wanted = np.nansum(results.column("reasoning_tokens")) if tokens is None else tokens

    def drawn(chance: float) -> NDArray[np.intp]:
        hit = np.flatnonzero(lots < chance)
        return hit[np.unique(traces[hit], return_index=True)[1]]

    low, high = 0.0, 1.0
    for _ in range(30):
        chance = (low + high) / 2
        first = drawn(chance)
        spends_more = ends.sum() - (ends[traces[first]] - at[first]).sum() > wanted
        low, high = (chance, high) if spends_more else (low, chance)
    for place in drawn(high).tolist():
        whole.end_at(int(traces[place]), int(rows[place]), reason=StopReason.SETTLED)
    return whole


def matched_accuracy(curve_tokens: ArrayLike, curve_accuracy: ArrayLike, tokens: ArrayLike) -> Floats:
    """Return the accuracy of the fixed-cap curve at given mean tokens, one curve per row.

    Between two neighbouring points the value is their random mix, linear in mean tokens. Of points with the
    same mean tokens the most accurate counts. Outside the curve its end points stand.

    Args:
        curve_tokens: Shape (rows, points): mean tokens of the fixed budgets, in any order.
        curve_accuracy: Shape (rows, points).
        tokens: Shape (rows,): where to read.
    """
    x = np.atleast_2d(np.asarray(curve_tokens, dtype=float))
    y = np.atleast_2d(np.asarray(curve_accuracy, dtype=float))
    t = np.atleast_1d(np.asarray(tokens, dtype=float))[:, None]
    order = np.lexsort((y, x), axis=1)
    x, y = np.take_along_axis(x, order, axis=1), np.take_along_axis(y, order, axis=1)
    right = np.clip((x <= t).sum(axis=1, keepdims=True), 1, x.shape[1] - 1)
    x0, x1 = np.take_along_axis(x, right - 1, axis=1), np.take_along_axis(x, right, axis=1)
    y0, y1 = np.take_along_axis(y, right - 1, axis=1), np.take_along_axis(y, right, axis=1)
    width = np.where(x1 > x0, x1 - x0, 1.0)
    share = np.where(x1 > x0, np.clip((t - x0) / width, 0.0, 1.0), 1.0)
    return np.asarray((y0 + share * (y1 - y0))[:, 0], dtype=float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """The random mix of two neighbouring fixed budgets that spends given mean tokens.

    Attributes:
        lower: The budget with fewer mean tokens.
        upper: The budget with more.
        share: Probability of ``upper``.
        tokens: Mean tokens of the mix.
        accuracy: Its accuracy.
    """

    lower: str
    upper: str
    share: float
    tokens: float
    accuracy: float

    def __str__(self) -> str:
        if self.share <= 0 or self.lower == self.upper:
            return self.lower
        if self.share >= 1:
            return self.upper
        return f"{1 - self.share:.0%} {self.lower} + {self.share:.0%} {self.upper}"


def matched_mix(curve: Mapping[str, tuple[float, float]], tokens: float) -> Mix | None:
    """Return the mix on a curve of ``name -> (mean tokens, accuracy)`` that spends ``tokens`` on average.

    Returns:
        None where the curve has no such point: it is empty, or its cheapest budget already spends more. A
        policy that spends more than every fixed budget is held against the dearest one.
    """
    points = sorted(curve.items(), key=lambda item: item[1])
    if not points or tokens < points[0][1][0] - 1e-9:
        return None
    below = [p for p in points if p[1][0] <= tokens + 1e-9]
    lower = below[-1]
    upper = points[len(below)] if len(below) < len(points) else lower
    (x0, y0), (x1, y1) = lower[1], upper[1]
    share = (tokens - x0) / (x1 - x0) if x1 > x0 else 0.0
    share = min(max(share, 0.0), 1.0)
    return Mix(
        lower=lower[0],
        upper=upper[0],
        share=share,
        tokens=x0 + share * (x1 - x0),
        accuracy=y0 + share * (y1 - y0),
    )
