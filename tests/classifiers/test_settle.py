"""Where a thinking settles: the first plain statement of its answer that nothing later takes back."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest
from budgetctl.classifiers.settle import Settled, mine, settled_share

from budgetctl.errors import ClassifierError

COOKIES = "Kim bakes 4 trays of 9 cookies and gives 6 cookies away. How many cookies are left?"
RIVER = """How does Ada cross the river?
A. By the old bridge
B. By a raft
C. None of these"""
FAMILY = """Mia is Tom's descendant. Tom is Zoe's descendant. How are Zoe and Mia related?
1. Zoe is Mia's descendant.
2. Zoe and Mia share a common descendant.
3. Zoe is Mia's ancestor.
4. Zoe and Mia share a common ancestor.
5. None of the above is correct."""


def settles_after(thinking: str, words: str, *, answer: str, question: str) -> bool:
    """Whether the settled point is right behind the first occurrence of ``words``."""
    share = settled_share(thinking, answer=answer, question=question)
    return share == pytest.approx((thinking.index(words) + len(words)) / len(thinking), abs=1e-9)


@pytest.mark.parametrize(
    ("thinking", "words"),
    [
        ("Four trays are 4 * 9 = 36. Then 36 - 6 = 30. Let me verify: 36 - 6 = 30. So 30.", "36 - 6 = 30"),
        ("She bakes 36 of them.\n\nSo after the gift she has 30 cookies left.\n\nDone.", "she has 30"),
        ("Hmm.\n\\[ 4 \\cdot 9 - 6 = \\boxed{30} \\]\nThat is it.", "boxed{30"),
        ("36 cookies. Taking away 6 leaves 30 cookies. That was easy.", "leaves 30"),
    ],
)
def test_a_number_settles_where_it_is_first_the_result(thinking: str, words: str) -> None:
    assert settles_after(thinking, words, answer="30", question=COOKIES)


@pytest.mark.parametrize(
    "guess",
    [
        "Maybe it is 30.",
        "If she had kept five trays, it could be 30.",
        "Is it 30?",
        "Suppose the rest is 30.",
        "It is not 30.",
        "30 - 6 = 24 would be for fewer trays.",
    ],
)
def test_hedges_suppositions_questions_denials_and_operands_settle_nothing(guess: str) -> None:
    thinking = f"{guess} First 4 * 9 = 36. Now 36 - 6 = 30. So the answer is 30."
    assert settles_after(thinking, "36 - 6 = 30", answer="30", question=COOKIES)
    assert settled_share(guess, answer="30", question=COOKIES) is None


def test_a_changed_mind_starts_again() -> None:
    thinking = (
        "4 * 9 - 6 = 30. Hold on, the answer is 32. Wait, 36 - 6 is 30, no 32 at all. So the answer is 30."
    )
    assert settles_after(thinking, "36 - 6 is 30", answer="30", question=COOKIES)
    assert settled_share("4 * 9 - 6 = 30. Hold on, the answer is 32.", answer="30", question=COOKIES) is None


def test_what_an_answer_usually_or_conditionally_would_be_is_no_change_of_mind() -> None:
    thinking = "36 - 6 = 30. If she gave 4 away, the answer is 32. The expected answer is 32 for such. So 30."
    assert settles_after(thinking, "36 - 6 = 30", answer="30", question=COOKIES)


def test_verifying_again_does_not_move_the_point() -> None:
    short = "36 - 6 = 30."
    long = short + " Let me check that again: 4 * 9 = 36, and 36 - 6 = 30. Yes." * 50
    for thinking in (short, long):
        assert settles_after(thinking, "36 - 6 = 30", answer="30", question=COOKIES)


def test_an_answer_that_is_a_number_of_the_question_must_be_computed_or_called_the_answer() -> None:
    question = "A tank holds 8 litres and 4 are gone. Twice the rest is poured out. How much is that?"
    thinking = "The tank holds 8. There are 8 litres. 8 - 4 = 4, and 2 * 4 = 8. The answer is 8."
    assert settles_after(thinking, "2 * 4 = 8", answer="8", question=question)
    assert settles_after("The tank is at 8. The answer is 8.", "answer is 8", answer="8", question=question)


@pytest.mark.parametrize(
    ("answer", "statement"),
    [
        ("1,200", "So the total is 1200 coins"),
        ("1200", "That makes 1,200"),
        ("2.50", "Each one costs $2.5"),
        ("\\frac{3}{4}", "So the share is 3/4"),
        ("\\frac14", "The result is \\dfrac{1}{4}"),
        ("6", "Together they read six"),
        ("\\sqrt{66}", "Therefore the distance is \u221a66"),
        ("6 - 5i", "Adding up, w = 6-5i"),
        ("150 kilometers", "So it goes 150"),
    ],
)
def test_the_same_value_in_another_spelling(answer: str, statement: str) -> None:
    share = settled_share(f"{statement}. Good, nothing more.", answer=answer, question="How much is it?")
    assert share is not None
    assert share <= len(statement) / len(f"{statement}. Good, nothing more.")


def test_numbers_of_a_list_are_neither_one_number_nor_a_result() -> None:
    thinking = "The six are 55, 60, 65. The largest of them is 65."
    assert settles_after(thinking, "them is 65", answer="65", question="Largest?")
    assert settled_share("The divisors are 1,11,37.", answer="11137", question="Sum?") is None


@pytest.mark.parametrize(
    ("thinking", "words"),
    [
        (
            "Read the options:\n1. Zoe is Mia's descendant.\n3. Zoe is Mia's ancestor.\nSo option 3.",
            "So option 3",
        ),
        ("Is Zoe Mia's ancestor? Tom is in between. So the answer is 3. Check.", "answer is 3"),
        ("Perhaps option 1 is correct. No: option 3 is correct.", "option 3 is correct"),
        ("Zoe to Tom to Mia. Therefore Mia is a descendant of Zoe. Option 3.", "descendant of Zoe."),
        ("So Zoe and Mia share a common ancestor. Wait! Zoe is an ancestor of Mia. OK.", "ancestor of Mia."),
        ("Option 3 might not be right. Thus <ANSWER>3</ANSWER>", "<ANSWER>3"),
    ],
)
def test_options_by_label_and_by_their_words(thinking: str, words: str) -> None:
    assert settles_after(thinking, words, answer="3", question=FAMILY)


def test_another_option_chosen_later_unsettles() -> None:
    thinking = "So option 3 is correct. Hmm. So the answer is 4. But Zoe is above Mia. The answer is 3. Fine."
    assert settles_after(thinking, "The answer is 3", answer="3", question=FAMILY)


@pytest.mark.parametrize(
    "aside",
    [
        "So option 4 is also correct, only weaker.",
        "So option 1 is false.",
        "So Tom would have a common descendant with Zoe's mother.",
        "So Zoe is an ancestor of Tom, and Mia is below.",
        "It's possible Zoe and Mia share a common ancestor.",
        "The answer is one of options 1 to 5.",
    ],
)
def test_what_is_said_beside_the_answer_does_not_unsettle_it(aside: str) -> None:
    thinking = f"So Zoe is an ancestor of Mia. {aside} So the answer is 3."
    assert settles_after(thinking, "ancestor of Mia.", answer="3", question=FAMILY)


def test_they_are_the_ones_of_the_sentence_before() -> None:
    thinking = "Both Zoe and Mia come from Eve.\n\nSo they share a common ancestor. Done here."
    assert settles_after(thinking, "common ancestor.", answer="4", question=FAMILY)
    other = "Both Tom and Mia come from Eve. So they share a common ancestor. Done here."
    assert settled_share(other, answer="4", question=FAMILY) is None


def test_lettered_options() -> None:
    thinking = "A raft? It is gone, so she goes by the old bridge. Is there a third way? No. Answer: A"
    assert settles_after(thinking, "old bridge.", answer="A", question=RIVER)
    assert settles_after("Let us see a plan. Answer: A", "Answer: A", answer="A", question=RIVER)
    assert settled_share("Answer: B", answer="A", question=RIVER) is None


@pytest.mark.parametrize(
    ("question", "answer", "thinking", "words"),
    [
        (
            "Capital of Peru?",
            "Lima",
            "Perhaps Lima or Cusco. The capital is Lima. Yes, Lima.",
            "capital is Lima",
        ),
        ("Is it Lima or Cusco?", "Lima", "They ask Lima or Cusco. So it is Lima.", "So it is Lima"),
        ("1+1?", "2", "Simple sums. 1 plus 1 equals 2. In other bases it might differ.", "equals 2"),
    ],
)
def test_trivia(question: str, answer: str, thinking: str, words: str) -> None:
    assert settles_after(thinking, words, answer=answer, question=question)


@pytest.mark.parametrize("answer", ["", "No", "Explain that all four walk over the bridge at once"])
def test_none_where_the_answer_cannot_be_recognised(answer: str) -> None:
    assert settled_share("No. So they all walk over at once.", answer=answer, question="How?") is None


def test_none_where_the_answer_is_never_stated() -> None:
    plan = "First I multiply the trays by 9, then I subtract the gift, which gives the number left."
    assert settled_share(plan, answer="30", question=COOKIES) is None
    assert settled_share("", answer="30", question=COOKIES) is None


@pytest.mark.parametrize(
    ("piece", "answer", "question"),
    [
        ("4 * 9 = 30, ", "30", COOKIES),
        ("7", "30", COOKIES),
        (" ", "30", COOKIES),
        ("!", "30", COOKIES),
        ("\\boxed{", "30", COOKIES),
        ("so the answer ", "3", FAMILY),
        ("they ", "3", FAMILY),
        ("\n1. Zoe", "3", FAMILY),
        ("\\text{Lima", "Cusco", "Capital of Peru?"),
    ],
)
def test_a_megabyte_of_anything_is_read_in_seconds(piece: str, answer: str, question: str) -> None:
    started = time.perf_counter()
    assert settled_share(piece * (1_000_000 // len(piece)), answer=answer, question=question) != 1
    assert time.perf_counter() - started < 20  # seconds; quadratic time would take hours


def write(path: Path, *rows: dict[str, Any]) -> Path:
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def test_mining_the_three_forms_of_trace_files(tmp_path: Path) -> None:
    cube = write(
        tmp_path / "cube.jsonl.gz",
        {"question_id": "c", "reference_answer": "Answer is 30"},
        {"question_id": "f", "reference_answer": "3"},
        {"question_id": "x", "reference_answer": None},
    )
    text = "36 - 6 = 30. Sure."
    path = write(
        tmp_path / "traces.jsonl.gz",
        {"question_id": "c", "model": "m", "question": COOKIES, "correct": False, "thinking_text": "36."},
        {
            "question_id": "c",
            "model": "m",
            "question": COOKIES,
            "correct": True,
            "output_text": f"{text}</think>30",
        },
        {
            "question_id": "f",
            "model_dir": "n",
            "question": FAMILY,
            "correct": True,
            "thinking_text": "Option 3",
        },
        {
            "question_id": "x",
            "model": "m",
            "question": "How?",
            "correct": True,
            "thinking_text": "Like this.",
        },
        {"question_id": "c", "model": "n", "question": COOKIES, "correct": True, "thinking_text": None},
    )
    first, second, third = mine(path, cube=cube)
    assert first == Settled(question_id="c", model="m", sample=1, share=pytest.approx(11 / len(text)))
    assert second == Settled(question_id="f", model="n", sample=0, share=1.0)
    assert third.share is None


def test_a_file_that_is_no_trace_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl.gz"
    path.write_text("not gzip")
    with pytest.raises(ClassifierError, match=r"bad\.jsonl\.gz"):
        list(mine(path, cube=path))
