"""The speeds of all endpoints and models."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import TypeVar

from budgetctl.speed.flight import Flight
from budgetctl.speed.place import Adherence, Place
from budgetctl.types import Pace

T = TypeVar("T")


class Speeds:
    """Live speeds by endpoint and model. Safe for threads."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], Place] = {}
        self._flying: dict[str, dict[int, None]] = {}
        self._lock = threading.Lock()

    def enter(self, endpoint: str, model: str, *, requests: int = 1) -> Flight:
        """Count a call as in flight until it lands, or nobody holds on to it any more.

        Args:
            requests: Requests that the call takes if its thinking is cut.
        """
        flying = self._flying.setdefault(endpoint, {})
        return Flight(self, endpoint=endpoint, model=model, requests=requests, flying=flying)

    def in_flight(self, endpoint: str) -> int:
        """Return how many calls are in flight at ``endpoint``, whatever the model."""
        return len(self._flying.get(endpoint, ()))

    def observe(
        self,
        endpoint: str,
        model: str,
        *,
        ttft_s: float | None,
        tokens: int,
        seconds: float,
        concurrency: int = 1,
    ) -> None:
        """Learn from one finished request.

        Args:
            ttft_s: Seconds to its first token. None for a response that came whole, whose seconds are divided
                as the pace so far has it, or passed over where there is none.
            tokens: Tokens it generated, reasoning included.
            seconds: Seconds to its end, from the same start as ``ttft_s``.
            concurrency: Calls that were in flight at the endpoint when it was sent, this one included.

        What cannot be right (negative, not finite, ending with the first token or before) is passed over.
        """
        if not (0 <= (ttft_s or 0.0) < seconds < math.inf) or tokens <= 0:
            return
        self.at(
            endpoint,
            model,
            lambda place: place.observe(
                ttft_s=ttft_s, tokens=tokens, seconds=seconds, concurrency=concurrency
            ),
        )

    def pace(self, endpoint: str, model: str, *, concurrency: int | None = None) -> Pace | None:
        """Return the current pace, or None before three calls long enough to measure it.

        Args:
            concurrency: Calls in flight at the endpoint, the one in question included; None is one more than
                are in flight now.
        """
        if concurrency is None:
            concurrency = self.in_flight(endpoint) + 1
        return self.at(endpoint, model, lambda place: place.pace(concurrency))

    def adherence(self) -> list[Adherence]:
        """Return how well deadlines were kept, by endpoint and model."""
        with self._lock:
            found = [place.adherence(*key) for key, place in sorted(self._places.items())]
        return [one for one in found if one is not None]

    def at(self, endpoint: str, model: str, do: Callable[[Place], T]) -> T:
        """Do something with what is known of one endpoint and model, while nobody else does."""
        with self._lock:
            return do(self._places.setdefault((endpoint, model), Place()))
