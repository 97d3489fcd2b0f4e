"""What may be spent: limits over windows, as settings that can stand in a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from budgetctl.errors import ConfigError
from budgetctl.ledger.windows import Window

Dimension = Literal["key", "route", "tenant"]
Unit = Literal["usd", "tokens"]
EACH = "*"
MICRO = 1_000_000
MOST = 10**15
"""The most units of a limit or a call: sums of them are exact also where numbers are doubles."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class SpendLimit(_Table):
    """What calls may spend together in a window: dollars or tokens."""

    name: str = Field(pattern=r"^[A-Za-z][\w-]*$")
    """Names the limit in errors; what was spent under it is found again by name, scope, unit and window."""

    window: str
    """`day` or `month` of the calendar in UTC, or the last seconds, minutes, hours, days: `90s 15m 5h 7d`."""

    usd: float | None = Field(default=None, ge=0, le=MOST / MICRO)
    """Dollars; kept in whole millionths, and every call is rounded up to one."""

    tokens: int | None = Field(default=None, ge=0, le=MOST)
    """Tokens of prompt, thinking and answer."""

    scope: Mapping[Dimension, str] = Field(default_factory=dict)
    """The calls it is for: `{route = "support"}` those of one route, `{tenant = "*"}` those of each tenant by
    itself, where all that name no tenant share one account. Without a scope it is for all calls together."""

    exceeded: Literal["refuse", "cheaper"] = "refuse"
    """`refuse` raises LimitExceeded; `cheaper` first tries the cheaper rungs that the call offers, if any."""

    @field_validator("usd", "tokens", mode="before")
    @classmethod
    def _is_an_amount(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("an amount")
        return value

    @field_validator("window")
    @classmethod
    def _is_a_window(cls, value: str) -> str:
        Window.parse(value)
        return value

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        if (self.usd is None) == (self.tokens is None):
            raise ValueError("say either usd or tokens")
        return self

    @property
    def unit(self) -> Unit:
        """What it counts."""
        return "usd" if self.tokens is None else "tokens"

    @property
    def units(self) -> int:
        """What may be spent: tokens, or millionths of a dollar."""
        return round((self.usd or 0.0) * MICRO) if self.tokens is None else self.tokens

    def shown(self, units: int) -> float:
        """Return units as dollars, or as the tokens that they are."""
        return units / MICRO if self.unit == "usd" else units

    def account(self, subject: Mapping[Dimension, str | None]) -> str | None:
        """Return the name of the account that a call is counted under; None where the limit is not for it.

        Keys may be secrets, so the name holds a hash.
        """
        if any(wanted not in (EACH, subject.get(name)) for name, wanted in self.scope.items()):
            return None
        values = {name: subject.get(name) for name in sorted(self.scope)}
        digest = hashlib.blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()
        return f"{self.name}:{self.unit}:{self.window}:{digest}"


class LedgerSettings(_Table):
    """Limits on what calls spend together."""

    limits: tuple[SpendLimit, ...] = ()
    """A call has to keep all those that are for it."""

    hold_s: float = Field(default=900.0, ge=1, le=7 * 86_400)
    """Seconds after which a reservation that nobody settled is given back: longer than any call takes."""

    unknown_price: Literal["refuse", "tokens"] = "refuse"
    """A model without a price under a limit in dollars: `refuse` it, or count it under limits in `tokens`
    alone, of which there has to be one."""

    worst_output_tokens: int = Field(default=32_768, ge=1, le=MOST)
    """What a call is taken to generate at most where it sends no output limit, nothing caps its thinking and
    the capability table does not know how long its model thinks."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [limit.name for limit in self.limits]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"several limits are named {', '.join(twice)}")
        return self

    @classmethod
    def of(cls, settings: LedgerSettings | Mapping[str, Any]) -> LedgerSettings:
        """Return settings, from a mapping such as a table of a TOML file.

        Raises:
            ConfigError: A key or a value is not allowed.
        """
        if isinstance(settings, LedgerSettings):
            return settings
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise ConfigError("\n".join(_explain(dict(e)) for e in error.errors())) from None


def _explain(error: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "ledger"
    seen = "" if isinstance(error["input"], dict) else f", seen {error['input']!r}"
    return f"{where}: {error['msg']}{seen}"
