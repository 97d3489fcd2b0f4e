"""The ledger for blocking code."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from budgetctl.errors import ConfigError, brief
from budgetctl.ledger.book import Asked, Book, Standing, standings
from budgetctl.ledger.limits import LedgerSettings, SpendLimit
from budgetctl.ledger.memory import MemoryStore
from budgetctl.ledger.reservation import Held, Settlement, logger
from budgetctl.ledger.store import SETTLED, Store
from budgetctl.ledger.worst import WorstCase
from budgetctl.pricing import Prices
from budgetctl.types import Usage


class Ledger:
    """Reserves what calls may cost, within limits, and settles what they have cost.

    Args:
        settings: The limits, or a mapping such as a table of a TOML file.
        store: Keeps the accounts; None keeps them in memory. Ledgers with different settings may share one:
            what was spent is found again under a limit's name, scope, unit and window.
        prices: What models cost; None loads the table that ships with the package.

    Raises:
        ConfigError: The settings cannot work.
    """

    def __init__(
        self,
        settings: LedgerSettings | Mapping[str, Any],
        *,
        store: Store | None = None,
        prices: Prices | None = None,
    ) -> None:
        self._book = Book(settings, prices)
        self.settings = self._book.settings
        self.store: Store = MemoryStore() if store is None else store
        if not all(callable(getattr(self.store, name, None)) for name in ("reserve", "settle", "read")):
            raise ConfigError(
                f"store: seen {type(store).__name__}, allowed: RedisStore.from_url(...), or a Store"
            )
        self._owed: deque[Reservation] = deque()

    def reserve(
        self,
        worst: WorstCase | Sequence[WorstCase],
        *,
        key: str | None = None,
        route: str | None = None,
        tenant: str | None = None,
        hold_s: float | None = None,
        enforce: bool = True,
        prices: Prices | None = None,
    ) -> Reservation:
        """Reserve the worst case of a call under every limit that is for it, or under none.

        Args:
            worst: The most that the call may use; or several rungs, the preferred one first, of which the
                first that fits is taken where the limits in the way say ``cheaper``.
            key: Who pays.
            route: Name of the traffic.
            tenant: Whom it is for.
            hold_s: Seconds until the reservation is given back if nobody settles it; None: as configured.
            enforce: Refuse where a limit has no room; otherwise it is reserved all the same.
            prices: What models cost; None takes the ledger's own.

        Raises:
            LimitExceeded: A limit has no room. The call must not be made.
            ConfigError: A price is unknown and the settings refuse that, or an argument cannot work.
            Exception: What the store raises; nothing is known to be reserved, and the call must not be made.
        """
        asked = self._book.ask(
            worst,
            {"key": key, "route": route, "tenant": tenant},
            hold_s=hold_s,
            enforce=enforce,
            prices=prices,
        )
        reply: Sequence[int] = (0,)
        if asked.accounts:
            self._deliver()
            reply = self.store.reserve(asked.id, asked.accounts, asked.units, hold_ms=asked.hold_ms)
        return Reservation(self._book, asked, reply, self._owed, self.store)

    def _deliver(self) -> None:
        """Charge what could not be charged when its calls ended: it counts before anything is admitted."""
        while self._owed:
            try:
                held = self._owed.popleft()
            except IndexError:  # another thread was faster
                return
            held.settle()

    def limits(
        self, *, key: str | None = None, route: str | None = None, tenant: str | None = None
    ) -> tuple[SpendLimit, ...]:
        """Return the limits that are for such calls."""
        found = self._book.accounts({"key": key, "route": route, "tenant": tenant})
        return tuple(limit for limit, _ in found)

    def standing(
        self, *, key: str | None = None, route: str | None = None, tenant: str | None = None
    ) -> tuple[Standing, ...]:
        """Return how the limits stand that are for such calls."""
        found = list(self._book.accounts({"key": key, "route": route, "tenant": tenant}))
        return standings([limit for limit, _ in found], self.store.read([account for _, account in found]))


class Reservation(Held):
    """What :meth:`Ledger.reserve` returns. As a context manager it does not outlive the block.

    A block that raises releases it; a block that ends without a word is charged the worst case. A call that
    was cut short and has cost something is settled inside.
    """

    def __init__(
        self, book: Book, asked: Asked, reply: Sequence[int], owed: deque[Reservation], store: Store
    ) -> None:
        super().__init__(book, asked, reply, owed)
        self._store = store

    def settle(self, usage: Usage | None = None, cost: float | None = None) -> Settlement:
        """Charge what the call has used in the place of what was reserved.

        Args:
            usage: Its tokens. What is unknown of them is charged as it was reserved.
            cost: Dollars; None works them out from the usage and the price of the rung's model.

        Raises:
            ConfigError: The cost is no amount of money, or the tokens are no count.
            Exception: What the store raises. Settle again, and it is charged once; otherwise the ledger does
                so before it reserves anything else.
        """
        return self._send(self._bill(usage, cost))

    def release(self) -> Settlement:
        """Give everything back: the call was not made, or was not charged.

        Raises:
            Exception: What the store raises; as for :meth:`settle`.
        """
        return self._send(self._waive())

    def _send(self, charges: Sequence[int]) -> Settlement:
        if self._done:
            return "again"
        reply: Sequence[int] = (SETTLED,)
        if self._claims:
            try:
                reply = self._store.settle(self.id, self._claims, charges)
            except BaseException:
                self._owed.append(self)
                raise
        return self._said(reply)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.settle()
            return
        try:
            self.release()
        except Exception as failed:  # the block's own error is the one to see
            logger.warning("a reservation is not given back yet: %s", brief(failed))
