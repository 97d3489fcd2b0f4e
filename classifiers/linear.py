"""The built-in classifier: a table of hashed n-grams, dense features, one small hidden layer; numpy alone.

    hidden = relu([sum of the known n-grams' rows / sqrt(n), standardised dense features] @ W + b)
    four classes (right in both ways, only with thinking, only without, in neither) -> p_off, p_full
    four quantiles each of log(1 + tokens) of ``settled`` and ``natural``
    which kind of training question it looks like -> which calibration holds

The classes are calibrated (temperature and biases) and the quantiles conformalised (Romano et al. 2019), kind
by kind, on questions that took no part in training. ``confidence`` is how much the query looks like those:
the share of its n-grams that occur in training, and how far its dense features lie outside their range.
Weights are one ``.npz`` file: plain arrays and a JSON header, never pickled objects.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from budgetctl.classifiers import features
from numpy.typing import NDArray

from budgetctl.errors import ClassifierError
from budgetctl.types import Estimate, Quantiles, Query

QUANTILES = (0.5, 0.8, 0.9, 0.95)
SCHEMA_VERSION = 1
FOREIGN_MODEL = 0.25
"""Confidence is multiplied by this for a named model that is not among those the weights were trained on."""
MIN_SPREAD = 0.05
MAX_LOG = 20.0
"""No estimate is above e**20 tokens, whatever the weights."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a set of recordings was."""

    datasets: tuple[str, ...]
    models: tuple[str, ...]
    questions: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the weights are and where they come from.

    A plain dataclass, read by hand: importing pydantic would be half the time of a first decision.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    features: int
    created: str
    trained_on: Source
    calibrated_on: Source
    note: str
    sha256: str = ""

    @classmethod
    def from_json(cls, data: bytes) -> Header:
        """Read a header; fields of a later minor version are left out.

        Raises:
            ValueError: Says which field is wrong.
        """
        found = json.loads(data)
        if not isinstance(found, dict):
            raise ValueError(f"header: not a JSON object, seen {found!r:.80}")
        if found.get("schema_version") != SCHEMA_VERSION:
            seen = found.get("schema_version")
            raise ValueError(f"header: schema_version: seen {seen!r}, this package reads {SCHEMA_VERSION}")
        return cls(
            features=_typed(found, "features", int),
            trained_on=_source(found, "trained_on"),
            calibrated_on=_source(found, "calibrated_on"),
            **{key: _typed(found, key, str) for key in ("name", "created", "note", "sha256")},
        )


def _source(header: Mapping[str, Any], key: str) -> Source:
    found = _typed(header, key, dict)
    names = {k: tuple(map(str, _typed(found, k, list))) for k in ("datasets", "models")}
    return Source(questions=_typed(found, "questions", int), rows=_typed(found, "rows", int), **names)


def _typed(found: Mapping[str, Any], key: str, kind: type) -> Any:
    if not isinstance(found.get(key), kind):
        raise ValueError(f"header: {key}: {kind.__name__} expected, seen {found.get(key)!r:.80}")
    return found[key]


ARRAYS: dict[str, int] = {
    "known": 1,
    "rows": 2,
    "centre": 1,
    "scale": 1,
    "low": 1,
    "high": 1,
    "hidden": 2,
    "hidden_bias": 1,
    "heads": 2,
    "heads_bias": 1,
    "temperature": 1,
    "class_bias": 2,
    "shift": 3,
    "familiar": 0,
}
"""The arrays of a weight file and their number of dimensions.

``known`` sorted hashes, ``rows`` their vectors; ``centre scale low high`` of the dense features; ``shift``
conformal corrections kinds x [settled, natural] x quantiles, in units of :func:`spread`; ``familiar`` the
share of known n-grams that usual traffic has.
"""


