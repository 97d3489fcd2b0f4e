"""Pace is learned from finished calls, shrugs off outliers, follows load, and is unknown at first."""

from __future__ import annotations

import heapq
import math
import random
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from budgetctl.policy import Deadline, Situation
from budgetctl.speed import Flight, Request, Speeds
from budgetctl.types import ModelFacts, Pace, Query


def observe(speeds: Speeds, *, ttft_s: float = 0.2, s_per_token: float = 0.01, tokens: int = 500) -> None:
    speeds.observe("http://here", "m", ttft_s=ttft_s, tokens=tokens, seconds=ttft_s + tokens * s_per_token)


def test_pace_is_unknown_until_three_calls():
    speeds = Speeds()
    for _ in range(2):
        observe(speeds)
        assert speeds.pace("http://here", "m") is None
    observe(speeds)
    pace = speeds.pace("http://here", "m")
    assert pace is not None
    assert pace.ttft_s == pytest.approx(0.2)
    assert pace.s_per_token == pytest.approx(0.01)


def test_endpoints_and_models_are_kept_apart():
    speeds = Speeds()
    for _ in range(3):
        observe(speeds)
    assert speeds.pace("http://there", "m") is None
    assert speeds.pace("http://here", "n") is None


def test_stalled_calls_do_not_move_the_pace():
    speeds, rng = Speeds(), random.Random(0)
    for i in range(60):
        stalled = i % 4 == 3
        observe(
            speeds, ttft_s=30 if stalled else 0.2, s_per_token=2 if stalled else rng.uniform(0.009, 0.011)
        )
    pace = speeds.pace("http://here", "m")
    assert pace is not None
    assert pace.ttft_s == 0.2
    assert 0.009 <= pace.s_per_token <= 0.011


def test_a_lasting_change_takes_over():
    speeds = Speeds()
    for _ in range(64):
        observe(speeds, s_per_token=0.01)
    calls = 0
    while speeds.pace("http://here", "m").s_per_token < 0.02:  # type: ignore[union-attr]
        observe(speeds, s_per_token=0.03)
        calls += 1
    assert 8 <= calls <= 20, "about one half-life of calls"


def test_short_calls_tell_the_first_token_but_not_the_rate():
    speeds = Speeds()
    for _ in range(3):
        observe(speeds, ttft_s=0.2)
    for _ in range(9):
        observe(speeds, ttft_s=0.7, s_per_token=9.0, tokens=2)
    pace = speeds.pace("http://here", "m")
    assert pace is not None
    assert pace.ttft_s == 0.7
    assert pace.s_per_token == pytest.approx(0.01)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ttft_s": 2.0, "tokens": 100, "seconds": 1.0},
        {"ttft_s": 1.0, "tokens": 100, "seconds": 1.0},
        {"ttft_s": -1.0, "tokens": 100, "seconds": 1.0},
        {"ttft_s": 0.1, "tokens": 0, "seconds": 1.0},
        {"ttft_s": float("nan"), "tokens": 100, "seconds": 1.0},
        {"ttft_s": 0.1, "tokens": 100, "seconds": float("inf")},
    ],
)
def test_impossible_measurements_are_passed_over(wrong):
    speeds = Speeds()
    for _ in range(5):
        speeds.observe("http://here", "m", **wrong)
    assert speeds.pace("http://here", "m") is None


def test_threads_may_observe_and_ask_at_once():
    speeds = Speeds()

    def work(_: int) -> None:
        for _ in range(200):
            observe(speeds)
            speeds.pace("http://here", "m")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert speeds.pace("http://here", "m").s_per_token == pytest.approx(0.01)  # type: ignore[union-attr]


# --- Load ---

HERE = ("http://here", "m")


def at_load(speeds: Speeds, concurrency: int, *, ttft_s: float, s_per_token: float, calls: int = 8) -> None:
    for _ in range(calls):
        speeds.observe(
            *HERE,
            ttft_s=ttft_s,
            tokens=100,
            seconds=ttft_s + 100 * s_per_token,
            concurrency=concurrency,
        )


def one_after_the_other() -> Speeds:
    """A server whose requests take a second each, of which the last of eight waits for seven."""
    speeds = Speeds()
    at_load(speeds, 1, ttft_s=0.1, s_per_token=0.009)
    at_load(speeds, 8, ttft_s=7.1, s_per_token=0.009, calls=32)
    return speeds


