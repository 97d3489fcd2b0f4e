"""From the log of one's own calls to what a classifier learns.

A row (as in the documentation of records, as a plain dict) and what feedback says of it become one example:

``off``      the feedback of a call in which thinking was off and none was seen.
``full``     the feedback of a call whose thinking ended by itself.
``natural``  the reasoning tokens of such a call.

``settled`` is not in a log. Feedback is right or wrong, or a score in [0, 1].

A call that hit its cap does not tell how long it would have gone on (its length is right-censored) nor
whether it would have been right. To leave out only those that hit it would keep the short and easy ones, and
to count only those that were right all the same would flatter. So the calls of a model under caps or
deadlines count all or not at all: if more than :data:`LOOSE` of them were cut, none does; otherwise those
that ended by themselves do, and at most that share of the longest is missing. Calls at an effort level that
was set, calls that failed, were left by their caller, were cut by a loop or an output limit, or took a retry
or recovery, count nowhere. Calls that went through unchanged because the classifier was unsure do count.

An example weighs 1 / (probability of its action), at most :data:`MAX_WEIGHT` (inverse probability weighting,
Horvitz & Thompson 1952; clipped, Ionides 2008), so that what the policy seldom did counts for all the queries
it might have done it to. An unknown probability gives weight 1.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from budgetctl.classifiers import features
from budgetctl.classifiers.readout import base_name
from budgetctl.classifiers.targets import Example

from budgetctl.types import Query, StopReason

Row = Mapping[str, Any]

DATASET = "outcomes"
LOOSE = 0.02
"""Caps that cut at most this share of a model's calls leave its lengths as good as natural."""
MAX_WEIGHT = 20.0
UNCHANGED = (
    "no classifier configured",
    "classifier failed",
    "estimate confidence is below",
    "policy failed",
    "the function takes no",
)
"""So begin the notes of what leaves a call as its caller made it; any other is of a retry or recovery."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What a log teaches.

    Attributes:
        examples: One per call that teaches something.
        rows: How many calls there were.
        left_out: Why the others teach nothing, with their number.
        unknown_probability: Examples whose action's probability is not recorded.
        clipped: Examples whose weight was clipped.
    """

    examples: list[Example]
    rows: int
    left_out: Mapping[str, int]
    unknown_probability: int
    clipped: int


def learn(rows: Sequence[Row], feedback: Mapping[str, float]) -> Log:
    """Return the examples of logged calls.

    Args:
        rows: Outcome rows; ``text`` and ``action_probability`` may be missing.
        feedback: Outcome id to how right it was, in [0, 1].
    """
    texts = {
        str(row["query_hash"]): str(row["text"]) for row in rows if row["query_hash"] and row.get("text")
    }
    loose = _loosely_capped(rows)
    left_out: Counter[str] = Counter()
    examples, weights = [], []
    for row in rows:
        taught = _taught(row, feedback.get(row["id"]), loose=row["model"] in loose)
        text = row.get("text") or texts.get(str(row["query_hash"]), "")
        dense = _dense(row, text)
        if isinstance(taught, str):
            left_out[taught] += 1
        elif not text and dense is None:
            left_out["neither its text nor all features of this version are recorded"] += 1
        else:
            weights.append(_weight(row))
            examples.append(_example(row, taught, text=text, dense=dense, weight=weights[-1]))
    return Log(
        examples=examples,
        rows=len(rows),
        left_out=dict(left_out.most_common()),
        unknown_probability=weights.count(None),
        clipped=sum(w is not None and w > MAX_WEIGHT for w in weights),
    )


def _example(
    row: Row,
    taught: Mapping[str, float | None],
    *,
    text: str,
    dense: tuple[float, ...] | None,
    weight: float | None,
) -> Example:
    return Example(
        question_id=f"{DATASET}/{_identity(row, dense)}",
        dataset=DATASET,
        model=base_name(row["model"] or ""),
        kind=row["route"] or "",
        task=row["route"] or "",
        text=text,
        dense=dense,
        weight=1.0 if weight is None else min(weight, MAX_WEIGHT),
        **taught,
    )


