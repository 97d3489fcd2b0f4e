"""Every metric against an independent computation: SciPy, another formula, or by hand; and at its edges."""

import math
from dataclasses import replace

import numpy as np
import pytest
from budgetctl.evals import ablation, curves, stats
from budgetctl.evals.control import control
from budgetctl.evals.metrics import evaluate
from budgetctl.evals.serving import requests_per_hour, serving

from budgetctl.types import Budget

from .worlds import results

scipy_stats = pytest.importorskip("scipy.stats")


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("harm", "gain"), [(0, 0), (0, 5), (1, 8), (7, 7), (30, 12)])
def test_mcnemar_is_the_binomial_test(harm, gain):
    exact = scipy_stats.binomtest(harm, harm + gain).pvalue if harm + gain else 1.0
    assert stats.sign_test(harm, gain) == pytest.approx(exact)


@pytest.mark.parametrize(("n", "q"), [(10, 0.5), (59, 0.95), (100, 0.9), (250, 0.95), (400, 0.99)])
def test_order_statistic_intervals_are_those_of_the_binomial(n, q):
    values = np.arange(1, n + 1)
    low, high = stats.quantile_interval(values, q)
    ranks = range(1, n + 1)
    below = [r for r in ranks if scipy_stats.binom.sf(r - 1, n, q) >= 0.975]
    above = [r for r in ranks if scipy_stats.binom.cdf(r - 1, n, q) >= 0.975]
    assert low == (max(below) if below else None)
    assert high == (min(above) if above else None)
    bound = [r for r in ranks if scipy_stats.binom.cdf(r - 1, n, q) >= 0.95]
    assert stats.upper_bound(values, q) == (min(bound) if bound else None)


@pytest.mark.parametrize("n", [1, 20, 183])
def test_no_event_in_n_trials_bounds_the_rate_as_clopper_and_pearson_do(n):
    interval = scipy_stats.binomtest(0, n).proportion_ci(0.95, method="exact")
    assert stats.rule_of_three(n) == pytest.approx(interval.high)


def test_the_paired_bootstrap_agrees_with_scipy():
    draws = rng(1)
    full, ours = draws.random(200) < 0.8, draws.random(200) < 0.75
    difference = ours.astype(float) - full
    other = scipy_stats.bootstrap((difference,), np.mean, method="percentile", n_resamples=4000, rng=rng(2))
    ours_low, ours_high = stats.interval(
        stats.bootstrap_means(difference[:, None], rng=rng(3), resamples=4000)
    )
    assert (ours_low, ours_high) == pytest.approx(tuple(other.confidence_interval), abs=0.01)
    assert stats.paired_se(difference) == pytest.approx(scipy_stats.sem(difference))


@pytest.mark.parametrize(("n", "harm"), [(50, 0.02), (100, 0.02), (100, 0.1)])
def test_few_events_are_covered_where_the_percentile_bootstrap_misses(n, harm):
    missed = {"percentile": 0, "ours": 0}
    draws = rng(4)
    for _ in range(250):
        d = draws.choice([-1.0, 0.0, 1.0], p=[harm, 1 - 1.5 * harm, harm / 2], size=n)
        drawn = stats.bootstrap_means(d[:, None], rng=draws, resamples=400)[:, 0]
        missed["percentile"] += stats.interval(drawn)[0] > -harm / 2
        missed["ours"] += stats.paired_interval(drawn, point=d.mean(), n=n, rng=draws)[0] > -harm / 2
    # The lower end may miss 2.5 %: more than 16 of 250 happens with probability 1e-3 or less.
    assert missed["ours"] <= 16
    if harm < 0.05:
        assert missed["percentile"] > 16


@pytest.mark.parametrize("margin", [0.01, 0.02, 0.05])
def test_the_questions_needed_without_a_difference(margin):
    n = stats.units_without_a_difference(margin)
    assert scipy_stats.binomtest(0, n).proportion_ci().high < margin
    assert scipy_stats.binomtest(0, n - 1).proportion_ci().high >= margin
    with pytest.raises(ValueError, match="between 0 and 1"):
        stats.units_without_a_difference(1.0)


