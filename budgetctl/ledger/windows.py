"""Windows of time, as numbered periods: what is spent is kept per period, and a window is a few of them.

A calendar window is one period. A sliding window is the current period and the sixty before it, each a
sixtieth of its length: what was spent is counted for the window's length at least and a sixtieth longer at
most, so that no stretch of that length ever holds more than the limit.

Times are milliseconds since the epoch. Periods that lie ahead count as well, and those of one more window
are kept: a clock that steps back finds what was spent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

DAY_MS = 86_400_000
PARTS = 60
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": DAY_MS}
_SLIDING = re.compile(r"([1-9]\d{0,6})([smhd])")
LONGEST_MS = 400 * DAY_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A window that ends now.

    Attributes:
        period_ms: Length of a period; 0 is a month of the calendar.
        behind: How many periods before the current one count.
    """

    period_ms: int
    behind: int = 0

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read ``day``, ``month``, or a number with ``s``, ``m``, ``h`` or ``d``.

        Raises:
            ValueError: It is none of them, or longer than 400 days.
        """
        if text in ("day", "month"):
            return cls(period_ms=DAY_MS if text == "day" else 0)
        found = _SLIDING.fullmatch(text)
        length = int(found[1]) * _UNITS_MS[found[2]] if found else 0
        if not 0 < length <= LONGEST_MS:
            raise ValueError("allowed: day, month, or up to 400 days such as 90s, 15m, 5h, 7d")
        period = -(-length // PARTS)
        return cls(period_ms=period, behind=-(-length // period))

    @property
    def kept_ms(self) -> int:
        """How long after it was last written to an account may be forgotten."""
        return (2 * self.behind + 2) * (self.period_ms or 31 * DAY_MS)

    def period(self, now_ms: int) -> int:
        """Return the number of the current period; months count from March of the year 0."""
        if self.period_ms:
            return now_ms // self.period_ms
        now = datetime.fromtimestamp(now_ms / 1_000, UTC)
        return now.year * 12 + now.month - 3

    def first(self, now_ms: int) -> int:
        """Return the oldest period that counts."""
        return self.period(now_ms) - self.behind

    def first_kept(self, now_ms: int) -> int:
        """Return the oldest period that is not forgotten yet."""
        return self.period(now_ms) - 2 * self.behind - 1
