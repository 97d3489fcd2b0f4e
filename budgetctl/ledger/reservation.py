"""What both kinds of reservation share: what is held, and the one bill that takes its place."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal

from budgetctl.ledger.book import Asked, Book
from budgetctl.ledger.store import AGAIN, LATE, SETTLED
from budgetctl.ledger.worst import WorstCase
from budgetctl.types import Usage

logger = logging.getLogger("budgetctl")

Settlement = Literal["settled", "late", "again"]
"""``late``: the reservation had expired, and what was spent is charged all the same. ``again``: it was
settled or released before, and nothing was done."""

_SAID: dict[int, Settlement] = {SETTLED: "settled", LATE: "late", AGAIN: "again"}


class Held:
    """One call's reservation.

    Args:
        owed: Where it waits if it cannot be settled: the ledger does so before it reserves anything else.

    Attributes:
        id: Names it in the store.
        rung: Index of the rung that was admitted.
        worst: That rung.
    """

    def __init__(self, book: Book, asked: Asked, reply: Sequence[int], owed: deque[Any]) -> None:
        self.id = asked.id
        self.rung, self._claims = asked.admitted(reply)
        self.worst: WorstCase = asked.rungs[self.rung]
        self._book = book
        self._owed = owed
        self._limits = asked.limits
        self._prices = asked.prices
        self._charges: Sequence[int] | None = None
        self._done = False

    def _bill(self, usage: Usage | None, cost: float | None) -> Sequence[int]:
        """Return the charges. The first bill stands: what could not be delivered is sent again as it was."""
        if self._charges is None:
            self._charges = self._book.bill(
                self._limits, self._claims, worst=self.worst, usage=usage, cost=cost, prices=self._prices
            )
        return self._charges

    def _waive(self) -> Sequence[int]:
        if self._charges is None:
            self._charges = [0] * len(self._claims)
        return self._charges

    def _said(self, reply: Sequence[int]) -> Settlement:
        self._done = True
        said = _SAID[reply[0]]
        if said == "late":
            logger.warning(
                "a reservation was gone before its call ended: hold_s is too short, or the store forgot it"
            )
        return said
