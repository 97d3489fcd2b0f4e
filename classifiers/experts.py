"""Several classifiers as one: whoever knows the model or the traffic answers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

from budgetctl.classifiers import features
from budgetctl.classifiers.readout import base_name

from budgetctl.types import Estimate, Query

SURE = 0.5
"""From this confidence on an expert is believed: the controller's own threshold."""


class Expert(Protocol):
    """A classifier over the features of this package that says which models it knows."""

    @property
    def name(self) -> str: ...

    @property
    def hash(self) -> str: ...

    @property
    def models(self) -> tuple[str, ...]: ...

    def estimate_encoded(self, encoded: tuple[Any, Any], *, model: str | None) -> Estimate: ...

    def estimate_if_sure(
        self, encoded: tuple[Any, Any], *, model: str | None, at_least: float
    ) -> Estimate | None: ...

    def describe(self, query: Query) -> dict[str, float]: ...


class Experts:
    """A mixture without weights of its own.

    A query whose model one expert alone knows goes to that one. Any other goes to the first, and to the next
    ones only while nobody is sure; where nobody is, the first one's unsure estimate stands.
    """

    def __init__(self, experts: Sequence[Expert], *, name: str) -> None:
        self._experts = tuple(experts)
        self._name = name
        self._by_model: dict[str, Expert] = {}
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
    def experts(self) -> tuple[Expert, ...]:
        """The experts, in the order they are asked."""
        return self._experts

    def estimate(self, query: Query) -> Estimate:
        """Return the estimate of the expert that knows the query best."""
        encoded, model = features.encode(query), query.model
        expert = None if model is None else self._by_model.get(base_name(model))
        if expert is not None:
            return expert.estimate_encoded(encoded, model=model)
        for expert in self._experts:
            found = expert.estimate_if_sure(encoded, model=model, at_least=SURE)
            if found is not None:
                return found
        return self._experts[0].estimate_encoded(encoded, model=model)

    def describe(self, query: Query) -> dict[str, float]:
        """Return what is kept of ``query`` in records: its dense features, by name."""
        return self._experts[0].describe(query)