def _identity(row: Row, dense: tuple[float, ...] | None) -> str:
    """Return what tells a question from others: its hash, if other processes give it the same one."""
    found = str(row["query_hash"] or "")
    if found and not found.startswith("process:"):
        return found
    return str(row["id"]) if dense is None else f"features:{zlib.crc32(repr(row['features']).encode()):08x}"


def _loosely_capped(rows: Iterable[Row]) -> set[str | None]:
    """Return the models of whose calls under caps or deadlines hardly any was cut."""
    calls: Counter[str | None] = Counter()
    cut: Counter[str | None] = Counter()
    for row in rows:
        if _limited(row) and row["stop"]["reason"] in (*_CUT, StopReason.NATURAL):
            calls[row["model"]] += 1
            cut[row["model"]] += _was_cut(row)
    return {model for model, n in calls.items() if cut[model] <= LOOSE * n}


_CUT = (StopReason.CAP, StopReason.DEADLINE)


def _limited(row: Row) -> bool:
    """Whether a cap or a deadline of ours was in force."""
    state = row["budget_state"]
    capped = isinstance(state["applied"], int) and state["applied"] > 0 and state["strength"] != "none"
    return capped or any(c["name"] == "deadline" and c["strength"] != "none" for c in row["controls"])


def _was_cut(row: Row) -> bool:
    return row["stop"]["reason"] in _CUT or bool(row["budget_state"]["hit"])


def _taught(row: Row, right: float | None, *, loose: bool) -> dict[str, float | None] | str:
    """Return what a call teaches, or why it teaches nothing."""
    reason, state, tokens = row["stop"]["reason"], row["budget_state"], row["usage"]["reasoning_tokens"]
    notes = row["fallback"].split("; ") if row["fallback"] else []
    if reason in (StopReason.ERROR, StopReason.CALLER, StopReason.UNKNOWN):
        return f"its end is not a model's: {reason}"
    if not all(note.startswith(UNCHANGED) for note in notes):
        return "a retry or recovery took part"
    if reason == StopReason.OFF:
        if tokens:
            return "thinking was off and went on all the same"
        return "thinking was off and there is no feedback" if right is None else {"off": right}
    if isinstance(state["applied"], str) and state["strength"] != "none":
        return "an effort level was set"
    if _limited(row) and not loose:
        return f"its model's caps or deadlines cut more than {LOOSE:.0%} of calls"
    if reason != StopReason.NATURAL or (_limited(row) and _was_cut(row)):
        return f"thinking was cut: {reason}"
    if not tokens:
        return "no thinking was seen"
    return {"full": right, "natural": tokens}


def _weight(row: Row) -> float | None:
    probability = row.get("action_probability")
    if probability is None or not 0 < probability <= 1:
        return None
    return float(1 / probability)


def _dense(row: Row, text: str) -> tuple[float, ...] | None:
    """Return the recorded features; None where the text says more, or where they are not of this version.

    What was rounded to a magnitude stands for anything within half a unit: one such value is drawn, the same
    for the same record (uniform dequantisation). A recorded 0 is exact, since no count rounds down to it.
    """
    recorded = row["features"]
    if text and recorded in ({}, features.describe(Query.from_text(text))):
        return None
    if recorded.get("version") != features.VERSION:
        return None
    found = np.array([recorded.get(name, math.nan) for name in features.DENSE])
    if not np.isfinite(found).all():
        return None
    rng = np.random.default_rng(zlib.crc32(found.tobytes()))
    rounded = _ROUNDED & (found > 0)
    return tuple((found + np.where(rounded, rng.uniform(-0.5, 0.5, len(found)), 0.0)).tolist())


_ROUNDED = np.array([features.is_magnitude(name) for name in features.DENSE])
