"""What models cost: list prices that ship with the package, and rows of your own that win over them.

    Prices.load().lookup("gpt-5-mini")                              # Price(input=0.25, output=2.0, ...)
    Prices.load({"my-model*": {"input": 0.4, "output": 1.6}})
    Prices.load("prices.toml")                                      # [[price]] tables as in prices.toml here

A model that no row names has no price: its cost is None, never zero.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from budgetctl.errors import ConfigError
from budgetctl.types import Price, Usage

_REMEMBERED = 1000
_RATES = ("input", "output", "reasoning", "cached_input", "cache_write")
_KEYS = ("match", "provider", *_RATES, "source", "verified_on")


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceRow:
    """One row of a price table.

    Attributes:
        match: fnmatch patterns of model names.
        provider: A name that may stand before the model's, with a slash: ``openai/gpt-5``.
        source: Where the price was read.
        verified_on: When it was last compared with its source.
    """

    match: tuple[str, ...]
    price: Price
    provider: str | None = None
    source: str | None = None
    verified_on: date | None = None

    def names(self, model: str) -> bool:
        """Return whether this row names ``model``."""
        bare = model.removeprefix(f"{self.provider}/") if self.provider else model
        return any(fnmatchcase(bare, pattern) or fnmatchcase(model, pattern) for pattern in self.match)


class Prices:
    """A price table; the first row that names a model is its price.

    Args:
        rows: The table, from the row that is tried first.
    """

    def __init__(self, rows: Sequence[PriceRow]) -> None:
        self.rows = tuple(rows)
        self._found: dict[str, Price | None] = {}

    @classmethod
    def load(
        cls, extra: str | os.PathLike[str] | Mapping[str, Price | Mapping[str, Any]] | None = None
    ) -> Prices:
        """Return the table that ships with the package, below the rows of ``extra``.

        Args:
            extra: A TOML file with ``[[price]]`` tables, or a mapping from name patterns to prices.

        Raises:
            ConfigError: A file that cannot be read, or a row that cannot be a price.
        """
        return cls((*_rows(extra), *_shipped()))

    def lookup(self, model: str | None) -> Price | None:
        """Return the price of ``model``, or None where no row names it."""
        if model is None:
            return None
        try:
            return self._found[model]
        except KeyError:
            price = next((row.price for row in self.rows if row.names(model)), None)
        if len(self._found) < _REMEMBERED:
            self._found[model] = price
        return price

    def cost(self, model: str | None, usage: Usage) -> float | None:
        """Return the dollars that ``usage`` costs, or None where the price or a count is unknown.

        Where only the sum of reasoning and answer is known it is enough, unless reasoning has its own price.
        Where nobody says how much of the prompt was cached, all of it is charged as if none were.
        """
        price = self.lookup(model)
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

    def cache_lost(self, model: str | None, usage: Usage, tokens: int) -> float | None:
        """Return the dollars that ``usage`` costs more because ``tokens`` more were not read from the cache.

        None where the price, its rate for cached input or a count is unknown.
        """
        price, cost = self.lookup(model), self.cost(model, usage)
        if price is None or price.cached_input is None or cost is None:
            return None
        read = replace(
            usage,
            cached_tokens=(usage.cached_tokens or 0) + tokens,
            cache_write_tokens=max(0, (usage.cache_write_tokens or 0) - tokens),
        )
        return cost - (self.cost(model, read) or 0.0)


@cache
def _shipped() -> tuple[PriceRow, ...]:
    text = files("budgetctl").joinpath("prices.toml").read_text(encoding="utf-8")
    return _table(tomllib.loads(text), where="budgetctl/prices.toml")


def _rows(extra: str | os.PathLike[str] | Mapping[str, Any] | None) -> tuple[PriceRow, ...]:
    if extra is None:
        return ()
    if isinstance(extra, Mapping):
        return tuple(_named(pattern, price) for pattern, price in extra.items())
    path = Path(extra)
    try:
        return _table(tomllib.loads(path.read_text(encoding="utf-8")), where=str(path))
    except OSError as error:
        raise ConfigError(f"prices: {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def _named(pattern: str, price: Price | Mapping[str, Any]) -> PriceRow:
    if isinstance(price, Price):
        return PriceRow(match=(pattern,), price=price)
    where = f"prices[{pattern!r}]"
    if not isinstance(price, Mapping):
        raise ConfigError(f"{where}: seen {price!r}, allowed: {', '.join(_RATES)} in USD per million")
    return _row({"match": [pattern], **price}, where=where)


def _table(data: Mapping[str, Any], *, where: str) -> tuple[PriceRow, ...]:
    unknown = sorted(set(data) - {"price"})
    rows = data.get("price", [])
    if unknown or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        seen = unknown or "price that is no list of tables"
        raise ConfigError(f"{where}: seen {seen}, allowed: [[price]] tables only")
    return tuple(_row(row, where=f"{where}: price[{i}]") for i, row in enumerate(rows))


def _row(row: Mapping[str, Any], *, where: str) -> PriceRow:
    for key in row:
        if key not in _KEYS:
            raise ConfigError(f"{where}.{key}: unknown key, allowed: {', '.join(_KEYS)}")
    asked = ("input", "output", *(key for key in _RATES[2:] if key in row))
    return PriceRow(
        match=_patterns(row.get("match"), where=f"{where}.match"),
        price=Price(**{key: _rate(row.get(key), where=f"{where}.{key}") for key in asked}),
        provider=row.get("provider"),
        source=row.get("source"),
        verified_on=row.get("verified_on"),
    )


def _rate(value: Any, *, where: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise ConfigError(f"{where}: seen {value!r}, allowed: USD per million tokens, a number >= 0")
    return float(value)


def _patterns(value: Any, *, where: str) -> tuple[str, ...]:
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, Sequence) or not patterns or not all(isinstance(p, str) for p in patterns):
        raise ConfigError(f"{where}: seen {value!r}, allowed: a model name pattern or a list of them")
    return tuple(patterns)
