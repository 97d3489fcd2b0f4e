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


def shifts(out: Array, labels: Labels) -> Array:
    """Return the corrections kinds x [settled, natural] x quantiles, in units of :func:`spread`.

    Questions are grouped by the kind they are taken for, which the classifier knows at run time too, and each
    group is conformalised by itself (Mondrian conformal prediction, Vovk et al. 2003), so that a quantile
    covers its share of every kind: ``settled`` on the questions that thinking helps, ``natural`` on all. A
    group too small to learn from gets the largest correction of the others.
    """
    taken_for = out[:, 12:].argmax(axis=1)
    found = np.full((out.shape[1] - 12, 2, len(QUANTILES)), np.nan)
    for kind, target in np.ndindex(found.shape[:2]):
        used = (labels.weights[:, target] >= 1.0) & (taken_for == kind)
        if used.sum() >= MIN_GROUP:
            logs = out[used, 4 + 4 * target : 8 + 4 * target]
            residual = (labels.tokens[used, target, None] - logs) / spread(logs)[:, None]
            found[kind, target] = [conformal(residual[:, i], q) for i, q in enumerate(QUANTILES)]
    largest = np.nan_to_num(np.nanmax(found, axis=0, initial=-np.inf), neginf=0.0)
    return np.where(np.isnan(found), largest, found)


def conformal(residual: Array, q: float) -> float:
    """Return the correction that covers a share ``q`` of new cases (split conformal prediction)."""
    n = len(residual)
    return float(np.quantile(residual, min(q * (n + 1) / n, 1.0), method="higher"))
