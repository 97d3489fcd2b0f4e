from dataclasses import replace

import pytest
from budgetctl.evals.replay import NO_TEXT, Recording, replay, speed_profile
from budgetctl.evals.replayed import PESSIMISTIC, UNRECORDED

from budgetctl.controller import Controller
from budgetctl.errors import ClassifierError, EvalError
from budgetctl.pricing import Prices
from budgetctl.types import Budget, ModelFacts, Pace

from .worlds import Oracle, curve, row, world

PACE = Pace(ttft_s=1.0, s_per_token=0.1)


def run(rows, policy, **more):
    return replay(Recording.of(rows), policy, pace=PACE, **more)


def test_full_takes_the_natural_row_and_off_the_off_row():
    rows = curve("a", settled=20, natural=40)
    (full,), (off,) = run(rows, "full"), run(rows, "off")
    assert (full.correct, full.reasoning_tokens) == (True, 40)
    assert (off.correct, off.reasoning_tokens) == (False, 0)


def test_off_falls_back_on_the_coupled_row_at_zero_tokens():
    rows = [r for r in curve("a", settled=0, natural=40) if r.budget.kind != "off"]
    assert run(rows, "off")[0].correct
    assert run(rows, "off")[0].reasoning_tokens == 0


def test_an_off_row_is_preferred_to_the_coupled_row_at_zero():
    rows = [
        row("a", "natural", tokens=40, correct=True),
        row("a", "tokens", value=0, tokens=0, correct=False),
        row("a", "off", tokens=0, correct=True, coupled=False),
    ]
    assert run(rows, "off")[0].correct


@pytest.mark.parametrize(
    ("cap", "tokens", "correct"),
    [(9, 0, False), (10, 10, False), (19, 10, False), (20, 20, True), (39, 30, True), (40, 40, True)],
)
def test_a_cap_takes_the_longest_coupled_row_not_above_it_and_counts_its_tokens(cap, tokens, correct):
    (result,) = run(curve("a", settled=20, natural=40), f"cap:{cap}")
    assert (result.reasoning_tokens, result.correct) == (tokens, correct)
    assert result.budget.reasoning_tokens == cap


def test_a_cap_beyond_the_natural_length_is_the_natural_row():
    (result,) = run(curve("a", settled=20, natural=40), "cap:4000")
    assert result.reasoning_tokens == 40


def test_of_equally_long_coupled_rows_the_larger_cap_stands():
    rows = [
        row("a", "natural", tokens=40, correct=True),
        row("a", "tokens", value=16, tokens=10, correct=True),
        row("a", "tokens", value=8, tokens=10, correct=False),
    ]
    assert run(rows, "cap:20")[0].correct


def test_a_cap_below_an_uncoupled_trace_is_unanswered_and_says_so():
    rows = [row("a", "natural", tokens=40, output=50, correct=True, coupled=False)]
    (cut,) = run(rows, "cap:39")
    assert (cut.correct, cut.answered, cut.reasoning_tokens, cut.ttfo_s) == (False, False, 39, None)
    assert cut.notes == (PESSIMISTIC,)
    assert cut.e2e_s == pytest.approx(1 + 39 * 0.1)
    assert run(rows, "cap:40")[0].correct


def test_an_uncoupled_capped_row_is_no_prefix_of_the_trace():
    rows = [
        row("a", "natural", tokens=40, correct=True, coupled=False),
        row("a", "tokens", value=10, tokens=10, correct=True, coupled=False),
    ]
    assert not run(rows, "cap:20")[0].answered


def test_where_only_all_output_is_known_it_is_the_length():
    rows = [row("a", "natural", output=50, correct=True, coupled=False)]
    assert not run(rows, "cap:49")[0].answered
    (kept,) = run(rows, "cap:50")
    assert (kept.correct, kept.reasoning_tokens, kept.ttfo_s) == (True, None, None)


def test_an_effort_takes_the_row_of_that_effort():
    rows = [
        row("a", "natural", tokens=40, correct=True, coupled=False),
        row("a", "effort", value="low", tokens=10, correct=False, coupled=False),
    ]
    assert run(rows, "effort:low")[0].reasoning_tokens == 10
    with pytest.raises(EvalError, match=r"effort 'high' was not recorded for 'toy' \(recorded: low\)"):
        run(rows, "effort:high")


