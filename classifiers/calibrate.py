"""Makes probabilities and quantiles mean what they say, on questions that took no part in training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from budgetctl.classifiers import objectives
from budgetctl.classifiers.fit import softmax
from budgetctl.classifiers.habits import Habits
from budgetctl.classifiers.objectives import Labels, shares
from budgetctl.classifiers.readout import QUANTILES
from budgetctl.classifiers.targets import Question
from numpy.typing import NDArray

Array = NDArray[Any]

MIN_GROUP = 20


def readout(
    out: Array, held: Sequence[Question], habits: Habits, kinds: Sequence[str], centres: Array
) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Return the arrays of a :class:`~budgetctl.classifiers.readout.Readout` and its models.

    Args:
        out: A network's outputs on the calibration questions: 4 classes, 2 x 4 quantiles of the difficulty,
            and one per kind.
        held: Questions that took no part in training.
        habits: As learnt in training.
        kinds: Names of the kinds, in the order of the outputs.
        centres: kinds x 2: their mean difficulties, as learnt in training.
    """
    temperature, bias = classes(out, objectives.labels(held, habits, kinds))
    models = tuple(sorted(habits.models))
    named = centres + medians(out, held, habits, centres, foreign=False)
    unnamed = centres + medians(out, held, habits, centres, foreign=True)
    arrays = {
        "temperature": temperature,
        "class_bias": bias,
        "kind_centre": named + habits.generic,
        "foreign_centre": unnamed + habits.generic,
        "shift": shifts(out, held, habits, named, foreign=False),
        "foreign_shift": shifts(out, held, habits, unnamed, foreign=True),
        "habits": np.array([habits.models[m] for m in models]),
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}, models


def classes(out: Array, labels: Labels) -> tuple[Array, Array]:
    """Return temperature and class biases per kind, which maximise the likelihood (Guo et al. 2017).

    Questions are grouped by the kind they are taken for, as in :func:`shifts`; what makes one kind unsure
    must not make another, where all is certain, look as if thinking might help it. A light pull of each
    group towards the whole, and of that towards (1, 0), keeps a class never seen from running away.
    """
    logits, taken_for = out[:, :4], out[:, 12:].argmax(axis=1)
    known = ~(np.isnan(labels.off) & np.isnan(labels.full))
    whole = scaling(logits, labels, known, np.zeros(5))
    found = np.tile(whole, (out.shape[1] - 12, 1))
    for kind in range(len(found)):
        used = known & (taken_for == kind)
        if used.sum() >= MIN_GROUP:
            found[kind] = scaling(logits, labels, used, whole)
    return np.exp(found[:, 0]), found[:, 1:]


def scaling(
    logits: Array,
    labels: Labels,
    used: Array,
    towards: Array,
    *,
    pull: float = 1.0,
    steps: int = 600,
    rate: float = 0.03,
) -> Array:
    """Return (log temperature, four biases) by Adam, on the questions ``used``.

    Args:
        logits: questions x 4.
        labels: Their shares of right models, and what each question counts.
        used: Which of them to learn from.
        towards: Where it starts, and where it is pulled to.
        pull: Strength of the pull, as a number of questions.
    """
    logits, off, full = logits[used], labels.off[used], labels.full[used]
    weight = (labels.weight[used] / labels.weight[used].mean())[:, None]
    theta = towards.copy()
    mean, square = np.zeros(5), np.zeros(5)
    for step in range(1, steps + 1):
        scaled = logits * math.exp(-theta[0])
        p = softmax(scaled + theta[1:])
        g = weight * (p - shares(p, off, full))
        grad = np.concatenate(([-(g * scaled).sum(axis=1).mean()], g.mean(axis=0)))
        grad += pull * (theta - towards) / len(logits)
        mean += 0.1 * (grad - mean)
        square += 0.001 * (grad * grad - square)
        theta -= rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-9)
    return theta


