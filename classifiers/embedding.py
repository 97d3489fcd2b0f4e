"""A classifier on top of a frozen sentence encoder: any model in the style of sentence-transformers.

    embedding = mean of the encoder's last hidden states / its length
    outputs   = the network of :mod:`budgetctl.classifiers.fit`, with the embedding for dense features

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

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from budgetctl.classifiers import calibrate, features, fit, habits, readout, train
from budgetctl.classifiers.linear import Source, digest
from budgetctl.classifiers.readout import Readout
from budgetctl.classifiers.targets import Example
from numpy.typing import NDArray

from budgetctl.errors import ClassifierError
from budgetctl.types import Estimate, Query

SCHEMA_VERSION = 1

Array = NDArray[Any]

MAX_LENGTH = 128
"""Default number of tokens that are read of a query."""
CHARS_PER_TOKEN = 8
"""So many characters per token are looked at, at either end of a long text; more are hardly ever needed."""
BATCH = 32
CENTROIDS = 256
ROUNDS = 20
"""Of k-means; later ones hardly move a centroid."""
NEAR, FAR = 0.9, 0.99
"""Shares of the calibration questions within the distances of full and of no confidence."""
RECIPE = fit.Recipe(hidden=96, epochs=40, drop=0.2)

PROBES = (
    "What is the capital of Japan?",
    "Solve 12.5 * (7 - 3) = x_1; show that x_1 > 0.\n\treturn x_1",
    "Déjà vu? 東京, naïve, Straße",
)
"""Texts whose embeddings tell one encoder from another."""
SAME = 1e-2
"""Embeddings of one encoder differ by less, in any coordinate and on any machine."""

PARAMS = ("rows", "hidden", "hidden_bias", "heads", "heads_bias")
SCALER = ("centre", "scale", "low", "high")
ARRAYS: dict[str, int] = {
    "rows": 2,
    "hidden": 2,
    "hidden_bias": 1,
    "heads": 2,
    "heads_bias": 1,
    **dict.fromkeys(SCALER, 1),
    "centroids": 2,
    "distances": 1,
    "probes": 2,
    "max_length": 0,
    **readout.ARRAYS,
}
"""The arrays of a weight file and their number of dimensions.

The first five are the network's; ``centre scale low high`` standardise embeddings; ``centroids`` of training
embeddings; ``distances`` to the nearest of them of full and of no confidence; ``probes``
the embeddings of :data:`PROBES`; ``max_length`` tokens per query; the rest belongs to the readout.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the weights are and where they come from.

    Attributes:
        base: Name or folder of the encoder; empty where it was trained from scratch.
        models: Models whose habits are known, in the order of the array ``habits``.
        sha256: Over all arrays.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    base: str
    created: str
    trained_on: Source
    calibrated_on: Source
    models: tuple[str, ...]
    note: str
    sha256: str

    @classmethod
    def from_json(cls, data: bytes) -> Header:
        """Read a header; fields of a later minor version are left out.

        Raises:
            ValueError: Says which field is wrong.
        """
        found = json.loads(data)
        version = found.get("schema_version") if isinstance(found, dict) else None
        if version != SCHEMA_VERSION:
            raise ValueError(f"header: schema_version: seen {version!r}, this package reads {SCHEMA_VERSION}")
        return cls(
            trained_on=_source(found, "trained_on"),
            calibrated_on=_source(found, "calibrated_on"),
            models=_names(found, "models"),
            **{key: _typed(found, key, str) for key in ("name", "base", "created", "note", "sha256")},
        )


def _source(header: Mapping[str, Any], key: str) -> Source:
    found = _typed(header, key, dict)
    return Source(
        datasets=_names(found, "datasets"),
        models=_names(found, "models"),
        questions=_typed(found, "questions", int),
    )


def _names(found: Mapping[str, Any], key: str) -> tuple[str, ...]:
    return tuple(map(str, _typed(found, key, list)))


def _typed(found: Mapping[str, Any], key: str, kind: type) -> Any:
    if not isinstance(found.get(key), kind):
        raise ValueError(f"header: {key}: {kind.__name__} expected, seen {found.get(key)!r:.80}")
    return found[key]