def pace(speeds: Speeds, concurrency: int) -> Pace:
    found = speeds.pace(*HERE, concurrency=concurrency)
    assert found is not None
    return found


def test_where_calls_queue_the_first_token_waits_for_all_that_are_in_flight():
    speeds = one_after_the_other()
    waits = [pace(speeds, n).ttft_s for n in (1, 2, 4, 8)]
    assert waits == pytest.approx([0.1, 1.1, 3.1, 7.1], rel=0.02), "2 and 4 were never seen"
    assert [pace(speeds, n).s_per_token for n in (1, 8)] == pytest.approx([0.009, 0.009])


@pytest.mark.parametrize("short", [4, 12, 24, 48])
def test_how_many_a_call_waits_for_does_not_depend_on_how_long_they_are(short):
    """Each waits for seven like itself: of a second, then, all at once, of a fiftieth of one."""
    speeds = one_after_the_other()
    at_load(speeds, 8, ttft_s=0.1 + 7 * 0.109, s_per_token=0.00009, calls=short)
    assert pace(speeds, 8).crowd == pytest.approx(7, rel=0.02)


@pytest.mark.parametrize("calls", [6, 20, 60])
def test_one_stall_does_not_make_a_queue(calls):
    speeds = Speeds()
    at_load(speeds, 1, ttft_s=0.1, s_per_token=0.01)
    at_load(speeds, 4, ttft_s=0.11, s_per_token=0.01, calls=calls - 1)
    at_load(speeds, 4, ttft_s=60.0, s_per_token=0.01, calls=1)
    assert pace(speeds, 4).crowd < 0.1


def test_first_tokens_that_come_late_at_any_load_are_no_queue():
    speeds, rng = Speeds(), random.Random(0)
    for concurrency, calls in ((1, 60), (8, 200)):
        for _ in range(calls):
            at_load(speeds, concurrency, ttft_s=5 * rng.lognormvariate(0, 0.8), s_per_token=0.01, calls=1)
    assert pace(speeds, 8).crowd < 1.5


def test_where_few_calls_are_long_each_waits_for_all_others_at_most():
    speeds = one_after_the_other()
    for i in range(200):
        long, behind = i % 50 == 0, 0 < i % 50 < 8
        waits = 7.1 + 59 * behind
        at_load(speeds, 8, ttft_s=waits, s_per_token=0.6 if long else 0.009, calls=1)
    assert pace(speeds, 8).crowd == pytest.approx(7, rel=0.05)


def test_where_calls_share_the_machine_the_tokens_come_slower():
    speeds = Speeds()
    at_load(speeds, 1, ttft_s=0.1, s_per_token=0.01)
    at_load(speeds, 8, ttft_s=0.1, s_per_token=0.03)
    alone, crowded = pace(speeds, 1), pace(speeds, 8)
    assert (alone.s_per_token, crowded.s_per_token) == (pytest.approx(0.01), pytest.approx(0.03))
    assert crowded.ttft_s == pytest.approx(0.1)
    assert crowded.crowd == 0


def test_a_load_with_too_few_calls_takes_the_rate_of_the_next_smaller_one():
    speeds = Speeds()
    at_load(speeds, 1, ttft_s=0.1, s_per_token=0.01)
    at_load(speeds, 2, ttft_s=0.1, s_per_token=0.02)
    at_load(speeds, 8, ttft_s=0.1, s_per_token=0.05, calls=2)
    assert pace(speeds, 8).s_per_token == pytest.approx(0.02)
    assert pace(speeds, 64).s_per_token == pytest.approx(0.02)


def test_a_step_of_the_load_is_followed_with_the_next_call():
    speeds = one_after_the_other()
    assert speeds.pace(*HERE) == pace(speeds, 1)
    flights = [speeds.enter(*HERE) for _ in range(7)]
    assert speeds.pace(*HERE) == pace(speeds, 8)
    for flight in flights:
        flight.land()
    assert speeds.pace(*HERE) == pace(speeds, 1)


