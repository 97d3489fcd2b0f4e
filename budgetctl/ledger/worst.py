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

BYTES_PER_TOKEN = 3
"""Of prompts, in UTF-8. English has about four, code fewer, and a Chinese character is about one token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstCase:
    """The most that one call may use.

    Attributes:
        model: Whose price it has.
        prompt_tokens: Of the prompt.
        output_tokens: Of thinking and answer together.
        place: Where it goes, a base URL or a kind of endpoint, where prices depend on that.

    Raises:
        ConfigError: A count is no whole number from 0 to 10^15.
    """

    model: str | None = None
    prompt_tokens: int
    output_tokens: int
    place: str | None = None

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "output_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST:
                raise ConfigError(f"{name}: seen {value!r}, allowed: a whole number from 0 to {MOST}")

    @classmethod
    def of(
        cls,
        query: Query,
        budget: Budget,
        *,
        output_limit: int | None = None,
        natural_tokens: int | None = None,
        answer_tokens: int | None = None,
    ) -> Self:
        """Return the worst case of a call under a budget.

        Its output is the output limit that is sent, which alone bounds it for certain; else the cap on its
        thinking, with grace, and the reserve for the answer; else a long thought of the model's and that
        reserve. The prompt is estimated from its length.

        Args:
            query: The call.
            budget: What was decided for it.
            output_limit: The output limit that is sent, if one is.
            natural_tokens: How long the model thinks at most by itself, if known.
            answer_tokens: The reserve for the answer where the budget names none.

        Raises:
            ConfigError: Nothing bounds the thinking.
        """
        output = output_limit
        if output is None:
            cap = budget.reasoning_tokens
            thinking = natural_tokens if cap is None else with_grace(cap)
            if thinking is None:
                raise ConfigError(
                    "output_limit: a call without a cap on its thinking has no worst case otherwise"
                )
            output = thinking + (budget.answer_tokens or answer_tokens or ANSWER_TOKENS)
        return cls(model=query.model, prompt_tokens=_prompt_tokens(query), output_tokens=output)

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


def _prompt_tokens(query: Query) -> int:
    """Estimate the tokens of a prompt: its characters, with the bytes that those of the last turns have."""
    known = "".join([query.text, *(turn.text for turn in query.recent)])
    weight = len(known.encode("utf-8", "replace")) / len(known) if known else 1.0
    return math.ceil(query.total_chars * weight / BYTES_PER_TOKEN)


def micros(usd: float) -> int:
    """Return dollars as whole millionths, rounded up; noise of the float below a millionth of one is none.

    Raises:
        ConfigError: It is no amount of money.
    """
    if not isinstance(usd, int | float) or isinstance(usd, bool) or not 0 <= usd <= MOST / MICRO:
        raise ConfigError(f"cost: seen {usd!r}, allowed: dollars from 0 to {MOST // MICRO:,}")
    return math.ceil(round(usd * MICRO, 6))
