from dataclasses import replace

import numpy as np
import pytest
from budgetctl.evals import verdict
from budgetctl.evals.baselines import ORACLE, fixed_curve
from budgetctl.evals.metrics import evaluate
from budgetctl.evals.replay import Recording, replay
from budgetctl.evals.replayed import PESSIMISTIC
from budgetctl.evals.results import pair

from budgetctl.errors import PairingError
from budgetctl.types import Budget, Pace

from .worlds import Oracle, results, world

PACE = Pace(ttft_s=1.0, s_per_token=0.1)
KEYS = {
    *("policy", "n", "accuracy", "accuracy_ci", "delta_accuracy", "delta_ci", "reasoning_tokens_mean"),
    *("token_saving", "token_saving_ci", "lift_over_cap", "lift_ci", "ttfo_p50_s", "ttfo_p95_s", "e2e_p50_s"),
    *("e2e_p95_s", "cost_usd_mean", "cost_usd_per_correct", "accurate_goodput", "empty_answers", "modelled"),
}


def rng():
    return np.random.default_rng(0)


def timed(rows, e2e, *, cost=None):
    return [
        replace(r, ttfo_s=t / 2, e2e_s=t, cost_usd=c)
        for r, t, c in zip(rows, e2e, cost or [None] * len(rows), strict=True)
    ]


def small():
    """Four questions, every number small enough to be worked out by hand."""
    return {
        "full": timed(results([True, True, True, False], [10, 20, 30, 40]), [1, 2, 3, 4], cost=[1, 1, 1, 1]),
        "cap:9": timed(results([True, False, True, True], [5, 5, 5, 5]), [1, 1, 1, 1], cost=[0, 0, 1, 1]),
    }


def test_every_number_by_hand():
    evaluation = evaluate(small(), rng=rng(), asked=["cap:9"], slo_s=2.0)
    (row,) = evaluation.policies
    assert row.accuracy == 0.75
    assert row.delta_accuracy == 0.0
    assert (row.harm, row.help, row.mcnemar_p) == (1, 1, 1.0)
    # Differences 0, -1, 0, 1 around 0: sqrt(4/3 * 2) / 4.
    assert row.delta_se == pytest.approx((8 / 3) ** 0.5 / 4)
    assert row.reasoning_tokens_mean == 5
    assert row.output_tokens_mean == 10
    assert row.token_saving == pytest.approx(1 - 20 / 100)
    assert (row.e2e_p50_s, row.ttfo_p50_s) == (1, 0.5)
    assert (row.e2e_p95_s, row.ttfo_p95_s) == (None, None)
    assert row.cost_usd_mean == 0.5
    assert row.cost_usd_per_correct == pytest.approx(2 / 3)
    assert row.accurate_goodput == 0.75
    full = evaluation.row("full")
    assert full.accurate_goodput == 0.5
    assert (full.delta_accuracy, full.token_saving, full.lift_over_cap) == (None, None, None)


def test_the_row_has_every_promised_key():
    row = evaluate(small(), rng=rng()).policies[0].as_json()
    assert set(row) >= KEYS


def test_the_slo_is_the_median_of_full_thinking_unless_given():
    evaluation = evaluate(small(), rng=rng())
    assert (evaluation.slo_s, evaluation.slo_source) == (2, "median of full thinking")


def test_unknown_values_stay_unknown():
    runs = {
        "full": [replace(r, reasoning_tokens=None) for r in results([True, True], [10, 20])],
        "cap:9": results([True, False], [5, 5]),
    }
    row = evaluate(runs, rng=rng()).row("full")
    assert row.reasoning_tokens_mean is None
    assert (row.e2e_p50_s, row.cost_usd_mean, row.accurate_goodput) == (None, None, None)
    capped = evaluate(runs, rng=rng()).row("cap:9")
    # Thinking is not known for every call, so savings are of all output tokens: 15 + 25 against 10 + 10.
    assert (capped.token_basis, capped.token_saving) == ("output_tokens", pytest.approx(0.5))


def test_a_policy_that_changed_no_call_differs_from_full_thinking_by_nothing():
    full = results([True] * 50)
    untouched = evaluate({"full": full, "auto": full}, rng=rng()).row("auto")
    assert untouched.delta_ci == (0.0, 0.0)
    capped = [replace(r, budget=Budget(reasoning_tokens=500)) for r in full]
    roomy = evaluate({"full": full, "cap:500": capped}, rng=rng()).row("cap:500")
    assert roomy.delta_ci[0] == pytest.approx(-0.071, abs=0.001)


