"""Pace is learned from finished calls, shrugs off outliers, follows load, and is unknown at first."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from budgetctl.speed import Speeds


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
