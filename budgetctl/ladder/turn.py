"""The records of one turn: each rung's call is a row, written when it is known whose answer was handed on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import uuid4

from budgetctl.ladder.rungs import Ladder
from budgetctl.outcomes import LadderRow, Outcome, TimingRow, UsageRow
from budgetctl.pricing import Prices
from budgetctl.types import Query, StopReason, Usage


class Attempt:
    """One rung's call. Called with its outcome, as :data:`budgetctl.session.keep` says.

    Attributes:
        started_s: Seconds from the start of the turn.
        free: Nothing was generated: the server refused it, or it was not made.
        left: It was cancelled, because another rung was first.
        ended: Called once its outcome is there.
    """

    def __init__(self, rung: int, *, started_s: float, charge: Callable[[Outcome], Outcome]) -> None:
        self.rung = rung
        self.started_s = started_s
        self.free = False
        self.left = False
        self.ended: Callable[[], None] | None = None
        self.outcome: Outcome | None = None
        self._charge = charge
        self._row: LadderRow | None = None
        self._said: Mapping[str, Any] = {}
        self._show: Callable[[Outcome], None] | None = None
        self._lock = threading.Lock()

    def __call__(self, outcome: Outcome, show: Callable[[Outcome], None]) -> None:
        with self._lock:
            self.outcome, self._show = self._charge(outcome) if self.left else outcome, show
            self._write()
        if self.ended is not None:
            self.ended()

    def settle(self, row: LadderRow, said: Mapping[str, Any]) -> None:
        """Record the call as this row of its turn, now or as soon as it has ended.

        Args:
            said: What the turn knows of the call's other fields.
        """
        with self._lock:
            self._row, self._said = row, said
            self._write()

    def _write(self) -> None:
        if self._row is None or self.outcome is None or self._show is None:
            return
        show, self._show = self._show, None
        self.outcome = self.outcome.model_copy(update={"ladder": self._row, **self._said})
        show(self.outcome)


class Turn:
    """All calls of one turn.

    Args:
        prices: Charge a call that was cut off for the prompt that its server did not come to report.
        places: Where each rung's calls go, as the prices know it.
        proven: What the outcomes of its calls, by rung, say of the ladder's certificate.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        ladder: Ladder,
        query: Query,
        *,
        prices: Prices,
        places: Sequence[str],
        proven: Callable[[Mapping[int, Outcome | None]], Mapping[str, Any]] = lambda outcomes: {},
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.id = uuid4().hex
        self.attempts: dict[int, Attempt] = {}
        self._ladder = ladder
        self._query = query
        self._prices = prices
        self._places = places
        self._proven = proven
        self._clock = clock
        self._started = clock()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the turn began."""
        return self._clock() - self._started

    def begin(self, rung: int) -> Attempt:
        """Begin the call of a rung."""
        charge = partial(self._charged, place=self._places[rung])
        attempt = Attempt(rung, started_s=self.elapsed_s, charge=charge)
        self.attempts[rung] = attempt
        return attempt

    def end(self, answered: int | None, notes: Mapping[int, str], *, live: bool = False) -> Outcome | None:
        """Write a row for each call and return the sum: the answering rung's row with all that it took.

        Args:
            answered: The rung whose answer was handed on; None where there was none.
            notes: What each rung came to; the others were left behind by a hedge.
            live: Its chunks were handed on as they came.
        """
        outcomes = {rung: attempt.outcome for rung, attempt in self.attempts.items()}
        said = self._proven(outcomes)
        for rung, attempt in self.attempts.items():
            why = notes.get(rung, "the turn was given up" if answered is None else "another rung was first")
            attempt.settle(self._row(rung, accepted=rung == answered, why=why), said)
        final = None if answered is None else self.attempts[answered].outcome
        if final is None or final.ladder is None:
            return None
        made = [attempt.outcome for attempt in self.attempts.values() if not attempt.free]
        usage, cost = final.usage.usage(), final.cost_usd
        for other in made:
            if other is not final:
                usage, cost = _sum(usage, cost, other)
        return final.model_copy(
            update={
                "usage": UsageRow.of(usage),
                "cost_usd": cost,
                "timing": self._timing(final, self.attempts[final.ladder.rung].started_s, live=live),
                "ladder": final.ladder.model_copy(update={"calls": len(made)}),
            }
        )

    def _row(self, rung: int, *, accepted: bool, why: str) -> LadderRow:
        return LadderRow(id=self.id, rung=rung, of=len(self._ladder.rungs), accepted=accepted, why=why)

    def _timing(self, final: Outcome, started_s: float, *, live: bool) -> TimingRow:
        """Return what the caller saw: a draft delays the answer, and comes all at once."""
        if not live:
            now = self.elapsed_s
            return final.timing.model_copy(update={"ttft_s": None, "ttfo_s": now, "e2e_s": now})
        seen = final.timing
        later = {
            name: None if value is None else value + started_s
            for name, value in (("ttft_s", seen.ttft_s), ("ttfo_s", seen.ttfo_s), ("e2e_s", seen.e2e_s))
        }
        return seen.model_copy(update=later)

    def _charged(self, outcome: Outcome, *, place: str) -> Outcome:
        """Return the outcome of a call that was left, with its prompt estimated: the provider charges it."""
        changed: dict[str, Any] = {"stop": outcome.stop.model_copy(update={"reason": StopReason.CALLER})}
        usage = outcome.usage.usage()
        if usage.prompt_tokens is None and usage.output_tokens:
            prompt = round(self._query.prompt_tokens)
            usage = replace(usage, prompt_tokens=prompt, provenance="estimated")
            changed["usage"] = UsageRow.of(usage)
            changed["cost_usd"] = self._prices.cost(outcome.model, usage, place=place)
        return outcome.model_copy(update=changed)


def _sum(usage: Usage, cost: float | None, other: Outcome | None) -> tuple[Usage, float | None]:
    """Add a call; what nobody knows of it, nobody knows of the sum."""
    if other is None:
        return Usage(), None
    both = None if cost is None or other.cost_usd is None else cost + other.cost_usd
    return usage + other.usage.usage(), both
