"""Policies that weigh what thinking brings against what it costs, in dollars or at a fixed rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from budgetctl.errors import ConfigError
from budgetctl.policy.base import Named, Situation, exact, named
from budgetctl.policy.caps import CAPS, no_estimate
from budgetctl.types import Budget

_MIDPOINTS = tuple((i + 0.5) / 16 for i in range(16))


@dataclass(frozen=True, slots=True)
class Utility(Named):
    """The budget with the largest ``usd_per_correct * p_correct - cost - usd_per_s * latency``.

    Options are thinking off, the caps of :data:`CAPS` and no cap, as far as the model can do them; where it
    has effort levels only, its adapter writes the level nearest to the cap. ``cost`` and ``latency`` are
    those of the thinking that is expected under each, since prompt and answer are the same for all;
    ``usd_per_s`` is the caller's (``Limits.usd_per_s``). A price or speed that is not known counts as
    nothing, which never makes a budget smaller; with neither, the caller's own parameters stay.
    """

    usd_per_correct: float
    stop: str = "safe"

    @property
    def needs_estimate(self) -> bool:
        return True

    def __post_init__(self) -> None:
        if not 0 < self.usd_per_correct < math.inf:
            raise ConfigError(
                f"utility:{self.usd_per_correct}: what a right answer is worth is a number above zero, "
                "in dollars"
            )

    def budget(self, situation: Situation) -> Budget:
        price, pace, usd_per_s = situation.price, situation.pace, situation.limits.usd_per_s
        cost = None if price is None else price.cost(prompt=0, reasoning=1, answer=0)
        wait = 0.0 if not usd_per_s else None if pace is None else usd_per_s * pace.s_per_token
        if cost is None and not wait:
            reason = "utility: neither a price nor what waiting costs is known: the caller's own parameters"
            return Budget(stop=self.stop, reasons=(reason,))
        missing = [name for name, known in (("price", cost), ("speed", wait)) if known is None]
        note = "".join(f" ({name} unknown, counted as nothing)" for name in missing)
        rate = ((cost or 0.0) + (wait or 0.0)) / self.usd_per_correct
        return exchanged(rate, f"utility{note}", stop=self.stop, situation=situation)

    def __str__(self) -> str:
        return named(f"utility:{exact(self.usd_per_correct)}", self.stop)


@dataclass(frozen=True, slots=True)
class Exchange(Named):
    """:class:`Utility` at a fixed exchange rate, which needs no price and no speed.

    ``rate`` is the probability of a right answer that 1,000 tokens of thinking have to bring: 0 leaves
    thinking alone, and the larger it is, the cheaper the policy.
    """

    rate: float
    stop: str = "safe"

    @property
    def needs_estimate(self) -> bool:
        return True

    def __post_init__(self) -> None:
        if not 0 <= self.rate < math.inf:
            raise ConfigError(
                f"exchange:{self.rate}: the gain in p(correct) that 1,000 tokens have to bring is a number "
                "from 0"
            )

    def budget(self, situation: Situation) -> Budget:
        return exchanged(self.rate / 1000, "exchange", stop=self.stop, situation=situation)

    def __str__(self) -> str:
        return named(f"exchange:{exact(self.rate)}", self.stop)


def exchanged(per_token: float, name: str, *, stop: str, situation: Situation) -> Budget:
    """Return the budget with the largest ``p_correct - per_token * expected tokens of thinking``.

    Options are scanned from cheap to dear and a dearer one wins ties, so that the budget never grows with
    ``per_token``: for two options, the condition ``gain >= per_token * extra tokens`` only gets harder. The
    expected tokens under a cap are ``E[min(natural, cap)]``, over 16 quantiles of the natural length.
    """
    estimate, facts = situation.estimate, situation.facts
    if estimate is None:
        return no_estimate(stop)
    floor = 0.0 if facts.leak_ratio is None else facts.leak_ratio * estimate.natural.p50
    caps = [cap for cap in CAPS if cap >= floor] if facts.can_cap or facts.efforts else []
    options: list[int | None] = [*([0] if facts.can_switch_off else []), *caps, None]
    lengths = [estimate.natural.at(q) for q in _MIDPOINTS]
    best: tuple[int | None, float, float] | None = None
    for cap in options:
        p = estimate.p_correct(cap)
        tokens = sum(lengths if cap is None else (min(length, cap) for length in lengths)) / len(lengths)
        # The slack undoes rounding: a cap beyond the longest thought is no cap.
        if best is None or p - best[1] + 1e-12 >= per_token * (tokens - best[2]):
            best = cap, p, tokens
    assert best is not None
    cap, p, tokens = best
    what = "no cap" if cap is None else f"{cap} tokens" if cap else "off"
    reason = (
        f"{name}: {what}; p(correct) {p:.3f} for {tokens:.0f} tokens, worth {1000 * per_token:.3g} per 1,000"
    )
    return Budget(reasoning_tokens=cap, stop=stop, reasons=(reason,))
