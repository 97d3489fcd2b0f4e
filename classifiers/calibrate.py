"""Makes probabilities and quantiles mean what they say, on questions that took no part in training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from budgetctl.classifiers.fit import Labels, softmax
from budgetctl.classifiers.linear import QUANTILES, spread
from numpy.typing import NDArray

Array = NDArray[Any]

SAFETY = 1.645
"""Standard errors of coverage that are added to the level: covered with 95 % probability, not on average."""

MIN_KIND = 50
"""Kinds with fewer calibration questions are only covered as part of the mix."""


def classes(logits: Array, allowed: Array, *, steps: int = 2000, rate: float = 0.02) -> tuple[float, Array]:
    """Return the temperature and class biases that maximise the likelihood (Guo et al. 2017, Platt scaling).

    A light pull towards (1, 0) keeps a class that calibration never saw from running away.
    """
    theta = np.zeros(5)
    mean, square = np.zeros(5), np.zeros(5)
    for step in range(1, steps + 1):
        scaled = logits * math.exp(-theta[0])
        p = softmax(scaled + theta[1:])
        posterior = p * allowed
        g = p - posterior / posterior.sum(axis=1, keepdims=True)
        grad = np.concatenate(([-(g * scaled).sum(axis=1).mean()], g.mean(axis=0))) + theta / len(logits)
        mean += 0.1 * (grad - mean)
        square += 0.001 * (grad * grad - square)
        theta -= rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-9)
    return math.exp(theta[0]), theta[1:]


def conformal_level(q: float, n: int) -> float:
    """Return the level whose empirical quantile over ``n`` residuals covers a share ``q``.

    Split conformal prediction covers ``q`` on average over calibration sets; the margin of ``SAFETY``
    binomial standard errors makes an unlucky set unlikely to fall short.
    """
    return min((q + SAFETY * math.sqrt(q * (1 - q) / n)) * (n + 1) / n, 1.0)


def shifts(predicted: Array, labels: Labels) -> Array:
    """Return the corrections [settled, natural] x quantiles, in units of :func:`spread`.

    ``settled`` is corrected on the questions that thinking helps, ``natural`` on all. The upper quantiles
    of ``settled`` cover their share of *every* kind of question in the calibration recordings (of
    ``MIN_KIND`` or more), not only of the mix: each kind is conformalised by itself and the largest
    correction holds for all, because traffic shifts between kinds and a kind that is cut short pays with its
    accuracy. So over the mix they cover more than their share. A correction without any question to learn it
    from is 0.
    """
    found = np.zeros((2, len(QUANTILES)))
    for target in (0, 1):
        used = labels.weights[:, target] >= 1.0
        logs = predicted[used, 4 * target : 4 * target + 4]
        residual = (labels.tokens[used, target, None] - logs) / spread(logs)[:, None]
        for i, q in enumerate(QUANTILES):
            by_kind = target == 0 and q > 0.5
            parts = _kinds(residual[:, i], labels.kinds[used]) if by_kind else [residual[:, i]]
            found[target, i] = max((_correction(part, q) for part in parts if len(part)), default=0.0)
    return found


def _kinds(residual: Array, kinds: Array) -> list[Array]:
    parts = [residual[kinds == kind] for kind in np.unique(kinds)]
    return [residual, *(part for part in parts if len(part) >= MIN_KIND)]


def _correction(residual: Array, q: float) -> float:
    level = conformal_level(q, len(residual)) if q > 0.5 else q
    return float(np.quantile(residual, level, method="higher"))
