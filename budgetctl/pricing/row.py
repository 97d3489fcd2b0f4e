"""One row of a price table, and how it is read."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from budgetctl.errors import ConfigError
from budgetctl.types import Price

_RATES = ("input", "output", "reasoning", "cached_input", "cache_write")
_HOURLY = ("usd_per_hour", "tokens_per_s", "prompt_tokens_per_s")
_KEYS = ("match", "provider", *_RATES, "tiers", *_HOURLY, "source", "verified_on")

Given = str | os.PathLike[str] | Mapping[str, Price | Mapping[str, Any]]
"""Rows as a user gives them: a TOML file, or a mapping from name patterns to prices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceRow:
    """One row of a price table.

    Attributes:
        match: fnmatch patterns of model names.
        tiers: Prices of calls whose prompt is longer than so many tokens, shortest first; such a call is
            charged at that price from its first token on.
        provider: A name that may stand before the model's, with a slash: ``openai/gpt-5``.
        source: Where the price was read.
        verified_on: When it was last compared with its source.
    """

    match: tuple[str, ...]
    price: Price
    tiers: tuple[tuple[int, Price], ...] = ()
    provider: str | None = None
    source: str
    verified_on: date | None = None

    def names(self, model: str) -> bool:
        """Return whether this row names ``model``."""
        bare = model.removeprefix(f"{self.provider}/") if self.provider else model
        return any(fnmatchcase(bare, pattern) or fnmatchcase(model, pattern) for pattern in self.match)

    def at(self, prompt_tokens: float | None) -> Price:
        """Return the price of a call with that long a prompt; None is a short one."""
        reached = [price for above, price in self.tiers if (prompt_tokens or 0) > above]
        return reached[-1] if reached else self.price


def read(given: Given | None) -> tuple[PriceRow, ...]:
    """Return the rows that a user gives.

    Raises:
        ConfigError: A file that cannot be read, or a row that cannot be a price.
    """
    if given is None:
        return ()
    if isinstance(given, Mapping):
        return tuple(_named(pattern, price) for pattern, price in given.items())
    path = Path(given)
    try:
        return parse(path.read_text(encoding="utf-8"), where=str(path))
    except OSError as error:
        raise ConfigError(f"prices: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def parse(text: str, *, where: str) -> tuple[PriceRow, ...]:
    """Return the rows of a TOML file.

    Raises:
        ConfigError: As :func:`read`.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: not TOML: {error}") from error
    unknown = sorted(set(data) - {"price"})
    rows = data.get("price", [])
    if unknown or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        seen = unknown or "price that is no list of tables"
        raise ConfigError(f"{where}: seen {seen}, allowed: [[price]] tables only")
    return tuple(_row(row, where=f"{where}: price[{i}]") for i, row in enumerate(rows))


def _named(pattern: str, price: Price | Mapping[str, Any]) -> PriceRow:
    where = f"prices[{pattern!r}]"
    if isinstance(price, Price):
        return PriceRow(match=(pattern,), price=price, source=where)
    if not isinstance(price, Mapping):
        raise ConfigError(
            f"{where}: seen {price!r}, allowed: {', '.join(_RATES)} in USD per million, or "
            f"{', '.join(_HOURLY)}"
        )
    return _row({"match": [pattern], **price}, where=where)


def _row(row: Mapping[str, Any], *, where: str) -> PriceRow:
    _known(row, _KEYS, where=where)
    provider = row.get("provider")
    if provider is not None and not isinstance(provider, str):
        raise ConfigError(f"{where}.provider: seen {provider!r}, allowed: a name")
    return PriceRow(
        match=_patterns(row.get("match"), where=f"{where}.match"),
        price=_hourly(row, where=where) if any(key in row for key in _HOURLY) else _rates(row, where=where),
        tiers=_tiers(row.get("tiers", []), where=f"{where}.tiers"),
        provider=provider,
        source=row.get("source") or where,
        verified_on=row.get("verified_on"),
    )


def _rates(row: Mapping[str, Any], *, where: str) -> Price:
    asked = ("input", "output", *(key for key in _RATES[2:] if key in row))
    allowed = "USD per million tokens, a number >= 0"
    return Price(**{key: _number(row.get(key), where=f"{where}.{key}", allowed=allowed) for key in asked})


def _hourly(row: Mapping[str, Any], *, where: str) -> Price:
    mixed = [key for key in (*_RATES, "tiers") if key in row]
    if mixed:
        raise ConfigError(f"{where}.{mixed[0]}: not beside a price per hour, allowed: {', '.join(_HOURLY)}")
    given = {
        key: _number(
            row.get(key),
            where=f"{where}.{key}",
            allowed="USD, a number >= 0" if key == "usd_per_hour" else "tokens per second, a number > 0",
            positive=key != "usd_per_hour",
        )
        for key in _HOURLY
        if key in row or key != "prompt_tokens_per_s"
    }
    return Price.hourly(given.pop("usd_per_hour"), **given)


def _tiers(value: Any, *, where: str) -> tuple[tuple[int, Price], ...]:
    if not isinstance(value, Sequence) or not all(isinstance(tier, Mapping) for tier in value):
        raise ConfigError(f"{where}: seen {value!r}, allowed: a list of tables with above, input, output ...")
    found = []
    for i, tier in enumerate(value):
        at, above = f"{where}[{i}]", tier.get("above")
        _known(tier, ("above", *_RATES), where=at)
        if not isinstance(above, int) or isinstance(above, bool) or above < 1:
            raise ConfigError(f"{at}.above: seen {above!r}, allowed: tokens of the prompt, 1 or more")
        found.append((above, _rates(tier, where=at)))
    return tuple(sorted(found, key=lambda tier: tier[0]))


def _known(row: Mapping[str, Any], allowed: Sequence[str], *, where: str) -> None:
    for key in row:
        if key not in allowed:
            raise ConfigError(f"{where}.{key}: unknown key, allowed: {', '.join(allowed)}")


def _number(value: Any, *, where: str, allowed: str, positive: bool = False) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0 or (positive and value == 0):
        raise ConfigError(f"{where}: seen {value!r}, allowed: {allowed}")
    return float(value)


def _patterns(value: Any, *, where: str) -> tuple[str, ...]:
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, Sequence) or not patterns or not all(isinstance(p, str) for p in patterns):
        raise ConfigError(f"{where}: seen {value!r}, allowed: a model name pattern or a list of them")
    return tuple(patterns)
