"""Makes probabilities and quantiles mean what they say, on questions that took no part in training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from budgetctl.classifiers.fit import Labels, softmax
from budgetctl.classifiers.linear import QUANTILES, spread
from numpy.typing import NDArray

Array = NDArray[Any]

MIN_GROUP = 20
MIN_STRATUM = 15
SAFETY = 1.645
"""Standard errors of coverage added to the level of a group: it is covered with 95 % probability."""


def classes(out: Array, allowed: Array) -> tuple[Array, Array]:
    """Return temperature and class biases per kind, which maximise the likelihood (Guo et al. 2017).

    Questions are grouped by the kind they are taken for, as in :func:`shifts`; what makes one kind unsure
    must not make another, where all is certain, look as if thinking might help it. A light pull of each
    group towards the whole, and of that towards (1, 0), keeps a class never seen from running away.
    """
    logits, taken_for = out[:, :4], out[:, 12:].argmax(axis=1)
    whole = _scaling(logits, allowed, np.zeros(5))
    found = np.tile(whole, (out.shape[1] - 12, 1))
    for kind in range(len(found)):
        used = taken_for == kind
        if used.sum() >= MIN_GROUP:
            found[kind] = _scaling(logits[used], allowed[used], whole)
    return np.exp(found[:, 0]), found[:, 1:]


def _scaling(
    logits: Array, allowed: Array, towards: Array, *, steps: int = 2000, rate: float = 0.02
) -> Array:
    """Return (log temperature, four biases) by Adam."""
    theta = towards.copy()
    mean, square = np.zeros(5), np.zeros(5)
    for step in range(1, steps + 1):
        scaled = logits * math.exp(-theta[0])
        p = softmax(scaled + theta[1:])
        posterior = p * allowed
        g = p - posterior / posterior.sum(axis=1, keepdims=True)
        grad = np.concatenate(([-(g * scaled).sum(axis=1).mean()], g.mean(axis=0)))
        grad += (theta - towards) / len(logits)
        mean += 0.1 * (grad - mean)
        square += 0.001 * (grad * grad - square)
        theta -= rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-9)
    return theta


def conformal_level(q: float, n: int, *, safety: float = 0.0) -> float:
    """Return the level whose empirical quantile over ``n`` residuals covers a share ``q`` of new cases.

    Split conformal prediction covers ``q`` on average over calibration sets; a margin of ``safety`` binomial
    standard errors makes an unlucky set unlikely to fall short.
    """
    return min((q + safety * math.sqrt(q * (1 - q) / n)) * (n + 1) / n, 1.0)


def shifts(out: Array, labels: Labels, strata: Array) -> Array:
    """Return the corrections kinds x [settled, natural] x quantiles, in units of :func:`spread`.

    Questions are grouped by the kind they are taken for, which the classifier knows at run time too, and each
    group is conformalised by itself (Mondrian conformal prediction, Vovk et al. 2003). ``settled`` is
    corrected on the questions that thinking helps, ``natural`` on all. The upper quantiles of ``settled``
    cover their share of the group with a margin of ``SAFETY``, and of every stratum in it (``strata``: the
    recorded level of difficulty; those with ``MIN_STRATUM`` or more): the hard questions pay for a cap that
    only fits the mix. So over the mix they cover more than their share. A group too small to learn from
    gets the largest correction of the others.
    """
    taken_for = out[:, 12:].argmax(axis=1)
    found = np.full((out.shape[1] - 12, 2, len(QUANTILES)), np.nan)
    for kind, target in np.ndindex(found.shape[:2]):
        used = (labels.weights[:, target] >= 1.0) & (taken_for == kind)
        if used.sum() >= MIN_GROUP:
            logs = out[used, 4 + 4 * target : 8 + 4 * target]
            residual = (labels.tokens[used, target, None] - logs) / spread(logs)[:, None]
            found[kind, target] = _corrections(residual, strata[used] if target == 0 else None)
    largest = np.nan_to_num(np.nanmax(found, axis=0, initial=-np.inf), neginf=0.0)
    return np.where(np.isnan(found), largest, found)


def _corrections(residual: Array, strata: Array | None) -> list[float]:
    """Return one correction per quantile; without strata, what the share of all asks for and no more."""
    n = len(residual)
    if strata is None:
        return [_quantile(residual[:, i], conformal_level(q, n)) for i, q in enumerate(QUANTILES)]
    parts = [p for s in np.unique(strata) if len(p := residual[strata == s]) >= MIN_STRATUM]
    found = [_quantile(residual[:, 0], QUANTILES[0])]
    for i, q in enumerate(QUANTILES[1:], 1):
        whole = _quantile(residual[:, i], conformal_level(q, n, safety=SAFETY))
        found.append(max([whole, *(_quantile(p[:, i], conformal_level(q, len(p))) for p in parts)]))
    return found


def _quantile(residual: Array, level: float) -> float:
    return float(np.quantile(residual, level, method="higher"))