class Reader:
    """Makes token ids of queries; of a long one its head and tail. Safe to share between threads."""

    def __init__(self, tokenizer: Any, *, max_length: int) -> None:
        self._tokenizer = tokenizer
        self.max_length = max_length
        # The first call switches off what the tokenizer's own file says of cuts and padding; later calls then
        # find nothing to change, and a tokenizer that nobody changes may be shared.
        self.ids("")

    def read(self, query: Query) -> list[int]:
        """Return the ids of a query; a short last turn is read together with the turns before it."""
        text = query.text
        if query.recent and len(text) < features.SHORT_TURN:
            text = "\n".join((*(turn.text for turn in query.recent), text))
        return self.ids(text)

    def ids(self, text: str) -> list[int]:
        """Return at most ``max_length`` ids, special tokens included."""
        clip = CHARS_PER_TOKEN * self.max_length
        if len(text) > 2 * clip:
            text = f"{text[:clip]}\n{text[-clip:]}"
        text = text.encode("utf-8", "replace").decode()  # a lone surrogate is no text to a tokenizer
        found: list[int] = self._tokenizer(text, truncation=False, padding=False, verbose=False)["input_ids"]
        if len(found) <= self.max_length:
            return found
        tail = self.max_length // 2
        return found[: self.max_length - tail] + found[-tail:]

    def batch(self, ids: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Return the padded tensors ``input_ids`` and ``attention_mask``, queries x tokens."""
        import torch

        width = max(1, *map(len, ids))
        padding = self._tokenizer.pad_token_id or 0
        rows = [[*row, *[padding] * (width - len(row))] for row in ids]
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in ids]
        return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}


def batches(ids: Sequence[Sequence[int]], *, size: int) -> Iterator[list[int]]:
    """Yield the places of all rows in batches of similar length, shortest first, to pad little."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    yield from (order[at : at + size] for at in range(0, len(order), size))


class Embedder:
    """A frozen sentence encoder on the CPU. Safe to share between threads."""

    def __init__(self, model: str, *, max_length: int) -> None:
        """Load it.

        Raises:
            ClassifierError: There is no such model, or the ``local`` extra is missing.
        """
        transformers = local_extra()
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(model)
            network = transformers.AutoModel.from_pretrained(model, dtype="float32", use_safetensors=True)
        except Exception as error:  # what a missing, damaged or foreign model raises is not documented
            raise ClassifierError(f"embedding model {model!r} cannot be loaded: {error}") from error
        self._network = network.eval()
        self.max_length = limit(max_length, tokenizer, network)
        self._reader = Reader(tokenizer, max_length=self.max_length)

    def __call__(self, queries: Sequence[Query]) -> Array:
        """Return the embeddings, queries x width, each of length 1."""
        import torch

        ids = [self._reader.read(query) for query in queries]
        found: list[Array | None] = [None] * len(ids)
        with torch.inference_mode():
            for places in batches(ids, size=BATCH):
                x = self._reader.batch([ids[i] for i in places])
                mask = x["attention_mask"][..., None]
                states = self._network(**x).last_hidden_state
                mean = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
                for i, row in zip(places, torch.nn.functional.normalize(mean, dim=-1).numpy(), strict=True):
                    found[i] = row
        return np.array(found, dtype=np.float32)


def local_extra() -> Any:
    """Return the module ``transformers``.

    Raises:
        ClassifierError: The ``local`` extra is missing.
    """
    try:
        import torch  # noqa: F401 - transformers imports without it, and then has no models
        import transformers
    except ImportError as error:
        raise ClassifierError(f"this classifier needs the 'local' extra of this package: {error}") from error
    return transformers


def limit(max_length: int, tokenizer: Any, network: Any) -> int:
    """Return how many tokens may be read: no more than the network has positions for."""
    positions = getattr(network.config, "max_position_embeddings", max_length)
    return int(min(max_length, tokenizer.model_max_length, positions))


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
        _check_encoder(embedder, arrays["probes"], header.base)
        self._params = {name: arrays[name].astype(np.float64) for name in PARAMS}
        self._scaler = fit.Scaler(*(arrays[name].astype(np.float64) for name in SCALER))
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
            progress: Called with the epochs done and all epochs.

        Raises:
            ClassifierError: Too few questions are left on either side, or the encoder cannot be loaded.
        """
        embedder = Embedder(model, max_length=max_length)
        recipe = replace(recipe or RECIPE, width=1)
        asked, held = train.apart(training, calibration)
        kinds = sorted({q.kind for q in asked})
        learnt = habits.fit(asked)
        seen, seen_held = (embedder([Query.from_text(q.text) for q in side]) for side in (asked, held))
        scaler = fit.Scaler.of(seen)
        labels = fit.labels(asked, learnt, kinds)
        params = fit.fit(_inputs(seen, scaler), labels, recipe, progress=progress)
        out = fit.forward(params, _inputs(seen_held, scaler))
        calibrated, models = calibrate.readout(out, held, learnt, kinds, labels.centres)
        centroids = cluster(seen, k=CENTROIDS, seed=recipe.seed)
        found: dict[str, Any] = {
            **params,
            **{key: getattr(scaler, key) for key in SCALER},
            "centroids": centroids,
            "distances": np.quantile(nearest(seen_held, centroids), (NEAR, FAR)),
            "probes": _probes(embedder),
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
            sha256=digest(arrays),
        )
        return cls(header, arrays, embedder=embedder)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a weight file. The encoder is not in it, only its name."""
        write(Path(path), self.header, self._arrays)

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
        header, arrays = read(path, ARRAYS)
        embedder = Embedder(model or header.base, max_length=int(arrays["max_length"]))
        try:
            return cls(header, arrays, embedder=embedder)
        except ValueError as error:
            raise ClassifierError(f"{path}: {error}") from error


def _inputs(embeddings: Array, scaler: fit.Scaler) -> fit.Inputs:
    return fit.Inputs(bag=np.empty((len(embeddings), 0)), dense=scaler(embeddings))


def _probes(embedder: Embedder) -> Array:
    return embedder([Query.from_text(text) for text in PROBES])


def _check_encoder(embedder: Embedder, expected: Array, name: str) -> None:
    """Raise ValueError unless the encoder embeds the probes as the one in training did."""
    seen = _probes(embedder)
    if seen.shape != expected.shape or not np.abs(seen - expected).max() < SAME:
        raise ValueError(f"the encoder is not, or no longer, the {name!r} that the weights were fitted on")


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


def write(path: Path, header: Header, arrays: Mapping[str, Array]) -> None:
    """Write arrays and their header as one ``.npz`` file."""
    data = np.frombuffer(json.dumps(asdict(header)).encode(), dtype=np.uint8)
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, header=data, **arrays)


