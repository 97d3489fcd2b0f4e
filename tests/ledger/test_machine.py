"""Any sequence of calls, with a clock that also steps back, against an account in its simplest form."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from budgetctl.errors import LimitExceeded
from budgetctl.ledger import Ledger, MemoryStore, Reservation, Store, WorstCase
from budgetctl.ledger.windows import Window
from budgetctl.types import Usage

from .conftest import Clock

HOLD_MS = 20_000
START = int(datetime(2026, 11, 30, 23, 59, 0, tzinfo=UTC).timestamp() * 1_000)
SLIDING_MS, GRAIN_MS = 120_000, 2_000


@dataclass(eq=False)
class Open:
    """A reservation as the account knows it."""

    held: Reservation
    units: int
    expires: int
    live: bool = True
    done: bool = False


class Machine(RuleBasedStateMachine):
    """The account is a list of what was spent and when, and a list of what is open."""

    calls: Bundle[Open] = Bundle("calls")
    make: Any = staticmethod(MemoryStore)

    @initialize(window=st.sampled_from(["2m", "day", "month"]), limit=st.integers(0, 100))
    def begin(self, window: str, limit: int) -> None:
        self.clock = Clock(START)
        self.latest = START
        self.store: Store = self.make(clock=self.clock)
        self.window, self.limit = window, limit
        self.spent: list[tuple[int, int]] = []
        self.open: list[Open] = []

    @property
    def book(self) -> Ledger:
        account = {"name": "all", "tokens": self.limit, "window": self.window}
        return Ledger({"limits": [account], "hold_s": HOLD_MS / 1_000}, store=self.store)

    def since(self, first_ms: int) -> int:
        return sum(units for when, units in self.spent if when >= first_ms)

    def bounds(self) -> tuple[int, int]:
        """What counts at least and at most: the same in a calendar, and by the grain in a sliding window."""
        now = datetime.fromtimestamp(self.clock.now / 1_000, UTC).replace(
            hour=0, minute=0, second=0, microsecond=0
        )
        if self.window == "2m":
            first = self.clock.now - SLIDING_MS
            return self.since(first + 1), self.since(first - GRAIN_MS)
        begins = now if self.window == "day" else now.replace(day=1)
        exact = self.since(int(begins.timestamp() * 1_000))
        return exact, exact

    def held(self) -> int:
        return sum(one.units for one in self.open if one.live)

    @rule(ms=st.one_of(st.integers(0, 3_000), st.integers(0, 150_000)))
    def wait(self, ms: int) -> None:
        self.clock.now += ms
        self.latest = max(self.latest, self.clock.now)

    @rule(ms=st.integers(1, 60_000))
    def step_back(self, ms: int) -> None:
        self.clock.now = max(self.clock.now - ms, self.latest - SLIDING_MS)

    @rule(limit=st.integers(0, 100))
    def change_the_limit(self, limit: int) -> None:
        self.limit = limit

    @rule(target=calls, prompt=st.integers(0, 30), output=st.integers(0, 30))
    def reserve(self, prompt: int, output: int) -> Open | None:
        least, most = (spent + self.held() for spent in self.bounds())
        units = prompt + output
        worst = WorstCase(prompt_tokens=prompt, output_tokens=output)
        if units > 0 and least + units > self.limit:
            with pytest.raises(LimitExceeded) as refused:
                self.book.reserve(worst)
            assert (refused.value.held, refused.value.asked) == (self.held(), units)
            return None
        try:
            held = self.book.reserve(worst)
        except LimitExceeded:
            assert most + units > self.limit, "only the grain of a sliding window leaves that open"
            return None
        one = Open(held, units, self.clock.now + HOLD_MS)
        self.open.append(one)
        return one

    @rule(one=calls, share=st.integers(0, 120))
    def settle(self, one: Open | None, share: int) -> None:
        if one is None:
            return
        units = one.units * share // 100
        said = one.held.settle(Usage(prompt_tokens=0, output_tokens=units))
        if one.done:
            assert said == "again"
            return
        assert said == ("settled" if one.live else "late")
        self._close(one, units)

    @rule(one=consumes(calls))
    def release(self, one: Open | None) -> None:
        if one is not None and not one.done:
            one.held.release()
            self._close(one, 0)

    def _close(self, one: Open, units: int) -> None:
        one.done, one.live = True, False
        self.spent.append((self.clock.now, units))

    @precondition(lambda self: hasattr(self, "store"))
    @invariant()
    def the_ledger_says_what_the_account_says(self) -> None:
        for one in self.open:
            one.live = one.live and self.clock.now < one.expires
        [standing] = self.book.standing()
        least, most = self.bounds()
        assert standing.held == self.held()
        assert least <= standing.spent <= most


STEPS = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def test_any_sequence_in_memory():
    run_state_machine_as_test(Machine, settings=settings(STEPS, max_examples=200))


def test_any_sequence_on_redis(redis_client: Any):
    from budgetctl.ledger.redis import RedisStore

    class OnRedis(Machine):
        @staticmethod
        def make(clock: Clock) -> Store:
            return RedisStore(redis_client, prefix=uuid.uuid4().hex, clock=clock)

    run_state_machine_as_test(OnRedis, settings=STEPS)


@pytest.mark.parametrize("window", ["1s", "59s", "60s", "61s", "15m", "5h", "7d", "400d"])
def test_a_sliding_window_is_never_short_and_at_most_a_grain_too_long(window: str):
    parsed = Window.parse(window)
    length = int(window[:-1]) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[window[-1]] * 1_000
    for now in range(START, START + 3 * parsed.period_ms, max(1, parsed.period_ms // 7)):
        counted_from = parsed.first(now) * parsed.period_ms
        assert counted_from <= now - length
        assert now - length - counted_from <= max(2 * parsed.period_ms, length // 30)