def test_what_was_not_recorded_is_refused_not_invented():
    natural = row("a", "natural", correct=True, coupled=False)
    with pytest.raises(EvalError, match="no answer without thinking was recorded"):
        run([natural], "off")
    with pytest.raises(EvalError, match="no length of the trace was recorded"):
        run([natural], "cap:10")
    with pytest.raises(EvalError, match="no row with budget kind 'natural'"):
        Recording.of([row("a", "off", correct=True)])


def test_of_repeated_rows_the_first_stands_and_the_others_are_counted():
    rows = [row("a", "natural", tokens=40, correct=True), row("a", "natural", tokens=50, correct=False)]
    recording = Recording.of(rows)
    assert recording.lengths.tolist() == [40]
    assert list(recording.left_out.values()) == [1]


def test_samples_are_replayed_apart_and_borrow_a_missing_off_row():
    rows = [
        row("a", "natural", tokens=40, correct=True, sample=0),
        row("a", "natural", tokens=60, correct=False, sample=1),
        row("a", "off", tokens=0, correct=True, sample=0),
    ]
    assert [(r.sample, r.correct) for r in run(rows, "full")] == [(0, True), (1, False)]
    assert [(r.sample, r.correct) for r in run(rows, "off")] == [(0, True), (1, True)]


def test_what_cannot_be_paired_is_counted_not_hidden():
    rows = [
        row("a", "natural", tokens=40, correct=True),
        row("b", "off", tokens=0, correct=True),
        row("c", "natural", correct=True).model_copy(update={"budget": None}),
    ]
    recording = Recording.of(rows)
    assert len(recording) == 1
    assert recording.left_out == {"rows whose budget is not recorded": 1, "samples without a natural row": 1}


def test_missing_times_are_modelled_and_marked_recorded_ones_are_not():
    (modelled,) = run(curve("a", settled=20, natural=40), "cap:20")
    assert modelled.ttfo_s == pytest.approx(1 + 20 * 0.1)
    assert modelled.e2e_s == pytest.approx(1 + 25 * 0.1)
    assert modelled.modelled == ("ttfo_s", "e2e_s")
    (measured,) = run([row("a", "natural", tokens=40, correct=True, ttfo_s=2.0, e2e_s=3.0)], "full")
    assert (measured.ttfo_s, measured.e2e_s, measured.modelled) == (2.0, 3.0, ())


def test_a_classifier_chooses_per_question_from_the_text():
    rows = [*curve("easy", settled=0, natural=40), *curve("hard", settled=80, natural=120)]
    by_question = {r.question_id: r for r in run(rows, "quantile:0.9", classifier=Oracle())}
    assert by_question["made-up/easy"].reasoning_tokens == 0
    assert by_question["made-up/hard"].reasoning_tokens == 80


def test_a_broken_classifier_ends_the_replay_of_a_policy_that_needs_it(tmp_path):
    broken = tmp_path / "weights.npz"
    broken.write_bytes(b"PK")
    recording = Recording.of(curve("a", settled=20, natural=40))
    pace = Pace(ttft_s=0.5, s_per_token=0.02)
    with pytest.raises(ClassifierError, match=r"weights\.npz"):
        replay(recording, "quantile:0.9", classifier=str(broken), pace=pace)
    assert len(replay(recording, "full", classifier=str(broken), pace=pace)) == 1


def test_a_question_without_text_gets_no_estimate_and_keeps_full_thinking():
    rows = curve("hard", settled=80, natural=120, question=None)
    (result,) = run(rows, "quantile:0.9", classifier=Oracle())
    assert result.reasoning_tokens == 120
    assert result.notes == (NO_TEXT,)


class Spy:
    """A policy that remembers what it was shown."""

    needs_estimate = True

    def __init__(self):
        self.seen = []

    def budget(self, situation):
        self.seen.append(situation)
        return Budget()


def test_a_policy_never_sees_the_trace():
    short, long = curve("a", settled=20, natural=40), curve("a", settled=20, natural=4000)
    spies = [Spy(), Spy()]
    for rows, spy in zip((short, long), spies, strict=True):
        run(rows, spy, classifier=Oracle())
    assert spies[0].seen == spies[1].seen


