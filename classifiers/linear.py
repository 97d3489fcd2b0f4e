"""The built-in classifier: a table of hashed n-grams, dense features, one small hidden layer; numpy alone.

    hidden = relu([sum of the known n-grams' rows / sqrt(n), standardised dense features] @ W + b)
    outputs: four classes, four quantiles each of settled and natural thinking, kinds of traffic

:mod:`budgetctl.classifiers.readout` turns the outputs into an estimate. ``confidence`` is how much the query
looks like what was trained on: the share of its n-grams that occur there, and how far its dense features lie
outside their range. Weights are one ``.npz`` file: plain arrays and a JSON header, never pickled objects.
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
from pathlib import Path
from typing import Any

import numpy as np
from budgetctl.classifiers import features, readout
from budgetctl.classifiers.readout import Readout
from numpy.typing import NDArray

from budgetctl.errors import ClassifierError
from budgetctl.types import Estimate, Query

SCHEMA_VERSION = 2
SIEVE_BITS = 18
"""By so many leading bits most unknown hashes are told; 16,384 known ones take one value in sixteen."""
_SIEVE_SHIFT = np.uint32(32 - SIEVE_BITS)

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a set of recordings was."""

    datasets: tuple[str, ...]
    models: tuple[str, ...]
    questions: int


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
    models: tuple[str, ...]
    """Models whose habits are known, in the order of the array ``habits``."""
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
            models=tuple(map(str, _typed(found, "models", list))),
            **{key: _typed(found, key, str) for key in ("name", "created", "note", "sha256")},
        )


def _source(header: Mapping[str, Any], key: str) -> Source:
    found = _typed(header, key, dict)
    names = {k: tuple(map(str, _typed(found, k, list))) for k in ("datasets", "models")}
    return Source(questions=_typed(found, "questions", int), **names)


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
    "familiar": 0,
    **readout.ARRAYS,
}
"""The arrays of a weight file and their number of dimensions.

``known`` sorted hashes, ``rows`` their vectors; ``centre scale low high`` of the dense features; ``familiar``
the share of known n-grams that usual traffic has; the rest belongs to the readout.
"""


class LinearClassifier:
    """Weights and what they compute. Immutable, so safe to share between threads."""

    def __init__(self, header: Header, arrays: dict[str, Array]) -> None:
        self.header = header
        self._arrays = arrays
        self._known = arrays["known"]
        # Most n-grams are unknown. One look at their leading bits tells so for nearly all of these, which is
        # several times cheaper than a binary search for each.
        self._sieve = np.zeros(1 << SIEVE_BITS, dtype=bool)
        self._sieve[self._known >> _SIEVE_SHIFT] = True
        wide = {k: v.astype(np.float64) for k, v in arrays.items() if k not in ("known", "rows")}
        # Narrow rows stay in the processor's cache; multiplied out to the hidden layer they would not.
        width = arrays["rows"].shape[1]
        self._rows = arrays["rows"].astype(np.float32)
        self._inverse = 1.0 / wide["scale"]
        dense = self._inverse[:, None] * wide["hidden"][width:]
        self._hidden = np.concatenate((wide["hidden"][:width], dense))
        self._bias = wide["hidden_bias"] - wide["centre"] @ dense
        self._low, self._high = wide["low"], wide["high"]
        self._heads, self._heads_bias = wide["heads"], wide["heads_bias"]
        self._familiar = float(wide["familiar"])
        self._readout = Readout(arrays, header.models)
        self._source = f"{header.name}:{header.sha256[:12]}"

    @property
    def name(self) -> str:
        """Its name in records."""
        return self.header.name

    @property
    def hash(self) -> str:
        """SHA-256 of the arrays."""
        return self.header.sha256

    @property
    def models(self) -> tuple[str, ...]:
        """The models whose habits are known."""
        return self.header.models

    def estimate(self, query: Query) -> Estimate:
        """Return the success curve of ``query``, in tokens of its model or of a generic reasoner."""
        return self.estimate_encoded(features.encode(query), model=query.model)

    def estimate_encoded(self, encoded: tuple[Array, Array], *, model: str | None) -> Estimate:
        """Return the estimate for features that are read already."""
        hashes, dense = encoded
        rows, share = self._look_up(hashes)
        # Weights of features version 1 know the first of the dense features only.
        dense = dense[: len(self._low)]
        clipped = np.minimum(np.maximum(dense, self._low), self._high)
        dense -= clipped
        dense *= self._inverse
        outside = float(np.maximum.reduce(np.abs(dense, out=dense)))
        bag = np.add.reduce(self._rows.take(rows, axis=0), axis=0) / math.sqrt(len(rows) or 1)
        hidden = np.concatenate((bag, clipped)).dot(self._hidden)
        hidden += self._bias
        outputs = np.maximum(hidden, 0.0, out=hidden).dot(self._heads)
        outputs += self._heads_bias
        out: list[float] = outputs.tolist()
        return self._readout.estimate(
            out, model=model, confidence=self._confidence(share, outside), source=self._source
        )

    def describe(self, query: Query) -> dict[str, float]:
        """Return what is kept of ``query`` in records: its dense features, by name."""
        return features.describe(query)

    def _look_up(self, hashes: Array) -> tuple[Array, float]:
        """Return the rows of the known n-grams, each once, and the share of n-grams that are known."""
        if not len(hashes) or not len(self._known):
            return np.empty(0, dtype=np.intp), 0.0
        likely = hashes[self._sieve.take(hashes >> _SIEVE_SHIFT)]
        likely.sort()  # Neighbours are found near each other: half the time where there are many.
        at = self._known.searchsorted(likely)
        found = at[self._known.take(at, mode="clip") == likely]
        once = np.zeros(len(self._known), dtype=bool)
        once[found] = True
        return once.nonzero()[0], len(found) / len(hashes)

    def _confidence(self, share: float, outside: float) -> float:
        """Full at the share of known n-grams that usual traffic has, none at half of it."""
        return min(max(2.0 * share / self._familiar - 1.0, 0.0), 1.0) * math.exp(-outside)

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
    width = {1: len(features.DENSE_V1), features.VERSION: len(features.DENSE)}.get(header.features)
    if width is None:
        raise ValueError(
            f"made for features version {header.features}, this package computes {features.VERSION}"
        )
    missing = sorted(set(ARRAYS) - set(arrays))
    if missing:
        raise ValueError(f"arrays are missing: {', '.join(missing)}")
    wrong = [name for name, ndim in ARRAYS.items() if arrays[name].ndim != ndim]
    if wrong:
        raise ValueError(f"arrays have the wrong number of dimensions: {', '.join(wrong)}")
    if arrays["low"].shape != (width,) or len(arrays["habits"]) != len(header.models):
        raise ValueError("arrays do not fit each other: damaged or altered")
    seen = digest(arrays)
    if seen != header.sha256:
        raise ValueError(
            f"checksum is {seen[:12]}.., the header says {header.sha256[:12]}..: damaged or altered"
        )
    return header, arrays
