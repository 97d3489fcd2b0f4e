"""Where the curve of a choice lies between the random mix and the oracle, with intervals.

PGR, the performance gap recovered, is ``(accuracy - small) / (large - small)``. APGR is its mean over all
shares (the integral by trapezoids), CPT(x) the least share at which it reaches x (Ong et al. 2024, arXiv
2406.18665, RouteLLM); over what is spent likewise, with 0 at always-small and 1 at always-large. The random
mix is the straight line: its APGR is 0.5. With D the gap between large and small, and A the area between a
curve and the line in points of accuracy, ``APGR = 0.5 + A / D``. So ``A`` needs no division by a gap that may
be zero, and

    position = A / A of the oracle = (APGR - 0.5) / (APGR of the oracle - 0.5)

is 0 for the random mix and 1 for the oracle, which sends a call to the large model where that alone is right.
A curve that ends beyond always-large (a cascade that drafts in vain pays for both) is read up to there; where
it starts beyond always-small it adds nothing to the area before.

Intervals are paired bootstraps over questions or clusters: small, large and curve are drawn together. To
areas two things are added that the bootstrap does not see:

* Unseen events, as in :func:`budgetctl.evals.stats.paired_interval`: in each resample a Poisson(1) count of
  gains and one of losses, each at a random place of the order, so that half its distance from the middle at
  most is lost or won.
* Where a score was fitted in folds of the same questions, every pair of questions counts twice: each is
  scored by what the other has taught. With nothing to learn the area is a sum over such pairs, and its
  variance twice that of a score that was given. So areas then stand the root of two as far from the middle.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from budgetctl.evals import stats
from budgetctl.evals.columns import Floats, Ints
from budgetctl.evals.ladders.choices import Axis, Choice
from budgetctl.evals.ladders.sweep import Sweep, oracle

PARTS = {"cpt50": 0.5, "cpt80": 0.8}
SHUFFLES = 1000
_CELLS = 2_000_000


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


class Draws:
    """Bootstrap resamples of everything that an interval is given of.

    Args:
        shown: Numbers of the points of the curve whose accuracy is wanted.

    Attributes:
        n: Number of units.
        gap: (resamples,) of the gap.
        accuracy: (resamples, shown) of the accuracy at the points shown.
        unseen: (resamples,) what unseen events add to an area.
    """

    def __init__(self, choice: Choice, shown: Ints, *, resamples: int, rng: np.random.Generator) -> None:
        self.n = int(choice.groups.max()) + 1
        best = {axis: oracle(choice, axis) for axis in choice.axes}
        parts: dict[tuple[str, Axis | None], list[Floats]] = {}
        for times in _times(self.n, resamples, max(1, _CELLS // len(choice.score)), rng):
            weights = times[:, choice.groups] * choice.weight
            sweep = Sweep(choice, weights)
            small = (weights @ choice.small[0]) / weights.sum(axis=1)
            found: dict[tuple[str, Axis | None], Floats] = {
                ("gap", None): sweep.gap,
                ("accuracy", None): small[:, None] + sweep.gain[:, shown],
            }
            for axis in choice.axes:
                found["area", axis] = sweep.area(axis)
                found["oracle", axis] = Sweep(best[axis], weights).area(axis)
                for name, part in PARTS.items():
                    found[name, axis] = sweep.reaches(axis, part)
            for key, values in found.items():
                parts.setdefault(key, []).append(values)
        self._found = {key: np.concatenate(values) for key, values in parts.items()}
        self.gap, self.accuracy = self.of("gap"), self.of("accuracy")
        self.unseen = unseen(rng, self.n, resamples)

    def of(self, what: str, axis: Axis | None = None) -> Floats:
        """Return the resamples of one quantity."""
        return self._found[what, axis]


def _times(n: int, resamples: int, step: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Yield how often each unit is drawn, some resamples at a time."""
    for start in range(0, resamples, step):
        yield rng.multinomial(n, np.full(n, 1 / n), size=min(step, resamples - start)).astype(float)


def unseen(rng: np.random.Generator, n: int, resamples: int) -> Floats:
    """Return what unseen events add to an area in each resample (see the module)."""
    counts = rng.poisson(2, resamples)  # as many gains as losses, and either helps where the other harms
    lots = rng.uniform(-0.5, 0.5, counts.sum())
    at = np.repeat(np.arange(resamples), counts)
    return np.asarray(np.bincount(at, weights=lots, minlength=resamples) / n)


