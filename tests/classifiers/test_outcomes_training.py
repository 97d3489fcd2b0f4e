"""What an outcome log teaches, what it does not, and what its weights are for."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from budgetctl.classifiers import features, fit, outcomes, own, train
from budgetctl.classifiers.outcomes import LOOSE, MAX_WEIGHT, learn
from budgetctl.classifiers.targets import Example

from budgetctl.controller import MIN_CONFIDENCE, Controller
from budgetctl.errors import ClassifierError
from budgetctl.outcomes import Outcome
from budgetctl.types import Query, StopReason, Timing, Usage

from .invented import outcome, plain
from .traffic import question

TEXT = "Walker 321 goes from the lake past the hill to the mill. Where is she after 6 turns?"
CAPPED = {"applied": 200, "strength": "hard", "hit": False}
HIT = CAPPED | {"hit": True}


def texts(n: int, *, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return list({question(rng)[1]: None for _ in range(2 * n)})[:n]


def taught(found: Outcome, right: float | None = 1.0) -> Example | str:
    log = learn(plain(found), {} if right is None else {found.id: right})
    return log.examples[0] if log.examples else next(iter(log.left_out))


@pytest.mark.parametrize(
    ("call", "right", "off", "full", "natural"),
    [
        ({"tokens": 90}, 1.0, None, 1.0, 90),
        ({"tokens": 90}, None, None, None, 90),
        ({"tokens": 90}, 0.3, None, 0.3, 90),
        ({"tokens": 0, "stop": StopReason.OFF}, 0.0, 0.0, None, None),
        ({"tokens": None, "stop": StopReason.OFF}, 1.0, 1.0, None, None),
        ({"tokens": 90, "fallback": "estimate confidence is below 0.5"}, 1.0, None, 1.0, 90),
    ],
)
def test_what_a_call_teaches(call: dict[str, Any], right: Any, off: Any, full: Any, natural: Any) -> None:
    example = taught(outcome(TEXT, **call), right)
    assert isinstance(example, Example)
    assert (example.off, example.full, example.natural, example.settled) == (off, full, natural, None)


@pytest.mark.parametrize(
    ("call", "right", "why"),
    [
        ({"tokens": 0, "stop": StopReason.OFF}, None, "there is no feedback"),
        ({"tokens": 12, "stop": StopReason.OFF}, 1.0, "went on all the same"),
        ({"tokens": 0}, 1.0, "no thinking was seen"),
        ({"tokens": None}, 1.0, "no thinking was seen"),
        ({"tokens": 90, "stop": StopReason.LOOP}, 1.0, "thinking was cut: loop"),
        ({"tokens": 90, "stop": StopReason.LENGTH}, 1.0, "thinking was cut: length"),
        ({"tokens": 90, "stop": StopReason.ERROR}, 1.0, "not a model's: error"),
        ({"tokens": 90, "stop": StopReason.CALLER}, 1.0, "not a model's: caller"),
        ({"tokens": 90, "fallback": "no answer came: continue"}, 1.0, "retry or recovery"),
        ({"tokens": 90, "budget_state": {"applied": "low", "strength": "advisory"}}, 1.0, "effort level"),
        ({"tokens": 200, "stop": StopReason.CAP, "budget_state": HIT}, 1.0, "caps or deadlines cut more"),
        ({"tokens": 90, "features": {"log_chars": 1.0}}, 1.0, "neither its text nor all features"),
    ],
)
def test_what_teaches_nothing_is_named(call: dict[str, Any], right: Any, why: str) -> None:
    assert why in str(taught(outcome(TEXT, **call), right))


def test_a_call_that_went_through_because_the_classifier_was_unsure_counts() -> None:
    """The record is the controller's own, so that its words and ours stay the same."""
    seen: list[Outcome] = []

    class Keep:
        def write(self, outcome: Outcome, *, text: str | None = None) -> None:
            seen.append(outcome)

    from budgetctl.adapters import openai_chat

    controller = Controller("quantile:0.9", classifier="heuristic", sinks=[Keep()])
    query = Query.from_text(TEXT, model="m")
    session = controller.session(query, params={}, endpoint="openai", render=openai_chat.render)
    session.finish(usage=Usage(reasoning_tokens=90), timing=Timing(), stop=StopReason.NATURAL, answered=True)
    assert "confidence" in str(seen[0].fallback)
    row = plain(seen[0])[0] | {"text": TEXT}
    assert learn([row], {}).examples[0].natural == 90


