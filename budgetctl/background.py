"""Work that nobody waits for: a bounded number of jobs, a few at a time, beside their callers' calls."""

from __future__ import annotations

import asyncio
import atexit
import logging
import queue
import threading
import time
from collections.abc import Awaitable, Callable
from weakref import WeakKeyDictionary, WeakSet

from budgetctl.errors import brief

logger = logging.getLogger("budgetctl")

AT_ONCE = 2
MOST = 64
BEGIN_AFTER_S = 0.05
"""What a job waits before it begins, so that its caller has gone on by then."""
EXIT_S = 3.0
"""The longest that the end of the process waits for jobs in threads."""


class Background:
    """Runs jobs in daemon threads, or in tasks of the loop that they come from.

    A job that fails is logged. What does not fit is not taken.

    Args:
        at_once: Jobs that run at a time: in threads, and on each loop.
        most: Jobs that may be waiting or running.
    """

    def __init__(self, *, at_once: int = AT_ONCE, most: int = MOST) -> None:
        self._at_once = at_once
        self._most = most
        self._jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._pending = 0
        self._changed = threading.Condition()
        self._tasks: set[asyncio.Task[None]] = set()  # the loop keeps only weak references
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
        _all.add(self)

    def put(self, job: Callable[[], object]) -> bool:
        """Run ``job`` in a thread, soon; False where too many are waiting."""
        with self._changed:
            if self._pending >= self._most:
                return False
            self._pending += 1
            self._threads = self._alive()
            if len(self._threads) < min(self._at_once, self._pending):
                thread = threading.Thread(target=self._work, name="budgetctl-background", daemon=True)
                self._threads.append(thread)
                thread.start()
        self._jobs.put(job)
        return True

    def put_task(self, job: Callable[[], Awaitable[None]]) -> bool:
        """Run ``job`` on the running asyncio loop, soon; False where too many are waiting.

        Raises:
            RuntimeError: No asyncio loop is running in this thread.
        """
        loop = asyncio.get_running_loop()
        if len(self._tasks) >= self._most:
            return False
        turns = self._turns.setdefault(loop, asyncio.Semaphore(self._at_once))
        task = loop.create_task(_in_turn(job, turns))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    def wait(self, timeout_s: float) -> bool:
        """Wait for the jobs in threads; False when that took longer than ``timeout_s``."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending or not self._alive(), timeout_s)

    async def wait_tasks(self, timeout_s: float) -> bool:
        """Wait for the jobs on this loop; False when that took longer than ``timeout_s``."""
        loop = asyncio.get_running_loop()
        mine = [task for task in self._tasks if task.get_loop() is loop]
        return not mine or not (await asyncio.wait(mine, timeout=timeout_s))[1]

    def _alive(self) -> list[threading.Thread]:
        return [thread for thread in self._threads if thread.is_alive()]  # none in a forked child

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            time.sleep(BEGIN_AFTER_S)
            try:
                job()
            except Exception as error:
                logger.warning("a job in the background failed: %s", brief(error))
            del job  # it holds a client
            with self._changed:
                self._pending -= 1
                self._changed.notify_all()


async def _in_turn(job: Callable[[], Awaitable[None]], turns: asyncio.Semaphore) -> None:
    await asyncio.sleep(BEGIN_AFTER_S)
    async with turns:
        try:
            await job()
        except Exception as error:
            logger.warning("a job in the background failed: %s", brief(error))


_all: WeakSet[Background] = WeakSet()


@atexit.register
def _wait_at_exit() -> None:
    end = time.monotonic() + EXIT_S
    for background in list(_all):
        background.wait(max(0.0, end - time.monotonic()))
