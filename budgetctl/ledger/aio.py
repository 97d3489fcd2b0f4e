"""The ledger for coroutines."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from budgetctl.errors import brief
from budgetctl.ledger.book import Asked, Book, Standing, standings
from budgetctl.ledger.limits import LedgerSettings
from budgetctl.ledger.memory import MemoryStore
from budgetctl.ledger.reservation import Held, Settlement, logger
from budgetctl.ledger.store import REFUSED, SETTLED, AsyncStore
from budgetctl.ledger.worst import WorstCase
from budgetctl.pricing import Prices
from budgetctl.types import Usage

_sending: set[asyncio.Future[Sequence[int]]] = set()


class AsyncLedger:
    """The same as :class:`~budgetctl.ledger.Ledger`, for coroutines.

    Args:
        store: Keeps the accounts; a :class:`~budgetctl.ledger.MemoryStore` may be shared with a ``Ledger``.
    """

    def __init__(
        self,
        settings: LedgerSettings | Mapping[str, Any],
        *,
        store: AsyncStore | MemoryStore | None = None,
        prices: Prices | None = None,
    ) -> None:
        self._book = Book(settings, prices)
        self.settings = self._book.settings
        self.store: AsyncStore | MemoryStore = MemoryStore() if store is None else store
        self._owed: deque[AsyncReservation] = deque()

    async def reserve(
        self,
        worst: WorstCase | Sequence[WorstCase],
        *,
        key: str | None = None,
        route: str | None = None,
        tenant: str | None = None,
        hold_s: float | None = None,
    ) -> AsyncReservation:
        """Do as :meth:`Ledger.reserve <budgetctl.ledger.Ledger.reserve>` does."""
        asked = self._book.ask(worst, {"key": key, "route": route, "tenant": tenant}, hold_s=hold_s)
        reply: Sequence[int] = (0,)
        if asked.accounts:
            while self._owed:
                await self._owed.popleft().settle()
            reply = await self._reserved(asked)
        return AsyncReservation(self._book, asked, reply, self._owed, self.store)

    async def _reserved(self, asked: Asked) -> Sequence[int]:
        """Return the store's reply. Where the task is cancelled before it has it, all is given back."""

        async def reserve() -> Sequence[int]:
            return await _reply(
                self.store.reserve(asked.id, asked.accounts, asked.units, hold_ms=asked.hold_ms)
            )

        if isinstance(self.store, MemoryStore):
            return await reserve()
        sending = _kept(reserve())
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:  # also where the reply has come and nobody got to see it
            _kept(self._give_back(asked, sending)).add_done_callback(_note)
            raise

    async def _give_back(self, asked: Asked, sending: asyncio.Future[Sequence[int]]) -> Sequence[int]:
        reply = await sending
        if reply[0] != REFUSED:
            await AsyncReservation(self._book, asked, reply, self._owed, self.store).release()
        return reply

    async def standing(
        self, *, key: str | None = None, route: str | None = None, tenant: str | None = None
    ) -> tuple[Standing, ...]:
        """Return how the limits stand that are for such calls."""
        found = list(self._book.accounts({"key": key, "route": route, "tenant": tenant}))
        reply = await _reply(self.store.read([account for _, account in found]))
        return standings([limit for limit, _ in found], reply)


class AsyncReservation(Held):
    """The same as :class:`~budgetctl.ledger.Reservation`, for coroutines.

    What is on its way to the store arrives there also when the task is cancelled.
    """

    def __init__(
        self,
        book: Book,
        asked: Asked,
        reply: Sequence[int],
        owed: deque[AsyncReservation],
        store: AsyncStore | MemoryStore,
    ) -> None:
        super().__init__(book, asked, reply, owed)
        self._store = store

    async def settle(self, usage: Usage | None = None, cost: float | None = None) -> Settlement:
        """Do as :meth:`Reservation.settle <budgetctl.ledger.Reservation.settle>` does."""
        return await self._send(self._bill(usage, cost))

    async def release(self) -> Settlement:
        """Do as :meth:`Reservation.release <budgetctl.ledger.Reservation.release>` does."""
        return await self._send(self._waive())

    async def _send(self, charges: Sequence[int]) -> Settlement:
        if self._done:
            return "again"
        reply: Sequence[int] = (SETTLED,)
        if self._claims:
            sent = self._store.settle(self.id, self._claims, charges)
            reply = await self._delivered(sent) if inspect.isawaitable(sent) else sent
        return self._said(reply)

    async def _delivered(self, sent: Awaitable[Sequence[int]]) -> Sequence[int]:
        """Wait for a reply; where the waiting is cancelled, the operation goes on."""

        def owe(sending: asyncio.Future[Sequence[int]]) -> None:
            if not sending.cancelled() and sending.exception() is not None:
                self._owed.append(self)

        sending = _kept(sent)
        sending.add_done_callback(owe)
        return await asyncio.shield(sending)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.settle()
            return
        try:
            await self.release()
        except Exception as failed:  # the block's own error is the one to see
            logger.warning("a reservation is not given back yet: %s", brief(failed))


async def _reply(reply: Sequence[int] | Awaitable[Sequence[int]]) -> Sequence[int]:
    return await reply if inspect.isawaitable(reply) else reply


def _kept(reply: Awaitable[Sequence[int]]) -> asyncio.Future[Sequence[int]]:
    """Begin an operation, and hold on to it until it has ended."""
    sending = asyncio.ensure_future(reply)
    _sending.add(sending)
    sending.add_done_callback(_sending.discard)
    return sending


def _note(sent: asyncio.Future[Sequence[int]]) -> None:
    """Say what became of an operation that nobody waits for any more, where it failed."""
    error = None if sent.cancelled() else sent.exception()
    if error is not None:
        logger.warning("a reservation was left to expire: %s", brief(error))
