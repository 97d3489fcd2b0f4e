"""Recordings: the rows of cubes, sorted into traces that can be replayed.

A trace is everything recorded for one question, model and sample; it has a natural row, in which the model
stopped thinking by itself. Everything is held in columns (:mod:`budgetctl.evals.columns`): row numbers stand
for rows, trace numbers for traces, and -1 for what was not recorded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from budgetctl.evals import columns
from budgetctl.evals.columns import EFFORT, NATURAL, OFF, TOKENS, Columns, Ints
from budgetctl.evals.cube import CubeRow
from budgetctl.evals.results import Calls
from numpy.typing import NDArray

from budgetctl.errors import EvalError
from budgetctl.types import Query

NO_BUDGET = "rows whose budget is not recorded"
REPEATED = "rows that repeat an earlier one's question, model, sample and budget"
NO_NATURAL = "samples without a natural row"
_IDENTITY = ("question", "model", "sample", "kind", "value", "coupled")
_FAR = 2**40
"""Above every number of tokens."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Traces that can be replayed, and what had to be left out.

    Attributes:
        rows: All rows that were read.
        natural: The natural row of each trace.
        off: Its row without thinking, else the coupled row at 0 tokens, else that of another sample; or -1.
        prefixes: Rows of prefixes of natural traces, by trace and then shortest first; of equally long ones
            the larger cap last.
        prefix_trace: The trace of each of ``prefixes``.
        left_out: Reason to the number of rows or samples that it left out.
    """

    rows: Columns
    natural: Ints
    off: Ints
    prefixes: Ints
    prefix_trace: Ints
    left_out: Mapping[str, int]
    _effort_rows: tuple[Ints, Ints] = field(repr=False)

    @classmethod
    def of(cls, rows: Iterable[CubeRow]) -> Recording:
        """Sort rows into traces. Of rows that record the same thing the first stands.

        Raises:
            EvalError: There is no natural row, so nothing to compare with.
        """
        return cls.of_columns(columns.of(rows))

    @classmethod
    def of_columns(cls, rows: Columns) -> Recording:
        """Sort rows that are in columns already; as :meth:`of`."""
        return _sorted(rows)

    @classmethod
    def read(
        cls,
        *paths: str | os.PathLike[str],
        dataset: str | None = None,
        model: str | None = None,
    ) -> Recording:
        """Read cube files, of one dataset or model where these are given, and sort their rows into traces.

        Raises:
            EvalError: As :func:`budgetctl.evals.columns.read` and :meth:`of`.
        """
        return _sorted(columns.read(paths, dataset=dataset, model=model))

    def __len__(self) -> int:
        return len(self.natural)

    @property
    def has_off(self) -> bool:
        """Whether every trace can be replayed without thinking."""
        return bool((self.off >= 0).all())

    @property
    def has_lengths(self) -> bool:
        """Whether the tokens of every natural trace were recorded."""
        return not np.isnan(self.lengths).any()

    @property
    def coupled(self) -> bool:
        """Whether every trace was also recorded at prefixes."""
        return len(np.unique(self.prefix_trace)) == len(self)

    @property
    def has_texts(self) -> bool:
        """Whether the text of every question was recorded."""
        return bool((self.rows.text[self.natural] >= 0).all())

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, in order."""
        return tuple(sorted({self.rows.models[i] for i in self.rows.model[self.natural].tolist()}))

    @cached_property
    def calls(self) -> Calls:
        """The calls that every replay of this recording is of."""
        rows, at = self.rows, self.natural
        return Calls(
            names=rows.questions,
            question=rows.question[at],
            models=[rows.models[i] for i in rows.model[at].tolist()],
            samples=rows.sample[at],
            clusters=[None if i < 0 else rows.clusters[i] for i in rows.cluster[at].tolist()],
        )

    @cached_property
    def lengths(self) -> columns.Floats:
        """Tokens of each natural trace: of thinking where they are known, else all; NaN where neither is."""
        return length(self.rows, self.natural)

    def of_model(self, model: str) -> Recording:
        """Return the traces of one model alone, which may be none."""
        rows, names = self.rows, self.rows.models
        kept = rows.model[self.natural] == (names.index(model) if model in names else -1)
        number = np.cumsum(kept) - 1
        prefixes, efforts = kept[self.prefix_trace], kept[self._effort_rows[0]]
        return Recording(
            rows=rows,
            natural=self.natural[kept],
            off=self.off[kept],
            prefixes=self.prefixes[prefixes],
            prefix_trace=number[self.prefix_trace[prefixes]],
            left_out={},
            _effort_rows=(number[self._effort_rows[0][efforts]], self._effort_rows[1][efforts]),
        )

    @classmethod
    def at_budget(cls, rows: Columns, model: str, kind: int, *, effort: str | None = None) -> Recording:
        """Return a model's calls under one kind of budget, each as a trace whose only row is that call.

        Of rows that record the same call the first stands. There may be none.
        """
        number = rows.models.index(model) if model in rows.models else -1
        found = (rows.model == number) & (rows.kind == kind)
        if effort is not None:
            found &= rows.value == (rows.efforts.index(effort) if effort in rows.efforts else -1)
        row = np.flatnonzero(found)
        order = np.lexsort([rows.sample[row], rows.question[row]])  # stable: the first that was read stands
        row = row[order][~_same(rows, row[order], ("question", "sample"))]
        none = np.empty(0, dtype=np.int64)
        return cls(
            rows=rows,
            natural=row,
            off=row if kind == OFF else np.full(len(row), -1, dtype=np.int64),
            prefixes=none,
            prefix_trace=none,
            left_out={},
            _effort_rows=(np.arange(len(row)), row) if kind == EFFORT else (none, none),
        )

    def query(self, trace: int) -> Query | None:
        """Return the call as a classifier would have seen it; None where the text was not recorded."""
        row = self.natural[trace]
        text = int(self.rows.text[row])
        if text < 0:
            return None
        return Query.from_text(self.rows.texts[text], model=self.model(trace))

    def model(self, trace: int) -> str:
        """Return the name of a trace's model."""
        return self.rows.models[int(self.rows.model[self.natural[trace]])]

    def effort(self, level: str) -> Ints:
        """Return the row of each trace at an effort level, -1 where it was not recorded."""
        found = np.full(len(self), -1, dtype=np.int64)
        if level in self.rows.efforts:
            trace, row = self._effort_rows
            right = self.rows.value[row] == self.rows.efforts.index(level)
            found[trace[right]] = row[right]
        return found

    def efforts(self, trace: int) -> list[str]:
        """Return the effort levels that were recorded for a trace."""
        at, row = self._effort_rows
        return sorted({self.rows.efforts[i] for i in self.rows.value[row[at == trace]].tolist()})

    def prefix(self, caps: columns.Floats) -> Ints:
        """Return for each trace the row of its longest prefix not above its cap; -1 where there is none."""
        trace = np.arange(len(self))
        keys = self.prefix_trace * _FAR + self._prefix_tokens
        wanted = trace * _FAR + np.clip(np.nan_to_num(caps, nan=-1), -1, _FAR - 1).astype(np.int64)
        place = np.searchsorted(keys, wanted, side="right") - 1
        if not len(keys):
            return np.full(len(self), -1, dtype=np.int64)
        return np.where((place >= 0) & (self.prefix_trace[place] == trace), self.prefixes[place], -1)

    @cached_property
    def _prefix_tokens(self) -> Ints:
        return self.rows.measures["reasoning_tokens"][self.prefixes].astype(np.int64)

    def points(self, ends: columns.Floats) -> tuple[Ints, Ints]:
        """Return (traces, rows) of the prefixes that are longer than 0 and shorter than each trace's end."""
        tokens = self._prefix_tokens
        inside = (tokens > 0) & (tokens < ends[self.prefix_trace])
        return self.prefix_trace[inside], self.prefixes[inside]