def test_a_deadline_is_measured_with_the_speed_profile():
    facts = ModelFacts(answer_tokens=5)
    (result,) = run(curve("a", settled=20, natural=90), "deadline:5", facts_of=lambda model: facts)
    # 5 s minus 1 s to the first token is 40 tokens, of which 5 are kept for the answer.
    assert result.budget.reasoning_tokens == 35
    assert result.reasoning_tokens == 30
    assert result.e2e_s <= 5


def test_speed_profiles_are_names_or_two_numbers():
    assert speed_profile("0.25,0.01") == Pace(ttft_s=0.25, s_per_token=0.01)
    assert speed_profile("nominal").s_per_token == 0.02
    for bad in ("quick", "1", "1,0", "-1,1", "nan,1"):
        with pytest.raises(EvalError, match="TTFT,SECONDS_PER_TOKEN"):
            speed_profile(bad)


def test_replay_is_deterministic():
    rows = world(20)
    assert run(rows, "cap:50") == run(rows, "cap:50")


def signalled(name, *, trials, natural, right_from, **more):
    """A trace with a trial answer (confidence, mass) at every recorded point."""
    rows = [
        row(
            name,
            "tokens",
            value=at,
            tokens=at,
            correct=at >= right_from,
            signals={"p_top": confidence, "p_choice_mass": mass, **more},
        )
        for at, (confidence, mass) in trials.items()
    ]
    return [row(name, "natural", tokens=natural, correct=natural >= right_from), *rows]


TRIALS = {0: (1.0, 1.0), 100: (0.999, 0.01), 200: (0.9, 0.9), 300: (0.999, 0.9), 400: (1.0, 1.0)}


def test_a_stop_preset_ends_thinking_at_the_first_trial_that_convinces_it():
    recorded = signalled("a", trials=TRIALS, natural=500, right_from=300)
    [result] = run(recorded, "full+stop:balanced", every=50)
    assert (result.correct, result.stop, result.probe_tokens) == (True, "settled", 3)
    assert result.reasoning_tokens == 300 + 3
    assert result.ttfo_s == PACE.seconds(303)


def test_a_recorded_cost_has_no_trials_in_it_and_so_is_not_that_of_a_call_with_trials():
    rows = [
        r.model_copy(update={"cost_usd": 0.01})
        for r in signalled("a", trials=TRIALS, natural=500, right_from=300)
    ]
    [full], [stopped] = (run(rows, policy) for policy in ("full", "full+stop:balanced"))
    assert (full.cost_usd, stopped.cost_usd) == (0.01, None)


def test_what_comes_later_in_a_trace_does_not_move_its_stop():
    later = TRIALS | {400: (0.0, 0.0)}
    stops = [
        run(signalled("a", trials=trials, natural=natural, right_from=300), "full+stop:balanced")
        for trials, natural in ((TRIALS, 500), (later, 500), (later, 90_000))
    ]
    assert len({r.reasoning_tokens for [r] in stops}) == 1


def test_a_preset_only_shortens_what_the_cap_leaves():
    recorded = signalled("a", trials=TRIALS, natural=500, right_from=300)
    [capped], [both] = (run(recorded, policy) for policy in ("cap:250", "cap:250+stop:balanced"))
    assert (capped.reasoning_tokens, both.reasoning_tokens) == (200, 200 + 1)
    assert both.stop is None
    [long] = run(recorded, "cap:450+stop:balanced", every=50)
    assert long.reasoning_tokens == 303


def test_trials_that_convince_nobody_are_paid_for():
    recorded = signalled("a", trials={100: (0.1, 0.1), 200: (0.2, 0.1)}, natural=300, right_from=0)
    [result] = run(recorded, "full+stop:aggressive", every=50)
    assert (result.reasoning_tokens, result.probe_tokens, result.stop) == (302, 2, None)


def test_after_a_trial_in_vain_the_next_one_waits_as_it_would_live():
    trials = dict.fromkeys(range(100, 1000, 10), (0.1, 0.1))
    recorded = signalled("a", trials=trials, natural=1000, right_from=0)
    [result] = run(recorded, "full+stop:balanced", every=100)
    assert result.probe_tokens == len([100, 200, 350, 580, 920])