def test_the_questions_needed_by_the_formula():
    # sd = .005 * sqrt(400) = .1, z = 1.96 + .84: (2.8 * .1 / .01)^2 = 785 questions.
    z = scipy_stats.norm.ppf(0.975) + scipy_stats.norm.ppf(0.8)
    needed = stats.units_needed(se=0.005, n=400, point=-0.01, margin=0.02)
    assert needed == math.ceil((z * 0.1 / 0.01) ** 2)
    # Beyond the margin it is the loss that has to be shown.
    assert stats.units_needed(se=0.005, n=400, point=-0.05, margin=0.02) == max(
        183, math.ceil((z * 0.1 / 0.05) ** 2)
    )
    assert stats.units_needed(se=None, n=1, point=0.0, margin=0.02) == 183


def test_variance_splits_as_miller_has_it():
    draws = rng(5)
    n, k = 400, 8
    p = draws.beta(2, 1, size=n)
    rows = [
        replace(r, question_id=f"{i:03d}", sample=j)
        for i in range(n)
        for j, r in enumerate(results(list(draws.random(k) < p[i])))
    ]
    row = evaluate({"full": rows}, rng=rng()).row("full")
    means = np.array([[r.correct for r in rows]]).reshape(n, k).mean(axis=1)
    # The parts add up to what the question means vary by, and each is near its truth.
    assert row.variance_questions + row.variance_samples == pytest.approx(means.var(ddof=1) / n)
    assert row.variance_samples == pytest.approx(np.mean(p * (1 - p)) / k / n, rel=0.1)
    assert row.variance_questions == pytest.approx(p.var() / n, rel=0.25)
    once = evaluate({"full": results([True, False])}, rng=rng()).row("full")
    assert (once.variance_questions, once.variance_samples) == (None, None)


# --- curves -------------------------------------------------------------------------------------------

OFF, HALF, FULL = (0.0, 0.2), (50.0, 0.7), (100.0, 0.8)


def test_aiq_by_hand():
    # Hull: (0, .2) (50, .7) (100, .8): areas 50 * .45 + 50 * .75 = 60, over 100. The point below is nothing.
    points = [OFF, (60.0, 0.5), FULL, HALF]
    assert curves.frontier(points) == [OFF, HALF, FULL]
    assert curves.aiq(points, low=0, high=100) == pytest.approx(0.6)
    # Flat beyond the ends: (60 + 100 * .8) / 200, and the cheapest corner's quality to the left of it.
    assert curves.aiq(points, low=0, high=200) == pytest.approx(0.7)
    assert curves.aiq([HALF], low=0, high=100) == pytest.approx(0.7)
    assert curves.aiq([HALF], low=5, high=5) is None
    assert curves.aiq([], low=0, high=1) is None


def test_a_hull_is_the_upper_one_of_any_points():
    draws = rng(6)
    points = [(float(x), float(y)) for x, y in draws.random((60, 2))]
    hull = curves.frontier(points)
    x, y = np.array(hull).T
    assert all(np.interp(cost, x, y) >= quality - 1e-12 for cost, quality in points if cost >= x[0])
    slopes = np.diff(y) / np.diff(x)
    assert (slopes > 0).all()
    assert (np.diff(slopes) < 0).all()


def test_apgr_and_cpt_by_hand():
    # Gap .6. Recovered: 0 at 0, .5/.6 at .5, 1 at 1: .5 * .4167 + .5 * .9167.
    known = {"off": OFF, "full": FULL, "gap_se": 0.05}
    points = [OFF, HALF, FULL]
    assert curves.apgr(points, **known) == pytest.approx((0.5 * 5 / 6 + 0.5 * (5 / 6 + 1)) / 2)
    assert curves.cpt(points, **known, part=0.5) == pytest.approx(0.5 * 0.5 / (5 / 6))
    assert curves.cpt(points, **known, part=0.8) == pytest.approx(0.5 * 0.8 / (5 / 6))
    assert curves.cpt(points, **known, part=0.0) == 0.0
    # A dip is evened out: what costs more is at least as good.
    dipped = [*points, (75.0, 0.3)]
    assert curves.cpt(dipped, **known, part=0.9) >= curves.cpt(points, **known, part=0.8)
    assert np.all(np.diff(curves.recovered(dipped, off=OFF, full=FULL)[1]) >= 0)


@pytest.mark.parametrize(
    "wrong", [{"gap_se": 0.4}, {"gap_se": None}, {"off": (0.0, 0.9)}, {"full": (0.0, 0.8)}]
)
def test_a_gap_that_may_be_none_has_no_share(wrong):
    known = {"off": OFF, "full": FULL, "gap_se": 0.05} | wrong
    assert curves.apgr([HALF], **known) is None
    assert curves.cpt([HALF], **known, part=0.5) is None


