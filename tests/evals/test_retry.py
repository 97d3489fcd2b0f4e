import random
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from budgetctl.evals.retry import FIRST_S, LONGEST_S, Pacer, retry_after


class Fault(Exception):
    def __init__(self, status=None, headers=None):
        self.status_code = status
        if headers is not None:
            self.response = type("Response", (), {"headers": headers})


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self):
        self.now, self.slept = 0.0, []

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    def __call__(self):
        return self.now


def pacer(clock, **more):
    return Pacer(clock=clock, sleep=clock.sleep, rng=random.Random(0), **more)


def failing(*faults):
    """A call that fails so often before it says yes."""
    left = list(faults)

    def once():
        if left:
            raise left.pop(0)
        return "yes"

    return once


def test_what_may_pass_is_tried_again_with_growing_jittered_waits():
    clock = Clock()
    assert pacer(clock).call(failing(*[Fault(503)] * 5), failures=(Fault,)) == "yes"
    bounds = [min(LONGEST_S, FIRST_S * 2**i) for i in range(5)]
    assert all(0 <= s <= bound for s, bound in zip(clock.slept, bounds, strict=True))
    assert len(set(clock.slept)) == 5


def test_the_last_fault_is_raised():
    with pytest.raises(Fault):
        pacer(Clock(), tries=3).call(failing(*[Fault(429)] * 3), failures=(Fault,))


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_what_does_not_pass_is_not_tried_again(status):
    clock = Clock()
    with pytest.raises(Fault):
        pacer(clock).call(failing(Fault(status)), failures=(Fault,))
    assert clock.slept == []


def test_a_lost_connection_is_tried_again_once_there_was_one():
    clock = Clock()
    pace = pacer(clock)
    with pytest.raises(Fault):
        pace.call(failing(Fault()), failures=(Fault,))
    pace.call(failing(), failures=(Fault,))
    assert pace.call(failing(Fault()), failures=(Fault,)) == "yes"


def test_the_wait_that_the_server_asks_for_holds_for_all_callers():
    clock = Clock()
    pace = pacer(clock)
    pace.call(failing(Fault(429, {"retry-after": "7"})), failures=(Fault,))
    assert clock.slept == [7.0]
    with pytest.raises(Fault):
        pacer(clock).call(failing(Fault(429, {"retry-after": "86400"})), failures=(Fault,))
    pace = pacer(other := Clock())
    pace._hold(5)
    pace.call(failing(), failures=(Fault,))
    assert other.now == 5


def test_the_wait_is_read_in_seconds_milliseconds_and_dates():
    assert retry_after(Fault(429, {"retry-after": "1.5"})) == 1.5
    assert retry_after(Fault(429, {"retry-after-ms": "250", "retry-after": "9"})) == 0.25
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert retry_after(Fault(429, {"retry-after": later})) == pytest.approx(60, abs=3)
    for nothing in ({}, {"retry-after": "soon"}):
        assert retry_after(Fault(429, nothing)) is None
    assert retry_after(Fault()) is None


def test_calls_keep_their_distance_over_all_threads():
    clock, lock, starts = Clock(), threading.Lock(), []
    pace = pacer(clock, per_minute=60)

    def once():
        with lock:
            starts.append(clock.now)

    for _ in range(4):
        pace.call(once, failures=(Fault,))
    assert starts == [0.0, 1.0, 2.0, 3.0]
