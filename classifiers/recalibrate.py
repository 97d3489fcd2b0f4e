"""Fits the calibration of given weights to the outcomes of one's own models; the network stays as it is.

    habit of a model      median over its questions of log(1 + tokens) less what the weights expect of a
                          generic reasoner, shrunk towards the habit they knew by MODEL_PRIOR questions
    temperature, biases   of each kind of traffic, pulled towards those of the weights with PULL questions
    corrections           of each kind, to the quantiles of known models: the conformal quantile of what is
                          left, mixed with that of all kinds as if PRIOR questions had shown the latter

so the quantiles of a kind that the outcomes hardly show move as those of all kinds together do, and one that
they never show keeps what it had. Models
that the weights knew stay known, by their old habits. A model that neither knew gets the quantiles for
foreign models, which stay as they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from budgetctl.classifiers import calibrate, encoding, fit, objectives, own, train
from budgetctl.classifiers.calibrate import MIN_GROUP
from budgetctl.classifiers.experts import Experts
from budgetctl.classifiers.habits import MODEL_PRIOR, Habits
from budgetctl.classifiers.linear import LinearClassifier
from budgetctl.classifiers.readout import QUANTILES, base_name
from budgetctl.classifiers.registry import load
from budgetctl.classifiers.targets import Example, Question, pool
from budgetctl.classifiers.weightfile import digest
from numpy.typing import NDArray

from budgetctl.errors import ClassifierError

Array = NDArray[Any]

QUESTIONS = 100
NEEDED: Mapping[str, tuple[int, str]] = {"natural": (QUESTIONS, own.NEEDED["natural"][1])}
PULL = 5.0
PRIOR = 50.0


def base(name: str) -> LinearClassifier:
    """Return the weights to start from: of several experts the first.

    Raises:
        ClassifierError: There are none of that name, or they are of another kind.
    """
    found = load(name)
    first = found.experts[0] if isinstance(found, Experts) else found
    if not isinstance(first, LinearClassifier):
        raise ClassifierError(f"{name}: only the built-in kind of weights (.npz) can be calibrated anew")
    return first


def readable(weights: LinearClassifier, examples: Sequence[Example]) -> list[Example]:
    """Return the examples that the network can read: where it knows n-grams, those with their text."""
    return [e for e in examples if e.text] if len(weights.arrays["known"]) else list(examples)


def recalibrate(
    weights: LinearClassifier, examples: Sequence[Example], *, name: str, note: str, created: str
) -> LinearClassifier:
    """Return ``weights`` with the calibration of ``examples``, all of which they can read.

    Raises:
        ClassifierError: The ``train`` extra is missing.
    """
    questions = pool(examples)
    old = dict(weights.arrays)
    out = fit.forward({k: old[k].astype(np.float64) for k in fit.PARAMS}, _inputs(questions, old))
    known = {base_name(m): float(h) for m, h in zip(weights.models, old["habits"], strict=True)}
    habits = known | _habits(out, questions, old, known)
    models = tuple(sorted(habits))
    temperature, bias = _classes(out, questions, old)
    arrays = old | {
        "habits": np.array([habits[m] for m in models], dtype=np.float32),
        "temperature": temperature.astype(np.float32),
        "class_bias": bias.astype(np.float32),
        "shift": _shifts(out, questions, old, habits).astype(np.float32),
    }
    header = replace(
        weights.header,
        name=name,
        created=created,
        calibrated_on=train.source(questions),
        models=models,
        note=note,
        sha256=digest(arrays),
    )
    return LinearClassifier(header, arrays)


def _inputs(questions: Sequence[Question], arrays: Mapping[str, Array]) -> encoding.Inputs:
    wide = [arrays[name].astype(np.float64) for name in encoding.SCALER]
    return train.inputs(encoding.encode(questions), arrays["known"], encoding.Scaler(*wide))


def _habits(
    out: Array, questions: Sequence[Question], arrays: Mapping[str, Array], known: Mapping[str, float]
) -> dict[str, float]:
    """Return the habits that natural lengths show, in log(1 + tokens)."""
    found: dict[str, list[tuple[float, float]]] = {}
    for i, question in enumerate(questions):
        for model, tokens in question.natural:
            expected = _quantile(out[i : i + 1], arrays, target=1, at=0)[0]
            found.setdefault(base_name(model), []).append((np.log1p(tokens) - expected, question.weight))
    return {
        model: (len(rest) * _median(rest) + MODEL_PRIOR * known.get(model, 0.0)) / (len(rest) + MODEL_PRIOR)
        for model, rest in found.items()
    }


def _median(weighted: Sequence[tuple[float, float]]) -> float:
    values, weight = (np.array(column) for column in zip(*sorted(weighted), strict=True))
    return float(values[np.searchsorted(np.cumsum(weight), weight.sum() / 2)])


def _quantile(out: Array, arrays: Mapping[str, Array], *, target: int, at: int) -> Array:
    """Return a quantile of log(1 + tokens) without habits, as the weights correct it for a known model."""
    kind = out[:, 12:].argmax(axis=1)
    logs = out[:, 4 + 4 * target : 8 + 4 * target]
    corrected = logs[:, at] + arrays["shift"][kind, target, at]
    return np.asarray(corrected + arrays["kind_centre"][kind, target])


def _classes(out: Array, questions: Sequence[Question], arrays: Mapping[str, Array]) -> tuple[Array, Array]:
    """Return temperatures (kinds) and class biases (kinds x 4)."""
    labels = objectives.labels(questions, Habits(generic=0.0, models={}), ())
    known = ~(np.isnan(labels.off) & np.isnan(labels.full))
    theta = np.hstack((np.log(arrays["temperature"])[:, None], arrays["class_bias"])).astype(np.float64)
    taken_for = out[:, 12:].argmax(axis=1)
    for kind in np.unique(taken_for[known]):
        used = known & (taken_for == kind)
        theta[kind] = calibrate.scaling(out[:, :4], labels, used, theta[kind], pull=PULL)
    return np.exp(theta[:, 0]), theta[:, 1:]


def _shifts(
    out: Array, questions: Sequence[Question], arrays: Mapping[str, Array], habits: Mapping[str, float]
) -> Array:
    """Return the corrections kinds x [settled, natural] x quantiles.

    Where it is not told when thinking settled, it is told when it ended, which is no earlier: corrections of
    ``settled`` are then lowered to what covers the end, and never raised. The readout raises ``natural`` to
    ``settled``. What that covers already needs no correction: otherwise the larger of two quantiles, each
    with its share, would cover more than its share.
    """
    found = arrays["shift"].astype(np.float64)
    told = sum(len(q.settled) for q in questions) >= MIN_GROUP
    for target, name in enumerate(("settled" if told else "natural", "natural")):
        cases = [(i, base_name(m), t) for i, q in enumerate(questions) for m, t in getattr(q, name) if t > 0]
        if len(cases) < MIN_GROUP:
            continue
        at = np.array([i for i, *_ in cases])
        weight = np.array([questions[i].weight for i in at])
        logs = np.log1p([t for *_, t in cases]) - [habits[m] for _, m, _ in cases]
        kinds = out[at, 12:].argmax(axis=1)
        for column, q in enumerate(QUANTILES):
            rest = logs - _quantile(out[at], arrays, target=target, at=column)
            if target == 1:
                settled = _quantile(out[at], {**arrays, "shift": found}, target=0, at=column)
                rest = np.where(logs <= settled, rest.min(), rest)
            for kind, change in _changes(rest, kinds, weight, q).items():
                found[kind, target, column] += change if told or target == 1 else min(change, 0.0)
    return found


def _changes(rest: Array, kinds: Array, weight: Array, q: float) -> dict[int, float]:
    """Return what to add for each kind: its own conformal quantile, mixed with that of all."""
    common = calibrate.conformal(rest, q, weight)
    changes = {}
    for kind in np.unique(kinds).tolist():
        of = kinds == kind
        n = int(of.sum()) if of.sum() >= MIN_GROUP else 0
        particular = calibrate.conformal(rest[of], q, weight[of]) if n else 0.0
        changes[kind] = (n * particular + PRIOR * common) / (n + PRIOR)
    return changes
