"""What is known of one endpoint and model."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from budgetctl.speed.samples import Samples
from budgetctl.types import Pace

PLAN_LEVEL = 0.95
"""The margin of plans covers this share of what was observed."""

TAIL_LEVEL = 0.98
"""That of what comes after a thought covers more: it is the last that can be done for a deadline, and a few
dozen calls say little of a tail. One outlier is remembered for a few calls, two for some dozens."""

ENOUGH = 3
FEWEST_TOKENS = 8
"""A shorter response says when the first token came, but too little about the ones after it."""

PLAN_MARGIN = (1.0,) * 32
TAIL_MARGIN = (1.0,) * 126 + (1.5,) * 2
"""What margins begin with: of so many, one outlier among the first calls does not count for long."""

WIDEST = 4.0
"""Largest margin: behind it, it is not the thinking that makes calls late."""

SLOWLY = 32
"""Half-life of margins, in calls: a tail takes more of them than a median."""

KEPT = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Adherence:
    """How well deadlines were kept at one endpoint and model, over the last ``KEPT`` calls that had one.

    Attributes:
        endpoint: Where the calls went: a base URL, or the kind of endpoint.
        model: The model that they named.
        calls: How many calls these are.
        kept: Share of them that ended by their deadline.
        p95: 95th percentile of seconds / deadline; above 1 is late.
        margin: What plans are divided by at present.
    """

    endpoint: str
    model: str
    calls: int
    kept: float
    p95: float
    margin: float


class Place:
    """Learns from the requests and calls to one model at one endpoint. Not safe for threads by itself.

    Attributes:
        margin: The 95th percentile of observed / planned seconds of calls with a deadline, from 1 to 4.
        tail_margin: The 98th percentile of observed / forecast seconds from the end of a thought to that of
            its call, up to 4.
    """

    def __init__(self) -> None:
        self._rates: dict[int, Samples] = {}
        self._all_rates = Samples()
        self._alone = Samples()
        self._service = Samples()
        self._crowded = Samples()
        self._others = Samples()
        self._plans = Samples(half_life=SLOWLY, prior=PLAN_MARGIN)
        self._tails = Samples(half_life=SLOWLY, prior=TAIL_MARGIN)
        self._late: deque[float] = deque(maxlen=KEPT)
        self._pace: dict[int, Pace | None] = {}
        self.margin = self._plans.quantile(PLAN_LEVEL)
        self.tail_margin = self._tails.quantile(TAIL_LEVEL)

    def observe(self, *, ttft_s: float | None, tokens: int, seconds: float, concurrency: int) -> None:
        """Learn from one request; without its first token, divide its time as the pace so far has it."""
        if ttft_s is None:
            pace = self.pace(concurrency)
            if pace is None:
                return
            ttft_s = seconds * pace.ttft_s / pace.seconds(tokens)
        self._pace.clear()
        service = seconds - ttft_s
        self._service.add(service)
        if concurrency > 1:
            self._crowded.add(ttft_s)
            self._others.add((concurrency - 1) * (self._alone_s + service))
        else:
            self._alone.add(ttft_s)
        if tokens >= FEWEST_TOKENS:
            self._rates.setdefault(_level(concurrency), Samples()).add(service / tokens)
            self._all_rates.add(service / tokens)

    def pace(self, concurrency: int) -> Pace | None:
        """Return the pace of a call that is one of so many; None before three long enough to measure it."""
        if concurrency not in self._pace:
            self._pace[concurrency] = self._measured(concurrency)
        return self._pace[concurrency]

    def _measured(self, concurrency: int) -> Pace | None:
        if len(self._all_rates) < ENOUGH:
            return None
        alone, crowd = self._alone_s, self._share() * (concurrency - 1)
        return Pace(
            ttft_s=alone + crowd * (alone + self._service.mean()),
            s_per_token=self._rate(_level(concurrency)).quantile(),
            alone_s=alone,
            crowd=crowd,
            margin=self.margin,
        )

    @property
    def _alone_s(self) -> float:
        return self._alone.quantile() if self._alone else 0.0

    def _share(self) -> float:
        """Return the share of the other calls in flight that a request waits for.

        At most all of them: beyond it, a few long calls or the load of others are behind the wait, and these
        are the margin's.
        """
        if len(self._crowded) < ENOUGH:
            return 0.0
        alone = self._alone.mean() if self._alone else 0.0
        return min(max(0.0, self._crowded.mean() - alone) / self._others.mean(), 1.0)

    def _rate(self, level: int) -> Samples:
        """Return the rates at a load; where too few are known, at the next smaller one that has them."""
        known = [at for at, seen in self._rates.items() if at <= level and len(seen) >= ENOUGH]
        return self._rates[max(known)] if known else self._all_rates

    def tail(self, observed: float, forecast: float) -> None:
        """Compare the seconds from the end of a thought to that of its call with their forecast."""
        if forecast > 0:
            self._tails.add(min(observed / forecast, WIDEST))
            self.tail_margin = self._tails.quantile(TAIL_LEVEL)

    def deadline(self, seconds: float, deadline_s: float, *, margin: float) -> None:
        """Compare the seconds of a call with its deadline, and with what it was planned for.

        Calls that thought to their end, or not at all, count as well: where all are short of their deadlines,
        there is more time to think.
        """
        self._pace.clear()
        self._late.append(seconds / deadline_s)
        self._plans.add(seconds * margin / deadline_s)
        self.margin = min(max(1.0, self._plans.quantile(PLAN_LEVEL)), WIDEST)

    def adherence(self, endpoint: str, model: str) -> Adherence | None:
        """Return how well deadlines were kept; None without a call that had one."""
        if not self._late:
            return None
        return Adherence(
            endpoint=endpoint,
            model=model,
            calls=len(self._late),
            kept=sum(ratio <= 1 for ratio in self._late) / len(self._late),
            p95=sorted(self._late)[math.ceil(0.95 * len(self._late)) - 1],
            margin=self.margin,
        )


def _level(concurrency: int) -> int:
    """Return the level of a load: 1, 2, 3 to 4, 5 to 8, 9 to 16 and so on."""
    return (max(concurrency, 1) - 1).bit_length()
