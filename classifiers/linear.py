"""The built-in classifier: a table of hashed n-grams, dense features, one small hidden layer; numpy alone.

    hidden = relu([sum of the known n-grams' rows / sqrt(n), standardised dense features] @ W + b)
    outputs: four classes, four quantiles each of settled and natural thinking, kinds of traffic

:mod:`budgetctl.classifiers.readout` turns the outputs into an estimate. ``confidence`` is how much the query
looks like what was trained on: the share of its n-grams that occur there, how far its dense features lie
outside their range, and how certain its family is (the greatest of their probabilities, Hendrycks & Gimpel
2017). A family is a kind with its subkinds, ``reasoning_gym/games`` and ``reasoning_gym/algebra``: which of
them a query is may well be open where all of them are known. Weights are one ``.npz`` file: plain arrays and
a JSON header, never pickled objects.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from budgetctl.classifiers import features, readout, weightfile
from budgetctl.classifiers.readout import Readout
from numpy.typing import NDArray

from budgetctl.errors import ClassifierError
from budgetctl.types import Estimate, Query

SCHEMA_VERSION = 4
Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Header(weightfile.Header):
    """The header of these weights: of which version of the features they are."""

    schema_version: int = SCHEMA_VERSION
    features: int

    @classmethod
    def from_json(cls, data: bytes) -> Header:
        """Read a header.

        Raises:
            ValueError: Says which field is wrong.
        """
        found = weightfile.parse(data, version=SCHEMA_VERSION)
        header = cls(features=weightfile.typed(found, "features", int), **weightfile.shared(found))
        if header.features != features.VERSION:
            raise ValueError(
                f"made for features version {header.features}, this package computes {features.VERSION}"
            )
        return header


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
    "families": 1,
    "certain": 0,
    **readout.ARRAYS,
}
"""The arrays of a weight file and their number of dimensions.

``known`` sorted hashes, no two in one slot, ``rows`` their vectors; ``centre scale low high`` of the dense
features; ``familiar`` the share of known n-grams that usual traffic has, 0 where no texts were trained on;
``families`` the first kind of each; ``certain`` the probability of its family that usual traffic has; the
rest belongs to the readout.
"""

MANY = 256
"""Factors of fewer n-grams than this are kept."""
_ONE, _ZERO = np.ones(1), np.zeros((), dtype=np.float32)
_ORDER = np.arange(16 * features.CLIP, dtype=np.int16)
"""As many places as there can be n-grams."""


class LinearClassifier:
    """Weights and what they compute. Immutable, so safe to share between threads."""

    def __init__(self, header: Header, arrays: dict[str, Array]) -> None:
        self.header = header
        self._arrays = arrays
        known = arrays["known"]
        # An empty slot leads to one row more, whose hash belongs into the slot of another.
        # Narrow numbers keep the table in the processor's cache.
        self._slot = np.full(features.SLOTS, len(known), dtype=np.min_scalar_type(len(known)))
        self._slot[known >> features.SLOT_SHIFT] = np.arange(len(known))
        self._known = np.append(known, known[:1])
        wide = {k: v.astype(np.float64) for k, v in arrays.items() if k not in ("known", "rows")}
        # Narrow rows stay in the processor's cache; multiplied out to the hidden layer they would not.
        width = arrays["rows"].shape[1]
        self._rows = arrays["rows"].astype(np.float32)
        self._means = [np.full(n, 1 / math.sqrt(n or 1), dtype=np.float32) for n in range(MANY)]
        self._inverse = 1.0 / wide["scale"]
        dense = self._inverse[:, None] * wide["hidden"][width:]
        bias = wide["hidden_bias"] - wide["centre"] @ dense
        # One input and one hidden unit more, which are always 1: the biases are their rows.
        hidden = np.vstack((wide["hidden"][:width], dense, bias))
        self._hidden = np.column_stack((hidden, np.eye(len(hidden))[-1])).astype(np.float32)
        self._heads = np.vstack((wide["heads"], wide["heads_bias"])).astype(np.float32)
        self._low, self._high = wide["low"], wide["high"]
        self._familiar, self._certain = float(wide["familiar"]), float(wide["certain"])
        first = arrays["families"].tolist()
        self._families = [*map(slice, first, [*first[1:], None])]
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
    def arrays(self) -> Mapping[str, Array]:
        """The arrays of :data:`ARRAYS`; not to be written to."""
        return self._arrays

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
        clipped = np.minimum(np.maximum(dense, self._low), self._high)
        outside = 0.0
        if clipped.tobytes() != dense.tobytes():  # comparing bytes is the cheapest way to find nothing
            outside = float(np.abs((dense - clipped) * self._inverse).max())
        n = len(rows)
        means = self._means[n] if n < MANY else np.full(n, 1 / math.sqrt(n), dtype=np.float32)
        bag = means.dot(self._rows.take(rows, axis=0))
        inputs = np.concatenate((bag, clipped, _ONE), dtype=np.float32, casting="same_kind")
        hidden = inputs.dot(self._hidden)
        out: list[float] = np.maximum(hidden, _ZERO, out=hidden).dot(self._heads).tolist()
        confidence = self._familiarity(share) * math.exp(-outside) * self._certainty(out)
        return self._readout.estimate(out, model=model, confidence=confidence, source=self._source)

    def describe(self, query: Query) -> dict[str, float]:
        """Return what is kept of ``query`` in records: its dense features, by name."""
        return features.describe(query)

    def _look_up(self, hashes: Array) -> tuple[Array, float]:
        """Return the rows of the known n-grams, each once, and the share of n-grams that are known."""
        if not len(hashes) or not len(self._rows):
            return np.empty(0, dtype=np.intp), 0.0
        at = self._slot.take(hashes >> features.SLOT_SHIFT)
        found = at[self._known.take(at) == hashes]
        # Of equal rows that one stays whose place is written last; all other places are never read.
        order, places = _ORDER[: len(found)], np.empty(len(self._rows), dtype=np.int16)
        places[found] = order
        return found[places.take(found) == order], len(found) / len(hashes)

    def _familiarity(self, share: float) -> float:
        """Return 1 at the share of known n-grams that usual traffic has, 0 at half of it.

        Without a vocabulary there is no such share, and nothing is unlike it.
        """
        return min(max(2.0 * share / self._familiar - 1.0, 0.0), 1.0) if self._familiar else 1.0

    def _certainty(self, out: Sequence[float]) -> float:
        """Return one half at the probability of its family that usual traffic has, 1 at certainty."""
        top = max(out[12:])
        chances = [math.exp(logit - top) for logit in out[12:]]
        greatest = max([sum(chances[family]) for family in self._families]) / sum(chances)
        if greatest < self._certain:
            return greatest / (2.0 * self._certain)
        return 1.0 - (1.0 - greatest) / (2.0 * (1.0 - self._certain))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LinearClassifier:
        """Read a weight file.

        Raises:
            ClassifierError: The file is missing, damaged, or made for another version; says which.
        """
        path = Path(path)
        header, arrays = weightfile.read(path, Header.from_json, ARRAYS)
        try:
            _check(arrays)
            return cls(header, arrays)
        except ValueError as error:
            raise ClassifierError(f"{path}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a weight file."""
        weightfile.write(Path(path), self.header, self._arrays)


def _check(arrays: Mapping[str, Array]) -> None:
    slots = np.unique(arrays["known"] >> features.SLOT_SHIFT)
    if (len(slots), *arrays["low"].shape) != (len(arrays["known"]), len(features.DENSE)):
        raise ValueError("arrays do not fit each other: damaged or altered")
