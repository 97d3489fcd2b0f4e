"""What a choice between a small and a large model is worth: its curve, the two models, the oracle, AIQ.

A score says how much each call wants the large model. Sending the calls with the largest scores there, first
none and in the end all, gives a curve of (what is spent, accuracy). Calls of equal score are sent together;
between two points of a curve lies their random mix. What is spent is measured twice:

* ``share``: the share of calls that the large model answers;
* ``cost``: mean dollars, or mean tokens. Drafts count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from budgetctl.evals import curves, stats
from budgetctl.evals.columns import Floats, Ints
from budgetctl.evals.ladders.choices import Axis, Choice, Side
from budgetctl.evals.ladders.standing import Draws, Standing, shuffled_areas, stand
from budgetctl.evals.ladders.sweep import Sweep, oracle

POINTS = 50
"""Pieces of a curve that are shown, and that the hull behind AIQ is taken of."""

Mean = tuple[float, float | None]
"""Accuracy and mean cost."""
OraclePoint = tuple[float, float | None, float]
"""Share of calls sent, mean cost and accuracy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """Calls with a score from ``threshold`` on go to the large model; None is above all scores."""

    threshold: float | None
    share: float
    cost: float | None
    accuracy: float
    accuracy_ci: stats.Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """AIQ (Hu et al. 2024, arXiv 2403.12031) over the costs from always-small to always-large.

    A hull is the best of many noisy points, so that no policy's is below that of the two models alone
    (``zero``, the Zero router) and even a random score's is above it. It is for comparison with papers.
    """

    zero: float
    policy: float
    oracle: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Everything about one choice.

    Attributes:
        n: Number of bootstrap units.
        gap: Accuracy of the large model less that of the small one.
        small: Always-small.
        large: Always-large.
        oracle: (Accuracy, mean cost, share of calls sent) of the cheapest model that is right.
        curve: Points from none sent to all sent.
        oracle_curve: The same of the oracle.
        standings: By axis.
        crossfit: The score was fitted in folds of the same questions, which their intervals allow for.
    """

    n: int
    gap: float
    gap_ci: stats.Interval
    small: Mean
    large: Mean
    oracle: tuple[float, float | None, float]
    curve: tuple[CurvePoint, ...]
    oracle_curve: tuple[OraclePoint, ...]
    standings: Mapping[Axis, Standing]
    aiq: Quality | None
    crossfit: bool

    @property
    def axis(self) -> Axis:
        """The axis that decides: cost where it is known."""
        return "cost" if "cost" in self.standings else "share"

    @property
    def beats_mix(self) -> bool:
        """Whether the curve lies above the random mix, by the lower bound of its area on every axis.

        Where the large model is no better, a mix is worse than always-small, and to beat it means nothing.
        """
        return self.gap > 0 and all(standing.area_ci[0] > 0 for standing in self.standings.values())


def judge(
    choice: Choice, *, rng: np.random.Generator, resamples: int = stats.RESAMPLES, crossfit: bool = False
) -> Judged:
    """Return the curve of a choice, and where it stands between the random mix and the oracle.

    Args:
        choice: Calls, their results at both models, and a score.
        rng: Source of all draws.
        resamples: Bootstrap draws.
        crossfit: The score was fitted in folds of the same questions.
    """
    choice = replace(choice, weight=choice.weight / choice.weight.sum())
    weights = choice.weight
    point, shown = Sweep(choice, weights[None, :]), _shown(choice)
    drawn = Draws(choice, shown, resamples=resamples, rng=rng)
    gap = float(point.gap[0])
    gap_se = stats.paired_se(weights * len(weights) * (choice.gain - gap), groups=choice.groups)
    told = gap_se is not None and gap > 2 * gap_se
    shuffled = shuffled_areas(choice, rng)
    standings: dict[Axis, Standing] = {
        axis: stand(choice, point, drawn, axis, told=told, crossfit=crossfit, shuffled=shuffled[axis])
        for axis in choice.axes
    }
    small, large = (_mean(side, weights) for side in (choice.small, choice.large))
    curve = _points(choice, point, drawn, shown, ends=(small, large))
    possible = _oracle_points(choice, ends=(small, large))
    return Judged(
        n=drawn.n,
        gap=gap,
        gap_ci=stats.paired_interval(drawn.gap, point=gap, n=drawn.n, rng=rng),
        small=small,
        large=large,
        oracle=_cheapest_right(choice),
        curve=curve,
        oracle_curve=possible,
        standings=standings,
        aiq=_aiq(small, large, curve, possible),
        crossfit=crossfit,
    )


def _mean(side: Side, weights: Floats) -> Mean:
    right, cost = side
    return float(weights @ right), None if cost is None else float(weights @ cost)


def _cheapest_right(choice: Choice) -> tuple[float, float | None, float]:
    up, (small, cheap), (large, dear) = choice.gain > 0, choice.small, choice.large
    cost = None
    if cheap is not None and dear is not None:
        up |= (choice.gain == 0) & (dear < cheap)
        cost = np.where(up, dear, cheap)
    return *_mean((np.where(up, large, small), cost), choice.weight), float(choice.weight @ up)


def _shown(choice: Choice) -> Ints:
    """Return the numbers of the points of a curve that are shown, about evenly spaced in calls."""
    levels, counts = np.unique(-choice.score, return_counts=True)
    sent = np.concatenate([[0], np.cumsum(counts)]) / len(choice.score)
    nearest = np.abs(sent[None, :] - np.linspace(0, 1, POINTS + 1)[:, None]).argmin(axis=1)
    return np.unique(nearest) if len(levels) > POINTS else np.arange(len(sent))


def _costs(sweep: Sweep, shown: Ints, *, ends: tuple[Mean, Mean]) -> list[float | None]:
    (_, cheap), (_, dear) = ends
    if sweep.cost is None or cheap is None or dear is None:
        return [None] * len(shown)
    return [cheap + at * (dear - cheap) for at in sweep.cost[0, shown].tolist()]


def _points(
    choice: Choice, point: Sweep, drawn: Draws, shown: Ints, *, ends: tuple[Mean, Mean]
) -> tuple[CurvePoint, ...]:
    levels = [None, *choice.score[point.at][point.starts].tolist()]
    found = []
    for place, (i, cost) in enumerate(zip(shown.tolist(), _costs(point, shown, ends=ends), strict=True)):
        accuracy = ends[0][0] + float(point.gain[0, i])
        low, high = stats.difference_interval(drawn.accuracy[:, place], point=accuracy, n=drawn.n)
        found.append(
            CurvePoint(
                threshold=levels[i],
                share=float(point.share[0, i]),
                cost=cost,
                accuracy=accuracy,
                accuracy_ci=(max(low, 0.0), high),
            )
        )
    return tuple(found)


def _oracle_points(choice: Choice, *, ends: tuple[Mean, Mean]) -> tuple[OraclePoint, ...]:
    best = oracle(choice, choice.axes[-1])
    sweep, shown = Sweep(best, choice.weight[None, :]), _shown(best)
    right = (ends[0][0] + sweep.gain[0, shown]).tolist()
    return tuple(zip(sweep.share[0, shown].tolist(), _costs(sweep, shown, ends=ends), right, strict=True))


def _aiq(
    small: Mean, large: Mean, curve: Sequence[CurvePoint], possible: Sequence[OraclePoint]
) -> Quality | None:
    """Return the AIQ of the hulls of the two models alone, and of these with a curve."""
    low, high = small[1], large[1]
    if low is None or high is None:
        return None

    def of(more: Sequence[tuple[float | None, float]]) -> float | None:
        points = [(low, small[0]), (high, large[0]), *((cost, y) for cost, y in more if cost is not None)]
        return curves.aiq(points, low=low, high=high)

    zero, policy = of([]), of([(point.cost, point.accuracy) for point in curve])
    best = of([(cost, right) for _, cost, right in possible])
    return (
        None
        if zero is None or policy is None or best is None
        else Quality(zero=zero, policy=policy, oracle=best)
    )
