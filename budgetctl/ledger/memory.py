"""Accounts in the memory of this process, for any number of threads and tasks."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from budgetctl.ledger.store import (
    AGAIN,
    LATE,
    NOT_COUNTED,
    REFUSED,
    REMEMBERED_MS,
    SETTLED,
    Account,
    Claim,
)

_SWEEP_FROM = 1_000


@dataclass(slots=True)
class _Kept:
    spent: dict[int, int] = field(default_factory=dict)
    holds: dict[str, int] = field(default_factory=dict)
    held: int = 0
    expiries: list[tuple[int, str]] = field(default_factory=list)
    until_ms: int = 0

    def drop(self, reservation: str) -> bool:
        amount = self.holds.pop(reservation, None)
        self.held -= amount or 0
        return amount is not None

    def expire(self, now_ms: int) -> None:
        while self.expiries and self.expiries[0][0] <= now_ms:
            self.drop(heapq.heappop(self.expiries)[1])


class MemoryStore:
    """A :class:`~budgetctl.ledger.store.Store` of one process. Nothing outlives it.

    Args:
        clock: Milliseconds since the epoch.
    """

    def __init__(self, *, clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}
        self._done: dict[str, int] = {}
        self._sweep_at = _SWEEP_FROM

    def reserve(
        self, reservation: str, accounts: Sequence[Account], rungs: Sequence[Sequence[int]], *, hold_ms: int
    ) -> Sequence[int]:
        """Hold the first rung for which every account has room."""
        with self._lock:
            now = self._clock()
            self._sweep(now)
            states = [self._state(account, now) for account in accounts]
            refusal: Sequence[int] = ()
            for rung, asked in enumerate(rungs):
                short = _refusals(accounts, states, asked)
                if not short:
                    self._hold(reservation, accounts, asked, now=now, until_ms=now + hold_ms)
                    return (rung,)
                strict = [refused for refused in short if accounts[refused[1]].strict]
                refusal = (strict or short)[0]
                if strict:
                    break
            return refusal

    def settle(self, reservation: str, claims: Sequence[Claim], spent: Sequence[int]) -> Sequence[int]:
        """Give back what is held and charge what was spent."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            if reservation in self._done:
                return (AGAIN,)
            self._done[reservation] = now + REMEMBERED_MS
            late = False
            for claim, units in zip(claims, spent, strict=True):
                if claim.held == NOT_COUNTED:
                    continue
                self._state(claim.account, now)
                kept, window = self._kept[claim.account.name], claim.account.window
                late |= not kept.drop(reservation)
                period = window.period(now)
                kept.spent[period] = kept.spent.get(period, 0) + units
                kept.until_ms = max(kept.until_ms, now + window.kept_ms)
            return (LATE if late else SETTLED,)

    def read(self, accounts: Sequence[Account]) -> Sequence[int]:
        """Return what is spent and what is held of each account."""
        with self._lock:
            now = self._clock()
            return [number for account in accounts for number in self._state(account, now)]

    def _state(self, account: Account, now: int) -> tuple[int, int]:
        """Return what is spent and held, once what has expired is gone."""
        kept = self._kept.setdefault(account.name, _Kept())
        kept.expire(now)
        first, first_kept = account.window.first(now), account.window.first_kept(now)
        for period in [period for period in kept.spent if period < first_kept]:
            del kept.spent[period]
        return sum(units for period, units in kept.spent.items() if period >= first), kept.held

    def _hold(
        self, reservation: str, accounts: Sequence[Account], asked: Sequence[int], *, now: int, until_ms: int
    ) -> None:
        for account, units in zip(accounts, asked, strict=True):
            if units == NOT_COUNTED:
                continue
            kept = self._kept.setdefault(account.name, _Kept())
            kept.holds[reservation] = units
            kept.held += units
            heapq.heappush(kept.expiries, (until_ms, reservation))
            kept.until_ms = max(kept.until_ms, until_ms, now + account.window.kept_ms)

    def _sweep(self, now: int) -> None:
        """Forget accounts that have long been idle, when there are twice as many as after the last time."""
        if len(self._kept) >= self._sweep_at:
            self._kept = {name: kept for name, kept in self._kept.items() if kept.until_ms > now}
            self._sweep_at = max(_SWEEP_FROM, 2 * len(self._kept))

    def _forget(self, now: int) -> None:
        for name, until in list(islice(self._done.items(), 2)):
            if not now < until <= now + 2 * REMEMBERED_MS:  # the clock was far ahead when it was noted
                del self._done[name]


def _refusals(
    accounts: Sequence[Account], states: Sequence[tuple[int, int]], asked: Sequence[int]
) -> list[tuple[int, int, int, int, int]]:
    """Return a reply for each account that has no room."""
    return [
        (REFUSED, i, spent, held, units)
        for i, (account, (spent, held), units) in enumerate(zip(accounts, states, asked, strict=True))
        if units > 0 and spent + held + units > account.limit
    ]
