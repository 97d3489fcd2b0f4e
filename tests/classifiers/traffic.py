"""Made-up traffic whose need for thinking is known: the tests' own recordings.

``look`` questions are answered at once; ``walk`` questions need ten tokens of thinking per step, and the
model then goes on for as long again. One walk in eight is beyond the model.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CAPS = (0, 10, 20, 30, 40, 60, 80, 120)
PLACES = ("lake", "hill", "mill", "farm", "gate", "wood", "port", "camp", "barn", "cave", "dune", "pier")


def question(rng: random.Random) -> tuple[str, str, int, bool]:
    """Return (kind, text, tokens of thinking needed, whether the model can do it)."""
    a, b, c = rng.sample(PLACES, 3)
    number = rng.randint(100, 999)
    if rng.random() < 0.3:
        return "look", f"Sign {number} at the {a} says {b}, near the {c}. What does the sign say?", 0, True
    steps = rng.randint(1, 6)
    text = f"Walker {number} goes from the {a} past the {b} to the {c}. Where is she after {steps} turns?"
    return "walk", text, 10 * steps - 3, number % 8 != 0


def rows(n: int, *, seed: int) -> list[dict[str, Any]]:
    """Return the recording of ``n`` questions, natural, off and prefix-coupled at ``CAPS``."""
    rng = random.Random(seed)
    found: list[dict[str, Any]] = []
    for i in range(n):
        kind, text, needed, able = question(rng)
        natural = 8 if kind == "look" else 2 * needed + 6
        base = {"dataset": "toy", "question_id": f"{seed}-{i}", "question": text, "model": "toy-1"}
        base |= {
            "sample": 0,
            "cluster": kind,
            "level": 1 + needed // 20,
            "output_tokens": None,
            "answer": None,
        }
        budgets = [("natural", None, natural, able, True), ("off", None, 0, able and needed == 0, False)]
        budgets += [("tokens", cap, cap, able and cap >= needed, True) for cap in CAPS if cap < natural]
        for name, value, tokens, right, coupled in budgets:
            budget = {"kind": name, "value": value}
            found.append(
                {**base, "budget": budget, "reasoning_tokens": tokens, "correct": right, "coupled": coupled}
            )
    return found


def write(path: Path, recorded: Iterable[dict[str, Any]]) -> Path:
    """Write a recording."""
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in recorded)
    return path
