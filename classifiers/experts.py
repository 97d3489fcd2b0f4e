"""Several classifiers as one: whoever knows the model answers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from budgetctl.classifiers.linear import LinearClassifier
from budgetctl.classifiers.readout import base_name

from budgetctl.types import Estimate, Query


class Experts:
    """A mixture without weights of its own.

    A query whose model an expert knows goes to that one; any other, also one that names none, to the first.
    """

    def __init__(self, experts: Sequence[LinearClassifier], *, name: str) -> None:
        self._experts = tuple(experts)
        self._name = name
        self._by_model: dict[str, LinearClassifier] = {}
        for expert in reversed(self._experts):
            self._by_model |= {base_name(model): expert for model in expert.models}
        bound = " ".join(expert.hash for expert in self._experts)
        self._hash = hashlib.sha256(bound.encode()).hexdigest()

    @property
    def name(self) -> str:
        """Its name in records."""
        return self._name

    @property
    def hash(self) -> str:
        """SHA-256 over the hashes of the experts, in order."""
        return self._hash

    @property
    def experts(self) -> tuple[LinearClassifier, ...]:
        """The experts, the one for all other models first."""
        return self._experts

    def estimate(self, query: Query) -> Estimate:
        """Return the estimate of the expert that knows the query's model."""
        model = query.model
        expert = None if model is None else self._by_model.get(base_name(model))
        return (expert or self._experts[0]).estimate(query)

    def describe(self, query: Query) -> dict[str, float]:
        """Return what is kept of ``query`` in records: its dense features, by name."""
        return self._experts[0].describe(query)
