"""How fast each endpoint and model answers, learned from the calls that went through.

A call that waited ``ttft`` seconds for its first token and ended after ``seconds`` with ``tokens`` tokens
says that one token took ``(seconds - ttft) / tokens``. Pace is the weighted median of both numbers over the
last 64 calls; the weight halves every 16 calls. A median, because one stalled call must not move a deadline:
up to half of the weight may be outliers. Decaying, because load changes over the day.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from budgetctl.types import Pace

_WINDOW = 64
_HALF_LIFE = 16
_ENOUGH = 3
_FEWEST_TOKENS = 16
"""A shorter call says when the first token came, but too little about the ones after it."""


@dataclass(slots=True)
class _Observed:
    ttft_s: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    s_per_token: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))


class Speeds:
    """Live speeds by endpoint and model. Safe for threads."""

    def __init__(self) -> None:
        self._observed: dict[tuple[str, str], _Observed] = {}
        self._lock = threading.Lock()

    def observe(self, endpoint: str, model: str, *, ttft_s: float, tokens: int, seconds: float) -> None:
        """Learn from one finished call.

        Args:
            ttft_s: Seconds to its first token.
            tokens: Tokens it generated, reasoning included.
            seconds: Seconds to its end, from the same start as ``ttft_s``.

        What cannot be right (negative, not finite, ending with the first token or before) is passed over.
        """
        if not (0 <= ttft_s < seconds < math.inf) or tokens <= 0:
            return
        with self._lock:
            seen = self._observed.setdefault((endpoint, model), _Observed())
            seen.ttft_s.append(ttft_s)
            if tokens >= _FEWEST_TOKENS:
                seen.s_per_token.append((seconds - ttft_s) / tokens)

    def pace(self, endpoint: str, model: str) -> Pace | None:
        """Return the current pace, or None before three calls long enough to measure it."""
        with self._lock:
            seen = self._observed.get((endpoint, model))
            if seen is None or len(seen.s_per_token) < _ENOUGH:
                return None
            ttft_s, s_per_token = list(seen.ttft_s), list(seen.s_per_token)
        return Pace(ttft_s=_decaying_median(ttft_s), s_per_token=_decaying_median(s_per_token))


def _decaying_median(values: Iterable[float]) -> float:
    """Return the lower weighted median; the newest value comes last and weighs most."""
    ordered = list(values)
    weights = [0.5 ** (age / _HALF_LIFE) for age in range(len(ordered) - 1, -1, -1)]
    half = sum(weights) / 2
    reached = 0.0
    for value, weight in sorted(zip(ordered, weights, strict=True)):
        reached += weight
        if reached >= half:
            return value
    return max(ordered)
