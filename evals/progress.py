"""Progress on standard error: a bar for people, a line now and then for log files."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TextIO

EVERY_S = 30.0
"""Seconds between two lines where there is no terminal."""


class Progress:
    """Counts finished calls and says how long the rest will take and what was spent.

    Args:
        total: How many there are.
        title: What is running.
        stream: Where to write; a terminal gets a bar (tqdm), anything else sparse lines.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        total: int,
        title: str,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._title = total, title
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._done = self._before = 0
        self._started = self._said = clock()
        self._bar: Any = None
        if self._stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=title, unit="call", file=self._stream, dynamic_ncols=True)

    def advance(self, n: int, policy: str | None = None, *, spent: object = "") -> None:
        """Count ``n`` more finished calls; those without a policy were finished in an earlier run."""
        self._done += n
        if policy is None:
            self._before += n
        shown = ", ".join(part for part in (policy, str(spent)) if part)
        if self._bar is not None:
            if policy is None:
                self._bar.initial = n
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update(n)
            return
        now = self._clock()
        if now - self._said >= EVERY_S or self._done == self._total:
            self._said = now
            print(self._line(now, shown), file=self._stream, flush=True)

    def _line(self, now: float, shown: str) -> str:
        fresh, left = self._done - self._before, self._total - self._done
        eta = f", about {(now - self._started) / fresh * left:.0f} s left" if fresh and left else ""
        return f"{self._title}: {self._done}/{self._total} calls{f' ({shown})' if shown else ''}{eta}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
