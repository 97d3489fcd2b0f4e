"""The common form of one evaluated call, whether it was live or replayed, and how runs are paired."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from budgetctl.errors import PairingError
from budgetctl.types import Budget

Floats = NDArray[np.float64]
Key = tuple[str, str, int]
ClusterBy = Literal["question", "cluster"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one call under one policy came to.

    Attributes:
        question_id: The question's name across datasets.
        cluster: Questions that stand or fall together, if the source says.
        model: The model that answered.
        sample: Number of the run of this question.
        correct: The answer was right; a missing answer is wrong, never left out.
        reasoning_tokens: Tokens of thinking, trial answers included; None is unknown.
        probe_tokens: Of them those of trial answers.
        output_tokens: All generated tokens, thinking included; None is unknown.
        ttfo_s: Seconds to the first token of the answer; None is unknown or never.
        e2e_s: Seconds to the end of the call.
        cost_usd: Dollars.
        answered: There was an answer at all.
        answer: Its text, where it was kept.
        stop: Why thinking ended, where that was seen.
        budget: The budget that the policy gave.
        modelled: Fields that are computed from a model of speed instead of measured.
        notes: What a reader of this number must know.
    """

    question_id: str
    correct: bool
    answered: bool = True
    answer: str | None = None
    stop: str | None = None
    cluster: str | None = None
    model: str = ""
    sample: int = 0
    reasoning_tokens: int | None = None
    probe_tokens: int = 0
    output_tokens: int | None = None
    ttfo_s: float | None = None
    e2e_s: float | None = None
    cost_usd: float | None = None
    budget: Budget = field(default_factory=Budget)
    modelled: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        """What makes two results of different policies a pair."""
        return (self.question_id, self.model, self.sample)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Runs of several policies over the same calls, in the same order.

    The unit of analysis is the question: several samples (or models) of one question are averaged first, so
    a question with ten samples weighs as much as one with a single sample.

    Attributes:
        runs: Policy to its results; row i of every policy is the same call.
        questions: Names of the questions, in order.
        index: For every row the position of its question in ``questions``.
        groups: For every question the number of its resampling group.
    """

    runs: Mapping[str, tuple[Result, ...]]
    questions: tuple[str, ...]
    index: NDArray[np.intp]
    groups: NDArray[np.intp]

    def by_question(self, values: Sequence[float | None]) -> Floats | None:
        """Return the mean of a quantity per question, or None when any of its values is unknown."""
        if any(value is None for value in values):
            return None
        sums = np.bincount(self.index, weights=np.asarray(values, dtype=float), minlength=len(self.questions))
        return np.asarray(sums / np.bincount(self.index, minlength=len(self.questions)), dtype=float)


def pair(runs: Mapping[str, Sequence[Result]], *, cluster_by: ClusterBy = "question") -> Paired:
    """Put the runs of all policies into the same order.

    Args:
        runs: Policy name to its results.
        cluster_by: What is drawn in a resample. ``question`` suits independent questions; ``cluster`` is
            for sources with many questions from few templates, passages or users, and widens the
            intervals. Clusters that are mere strata (every family is always present) are no such units.

    Raises:
        PairingError: The runs are empty, do not cover the same calls, name a call twice, or have no cluster
            where clusters were asked for.
    """
    if not runs or not all(runs.values()):
        empty = ", ".join(name for name, results in runs.items() if not results) or "no policy"
        raise PairingError(f"there is nothing to compare: {empty} has no results")
    ordered: dict[str, tuple[Result, ...]] = {}
    reference: list[Key] | None = None
    for name, results in runs.items():
        rows = tuple(sorted(results, key=lambda result: result.key))
        keys = [row.key for row in rows]
        _refuse_doubles(name, keys)
        if reference is None:
            reference = keys
        elif keys != reference:
            raise PairingError(_difference(next(iter(runs)), reference, name, keys))
        ordered[name] = rows
    first = next(iter(ordered.values()))
    questions = tuple(dict.fromkeys(row.question_id for row in first))
    position = {question: i for i, question in enumerate(questions)}
    index = np.array([position[row.question_id] for row in first], dtype=np.intp)
    return Paired(
        runs=ordered,
        questions=questions,
        index=index,
        groups=_groups(first, questions, cluster_by=cluster_by),
    )


def _groups(rows: Sequence[Result], questions: Sequence[str], *, cluster_by: ClusterBy) -> NDArray[np.intp]:
    if cluster_by == "question":
        return np.arange(len(questions), dtype=np.intp)
    clusters = {row.question_id: row.cluster for row in rows}
    missing = [question for question in questions if clusters[question] is None]
    if missing:
        raise PairingError(
            f"{len(missing)} of {len(questions)} questions name no cluster, first {missing[0]!r}: "
            "resample by question instead"
        )
    numbers = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters.values()))}
    return np.array([numbers[clusters[question]] for question in questions], dtype=np.intp)


def _refuse_doubles(name: str, keys: Sequence[Key]) -> None:
    for before, after in itertools.pairwise(keys):
        if before == after:
            raise PairingError(f"policy {name!r} has two results for {_show(after)}")


def _difference(a: str, keys_a: Sequence[Key], b: str, keys_b: Sequence[Key]) -> str:
    only_a, only_b = sorted(set(keys_a) - set(keys_b)), sorted(set(keys_b) - set(keys_a))
    missing, where = (only_a[0], b) if only_a else (only_b[0], a)
    return (
        f"{a!r} ({len(keys_a)} results) and {b!r} ({len(keys_b)}) do not cover the same questions: "
        f"{len(only_a) + len(only_b)} differ, for example {_show(missing)} is missing from {where!r}"
    )


def _show(key: Key) -> str:
    question, model, sample = key
    return f"question {question!r}" + (f", model {model!r}" if model else "") + f", sample {sample}"