def capped(n: int, hits: int) -> list[Outcome]:
    """Calls under a cap of 200 tokens, of which the longest were cut."""
    ended = [outcome(t, tokens=20 + i, budget_state=CAPPED) for i, t in enumerate(texts(n - hits, seed=1))]
    return ended + [
        outcome(t, tokens=200, stop=StopReason.CAP, budget_state=HIT) for t in texts(hits, seed=2)
    ]


def test_calls_under_a_tight_cap_never_lower_the_natural_lengths() -> None:
    """Neither those that were cut nor their siblings that were short enough."""
    free = [outcome(t, tokens=300 + i) for i, t in enumerate(texts(100))]
    alone, together = learn(plain(*free), {}), learn(plain(*free, *capped(100, 10)), {})
    assert [e.natural for e in together.examples] == [e.natural for e in alone.examples]
    assert sum(together.left_out.values()) == 100


def test_calls_under_a_loose_cap_count_but_for_those_it_cut() -> None:
    rows = capped(100, round(100 * LOOSE))
    log = learn(plain(*rows), {o.id: 1.0 for o in rows})
    assert len(log.examples) == 98
    assert max(e.natural or 0 for e in log.examples) < 200
    assert log.left_out == {"thinking was cut: cap": 2}


def test_the_cap_of_one_model_says_nothing_of_another() -> None:
    other = outcome(TEXT, tokens=50, model="toy-2", budget_state=CAPPED)
    assert [e.model for e in learn(plain(*capped(50, 25), other), {}).examples] == ["toy-2"]


def test_weights_are_inverse_probabilities_clipped_and_1_where_unknown() -> None:
    rows = plain(*(outcome(TEXT, tokens=9, probability=p) for p in (1.0, 0.25, 1e-4, 1.0, 1.0)))
    rows[3]["action_probability"], rows[4]["action_probability"] = None, 0.0
    log = learn(rows, {})
    assert [e.weight for e in log.examples] == [1, 4, MAX_WEIGHT, 1, 1]
    assert (log.unknown_probability, log.clipped) == (2, 1)


def biased(n: int, *, seed: int) -> list[Example]:
    """Half of the questions are easy, which no feature shows but the policy knew: it switched thinking off in
    80 % of the easy ones, which stay right, and in 10 % of the hard ones, which do not."""
    rng, rows, right = random.Random(seed), [], {}
    for text in texts(n, seed=seed):
        easy = rng.random() < 0.5
        p_off = 0.8 if easy else 0.1
        off = rng.random() < p_off
        stop, tokens = (StopReason.OFF, 0) if off else (StopReason.NATURAL, 50)
        rows.append(outcome(text, tokens=tokens, stop=stop, probability=p_off if off else 1 - p_off))
        right[rows[-1].id] = float(easy or not off)
    return learn(plain(*rows), right).examples


def test_weights_undo_the_choice_of_the_policy() -> None:
    """Without thinking half of all questions are right, but 8 in 9 of those that were asked so."""
    training, calibration = biased(900, seed=3), biased(400, seed=4)
    recipe = fit.Recipe(vocabulary=0, hidden=16, epochs=10)

    def p_off(weighted: bool) -> float:
        sides = [[e if weighted else replace(e, weight=1.0) for e in s] for s in (training, calibration)]
        made = train.train(*sides, name="x", note="", created="", recipe=recipe)
        return float(np.mean([e.p_off for e in train.estimates(made, calibration)]))

    assert p_off(weighted=False) > 0.8
    assert 0.4 < p_off(weighted=True) < 0.6


def test_a_question_is_on_one_side_whoever_was_asked_and_wherever_it_was_recorded() -> None:
    asked = texts(300)
    rows = [outcome(t, tokens=9, model=m) for m in ("a", "b") for t in asked]
    logged = plain(*rows)
    for row, text in zip(logged, asked, strict=False):
        row["text"] = text  # the calls of one model have their text, which the others share by their hash
    recorded = [
        Example(question_id=f"cube/{i}", dataset="cube", model="c", kind="", text=f"  {t}", full=1.0)
        for i, t in enumerate(asked)
    ]
    parts = own.divide(learn(logged, {}).examples + recorded)
    sides = [{e.key for e in part} for part in parts]
    assert sum(map(len, sides)) == 300
    assert len(set().union(*sides)) == 300
    assert [len(part) for part in parts] == [3 * len(side) for side in sides]


def test_without_its_text_a_question_is_told_by_its_hash_or_by_its_features() -> None:
    """The hash of a process that could not keep its key is another one in the next process."""
    first, again = outcome(TEXT, tokens=9), outcome(TEXT, tokens=12)
    passing = [outcome(TEXT, tokens=9, query_hash=f"process:{i}") for i in range(2)]
    keys = [e.key for e in learn(plain(first, again, *passing), {}).examples]
    assert keys[0] == keys[1] == f"outcomes/install:{TEXT}"
    assert keys[2] == keys[3]