def test_responses_that_come_whole_are_divided_as_the_pace_so_far_has_it():
    """So a speed that nobody sees token by token any more is still followed."""
    speeds = Speeds()
    speeds.observe(*HERE, ttft_s=None, tokens=100, seconds=9.0)
    assert speeds.pace(*HERE) is None
    at_load(speeds, 1, ttft_s=0.2, s_per_token=0.01)
    for _ in range(32):
        speeds.observe(*HERE, ttft_s=None, tokens=100, seconds=0.6)
    assert pace(speeds, 1).s_per_token == pytest.approx(0.005)
    assert pace(speeds, 1).ttft_s == pytest.approx(0.1)


# --- What is in flight ---


def test_calls_count_as_in_flight_until_they_land_or_are_dropped():
    speeds = Speeds()
    landed, dropped = speeds.enter(*HERE), speeds.enter("http://here", "another model")
    assert speeds.in_flight("http://here") == 2
    assert speeds.in_flight("http://there") == 0
    landed.land()
    landed.land()
    assert speeds.in_flight("http://here") == 1
    del dropped
    assert speeds.in_flight("http://here") == 0


def test_threads_may_come_and_go_at_once():
    speeds = Speeds()

    def work(_: int) -> None:
        for i in range(200):
            flight = speeds.enter(*HERE)
            if i % 2:
                flight.land()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert speeds.in_flight("http://here") == 0


# --- Forecasts against what came ---


def tail(flight: Flight, *, took: float = 1.0) -> float:
    """Let a call that was cut after 1 s take so long for the rest; return what it had been told to keep."""
    kept = flight.tail_s(20, s_per_token=0.01, ttft_s=0.2)
    flight.cut(1.0, 20, s_per_token=0.01, ttft_s=0.2)
    flight.ended(1.0 + took, deadline_s=None)
    flight.land()
    return kept


def test_at_first_the_time_to_keep_is_that_of_the_streams_own_pace_and_a_margin():
    speeds = Speeds()
    goes_on, asks_again = speeds.enter(*HERE), speeds.enter(*HERE, requests=2)
    assert goes_on.tail_s(20, s_per_token=0.01, ttft_s=0.2) == pytest.approx(1.5 * 0.2)
    assert asks_again.tail_s(20, s_per_token=0.01, ttft_s=0.2) == pytest.approx(1.5 * (0.2 + 0.2))
    assert asks_again.tail_s(20, s_per_token=None, ttft_s=None) == 0, "nothing is known of anything"


def test_the_time_to_keep_covers_what_it_took_before():
    speeds, rng = Speeds(), random.Random(0)
    for _ in range(200):
        tail(speeds.enter(*HERE, requests=2), took=rng.uniform(0.4, 1.2))
    kept = tail(speeds.enter(*HERE, requests=2))
    assert 1.05 <= kept <= 1.2, "the 95th percentile of 0.4 to 1.2 s"


def test_one_stalled_answer_is_remembered_for_a_few_calls():
    speeds = Speeds()
    tail(speeds.enter(*HERE, requests=2), took=60.0)
    kept = [tail(speeds.enter(*HERE, requests=2), took=0.4) for _ in range(10)]
    assert kept[0] == pytest.approx(4 * 0.4), "no more than four times"
    assert kept[-1] == pytest.approx(1.5 * 0.4)


def ended(speeds: Speeds, seconds: float, *, deadline_s: float = 10.0, times: int = 1) -> float:
    """Let so many calls that their deadline cut end after so long; return the margin of the next plan."""
    for _ in range(times):
        flight = speeds.enter(*HERE)
        flight.ended(seconds, deadline_s=deadline_s)
        flight.land()
    return pace(speeds, 1).margin


def test_plans_that_were_missed_are_made_shorter_until_they_are_kept():
    speeds = Speeds()
    at_load(speeds, 1, ttft_s=0.1, s_per_token=0.01)
    before = pace(speeds, 1).tokens(10)
    assert ended(speeds, 9.0, times=64) == 1.0, "kept with room: no margin is needed"
    assert ended(speeds, 15.0, times=8) >= 1.5
    assert pace(speeds, 1).tokens(10) < before / 1.5
    assert ended(speeds, 6.0, times=160) == 1.0


def test_calls_that_need_not_hurry_make_plans_longer_again():
    """Else a margin that has switched all thinking off would never be seen to be too large."""
    speeds = Speeds()
    at_load(speeds, 1, ttft_s=0.1, s_per_token=0.01)
    assert ended(speeds, 30.0, times=8) == 4.0, "and no more: it is not the thinking then"
    assert ended(speeds, 1.0, times=160) == 1.0


