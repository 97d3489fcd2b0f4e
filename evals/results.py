"""The common form of one evaluated call, whether it was live or replayed, and how runs are paired."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from budgetctl.errors import PairingError
from budgetctl.types import Budget

Floats = NDArray[np.float64]
Key = tuple[str, str, int]
ClusterBy = Literal["question", "cluster"]
_CHUNK = 1024


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
        ttft_s: Seconds to the first token of any kind.
        ttfo_s: Seconds to the first token of the answer; None is unknown or never.
        e2e_s: Seconds to the end of the call.
        cost_usd: Dollars.
        started_s: When the call was made, in seconds since 1970; None is unknown.
        answered: There was an answer at all.
        answer: Its text, where it was kept.
        thinking_tail: The last characters of the thinking, where they were kept; what was there at a cut.
        p_correct: Probability of a right answer that the decision expected; None where nothing was estimated.
        confidence: Geometric mean of the probabilities of the answer's tokens, where it was asked for.
        rung: Position of the rung that answered, from 0; None where there was no cascade.
        stop: Why thinking ended, where that was seen.
        thought_tokens: Tokens of the thinking that a dearer rung of the same model may go on from, without
            any that were forced; None where none can.
        thought: Those tokens, until they are on disk.
        budget: The budget that the policy gave.
        modelled: Fields that are computed from a model of speed instead of measured.
        notes: What a reader of this number must know.
    """

    question_id: str
    correct: bool
    answered: bool = True
    answer: str | None = None
    thinking_tail: str | None = None
    p_correct: float | None = None
    confidence: float | None = None
    rung: int | None = None
    stop: str | None = None
    thought_tokens: int | None = None
    thought: tuple[int, ...] = ()
    cluster: str | None = None
    model: str = ""
    sample: int = 0
    reasoning_tokens: int | None = None
    probe_tokens: int = 0
    output_tokens: int | None = None
    ttft_s: float | None = None
    ttfo_s: float | None = None
    e2e_s: float | None = None
    cost_usd: float | None = None
    started_s: float | None = None
    budget: Budget = field(default_factory=Budget)
    modelled: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        """What makes two results of different policies a pair."""
        return (self.question_id, self.model, self.sample)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """The calls that several tables are of, one of each in every table and in the same order.

    Attributes:
        names: Names of questions.
        question: For every call the position of its question in ``names``.
        models: For every call its model.
        samples: For every call its sample.
        clusters: For every call its cluster.
    """

    names: list[str]
    question: NDArray[np.integer[Any]]
    models: Sequence[str]
    samples: NDArray[np.integer[Any]]
    clusters: Sequence[str | None]


class Table(Sequence[Result]):
    """Results in columns: a sequence that makes each result only when it is looked at."""

    calls: Calls
    _made: tuple[int, list[Result]] | None = None
    """The results around the one that was looked at last, by the place of the first."""

    @abstractmethod
    def column(self, name: str) -> Floats:
        """Return a field that is a number or a flag, of all results; NaN is unknown."""

    @abstractmethod
    def noted(self) -> Mapping[str, int]:
        """Return the notes, and how many results have each."""

    @abstractmethod
    def modelled(self) -> frozenset[str]:
        """Return the fields that are modelled in any result."""

    @abstractmethod
    def budgets(self) -> Sequence[Budget]:
        """Return the different budgets."""

    @abstractmethod
    def part(self, start: int, stop: int) -> Iterator[Result]:
        """Yield the results from one place up to another."""

    def __len__(self) -> int:
        return len(self.calls.question)

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> list[Result]: ...
    def __getitem__(self, index: int | slice) -> Result | list[Result]:
        if isinstance(index, slice):
            return list(self)[index]
        place = range(len(self))[index]
        start = place - place % _CHUNK
        if self._made is None or self._made[0] != start:
            self._made = start, list(self.part(start, min(start + _CHUNK, len(self))))
        return self._made[1][place - start]

    def __iter__(self) -> Iterator[Result]:
        for start in range(0, len(self), _CHUNK):
            yield from self.part(start, min(start + _CHUNK, len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(_equal, self, other))

    __hash__ = None  # type: ignore[assignment]  # as of any list


def _equal(one: object, other: object) -> bool:
    return one == other


def column(results: Sequence[Result], name: str) -> Floats:
    """Return a field that is a number or a flag, of all results; NaN is unknown."""
    if isinstance(results, Table):
        return results.column(name)
    return np.array([getattr(r, name) for r in results], dtype=float)


def noted(results: Sequence[Result]) -> dict[str, int]:
    """Return the notes on results, and how many have each."""
    if isinstance(results, Table):
        return dict(results.noted())
    return dict(Counter(note for r in results for note in r.notes))


def modelled(results: Sequence[Result]) -> frozenset[str]:
    """Return the fields that are modelled in any of the results."""
    return (
        results.modelled()
        if isinstance(results, Table)
        else frozenset(m for r in results for m in r.modelled)
    )


def budgets(results: Sequence[Result]) -> Sequence[Budget]:
    """Return the budgets that were given."""
    return results.budgets() if isinstance(results, Table) else [r.budget for r in results]


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

    runs: Mapping[str, Sequence[Result]]
    questions: tuple[str, ...]
    index: NDArray[np.intp]
    groups: NDArray[np.intp]

    def by_question(self, values: Sequence[float | None] | Floats) -> Floats | None:
        """Return the mean of a quantity per question, or None when any of its values is unknown."""
        known = np.asarray(values, dtype=float)
        if np.isnan(known).any():
            return None
        sums = np.bincount(self.index, weights=known, minlength=len(self.questions))
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
    tables = {name: results for name, results in runs.items() if isinstance(results, Table)}
    if len(tables) == len(runs) and len({id(table.calls) for table in tables.values()}) == 1:
        return _paired_tables(tables, cluster_by=cluster_by)
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
    clusters = {row.question_id: row.cluster for row in first}
    groups = _groups(clusters, questions, cluster_by=cluster_by)
    return Paired(runs=ordered, questions=questions, index=index, groups=groups)


def _paired_tables(tables: Mapping[str, Table], *, cluster_by: ClusterBy) -> Paired:
    """Pair tables of the same calls, which are in the same order already."""
    calls = next(iter(tables.values())).calls
    asked, index = np.unique(calls.question, return_inverse=True)
    names = [calls.names[i] for i in asked.tolist()]
    order = sorted(range(len(names)), key=lambda i: names[i])
    rank = np.empty(len(names), dtype=np.intp)
    rank[order] = np.arange(len(names))
    questions = tuple(names[i] for i in order)
    clusters: dict[str, str | None] = {}
    if cluster_by == "cluster":
        clusters = {calls.names[q]: c for q, c in zip(calls.question.tolist(), calls.clusters, strict=True)}
    groups = _groups(clusters, questions, cluster_by=cluster_by)
    return Paired(runs=tables, questions=questions, index=rank[index], groups=groups)


def _groups(
    clusters: Mapping[str, str | None], questions: Sequence[str], *, cluster_by: ClusterBy
) -> NDArray[np.intp]:
    if cluster_by == "question":
        return np.arange(len(questions), dtype=np.intp)
    missing = [question for question in questions if clusters[question] is None]
    if missing:
        raise PairingError(
            f"{len(missing)} of {len(questions)} questions name no cluster, first {missing[0]!r}: "
            "resample by question instead"
        )
    numbers = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters[q] for q in questions))}
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
