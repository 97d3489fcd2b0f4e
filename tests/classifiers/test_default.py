"""The shipped weights: what they keep on traffic like their own, and that each stays out of all other."""

from __future__ import annotations

import math
import statistics

import pytest
from budgetctl.classifiers import load
from budgetctl.classifiers.experts import Experts
from budgetctl.classifiers.linear import LinearClassifier
from budgetctl.classifiers.targets import Example, read
from budgetctl.evals import pocket

from budgetctl.controller import MIN_CONFIDENCE
from budgetctl.types import Query

FOREIGN = (
    "Which of the following best describes the role of the Golgi apparatus? A) energy B) sorting C) storage",
    "A train leaves Boston at 9:40 and travels at 85 miles per hour. When does it reach Albany?",
    "Let $f(x) = x^3 - 3x + 1$. Find the number of real roots of $f(f(x)) = 0$.",
    "def merge(a, b):\n    # complete this function so that it merges two sorted lists\n",
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many "
    "clips did Natalia sell altogether in April and May?",
    "Summarise the attached contract in three bullet points.",
    "What is the capital of Australia?",
    "Translate into German: the early bird catches the worm.",
    "hello",
    "",
)
ODD = (
    "",
    "hello",
    "asdf qwer zxcv uiop hjkl",
    "Wie spät ist es jetzt gerade in Wien, und wann fährt der nächste Zug nach Graz?",
    "Summarise the attached contract in three bullet points.",
)
EASY = "Natalia sold 48 clips in April and half as many in May. How many clips did she sell altogether?"
HARD = (
    "Let $a, b, c$ be positive integers such that $a^2 + b^2 + c^2 = 2(ab + bc + ca)$ and "
    "$\\gcd(a, b, c) = 1$. Find the number of such triples with $a + b + c < 1000$."
)


@pytest.fixture(scope="module")
def default() -> LinearClassifier:
    """The weights of the embedded reasoner."""
    classifier = load("pocket")
    assert isinstance(classifier, LinearClassifier)
    return classifier


@pytest.fixture(scope="module")
def real() -> LinearClassifier:
    """The weights for the traffic of real models."""
    classifier = load("default")
    assert isinstance(classifier, Experts)
    first = classifier.experts[0]
    assert isinstance(first, LinearClassifier)
    return first


def test_the_embedded_reasoner_goes_to_its_own_weights(test_split: list[Example]) -> None:
    named, pocket_only = load("default"), load("pocket")
    for example in test_split[:20]:
        query = Query.from_text(example.text, model=pocket.NAME)
        assert named.estimate(query) == pocket_only.estimate(query)


def test_a_competition_problem_is_harder_than_a_sum(real: LinearClassifier) -> None:
    easy, hard = (real.estimate(Query.from_text(text)) for text in (EASY, HARD))
    assert hard.natural.p50 > 3 * easy.natural.p50
    assert hard.p_off < easy.p_off


def test_a_named_model_has_its_own_habit_of_length(real: LinearClassifier) -> None:
    terse, wordy = (real.estimate(Query.from_text(EASY, model=m)).natural.p50 for m in ("o1", "Qwen/QwQ-32B"))
    assert wordy > 3 * terse


def test_an_unknown_model_is_a_generic_one_and_less_certain(real: LinearClassifier) -> None:
    unknown, none = (real.estimate(Query.from_text(EASY, model=m)) for m in ("gpt-99", None))
    assert unknown == none
    known = real.estimate(Query.from_text(EASY, model="QwQ-32B"))
    assert unknown.natural.p95 / unknown.natural.p50 > known.natural.p95 / known.natural.p50


@pytest.mark.parametrize("text", ODD)
def test_it_abstains_on_what_it_was_not_trained_on(real: LinearClassifier, text: str) -> None:
    assert real.estimate(Query.from_text(text)).confidence < MIN_CONFIDENCE


def test_a_bare_yes_after_a_hard_question_is_not_easy(real: LinearClassifier) -> None:
    plan = [
        {"role": "user", "content": HARD},
        {"role": "assistant", "content": "I would count by descent. Shall I?"},
    ]
    yes = {"role": "user", "content": "yes"}
    after = real.estimate(Query.from_messages([*plan, yes]))
    assert after.natural.p50 > 2 * real.estimate(Query.from_text(EASY)).natural.p50


@pytest.fixture(scope="module")
def test_split() -> list[Example]:
    return read([pocket.path().with_name("test.jsonl.gz")])


def test_its_header_says_what_it_was_trained_on(default: LinearClassifier) -> None:
    header = default.header
    assert header.trained_on.datasets == ("pocket",)
    assert header.trained_on.models == (pocket.NAME,)
    assert header.trained_on.questions > 1000
    assert "pocket" in header.note


@pytest.mark.parametrize("text", FOREIGN)
def test_it_abstains_on_foreign_traffic(default: LinearClassifier, text: str) -> None:
    assert default.estimate(Query.from_text(text)).confidence < 0.3


def test_it_trusts_itself_on_its_own_traffic(default: LinearClassifier, test_split: list[Example]) -> None:
    sure = [
        default.estimate(Query.from_text(e.text, model=pocket.NAME)).confidence >= MIN_CONFIDENCE
        for e in test_split
    ]
    assert statistics.mean(sure) > 0.97


def test_p90_covers_what_it_says(default: LinearClassifier, test_split: list[Example]) -> None:
    helped = [e for e in test_split if e.helped]
    covered = [default.estimate(Query.from_text(e.text)).settled.p90 >= (e.settled or 0) for e in helped]
    assert len(helped) > 200
    chance = 3 * math.sqrt(0.9 * 0.1 / len(helped))
    assert abs(statistics.mean(covered) - 0.9) < chance, "neither too few nor too many"


def test_questions_answered_at_once_need_nothing(
    default: LinearClassifier, test_split: list[Example]
) -> None:
    """A story says its answer in so many words, however long it is."""
    stories = [e for e in test_split if e.kind == "story"]
    needs = [abs(default.estimate(Query.from_text(e.text)).need) for e in stories]
    assert len(stories) > 20
    assert statistics.median(needs) < 0.01


def test_longer_derivations_are_expected_to_settle_later(
    default: LinearClassifier, test_split: list[Example]
) -> None:
    helped = [e for e in test_split if e.helped and e.settled is not None]
    predicted = [default.estimate(Query.from_text(e.text)).settled.p50 for e in helped]
    assert statistics.correlation(predicted, [e.settled or 0 for e in helped]) > 0.7