def test_probes_never_cost_more_than_a_tenth_of_the_thinking():
    trials = dict.fromkeys(range(10, 500, 10), (0.1, 0.1))
    recorded = signalled("a", trials=trials, natural=500, right_from=0, trial_tokens=4)
    presets = {"balanced": {"trial_answer": {"confidence": 0.9, "mass": 0.5}, "min_think": 0}}
    [result] = run(recorded, "full+stop:balanced", every=0, presets=presets)
    assert 40 < result.probe_tokens <= 50


def test_a_preset_of_ones_own_may_hold_any_criterion():
    points = dict.fromkeys(range(100, 500, 100), (0.5, 0.9))
    margins = signalled("a", trials=points, natural=500, right_from=300, close_margin=0.5)
    [free] = run(margins, "full+stop:balanced", presets={"balanced": {"close_margin": {"margin": 1.0}}})
    assert (free.reasoning_tokens, free.probe_tokens, free.stop) == (200, 0, "settled")
    same = signalled("a", trials=points, natural=500, right_from=300, trial_answer="B")
    agreement = {"aggressive": {"answer_agreement": {"k": 3}}}
    [agreed] = run(same, "full+stop:aggressive", presets=agreement, every=10)
    assert (agreed.reasoning_tokens, agreed.probe_tokens, agreed.stop) == (303, 3, "settled")
    level = signalled("a", trials=points, natural=500, right_from=300, entropy_after=0.1)
    settled = {"balanced": {"entropy_after_think": {"alpha": 1.0, "delta": 0.1}}}
    [entropy] = run(level, "full+stop:balanced", presets=settled)
    assert (entropy.reasoning_tokens, entropy.probe_tokens) == (404, 4)


def test_what_a_preset_reads_and_no_point_has_is_said():
    recorded = signalled("a", trials=TRIALS, natural=500, right_from=300)
    [result] = run(recorded, "full+stop:balanced", presets={"balanced": {"low_confidence": {"bar": 9.0}}})
    assert result.notes == (f"{UNRECORDED}: token_confidence",)


def test_without_recorded_trials_a_preset_changes_nothing_and_says_so():
    recorded = curve("a", settled=20, natural=60)
    plain, stopped = run(recorded, "full"), run(recorded, "full+stop:aggressive")
    assert [replace(r, budget=plain[0].budget, notes=()) for r in stopped] == plain
    assert [r.notes for r in stopped] == [(f"{UNRECORDED}: trial",)]


def test_unknown_lengths_stay_unknown_under_a_preset():
    recorded = [row("a", "natural", output=1100, correct=True)]
    [result] = run(recorded, "full+stop:balanced")
    assert (result.reasoning_tokens, result.probe_tokens) == (None, 0)


def test_points_of_the_natural_trace_say_nothing_of_another_effort():
    recorded = signalled("a", trials=TRIALS, natural=500, right_from=300)
    recorded.append(row("a", "effort", value="low", tokens=450, correct=True, coupled=False))
    [result] = run(recorded, "effort:low+stop:aggressive")
    assert (result.reasoning_tokens, result.stop) == (450, None)


@pytest.mark.parametrize("value", ["0.999", True, 99.0, [1], -0.1])
def test_a_signal_that_is_no_probability_is_refused(value):
    recorded = signalled("a", trials={100: (value, 0.5)}, natural=300, right_from=0)
    with pytest.raises(EvalError, match=r"signals\.p_top: seen"):
        run(recorded, "full+stop:balanced")


def test_utility_weighs_what_the_model_costs():
    rows = world(4)
    for dollars, tokens in ((None, {40, 60, 80, 100, 120}), (1e9, {0})):
        prices = Prices.load(None if dollars is None else {"toy": {"input": 1, "output": dollars}})
        base = Controller(classifier=Oracle(), prices=prices)
        assert {r.reasoning_tokens for r in run(rows, "utility:0.1", base=base)} <= tokens


def test_presets_of_the_base_hold():
    recorded = signalled("a", trials=TRIALS, natural=500, right_from=300)
    presets = {"balanced": {"trial_answer": {"confidence": 0.85, "mass": 0.5}}}
    base = Controller(classifier=None, presets=presets)
    [result] = run(recorded, "full+stop:balanced", base=base, every=50)
    assert result.reasoning_tokens == 200 + 2
