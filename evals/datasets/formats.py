"""The published formats: which fields they have, how a question is put, and what grades its answers.

Field names are those of the files of openai/grade-school-math, hendrycks/math, HuggingFaceH4/MATH-500,
HuggingFaceH4/aime_2024 and its like, TIGER-Lab/MMLU-Pro, idavidrein/gpqa, suzgunmirac/BIG-Bench-Hard and
livecodebench/code_generation_lite.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from budgetctl.evals.graders.text import boxes

IN_A_BOX = "\n\nReason as you need, and put your final answer within \\boxed{}."
BY_LETTER = (
    '\n\nReason as you need, and end with "The answer is (X)", where X is the letter of the right option.'
)
STATED = '\n\nReason as you need, and end with "The answer is", followed by the answer alone.'
AS_PROGRAM = (
    "\n\nGive one complete Python program in a fenced block. It reads standard input and prints the answer."
)
AS_SOLUTION = "\n\nGive complete Python code in a fenced block that begins with:\n```python\n{start}\n```"

Record = Mapping[str, Any]


class Missing(Exception):
    """A record lacks a field, or has it in a form that is not the published one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question.

    Attributes:
        id: The set's own, if it has one.
        prompt: What a model is asked.
        line: What a grader reads: ``question``, ``reference_answer``, and options or tests.
        level: Difficulty by the set's own scale.
        cluster: Subject, task or contest.
    """

    id: str | None
    prompt: str
    line: Mapping[str, Any]
    level: int | float | str | None = None
    cluster: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One published format.

    Attributes:
        read: Record to question; raises :class:`Missing`.
        grader: Name of the grader that suits it.
        of: What it holds, for people.
    """

    read: Callable[[Record], Item]
    grader: str
    of: str = field(default="")


def _get(record: Record, *names: str, kind: type | tuple[type, ...] = str) -> Any:
    """Return the first field of one of the names, whatever their case."""
    lowered = {key.casefold(): value for key, value in record.items()}
    for name in names:
        value = lowered.get(name.casefold())
        if value is not None:
            if not isinstance(value, kind):
                raise Missing(f"field {name!r}: seen {str(value)[:40]!r}, a {type(value).__name__}")
            return value
    raise Missing(f"no field {' or '.join(map(repr, names))}; it has {', '.join(map(str, record))[:200]}")


def _maybe(record: Record, *names: str) -> Any:
    try:
        return _get(record, *names, kind=object)
    except Missing:
        return None


def _identity(record: Record, *names: str) -> str | None:
    found = _maybe(record, *names)
    return None if found is None else str(found)


def _gsm8k(record: Record) -> Item:
    question, solution = _get(record, "question"), _get(record, "answer")
    _, mark, answer = solution.rpartition("####")
    if not mark:
        raise Missing("field 'answer': its last line does not begin with '####'")
    answer = answer.strip().replace(",", "")
    return Item(
        id=_identity(record, "id", "question_id"),
        prompt=question + IN_A_BOX,
        line={"question": question, "reference_answer": answer},
        level=len(re.findall(r"<<[^<>]*>>", solution)) or None,
    )


def _math(record: Record) -> Item:
    question = _get(record, "problem", "question")
    answer = _maybe(record, "answer")
    if answer is None:
        boxed = boxes(_get(record, "solution"))
        if not boxed:
            raise Missing("field 'solution': no \\boxed{} in it, and there is no field 'answer'")
        answer = boxed[-1]
    level = _maybe(record, "level")
    digits = re.search(r"\d+", str(level or ""))
    return Item(
        id=_identity(record, "unique_id", "id", "question_id"),
        prompt=question + IN_A_BOX,
        line={"question": question, "reference_answer": str(answer)},
        level=int(digits[0]) if digits else None,
        cluster=_identity(record, "subject", "type"),
    )


def _aime(record: Record) -> Item:
    question = _get(record, "problem", "question")
    answer = str(_get(record, "answer", kind=(str, int, float))).strip()
    year = _identity(record, "year")
    if not re.fullmatch(r"\d{1,3}(\.0)?", answer):
        raise Missing(f"field 'answer': seen {answer!r}, expected a whole number from 0 to 999")
    return Item(
        id=_identity(record, "id", "problem_id"),
        prompt=question + IN_A_BOX,
        line={"question": question, "reference_answer": str(int(float(answer)))},
        level=_maybe(record, "problem number"),
        cluster=year,
    )