def length(rows: Columns, at: Ints) -> columns.Floats:
    """Return the tokens of some rows: of thinking where they are known, else all that were generated."""
    reasoning, output = rows.measures["reasoning_tokens"][at], rows.measures["output_tokens"][at]
    return np.where(np.isnan(reasoning), output, reasoning)


def _sorted(rows: Columns) -> Recording:
    known = np.flatnonzero(rows.kind >= 0)
    left_out = {NO_BUDGET: len(rows) - len(known)}
    order = known[
        np.lexsort(
            [
                getattr(rows, name)[known]
                for name in ("coupled", "value", "kind", "sample", "model", "question")
            ]
        )
    ]
    # lexsort is stable: of rows that record the same thing the first that was read comes first.
    again = _same(rows, order, ("question", "model", "sample", "kind", "value", "coupled"))
    left_out[REPEATED] = int(again.sum())
    order = order[~again]
    new_trace = ~_same(rows, order, ("question", "model", "sample"))
    new_group = ~_same(rows, order, ("question", "model"))
    trace, group = np.cumsum(new_trace) - 1, np.cumsum(new_group) - 1
    count = int(new_trace.sum())
    kind = rows.kind[order]
    natural = _first(trace[kind == NATURAL], order[kind == NATURAL], count)
    with_natural = natural >= 0
    left_out[NO_NATURAL] = int((~with_natural).sum())
    reasons = {reason: n for reason, n in left_out.items() if n}
    if not with_natural.any():
        counts = ", ".join(f"{n} {reason}" for reason, n in reasons.items())
        raise EvalError(
            "nothing to replay: no row with budget kind 'natural', so there is no full thinking to "
            f"compare with ({counts or 'no rows at all'})"
        )
    prefix, prefix_trace = _prefixes(rows, order, trace)
    zero = rows.measures["reasoning_tokens"][prefix] == 0
    own = _first(trace[kind == OFF], order[kind == OFF], count)
    own = np.where(own >= 0, own, _first(prefix_trace[zero], prefix[zero], count, by_row=False))
    borrowed = _first(group[kind == OFF], order[kind == OFF], int(new_group.sum()), by_row=False)
    off = np.where(own >= 0, own, borrowed[group[new_trace]])
    number = np.cumsum(with_natural) - 1
    kept, efforts = with_natural[prefix_trace], (kind == EFFORT) & with_natural[trace]
    return Recording(
        rows=rows,
        natural=natural[with_natural],
        off=off[with_natural],
        prefixes=prefix[kept],
        prefix_trace=number[prefix_trace[kept]],
        left_out=reasons,
        _effort_rows=(number[trace[efforts]], order[efforts]),
    )


def _same(rows: Columns, order: Ints, names: Iterable[str]) -> NDArray[Any]:
    """Return whether each row agrees in some columns with the one before it."""
    same = np.ones(len(order), dtype=np.bool_)
    same[:1] = False
    for name in names:
        values = getattr(rows, name)[order]
        same[1:] &= values[1:] == values[:-1]
    return same


def _first(owner: Ints, row: Ints, count: int, *, by_row: bool = True) -> Ints:
    """Return each owner's first row, by number or else in the order given; -1 where it has none."""
    found = np.full(count, -1, dtype=np.int64)
    turn = np.argsort(-row, kind="stable") if by_row else np.arange(len(row))[::-1]
    found[owner[turn]] = row[turn]  # of several assignments to one place the last stands
    return found


def _prefixes(rows: Columns, order: Ints, trace: Ints) -> tuple[Ints, Ints]:
    tokens = rows.measures["reasoning_tokens"]
    chosen = (rows.kind[order] == TOKENS) & rows.coupled[order] & ~np.isnan(tokens[order])
    row, owner = order[chosen], trace[chosen]
    turn = np.lexsort([rows.value[row], tokens[row], owner])
    return row[turn], owner[turn]
