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
FOLDS = 10
LOSS_SHARE = 0.1
"""At the quantile q, a share of at most ``LOSS_SHARE * (1 - q)`` of all answers may be lost."""


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


def shifts(out: Array, labels: Labels, strata: Array) -> Array:
    """Return the corrections kinds x [settled, natural] x quantiles, in units of :func:`spread`.

    Questions are grouped by the kind they are taken for, which the classifier knows at run time too, and each
    group is conformalised by itself (Mondrian conformal prediction, Vovk et al. 2003). ``settled`` is
    corrected on the questions that thinking helps, ``natural`` on all. The upper quantiles of ``settled``
    keep two promises. They cover their share of every stratum of a group (``strata``: the recorded level of
    difficulty; those with ``MIN_STRATUM`` or more), since the hard questions pay for a cap that only fits the
    mix. And a cap at the quantile q loses at most a share of ``LOSS_SHARE * (1 - q)`` of all answers
    (:func:`margins`). So over the mix they cover more than their share. A group too small to learn from
    gets the largest correction of the others.
    """
    found = _by_kind(out, labels, strata)
    # What the corrections lose is measured on questions that they were not learnt from.
    fold = np.arange(len(out)) % FOLDS
    excess = np.full((len(out), len(QUANTILES)), -np.inf)
    for i in range(FOLDS):
        others, rest = fold != i, (fold == i) & (labels.weights[:, 0] > 0)
        learnt = _by_kind(out[others], labels.where(others), strata[others])
        kinds = out[rest, 12:].argmax(axis=1)
        excess[rest] = _residual(out[rest], labels.tokens[rest], 0) - learnt[kinds, 0]
    found[:, 0] += margins(excess)
    return found


def _by_kind(out: Array, labels: Labels, strata: Array) -> Array:
    taken_for = out[:, 12:].argmax(axis=1)
    found = np.full((out.shape[1] - 12, 2, len(QUANTILES)), np.nan)
    for kind, target in np.ndindex(found.shape[:2]):
        used = (labels.weights[:, target] >= 1.0) & (taken_for == kind)
        if used.sum() >= MIN_GROUP:
            residual = _residual(out[used], labels.tokens[used], target)
            found[kind, target] = _corrections(residual, strata[used] if target == 0 else None)
    largest = np.nan_to_num(np.nanmax(found, axis=0, initial=-np.inf), neginf=0.0)
    return np.where(np.isnan(found), largest, found)


def margins(excess: Array) -> Array:
    """Return what must be added to each quantile for its loss of answers to be as promised.

    Conformal risk control (Angelopoulos et al. 2022): with ``k`` answers lost among ``n``, the expected
    loss on new questions is at most ``(k + 1) / (n + 1)``. An answer counts as lost that is right after full
    thinking and had not settled at the quantile, though a cut there may by luck be right.

    Args:
        excess: questions x quantiles: by how much each question settles after the quantile; -inf where
            there is no right answer to lose.
    """
    n = len(excess)
    found = np.zeros(len(QUANTILES))
    for i, q in enumerate(QUANTILES[1:], 1):
        allowed = max(int(LOSS_SHARE * (1 - q) * (n + 1) + 1e-9) - 1, 0)
        found[i] = max(np.sort(excess[:, i])[::-1][allowed], 0.0)
    return found


def _residual(out: Array, tokens: Array, target: int) -> Array:
    logs = out[:, 4 + 4 * target : 8 + 4 * target]
    return np.asarray((tokens[:, target, None] - logs) / spread(logs)[:, None])


def _corrections(residual: Array, strata: Array | None) -> list[float]:
    """Return one correction per quantile; with strata the upper ones cover each of them, too."""
    parts = [residual]
    if strata is not None:
        parts += [p for s in np.unique(strata) if len(p := residual[strata == s]) >= MIN_STRATUM]
    median, *upper = [[conformal(part[:, i], q) for part in parts] for i, q in enumerate(QUANTILES)]
    return [median[0], *map(max, upper)]


def conformal(residual: Array, q: float) -> float:
    """Return the correction that covers a share ``q`` of new cases (split conformal prediction)."""
    n = len(residual)
    return float(np.quantile(residual, min(q * (n + 1) / n, 1.0), method="higher"))