def test_without_any_tokens_there_is_no_saving_and_no_lift():
    bare = [replace(r, reasoning_tokens=None, output_tokens=None) for r in results([True, False])]
    row = evaluate({"full": bare, "auto": bare}, rng=rng()).row("auto")
    assert (row.token_saving, row.token_saving_ci, row.lift_over_cap) == (None, None, None)
    assert row.delta_accuracy == 0.0


def test_samples_of_a_question_are_averaged_before_questions_are():
    often = [replace(r, question_id="often", sample=i) for i, r in enumerate(results([True] * 9))]
    once = [replace(r, question_id="once") for r in results([False])]
    row = evaluate({"full": [*often, *once]}, rng=rng()).row("full")
    assert (row.n, row.runs, row.accuracy) == (2, 10, 0.5)


def test_an_unanswered_call_is_wrong_late_and_counted():
    full = timed(results([True] * 60), [1.0] * 60)
    cut = [*full[:50], *(replace(r, correct=False, answered=False, ttfo_s=None) for r in full[50:])]
    row = evaluate({"full": full, "cap:5": cut}, rng=rng()).row("cap:5")
    assert row.empty_answers == 10
    assert row.ttfo_p50_s == 0.5
    assert row.ttfo_p95_s is None
    assert row.e2e_p95_s == 1.0


def test_a_p95_needs_59_questions():
    for n, known in ((58, False), (59, True)):
        row = evaluate({"full": timed(results([True] * n), [1.0] * n)}, rng=rng()).row("full")
        assert (row.e2e_p95_s is not None) is known


def test_modelled_numbers_are_named():
    rows = [replace(r, modelled=("e2e_s",)) for r in small()["cap:9"]]
    row = evaluate({"full": small()["full"], "cap:9": rows}, rng=rng()).row("cap:9")
    assert row.modelled == ("e2e_p50_s", "e2e_p95_s", "goodput", "accurate_goodput")


def test_different_questions_are_refused():
    with pytest.raises(PairingError, match="question '002', sample 0 is missing from 'cap:9'"):
        evaluate({"full": results([True] * 3), "cap:9": results([True] * 2)}, rng=rng())
    with pytest.raises(PairingError, match="two results for question '000'"):
        evaluate({"full": results([True]) * 2}, rng=rng())
    with pytest.raises(PairingError, match="add the policy 'full'"):
        evaluate({"cap:9": results([True])}, rng=rng())


def test_the_order_of_the_rows_does_not_matter():
    runs = small()
    turned = {name: rows[::-1] for name, rows in runs.items()}
    assert evaluate(runs, rng=rng()) == evaluate(turned, rng=rng())


