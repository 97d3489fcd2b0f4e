"""The one place where calls of a run are paced and tried again.

Waits grow twofold from a second to a minute, with full jitter (a wait drawn evenly from zero to that, so
that callers do not come back together), and are never shorter than what the server asks for in
``Retry-After``, which then holds for all callers.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

TRIES = 8
FIRST_S, LONGEST_S = 1.0, 60.0
LONGEST_ASKED_S = 600.0
"""A server that asks for a longer wait is not waited for."""
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Status codes that may be otherwise a moment later."""

T = TypeVar("T")


class Pacer:
    """Spaces the calls of all threads, and tries failed ones again.

    Args:
        per_minute: Calls that may begin per minute; None is any number.
        tries: Tries of one call.
        clock: Seconds, monotonic.
        sleep: Waits seconds.
        rng: Source of the jitter.
    """

    def __init__(
        self,
        *,
        per_minute: float | None = None,
        tries: int = TRIES,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._gap = 0.0 if per_minute is None else 60.0 / per_minute
        self._tries, self._clock, self._sleep = tries, clock, sleep
        self._rng = rng or random.Random()
        self._next, self._answered = -math.inf, False
        self._lock = threading.Lock()

    def call(self, once: Callable[[], T], *, failures: tuple[type[Exception], ...]) -> T:
        """Return what ``once`` returns, after as many tries as it takes.

        Raises:
            Exception: That of the last try, or one that another try would not change.
        """
        for attempt in range(self._tries):
            self._wait_for_turn()
            try:
                found = once()
            except failures as error:
                asked = retry_after(error)
                last = attempt == self._tries - 1 or (asked or 0.0) > LONGEST_ASKED_S
                if last or not self._passes(error):
                    raise
                if asked is not None:
                    self._hold(asked)
                self._sleep(max(asked or 0.0, self._rng.uniform(0, min(LONGEST_S, FIRST_S * 2**attempt))))
            else:
                self._answered = True
                return found
        raise AssertionError("unreachable")

    def _passes(self, error: Exception) -> bool:
        """Return whether another try may help: the status says so, or a connection that was there is lost."""
        status = getattr(error, "status_code", None)
        return self._answered if status is None else status in PASSING

    def _wait_for_turn(self) -> None:
        with self._lock:
            now = self._clock()
            start = max(now, self._next)
            self._next = start + self._gap
        if start > now:
            self._sleep(start - now)

    def _hold(self, seconds: float) -> None:
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)


def retry_after(error: Exception) -> float | None:
    """Return the seconds that the server asks to wait (RFC 9110, section 10.2.3), if it does."""
    headers: Mapping[str, Any] = getattr(getattr(error, "response", None), "headers", {})
    exact, given = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        if exact is not None:
            return max(0.0, float(exact) / 1000)
        if given is None:
            return None
        if given.strip().replace(".", "", 1).isdigit():
            return float(given)
        return max(0.0, (parsedate_to_datetime(given) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
