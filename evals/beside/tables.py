"""The table that each suite beside accuracy ends with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from budgetctl.evals.beside import language, safety, slowdown
from budgetctl.evals.beside.contrasts import (
    Beside,
    Column,
    Labels,
    correct,
    count,
    difference,
    mean,
    percent,
    points,
    ratio,
    table,
    thinking,
    times,
    units,
)
from budgetctl.evals.control import control
from budgetctl.evals.cube import CubeRow
from budgetctl.evals.metrics import FULL
from budgetctl.evals.results import Result

from budgetctl.errors import BudgetctlError
from budgetctl.policy import parse

Runs = Mapping[str, Sequence[Result]]


def of(suite: str, runs: Runs, rows: Iterable[CubeRow], *, seed: int) -> Beside | None:
    """Return the table of a suite's run; None for suites that have none.

    Args:
        suite: The suite's name, as it was asked for.
        runs: Policy to its results.
        rows: Rows that say to which part each question belongs.
        seed: Of the bootstrap.
    """
    build = {"slowdown": slowed, "safety": safe, "language": spoken}.get(suite)
    if build is None:
        return None
    labels = {row.question_key: str(row.subject) for row in rows}
    return build(runs, labels, np.random.default_rng(seed))


SLOWDOWN: tuple[Column, ...] = (
    ("policy", "policy", str),
    ("planted", "planted", str),
    ("accuracy_clean", "right, clean", percent),
    ("accuracy_planted", "right, planted", percent),
    ("accuracy_change", "change, points", points),
    ("tokens_clean", "tokens, clean", count),
    ("tokens_planted", "tokens, planted", count),
    ("growth", "grows by factor", times),
    ("longest", "longest thought", count),
    ("within_cap", "within the cap", percent),
    ("beyond_cap", "tokens beyond it, p95", count),
    ("ends", "thinking ended by", str),
)


def slowed(runs: Runs, labels: Labels, rng: np.random.Generator) -> Beside:
    """Return by how much each kind of text makes each policy think longer, and what holds it."""
    rows = []
    for policy, results in runs.items():
        right, tokens = (
            {kind: units(results, kind, labels=labels, value=value) for kind in slowdown.KINDS}
            for value in (correct, thinking)
        )
        for kind in slowdown.KINDS[1:]:
            planted = [r for r in results if labels[r.question_id] == kind]
            kept = control(planted)
            stops = Counter(r.stop for r in planted if r.stop is not None)
            rows.append(
                {
                    "policy": policy,
                    "planted": kind,
                    "pairs": len(right[kind]),
                    "accuracy_clean": mean(right[slowdown.CLEAN]),
                    "accuracy_planted": mean(right[kind]),
                    "accuracy_change": difference(right[kind], right[slowdown.CLEAN], rng=rng),
                    "tokens_clean": mean(tokens[slowdown.CLEAN]),
                    "tokens_planted": mean(tokens[kind]),
                    "growth": ratio(tokens[kind], tokens[slowdown.CLEAN], rng=rng),
                    "longest": max((r.reasoning_tokens or 0 for r in planted), default=None),
                    "within_cap": kept["adherence"],
                    "beyond_cap": kept["overshoot_p95"],
                    "ends": ", ".join(f"{n} {name}" for name, n in stops.most_common()) or None,
                }
            )
    note = (
        "Each question once with text that has nothing planted and once with each kind of it; the change of "
        "accuracy and the growth of thinking are paired. Within the cap: at most 5 % beyond it."
    )
    return table("Slowdown by planted text", note, SLOWDOWN, rows)


SAFETY: tuple[Column, ...] = (
    ("policy", "policy", str),
    ("refused", "harmful refused", percent),
    ("refused_change", "vs full, points", points),
    ("over_refused", "harmless refused", percent),
    ("over_refused_change", "vs full, points", points),
    ("injected", "injection followed", percent),
    ("injected_change", "vs full, points", points),
    ("right_beside", "right beside it", percent),
    ("right_clean", "right without it", percent),
    ("tokens", "tokens", count),
    ("unanswered", "no answer", count),
)


def safe(runs: Runs, labels: Labels, rng: np.random.Generator) -> Beside:
    """Return how often each policy refuses, and how often it does what an injection says, against full."""
    measures = {
        "refused": (safety.HARMFUL, correct),
        "over_refused": (safety.HARMLESS, lambda r: float(r.answered and not r.correct)),
        "injected": (safety.INJECTED, lambda r: float(safety.followed(r.answer))),
        "right_beside": (safety.INJECTED, correct),
        "right_clean": (safety.CLEAN, correct),
    }
    found = {
        policy: {
            name: units(results, part, labels=labels, value=value) for name, (part, value) in measures.items()
        }
        for policy, results in runs.items()
    }
    rows: list[dict[str, Any]] = []
    for policy, results in runs.items():
        known = [t for r in results if (t := r.reasoning_tokens) is not None]
        row: dict[str, Any] = {"policy": policy, "tokens": float(np.mean(known)) if known else None}
        for name, values in found[policy].items():
            row[name] = mean(values)
            row[f"{name}_change"] = None if policy == FULL else difference(values, found[FULL][name], rng=rng)
        rows.append(row | {"unanswered": sum(not r.answered for r in results)})
    note = (
        "Intervals are paired by request and its wordings. A refusal is told by how an answer begins (or by "
        "the judge that was named), an injection by its code word, even where it is only reported."
    )
    return table("Refusals and injections", note, SAFETY, rows)


LANGUAGE: tuple[Column, ...] = (
    ("policy", "policy", str),
    ("language", "language", str),
    ("accuracy", "right", percent),
    ("accuracy_change", "vs English, points", points),
    ("tokens", "tokens", count),
    ("tokens_ratio", "factor to English", times),
    ("saved", "tokens of full", times),
    ("abstained", "no estimate", percent),
    ("calibration", "expected - seen, points", points),
)


def spoken(runs: Runs, labels: Labels, rng: np.random.Generator) -> Beside:
    """Return accuracy, thinking and the classifier's coverage by language, against English and full."""
    rows = []
    for policy, results in runs.items():
        right, tokens = (
            {name: units(results, name, labels=labels, value=value) for name in language.LANGUAGES}
            for value in (correct, thinking)
        )
        estimates = _estimates(policy)
        for name in language.LANGUAGES:
            spoke = [r for r in results if labels[r.question_id] == name]
            full = units(runs[FULL], name, labels=labels, value=thinking)
            other = name != language.ENGLISH
            estimated = [r for r in spoke if estimates and r.p_correct is not None]
            expected = units(estimated, name, labels=labels, value=lambda r: r.p_correct)
            seen = units(estimated, name, labels=labels, value=correct)
            abstained = [r.p_correct is None for r in spoke]
            rows.append(
                {
                    "policy": policy,
                    "language": name,
                    "problems": len(right[name]),
                    "accuracy": mean(right[name]),
                    "accuracy_change": difference(right[name], right[language.ENGLISH], rng=rng)
                    if other
                    else None,
                    "tokens": mean(tokens[name]),
                    "tokens_ratio": ratio(tokens[name], tokens[language.ENGLISH], rng=rng) if other else None,
                    "saved": None if policy == FULL else ratio(tokens[name], full, rng=rng),
                    "abstained": float(np.mean(abstained)) if estimates and abstained else None,
                    "calibration": difference(expected, seen, rng=rng),
                }
            )
    note = (
        "The same problems in every language: differences to English and the share of the tokens of full "
        "thinking are paired by problem. No estimate: the classifier abstained, so the policy left thinking "
        "alone; expected - seen is over the others."
    )
    return table("By language", note, LANGUAGE, rows)


def _estimates(policy: str) -> bool:
    try:
        return parse(policy).needs_estimate
    except BudgetctlError:
        return False
