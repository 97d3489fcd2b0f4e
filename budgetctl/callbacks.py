"""Callbacks off the hot path: one worker thread, in order, and a failing one never fails the call."""

from __future__ import annotations

import atexit
import inspect
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

from budgetctl.errors import ConfigError, brief

logger = logging.getLogger("budgetctl")

Callback = Callable[[Any], Awaitable[None] | None]
KEPT_ERRORS = 100
EXIT_S = 2.0
"""The longest that the end of the process waits for callbacks."""


@dataclass(kw_only=True, eq=False)
class Callbacks:
    """What to call when something happens; each takes one argument and may be a coroutine function.

    Attributes:
        on_decision: Gets the :class:`~budgetctl.Decision` of every call, and once more where a spending limit
            made the call a cheaper one.
        on_delta: Gets every :class:`~budgetctl.types.Event` of a watched stream.
        on_stop: Gets the :class:`~budgetctl.types.Evidence` that ended thinking.
        on_outcome: Gets the :class:`~budgetctl.Outcome`.
        errors: What went wrong in a callback, by the type of its exception: the last hundred, newest last.

    Raises:
        ConfigError: One of them cannot be called.
    """

    on_decision: Callback | None = None
    on_delta: Callback | None = None
    on_stop: Callback | None = None
    on_outcome: Callback | None = None
    errors: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_ERRORS))
    _queue: queue.SimpleQueue[tuple[str, Callback, Any]] = field(
        default_factory=queue.SimpleQueue, repr=False
    )
    _worker: threading.Thread | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        for name in ("on_decision", "on_delta", "on_stop", "on_outcome"):
            callback = getattr(self, name)
            if callback is not None and not callable(callback):
                raise ConfigError(f"{name}: seen {callback!r}, allowed: a function of one argument")

    def emit(self, name: str, value: Any) -> None:
        """Queue the callback called ``name``; costs nothing when there is none."""
        callback: Callback | None = getattr(self, name)
        if callback is None:
            return
        with self._lock:
            if self._worker is None or not self._worker.is_alive():
                self._worker = threading.Thread(target=self._run, name="budgetctl-callbacks", daemon=True)
                self._worker.start()
                _working.add(self)
        self._queue.put((name, callback, value))

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until everything queued so far has run; False when that took longer than ``timeout_s``."""
        if self._worker is None:
            return True
        done = threading.Event()
        self._queue.put(("flush", lambda _: done.set(), None))
        return done.wait(timeout_s)

    def _run(self) -> None:
        while True:
            name, callback, value = self._queue.get()
            try:
                result = callback(value)
                if inspect.isawaitable(result):
                    import asyncio  # slow to load, and most callbacks are plain functions

                    asyncio.run(_settle(result))
            except Exception as error:  # whatever a user's callback raises, the call has already been served
                self.errors.append(f"{name}: {brief(error)}")
                logger.warning("callback %s failed: %s", name, brief(error))


async def _settle(result: Awaitable[None]) -> None:
    await result


_working: WeakSet[Callbacks] = WeakSet()


@atexit.register
def _flush_at_exit() -> None:
    """Let the callbacks of the last calls run: their threads die with the process."""
    end = time.monotonic() + EXIT_S
    for callbacks in list(_working):
        callbacks.flush(max(0.0, end - time.monotonic()))
