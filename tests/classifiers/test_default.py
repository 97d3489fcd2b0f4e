"""The shipped weights: what they keep on traffic like their own, and that they stay out of all other."""

from __future__ import annotations

import math
import statistics

import pytest
from budgetctl.classifiers import load
from budgetctl.classifiers.linear import LinearClassifier
from budgetctl.classifiers.targets import Example, read
from budgetctl.evals import pocket

from budgetctl.types import Query

MIN_CONFIDENCE = 0.5
"""The controller's threshold."""

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


@pytest.fixture(scope="module")
def default() -> LinearClassifier:
    classifier = load("default")
    assert isinstance(classifier, LinearClassifier)
    return classifier


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
