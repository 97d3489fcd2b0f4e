"""What is compared: classifiers, and published rules that give a text a score and nothing else."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from budgetctl.classifiers import Classifier, fit, load, train, weights
from budgetctl.classifiers.heuristic import HeuristicClassifier
from budgetctl.classifiers.targets import Question
from budgetctl.evals.bench.peers import PROMPT_LENGTH, Peer, installed
from budgetctl.evals.bench.splits import Part
from numpy.typing import NDArray

from budgetctl.types import Estimate, Query

Array = NDArray[np.float32]
Predictor = Classifier | Peer
Refit = Callable[[Part, fit.Progress], Classifier]
"""Fits and calibrates a classifier on a part; it never looks at what the part tests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one predictor says of one question.

    Attributes:
        question: What is known of it.
        cluster: What the bootstrap draws it with.
        part: Number of the part that tested it: predictors of two parts were not fitted alike.
        score: Grows with the need for thinking: ``Estimate.need``, or a rule's score.
        length: Grows with the length of thinking: ``natural.p50``, or a rule's score.
        estimate: With no model named; None of a rule.
        named: Estimates by the model that the query names, for every model whose tokens are known.
        ns: Nanoseconds that the prediction without a model took.
    """

    question: Question
    cluster: str
    part: int
    score: float
    length: float
    estimate: Estimate | None
    named: dict[str, Estimate]
    ns: int


def rules() -> list[Predictor]:
    """Return what needs no training: heuristic, prompt length, and the published rules that are installed."""
    return [HeuristicClassifier(), PROMPT_LENGTH, *installed()]


def answer(predictor: Predictor, question: Question, *, cluster: str, part: int = 0) -> Answer:
    """Ask a predictor."""
    said = partial(Answer, question=question, cluster=cluster, part=part)
    if isinstance(predictor, Peer):
        rule = predictor.score
        started = time.perf_counter_ns()
        score = rule(question.text)
        ns = time.perf_counter_ns() - started
        return said(score=score, length=score, estimate=None, named={}, ns=ns)
    started = time.perf_counter_ns()
    estimate = predictor.estimate(Query.from_text(question.text))
    ns = time.perf_counter_ns() - started
    models = dict.fromkeys(model for model, _ in (*question.natural, *question.settled))
    named = {m: predictor.estimate(Query.from_text(question.text, model=m or None)) for m in models}
    return said(score=estimate.need, length=estimate.natural.p50, estimate=estimate, named=named, ns=ns)


def linear(part: Part, progress: fit.Progress) -> Classifier:
    """Fit the built-in classifier by the recipe of the shipped weights."""
    return train.train(
        part.training,
        part.calibration,
        name="linear",
        note="",
        created="",
        recipe=weights.RECIPE,
        progress=progress,
    )


def embedding(model: str) -> Refit:
    """Return what fits an :class:`~budgetctl.classifiers.embedding.EmbeddingClassifier` on ``model``.

    Raises:
        ClassifierError: There is no such model, or the ``local`` extra is missing.
    """
    from budgetctl.classifiers.embedder import Embedder
    from budgetctl.classifiers.embedding import MAX_LENGTH, EmbeddingClassifier

    embedder = Embedder(model, max_length=MAX_LENGTH)
    known: dict[str, Array] = {}

    def embed(queries: Sequence[Query]) -> Array:
        # Parts share most of their questions, and to embed them is most of the work of a fit.
        new = [query for query in queries if query.text not in known]
        known.update(zip((query.text for query in new), embedder(new), strict=True))
        return np.array([known[query.text] for query in queries])

    def refit(part: Part, progress: fit.Progress) -> Classifier:
        return EmbeddingClassifier.fit(
            part.training, part.calibration, model=model, embed=embed, progress=progress
        )

    return refit


def encoder() -> Refit:
    """Return what trains an :class:`~budgetctl.classifiers.encoder.EncoderClassifier` from scratch.

    Raises:
        ClassifierError: The ``local`` extra is missing.
    """
    from budgetctl.classifiers.encoder import EncoderClassifier
    from budgetctl.classifiers.networks import local_extra

    local_extra()

    def refit(part: Part, progress: fit.Progress) -> Classifier:
        with tempfile.TemporaryDirectory() as folder:
            return EncoderClassifier.fit(
                part.training, part.calibration, base=None, out=Path(folder), progress=progress
            )

    return refit


def as_they_are(names: Sequence[str]) -> list[Predictor]:
    """Return the classifiers of these names or paths, and what needs no training, each once.

    Raises:
        ClassifierError: One of them does not exist or cannot be used.
    """
    found: dict[str, Predictor] = {name: load(name) for name in names}
    return [*found.values(), *(rule for rule in rules() if rule.name not in found)]


def trained_on(predictor: Predictor, datasets: Iterable[str]) -> list[str] | None:
    """Return which of these datasets the weights of a classifier were fitted or calibrated on.

    None where its weights do not say. What has no weights was trained on none.
    """
    if isinstance(predictor, Peer | HeuristicClassifier):
        return []
    headers = [getattr(expert, "header", None) for expert in getattr(predictor, "experts", [predictor])]
    if None in headers:
        return None
    seen = {name for h in headers if h for side in (h.trained_on, h.calibrated_on) for name in side.datasets}
    return sorted(seen & set(datasets))
