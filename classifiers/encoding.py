"""From questions to the matrices that a network reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from budgetctl.classifiers import features
from budgetctl.classifiers.targets import Example, Question
from numpy.typing import NDArray

from budgetctl.types import Query

Array = NDArray[Any]

SCALER = ("centre", "scale", "low", "high")
"""Names of the arrays that a :class:`Scaler` is kept in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Encoded questions: ``bag`` is a sparse matrix questions x known n-grams with rows of length 1."""

    bag: Any
    dense: Array


@dataclass(slots=True)
class Scaler:
    """How dense features are standardised, and the range in which they were seen."""

    centre: Array
    scale: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, dense: Array) -> Scaler:
        """Measure it on training questions; a feature that never varies there gets scale 1."""
        scale = dense.std(axis=0)
        return cls(
            dense.mean(axis=0), np.where(scale > 1e-6, scale, 1.0), dense.min(axis=0), dense.max(axis=0)
        )

    def __call__(self, dense: Array) -> Array:
        return (np.clip(dense, self.low, self.high) - self.centre) / self.scale


def encode(questions: Sequence[Question | Example]) -> list[tuple[Array, Array]]:
    """Encode the questions, as the classifier will see them; without its text a question has no n-grams."""
    return [_encoded(q) for q in questions]


def _encoded(question: Question | Example) -> tuple[Array, Array]:
    hashes, dense = features.encode(Query.from_text(question.text))
    if question.dense is not None:
        dense = np.array(question.dense)
    return hashes if question.text else hashes[:0], dense


def vocabulary(encoded: Sequence[tuple[Array, Array]], *, size: int, min_count: int) -> Array:
    """Return the sorted hashes of the n-grams that occur in the most questions, at most one for each slot."""
    counts: Counter[int] = Counter()
    for hashes, _ in encoded:
        counts.update(set(hashes.tolist()))
    common: dict[int, int] = {}
    for n_gram, n in counts.most_common():
        if n < min_count or len(common) == size:
            break
        common.setdefault(n_gram >> int(features.SLOT_SHIFT), n_gram)
    return np.array(sorted(common.values()), dtype=np.uint32)


def inputs(encoded: Sequence[tuple[Array, Array]], known: Array, scaler: Scaler) -> Inputs:
    """Return the matrices that the network reads."""
    from scipy.sparse import csr_matrix

    index, starts, values = [], [0], []
    for hashes, _ in encoded:
        at = np.searchsorted(known, hashes)
        rows = np.unique(at[np.take(known, at, mode="clip") == hashes] if len(known) else at[:0])
        index.append(rows)
        starts.append(starts[-1] + len(rows))
        values.append(np.full(len(rows), 1 / np.sqrt(max(len(rows), 1)), dtype=np.float32))
    shape = (len(encoded), len(known))
    bag = csr_matrix((np.concatenate(values), np.concatenate(index), np.array(starts)), shape=shape)
    return Inputs(bag=bag, dense=scaler(np.array([d for _, d in encoded])).astype(np.float32))
