"""Ends a blocking read of a stream at a given time.

The read timeout of a request is fixed when it is sent and begins anew with every byte, a ping included, so it
cannot keep a deadline. Here a thread shuts the connection down at the deadline; the read then fails at once.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

LATE_S = 0.02
"""It may ring so much later than it was last set to: waking the thread for less is not worth it."""


class Alarm:
    """Rings once, unless it is put to rest before. Its thread starts with the first :meth:`set`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stream: Any = None
        self._at: float | None = None
        self._wakes = 0.0
        self._closed = False
        self._rang = False

    def set(self, stream: Any, *, seconds: float) -> None:
        """Ring in so many seconds, and hang ``stream`` up then."""
        with self._changed:
            self._stream, self._at = stream, time.monotonic() + seconds
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="budgetctl-alarm", daemon=True)
                self._thread.start()
            elif self._at < self._wakes - LATE_S:
                self._changed.notify()

    def rest(self) -> bool:
        """Do not ring any more; return whether it has rung."""
        with self._changed:
            self._at = None
            return self._rang

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed, self._stream = True, None
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while not self._closed and not self._rang:
                now = time.monotonic()
                if self._at is not None and self._at <= now:
                    self._rang = hang_up(self._stream)
                    self._at = None
                    continue
                # While it rests nobody tells it the next time, so it looks when the last one would have been.
                until = max(self._wakes, now) if self._at is None else self._at
                self._wakes = until if until > now else float("inf")
                self._changed.wait(None if self._wakes == float("inf") else self._wakes - now)


def hang_up(stream: Any) -> bool:
    """Shut the connection of a stream down; False where it is not its own (HTTP/2) or cannot be reached."""
    response = stream.response
    network = response.extensions.get("network_stream")
    found = network.get_extra_info("socket") if network is not None else None
    if found is None or response.http_version == "HTTP/2":
        return False
    with contextlib.suppress(OSError):  # it is gone already
        found.shutdown(socket.SHUT_RDWR)
    return True
