"""What is read off a query."""

from __future__ import annotations

import numpy as np
import pytest
from budgetctl.classifiers.features import CLIP, DENSE, encode
from hypothesis import given, settings
from hypothesis import strategies as st

from budgetctl.types import Query


def dense(text: str) -> dict[str, float]:
    return dict(zip(DENSE, encode(Query.from_text(text))[1].tolist(), strict=True))


def test_what_is_asked_for_shows() -> None:
    proof = dense("Prove that the sum of two even numbers is even.")
    code = dense("Write a python function that sorts an array.")
    choice = dense("Which of the following is correct?\nA) ten\nB) twelve\nC) none")
    assert proof["log_words_prove"] > code["log_words_prove"] == 0
    assert code["log_words_code"] > proof["log_words_code"] == 0
    assert choice["log_options"] == pytest.approx(np.log1p(3))


def test_numbers_are_counted_and_sized() -> None:
    found = dense("Add 3, 40 and 500. How much is 12 more?")
    assert np.expm1(found["log_numbers"]) == pytest.approx(4)
    assert np.expm1(found["log_long_numbers"]) == pytest.approx(3)
    assert np.expm1(found["log_max_number"]) == pytest.approx(500)
    assert np.expm1(found["log_asked_max_number"]) == pytest.approx(12)


def test_the_asking_sentence_is_found_wherever_it_stands() -> None:
    first = dense("How many boats are there? Please be careful. Take your time.")
    assert first["log_asked_how"] > 0
    assert first["asked_last"] == 0
    assert dense("Boats are here. How many?")["asked_last"] == 1


def test_nesting_is_the_deepest_bracket() -> None:
    assert dense("f(g(h[1])) and (2)")["depth"] == 3
    assert dense("no brackets )))")["depth"] == 0


def test_the_conversation_counts() -> None:
    messages = [
        {"role": "system", "content": "s" * 50},
        {"role": "user", "content": "earlier"},
        {"role": "assistant", "content": "reply"},
        {"role": "user", "content": "now?"},
    ]
    query = Query.from_messages(messages, has_tools=True, structured=True)
    found = dict(zip(DENSE, encode(query)[1].tolist(), strict=True))
    assert np.expm1(found["log_turns"]) == pytest.approx(2)
    assert np.expm1(found["log_recent_chars"]) == pytest.approx(len("earlierreply"))
    assert np.expm1(found["log_system_chars"]) == pytest.approx(50)
    assert found["has_tools"] == found["structured"] == 1
    assert found["log_other_chars"] == 0


def test_case_makes_no_difference_to_ngrams() -> None:
    assert np.array_equal(encode(Query.from_text("Who IS it?"))[0], encode(Query.from_text("who is it?"))[0])


def test_a_long_prompt_is_read_at_both_ends_only() -> None:
    head, tail = "start " * (CLIP // 6 + 1), " finish" * (CLIP // 7 + 1)
    one = encode(Query.from_text(head + "middle " * 50_000 + tail))
    other = encode(Query.from_text(head + "centre " * 50_000 + tail))
    assert np.array_equal(one[0], other[0])
    assert len(one[0]) < 4 * CLIP
    assert dict(zip(DENSE, one[1], strict=True))["log_chars"] > np.log1p(300_000)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300) | st.text(alphabet="([{}])?. \n09a\ud800é", max_size=60))
def test_any_text_gives_finite_features(text: str) -> None:
    hashes, found = encode(Query.from_text(text))
    assert hashes.dtype == np.uint32
    assert found.shape == (len(DENSE),)
    assert np.isfinite(found).all()