def shuffled_areas(choice: Choice, rng: np.random.Generator) -> dict[Axis, Floats]:
    """Return the areas with scores dealt out at random, again and again.

    Units of the bootstrap keep their calls together: each takes the scores of another unit, spread over its
    own calls where it has more or fewer. Dealt out call by call they would vary too little.
    """
    order = np.argsort(choice.groups, kind="stable")
    sizes = np.bincount(choice.groups)
    starts, unit = np.cumsum(sizes) - sizes, choice.groups[order]
    place, scores, weights = np.arange(len(order)) - starts[unit], choice.score[order], choice.weight[None, :]
    found: dict[Axis, list[float]] = {axis: [] for axis in choice.axes}
    score = np.empty_like(scores)
    for _ in range(SHUFFLES):
        other = rng.permutation(len(sizes))[unit]
        score[order] = scores[starts[other] + place * sizes[other] // sizes[unit]]
        sweep = Sweep(replace(choice, score=score), weights)
        for axis, areas in found.items():
            areas.append(float(sweep.area(axis)[0]))
    return {axis: np.array(areas) for axis, areas in found.items()}


def stand(
    choice: Choice,
    point: Sweep,
    drawn: Draws,
    axis: Axis,
    *,
    told: bool,
    crossfit: bool,
    shuffled: Floats,
) -> Standing:
    """Return where a curve lies on an axis.

    Args:
        point: The curve itself, one row.
        drawn: Its resamples.
        told: The gap is told apart from zero.
        crossfit: The score was fitted in folds of the same questions.
        shuffled: Areas of shuffled scores.
    """
    gap, area = float(point.gap[0]), float(point.area(axis)[0])
    best = float(Sweep(oracle(choice, axis), choice.weight[None, :]).area(axis)[0])
    areas = drawn.of("area", axis) + drawn.unseen
    if crossfit:
        areas = area + math.sqrt(2) * (areas - area)
    area_ci = stats.interval(areas)
    if not np.ptp(drawn.of("area", axis)):
        slack = stats.rule_of_three(drawn.n) / 2  # one call moves an area by half a point at most
        area_ci = min(area_ci[0], area - slack), max(area_ci[1], area + slack)
    cpt = {name: float(point.reaches(axis, part)[0]) if told else None for name, part in PARTS.items()}
    reached = {
        name: _bounded(drawn.of(name, axis), drawn.gap > 0, 0.0, 1.0) if told else None for name in PARTS
    }
    low, high = stats.interval(shuffled)
    return Standing(
        apgr=0.5 + area / gap if told else None,
        apgr_ci=_ratio(areas, drawn.gap, add=0.5) if told else None,
        cpt50=cpt["cpt50"],
        cpt50_ci=reached["cpt50"],
        cpt80=cpt["cpt80"],
        cpt80_ci=reached["cpt80"],
        area=area,
        area_ci=area_ci,
        position=area / best if best > 0 else None,
        position_ci=_ratio(areas, drawn.of("oracle", axis)) if best > 0 else None,
        oracle_apgr=0.5 + best / gap if told else None,
        oracle_area=best,
        shuffled=Shuffled(
            apgr=0.5 + float(shuffled.mean()) / gap if told else None,
            position=float(shuffled.mean()) / best if best > 0 else None,
            position_range=(low / best, high / best) if best > 0 else None,
            p=float((1 + (shuffled >= area - 1e-12).sum()) / (1 + len(shuffled))),
        ),
    )


def _ratio(above: Floats, below: Floats, *, add: float = 0.0) -> stats.Interval | None:
    """Return the interval of a quotient; None where more than its tail of resamples divide by nothing."""
    ratio = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return _bounded(ratio + add, below > 0, -np.inf, np.inf)


def _bounded(
    values: Floats, known: np.ndarray[tuple[int], np.dtype[np.bool_]], lowest: float, highest: float
) -> stats.Interval | None:
    """Return the interval of values of which some are unknown, which may lie anywhere in a range."""
    tail = (1 - stats.LEVEL) / 2
    low = np.quantile(np.where(known, values, lowest), tail, method="lower")
    high = np.quantile(np.where(known, values, highest), 1 - tail, method="higher")
    return (float(low), float(high)) if np.isfinite(low) and np.isfinite(high) else None