def _mmlu_pro(record: Record) -> Item:
    options = _list(record, "options")
    answer = _get(record, "answer").strip().strip("()")
    if not (len(answer) == 1 and 0 <= ord(answer) - 65 < len(options)):
        raise Missing(
            f"field 'answer': seen {answer!r}, expected the letter of one of {len(options)} options"
        )
    return _choice(
        record, _get(record, "question"), options, answer, ids=("question_id", "id"), cluster=("category",)
    )


def _gpqa(record: Record) -> Item:
    question = _get(record, "Question")
    options = [_get(record, "Correct Answer"), *(_get(record, f"Incorrect Answer {i}") for i in (1, 2, 3))]
    options = [str(option).strip() for option in options]
    right = options[0]
    # The published order gives the answer away; this one is the same in every run.
    random.Random(hashlib.sha256(question.encode()).digest()).shuffle(options)
    letter = chr(65 + options.index(right))
    return _choice(
        record, question, options, letter, ids=("Record ID", "id"), cluster=("High-level domain", "Subdomain")
    )


def _choice(
    record: Record,
    question: str,
    options: Sequence[str],
    answer: str,
    *,
    ids: tuple[str, ...],
    cluster: tuple[str, ...],
) -> Item:
    listed = "\n".join(f"({chr(65 + i)}) {option}" for i, option in enumerate(options))
    return Item(
        id=_identity(record, *ids),
        prompt=f"{question.strip()}\n\n{listed}{BY_LETTER}",
        line={"question": question, "options": list(options), "reference_answer": answer},
        cluster=_identity(record, *cluster),
    )


def _list(record: Record, name: str) -> list[str]:
    found = _get(record, name, kind=object)
    if hasattr(found, "tolist"):
        found = found.tolist()  # an array, as Parquet readers give it
    if not isinstance(found, list | tuple) or not found:
        raise Missing(f"field {name!r}: seen {str(found)[:40]!r}, expected a list")
    return [str(option) for option in found]


def _bbh(record: Record) -> Item:
    question, target = _get(record, "input"), _get(record, "target").strip()
    letter = re.fullmatch(r"\(([A-Z])\)", target)
    return Item(
        id=_identity(record, "id"),
        prompt=question + (BY_LETTER if letter else STATED),
        line={"question": question, "reference_answer": target},
        cluster=_identity(record, "task"),
    )


def _live_code_bench(record: Record) -> Item:
    question = _get(record, "question_content")
    start = str(_maybe(record, "starter_code") or "").rstrip()
    names = ("public_test_cases", "private_test_cases", "metadata")
    tests = {name: value for name in names if (value := _maybe(record, name)) is not None}
    if not {"public_test_cases", "private_test_cases"} & set(tests):
        raise Missing("no field 'public_test_cases' or 'private_test_cases'")
    return Item(
        id=_identity(record, "question_id"),
        prompt=question + (AS_SOLUTION.format(start=start) if start else AS_PROGRAM),
        line={"question": question, **tests},
        level=_maybe(record, "difficulty"),
        cluster=_identity(record, "platform"),
    )


FORMATS: Mapping[str, Format] = {
    "gsm8k": Format(read=_gsm8k, grader="maths", of="school maths; the answer behind ####"),
    "math": Format(read=_math, grader="maths", of="competition maths; the answer boxed in the solution"),
    "math500": Format(read=_math, grader="maths", of="500 of them, with the answer as a field"),
    "aime": Format(read=_aime, grader="maths", of="whole numbers from 0 to 999"),
    "mmlu-pro": Format(read=_mmlu_pro, grader="choice", of="up to ten options"),
    "gpqa": Format(read=_gpqa, grader="choice", of="four options, shuffled by the question's text"),
    "bbh": Format(read=_bbh, grader="stated", of="letters, words or numbers"),
    "livecodebench": Format(read=_live_code_bench, grader="code", of="programs against tests"),
}
"""Name to format."""
