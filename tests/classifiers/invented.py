"""Invented outcome logs whose truth is known, as plain rows and as files."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from budgetctl.classifiers import features

from budgetctl.outcomes import Outcome
from budgetctl.records import JsonlSink
from budgetctl.types import Budget, Decision, Query, StopReason, Usage

from .traffic import question


def outcome(
    text: str,
    *,
    tokens: int | None,
    stop: StopReason = StopReason.NATURAL,
    probability: float = 1.0,
    model: str = "toy-1",
    **fields: Any,
) -> Outcome:
    """Return the outcome of a call about ``text``."""
    off = stop is StopReason.OFF
    budget = Budget(reasoning_tokens=0 if off else None)
    decision = Decision(budget=budget, policy="mixed", policy_hash="0", action_probability=probability)
    given = {
        "model": model,
        "query_hash": f"install:{text}",
        "features": features.describe(Query.from_text(text)),
    }
    usage = Usage(reasoning_tokens=tokens)
    return Outcome.of(decision, stop=stop, answered=True, usage=usage, **(given | fields))


def plain(*outcomes: Outcome) -> list[dict[str, Any]]:
    """Return rows as they are handed to the classifiers."""
    return [o.model_dump() for o in outcomes]


def write_log(
    path: Path,
    n: int,
    *,
    seed: int = 0,
    store_text: bool = False,
    model: str = "toy-1",
    slower: int = 1,
) -> Path:
    """Write a log of the toy traffic with feedback on every call, thinking off in half of them.

    ``slower`` models think so many times as long.
    """
    rng, sink = random.Random(seed), JsonlSink(path, store_text=store_text)
    for _ in range(n):
        kind, text, needed, able = question(rng)
        natural = 8 if kind == "look" else 2 * needed + 6
        off = rng.random() < 0.5
        stop = StopReason.OFF if off else StopReason.NATURAL
        tokens = 0 if off else slower * natural
        found = outcome(text, tokens=tokens, stop=stop, probability=0.5, model=model)
        sink.write(found, text=text)
        sink.feedback(found.id, correct=able and (needed == 0 or not off), source="test")
    return path
