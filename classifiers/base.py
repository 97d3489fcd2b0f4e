"""What a classifier is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from budgetctl.types import Estimate, Query


@runtime_checkable
class Classifier(Protocol):
    """Estimates from a query alone how much thinking helps and how long it takes.

    Pure and thread-safe: the same query gives the same estimate, and nothing is kept of it.
    """

    @property
    def name(self) -> str:
        """Its name in records."""
        ...

    @property
    def hash(self) -> str:
        """A hash of everything its estimates depend on, for certificates and records."""
        ...

    def estimate(self, query: Query) -> Estimate:
        """Return the success curve expected for ``query``.

        Where the query is unlike anything it knows, the estimate says so by a ``confidence`` near 0.

        Raises:
            ClassifierError: It cannot answer; the call then goes through as without a classifier.
        """
        ...
