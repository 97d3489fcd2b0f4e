"""The results of a replay, in columns: which recorded row each call came to, and under which decision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from budgetctl.evals.columns import OFF, Flags, Floats, Ints
from budgetctl.evals.recording import Recording
from budgetctl.evals.results import Calls, Result, Table
from numpy.typing import NDArray

from budgetctl.types import Budget, Decision, Pace, StopReason

PESSIMISTIC = "uncoupled trace cut by the cap: counted as unanswered (pessimistic)"
UNRECORDED = "not recorded before the end, so the stop preset could not act on it"

_TIMES = ("ttfo_s", "e2e_s")
_FIELDS = ("reasoning_tokens", "probe_tokens", "output_tokens", *_TIMES, "cost_usd", "p_correct")


@dataclass(slots=True)
class Given:
    """Decisions by number, as far as results show them. Budgets that are the same are kept once.

    Attributes:
        budgets: For each decision its budget.
        p_correct: For each the probability of a right answer that was expected; NaN is none.
        fallbacks: For each why the caller's own parameters were left, if they were.
    """

    budgets: list[Budget] = field(default_factory=list)
    p_correct: list[float] = field(default_factory=list)
    fallbacks: list[str | None] = field(default_factory=list)
    _known: dict[tuple[Budget, tuple[str, ...]], Budget] = field(default_factory=dict)

    def add(self, decision: Decision) -> None:
        """Append a decision."""
        budget, expected = decision.budget, decision.expected.p_correct
        self.budgets.append(self._known.setdefault((budget, budget.reasons), budget))
        self.p_correct.append(np.nan if expected is None else expected)
        self.fallbacks.append(decision.fallback)


class Replayed(Table):
    """One result per trace of a recording.

    Args:
        recording: What was recorded.
        given: Decisions.
        which: For every trace the number of its decision.
        row: For every trace the row that its call comes to.
        cut: Where a cap cut a trace of which no prefix was recorded: counted as unanswered.
        pace: The speed profile, for what was not recorded.
    """

    def __init__(
        self, *, recording: Recording, given: Given, which: Ints, row: Ints, cut: Flags, pace: Pace
    ) -> None:
        self.recording, self.given, self.pace = recording, given, pace
        self.which, self.row, self.cut = which.astype(np.int32), row.astype(np.int32), cut
        self._probes: Floats | None = None
        self._stops: dict[int, str] = {}
        self._missing: dict[int, str] = {}

    @classmethod
    def pick(cls, tables: Sequence[Replayed], choice: Ints) -> Replayed:
        """Return for each trace the result of one of several tables of the same recording."""
        given, before = Given(), []
        for table in tables:
            before.append(len(given.budgets))
            given.budgets += table.given.budgets
            given.p_correct += table.given.p_correct
            given.fallbacks += table.given.fallbacks
        return cls(
            recording=tables[0].recording,
            given=given,
            which=_chosen([t.which + n for t, n in zip(tables, before, strict=True)], choice),
            row=_chosen([table.row for table in tables], choice),
            cut=_chosen([table.cut for table in tables], choice),
            pace=tables[0].pace,
        )

    @property
    def calls(self) -> Calls:  # type: ignore[override]  # read-only here
        return self.recording.calls

    @property
    def stopped(self) -> bool:
        """Whether a stop preset ended any thought."""
        return bool(self._stops)

    def end_at(self, trace: int, row: int, *, reason: StopReason) -> None:
        """End the thinking of a call at a recorded point."""
        self.row[trace], self.cut[trace] = row, False
        self._stops[trace], self._made = str(reason), None

    def probe(self, trace: int, tokens: int) -> None:
        """Charge a call for its trial answers: their tokens, and their time where that is modelled anyway."""
        if self._probes is None:
            self._probes = np.zeros(len(self))
        self._probes[trace], self._made = tokens, None

    def miss(self, trace: int, signals: Iterable[str]) -> None:
        """Note that signals were missing that a stop preset reads."""
        self._missing[trace], self._made = f"{UNRECORDED}: {', '.join(sorted(signals))}", None

    def column(self, name: str) -> Floats:
        return self._column(name, slice(None))

    def _column(self, name: str, at: slice) -> Floats:
        if name == "correct":
            return np.asarray(self.recording.rows.correct[self.row[at]] & ~self.cut[at], dtype=float)
        if name == "answered":
            return np.asarray(~self.cut[at], dtype=float)
        if name == "probe_tokens":
            return np.zeros(len(self.row[at])) if self._probes is None else self._probes[at]
        if name == "p_correct":
            return np.asarray(self.given.p_correct)[self.which[at]]
        if name == "cost_usd":
            # What a cap that cut the call, or its trial answers, would have cost was not recorded.
            unknown = self.cut[at] | (self._column("probe_tokens", at) > 0)
            return np.where(unknown, np.nan, self.recording.rows.measures[name][self.row[at]])
        if name in ("ttfo_s", "e2e_s"):
            return self._seconds(name, at)
        return self._tokens(name, at) + self._column("probe_tokens", at)

    def _tokens(self, name: str, at: slice) -> Floats:
        """Return tokens without those of trial answers; a cut call has spent its whole cap."""
        rows, row, cut = self.recording.rows, self.row[at], self.cut[at]
        tokens = rows.measures[name][row]
        if name == "reasoning_tokens":
            tokens = np.where(np.isnan(tokens) & (rows.kind[row] == OFF), 0.0, tokens)
            cut = cut & ~np.isnan(tokens)
        if not cut.any():
            return tokens
        caps = np.array([b.reasoning_tokens or 0 for b in self.given.budgets], dtype=float)
        return np.where(cut, caps[self.which[at]], tokens)

    def _seconds(self, name: str, at: slice) -> Floats:
        recorded = self.recording.rows.measures[name][self.row[at]]
        tokens = self._timed_tokens(name, at) + self._column("probe_tokens", at)
        modelled = self.pace.ttft_s + tokens * self.pace.s_per_token
        return np.where(np.isnan(recorded) | self.cut[at], modelled, recorded)

    def _timed_tokens(self, name: str, at: slice) -> Floats:
        """Return the tokens after which the answer began or ended; NaN where it never began."""
        reasoning, output = self._tokens("reasoning_tokens", at), self._tokens("output_tokens", at)
        if name == "ttfo_s":
            return np.where(self.cut[at], np.nan, reasoning)
        return np.where(np.isnan(output), reasoning, output)

    def _modelled(self, name: str, at: slice) -> Flags:
        unrecorded = np.isnan(self.recording.rows.measures[name][self.row[at]]) | self.cut[at]
        return unrecorded & ~np.isnan(self._timed_tokens(name, at))

    def modelled(self) -> frozenset[str]:
        return frozenset(name for name in _TIMES if self._modelled(name, slice(None)).any())

    def noted(self) -> Mapping[str, int]:
        found = Counter({PESSIMISTIC: int(self.cut.sum())})
        found.update(self._missing.values())
        used = np.bincount(self.which, minlength=len(self.given.fallbacks)).tolist()
        for fallback, n in zip(self.given.fallbacks, used, strict=True):
            if fallback is not None:
                found[fallback] += n
        return {note: n for note, n in found.items() if n}

    def budgets(self) -> Sequence[Budget]:
        return [self.given.budgets[i] for i in np.flatnonzero(np.bincount(self.which))]

    def part(self, start: int, stop: int) -> Iterator[Result]:
        here, rows, given = slice(start, stop), self.recording.rows, self.given
        values = [_plain(self._column(name, here), name) for name in _FIELDS]
        marks = [self._modelled(name, here).tolist() for name in _TIMES]
        samples = rows.sample[self.recording.natural[here]].tolist()
        decided, cuts = self.which[here].tolist(), self.cut[here].tolist()
        for i, row in enumerate(self.row[here].tolist()):
            cut, decision = cuts[i], decided[i]
            answer, cluster = int(rows.answer[row]), int(rows.cluster[row])
            notes = (PESSIMISTIC if cut else None, self._missing.get(start + i), given.fallbacks[decision])
            yield Result(
                question_id=rows.questions[int(rows.question[row])],
                correct=bool(rows.correct[row]) and not cut,
                answered=not cut,
                answer=None if cut or answer < 0 else rows.answers[answer],
                stop=self._stops.get(start + i),
                cluster=None if cluster < 0 else rows.clusters[cluster],
                model=rows.models[int(rows.model[row])],
                sample=samples[i],
                budget=given.budgets[decision],
                modelled=tuple(name for name, mark in zip(_TIMES, marks, strict=True) if mark[i]),
                notes=tuple(note for note in notes if note is not None),
                **{name: column[i] for name, column in zip(_FIELDS, values, strict=True)},
            )


def _chosen(arrays: Sequence[NDArray[Any]], choice: Ints) -> NDArray[Any]:
    chosen = arrays[0].copy()
    for i, array in enumerate(arrays):
        np.copyto(chosen, array, where=choice == i)
    return chosen


def _plain(values: Floats, name: str) -> list[Any]:
    kind = int if name.endswith("_tokens") else float
    return [None if value != value else kind(value) for value in values.tolist()]