def test_the_evaluation_gives_the_curves_of_the_fixed_budgets_and_with_the_policies():
    easy = [i % 2 == 0 for i in range(200)]
    runs = {
        "full": results([True] * 200, [100] * 200),
        "off": results(easy, [0] * 200),
        "quantile:0.9": results([True] * 200, [0 if e else 100 for e in easy]),
    }
    found = evaluate(runs, rng=rng(), asked=["quantile:0.9"]).curves
    assert found["fixed"].aiq == pytest.approx(0.75)
    assert found["fixed"].apgr == pytest.approx(0.5)
    assert found["with_policies"].aiq == pytest.approx(0.5 * 0.75 + 0.5 * 1.0)
    assert found["with_policies"].cpt80 == pytest.approx(0.4)
    assert evaluate({"full": runs["full"]}, rng=rng()).curves == {}


# --- where a saving comes from ------------------------------------------------------------------------


def test_tokens_matched_by_accuracy_by_hand():
    x, y = [0.0, 50.0, 60.0, 100.0], [0.2, 0.7, 0.5, 0.8]
    # Halfway from (0, .2) to (50, .7); from (50, .7) past the worse point to (100, .8); beyond the curve.
    assert ablation.matched_tokens([x] * 4, [y] * 4, [0.45, 0.75, 0.7, 0.95]) == pytest.approx(
        [25, 75, 50, 100]
    )
    assert ablation.matched_tokens([x], [y], [0.1]) == pytest.approx([0])


def test_a_saving_is_split_into_budget_classifier_and_stop():
    # Half of 200 questions need no thinking. A fixed mix that is always right is full itself: the budget
    # saves nothing, choosing saves half, and the stop another tenth.
    easy = [i % 2 == 0 for i in range(200)]
    chosen = results([True] * 200, [0 if e else 100 for e in easy])
    early = results([True] * 200, [0 if e else 80 for e in easy])
    runs = {
        "full": results([True] * 200, [100] * 200),
        "off": results(easy, [0] * 200),
        "quantile:0.9+stop:none": chosen,
        "quantile:0.9+stop:balanced": [replace(r, stop="settled") for r in early],
    }
    evaluation = evaluate(runs, rng=rng())
    split = evaluation.row("quantile:0.9+stop:balanced").split
    assert [split[part] for part in ("budget", "classifier", "stop")] == pytest.approx([0, 0.5, 0.1])
    assert sum(split[part] for part in ("budget", "classifier", "stop")) == pytest.approx(
        evaluation.row("quantile:0.9+stop:balanced").token_saving
    )
    assert split["stop_ci"][0] < 0.1 < split["stop_ci"][1]
    fixed = evaluation.row("off").split
    assert [fixed[part] for part in ("budget", "classifier", "stop")] == pytest.approx([1, 0, 0])
    del runs["quantile:0.9+stop:none"]
    assert evaluate(runs, rng=rng()).row("quantile:0.9+stop:balanced").split is None


def test_the_policy_without_its_stop():
    assert ablation.without_stop("cap:9+stop:balanced") == "cap:9+stop:none"
    assert (
        ablation.without_stop("quantile:0.9&cap:9+stop:aggressive")
        == "quantile:0.9+stop:none&cap:9+stop:none"
    )


# --- times and control --------------------------------------------------------------------------------


def timed(seconds, *, starts=None, right=True):
    return [
        replace(r, e2e_s=t, ttfo_s=t / 2, ttft_s=t / 4, started_s=s)
        for r, t, s in zip(
            results([right] * len(seconds)), seconds, starts or [None] * len(seconds), strict=True
        )
    ]


def test_quantiles_need_their_n_and_the_table_says_none_else():
    for n, told in ((58, ()), (59, ("p95",)), (298, ("p95",)), (299, ("p95", "p99"))):
        found = serving(timed(list(range(1, n + 1))), questions=n, slo_s=None)
        assert [p for p in ("p95", "p99") if found[f"e2e_{p}_s"] is not None] == list(told)
    assert found["e2e_p99_s"] == math.ceil(0.99 * 299)
    assert found["ttft_p50_s"] == math.ceil(0.5 * 299) / 4


