"""Cubes in columns: what a replay reads of a million rows, as arrays instead of objects.

A file is parsed in batches of lines. A batch in which every field has its plain type, as written by
:func:`budgetctl.evals.cube.write`, goes into the columns as it is. Any other batch is read row by row through
:class:`budgetctl.evals.cube.CubeRow`, which takes what can be taken and names file and line of the rest.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress, islice
from pathlib import Path
from typing import Any

import numpy as np
from budgetctl.evals.cube import SCHEMA_MAJOR, CubeRow, lines, parse_row
from numpy.typing import NDArray
from pydantic_core import from_json

from budgetctl.errors import EvalError

Floats = NDArray[np.float64]
Ints = NDArray[np.integer[Any]]
Flags = NDArray[np.bool_]

NATURAL, OFF, TOKENS, EFFORT = range(4)
KINDS: Mapping[str | None, int] = {
    None: -1,
    "natural": NATURAL,
    "off": OFF,
    "tokens": TOKENS,
    "effort": EFFORT,
}
NUMBERS = (
    "confidence",
    "trial_confidence",
    "p_top",
    "answer_mass",
    "p_choice_mass",
    "trial_tokens",
    "close_margin",
    "entropy_after",
)
"""The signals that a stop preset or a cascade can read."""
MEASURES = ("reasoning_tokens", "output_tokens", "ttfo_s", "e2e_s", "cost_usd")
BATCH = 512

_NUMBER = {int, float}
_NONE = type(None)
_ANYTHING = {str, bool, *_NUMBER, list, dict, _NONE}
_PLAIN: Mapping[str, tuple[Any, set[type]]] = {
    "dataset": (None, {str}),
    "question_id": (None, {str, int}),
    "model": (None, {str}),
    "correct": (None, {bool, *_NUMBER}),
    "sample": (0, {int}),
    "coupled": (False, {bool}),
    "question": (None, {str, _NONE}),
    "subject": (None, {str, _NONE}),
    "level": (None, {str, *_NUMBER, _NONE}),
    "cluster": (None, {str, int, _NONE}),
    "budget": (None, {dict, _NONE}),
    "signals": ({}, {dict}),
    "answer": (None, _ANYTHING),
    "reasoning_tokens": (None, {int, _NONE}),
    "output_tokens": (None, {int, _NONE}),
    **dict.fromkeys(("ttfo_s", "e2e_s", "cost_usd"), (None, {*_NUMBER, _NONE})),
    "schema_version": (SCHEMA_MAJOR, {int, str}),
}
"""Field to what stands for a missing one, and the types that need no conversion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The rows of one or more cubes, in their order. NaN and -1 are unknown.

    Attributes:
        question: Number of each row's question, an index of ``questions``.
        model: Number of its model, an index of ``models``.
        sample: Number of the run.
        kind: Kind of budget: ``NATURAL``, ``OFF``, ``TOKENS``, ``EFFORT``.
        value: The cap in tokens, or an index of ``efforts``.
        coupled: The thinking is a prefix of the natural trace.
        correct: The answer was right.
        measures: Name to tokens, seconds or dollars, of ``MEASURES``.
        answer: Index of ``answers``.
        text: Index of ``texts``; prefixes of a trace have none.
        cluster: Index of ``clusters``.
        signals: Name to values, of ``NUMBERS``, for those that any row has.
        trial_answer: Index of ``answers``; None where no row has one.
        faulty: (Row, signal) to a value that is no number.
    """

    question: Ints
    model: Ints
    sample: Ints
    kind: Ints
    value: Ints
    coupled: Flags
    correct: Flags
    measures: Mapping[str, Floats]
    answer: Ints
    text: Ints
    cluster: Ints
    signals: Mapping[str, Floats]
    trial_answer: Ints | None
    faulty: Mapping[tuple[int, str], Any]
    questions: list[str]
    models: list[str]
    efforts: list[str]
    answers: list[str]
    texts: list[str]
    clusters: list[str]

    def __len__(self) -> int:
        return len(self.question)


def read(
    paths: Iterable[str | os.PathLike[str]], *, dataset: str | None = None, model: str | None = None
) -> Columns:
    """Read the rows of cube files, of one dataset or one model where these are given.

    Raises:
        EvalError: A file cannot be read or holds no row, a line is no row, or nothing is left.
    """
    builder = _Builder(dataset=dataset, model=model)
    for path in paths:
        before = builder.seen
        for batch in _batches(lines(Path(path)), size=BATCH):
            builder.add(_parse(batch, path=path))
        if builder.seen == before:
            raise EvalError(f"{path}: the file holds no rows")
    if not builder.rows:
        raise EvalError(builder.nothing_left())
    return builder.columns()


def of(rows: Iterable[CubeRow]) -> Columns:
    """Return the columns of rows that are in memory already."""
    builder = _Builder()
    for batch in _batches(rows, size=BATCH):
        builder.add(_fields([_plain(row) for row in batch]))
    return builder.columns()


def _batches(items: Iterable[Any], *, size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _parse(batch: Sequence[tuple[int, bytes]], *, path: object) -> _Fields:
    """Return the rows of some lines by field."""
    numbered = [(number, line) for number, line in batch if line.strip()]
    # Every line in brackets of its own: what is torn over two lines cannot pass for a row.
    text = b"[[" + b"],[".join([line for _, line in numbered]) + b"]]"
    try:
        parsed = from_json(text, allow_inf_nan=False) if numbered else []
        rows = _fields([row for (row,) in parsed])
        if len(parsed) == len(numbered) and _are_plain(rows):
            return rows
    except (ValueError, AttributeError):
        pass  # no JSON, or no objects: the reader of single rows says which
    return _fields(
        [_plain(parse_row(line.rstrip(b"\r\n"), where=f"{path}:{number}")) for number, line in numbered]
    )


_Fields = dict[str, list[Any]]


def _fields(rows: Sequence[dict[str, Any]]) -> _Fields:
    return {name: [row.get(name, default) for row in rows] for name, (default, _) in _PLAIN.items()}


def _are_plain(rows: _Fields) -> bool:
    """Return whether :class:`CubeRow` would take every row just as it is."""
    if not all(set(map(type, rows[name])) <= allowed for name, (_, allowed) in _PLAIN.items()):
        return False
    if not set(rows["correct"]) <= {0, 1}:
        return False
    if any(str(version).split(".")[0] != str(SCHEMA_MAJOR) for version in set(rows["schema_version"])):
        return False
    for name in (*MEASURES, "sample"):
        if min((value for value in rows[name] if value is not None), default=0) < 0:
            return False
    return all(map(_is_plain_budget, rows["budget"]))


def _is_plain_budget(budget: dict[str, Any] | None) -> bool:
    if budget is None:
        return True
    kind, value = budget.get("kind"), budget.get("value")
    if kind == "tokens":
        return type(value) is int and value >= 0
    if kind == "effort":
        return type(value) is str
    return kind in ("natural", "off") and (value is None or type(value) in (int, str))


def _plain(row: CubeRow) -> dict[str, Any]:
    budget = row.budget
    return {
        **row.__dict__,
        "budget": None if budget is None else {"kind": budget.kind, "value": budget.value},
    }


class _Names(dict[str, int]):
    """Numbers strings in the order in which they come."""

    def number(self, values: Iterable[str | None]) -> list[int]:
        return [-1 if value is None else self.setdefault(value, len(self)) for value in values]


@dataclass(slots=True, kw_only=True)
class _Builder:
    dataset: str | None = None
    model: str | None = None
    seen: int = 0
    rows: int = 0
    datasets_seen: set[str] = field(default_factory=set)
    models_seen: set[str] = field(default_factory=set)
    _parts: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
    _signals: dict[str, list[tuple[int, Floats]]] = field(default_factory=dict)
    _trial_answers: list[tuple[int, Ints]] = field(default_factory=list)
    _faulty: dict[tuple[int, str], Any] = field(default_factory=dict)
    _questions: _Names = field(default_factory=_Names)
    _models: _Names = field(default_factory=_Names)
    _efforts: _Names = field(default_factory=_Names)
    _answers: _Names = field(default_factory=_Names)
    _texts: _Names = field(default_factory=_Names)
    _clusters: _Names = field(default_factory=_Names)

    def add(self, rows: _Fields) -> None:
        """Append rows that :class:`CubeRow` would take."""
        self.seen += len(rows["model"])
        if self.dataset is not None or self.model is not None:
            rows = self._chosen(rows)
        count = len(rows["model"])
        if not count:
            return
        budgets = [budget or {} for budget in rows["budget"]]
        kinds = [KINDS[budget.get("kind")] for budget in budgets]
        names = zip(rows["dataset"], rows["question_id"], strict=True)
        texts = zip(rows["question"], kinds, strict=True)
        self._put("question", self._questions.number([f"{dataset}/{name}" for dataset, name in names]))
        self._put("model", self._models.number(rows["model"]))
        self._put("sample", rows["sample"])
        self._put("kind", kinds)
        self._put("value", [self._value(*item) for item in zip(kinds, budgets, strict=True)])
        self._put("coupled", rows["coupled"], dtype=np.bool_)
        self._put("correct", rows["correct"], dtype=np.bool_)
        self._put("answer", self._answers.number(map(_text, rows["answer"])))
        self._put("text", self._texts.number([None if kind == TOKENS else text for text, kind in texts]))
        self._put("cluster", self._clusters.number(map(_text, rows["cluster"])))
        for name in MEASURES:
            self._put(name, rows[name], dtype=np.float64)
        self._add_signals(rows["signals"])
        self.rows += count

    def _chosen(self, rows: _Fields) -> _Fields:
        self.datasets_seen.update(rows["dataset"])
        self.models_seen.update(rows["model"])
        keep = [
            self.dataset in (None, dataset) and self.model in (None, model)
            for dataset, model in zip(rows["dataset"], rows["model"], strict=True)
        ]
        return {name: list(compress(values, keep)) for name, values in rows.items()}

    def nothing_left(self) -> str:
        """Say what was looked for and what there is."""
        name, wanted, known = ("dataset", self.dataset, self.datasets_seen)
        if self.dataset is None or self.dataset in known:
            name, wanted, known = ("model", self.model, self.models_seen)
        shown = ", ".join(sorted(known)[:10]) + (", ..." if len(known) > 10 else "")
        return f"no rows are left with --{name} {wanted!r}; the files hold: {shown}"

    def _value(self, kind: int, budget: dict[str, Any]) -> int:
        if kind == TOKENS:
            return int(budget["value"])
        return self._efforts.setdefault(budget["value"], len(self._efforts)) if kind == EFFORT else -1

    def _put(self, name: str, values: list[Any], *, dtype: type = np.int64) -> None:
        small = np.int32 if dtype is np.int64 and name != "value" else dtype
        self._parts.setdefault(name, []).append(np.array(values, dtype=small))

    def _add_signals(self, signals: list[dict[str, Any]]) -> None:
        if not any(signals):
            return
        for name in NUMBERS:
            values = [one.get(name) for one in signals]
            kinds = set(map(type, values))
            if kinds == {type(None)}:
                continue
            if not kinds <= {int, float, type(None)}:
                values = [self._sound(value, row=self.rows + i, name=name) for i, value in enumerate(values)]
            self._signals.setdefault(name, []).append((self.rows, np.array(values, dtype=np.float64)))
        answers = self._answers.number(_text(one.get("trial_answer")) for one in signals)
        if max(answers) >= 0:
            self._trial_answers.append((self.rows, np.array(answers, dtype=np.int64)))

    def _sound(self, value: Any, *, row: int, name: str) -> float | None:
        if value is None or type(value) in _NUMBER:
            return value  # type: ignore[no-any-return]  # narrowed by its type
        self._faulty[row, name] = value
        return None

    def columns(self) -> Columns:
        """Return everything that was added."""
        joined: dict[str, NDArray[Any]] = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        self._parts.clear()
        if not joined:
            joined = {name: np.empty(0, dtype=np.int32) for name in (*_INTS, *MEASURES)}
        return Columns(
            **{name: joined[name] for name in _INTS},
            measures={name: joined[name] for name in MEASURES},
            signals={name: self._whole(parts, np.nan) for name, parts in self._signals.items()},
            trial_answer=self._whole(self._trial_answers, -1) if self._trial_answers else None,
            faulty=self._faulty,
            questions=list(self._questions),
            models=list(self._models),
            efforts=list(self._efforts),
            answers=list(self._answers),
            texts=list(self._texts),
            clusters=list(self._clusters),
        )

    def _whole(self, parts: Sequence[tuple[int, NDArray[Any]]], missing: float) -> NDArray[Any]:
        whole = np.full(self.rows, missing, dtype=parts[0][1].dtype)
        for start, values in parts:
            whole[start : start + len(values)] = values
        return whole


_INTS = (
    "question",
    "model",
    "sample",
    "kind",
    "value",
    "coupled",
    "correct",
    "answer",
    "text",
    "cluster",
)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
