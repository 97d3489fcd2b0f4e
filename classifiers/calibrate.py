"""Makes probabilities and quantiles mean what they say, on questions that took no part in training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .fit import Labels, softmax
from .linear import QUANTILES

Array = NDArray[Any]

SAFETY = 1.645
"""Standard errors of coverage that are added to the level: covered with 95 % probability, not on average."""


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
    """Return the level whose empirical quantile over ``n`` residuals covers a share ``q`` with 95 % probability.

    Split conformal prediction covers ``q`` on average over calibration sets; the margin of ``SAFETY`` binomial
    standard errors makes an unlucky set unlikely to fall short.
    """
    return min((q + SAFETY * math.sqrt(q * (1 - q) / n)) * (n + 1) / n, 1.0)


def shifts(predicted: Array, labels: Labels) -> Array:
    """Return the corrections [settled, natural] x quantiles that are added to predicted logs.

    ``settled`` is corrected on the questions that thinking helps, ``natural`` on all. A correction without
    any question to learn it from is 0.
    """
    found = np.zeros((2, len(QUANTILES)))
    for target in (0, 1):
        used = labels.weights[:, target] >= 1.0
        for i, q in enumerate(QUANTILES):
            residual = labels.tokens[used, target] - predicted[used, 4 * target + i]
            if len(residual):
                level = conformal_level(q, len(residual)) if q > 0.5 else q
                found[target, i] = np.quantile(residual, level, method="higher")
    return found
