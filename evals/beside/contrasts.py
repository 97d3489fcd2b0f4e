"""Parts of a suite held against each other, pair by pair, and the tables that come of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from budgetctl.evals import stats
from budgetctl.evals.results import Floats, Result
from budgetctl.evals.verdict import share, span

NA = "n/a"

Labels = Mapping[str, str]
"""Question to the part of the suite that it belongs to."""
Value = Callable[[Result], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number with its interval at 95 %; None is not known."""

    value: float
    ci: stats.Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """The table of a suite.

    Attributes:
        title: What it is about.
        note: What a reader of it has to know.
        headings: Of its columns.
        lines: Its cells as text.
        rows: Its cells as plain JSON values.
    """

    title: str
    note: str
    headings: list[str]
    lines: list[list[str]]
    rows: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """Return the table as plain JSON values."""
        return asdict(self)


Column = tuple[str, str, Callable[[Any], str]]
"""Its key in rows, its heading, and how its values are written."""


def table(title: str, note: str, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> Beside:
    """Return the table of some rows, without columns in which nothing is known."""
    kept = [column for column in columns if any(row[column[0]] is not None for row in rows)]
    plain = [
        {key: asdict(cell) if isinstance(cell, Figure) else cell for key, cell in row.items()} for row in rows
    ]
    lines = [[NA if row[key] is None else write(row[key]) for key, _, write in kept] for row in rows]
    return Beside(title=title, note=note, headings=[c[1] for c in kept], lines=lines, rows=plain)


def units(results: Sequence[Result], part: str, *, labels: Labels, value: Value) -> dict[str, float]:
    """Return the mean of a value in each cluster of a part; NaN where it is unknown of any call."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for result in results:
        if labels[result.question_id] == part:
            measured = value(result)
            found[result.cluster or result.question_id].append(np.nan if measured is None else measured)
    return {cluster: float(np.mean(values)) for cluster, values in found.items()}


def mean(one: Mapping[str, float]) -> float | None:
    """Return the mean over clusters; None without any, or where one is unknown."""
    found = float(np.mean(list(one.values()))) if one else float("nan")
    return None if np.isnan(found) else found


def difference(
    one: Mapping[str, float], other: Mapping[str, float], *, rng: np.random.Generator
) -> Figure | None:
    """Return the mean of ``one - other`` over the clusters that both have (:func:`stats.paired_interval`)."""
    a, b = _paired(one, other)
    if not len(a) or np.isnan(a + b).any():
        return None
    drawn = stats.bootstrap_columns([a - b], rng=rng)[:, 0]
    point = float(np.mean(a - b))
    return Figure(value=point, ci=stats.paired_interval(drawn, point=point, n=len(a), rng=rng))


def ratio(one: Mapping[str, float], other: Mapping[str, float], *, rng: np.random.Generator) -> Figure | None:
    """Return ``sum(one) / sum(other)`` over the clusters that both have, with a paired bootstrap interval."""
    a, b = _paired(one, other)
    if not len(a) or np.isnan(a + b).any() or not b.sum():
        return None
    drawn = stats.bootstrap_columns([a, b], rng=rng)
    usable = bool(drawn[:, 1].all())
    return Figure(
        value=float(a.sum() / b.sum()),
        ci=stats.interval(drawn[:, 0] / drawn[:, 1]) if usable else None,
    )


def _paired(one: Mapping[str, float], other: Mapping[str, float]) -> tuple[Floats, Floats]:
    both = [cluster for cluster in one if cluster in other]
    return np.array([one[c] for c in both], dtype=float), np.array([other[c] for c in both], dtype=float)


def correct(result: Result) -> float:
    """Return 1 where a call was right."""
    return float(result.correct)


def thinking(result: Result) -> float | None:
    """Return the tokens of thinking, as far as they are known."""
    return None if result.reasoning_tokens is None else float(result.reasoning_tokens)


def percent(value: float) -> str:
    """Return a share as a percentage."""
    return share(value)


def count(value: float) -> str:
    """Return a number of tokens or calls."""
    return f"{value:,.0f}"


def points(figure: Figure) -> str:
    """Return a difference of shares in points, with its interval."""
    return f"{100 * figure.value:+.1f} ({span(figure.ci)})"


def times(figure: Figure) -> str:
    """Return a ratio with its interval."""
    bounds = "" if figure.ci is None else f" ({figure.ci[0]:.2f} to {figure.ci[1]:.2f})"
    return f"{figure.value:.2f}{bounds}"