class LinearClassifier:
    """Weights and what they compute. Immutable, so safe to share between threads."""

    def __init__(self, header: Header, arrays: dict[str, Array]) -> None:
        self.header = header
        self._arrays = arrays
        self._known = arrays["known"]
        wide = {k: v.astype(np.float64) for k, v in arrays.items() if k not in ("known", "rows")}
        # What is linear is multiplied out once: a query costs a sum of rows and two small products.
        width = arrays["rows"].shape[1]
        self._rows = arrays["rows"].astype(np.float32) @ arrays["hidden"][:width].astype(np.float32)
        self._inverse = 1.0 / wide["scale"]
        self._dense = self._inverse[:, None] * wide["hidden"][width:]
        self._bias = wide["hidden_bias"] - wide["centre"] @ self._dense
        self._low, self._high = wide["low"], wide["high"]
        self._heads, self._heads_bias = wide["heads"], wide["heads_bias"]
        self._inverse_temperature = (1.0 / wide["temperature"]).tolist()
        self._class_bias = wide["class_bias"].tolist()
        self._shift = wide["shift"].tolist()
        self._familiar = float(wide["familiar"])
        self._models = frozenset(_base_name(m) for m in header.trained_on.models)
        self._source = f"{header.name}:{header.sha256[:12]}"

    @property
    def name(self) -> str:
        """Its name in records."""
        return self.header.name

    @property
    def hash(self) -> str:
        """SHA-256 of the arrays."""
        return self.header.sha256

    def estimate(self, query: Query) -> Estimate:
        """Return the success curve of ``query``, in tokens of the model the weights were trained on."""
        hashes, dense = features.encode(query)
        rows, share = self._look_up(hashes)
        clipped = np.minimum(np.maximum(dense, self._low), self._high)
        outside = float((np.abs(dense - clipped) * self._inverse).max())
        bag = self._rows.take(rows, axis=0).sum(axis=0) / math.sqrt(len(rows) or 1)
        hidden = np.maximum(bag + clipped @ self._dense + self._bias, 0.0)
        out: list[float] = (hidden @ self._heads + self._heads_bias).tolist()
        kind = max(range(12, len(out)), key=out.__getitem__) - 12
        p_off, p_full = self._probabilities(out[:4], kind)
        shift = self._shift[kind]
        settled = _tokens(out[4:8], shift[0])
        # Thinking ends after it has settled.
        natural = [max(pair) for pair in zip(settled, _tokens(out[8:12], shift[1]), strict=True)]
        return Estimate(
            p_off=p_off,
            p_full=p_full,
            settled=_named(settled),
            natural=_named(natural),
            confidence=self._confidence(share, outside, query.model),
            source=self._source,
        )

    def describe(self, query: Query) -> dict[str, float]:
        """Return what is kept of ``query`` in records: its dense features, by name."""
        return features.describe(query)

    def _look_up(self, hashes: Array) -> tuple[Array, float]:
        """Return the rows of the known n-grams, each once, and the share of n-grams that are known."""
        if not len(hashes) or not len(self._known):
            return np.empty(0, dtype=np.intp), 0.0
        at = self._known.searchsorted(hashes)
        found = at[self._known.take(at, mode="clip") == hashes]
        once = np.zeros(len(self._known), dtype=bool)
        once[found] = True
        return once.nonzero()[0], len(found) / len(hashes)

    def _probabilities(self, logits: list[float], kind: int) -> tuple[float, float]:
        sharpness, bias = self._inverse_temperature[kind], self._class_bias[kind]
        scaled = [x * sharpness + b for x, b in zip(logits, bias, strict=True)]
        top = max(scaled)
        both, only_full, only_off, neither = [math.exp(x - top) for x in scaled]
        total = both + only_full + only_off + neither
        return (both + only_off) / total, (both + only_full) / total

    def _confidence(self, share: float, outside: float, model: str | None) -> float:
        """Full at the share of known n-grams that usual traffic has, none at half of it."""
        confidence = min(max(2.0 * share / self._familiar - 1.0, 0.0), 1.0) * math.exp(-outside)
        return (
            confidence if model is None or _base_name(model) in self._models else FOREIGN_MODEL * confidence
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LinearClassifier:
        """Read a weight file.

        Raises:
            ClassifierError: The file is missing, damaged, or made for another version; says which.
        """
        path = Path(path)
        try:
            with np.load(BytesIO(path.read_bytes()), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except FileNotFoundError:
            raise ClassifierError(f"{path}: no such weight file") from None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
            raise ClassifierError(
                f"{path}: not a readable weight file, damaged or truncated: {error}"
            ) from error
        except Exception as error:  # zlib.error and what else a flipped bit can bring
            raise ClassifierError(f"{path}: damaged weight file: {error!r}") from error
        try:
            return cls(*_checked(arrays))
        except ValueError as error:
            raise ClassifierError(f"{path}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a weight file."""
        header = np.frombuffer(json.dumps(asdict(self.header)).encode(), dtype=np.uint8)
        with Path(path).open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, header=header, **self._arrays)


def digest(arrays: dict[str, Array]) -> str:
    """Return the SHA-256 over names, types, shapes and contents of arrays, independent of their order."""
    seen = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        seen.update(f"{name} {array.dtype.str} {array.shape};".encode())
        seen.update(array.tobytes())
    return seen.hexdigest()


def _checked(arrays: dict[str, Array]) -> tuple[Header, dict[str, Array]]:
    if "header" not in arrays:
        raise ValueError("no header: not a weight file of this package")
    header = Header.from_json(arrays.pop("header").tobytes())
    if header.features != features.VERSION:
        raise ValueError(
            f"made for features version {header.features}, this package computes {features.VERSION}"
        )
    missing = sorted(set(ARRAYS) - set(arrays))
    if missing:
        raise ValueError(f"arrays are missing: {', '.join(missing)}")
    wrong = [name for name, ndim in ARRAYS.items() if arrays[name].ndim != ndim]
    if wrong:
        raise ValueError(f"arrays have the wrong number of dimensions: {', '.join(wrong)}")
    seen = digest(arrays)
    if seen != header.sha256:
        raise ValueError(
            f"checksum is {seen[:12]}.., the header says {header.sha256[:12]}..: damaged or altered"
        )
    return header, arrays


def spread(logs: Array) -> Array:
    """Return the unit of conformal corrections: the predicted distance between the median and p95."""
    return np.asarray(np.maximum(logs[..., 3] - logs[..., 0], MIN_SPREAD))


def _tokens(logs: list[float], shift: list[float]) -> list[float]:
    """Return corrected quantiles in tokens, made non-decreasing."""
    unit = max(logs[3] - logs[0], MIN_SPREAD)
    corrected = accumulate((log + s * unit for log, s in zip(logs, shift, strict=True)), max, initial=0.0)
    return [math.expm1(min(log, MAX_LOG)) for log in corrected][1:]


def _named(values: list[float]) -> Quantiles:
    return Quantiles(p50=values[0], p80=values[1], p90=values[2], p95=values[3])


def _base_name(model: str) -> str:
    return model.rstrip("/").rsplit("/", 1)[-1].lower()