def test_clusters_are_drawn_whole_only_when_asked():
    rows = [replace(r, cluster=str(i // 10)) for i, r in enumerate(results([i < 20 for i in range(40)]))]
    by_question = evaluate({"full": rows}, rng=rng()).row("full")
    by_cluster = evaluate({"full": rows}, rng=rng(), cluster_by="cluster").row("full")
    assert by_cluster.accuracy == by_question.accuracy
    assert np.ptp(by_cluster.accuracy_ci) > 2 * np.ptp(by_question.accuracy_ci)
    with pytest.raises(PairingError, match="40 of 40 questions name no cluster"):
        pair({"full": results([True] * 40)}, cluster_by="cluster")


def test_lift_by_hand():
    # Full: 100 tokens, always right. Off: 0 tokens, right on the easy half. The policy thinks on the hard
    # half only: 50 mean tokens and always right; the mix of off and full with 50 tokens is right on 75 %.
    easy = [i % 2 == 0 for i in range(100)]
    runs = {
        "full": results([True] * 100, [100] * 100),
        "off": results(easy, [0] * 100),
        "quantile:0.9": results([True] * 100, [0 if e else 100 for e in easy]),
    }
    row = evaluate(runs, rng=rng()).row("quantile:0.9")
    assert row.lift_over_cap == pytest.approx(0.25)
    assert row.matched_cap == "50% off + 50% full"
    # With p of the questions easy, mean tokens and so the mix move too: the lift is 1 - (p + (1 - p)^2).
    draws = np.random.default_rng(1)
    p = draws.binomial(100, 0.5, size=20_000) / 100
    unseen = (draws.poisson(1, p.shape) - draws.poisson(1, p.shape)) / 100
    expected = np.quantile(1 - (p + (1 - p) ** 2) + unseen, [0.025, 0.975])
    assert row.lift_ci == pytest.approx(tuple(expected), abs=0.005)


def test_a_lift_that_is_not_there_is_rarely_shown():
    # Thinking longer hurts two questions in a hundred, and the policy picks at random: its lift is zero.
    shown = 0
    for seed in range(60):
        draws = np.random.default_rng(seed)
        hurt, full = draws.random(200) < 0.02, draws.random(200) < 0.05
        runs = {
            "full": results((~hurt).tolist(), [100] * 200),
            "cap:50": results([True] * 200, [50] * 200),
            "tiered": results(np.where(full, ~hurt, True).tolist(), np.where(full, 100, 50).tolist()),
        }
        shown += evaluate(runs, rng=draws, resamples=400).row("tiered").lift_ci[0] > 0
    # The design is 2.5 %; 60 tries at that exceed 6 with probability 1e-3. A plain bootstrap shows 25 here.
    assert shown <= 6


def test_a_policy_that_is_a_fixed_cap_in_disguise_has_no_lift():
    evaluation = replayed("cap:50&cap:50")
    row = evaluation.row("cap:50&cap:50")
    assert row.lift_over_cap == pytest.approx(0.0)
    assert row.lift_ci == (-row.lift_ci[1], row.lift_ci[1])


def replayed(*policies, n=200, classifier=None):
    recording = Recording.of(world(n))
    runs = fixed_curve(recording, pace=PACE, caps=[20, 50, 80])
    for policy in policies:
        runs[policy] = replay(recording, policy, pace=PACE, classifier=classifier)
    return evaluate(runs, rng=rng(), asked=policies)


def test_a_good_classifier_is_recommended_with_its_lift():
    evaluation = replayed("quantile:0.9", classifier=Oracle())
    row = evaluation.row("quantile:0.9")
    assert row.lift_ci[0] > 0
    decision = verdict.decide(evaluation)
    assert (decision.choice, decision.recommended, decision.negative) == ("policy", "quantile:0.9", False)
    assert "Use quantile:0.9" in decision.text


def test_without_lift_the_verdict_names_the_fixed_cap_to_use_instead():
    evaluation = replayed("cap:80&cap:80")
    decision = verdict.decide(evaluation)
    assert (decision.choice, decision.recommended, decision.negative) == ("fixed", "cap:80", True)
    assert decision.text.startswith("Do not use cap:80&cap:80 here")
    assert "Use cap:80" in decision.text


def test_a_policy_that_merely_saves_nothing_is_not_said_to_lose():
    full = results([True] * 300, [100] * 300)
    half = results([True] * 300, [50] * 300, budget=Budget(reasoning_tokens=50))
    runs = {"full": full, "cap:50": half, "quantile:0.9": full}
    decision = verdict.decide(evaluate(runs, rng=rng(), asked=["quantile:0.9"]))
    assert decision.text.startswith("Do not use quantile:0.9 here: no token saving was shown. Use cap:50")


def test_a_fixed_cap_that_was_asked_for_and_passes_is_a_yes():
    decision = verdict.decide(replayed("cap:80"))
    assert (decision.choice, decision.recommended) == ("policy", "cap:80")


def test_where_every_cut_costs_accuracy_the_verdict_is_no_budget():
    full = results([True] * 300, [100] * 300)
    cut = results([i % 10 != 0 for i in range(300)], [50] * 300)
    decision = verdict.decide(evaluate({"full": full, "cap:50": cut}, rng=rng()))
    assert (decision.choice, decision.recommended, decision.negative) == ("none", None, True)
    assert decision.text.startswith("Do not use a budget here: every policy that saves tokens loses accuracy")
    assert "cap:50 comes closest with -10.0 points" in decision.text


def test_too_few_questions_are_called_too_few():
    full = results([True] * 50, [100] * 50)
    cut = results([True] * 50, [50] * 50, budget=Budget(reasoning_tokens=50))
    decision = verdict.decide(evaluate({"full": full, "cap:50": cut}, rng=rng()))
    assert decision.negative
    assert "50 questions are too few: even without one difference it takes 183" in decision.text


def test_where_nothing_is_saved_full_thinking_stays():
    full = results([True] * 300)
    decision = verdict.decide(evaluate({"full": full, "auto": full}, rng=rng()))
    assert decision.text == (
        "Do not use a budget here: no policy was shown to save tokens. Keep full thinking."
    )


def test_a_policy_that_chooses_but_shows_no_lift_is_not_recommended_even_where_no_cap_passes():
    # 400 questions: the policy saves 2 % and loses nothing; the only cap saves half and loses a tenth.
    full, cap = results([True] * 400), results([i % 10 != 0 for i in range(400)], [50] * 400)
    ours = results([i != 0 for i in range(400)], [0 if i % 50 == 0 else 100 for i in range(400)])
    decision = verdict.decide(
        evaluate({"full": full, "cap:50": cap, "tiered": ours}, rng=rng(), asked=["tiered"])
    )
    assert (decision.choice, decision.recommended) == ("none", None)
    assert "no fixed budget passes, and tiered shows no lift over one" in decision.text
    assert "it saves 2 % of the tokens" in decision.text


def test_a_policy_that_was_held_against_no_cap_is_not_recommended_and_told_so():
    half = results([True] * 300, [50] * 300, budget=Budget(reasoning_tokens=50))
    decision = verdict.decide(evaluate({"full": results([True] * 300), "tiered": half}, rng=rng()))
    assert decision.recommended is None
    assert decision.text.startswith("Do not use tiered here yet: it saves 50 % of the tokens")
    assert "Add off and a few caps" in decision.text


def test_where_nothing_was_asked_for_the_fixed_budgets_are_judged_and_never_the_oracle():
    runs = {"full": results([True] * 40), "cap:50": results([i > 3 for i in range(40)], [50] * 40)}
    decision = verdict.decide(evaluate(runs, rng=rng(), asked=["full"]))
    assert "cap:50 comes closest" in decision.text


@pytest.mark.parametrize("policy", ["effort:low", "deadline:5"])
def test_a_policy_that_looks_at_no_question_needs_no_lift(policy):
    runs = {"full": results([True] * 300), policy: results([True] * 300, [50] * 300)}
    decision = verdict.decide(evaluate(runs, rng=rng()))
    assert (decision.choice, decision.recommended) == ("policy", policy)
    stopped = verdict.decide(
        evaluate({"full": runs["full"], f"{policy}+stop:balanced": runs[policy]}, rng=rng())
    )
    assert stopped.recommended is None


def test_of_what_may_be_recommended_that_which_saves_most_is():
    easy = [i % 2 == 0 for i in range(400)]
    runs = {
        "full": results([True] * 400),
        "off": results(easy, [0] * 400),
        "cap:30": results([True] * 400, [30] * 400),
        "tiered": results([True] * 400, [0 if e else 50 for e in easy]),
    }
    assert verdict.decide(evaluate(runs, rng=rng())).recommended == "tiered"
    runs["cap:30"] = results([True] * 400, [20] * 400)
    assert verdict.decide(evaluate(runs, rng=rng())).recommended == "cap:30"


def test_a_pessimistic_reading_is_not_said_to_show_a_loss():
    cut = results([i % 10 != 0 for i in range(300)], [50] * 300, notes=(PESSIMISTIC,))
    decision = verdict.decide(evaluate({"full": results([True] * 300), "cap:50": cut}, rng=rng()))
    assert decision.recommended is None
    assert "every thought that a cap would end counts as wrong" in decision.text
    assert "every policy that saves tokens loses" not in decision.text


def test_samples_of_one_question_do_not_multiply_the_evidence_of_mcnemar():
    # Five questions lost and one won, ten samples each: 50 against 10 calls, but 5 against 1 questions.
    full = [r for s in range(10) for r in results([True] * 5 + [False] + [True] * 14, sample=s)]
    ours = [r for s in range(10) for r in results([False] * 5 + [True] + [True] * 14, sample=s)]
    row = evaluate({"full": full, "cap:50": ours}, rng=rng()).row("cap:50")
    assert (row.harm, row.help) == (50, 10)
    assert row.mcnemar_p == pytest.approx(2 * (1 + 6) / 64)


def test_a_policy_that_changed_nothing_has_no_lift():
    evaluation = replayed("auto")
    assert (evaluation.row("auto").lift_over_cap, evaluation.row("auto").split) == (None, None)
    assert evaluation.row("auto").delta_ci == (0.0, 0.0)


def test_the_oracle_is_labelled_as_inflated():
    evaluation = replayed("cap:20")
    row = evaluation.row(ORACLE)
    assert "chance-inflated" in row.label
    assert row.accuracy >= max(r.accuracy for r in evaluation.fixed)