def test_how_well_deadlines_were_kept_is_reported_by_endpoint_and_model():
    speeds = Speeds()
    assert speeds.adherence() == []
    for seconds in (*[1.0] * 18, 2.2, 3.0):
        speeds.enter(*HERE).ended(seconds, deadline_s=2.0)
    speeds.enter("http://there", "m").ended(1.0, deadline_s=None)
    [found] = speeds.adherence()
    assert (found.endpoint, found.model, found.calls) == ("http://here", "m", 20)
    assert found.kept == 0.9
    assert found.p95 == pytest.approx(1.1)


# --- A simulated server under callers who all have the same deadline ---


class Queue:
    """Serves one request after the other, on a clock of its own."""

    ALONE_S = 0.02
    S_PER_TOKEN = 0.005
    ANSWER = 12

    def __init__(self, *, callers: int, deadline_s: float, seed: int) -> None:
        self.speeds = Speeds()
        self.late: list[float] = []
        self.thought: list[int] = []
        self.deadline_s = deadline_s
        self._rng = random.Random(seed)
        self._free = 0.0
        self._turns = [(0.001 * i, i, self.first) for i in range(callers)]
        self._named = callers

    def run(self, calls: int) -> None:
        while len(self.late) < calls:
            at, _, step = heapq.heappop(self._turns)
            step(at)

    def _at(self, time: float, step: Callable[[float], None]) -> None:
        self._named += 1
        heapq.heappush(self._turns, (time, self._named, step))

    def _serve(self, sent: float, tokens: int) -> tuple[float, float]:
        """Return when the first and the last token come."""
        first = max(sent, self._free) + self.ALONE_S
        self._free = first + tokens * self.S_PER_TOKEN * self._rng.uniform(0.9, 1.3)
        return first, self._free

    def first(self, sent: float) -> None:
        facts = ModelFacts(can_switch_off=True, can_cap=True, answer_tokens=24, recalls=True)
        situation = Situation(query=Query.from_text("x"), facts=facts, pace=self.speeds.pace(*HERE))
        cap = Deadline(self.deadline_s).budget(situation).reasoning_tokens
        flight = self.speeds.enter(*HERE, requests=2)
        natural = min(400, int(self._rng.lognormvariate(math.log(95), 0.7)))
        crowd, starts = flight.concurrency, max(sent, self._free) + self.ALONE_S
        kept = flight.tail_s(24, s_per_token=self.S_PER_TOKEN, ttft_s=starts - sent)
        in_time = int((self.deadline_s - kept - (starts - sent)) / self.S_PER_TOKEN)
        most = max(1, in_time if cap is None else min(cap, in_time))
        thinks = 0 if cap == 0 else min(natural, most)
        cut = cap != 0 and most < natural
        start, end = self._serve(sent, thinks if cut else thinks + self.ANSWER)
        tokens = thinks if cut else thinks + self.ANSWER
        request = Request(ttft_s=start - sent, tokens=tokens, seconds=end - sent, concurrency=crowd)

        def finish(now: float, *requests: Request) -> None:
            flight.land()
            flight.learn(requests)
            flight.ended(now - sent, deadline_s=self.deadline_s)
            self.late.append((now - sent) / self.deadline_s)
            self.thought.append(thinks)
            self._at(now + 0.001, self.first)

        def again(now: float) -> None:
            flight.cut(now - sent, 24, s_per_token=self.S_PER_TOKEN, ttft_s=start - sent)
            crowd = flight.concurrency
            first, last = self._serve(now, self.ANSWER)
            answer = Request(ttft_s=first - now, tokens=self.ANSWER, seconds=last - now, concurrency=crowd)
            self._at(last, lambda now: finish(now, request, answer))

        self._at(end, again if cut else lambda now: finish(now, request))


@pytest.mark.parametrize("multiple", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("callers", [1, 4, 8, 32])
def test_deadlines_hold_where_all_wait_for_each_other(callers: int, multiple: float):
    full = callers * (Queue.ALONE_S + 120 * Queue.S_PER_TOKEN)
    queue = Queue(callers=callers, deadline_s=multiple * full, seed=callers)
    queue.run(600)
    settled = sorted(queue.late[100 : 100 + 400])
    assert settled[380] <= 1.1
    thought = statistics.mean(queue.thought[100:])
    assert thought > 15 * multiple, "and there is thinking"
