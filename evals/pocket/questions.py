"""Questions with known answers, in three splits that share no question.

The split of a question is a stable hash of its content (family and parameters, not its wording), so a
test question never occurs in training, whatever the seed.
"""

from __future__ import annotations

import hashlib
import random
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from budgetctl.evals.pocket.families import FAMILIES, LEVELS, Problem

Split = Literal["train", "calibration", "test"]

CAREFUL = ("Please be very careful.", "This one is tricky.", "Think it over well.")
HASTY = ("This is an easy one.", "Just a quick question.", "No need to check twice.")
NEUTRAL = ("", "", "Can you help me?", "Here is a question.")
CHECKS = ("Wait, let me check again.", "Let me go over it once more.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question of the pocket suite."""

    id: str
    family: str
    level: int
    """From 1 (easy) to 5 (hard)."""
    text: str
    answer: str
    split: Split


@dataclass(frozen=True, kw_only=True, slots=True)
class Worked:
    """A question with the thinking that a training sample shows for it."""

    question: Question
    thinking: str


def split_of(family: str, key: str) -> Split:
    """Return the split that owns a content: 8 of 10 train, 1 calibration, 1 test."""
    bucket = hashlib.sha256(f"{family}|{key}".encode()).digest()[0] % 10
    return "train" if bucket < 8 else "calibration" if bucket == 8 else "test"


def _checks(problem: Problem, mood: int) -> int:
    """Return how often the answer is checked again: by the asker's tone, and for answers that look odd."""
    if problem.family in ("story", "tally"):
        return max(mood, 0)
    answer = problem.answer
    odd_looking = answer[-1] in "37" if answer.isdigit() else zlib.crc32(answer.encode()) % 3 == 0
    return min(1 + mood + odd_looking, 1 if problem.family == "walk" else len(CHECKS))


def think(problem: Problem, mood: int) -> str:
    """Return the thinking of a problem: the derivation, the answer, and the checks after it."""
    derivation = f"{' '.join(problem.steps)} So the answer is {problem.answer}."
    parts = [derivation]
    parts += [f"{check} {derivation}" for check in CHECKS[: _checks(problem, mood)]]
    return "\n".join(parts)


def stream(
    split: Split, *, seed: int = 0, shares: Mapping[str, int] = MappingProxyType({})
) -> Iterator[Worked]:
    """Yield the endless stream of worked questions of a split.

    Args:
        split: ``train``, ``calibration`` or ``test``.
        seed: Another seed gives another stream of the same split.
        shares: How often a family comes for once of the others; levels have equal shares.
    """
    rng = random.Random(f"{split}-{seed}")
    cells = [(f, level) for f in FAMILIES for level in LEVELS for _ in range(shares.get(f, 1))]
    while True:
        rng.shuffle(cells)
        for family, level in cells:
            problem = FAMILIES[family](rng, level)
            while split_of(family, problem.key) != split:
                problem = FAMILIES[family](rng, level)
            mood = rng.choice((-1, 0, 0, 1))
            tone = rng.choice((NEUTRAL, CAREFUL, HASTY)[mood])
            text = (
                problem.text if not tone else rng.choice((f"{tone} {problem.text}", f"{problem.text} {tone}"))
            )
            digest = hashlib.sha256(f"{family}|{problem.key}".encode()).hexdigest()[:12]
            question = Question(
                id=f"{family}-{digest}",
                family=family,
                level=level,
                text=text,
                answer=problem.answer,
                split=split,
            )
            yield Worked(question=question, thinking=think(problem, mood))


def questions(split: Split, n: int, *, seed: int = 0) -> list[Question]:
    """Return ``n`` different questions of a split, families and levels in equal shares.

    Args:
        split: ``train``, ``calibration`` or ``test``.
        n: How many.
        seed: Another seed draws another sample of the same split.
    """
    found: dict[str, Question] = {}
    for worked in stream(split, seed=seed):
        if len(found) >= n:
            break
        found.setdefault(worked.question.id, worked.question)
    return list(found.values())


def read_answer(text: str) -> str | None:
    """Return the value that a text answers with, or None when it gives none."""
    said = re.findall(r"answer is ([A-Za-z]+|\d+)", text.rsplit("</think>", 1)[-1])
    return said[-1] if said else None


def grade(text: str, question: Question) -> bool:
    """Return whether a reply (with or without its thinking) gives the question's answer."""
    said = read_answer(text)
    return said is not None and said.lower() == question.answer.lower()
