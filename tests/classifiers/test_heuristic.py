"""The rule of thumb: what it tells apart, and that it cuts nothing by itself."""

from __future__ import annotations

import re
import time
from itertools import pairwise

import pytest
from budgetctl.classifiers import Classifier, heuristic
from budgetctl.classifiers.heuristic import HeuristicClassifier
from hypothesis import given, settings
from hypothesis import strategies as st

from budgetctl import Controller
from budgetctl.controller import MIN_CONFIDENCE
from budgetctl.types import Estimate, ModelFacts, Query, Turn

HARD = (
    "Find all pairs of positive integers $(m, n)$ such that $m^2 + n^2$ is divisible by $mn + 1$, and prove "
    "that the quotient must be a perfect square."
)
EASY = "What is the capital of Australia?"
PLAN = (
    "First I fix the quotient and take the smallest solution. Then I derive a smaller one by Vieta jumping."
)


def estimate(text: str, *recent: Turn) -> Estimate:
    return HeuristicClassifier().estimate(Query(text=text, recent=recent, total_chars=len(text)))


def user(text: str) -> Turn:
    return Turn(role="user", text=text)


def assistant(text: str) -> Turn:
    return Turn(role="assistant", text=text)


def test_it_is_a_classifier() -> None:
    classifier = HeuristicClassifier()
    assert isinstance(classifier, Classifier)
    assert classifier.name == "heuristic"
    assert re.fullmatch("[0-9a-f]{64}", classifier.hash)
    assert estimate(EASY).source == f"heuristic:{classifier.hash[:12]}"
    assert estimate(EASY) == estimate(EASY)


def test_its_hash_follows_its_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    before = HeuristicClassifier().hash
    monkeypatch.setattr(heuristic, "BASE", heuristic.BASE + 0.1)
    assert HeuristicClassifier().hash != before


def test_a_contest_problem_is_harder_than_a_fact() -> None:
    hard, easy = estimate(HARD), estimate(EASY)
    assert hard.natural.p50 > 10 * easy.natural.p50
    assert hard.p_off < 0.5 < easy.p_off
    assert hard.need > 2 * easy.need


@pytest.mark.parametrize(
    ("harder", "easier"),
    [
        ("Prove that the square root of 2 is irrational.", "Write that the square root of 2 is irrational."),
        ("Compute the sum of 17, 38, 112 and 9.", "Translate the words 17, 38, 112 and 9."),
        ("In how many ways can 8 rooks be placed?", "In whose house can 8 rooks be placed?"),
        ("Write a function: f(a, b) { return a_b; }", "Write a sentence: a and b and then a b"),
        ("A is left of B.\nC is left of A.\nD is left of C.\nWho is first?", "Who is first?"),
    ],
)
def test_what_is_asked_for_counts(harder: str, easier: str) -> None:
    assert estimate(harder).natural.p50 > 1.2 * estimate(easier).natural.p50


def test_success_falls_with_difficulty_and_thinking_never_hurts() -> None:
    ladder = [estimate(text) for text in (EASY, f"{EASY} Explain.", HARD, f"{HARD} {HARD}")]
    assert all(a.p_off > b.p_off and a.p_full > b.p_full for a, b in pairwise(ladder))
    assert all(e.need > 0 for e in ladder)


def test_thinking_helps_most_in_the_middle() -> None:
    """The easy is right without it, and some of the hard is wrong with it."""
    middle = estimate("Solve for x and y: 3x + 2y = 12 and x - y = 1, where x must be an integer.")
    assert estimate("hello").need < middle.need > estimate(f"{HARD}\n" * 12).need


def test_yes_after_a_hard_plan_is_not_easy() -> None:
    talk = user(HARD), assistant(f"{PLAN} Shall I go on?")
    assert estimate("yes", *talk).natural.p50 > 0.8 * estimate(HARD).natural.p50
    assert estimate("yes").natural.p50 < 0.1 * estimate(HARD).natural.p50


def test_yes_after_small_talk_is_easy() -> None:
    assert estimate("yes", user("hi"), assistant("Shall I tell a joke?")).natural.p50 < 250


def test_a_turn_that_speaks_for_itself_is_read_by_itself() -> None:
    letter = "Please write a letter to my landlord. " + "The heating in the flat is broken again. " * 5
    assert estimate(letter, user(HARD)) == estimate(letter)


def test_an_easier_past_makes_nothing_easier() -> None:
    assert estimate(EASY, user("hi"), assistant("hi")) == estimate(EASY)


def test_it_cuts_nothing_unless_the_user_lowers_the_threshold() -> None:
    facts = ModelFacts(can_cap=True, can_switch_off=True)
    query = Query.from_text(HARD)
    as_shipped = Controller("quantile:0.9", classifier=HeuristicClassifier())
    decision = as_shipped.decide(query, facts=facts)
    assert estimate(HARD).confidence < MIN_CONFIDENCE
    assert decision.budget.reasoning_tokens is None
    assert decision.fallback == "estimate confidence is below 0.5"

    lowered = Controller("quantile:0.9", classifier=HeuristicClassifier(), min_confidence=0.1)
    decision = lowered.decide(query, facts=facts)
    assert decision.fallback is None
    assert decision.budget.reasoning_tokens == pytest.approx(estimate(HARD).settled.p90, abs=1)


def test_records_can_keep_its_features() -> None:
    kept = HeuristicClassifier().describe(Query.from_text(HARD))
    assert kept["log_chars"] > 4


def test_both_ends_of_a_long_prompt_are_read_in_bounded_time() -> None:
    filler = "lorem ipsum " * 90_000
    started = time.perf_counter()
    at_end = estimate(f"{filler}{HARD}")
    elapsed = time.perf_counter() - started
    assert at_end.natural.p50 > 1.5 * estimate(filler).natural.p50
    assert elapsed < 0.2, "a megabyte is not read"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300), st.lists(st.text(max_size=80), max_size=3))
def test_any_text_gives_a_usable_estimate(text: str, before: list[str]) -> None:
    e = estimate(text, *map(user, before))
    assert 0 < e.p_off < e.p_full < 1
    for q in (e.settled, e.natural):
        assert 0 < q.p50 < q.p80 < q.p90 < q.p95 < 10**6
    assert e.settled.p90 <= e.natural.p90
