"""Numbers that fade."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

HALF_LIFE = 16
OUTLIER = 4.0
WINSORIZED = 0.95


class Samples:
    """The last numbers of one kind; the weight of each halves with every ``half_life`` that come after it.

    Args:
        half_life: In numbers, not in seconds: on a quiet night what was last seen still stands.
        prior: What stands before the first ones come; it fades like them.
    """

    def __init__(self, *, half_life: int = HALF_LIFE, prior: Iterable[float] = ()) -> None:
        self._values: deque[float] = deque(prior, maxlen=4 * half_life)
        self._decay: float = 0.5 ** (1 / half_life)

    def __len__(self) -> int:
        return len(self._values)

    def add(self, value: float) -> None:
        """Take the newest number."""
        self._values.append(value)

    def quantile(self, q: float = 0.5) -> float:
        """Return the lower weighted quantile, which is one of the numbers. There must be one."""
        weighted = sorted(self._weighted())
        enough = q * sum(weight for _, weight in weighted)
        for value, weight in weighted:
            enough -= weight
            if enough <= 0:
                return value
        return weighted[-1][0]

    def mean(self) -> float:
        """Return the weighted mean, nothing in it above the 95th percentile or four medians.

        The percentile alone would let the newest of a few numbers count in full. There must be one, and none
        below zero.
        """
        most = min(self.quantile(WINSORIZED), OUTLIER * self.quantile())
        total = sum(weight for _, weight in self._weighted())
        return sum(min(value, most) * weight for value, weight in self._weighted()) / total

    def _weighted(self) -> list[tuple[float, float]]:
        newest = len(self._values) - 1
        return [(value, self._decay ** (newest - i)) for i, value in enumerate(self._values)]
