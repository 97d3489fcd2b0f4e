"""Curves of a choice between two models, by hand, and what noise and ties come to."""

import numpy as np
import pytest
from budgetctl.evals.ladders import standing as module
from budgetctl.evals.ladders.choices import Choice
from budgetctl.evals.ladders.judge import judge


def choice(score, small, large, *, cheap=None, dear=None, drafts=False, groups=None, weight=None):
    small, large = np.array(small, dtype=float), np.array(large, dtype=float)
    costs = [
        None if cost is None else np.broadcast_to(cost, small.shape).astype(float) for cost in (cheap, dear)
    ]
    sent = costs[0] + costs[1] if drafts else costs[1]
    return Choice(
        score=np.array(score, dtype=float),
        small=(small, costs[0]),
        large=(large, costs[1]),
        kept=(small, costs[0]),
        sent=(large, sent),
        groups=np.arange(len(small)) if groups is None else np.array(groups),
        weight=np.ones(len(small)) if weight is None else weight,
    )


def judged(made, seed=0, resamples=400, **options):
    return judge(made, rng=np.random.default_rng(seed), resamples=resamples, **options)


FOUR = {
    "score": [0.1, 0.9, 0.8, 0.5] * 100,
    "small": [1, 0, 0, 1] * 100,
    "large": [1, 1, 1, 0] * 100,
}


def test_apgr_and_cpt_are_those_of_a_curve_by_hand():
    # Sent in the order of scores, the gap of .25 is recovered 0, 1, 2, 1 and 1 times.
    share = judged(choice(**FOUR)).standings["share"]
    assert share.apgr == pytest.approx((0.5 + 1.5 + 1.5 + 1) / 4)
    assert share.cpt50 == pytest.approx(0.5 / 4)
    assert share.cpt80 == pytest.approx(0.8 / 4)
    assert share.oracle_apgr == pytest.approx((0.5 + 1.5 + 2 + 1.5) / 4)
    assert share.position == pytest.approx((1.125 - 0.5) / (1.375 - 0.5))
    assert share.area == pytest.approx((1.125 - 0.5) * 0.25)


def test_the_same_by_cost_weighs_each_call_by_what_it_costs_more():
    found = judged(choice(**FOUR, cheap=10, dear=[30, 50, 30, 30] * 100))
    # The extra costs are 40, 20, 20 and 20 of 100 in the order of scores.
    assert found.standings["cost"].apgr == pytest.approx(0.4 * 0.5 + 0.2 * 1.5 + 0.2 * 1.5 + 0.2 * 1)
    assert found.standings["cost"].cpt50 == pytest.approx(0.4 / 2)
    assert [round(point.cost) for point in found.curve] == [10, 20, 25, 30, 35]
    assert found.oracle == pytest.approx((1, (10 + 50 + 30 + 10) / 4, 0.5))


def test_aiq_is_that_of_the_paper_on_the_hull_of_the_curve():
    found = judged(choice(**FOUR, cheap=10, dear=[30, 50, 30, 30] * 100)).aiq
    # The hull goes from (10, .5) straight to (25, 1) and stays there up to 35.
    assert found.policy == pytest.approx((15 * 0.75 + 10 * 1.0) / 25)
    assert found.zero == pytest.approx((0.5 + 0.75) / 2)
    assert found.oracle >= found.policy


def test_a_score_without_differences_is_the_random_mix_exactly():
    found = judged(choice([0.3] * 400, FOUR["small"], FOUR["large"], cheap=10, dear=30))
    for standing in found.standings.values():
        assert standing.area == pytest.approx(0)
        assert standing.apgr == pytest.approx(0.5)
        assert standing.cpt80 == pytest.approx(0.8)
    assert not found.beats_mix


def test_calls_of_one_score_are_sent_together():
    found = judged(choice([1, 1, 0, 0] * 100, FOUR["small"], FOUR["large"]))
    assert [point.share for point in found.curve] == pytest.approx([0, 0.5, 1])
    assert [point.threshold for point in found.curve] == [None, 1, 0]


