"""The rung to begin with: expected utility over (model, thinking) pairs, the cost of drafts included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from budgetctl.errors import ConfigError
from budgetctl.ladder.rungs import Ladder, is_number
from budgetctl.policy import ANSWER_RESERVE, Situation, expect, parse


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What was measured of a rung's drafts.

    Attributes:
        accepted: The share that is accepted.
        right: The share of these that is right.

    Raises:
        ConfigError: One is no share.
    """

    accepted: float
    right: float = 1.0

    def __post_init__(self) -> None:
        for name, share in (("accepted", self.accepted), ("right", self.right)):
            if not (is_number(share) and 0 <= share <= 1):
                raise ConfigError(f"{name}: seen {share!r}, allowed: a share from 0 to 1")


def start_rung(
    ladder: Ladder,
    situations: Sequence[Situation],
    *,
    usd_per_correct: float,
    rates: Sequence[Rates] | None = None,
) -> int:
    """Return the rung with the largest ``usd_per_correct * p_correct - cost - usd_per_s * latency``.

    This is the formula of the policy ``utility``, of the whole climb that begins there: ``cost`` and
    ``latency`` are those of each rung, weighted with the probability of reaching it. Rungs are taken to be
    nested: what a draft gets right, the rungs above get right, too. So ``p_correct`` of the climb is that of
    the last rung, less the accepted drafts that are wrong. Of equals the lower rung is taken.

    Args:
        ladder: The ladder.
        situations: What is known of the query at each rung: the estimate is its model's, and so are price and
            pace. ``usd_per_s`` of the limits is what a second costs.
        usd_per_correct: What a right answer is worth, in dollars.
        rates: Of each rung, where they were measured; without, a draft is accepted if it is right.

    Returns:
        The place of a rung; 0 where the estimate of one is unknown. A cost that is not known counts as that
        of the rung below, than which it is not less, and as nothing on the first one.

    Raises:
        ConfigError: A sequence has not one item for each rung, or ``usd_per_correct`` is no amount.
    """
    check_worth(ladder, usd_per_correct, rates)
    if len(situations) != len(ladder.rungs):
        allowed = f"{len(ladder.rungs)}, one for each rung"
        raise ConfigError(f"situations: seen {len(situations)}, allowed: {allowed}")
    p_correct: list[float] = []
    costs: list[float] = []
    for rung, situation in zip(ladder.rungs, situations, strict=True):
        answer = situation.facts.answer_tokens or ANSWER_RESERVE
        situation = replace(situation, facts=replace(situation.facts, answer_tokens=answer))
        expected = expect(parse(rung.policy).budget(situation), situation)
        if expected.p_correct is None:
            return 0
        p_correct.append(expected.p_correct)
        usd_per_s = situation.limits.usd_per_s
        known = (expected.cost_usd, usd_per_s * expected.e2e_s if usd_per_s and expected.e2e_s else None)
        cost = sum(part for part in known if part is not None)
        costs.append(max(cost, costs[-1]) if costs and None in known[: 1 + bool(usd_per_s)] else cost)
    measured = rates or [Rates(accepted=p) for p in p_correct]
    utilities = [
        usd_per_correct * right - spent
        for right, spent in (_climb(start, p_correct, costs, measured) for start in range(len(costs)))
    ]
    return utilities.index(max(utilities))


def check_worth(ladder: Ladder, usd_per_correct: float, rates: Sequence[Rates] | None) -> None:
    """Refuse what a right answer cannot be worth, and rates that are not those of a ladder's rungs.

    Raises:
        ConfigError: Names it.
    """
    if not (is_number(usd_per_correct) and 0 < usd_per_correct < math.inf):
        raise ConfigError(f"usd_per_correct: seen {usd_per_correct!r}, allowed: dollars above zero")
    if rates is None:
        return
    if len(rates) != len(ladder.rungs) or not all(isinstance(rate, Rates) for rate in rates):
        allowed = f"{len(ladder.rungs)} Rates, one for each rung"
        raise ConfigError(f"rates: seen {list(rates)!r}, allowed: {allowed}")


def _climb(
    start: int, p_correct: Sequence[float], costs: Sequence[float], rates: Sequence[Rates]
) -> tuple[float, float]:
    """Return the probability of a right answer of a climb from ``start``, and what it is expected to cost."""
    reached, right, spent = 1.0, 0.0, 0.0
    for i in range(start, len(costs) - 1):
        spent += reached * costs[i]
        ends = max(0.0, rates[i].accepted - (1 - reached))  # nested: what a rung below accepts is part of it
        right += ends * rates[i].right
        reached -= ends
    return right + max(0.0, p_correct[-1] - (1 - reached)), spent + reached * costs[-1]