def medians(
    out: Array, questions: Sequence[Question], habits: Habits, centres: Array, *, foreign: bool
) -> Array:
    """Return how far the median of each kind is off: kinds x [settled, natural], in log(1 + tokens).

    All questions of a kind are moved alike, which keeps their order. A group too small to learn from stays
    where it is. ``foreign`` as in :func:`shifts`.
    """
    taken_for = out[:, 12:].argmax(axis=1)
    found = np.zeros_like(centres)
    for target in range(2):
        at, tokens, weight = _cases(questions, habits, target, foreign=foreign)
        residual = tokens - centres[taken_for[at], target] - out[at, 4 + 4 * target]
        for kind in range(len(found)):
            used = taken_for[at] == kind
            if used.sum() >= MIN_GROUP:
                found[kind, target] = conformal(residual[used], QUANTILES[0], weight[used])
    return found


def _cases(
    questions: Sequence[Question], habits: Habits, target: int, *, foreign: bool
) -> tuple[Array, Array, Array]:
    """Return, per model's tokens on a question: which it is, log(1 + tokens) less the habit, its weight."""
    pairs = [(q.settled, q.natural)[target] for q in questions]
    cases = [(i, m, t) for i, found_pairs in enumerate(pairs) for m, t in found_pairs if t > 0]
    level = [habits.generic if foreign else habits.level(m) for _, m, _ in cases]
    at = np.array([i for i, *_ in cases], dtype=np.intp)
    weight = np.array([questions[i].weight for i in at])
    return at, np.log1p([t for *_, t in cases]) - np.array(level), weight


def shifts(
    out: Array, questions: Sequence[Question], habits: Habits, centres: Array, *, foreign: bool
) -> Array:
    """Return the corrections kinds x [settled, natural] x quantiles, in log(1 + tokens).

    One case is one model's tokens on one question. Cases are grouped by the kind their question is taken for,
    which the classifier knows at run time too, and each group is conformalised by itself (Mondrian conformal
    prediction, Vovk et al. 2003), so that a quantile covers its share of every kind: ``settled`` on the
    questions that thinking helps, ``natural`` on all. A group too small to learn from gets the largest
    correction of the others. The median has none: it is right already (:func:`medians`).

    Args:
        out: Outputs of the network on ``questions``.
        questions: Questions that took no part in training.
        habits: What is taken off each model's tokens.
        centres: What is taken off for the kind: its median, corrected.
        foreign: Leave the habits in, as for a model that is not known: the difference between models is then
            covered too.
    """
    taken_for = out[:, 12:].argmax(axis=1)
    found = np.full((out.shape[1] - 12, 2, len(QUANTILES)), np.nan)
    for target in range(2):
        at, tokens, weight = _cases(questions, habits, target, foreign=foreign)
        logs = out[at, 4 + 4 * target : 8 + 4 * target]
        above = tokens - centres[taken_for[at], target]
        residual = above[:, None] - logs
        for kind in range(len(found)):
            used = taken_for[at] == kind
            if used.sum() >= MIN_GROUP:
                columns = enumerate(QUANTILES)
                found[kind, target] = [conformal(residual[used, i], q, weight[used]) for i, q in columns]
    largest = np.nan_to_num(np.nanmax(found, axis=0, initial=-np.inf), neginf=0.0)
    found = np.where(np.isnan(found), largest, found)
    found[:, :, 0] = 0.0
    return found


def conformal(residual: Array, q: float, weight: Array | None = None) -> float:
    """Return the correction that covers a share ``q`` of new cases.

    Split conformal prediction, with weighted cases (Tibshirani et al. 2019) where actions were not equally
    likely; the margin for the sample's size is that of the effective size (Kish 1965).
    """
    order = np.argsort(residual, kind="stable")
    w = np.ones(len(residual)) if weight is None else weight[order]
    n = w.sum() ** 2 / (w * w).sum()
    below = np.cumsum(w) - w
    at = np.searchsorted(below, min(q * (n + 1) / n, 1.0) * (w.sum() - w[-1]))
    return float(residual[order[min(int(at), len(order) - 1)]])