def test_a_score_that_knows_is_the_oracle():
    made = choice(np.array(FOUR["large"]) - np.array(FOUR["small"]), FOUR["small"], FOUR["large"])
    standing = judged(made).standings["share"]
    assert standing.position == pytest.approx(1)
    assert standing.area == pytest.approx(standing.oracle_area)
    assert judged(made).beats_mix
    assert standing.shuffled.p < 0.01


def test_a_cascade_pays_for_its_drafts_and_is_read_up_to_the_cost_of_always_large():
    made = choice([0, 1] * 100, [1, 0] * 100, [1, 1] * 100, cheap=10, dear=20, drafts=True)
    found = judged(made)
    assert found.standings["share"].apgr == pytest.approx(0.75)
    # Right after half of the calls, when it has cost what always-large does: no better than the mix.
    assert found.standings["cost"].area == pytest.approx(0)
    assert [point.cost for point in found.curve] == pytest.approx([10, 20, 30])
    assert not found.beats_mix


def test_a_crossing_of_the_cost_of_always_large_within_a_piece_is_interpolated():
    made = choice([0] * 200, [1, 0] * 100, [1, 1] * 100, cheap=10, dear=20, drafts=True)
    # One straight piece from (10, .5) to (30, 1): at 20 it is half-way up, where the mix is at 1.
    assert judged(made).standings["cost"].area == pytest.approx(-0.25 / 2)


def test_scores_at_random_have_an_interval_that_holds_the_random_mix():
    rng = np.random.default_rng(1)
    false, apgr = 0, []
    for seed in range(60):
        small = rng.random(200) < 0.9
        large = np.where(small, rng.random(200) < 0.98, rng.random(200) < 0.9)
        found = judged(choice(rng.random(200), small, large), seed=seed, resamples=200)
        false += found.beats_mix
        if found.standings["share"].apgr is not None:
            apgr.append(found.standings["share"].apgr)
    assert false <= 4  # by design 1.5
    assert np.mean(apgr) == pytest.approx(0.5, abs=0.05)


def test_shuffled_scores_are_the_random_mix_on_average_whatever_the_score():
    made = choice(
        np.array(FOUR["large"]) - np.array(FOUR["small"]), FOUR["small"], FOUR["large"], cheap=1, dear=5
    )
    for standing in judged(made).standings.values():
        assert standing.shuffled.apgr == pytest.approx(0.5, abs=0.02)
        assert standing.shuffled.position_range[0] < 0 < standing.shuffled.position_range[1]


def test_one_question_more_right_is_no_proof():
    score, small, large = [0.0] * 300, [1] * 300, [1] * 300
    score[7], small[7] = 1.0, 0
    found = judged(choice(score, small, large, cheap=1, dear=2))
    assert found.standings["share"].area > 0
    assert not found.beats_mix
    assert found.standings["share"].apgr is None  # the gap is one question


def test_where_all_are_right_there_is_nothing_to_recover():
    found = judged(choice([0.2, 0.4, 0.6], [1, 1, 1], [1, 1, 1], cheap=1, dear=2))
    standing = found.standings["cost"]
    assert (standing.apgr, standing.position, standing.oracle_area) == (None, None, 0)
    assert standing.area_ci[0] < 0 < standing.area_ci[1]
    assert not found.beats_mix


def test_one_question_is_judged_and_shows_nothing():
    found = judged(choice([0.5], [0], [1], cheap=1, dear=2))
    assert found.n == 1
    assert found.gap == 1
    assert not found.beats_mix


def test_clusters_widen_the_interval():
    by_question = judged(choice(**FOUR)).standings["share"].area_ci
    by_cluster = judged(choice(**FOUR, groups=np.arange(400) % 4)).standings["share"].area_ci
    assert np.ptp(by_cluster) > 2 * np.ptp(by_question)


