"""The families that can be certified: policies in a fixed order, from safest to cheapest.

Each is ordered by one number, lambda, that no data has touched: 0 is full thinking, which is never tested
because it is what is compared with, and the larger lambda, the cheaper the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Family = Literal["caps", "utility"]

CAPS = tuple(round(2 ** (k / 2)) for k in range(34, 9, -1))
"""Uniform caps: 131,072 down to 32 tokens in steps of the square root of 2."""
RATES = tuple(float(f"{0.001 * 2 ** (k / 2):.4g}") for k in range(31))
"""Exchange rates: 0.001 to 32.77 probability of a right answer per 1,000 tokens, in the same steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One policy of a family and its place in it."""

    policy: str
    lambda_: float


def members(family: Family, *, stop: str, off: bool) -> tuple[Member, ...]:
    """Return the members of a family, safest first.

    ``caps``: the same cap N for every call, ``lambda = 1000 / (1000 + N)``, and at lambda = 1 thinking off.
    ``utility``: the policy ``exchange:lambda``, which is :class:`~budgetctl.policy.Utility` at a fixed
    exchange rate.

    Args:
        stop: Stop preset of all members.
        off: Thinking can be switched off.
    """
    suffix = "" if stop == "safe" else f"+stop:{stop}"
    if family == "utility":
        return tuple(Member(policy=f"exchange:{rate:g}{suffix}", lambda_=rate) for rate in RATES)
    caps = [Member(policy=f"cap:{cap}{suffix}", lambda_=round(1000 / (1000 + cap), 6)) for cap in CAPS]
    without = [Member(policy="off" if stop == "none" else f"off+stop:{stop}", lambda_=1.0)] if off else []
    return (*caps, *without)
