"""Limits on what calls spend together: per key, route, tenant and window, in dollars or tokens.

    ledger = Ledger({"limits": [{"name": "team", "usd": 50, "window": "day", "scope": {"tenant": "*"}}]})
    client = budgetctl.wrap(OpenAI(), ledger=ledger, tenant="acme")

and for calls that no client of ours makes:

    with ledger.reserve(WorstCase(model=M, prompt_tokens=900, output_tokens=4_000), tenant="acme") as held:
        reply = client.chat.completions.create(...)
        held.settle(usage, cost)

What a call may cost at most is reserved before it is made and replaced by what it has cost afterwards, so any
number of calls at the same time cannot spend more than the limit together, as long as each stays within what
it reserved. The accounts are in memory, or on Redis for many hosts (:mod:`budgetctl.ledger.redis`).
"""

from __future__ import annotations

from .aio import AsyncLedger, AsyncReservation
from .blocking import Ledger, Reservation
from .book import Standing
from .limits import LedgerSettings, SpendLimit
from .memory import MemoryStore
from .store import AsyncStore, Store
from .worst import WorstCase

__all__ = [
    "AsyncLedger",
    "AsyncReservation",
    "AsyncStore",
    "Ledger",
    "LedgerSettings",
    "MemoryStore",
    "Reservation",
    "SpendLimit",
    "Standing",
    "Store",
    "WorstCase",
]