def test_costs_that_do_not_grow_leave_the_share_of_calls_alone():
    assert list(judged(choice(**FOUR, cheap=30, dear=10)).standings) == ["share"]
    assert list(judged(choice(**FOUR)).standings) == ["share"]


def test_no_score_is_above_the_oracle_not_where_the_large_model_is_the_cheaper_one_on_some_calls():
    rng = np.random.default_rng(1)
    small, large = rng.random(300) < 0.6, rng.random(300) < 0.8
    gain, dear = large.astype(int) - small, rng.choice([1.0, 10.0], 300)
    free_first = np.where((gain >= 0) & (dear < 3), 2, gain)
    for score in (free_first, gain, gain / dear, rng.random(300)):
        found = judged(choice(score, small, large, cheap=3, dear=dear), resamples=20)
        assert found.standings["cost"].position <= 1 + 1e-9
    # The cheapest model that is right, call by call.
    cost = np.where(gain > 0, dear, np.where(gain < 0, 3, np.minimum(3, dear)))
    assert found.oracle == pytest.approx(
        (np.maximum(small, large).mean(), cost.mean(), np.mean(cost == dear))
    )


def test_whether_there_is_a_gap_does_not_depend_on_how_often_a_question_was_asked():
    rng = np.random.default_rng(0)
    samples = np.where(np.arange(60) % 20, 1, 400)
    of = np.repeat(np.arange(60), samples)
    large = rng.random(60) < 0.16
    once = judged(choice(rng.random(60), np.zeros(60), large))
    often = judged(choice(rng.random(60)[of], 0.0 * of, large[of], groups=of, weight=1 / samples[of]))
    assert often.gap == pytest.approx(once.gap)
    assert [found.standings["share"].apgr is None for found in (once, often)] == [False, False]


def test_scores_are_shuffled_with_all_calls_of_a_unit_together():
    rng = np.random.default_rng(3)
    score, small, large = rng.random(80), rng.random(80) < 0.5, rng.random(80) < 0.8
    of = np.repeat(np.arange(80), 9)
    once = judged(choice(score, small, large))
    often = judged(choice(score[of], small[of], large[of], groups=of))
    spread = [np.ptp(found.standings["share"].shuffled.position_range) for found in (once, often)]
    assert spread[1] == pytest.approx(spread[0], rel=0.1)
    p = [found.standings["share"].shuffled.p for found in (once, often)]
    assert p[1] == pytest.approx(p[0], abs=0.05)


def in_folds(features, gain, rng):
    """Score each fifth of the questions by a regression on the other four, as ranks."""
    fold, score = rng.integers(0, 5, len(gain)), np.zeros(len(gain))
    for part in range(5):
        rest, mine = features[fold != part], features[fold == part]
        slope = np.linalg.solve(rest.T @ rest + 10 * np.eye(rest.shape[1]), rest.T @ gain[fold != part])
        score[fold == part] = np.argsort(np.argsort(mine @ slope)) / len(mine)
    return score


def test_a_score_fitted_in_folds_has_an_interval_that_holds_the_random_mix(monkeypatch):
    monkeypatch.setattr(module, "SHUFFLES", 2)
    rng = np.random.default_rng(0)
    missed = {False: 0, True: 0}
    for seed in range(200):
        features, lot = rng.normal(size=(200, 20)), rng.random(200)
        small, large = lot >= 0.3, (lot < 0.3) | (lot >= 0.4)  # nothing of that is in the features
        made = choice(in_folds(features, large * 1.0 - small - 0.2, rng), small, large)
        for crossfit in missed:
            low, high = judged(made, seed, 200, crossfit=crossfit).standings["share"].area_ci
            missed[crossfit] += not low <= 0 <= high
    # By design 10 of 200; as if the score had been given, almost three times as many.
    assert missed[True] <= 16
    assert missed[False] > 18
