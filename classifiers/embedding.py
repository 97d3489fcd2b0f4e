"""A classifier on top of a frozen sentence encoder: any model in the style of sentence-transformers.

    outputs = the network of :mod:`budgetctl.classifiers.fit`, with the embedding for dense features

It knows paraphrases that the built-in classifier's n-grams miss, and costs one pass of the encoder per query:
milliseconds, not microseconds. The encoder is named by its user, as a local folder or a model of the hub, and
loaded through transformers (the ``local`` extra) from safetensors, without any code of its own. Models that
are meant to be pooled otherwise, or to be given an instruction, work below their best.

``confidence`` is how near the query lies to the training questions: the distance of its embedding to the
nearest of their centroids. It is full up to the distance of all but the farthest tenth of the calibration
questions, and 0 from that of all but the farthest hundredth on. It judges the subject and wording of a query:
a new task on a known subject, or an unusually hard question, looks as familiar as any other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from budgetctl.classifiers import (
    calibrate,
    encoding,
    features,
    fit,
    habits,
    objectives,
    readout,
    train,
    weightfile,
)
from budgetctl.classifiers.embedder import Embedder
from budgetctl.classifiers.networks import Header
from budgetctl.classifiers.readout import Readout
from budgetctl.classifiers.targets import Example
from numpy.typing import NDArray

from budgetctl.errors import ClassifierError
from budgetctl.types import Estimate, Query

Array = NDArray[Any]

MAX_LENGTH = 128
"""Default number of tokens that are read of a query."""
CENTROIDS = 256
ROUNDS = 20
"""Of k-means; later ones hardly move a centroid."""
NEAR, FAR = 0.9, 0.99
"""Shares of the calibration questions within the distances of full and of no confidence."""
RECIPE = fit.Recipe(hidden=96, epochs=40, drop=0.2)

ARRAYS: dict[str, int] = {
    "rows": 2,
    "hidden": 2,
    "hidden_bias": 1,
    "heads": 2,
    "heads_bias": 1,
    **dict.fromkeys(encoding.SCALER, 1),
    "centroids": 2,
    "distances": 1,
    "probes": 2,
    "max_length": 0,
    **readout.ARRAYS,
}
"""The arrays of a weight file and their number of dimensions.

