"""The questions: disjoint splits, stable content, and a grader that reads answers only."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import islice
from typing import get_args

import pytest
from budgetctl.evals.pocket import Question, grade, questions, read_answer
from budgetctl.evals.pocket.families import FAMILIES, LEVELS
from budgetctl.evals.pocket.questions import Split, split_of, stream


def test_splits_share_no_question() -> None:
    seen = {split: {q.id for q in questions(split, 1500)} for split in get_args(Split)}
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["calibration"]
    assert not seen["calibration"] & seen["test"]


def test_splits_share_no_text() -> None:
    trained = {w.question.text for w in islice(stream("train"), 20_000)}
    assert not trained & {q.text for q in questions("test", 1500)}


def test_wording_does_not_decide_the_split() -> None:
    assert split_of("days", "same content") == split_of("days", "same content")
    assert len({split_of("days", str(i)) for i in range(100)}) == 3


def test_questions_are_different_and_reproducible() -> None:
    drawn = questions("test", 400)
    assert drawn == questions("test", 400)
    assert drawn != questions("test", 400, seed=1)
    assert len({q.id for q in drawn}) == 400


def test_families_and_levels_have_about_equal_shares() -> None:
    cells = Counter((q.family, q.level) for q in questions("test", 800))
    assert len(cells) == len(FAMILIES) * len(LEVELS)
    assert max(cells.values()) - min(cells.values()) <= 4


def test_thinking_states_the_answer_before_it_checks_again() -> None:
    for worked in islice(stream("test"), 400):
        first, *checks = worked.thinking.split("\n")
        statement = f"So the answer is {worked.question.answer}."
        assert first.endswith(statement)
        assert all(check.endswith(statement) for check in checks)


def test_prompt_length_does_not_tell_the_thinking_length() -> None:
    pairs = [(len(w.question.text), len(w.thinking)) for w in islice(stream("test"), 2000)]
    longest_prompts = sorted(pairs)[-400:]
    longest_thoughts = set(sorted(pairs, key=lambda pair: pair[1])[-400:])
    assert sum(pair in longest_thoughts for pair in longest_prompts) < 0.4 * len(longest_prompts)


@pytest.fixture
def question() -> Question:
    return Question(id="x", family="sums", level=1, text="?", answer="12", split="test")


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("The answer is 12.", True),
        ("<think>\nSo the answer is 3.\n</think>\n\nThe answer is 12.", True),
        ("<think>\nSo the answer is 12.\n</think>\n\nThe answer is 3.", False),
        ("the answer is 12", True),
        ("The answer is 1.", False),
        ("The answer is 123.", False),
        ("12", False),
        ("", False),
    ],
)
def test_grade(question: Question, reply: str, right: bool) -> None:
    assert grade(reply, question) is right


def test_read_answer_of_unfinished_thinking_is_none() -> None:
    assert read_answer("<think>\nSo the answer") is None


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, budgetctl.evals.pocket; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
