"""What a call costs at most: the number that is reserved before it is made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Self

from budgetctl.errors import ConfigError
from budgetctl.ledger.limits import MICRO, MOST
from budgetctl.stopping.criteria import ANSWER_TOKENS, with_grace
from budgetctl.types import Budget, Price, Query

CHARS_PER_TOKEN = 3
"""Of prompts. English has about four, code and other languages fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstCase:
    """The most that one call may use.

    Attributes:
        model: Whose price it has.
        prompt_tokens: Of the prompt.
        output_tokens: Of thinking and answer together.

    Raises:
        ConfigError: A count is no whole number from 0 to 10^15.
    """

    model: str | None = None
    prompt_tokens: int
    output_tokens: int

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "output_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST:
                raise ConfigError(f"{name}: seen {value!r}, allowed: a whole number from 0 to {MOST}")

    @classmethod
    def of(cls, query: Query, budget: Budget, *, output_limit: int | None = None) -> Self:
        """Return the worst case of a call under a budget: its cap with grace and the reserve for the answer.

        The prompt is estimated from its length. Only an output limit that is sent bounds the answer for
        certain; without one a longer answer is charged when it is settled.

        Args:
            query: The call.
            budget: What was decided for it.
            output_limit: The output limit that is sent, if one is.

        Raises:
            ConfigError: Neither the budget nor an output limit bounds the thinking.
        """
        cap, bounds = budget.reasoning_tokens, [] if output_limit is None else [output_limit]
        if cap is not None:
            answer = ANSWER_TOKENS if budget.answer_tokens is None else budget.answer_tokens
            bounds.append(with_grace(cap) + answer)
        if not bounds:
            raise ConfigError(
                "output_limit: a call without a cap on its thinking has no worst case otherwise"
            )
        prompt = math.ceil(query.total_chars / CHARS_PER_TOKEN)
        return cls(model=query.model, prompt_tokens=prompt, output_tokens=min(bounds))

    @property
    def tokens(self) -> int:
        """All tokens."""
        return self.prompt_tokens + self.output_tokens

    def usd(self, price: Price) -> float:
        """Return the dollars at the dearest rates: all output thinking or none, the prompt cached or not."""
        prompt, output = self.prompt_tokens, self.output_tokens
        return max(
            price.cost(prompt=prompt, reasoning=thought, answer=output - thought, written=written)
            for thought, written in product((0, output), (0, prompt))
        )


def micros(usd: float) -> int:
    """Return dollars as whole millionths, rounded up; noise of the float below a millionth of one is none.

    Raises:
        ConfigError: It is no amount of money.
    """
    if not isinstance(usd, int | float) or isinstance(usd, bool) or not 0 <= usd <= MOST / MICRO:
        raise ConfigError(f"cost: seen {usd!r}, allowed: dollars from 0 to {MOST // MICRO:,}")
    return math.ceil(round(usd * MICRO, 6))
