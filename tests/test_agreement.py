"""When two answers say the same."""

from __future__ import annotations

import pytest

from budgetctl.agreement import same_answer


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Paris", " paris. "),
        ("The answer is 42.", "42"),
        ("So the answer is: **C**", "(C)"),
        ("Option B", "B) because it is larger"),
        ("\\boxed{1,000}", "It is simple. Answer: 1000.0"),
        ("$5", "5.00"),
        ('{"city": "Paris", "n": 1}', '```json\n{"n": 1, "city": "Paris"}\n```'),
        ("First I thought the answer is 3. No: the answer is 4.", "4"),
        ("", ""),
    ],
)
def test_the_same_answer_in_another_dress_agrees(a: str, b: str):
    assert same_answer(a, b)
    assert same_answer(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("The answer is 42.", "The answer is 43."),
        ("A", "B"),
        ("42", ""),
        ('{"n": 1}', '{"n": 2}'),
        ("The capital is Paris.", "It is Paris."),  # one thing in two wordings: compare it your own way
        ("5%", "5"),
    ],
)
def test_anything_else_does_not(a: str, b: str):
    assert not same_answer(a, b)
    assert not same_answer(b, a)
