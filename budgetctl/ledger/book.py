"""The arithmetic of a ledger: which limits are for a call, what it asks of them and what it is charged."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from budgetctl.errors import ConfigError, LimitExceeded
from budgetctl.ledger.limits import MOST, Dimension, LedgerSettings, SpendLimit
from budgetctl.ledger.store import NOT_COUNTED, REFUSED, Account, Claim
from budgetctl.ledger.windows import Window
from budgetctl.ledger.worst import WorstCase, micros
from budgetctl.pricing import Prices
from budgetctl.types import Usage

_NO_LIMIT = 2**53
"""More than all that may ever be spent, and still exact where numbers are doubles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one limit stands: dollars or tokens, by ``limit.unit``."""

    limit: SpendLimit
    spent: float
    held: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One reservation on its way to a store."""

    limits: Sequence[SpendLimit]
    accounts: Sequence[Account]
    rungs: Sequence[WorstCase]
    units: Sequence[Sequence[int]]
    hold_ms: int
    prices: Prices | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def admitted(self, reply: Sequence[int]) -> tuple[int, Sequence[Claim]]:
        """Return the rung that was taken, and what it holds.

        Raises:
            LimitExceeded: None was.
        """
        if reply[0] == REFUSED:
            _, index, spent, held, asked = reply
            limit = self.limits[index]
            raise LimitExceeded(
                limit=limit.name,
                window=limit.window,
                unit=limit.unit,
                amount=limit.shown(limit.units),
                spent=limit.shown(spent),
                held=limit.shown(held),
                asked=limit.shown(asked),
                cheaper=limit.exceeded == "cheaper",
            )
        held_units = self.units[reply[0]]
        return reply[0], [Claim(account=a, held=n) for a, n in zip(self.accounts, held_units, strict=True)]


class Book:
    """Settings and prices. It holds no numbers of its own."""

    def __init__(self, settings: LedgerSettings | Mapping[str, Any], prices: Prices | None) -> None:
        self.settings = LedgerSettings.of(settings)
        self._prices = prices

    @property
    def prices(self) -> Prices:
        """What models cost, loaded on first use."""
        if self._prices is None:
            self._prices = Prices.load()
        return self._prices

    def accounts(self, subject: Mapping[Dimension, str | None]) -> Iterator[tuple[SpendLimit, Account]]:
        """Return the limits that are for a call, each with the account that it is counted under.

        Raises:
            ConfigError: A key, route or tenant is no string.
        """
        for dimension, named in subject.items():
            if named is not None and not isinstance(named, str):
                raise ConfigError(f"{dimension}: seen {named!r}, allowed: a string")
        for limit in self.settings.limits:
            name = limit.account(subject)
            if name is not None:
                yield (
                    limit,
                    Account(
                        name=name,
                        window=Window.parse(limit.window),
                        limit=limit.units,
                        strict=limit.exceeded == "refuse",
                    ),
                )

    def ask(
        self,
        worst: WorstCase | Sequence[WorstCase],
        subject: Mapping[Dimension, str | None],
        *,
        hold_s: float | None,
        enforce: bool = True,
        prices: Prices | None = None,
    ) -> Asked:
        """Return what to reserve.

        Args:
            enforce: Keep the limits; otherwise there is always room.
            prices: What models cost, in the place of the book's own prices.

        Raises:
            ConfigError: No rung, a price that is not known, or a time that is none.
        """
        rungs = [worst] if isinstance(worst, WorstCase) else worst
        listed = isinstance(rungs, Sequence) and all(isinstance(rung, WorstCase) for rung in rungs)
        if not listed or not rungs:
            raise ConfigError(f"reserve: seen {worst!r}, allowed: one WorstCase or more")
        found = list(self.accounts(subject))
        limits = [limit for limit, _ in found]
        return Asked(
            limits=limits,
            accounts=[a if enforce else replace(a, limit=_NO_LIMIT) for _, a in found],
            rungs=rungs,
            units=[self._units(rung, limits, prices) for rung in rungs],
            hold_ms=_milliseconds(self.settings.hold_s if hold_s is None else hold_s),
            prices=prices,
        )

    def _units(self, rung: WorstCase, limits: Sequence[SpendLimit], prices: Prices | None) -> Sequence[int]:
        if all(limit.unit == "tokens" for limit in limits):
            return [rung.tokens] * len(limits)
        price = (prices or self.prices).lookup(rung.model, place=rung.place, prompt_tokens=rung.prompt_tokens)
        if price is None and self.settings.unknown_price == "refuse":
            raise ConfigError(
                f"the price of {rung.model!r} is unknown, and a limit is in dollars; allowed: a price for "
                "it, or unknown_price='tokens' and a limit in tokens"
            )
        if price is None and all(limit.unit == "usd" for limit in limits):
            raise ConfigError(
                f"the price of {rung.model!r} is unknown, and no limit in tokens is for the call; allowed: "
                "a price for it, or such a limit"
            )
        money = NOT_COUNTED if price is None else micros(rung.usd(price))
        return [rung.tokens if limit.unit == "tokens" else money for limit in limits]

    def bill(
        self,
        limits: Sequence[SpendLimit],
        claims: Sequence[Claim],
        *,
        worst: WorstCase,
        usage: Usage | None,
        cost: float | None,
        prices: Prices | None = None,
    ) -> Sequence[int]:
        """Return what each account is charged; what nobody knows is charged as it was reserved."""
        if usage is not None and not isinstance(usage, Usage):
            raise ConfigError(f"usage: seen {type(usage).__name__}, allowed: a budgetctl.types.Usage")
        if usage is not None and usage.prompt_tokens is None:
            usage = replace(usage, prompt_tokens=worst.prompt_tokens)
        tokens = None if usage is None else _tokens(usage)
        if tokens is not None and not 0 <= tokens <= MOST:
            raise ConfigError(f"usage: seen {tokens} tokens, allowed: from 0 to {MOST}")
        if cost is None and usage is not None and any(limit.unit == "usd" for limit in limits):
            cost = (prices or self.prices).cost(worst.model, usage, place=worst.place)
        money = None if cost is None else micros(cost)
        used = {"tokens": tokens, "usd": money}
        charged = []
        for limit, claim in zip(limits, claims, strict=True):
            known = used[limit.unit]
            charged.append(claim.held if known is None else known)
        return charged


def standings(limits: Sequence[SpendLimit], reply: Sequence[int]) -> tuple[Standing, ...]:
    """Read a store's reply."""
    pairs = zip(limits, reply[::2], reply[1::2], strict=True)
    return tuple(
        Standing(limit=limit, spent=limit.shown(spent), held=limit.shown(held))
        for limit, spent, held in pairs
    )


def _tokens(usage: Usage) -> int | None:
    output = usage.output_tokens
    if output is None and usage.reasoning_tokens is not None and usage.answer_tokens is not None:
        output = usage.reasoning_tokens + usage.answer_tokens
    return None if usage.prompt_tokens is None or output is None else usage.prompt_tokens + output


def _milliseconds(seconds: float) -> int:
    if not (isinstance(seconds, int | float) and math.isfinite(seconds) and 0.001 <= seconds <= 604_800):
        raise ConfigError(f"hold_s: seen {seconds!r}, allowed: seconds from 0.001 to 604,800")
    return round(seconds * 1_000)
