"""What an estimate buys in replay: the share of the oracle's lift over blind spending that it realises.

Blind spending gives every question the same: a fixed cap, or thinking for the same share of questions
drawn by lot. The oracle knows the outcomes. With A(t) for the right answers at a mean cost of t, averaged
over all t up to full thinking,

    realised = (A_estimate - A_blind) / (A_oracle - A_blind)

which is 1 for the oracle and below 0 for an estimate that misleads. A constant one gets 0 for switching
(there it is the normalised Qini coefficient, Radcliffe 2007), and at most 0 for caps: of each way of spending
the best random mixes count, the upper concave envelope of its points.

``switch``   Thinking on or off, each call with thinking costs the same. A question's gain is the share of
             models right with thinking less that without; the estimate spends on the greatest score first.
``settled``  A cap per question and model. The answer stands from its settled point on; it is recorded only
             where the model ended right. The estimate takes the cap with the greatest expected worth,
             F_settled(cap) - price * expected tokens, and spending grows as the price falls. Cost is the
             tokens used.
``natural``  The same where only the whole length is recorded: a cap below it counts as no answer, the
             pessimistic reading, so this is about finishing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from budgetctl.evals.bench.predictors import Answer
from budgetctl.evals.bench.resample import Bootstrap, Figure
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVELS = (*np.linspace(0.05, 0.95, 19), 0.975, 0.99)
"""Quantiles that an estimate may cap at, besides spending nothing."""
PRICES = 60
"""Prices of a token, at equal steps of the logarithm, that spending is swept through."""
FIXED = 100
"""Fixed caps compared with, at equal steps of the logarithm."""
COSTS = 200
"""Points at which curves are compared."""
MIN_CASES = 20


def switched(answers: Sequence[Answer], bootstrap: Bootstrap) -> Figure:
    """Return the realised share for switching thinking on, over questions known with and without it."""
    known = [a for a in answers if a.question.off is not None and a.question.full is not None]
    if len(known) < MIN_CASES:
        return Figure(value=None, n=len(known))
    gains = np.array([(a.question.full or 0.0) - (a.question.off or 0.0) for a in known])
    scores = np.array([a.score for a in known])

    def realised(rows: NDArray[np.intp]) -> float | None:
        weights = np.bincount(rows, minlength=len(gains)).astype(float)
        blind = _area(np.zeros(len(gains)), gains, weights)
        bound = _area(gains, gains, weights) - blind
        return (_area(scores, gains, weights) - blind) / bound if bound > 0 else None

    return bootstrap.figure(realised, [a.cluster for a in known])


def _area(scores: Array, gains: Array, weights: Array) -> float:
    """Return the mean, over all shares of questions, of what the greatest scores gain; ties go by lot."""
    _, tie = np.unique(-scores, return_inverse=True)
    spent = np.concatenate(([0.0], np.cumsum(np.bincount(tie, weights))))
    gained = np.concatenate(([0.0], np.cumsum(np.bincount(tie, weights * gains))))
    area = np.diff(spent) @ (gained[1:] + gained[:-1]) / 2
    return float(area / spent[-1] ** 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cases:
    """One row per question and model: what it needs, what it would use up, its caps at each price."""

    needed: Array
    natural: Array
    caps: Array
    clusters: list[str]


def capped(answers: Sequence[Answer], target: str, bootstrap: Bootstrap) -> Figure:
    """Return the realised share for caps; ``target`` is ``settled`` or ``natural``."""
    cases = _cases(answers, target)
    if len(cases.needed) < MIN_CASES:
        return Figure(value=None, n=len(cases.needed))
    own = _outcomes(cases, cases.caps)
    steps = np.geomspace(1.0, max(float(cases.natural.max()), 2.0), FIXED)
    fixed = _outcomes(cases, np.broadcast_to(steps, (len(cases.needed), FIXED)))

    def realised(rows: NDArray[np.intp]) -> float | None:
        weights = np.bincount(rows, minlength=len(cases.needed)) / len(rows)
        costs = np.linspace(0.0, float(weights @ cases.natural), COSTS)
        blind = _mean_right(fixed, weights, costs)
        bound = _oracle(cases.needed, weights, costs) - blind
        return (_mean_right(own, weights, costs) - blind) / bound if bound > 0 else None

    return bootstrap.figure(realised, cases.clusters)


def _cases(answers: Sequence[Answer], target: str) -> _Cases:
    needed, natural, levels, still, clusters = [], [], [], [], []
    for a in answers:
        whole = dict(a.question.natural)
        for model, tokens in getattr(a.question, target):
            if model in whole:
                quantiles = getattr(a.named[model], target)
                needed.append(min(tokens, whole[model]))
                natural.append(whole[model])
                levels.append([0.0, *(quantiles.at(q) for q in LEVELS)])
                still.append([1.0, *(1.0 - a.named[model].natural.cdf(cap) for cap in levels[-1][1:])])
                clusters.append(a.cluster)
    return _Cases(
        needed=np.array(needed),
        natural=np.array(natural),
        caps=_worthwhile(np.array(levels), np.array(still)) if needed else np.empty((0, PRICES)),
        clusters=clusters,
    )


def _worthwhile(levels: Array, still: Array) -> Array:
    """Return the cap of each case at each price, dearest first (cases x prices).

    Args:
        levels: cases x [0, LEVELS]: caps.
        still: The estimated chance that the model still thinks there.
    """
    steps = np.diff(levels, axis=1) * (still[:, 1:] + still[:, :-1]) / 2
    expected = np.concatenate((np.zeros((len(levels), 1)), np.cumsum(steps, axis=1)), axis=1)
    reached = np.array([0.0, *LEVELS])
    chosen = [(reached - price * expected).argmax(axis=1) for price in np.geomspace(1.0, 1e-7, PRICES)]
    return np.take_along_axis(levels, np.stack(chosen, axis=1), axis=1)


def _outcomes(cases: _Cases, caps: Array) -> tuple[Array, Array]:
    """Return (right, cost), each cases x caps, from nothing spent to everything."""
    ends = np.zeros(len(cases.needed)), cases.natural
    whole = np.column_stack((ends[0], caps, ends[1]))
    cost = np.minimum(whole, cases.natural[:, None])
    return (whole >= cases.needed[:, None]).astype(float), cost


def _mean_right(outcomes: tuple[Array, Array], weights: Array, costs: Array) -> float:
    hull = _envelope(weights @ outcomes[1], weights @ outcomes[0])
    return float(np.interp(costs, *hull).mean())


def _envelope(cost: Array, right: Array) -> tuple[Array, Array]:
    """Return the points of the upper concave envelope (Andrew 1979): what random mixes of two reach."""
    hull: list[tuple[float, float]] = []
    for x, y in sorted(zip(cost.tolist(), right.tolist(), strict=True)):
        while len(hull) > 1 and _below(hull[-2], hull[-1], (x, y)):
            hull.pop()
        hull.append((x, y))
    found = np.array(hull)
    return found[:, 0], found[:, 1]


def _below(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Return whether ``b`` lies on or below the line from ``a`` to ``c``."""
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])


def _oracle(needed: Array, weights: Array, costs: Array) -> float:
    """Return the same of who spends exactly what is needed, on the cheapest cases first."""
    order = np.argsort(needed, kind="stable")
    cost = np.concatenate(([0.0], np.cumsum(weights[order] * needed[order])))
    right = np.concatenate(([0.0], np.cumsum(weights[order])))
    return float(np.interp(costs, cost, right).mean())
