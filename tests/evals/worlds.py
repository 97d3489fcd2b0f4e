"""Small made-up recordings whose right numbers are known."""

from __future__ import annotations

import random
from typing import Any

from budgetctl.evals.cube import CubeBudget, CubeRow
from budgetctl.evals.results import Result

from budgetctl.types import Estimate, Quantiles, Query


def row(
    name: str,
    kind: str,
    *,
    value: int | str | None = None,
    tokens: int | None = None,
    output: int | None = None,
    correct: bool,
    coupled: bool = True,
    sample: int = 0,
    **more: Any,
) -> CubeRow:
    return CubeRow(
        dataset=more.pop("dataset", "made-up"),
        question_id=name,
        question=more.pop("question", f"What is {name}?"),
        model=more.pop("model", "toy"),
        sample=sample,
        budget=CubeBudget(kind=kind, value=value),
        reasoning_tokens=tokens,
        output_tokens=output,
        correct=correct,
        coupled=coupled,
        **more,
    )


def curve(name: str, *, settled: int | None, natural: int, step: int = 10, **more: Any) -> list[CubeRow]:
    """A coupled trace that is right from ``settled`` tokens on; None is never, 0 is without thinking too."""

    def right(tokens: int) -> bool:
        return settled is not None and tokens >= settled

    def at(tokens: int, kind: str, value: int | None) -> CubeRow:
        return row(name, kind, value=value, tokens=tokens, output=tokens + 5, correct=right(tokens), **more)

    caps = [at(cap, "tokens", cap) for cap in range(0, natural, step)]
    off = row(name, "off", tokens=0, output=5, correct=right(0), coupled=False, **more)
    return [at(natural, "natural", None), off, *caps]


def world(n: int, *, seed: int = 0) -> list[CubeRow]:
    """Half the questions need no thinking, the others settle at 20 to 80 of 40 to 160 tokens."""
    rng = random.Random(seed)
    rows: list[CubeRow] = []
    for i in range(n):
        easy = i % 2 == 0
        settled = 0 if easy else rng.choice((20, 40, 60, 80))
        rows += curve(
            f"{'easy' if easy else 'hard'}-{i}",
            settled=settled,
            natural=40 + settled,
            cluster=f"family-{i % 4}",
        )
    return rows


class Oracle:
    """A classifier that reads the made-up difficulty off the question's name."""

    name = "made-up"
    hash = "0"

    def estimate(self, query: Query) -> Estimate:
        hard = "hard" in query.text
        top = 80.0 if hard else 1.0
        settled = Quantiles(p50=top, p80=top, p90=top, p95=top)
        return Estimate(
            p_off=0.0 if hard else 1.0,
            p_full=1.0,
            settled=settled,
            natural=settled,
            confidence=1.0,
            source="made-up",
        )


def results(correct: list[bool], tokens: list[int] | None = None, **more: Any) -> list[Result]:
    """One result per question, named 00, 01, ..."""
    spent = tokens if tokens is not None else [100] * len(correct)
    return [
        Result(question_id=f"{i:03d}", correct=c, reasoning_tokens=t, output_tokens=t + 5, **more)
        for i, (c, t) in enumerate(zip(correct, spent, strict=True))
    ]