def test_whole_clusters_stay_together_on_request() -> None:
    examples = [
        Example(question_id=str(i), dataset="d", model="m", kind="", text=f"{i}", task=f"template {i % 40}")
        for i in range(400)
    ]
    parts = own.divide(examples, by="cluster")
    assert all(parts)
    assert sum(len({e.task for e in part}) for part in parts) == 40


def test_a_rounded_feature_stands_for_what_rounds_to_it() -> None:
    [example] = learn(plain(outcome(TEXT, tokens=9)), {}).examples
    exact = features.encode(Query.from_text(TEXT))[1]
    assert example.dense is not None
    assert not example.text
    rounded = outcomes._ROUNDED & (exact > 0)
    assert np.abs(np.array(example.dense) - exact)[rounded].max() <= 1
    assert np.array(example.dense)[~rounded] == pytest.approx(exact[~rounded], abs=1e-4)


def test_the_text_is_read_where_it_says_all_and_the_record_where_a_conversation_says_more() -> None:
    alone = plain(outcome(TEXT, tokens=9))[0] | {"text": TEXT}
    described = features.describe(Query(text=TEXT, has_tools=True, total_chars=5000))
    within = plain(outcome(TEXT, tokens=9, features=described))[0] | {"text": TEXT}
    first, second = learn([alone, within], {}).examples
    assert (first.text, first.dense) == (TEXT, None)
    assert second.text == TEXT
    assert second.dense is not None
    assert second.dense[features.DENSE.index("has_tools")] == 1


def logged(n: int) -> list[Example]:
    """Dense features only, thinking off in every second call."""
    rows, right = [], {}
    for i, text in enumerate(texts(n, seed=5)):
        stop, tokens = (StopReason.OFF, 0) if i % 2 else (StopReason.NATURAL, 30 + i % 50)
        rows.append(outcome(text, tokens=tokens, stop=stop, probability=0.5))
        right[rows[-1].id] = float(i % 3 > 0)
    return learn(plain(*rows), right).examples


def test_thin_data_is_refused_with_what_there_is_and_what_it_takes() -> None:
    with pytest.raises(ClassifierError) as refused:
        own.check(logged(150), own.NEEDED, questions=own.QUESTIONS)
    said = str(refused.value)
    assert "different questions: 150 questions, 300 needed" in said
    assert "p_off: feedback on calls without thinking: 75 questions, 100 needed" in said
    assert "p_full: feedback on calls whose thinking ended by itself: 75 questions, 100 needed" in said
    assert "natural tokens: " in said


def test_without_texts_only_what_lies_outside_the_trained_range_is_unfamiliar() -> None:
    training, calibration, test = own.divide(logged(400))
    recipe = replace(own.RECIPE, vocabulary=0, epochs=2)
    made = train.train(training, calibration, name="x", note="", created="", recipe=recipe)
    assert min(e.confidence for e in train.estimates(made, test)) > 0.5
    assert made.estimate(Query.from_text(TEXT)).confidence > 0.5
    assert made.estimate(Query.from_text(f"{TEXT} " * 60)).confidence < 0.1


def test_where_nobody_recorded_it_thinking_settles_when_it_ends() -> None:
    training, calibration, _ = own.divide(logged(400))
    recipe = replace(own.RECIPE, vocabulary=0, epochs=2)
    made = train.train(training, calibration, name="x", note="", created="", recipe=recipe)
    estimate = made.estimate(Query.from_text(TEXT, model="toy-1"))
    assert estimate.settled == estimate.natural
    assert estimate.natural.p50 == pytest.approx(54, abs=20)


def test_a_classifier_that_knows_nothing_is_not_called_better_than_a_constant() -> None:
    """Feedback here has nothing to do with the question, and lengths next to nothing."""
    training, calibration, test = own.divide(logged(600))
    recipe = replace(own.RECIPE, vocabulary=0, epochs=2)
    made = train.train(training, calibration, name="x", note="", created="", recipe=recipe)
    found = own.judge(made, test)["against_constant"]
    assert found["p_off"]["gain_ci"][0] <= 0
    assert found["natural"]["gain_ci"][0] <= 0
    assert own.judge(made, test[:10])["against_constant"]["p_off"] is None


def test_an_estimate_counts_as_sure_from_where_the_controller_believes_it() -> None:
    assert own.SURE == MIN_CONFIDENCE
