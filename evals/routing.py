"""What a choice between a small and a large model is worth: curves, APGR, CPT, AIQ, and the verdict on them.

A score says how much each call wants the large model. Sending the calls with the largest scores there, first
none and in the end all, gives a curve of (what is spent, accuracy). Calls of equal score are sent together;
between two points of a curve lies their random mix. What is spent is measured twice:

* ``share``: the share of calls that the large model answers (Ong et al. 2024, arXiv 2406.18665, RouteLLM);
* ``cost``: mean dollars, or mean tokens, with 0 at always-small and 1 at always-large. Drafts count.

PGR, the performance gap recovered, is ``(accuracy - small) / (large - small)``. APGR is its mean over all
shares (the integral by trapezoids), CPT(x) the least share at which it reaches x. The random mix is the
straight line: its APGR is 0.5. With D the gap between large and small, and A the area between a curve and the
line in points of accuracy, ``APGR = 0.5 + A / D``. So ``A`` needs no division by a gap that may be zero, and

    position = A / A of the oracle = (APGR - 0.5) / (APGR of the oracle - 0.5)

is 0 for the random mix and 1 for the oracle, which sends a call to the large model where that alone is right.
A curve that ends beyond always-large (a cascade that drafts in vain pays for both) is read up to there; where
it starts beyond always-small it adds nothing to the area before.

Intervals are paired bootstraps over questions or clusters: small, large and curve are drawn together. To
areas unseen events are added, as :func:`budgetctl.evals.stats.paired_interval` does: in each resample a
Poisson(1) count of gains and one of losses, each at a random place of the order, so that half its distance
from the middle at most is lost or won.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from budgetctl.evals import curves, stats
from budgetctl.evals.columns import Ints
from budgetctl.evals.results import Floats
from budgetctl.evals.sweep import Axis, Choice, Sweep, oracle_score, with_score

PARTS = {"cpt50": 0.5, "cpt80": 0.8}
SHUFFLES = 1000
POINTS = 50
"""Pieces of a curve that are shown, and that the hull behind AIQ is taken of."""
_CELLS = 2_000_000

OraclePoint = tuple[float, float | None, float]
"""Share of calls sent, mean cost and accuracy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shuffled:
    """The same with scores dealt out at random: what a score without information comes to.

    Attributes:
        apgr: Mean over the shuffles; None where the gap is not told apart from zero.
        position: Mean, with the 2.5 % and 97.5 % points.
        p: Share of shuffles whose area is at least that of the score, the score itself counted in.
    """

    apgr: float | None
    position: float | None
    position_range: stats.Interval | None
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One curve on one axis; None is not computable. See the module for the definitions.

    Attributes:
        apgr: None, with ``cpt50`` and ``cpt80``, where the gap is not above twice its standard error.
        area: Mean accuracy above the random mix at the same spending; ``area_ci`` decides.
        oracle_apgr: That of the oracle.
        shuffled: The control.
    """

    apgr: float | None
    apgr_ci: stats.Interval | None
    cpt50: float | None
    cpt50_ci: stats.Interval | None
    cpt80: float | None
    cpt80_ci: stats.Interval | None
    area: float
    area_ci: stats.Interval
    position: float | None
    position_ci: stats.Interval | None
    oracle_apgr: float | None
    oracle_area: float
    shuffled: Shuffled

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


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
        small: (Accuracy, mean cost) of always-small.
        large: The same of always-large.
        oracle: (Accuracy, mean cost, share of calls sent) of the cheapest model that is right.
        curve: Points from none sent to all sent.
        oracle_curve: The same of the oracle.
        standings: By axis.
    """

    n: int
    gap: float
    gap_ci: stats.Interval
    small: tuple[float, float | None]
    large: tuple[float, float | None]
    oracle: tuple[float, float | None, float]
    curve: tuple[CurvePoint, ...]
    oracle_curve: tuple[OraclePoint, ...]
    standings: Mapping[Axis, Standing]
    aiq: Quality | None

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


def judge(choice: Choice, *, rng: np.random.Generator, resamples: int = stats.RESAMPLES) -> Judged:
    """Return the curve of a choice, and where it stands between the random mix and the oracle.

    Args:
        choice: Calls, their results at both models, and a score.
        rng: Source of all draws.
        resamples: Bootstrap draws.
    """
    choice = replace(choice, weight=choice.weight / choice.weight.sum())
    weights = choice.weight
    point = Sweep(choice, weights[None, :])
    drawn = _Draws(choice, resamples, rng)
    noise = unseen(rng, drawn.n, resamples)
    gap = float(point.gap[0])
    gap_se = stats.paired_se(
        weights * len(weights) * (choice.large[0] - choice.small[0]), groups=choice.groups
    )
    told = gap_se is not None and gap > 2 * gap_se
    standings: dict[Axis, Standing] = {
        axis: _standing(choice, point, drawn, axis, told=told, noise=noise, rng=rng) for axis in choice.axes
    }
    best = (choice.large[0] > choice.small[0]).astype(float)
    ends = _means(choice.small, weights), _means(choice.large, weights)
    curve, possible = _points(choice, point, drawn), _oracle_points(choice)
    return Judged(
        n=drawn.n,
        gap=gap,
        gap_ci=stats.paired_interval(drawn.gap, point=gap, n=drawn.n, rng=rng),
        small=ends[0],
        large=ends[1],
        oracle=(*_means(_either(choice, best), weights), float(weights @ best)),
        curve=curve,
        oracle_curve=possible,
        standings=standings,
        aiq=_aiq(ends, curve, possible),
    )


