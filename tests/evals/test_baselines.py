import random

import numpy as np
import pytest
from budgetctl.evals.baselines import (
    cap_grid,
    fixed_curve,
    matched_accuracy,
    matched_mix,
    oracle,
    random_stop,
)
from budgetctl.evals.replay import Recording, replay

from budgetctl.types import Pace

from .worlds import curve, results, row

PACE = Pace(ttft_s=1.0, s_per_token=0.1)
CURVE = {"off": (0.0, 0.2), "cap:10": (10.0, 0.6), "cap:30": (30.0, 0.7), "full": (100.0, 0.9)}


def test_the_mix_between_two_neighbouring_caps_is_linear_in_mean_tokens():
    mix = matched_mix(CURVE, 15.0)
    assert (mix.lower, mix.upper) == ("cap:10", "cap:30")
    assert mix.share == pytest.approx(0.25)
    assert mix.accuracy == pytest.approx(0.625)
    assert str(mix) == "75% cap:10 + 25% cap:30"


def test_at_a_cap_the_mix_is_that_cap():
    assert str(matched_mix(CURVE, 30.0)) == "cap:30"
    assert matched_mix(CURVE, 30.0).accuracy == pytest.approx(0.7)


def test_beyond_the_curve_its_dearest_budget_stands_and_below_it_nothing_does():
    assert str(matched_mix(CURVE, 500.0)) == "full"
    assert matched_mix({"cap:10": (10.0, 0.6), "full": (100.0, 0.9)}, 5.0) is None
    assert matched_mix({}, 5.0) is None


def test_of_budgets_with_the_same_tokens_the_more_accurate_is_the_baseline():
    curve = {"cap:10": (10.0, 0.5), "cap:12": (10.0, 0.6), "full": (100.0, 0.9)}
    assert matched_mix(curve, 10.0).accuracy == pytest.approx(0.6)


def test_the_vectorised_reading_agrees_with_the_single_one():
    rng = np.random.default_rng(0)
    tokens = np.sort(rng.integers(0, 50, size=(200, 6)), axis=1).astype(float)
    accuracy = rng.random((200, 6))
    at = rng.uniform(0, 60, size=200).clip(tokens[:, 0])
    read = matched_accuracy(tokens, accuracy, at)
    for t, a, x, y in zip(tokens, accuracy, at, read, strict=True):
        points = {str(i): (float(t[i]), float(a[i])) for i in range(6)}
        assert y == pytest.approx(matched_mix(points, float(x)).accuracy)


def test_caps_are_quantiles_of_the_natural_lengths():
    assert cap_grid(list(range(1, 101)), shares=(0.1, 0.5)) == [11, 51]
    assert cap_grid([40, 40, 40]) == [40]
    assert cap_grid([]) == []


def test_the_curve_has_off_only_where_it_was_recorded():
    rows = curve("a", settled=20, natural=40)
    assert list(fixed_curve(Recording.of(rows), pace=PACE, caps=[20, 10])) == [
        "full",
        "off",
        "cap:10",
        "cap:20",
    ]
    bare = Recording.of([row("a", "natural", tokens=40, correct=True, coupled=False)])
    assert list(fixed_curve(bare, pace=PACE, caps=[10])) == ["full", "cap:10"]


def test_without_recorded_lengths_there_are_no_caps():
    bare = Recording.of([row("a", "natural", correct=True, coupled=False)])
    assert list(fixed_curve(bare, pace=PACE)) == ["full"]


def test_the_oracle_takes_the_cheapest_right_result_or_the_cheapest_wrong_one():
    runs = {
        "off": results([False, False, True], [0, 0, 0]),
        "cap:50": results([True, False, True], [50, 50, 50]),
        "full": results([True, False, True], [90, 90, 90]),
    }
    assert [(r.correct, r.reasoning_tokens) for r in oracle(runs)] == [(True, 50), (False, 0), (True, 0)]


def test_stopping_by_lot_spends_what_the_policy_does_on_the_same_calls():
    rng = random.Random(0)
    rows = [r for i in range(200) for r in curve(f"q{i}", settled=rng.choice((20, 60)), natural=100)]
    recording = Recording.of(rows)
    policy = replay(recording, "cap:50", pace=PACE)
    full = replay(recording, "full", pace=PACE)
    wanted = sum(r.reasoning_tokens for r in policy)
    lots = random_stop(full, tokens=wanted, seed=0)
    assert [r.key for r in lots] == [r.key for r in policy]
    assert abs(sum(r.reasoning_tokens for r in lots) - wanted) <= 100
    assert len({r.reasoning_tokens for r in lots}) > 5
    again = random_stop(full, tokens=wanted, seed=0)
    assert again == lots != random_stop(full, tokens=wanted, seed=1)