The first five are the network's; ``centre scale low high`` standardise embeddings; ``centroids`` of training
embeddings; ``distances`` to the nearest of them of full and of no confidence; ``probes`` embeddings that tell
the encoder from others; ``max_length`` tokens per query; the rest belongs to the readout.
"""


class EmbeddingClassifier:
    """An encoder, weights, and what they compute. Immutable, so safe to share between threads.

    Args:
        header: What the weights are.
        arrays: Those of :data:`ARRAYS`.
        embedder: The encoder that ``header`` names.

    Raises:
        ValueError: It is another encoder than the one the weights were fitted on.
    """

    def __init__(self, header: Header, arrays: Mapping[str, Array], *, embedder: Embedder) -> None:
        self.header = header
        self._arrays = dict(arrays)
        self._embedder = embedder
        embedder.check(arrays["probes"], name=header.base)
        self._params = {name: arrays[name].astype(np.float64) for name in fit.PARAMS}
        self._scaler = encoding.Scaler(*(arrays[name].astype(np.float64) for name in encoding.SCALER))
        self._readout = Readout(arrays, header.models)
        self._source = f"{header.name}:{header.sha256[:12]}"

    @property
    def name(self) -> str:
        """Its name in records."""
        return self.header.name

    @property
    def hash(self) -> str:
        """SHA-256 of the arrays, among them embeddings by the encoder."""
        return self.header.sha256

    @property
    def models(self) -> tuple[str, ...]:
        """The models whose habits are known."""
        return self.header.models

    def estimate(self, query: Query) -> Estimate:
        """Return the success curve of ``query``, in tokens of its model or of a generic reasoner."""
        embedding = self._embedder([query])
        out: list[float] = fit.forward(self._params, _inputs(embedding, self._scaler))[0].tolist()
        return self._readout.estimate(
            out, model=query.model, confidence=self._confidence(embedding), source=self._source
        )

    def describe(self, query: Query) -> dict[str, float]:
        """Return what is kept of ``query`` in records: the built-in classifier's dense features."""
        return features.describe(query)

    def _confidence(self, embedding: Array) -> float:
        near, far = self._arrays["distances"].tolist()
        distance = nearest(embedding, self._arrays["centroids"]).item()
        return float(min(max((far - distance) / max(far - near, 1e-6), 0.0), 1.0))

    @classmethod
    def fit(
        cls,
        training: Sequence[Example],
        calibration: Sequence[Example],
        *,
        model: str,
        name: str = "embedding",
        note: str = "",
        created: str = "",
        max_length: int = MAX_LENGTH,
        recipe: fit.Recipe | None = None,
        embed: Callable[[Sequence[Query]], Array] | None = None,
        progress: fit.Progress = fit.quiet,
    ) -> EmbeddingClassifier:
        """Fit a classifier on ``training`` and calibrate it on ``calibration``.

        Args:
            training: Recorded outcomes.
            calibration: Recorded outcomes of other questions.
            model: The encoder, a local folder or a model of the hub.
            name: Its name in records.
            note: What users of the weights should know.
            created: Date.
            max_length: Tokens that are read of a query, at most.
            recipe: How to fit; its vocabulary and width are of no meaning here.
            embed: What embeds the questions of the fit, where several fits share them; else the encoder.
            progress: Called with the epochs done and all epochs.

        Raises:
            ClassifierError: Too few questions are left on either side, or the encoder cannot be loaded.
        """
        embedder = Embedder(model, max_length=max_length)
        recipe = replace(recipe or RECIPE, width=1)
        asked, held = train.apart(training, calibration)
        kinds = sorted({q.kind for q in asked})
        learnt = habits.fit(asked)
        embed = embed or embedder
        seen, seen_held = (embed([Query.from_text(q.text) for q in side]) for side in (asked, held))
        scaler = encoding.Scaler.of(seen)
        labels = objectives.labels(asked, learnt, kinds)
        params = fit.fit(_inputs(seen, scaler), labels, recipe, progress=progress)
        out = fit.forward(params, _inputs(seen_held, scaler))
        calibrated, models = calibrate.readout(out, held, learnt, kinds, labels.centres)
        centroids = cluster(seen, k=CENTROIDS, seed=recipe.seed)
        found: dict[str, Any] = {
            **params,
            **{key: getattr(scaler, key) for key in encoding.SCALER},
            "centroids": centroids,
            "distances": np.quantile(nearest(seen_held, centroids), (NEAR, FAR)),
            "probes": embedder.probes(),
        }
        arrays = {key: np.asarray(value, dtype=np.float32) for key, value in (found | calibrated).items()}
        arrays["max_length"] = np.array(embedder.max_length)
        header = Header(
            name=name,
            base=model,
            created=created,
            trained_on=train.source(asked),
            calibrated_on=train.source(held),
            models=models,
            note=note,
            sha256=weightfile.digest(arrays),
        )
        return cls(header, arrays, embedder=embedder)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a weight file. The encoder is not in it, only its name."""
        weightfile.write(Path(path), self.header, self._arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, model: str | None = None) -> EmbeddingClassifier:
        """Read a weight file and load its encoder.

        Args:
            path: The file.
            model: Where the encoder is now, if not where it was in training.

        Raises:
            ClassifierError: The file is missing, damaged, or made for another version or encoder; says which.
        """
        path = Path(path)
        header, arrays = weightfile.read(path, Header.from_json, ARRAYS)
        embedder = Embedder(model or header.base, max_length=int(arrays["max_length"]))
        try:
            return cls(header, arrays, embedder=embedder)
        except ValueError as error:
            raise ClassifierError(f"{path}: {error}") from error


def _inputs(embeddings: Array, scaler: encoding.Scaler) -> encoding.Inputs:
    return encoding.Inputs(bag=np.empty((len(embeddings), 0)), dense=scaler(embeddings))


def nearest(points: Array, centroids: Array) -> Array:
    """Return the Euclidean distance of every point to the centroid nearest to it."""
    return np.asarray(np.sqrt(_squares(points, centroids).min(axis=1)))


def _squares(points: Array, centroids: Array) -> Array:
    """Return squared distances, points x centroids."""
    squares = (points**2).sum(axis=1)[:, None] + (centroids**2).sum(axis=1) - 2 * points @ centroids.T
    return np.asarray(np.maximum(squares, 0.0))


def cluster(points: Array, *, k: int, seed: int) -> Array:
    """Return ``k`` centroids, or as many as there are points (k-means, Lloyd 1982)."""
    rng = np.random.default_rng(seed)
    centroids = points[rng.choice(len(points), min(k, len(points)), replace=False)].astype(np.float64)
    for _ in range(ROUNDS):
        belongs = _squares(points, centroids).argmin(axis=1)
        for i in np.unique(belongs):  # a centroid that lost all its points stays where it is
            centroids[i] = points[belongs == i].mean(axis=0)
    return centroids
