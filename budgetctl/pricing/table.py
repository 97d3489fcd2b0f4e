"""The price table, and what it makes of a call's tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files

from budgetctl.pricing import library
from budgetctl.pricing.row import Given, PriceRow, parse, read
from budgetctl.types import Price, Usage

_REMEMBERED = 1000


class Prices:
    """A price table; the first row that names a model is its price.

    ``place`` in its methods is where a call goes, a base URL or a kind of endpoint. Rows go by the model's
    name alone. The library's prices are those of a provider, so with a place that is none of its providers
    there is no price, and without one the name has to tell.

    Args:
        rows: The table, from the row that is tried first.
        beyond: Returns the row of a model at a place for models that no row names.
    """

    def __init__(
        self,
        rows: Sequence[PriceRow],
        *,
        beyond: Callable[[str, str | None], PriceRow | None] = lambda model, place: None,
    ) -> None:
        self.rows = tuple(rows)
        self._beyond = beyond
        self._found: dict[str, PriceRow | None] = {}

    @classmethod
    def load(cls, extra: Given | None = None) -> Prices:
        """Return the table that ships with the package, below the rows of ``extra`` and above the library.

        Args:
            extra: A TOML file with ``[[price]]`` tables, or a mapping from name patterns to prices.

        Raises:
            ConfigError: A file that cannot be read, or a row that cannot be a price.
        """
        return cls((*read(extra), *_shipped()), beyond=library.row)

    def row(self, model: str | None, *, place: str | None = None) -> PriceRow | None:
        """Return the row that prices ``model``, which says where the price comes from; None for none."""
        if model is None:
            return None
        try:
            found = self._found[model]
        except KeyError:
            found = next((row for row in self.rows if row.names(model)), None)
            if len(self._found) < _REMEMBERED:
                self._found[model] = found
        return self._beyond(model, place) if found is None else found

    def lookup(
        self, model: str | None, *, place: str | None = None, prompt_tokens: float | None = None
    ) -> Price | None:
        """Return the price of a call of ``model``, or None where nothing names it."""
        row = self.row(model, place=place)
        return None if row is None else row.at(prompt_tokens)

    def cost(
        self, model: str | None, usage: Usage, *, place: str | None = None, again: int = 0
    ) -> float | None:
        """Return the dollars that ``usage`` costs, or None where the price or a count is unknown.

        Where only the sum of reasoning and answer is known it is enough, unless reasoning has its own price.
        Where nobody says how much of the prompt was cached, all of it is charged as if none were.

        Args:
            again: Prompt tokens of further requests in ``usage``: the tier is that of the first one's prompt.
        """
        price = self.lookup(model, place=place, prompt_tokens=(usage.prompt_tokens or 0) - again)
        if price is None or usage.prompt_tokens is None:
            return None
        reasoning, answer = usage.reasoning_tokens, usage.answer_tokens
        if reasoning is None or answer is None:
            if usage.output_tokens is None or price.reasoning is not None:
                return None
            reasoning, answer = 0, usage.output_tokens
        cached = min(usage.cached_tokens or 0, usage.prompt_tokens)
        written = min(usage.cache_write_tokens or 0, usage.prompt_tokens - cached)
        return price.cost(
            prompt=usage.prompt_tokens, reasoning=reasoning, answer=answer, cached=cached, written=written
        )

    def cache_lost(
        self, model: str | None, usage: Usage, tokens: int, *, place: str | None = None
    ) -> float | None:
        """Return the dollars that ``usage`` costs more because ``tokens`` more were not read from the cache.

        None where the price, its rate for cached input or a count is unknown.
        """
        price = self.lookup(model, place=place, prompt_tokens=usage.prompt_tokens)
        cost = self.cost(model, usage, place=place)
        if price is None or price.cached_input is None or cost is None:
            return None
        read_too = replace(
            usage,
            cached_tokens=(usage.cached_tokens or 0) + tokens,
            cache_write_tokens=max(0, (usage.cache_write_tokens or 0) - tokens),
        )
        return cost - (self.cost(model, read_too, place=place) or 0.0)


@cache
def _shipped() -> tuple[PriceRow, ...]:
    text = files("budgetctl").joinpath("prices.toml").read_text(encoding="utf-8")
    return parse(text, where="budgetctl/prices.toml")