def unseen(rng: np.random.Generator, n: int, resamples: int) -> Floats:
    """Return what unseen events add to an area in each resample (see the module)."""
    counts = rng.poisson(2, resamples)  # as many gains as losses, and either helps where the other harms
    lots = rng.uniform(-0.5, 0.5, counts.sum())
    at = np.repeat(np.arange(resamples), counts)
    return np.asarray(np.bincount(at, weights=lots, minlength=resamples) / n)


def _means(side: tuple[Floats, Floats | None], weights: Floats) -> tuple[float, float | None]:
    right, cost = side
    return float(weights @ right), None if cost is None else float(weights @ cost)


def _either(choice: Choice, up: Floats) -> tuple[Floats, Floats | None]:
    (small, cheap), (large, dear) = choice.small, choice.large
    cost = None if cheap is None or dear is None else np.where(up > 0, dear, cheap)
    return np.where(up > 0, large, small), cost


class _Draws:
    """Bootstrap resamples of everything that an interval is given of."""

    def __init__(self, choice: Choice, resamples: int, rng: np.random.Generator) -> None:
        self.n = int(choice.groups.max()) + 1
        self._shown = _shown(choice)
        oracles = {axis: with_score(choice, oracle_score(choice, axis)) for axis in choice.axes}
        parts: dict[Any, list[Floats]] = {}
        for times in _times(self.n, resamples, max(1, _CELLS // len(choice.score)), rng):
            weights = times[:, choice.groups] * choice.weight
            sweep = Sweep(choice, weights)
            small = (weights @ choice.small[0]) / weights.sum(axis=1)
            found: dict[Any, Floats] = {"gap": sweep.gap}
            found["accuracy"] = small[:, None] + sweep.gain[:, self._shown]
            for axis in choice.axes:
                found["area", axis] = sweep.area(axis)
                found["oracle", axis] = Sweep(oracles[axis], weights).area(axis)
                for name, part in PARTS.items():
                    found[name, axis] = sweep.reaches(axis, part)
            for key, values in found.items():
                parts.setdefault(key, []).append(values)
        self._found = {key: np.concatenate(values) for key, values in parts.items()}
        self.gap, self.accuracy = self._found["gap"], self._found["accuracy"]

    def of(self, what: str, axis: Axis) -> Floats:
        """Return the resamples of one quantity."""
        return self._found[what, axis]


def _times(n: int, resamples: int, step: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Yield how often each unit is drawn, some resamples at a time."""
    for start in range(0, resamples, step):
        yield rng.multinomial(n, np.full(n, 1 / n), size=min(step, resamples - start)).astype(float)


def _standing(
    choice: Choice,
    point: Sweep,
    drawn: _Draws,
    axis: Axis,
    *,
    told: bool,
    noise: Floats,
    rng: np.random.Generator,
) -> Standing:
    gap, area = float(point.gap[0]), float(point.area(axis)[0])
    best = Sweep(with_score(choice, oracle_score(choice, axis)), choice.weight[None, :])
    oracle = float(best.area(axis)[0])
    areas = drawn.of("area", axis) + noise
    area_ci = stats.interval(areas)
    if not np.ptp(drawn.of("area", axis)):
        slack = stats.rule_of_three(drawn.n) / 2  # one call moves an area by half a point at most
        area_ci = min(area_ci[0], area - slack), max(area_ci[1], area + slack)
    cpt = {name: float(point.reaches(axis, part)[0]) if told else None for name, part in PARTS.items()}
    reached = {name: _bounded(drawn.of(name, axis), drawn.gap > 0, 0.0, 1.0) for name in PARTS}
    possible = drawn.of("oracle", axis)
    return Standing(
        apgr=0.5 + area / gap if told else None,
        apgr_ci=_ratio(areas, drawn.gap, add=0.5) if told else None,
        cpt50=cpt["cpt50"],
        cpt50_ci=reached["cpt50"] if told else None,
        cpt80=cpt["cpt80"],
        cpt80_ci=reached["cpt80"] if told else None,
        area=area,
        area_ci=area_ci,
        position=area / oracle if oracle > 0 else None,
        position_ci=_ratio(areas, possible) if oracle > 0 else None,
        oracle_apgr=0.5 + oracle / gap if told else None,
        oracle_area=oracle,
        shuffled=_shuffled(choice, axis, area=area, oracle=oracle, gap=gap if told else None, rng=rng),
    )


def _ratio(above: Floats, below: Floats, *, add: float = 0.0) -> stats.Interval | None:
    """Return the interval of a quotient; None where more than its tail of resamples divide by nothing."""
    ratio = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return _bounded(ratio + add, below > 0, -np.inf, np.inf)


def _bounded(values: Floats, known: Any, lowest: float, highest: float) -> stats.Interval | None:
    """Return the interval of values of which some are unknown, which may lie anywhere in a range."""
    tail = (1 - stats.LEVEL) / 2
    low = np.quantile(np.where(known, values, lowest), tail, method="lower")
    high = np.quantile(np.where(known, values, highest), 1 - tail, method="higher")
    return (float(low), float(high)) if np.isfinite(low) and np.isfinite(high) else None


def _shuffled(
    choice: Choice, axis: Axis, *, area: float, oracle: float, gap: float | None, rng: np.random.Generator
) -> Shuffled:
    """Deal the places in the order out at random, again and again."""
    n, weights = len(choice.score), choice.weight[None, :]
    areas = []
    step = max(1, _CELLS // n)
    for start in range(0, SHUFFLES, step):
        dealt = rng.permuted(np.tile(np.arange(n), (min(step, SHUFFLES - start), 1)), axis=1)
        areas.append(Sweep(choice, weights, dealt=dealt).area(axis))
    found = np.concatenate(areas)
    low, high = stats.interval(found)
    return Shuffled(
        apgr=None if gap is None else 0.5 + float(found.mean()) / gap,
        position=float(found.mean()) / oracle if oracle > 0 else None,
        position_range=(low / oracle, high / oracle) if oracle > 0 else None,
        p=float((1 + (found >= area - 1e-12).sum()) / (1 + len(found))),
    )


def _shown(choice: Choice) -> Ints:
    """Return the numbers of the points of a curve that are shown, about evenly spaced in calls."""
    levels, counts = np.unique(-choice.score, return_counts=True)
    sent = np.concatenate([[0], np.cumsum(counts)]) / len(choice.score)
    nearest = np.abs(sent[None, :] - np.linspace(0, 1, POINTS + 1)[:, None]).argmin(axis=1)
    return np.unique(nearest) if len(levels) > POINTS else np.arange(len(sent))


def _points(choice: Choice, point: Sweep, drawn: _Draws) -> tuple[CurvePoint, ...]:
    (small, cheap), (_, dear) = (_means(side, choice.weight) for side in (choice.small, choice.large))
    levels = choice.score[point.at][point.starts]
    found = []
    for place, i in enumerate(_shown(choice).tolist()):
        cost = None
        if point.cost is not None and cheap is not None and dear is not None:
            cost = cheap + float(point.cost[0, i]) * (dear - cheap)
        accuracy = small + float(point.gain[0, i])
        low, high = stats.difference_interval(drawn.accuracy[:, place], point=accuracy, n=drawn.n)
        found.append(
            CurvePoint(
                threshold=float(levels[i - 1]) if i else None,
                share=float(point.share[0, i]),
                cost=cost,
                accuracy=accuracy,
                accuracy_ci=(max(low, 0.0), high),
            )
        )
    return tuple(found)


def _oracle_points(choice: Choice) -> tuple[OraclePoint, ...]:
    best = with_score(choice, oracle_score(choice, choice.axes[-1]))
    sweep, shown = Sweep(best, choice.weight[None, :]), _shown(best)
    (small, cheap), (_, dear) = (_means(side, choice.weight) for side in (choice.small, choice.large))
    costs: list[float | None] = [None] * len(shown)
    if sweep.cost is not None and cheap is not None and dear is not None:
        costs = (cheap + sweep.cost[0, shown] * (dear - cheap)).tolist()
    return tuple(
        zip(sweep.share[0, shown].tolist(), costs, (small + sweep.gain[0, shown]).tolist(), strict=True)
    )


def _aiq(
    ends: Sequence[tuple[float, float | None]], curve: Sequence[CurvePoint], oracle: Sequence[OraclePoint]
) -> Quality | None:
    """Return the AIQ of the hulls of the two models alone, and of these with a curve."""

    def of(more: Sequence[tuple[float | None, float]]) -> float | None:
        points = [*((cost, right) for right, cost in ends), *more]
        known = [(cost, right) for cost, right in points if cost is not None]
        low, high = ends[0][1], ends[1][1]
        if low is None or high is None or len(known) < len(points):
            return None
        return curves.aiq(known, low=low, high=high)

    zero, policy = of([]), of([(point.cost, point.accuracy) for point in curve])
    best = of([(cost, right) for _, cost, right in oracle])
    if zero is None or policy is None or best is None:
        return None
    return Quality(zero=zero, policy=policy, oracle=best)
