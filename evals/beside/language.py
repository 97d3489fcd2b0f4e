"""``language``: the same problems with numbers as answers, asked in sixteen languages.

Every problem is drawn once and put into all languages, so that languages differ in nothing but the words.
Numbers stay below a thousand, where no language needs a separator, and stand where no grammar bends a word
by them. The grader reads the last number of an answer, in any script.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from budgetctl.evals.beside.phrases import ENDINGS, PHRASES
from budgetctl.evals.questions import LiveQuestion

ENGLISH = "en"
LANGUAGES = tuple(ENDINGS)

Problem = tuple[str, int, dict[str, int], int]
"""Its kind, its level from 1 to 3, its numbers, and the answer."""


def questions(n: int, *, seed: int) -> list[LiveQuestion]:
    """Return ``n`` divided by the number of languages problems, at least one, each in all languages.

    Args:
        n: How many questions.
        seed: Another seed draws other numbers.
    """
    rng = random.Random(f"language-{seed}")
    found = []
    for i in range(max(1, n // len(LANGUAGES))):
        kind, level, numbers, answer = DRAWN[i % len(DRAWN)](rng)
        for language in LANGUAGES:
            text = PHRASES[kind][language].format(**numbers)
            found.append(
                LiveQuestion(
                    id=f"{kind}-{i}/{language}",
                    text=f"{text} {ENDINGS[language]}",
                    reference=str(answer),
                    cluster=f"{kind}-{i}",
                    subject=language,
                    level=level,
                    raw={"reference_answer": answer},
                )
            )
    return found


def grade(answer: str, line: Mapping[str, Any]) -> bool:
    """Whether the last number that an answer states is the right one."""
    plain = unicodedata.normalize("NFKC", answer)
    digits = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in plain)
    stated = re.findall(r"\d+(?:[.,\u066b]\d+)?", digits)
    if not stated:
        return False
    whole, _, fraction = re.sub("[,\u066b]", ".", stated[-1]).partition(".")
    return int(whole) == line["reference_answer"] and not fraction.strip("0")


def _thought(rng: random.Random) -> Problem:
    x, a, b = rng.randint(11, 39), rng.randint(3, 9), rng.randint(12, 99)
    return "thought", 1, {"a": a, "b": b, "c": a * x + b}, x


def _remainder(rng: random.Random) -> Problem:
    a, b = rng.randint(200, 999), rng.randint(13, 29)
    return "remainder", 1, {"a": a, "b": b}, a % b


def _sequence(rng: random.Random) -> Problem:
    a, d, n = rng.randint(3, 40), rng.randint(4, 19), rng.randint(12, 40)
    return "sequence", 2, {"a": a, "d": d, "n": n}, a + d * (n - 1)


def _three(rng: random.Random) -> Problem:
    a, b, k = rng.randint(11, 60), rng.randint(7, 40), rng.randint(2, 5)
    return "three", 2, {"a": a, "b": b, "k": k}, a + (a + b) + k * (a + b)


def _divisible(rng: random.Random) -> Problem:
    a, d = rng.randint(20, 300), rng.randint(3, 9)
    b = a + rng.randint(60, 500)
    return "divisible", 2, {"a": a, "b": b, "d": d}, b // d - (a - 1) // d


def _steps(rng: random.Random) -> Problem:
    while True:
        a, n = rng.randint(15, 120), rng.randint(6, 11)
        path = [a]
        for _ in range(n):
            path.append(path[-1] // 2 if path[-1] % 2 == 0 else 3 * path[-1] + 1)
        if max(path) < 1000 and 1 not in path:
            return "steps", 3, {"a": a, "n": n}, path[-1]


DRAWN: tuple[Callable[[random.Random], Problem], ...] = (
    _thought,
    _remainder,
    _sequence,
    _three,
    _divisible,
    _steps,
)
