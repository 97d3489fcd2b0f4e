"""How much of the oracle's lift is realised, where the answer is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from budgetctl.classifiers.targets import pool
from budgetctl.evals.bench import lift
from budgetctl.evals.bench.predictors import answer
from budgetctl.evals.bench.resample import Bootstrap

from .invented import CONSTANT, PERFECT, Made, examples, steps

BOOTSTRAP = Bootstrap(seed=0, resamples=50)
QUESTIONS = pool(examples(120))


def answers(predictor, questions=QUESTIONS):
    return [answer(predictor, q, cluster=q.text) for q in questions]


def test_who_knows_which_questions_gain_realises_all_of_switching():
    figure = lift.switched(answers(PERFECT), BOOTSTRAP)
    assert figure.value == pytest.approx(1.0)
    assert figure.n == 120


def test_who_says_the_same_of_all_realises_nothing():
    assert lift.switched(answers(CONSTANT), BOOTSTRAP).value == pytest.approx(0.0)


@pytest.mark.parametrize("target", ["settled", "natural"])
@pytest.mark.parametrize("steps_for_all", [0.1, 1.0, 10.0, 100.0, 1e5])
def test_no_cap_that_is_the_same_for_all_beats_the_best_one(target, steps_for_all):
    constant = Made("constant", lambda query: steps_for_all)
    assert lift.capped(answers(constant), target, BOOTSTRAP).value <= 0.01


def test_who_has_it_the_wrong_way_round_loses():
    wrong = [replace(a, score=-a.score) for a in answers(PERFECT)]
    assert lift.switched(wrong, BOOTSTRAP).value == pytest.approx(-1.0)


@pytest.mark.parametrize(("target", "share"), [("natural", 1.0), ("settled", 0.5)])
def test_caps_that_follow_the_need_realise_much_of_the_lift(target, share):
    knowing = Made("knowing", lambda query: share * steps(query))
    figure = lift.capped(answers(knowing), target, BOOTSTRAP)
    assert 0.4 < figure.value <= 1.0
    assert figure.ci[0] > 0.3


def test_few_cases_say_nothing():
    few = answers(PERFECT, QUESTIONS[: lift.MIN_CASES - 1])
    assert lift.switched(few, BOOTSTRAP).value is None
    unknown = [replace(q, settled=()) for q in QUESTIONS]
    assert lift.capped(answers(PERFECT, unknown), "settled", BOOTSTRAP).n == 0
