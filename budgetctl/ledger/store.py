"""What a store does: three operations, each of them atomic over all accounts that it touches."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol

from budgetctl.ledger.windows import Window

NOT_COUNTED = -1
REFUSED = -1
SETTLED, LATE, AGAIN = 0, 1, 2
REMEMBERED_MS = 3_600_000
"""How long a store knows that a reservation has been settled: a client may send a settlement again when
the connection broke before the reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Where the spending of some calls under one limit is kept.

    Attributes:
        name: Its key in the store.
        window: Of the limit.
        limit: Units that may be spent in a window.
        strict: No cheaper rung is tried where this limit has no room.
    """

    name: str
    window: Window
    limit: int
    strict: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What one reservation holds of one account, in units; ``NOT_COUNTED`` where it holds nothing there."""

    account: Account
    held: int


class Store(Protocol):
    """Keeps accounts. All numbers are integers; a reply is a list of them."""

    def reserve(
        self, reservation: str, accounts: Sequence[Account], rungs: Sequence[Sequence[int]], *, hold_ms: int
    ) -> Sequence[int]:
        """Hold the first rung for which every account has room: spent + held + asked <= limit.

        A rung that asks nothing of an account always has room there.

        Args:
            reservation: Its name.
            accounts: The accounts of all limits that are for the call.
            rungs: Units asked of each account, one row per rung, in order of preference.
            hold_ms: The reservation is given back after this time unless it is settled before.

        Returns:
            The rung's index; or ``REFUSED``, the account's index, and what was spent, held and asked there.
        """
        ...

    def settle(self, reservation: str, claims: Sequence[Claim], spent: Sequence[int]) -> Sequence[int]:
        """Give back what is held and charge what was spent, in the current period.

        Returns:
            ``SETTLED``; ``LATE`` where the reservation had expired, and it is charged all the same; or
            ``AGAIN``, and nothing was done.
        """
        ...

    def read(self, accounts: Sequence[Account]) -> Sequence[int]:
        """Return what is spent and what is held of each account, two numbers each."""
        ...


class AsyncStore(Protocol):
    """The same for what has to be awaited."""

    def reserve(
        self, reservation: str, accounts: Sequence[Account], rungs: Sequence[Sequence[int]], *, hold_ms: int
    ) -> Awaitable[Sequence[int]]: ...

    def settle(
        self, reservation: str, claims: Sequence[Claim], spent: Sequence[int]
    ) -> Awaitable[Sequence[int]]: ...

    def read(self, accounts: Sequence[Account]) -> Awaitable[Sequence[int]]: ...
