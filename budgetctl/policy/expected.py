"""What a budget is expected to bring."""

from __future__ import annotations

from budgetctl.policy.base import Situation
from budgetctl.types import Budget, Expected


def expect(budget: Budget, situation: Situation) -> Expected:
    """Forecast what ``budget`` brings: thinking ends at the cap or at its median natural length.

    Latency is ``ttft + tokens * s_per_token``; each number is None where a part of it is unknown.
    """
    estimate, cap = situation.estimate, budget.reasoning_tokens
    thinking = cap if cap == 0 else None
    if estimate is not None and thinking is None:
        natural = estimate.natural.p50
        thinking = round(natural if cap is None else min(natural, cap))
    answer = situation.facts.answer_tokens
    pace, price = situation.pace, situation.price
    total = None if thinking is None or answer is None else thinking + answer
    return Expected(
        p_correct=None if estimate is None else estimate.p_correct(cap),
        ttfo_s=None if pace is None or thinking is None else pace.seconds(thinking),
        e2e_s=None if pace is None or total is None else pace.seconds(total),
        cost_usd=None
        if price is None or thinking is None or answer is None
        else price.cost(prompt=situation.query.prompt_tokens, reasoning=thinking, answer=answer),
    )
