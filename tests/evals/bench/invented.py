"""Made-up outcomes of several models on several task types, and predictors that know or ignore them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from budgetctl.classifiers.targets import Example

from budgetctl.types import Estimate, Quantiles, Query

TASKS = tuple(f"puzzles/{name}" for name in ("boxes", "clocks", "coins", "ladders", "maps", "rings"))
MODELS = ("amber", "birch", "cedar", "delta")
STEP = 100
"""Tokens per step of a hard question; easy ones take a tenth of a step, each model a little more or less."""


def examples(n: int, *, seed: int = 0) -> list[Example]:
    """Return ``n`` questions, each answered by every model without and with thinking."""
    rng = random.Random(seed)
    return [example for i in range(n) for example in _question(rng, i)]


def _question(rng: random.Random, i: int) -> list[Example]:
    task = TASKS[i % len(TASKS)]
    hard = rng.random() < 0.5
    steps = rng.randint(2, 9) if hard else 0.1
    words = f"{steps} steps from here to there" if hard else "a look from here"
    text = f"In {task} number {i}: what is {words}?"
    return [
        Example(
            question_id=f"made-up/{i}",
            dataset="made-up",
            model=model,
            kind="puzzles",
            task=task,
            text=text,
            off=float(not hard),
            full=1.0,
            natural=float(round(STEP * steps * (1 + 0.1 * at))),
            settled=float(round(STEP * steps / 2)),
        )
        for at, model in enumerate(MODELS)
    ]


def steps(query: Query) -> float:
    """Read the steps of thinking that a question needs off its text, as no classifier should be able to."""
    found = re.search(r"\b([2-9]) \w+ from here to", query.text)
    return 0.1 if found is None else float(found[1])


class Made:
    """A classifier whose steps of thinking and confidence are given by functions of the query."""

    hash = "0"

    def __init__(
        self,
        name: str,
        length: Callable[[Query], float],
        confidence: Callable[[Query], float] = lambda query: 1.0,
    ) -> None:
        self.name = name
        self._length, self._confidence = length, confidence

    def estimate(self, query: Query) -> Estimate:
        tokens = STEP * self._length(query)
        spent = Quantiles(p50=tokens, p80=1.2 * tokens, p90=1.35 * tokens, p95=1.4 * tokens)
        return Estimate(
            p_off=float(tokens < STEP),
            p_full=1.0,
            settled=spent,
            natural=spent,
            confidence=self._confidence(query),
            source=self.name,
        )


PERFECT = Made("perfect", steps)
CONSTANT = Made("constant", lambda query: 1.0)
