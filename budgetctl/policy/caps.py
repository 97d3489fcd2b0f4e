"""From a number of tokens to a budget that this model can be given."""

from __future__ import annotations

from budgetctl.policy.base import Situation
from budgetctl.types import Budget

MAX_CAP = 10_000_000
CAPS = tuple(32 * 4**k for k in range(10))
"""The caps that ``tiered``, ``utility`` and ``exchange`` choose from: 32, 128, 512, 2,048 and so on."""
ANSWER_RESERVE = 512
"""Tokens kept for the answer when the model's own answer lengths are unknown."""


def at_most(tokens: int, *reasons: str, stop: str, situation: Situation) -> Budget:
    """Return the budget of at most ``tokens`` of thinking, at none of as little as the model allows."""
    facts = situation.facts
    if tokens < 1 and (facts.can_switch_off or not facts.can_cap):
        return Budget(reasoning_tokens=0, stop=stop, reasons=reasons)
    # A model that cannot be switched off, but capped, thinks one token.
    return capped(min(max(tokens, 1), MAX_CAP), *reasons, stop=stop, situation=situation)


def capped(tokens: int, *reasons: str, stop: str, situation: Situation) -> Budget:
    """Cap, unless this model is known to leak reasoning into the answer when cut so short."""
    facts, estimate = situation.facts, situation.estimate
    if facts.leak_ratio is not None and estimate is not None and facts.can_switch_off:
        floor = facts.leak_ratio * estimate.natural.p50
        if tokens < floor:
            note = f"{tokens} is below the {floor:.0f} tokens under which this model leaks: off"
            return Budget(reasoning_tokens=0, stop=stop, reasons=(*reasons, note))
    return Budget(reasoning_tokens=tokens, stop=stop, reasons=reasons)


def no_estimate(stop: str) -> Budget:
    """Return the budget of a policy that needs an estimate and has none."""
    return Budget(stop=stop, reasons=("no estimate to rely on: the caller's own parameters",))
