"""Fits the built-in classifier (:mod:`budgetctl.classifiers.linear`) to examples.

Training and calibration are different questions: one that occurs in both is taken out of training. What is
learnt from training questions alone is the network and the habits of models; calibration questions give the
probabilities and quantiles their meaning. Needs the ``train`` extra.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from budgetctl.classifiers import calibrate, edits, encoding, features, fit, habits, metrics, objectives
from budgetctl.classifiers.linear import Header, LinearClassifier
from budgetctl.classifiers.targets import Example, Question, pool
from budgetctl.classifiers.weightfile import Source, digest
from numpy.typing import NDArray

from budgetctl.errors import ClassifierError
from budgetctl.types import Estimate

MIN_QUESTIONS = 50
SURE = 0.9
UNUSUAL = 0.03
"""Share of the calibration questions that an estimate is not believed for, by each of two signs."""


def train(
    training: Sequence[Example],
    calibration: Sequence[Example],
    *,
    name: str,
    note: str,
    created: str,
    recipe: fit.Recipe | None = None,
    progress: fit.Progress = fit.quiet,
) -> LinearClassifier:
    """Fit a classifier on ``training`` and calibrate it on ``calibration``.

    Raises:
        ClassifierError: Too few questions are left on either side, or the ``train`` extra is missing.
    """
    recipe = recipe or fit.Recipe()
    asked, held = apart(training, calibration)
    kinds = sorted({q.kind for q in asked}, key=lambda kind: (family(kind), kind))
    families = [family(kind) for kind in kinds]
    encoded = encoding.encode(asked)
    known = encoding.vocabulary(encoded, size=recipe.vocabulary, min_count=recipe.min_count)
    for number in range(recipe.copies):
        encoded += encoding.encode([replace(q, text=edits.copy(q.text, number=number)) for q in asked])
    scaler = encoding.Scaler.of(np.array([dense for _, dense in encoded]))
    learnt = habits.fit(asked)
    x = inputs(encoded, known, scaler)
    labels = objectives.labels(asked, learnt, kinds)
    params = fit.fit(x, labels, recipe, progress=progress)
    arrays: dict[str, NDArray[Any]] = {
        "known": known,
        **{key: value.astype(np.float16 if key == "rows" else np.float32) for key, value in params.items()},
        **{key: getattr(scaler, key).astype(np.float32) for key in encoding.SCALER},
    }
    rounded = {k: arrays[k].astype(np.float32) for k in params}
    encoded_held = encoding.encode(held)
    out = fit.forward(rounded, inputs(encoded_held, known, scaler))
    arrays["familiar"] = np.asarray(_familiar(encoded_held, known), dtype=np.float32)
    arrays["families"] = np.unique(families, return_index=True)[1].astype(np.int32)
    arrays["certain"] = np.asarray(_certain(out[:, 12:], arrays["families"]), dtype=np.float32)
    calibrated, models = calibrate.readout(out, held, learnt, kinds, labels.centres)
    arrays |= calibrated
    if sum(bool(q.settled) for q in held) < calibrate.MIN_GROUP:
        arrays |= _settled_as_natural(arrays)
    header = Header(
        name=name,
        features=features.VERSION,
        created=created,
        trained_on=source(asked),
        calibrated_on=source(held),
        models=models,
        note=note,
        sha256=digest(arrays),
    )
    return LinearClassifier(header, arrays)


def apart(
    training: Sequence[Example], calibration: Sequence[Example]
) -> tuple[list[Question], list[Question]]:
    """Return the pooled questions of both sides; one that occurs in both is taken out of training.

    Raises:
        ClassifierError: Too few are left on either side.
    """
    held, asked = pool(calibration), pool(training)
    kept_back = {q.question_id for q in held} | {q.key for q in held}
    asked = [q for q in asked if q.question_id not in kept_back and q.key not in kept_back]
    for side, questions in (("training", asked), ("calibration", held)):
        if len(questions) < MIN_QUESTIONS:
            raise ClassifierError(f"{side}: {len(questions)} questions; at least {MIN_QUESTIONS} are needed")
    return asked, held


def inputs(encoded: Any, known: NDArray[Any], scaler: encoding.Scaler) -> encoding.Inputs:
    """Return the matrices that the network reads; scipy makes them, which the ``train`` extra brings."""
    try:
        return encoding.inputs(encoded, known, scaler)
    except ImportError as error:
        raise ClassifierError(f"training needs the 'train' extra of this package: {error}") from error


def _familiar(encoded: Any, known: NDArray[Any]) -> float:
    """Return the share of known n-grams that all but ``UNUSUAL`` texts have; 0 where there is no text."""
    shares = [np.isin(hashes, known).mean() for hashes, _ in encoded if len(hashes)]
    return float(np.quantile(shares, UNUSUAL)) if shares else 0.0


def family(kind: str) -> str:
    """Return the family of a kind of traffic: what stands before its first slash."""
    return kind.partition("/")[0]


def _certain(kinds: NDArray[Any], families: NDArray[Any]) -> float:
    """Return the probability of its family that all but ``UNUSUAL`` questions have, at most ``SURE``.

    Where families are told apart easily nearly all have a higher one, and lie above it by nothing that
    matters.
    """
    chances = np.add.reduceat(fit.softmax(kinds), families, axis=1)
    return min(float(np.quantile(chances.max(axis=1), UNUSUAL)), SURE)


def _settled_as_natural(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return what makes ``settled`` equal to ``natural``, its upper bound, where nobody recorded it."""
    heads = {name: arrays[name].copy() for name in ("heads", "heads_bias")}
    by_target = {name: arrays[name].copy() for name in ("kind_centre", "shift", "foreign_shift")}
    for array in heads.values():
        array[..., 4:8] = array[..., 8:12]
    for array in by_target.values():
        array[:, 0] = array[:, 1]
    return heads | by_target


def source(questions: Sequence[Question]) -> Source:
    """Return what a set of questions was, for the header of weights."""
    return Source(
        datasets=tuple(sorted({q.dataset for q in questions})),
        models=tuple(sorted({m for q in questions for m, _ in q.natural})),
        questions=len(questions),
    )


def split(question: str, *, seed: int = 0) -> float:
    """Return a number in [0, 1) for a question, the same on every machine: what a split is drawn by."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{question}".encode(), digest_size=8).digest()) / 2**64


def evaluate(classifier: LinearClassifier, examples: Sequence[Example]) -> dict[str, Any]:
    """Return the metrics of a classifier on examples."""
    return metrics.evaluate(estimates(classifier, examples), examples)


def estimates(classifier: LinearClassifier, examples: Sequence[Example]) -> list[Estimate]:
    """Return what a classifier says of each example; of its recorded features where its text was not kept."""
    pairs = zip(encoding.encode(examples), examples, strict=True)
    return [classifier.estimate_encoded(encoded, model=e.model or None) for encoded, e in pairs]
