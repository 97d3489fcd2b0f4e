"""Policies that read the query's success curve: as much thinking as its answer needs to settle."""

from __future__ import annotations

import math
from dataclasses import dataclass

from budgetctl.errors import ConfigError
from budgetctl.policy.base import Named, Situation, exact, named
from budgetctl.policy.caps import CAPS, capped, no_estimate
from budgetctl.types import Budget

MIN_NEED = 0.01
"""Below this gain in the probability of a right answer, thinking is not worth switching on."""


@dataclass(frozen=True, slots=True)
class Quantile(Named):
    """Think until the answer has settled with probability ``q``; off where thinking does not help."""

    q: float
    stop: str = "safe"

    @property
    def needs_estimate(self) -> bool:
        return True

    def __post_init__(self) -> None:
        if not 0 < self.q < 1:
            raise ConfigError(f"quantile:{self.q}: the quantile is a number between 0 and 1, such as 0.9")

    def budget(self, situation: Situation) -> Budget:
        estimate = situation.estimate
        if estimate is None:
            return no_estimate(self.stop)
        tokens = max(1, math.ceil(round(estimate.settled.at(self.q), 6)))
        return _worthwhile(tokens, f"settled p{100 * self.q:g}", stop=self.stop, situation=situation)

    def __str__(self) -> str:
        return named(f"quantile:{exact(self.q)}", self.stop)


@dataclass(frozen=True, slots=True)
class Tiered(Named):
    """A few classes of budget instead of a number for every query: settled p90, rounded up to a tier.

    Tiers are 32, 128, 512, 2,048 tokens and so on. So few keep prompts cacheable and results easy to read,
    and a query that is worded a little differently in its tier.
    """

    stop: str = "safe"

    @property
    def needs_estimate(self) -> bool:
        return True

    def budget(self, situation: Situation) -> Budget:
        estimate = situation.estimate
        if estimate is None:
            return no_estimate(self.stop)
        tokens = next((cap for cap in CAPS if cap >= estimate.settled.p90), CAPS[-1])
        return _worthwhile(tokens, "tier of settled p90", stop=self.stop, situation=situation)

    def __str__(self) -> str:
        return named("tiered", self.stop)


def _worthwhile(tokens: int, reason: str, *, stop: str, situation: Situation) -> Budget:
    """Cap where thinking helps, off where it is expected not to."""
    estimate = situation.estimate
    assert estimate is not None
    if situation.facts.can_switch_off and estimate.p_correct(tokens) - estimate.p_off < MIN_NEED:
        note = f"thinking adds {estimate.need:+.3f} to p(correct): off"
        return Budget(reasoning_tokens=0, stop=stop, reasons=(note,))
    return capped(tokens, f"{reason}: {tokens} tokens", stop=stop, situation=situation)