def test_goodput_and_accurate_goodput_by_hand():
    rows = [*timed([1.0, 2.0, 9.0]), *timed([1.0], right=False)]
    rows = [replace(r, question_id=str(i)) for i, r in enumerate(rows)]
    found = serving(rows, questions=4, slo_s=2.0)
    assert (found["goodput"], found["accurate_goodput"]) == (0.75, 0.5)


def test_a_call_without_an_answer_keeps_no_deadline_however_soon_it_ended():
    rows = [replace(r, question_id=str(i)) for i, r in enumerate(timed([1.0] * 100))]
    rows = [replace(r, budget=Budget(deadline_s=2.0), answered=i >= 4) for i, r in enumerate(rows)]
    found = serving(rows, questions=100, slo_s=2.0)
    assert (found["goodput"], found["deadline_met"], found["deadline_p95"]) == (0.96, 0.96, 0.5)
    late = [replace(r, answered=i >= 6) for i, r in enumerate(rows)]
    assert serving(late, questions=100, slo_s=2.0)["deadline_p95"] is None


def test_requests_an_hour_are_of_the_time_in_which_a_call_was_in_flight():
    # 0-2 and 1-3 overlap, 10-11 stands alone: 4 seconds for 3 calls. The pause is another policy's turn.
    assert requests_per_hour(timed([2, 2, 1], starts=[0, 1, 10])) == pytest.approx(3 / 4 * 3600)
    assert requests_per_hour(timed([2, 2], starts=[0, 0])) == pytest.approx(2 / 2 * 3600)
    assert requests_per_hour(timed([5, 1], starts=[0, 2])) == pytest.approx(2 / 5 * 3600)
    assert requests_per_hour(timed([2])) is None


def test_adherence_overshoot_and_truncation_by_hand():
    rows = results([True] * 4, [50, 52, 60, 500])
    rows = [replace(r, budget=Budget(reasoning_tokens=50), stop="cap") for r in rows[:3]] + [
        replace(rows[3], stop="length")
    ]
    found = control(rows)
    # 52 is within 5 % of 50, 60 is not, and the last call had no cap.
    assert found["adherence"] == pytest.approx(2 / 3)
    assert found["overshoot_p95"] == 10
    assert (found["truncated"], found["stops"]) == (1, {"cap": 3, "length": 1})
    probed = [replace(rows[2], probe_tokens=10)]
    assert control(probed)["adherence"] == 1.0
    assert control(rows[3:])["adherence"] is None


# --- edges --------------------------------------------------------------------------------------------


def test_one_question_says_almost_nothing():
    runs = {"full": timed([1.0]), "cap:9": [replace(r, reasoning_tokens=9) for r in timed([0.5])]}
    runs["cap:9"] = [replace(r, budget=Budget(reasoning_tokens=9)) for r in runs["cap:9"]]
    row = evaluate(runs, rng=rng()).row("cap:9")
    assert (row.n, row.delta_accuracy, row.delta_se) == (1, 0.0, None)
    assert row.delta_ci == (pytest.approx(-0.975), pytest.approx(0.975)) or row.delta_ci == (-1.0, 1.0)
    assert row.token_saving == pytest.approx(0.91)
    assert (row.e2e_p95_s, row.e2e_p50_s) == (None, 0.5)


def test_all_right_and_all_wrong():
    for right in (True, False):
        rows = [replace(r, cost_usd=1.0) for r in results([right] * 100)]
        cut = [replace(r, budget=Budget(reasoning_tokens=9)) for r in rows]
        row = evaluate({"full": rows, "cap:9": cut}, rng=rng()).row("cap:9")
        assert (row.accuracy, row.harm, row.help, row.mcnemar_p) == (float(right), 0, 0, 1.0)
        assert row.cost_usd_per_correct == (1.0 if right else None)
        assert row.delta_ci[0] < -0.03 < 0.03 < row.delta_ci[1]


def test_ties_in_time_and_tokens():
    rows = timed([1.0] * 100)
    found = serving(rows, questions=100, slo_s=1.0)
    assert (found["e2e_p50_s"], found["e2e_p95_s"], found["goodput"]) == (1.0, 1.0, 1.0)
    assert found["e2e_p95_ci"] == (1.0, 1.0)
    same = results([True] * 100, [10] * 100)
    row = evaluate({"full": same, "cap:10": same}, rng=rng()).row("cap:10")
    assert (row.token_saving, row.token_saving_ci) == (0.0, (0.0, 0.0))
