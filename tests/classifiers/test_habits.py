"""Models think long or short by habit; questions are hard or easy whoever is asked."""

from __future__ import annotations

import math
import random

from budgetctl.classifiers import habits
from budgetctl.classifiers.targets import Question


def asked(natural: dict[str, float]) -> Question:
    return Question(
        question_id="q",
        dataset="d",
        kind="k",
        task="t",
        text="?",
        off=None,
        full=None,
        natural=tuple(natural.items()),
        settled=(),
        level=None,
    )


def test_habits_and_difficulties_are_told_apart_though_no_model_saw_all() -> None:
    """The wordy model was asked the easy questions only, the terse one the hard ones only."""
    rng = random.Random(0)
    hard = {"wordy": 0, "both": None, "terse": 1}
    questions = []
    for i in range(300):
        easy = i % 2 == 0
        base = (6 if easy else 8) + rng.gauss(0, 0.1)
        models = [m for m, only in hard.items() if only is None or only == (not easy)]
        offset = {"wordy": 1.0, "both": 0.0, "terse": -1.0}
        questions.append(asked({m: math.expm1(base + offset[m]) for m in models}))
    found = habits.fit(questions)
    assert 0.5 < found.models["wordy"] - found.models["both"] < 1.1, "drawn towards none, but seen"
    assert 0.5 < found.models["both"] - found.models["terse"] < 1.1
    easy_one, hard_one = (found.difficulty(q.natural) for q in questions[:2])
    assert easy_one is not None
    assert hard_one is not None
    assert 1.2 < hard_one - easy_one < 2.1, "taken at face value the tokens would say 1.0"


def test_an_unknown_model_is_a_generic_one() -> None:
    found = habits.fit([asked({"a": 100.0}), asked({"a": 100.0})])
    assert found.level("nobody") == found.generic


def test_nothing_known_is_no_difficulty() -> None:
    assert habits.fit([]).difficulty(()) is None