def read(path: Path, expected: Mapping[str, int]) -> tuple[Header, dict[str, Array]]:
    """Read what :func:`write` wrote.

    Args:
        path: The file.
        expected: Names of its arrays and their numbers of dimensions.

    Raises:
        ClassifierError: The file is missing, damaged, or something else; says which.
    """
    try:
        with np.load(BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise ClassifierError(f"{path}: no such weight file") from None
    except Exception as error:  # a flipped bit can bring anything, zlib.error for one
        raise ClassifierError(f"{path}: not a readable weight file, damaged or truncated: {error}") from error
    try:
        return _checked(arrays, expected)
    except ValueError as error:
        raise ClassifierError(f"{path}: {error}") from error


def _checked(arrays: dict[str, Array], expected: Mapping[str, int]) -> tuple[Header, dict[str, Array]]:
    if "header" not in arrays:
        raise ValueError("no header: not a weight file of this package")
    header = Header.from_json(arrays.pop("header").tobytes())
    wrong = [name for name, ndim in expected.items() if name not in arrays or arrays[name].ndim != ndim]
    if wrong:
        raise ValueError(f"arrays are missing or of another shape: {', '.join(wrong)}")
    seen = digest(arrays)
    if seen != header.sha256:
        raise ValueError(
            f"checksum is {seen[:12]}.., the header says {header.sha256[:12]}..: damaged or altered"
        )
    if len(arrays["habits"]) != len(header.models):
        raise ValueError("arrays do not fit each other: damaged or altered")
    return header, arrays
