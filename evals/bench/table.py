"""The comparison as text, readable as it stands and as Markdown, and as two files."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from budgetctl.evals.bench.compare import Table
from budgetctl.evals.bench.resample import Figure
from budgetctl.evals.bench.rows import Confident, Row

NA = "n/a"
TEXT, DATA = "table.md", "table.json"
RANKED = 2
"""Sources whose rank correlations have a column: those with the most questions; JSON has all."""

Column = tuple[str, Callable[[Row], str]]

NOTES = """\
need: AUROC and Brier score for "only thinking solves it": most models wrong without thinking, right with it.
rho: rank correlation with the observed length of thinking, inside one source. pinball: in log(1 + tokens).
p80, p90: share of tokens covered, with the model named / not named. lift: share of the oracle's lift over
blind spending that is realised, by switching thinking on and off, by caps on settled and on natural tokens.
abstains: share of questions with a confidence below the controller's threshold. us: median microseconds of
one prediction, on one thread.
In brackets 95 % intervals over questions; they take what was fitted as given, and another draw of training
questions would move it besides. n/a: not known, or not something that the row says."""


def render(tables: Sequence[Table], *, in_sample: Mapping[str, Sequence[str] | None]) -> str:
    """Return all tables as Markdown.

    Args:
        tables: What was compared.
        in_sample: Row to the datasets among those judged that its weights were made from; None is unknown.
    """
    sources = _largest(tables)
    parts = [_section(table, sources) for table in tables]
    warnings = [
        f"{name}: the weights do not say what they were made from."
        if seen is None
        else f"{name}: IN-SAMPLE, its weights were made from {', '.join(seen)}."
        for name, seen in in_sample.items()
        if seen is None or seen
    ]
    return "\n\n".join([*parts, "\n".join([*warnings, NOTES])]) + "\n"


def write(text: str, content: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Write :data:`TEXT` and :data:`DATA` into a folder, each whole or not at all; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"table": folder / TEXT, "json": folder / DATA}
    for path, data in ((paths["table"], text), (paths["json"], json.dumps(content, indent=2) + "\n")):
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(data, encoding="utf-8")
        os.replace(temporary, path)
    return paths


def _largest(tables: Sequence[Table]) -> list[str]:
    counts: Counter[str] = Counter()
    for table in tables:
        for row in table.rows[:1]:
            counts.update({source: figure.n for source, figure in row.spearman.items()})
    return [source for source, _ in counts.most_common(RANKED)]


def _section(table: Table, sources: Sequence[str]) -> str:
    heading = f"## {_title(table)}"
    parts = [heading, _figures(table.rows, sources), _abstention(table.rows), _stability(table.rows)]
    if table.curve:
        rows = [
            [f"{row.name}, {point.questions} questions", *_cells(row, sources)]
            for point in table.curve
            for row in point.rows
        ]
        parts += ["Learning curve, on the first part:", _grid(["trained on", *_headings(sources)], rows)]
    return "\n\n".join(part for part in parts if part)


def _title(table: Table) -> str:
    if table.split is None:
        return f"As they are: {table.questions} questions"
    what = {"random": "unseen questions", "tasks": "unseen task types", "models": "unseen models"}
    return (
        f"{table.split}: {table.questions} questions, {what[table.split]}, "
        f"{table.parts} part{'s' * (table.parts != 1)}, "
        f"fitted on {table.trained:.0f} questions on average"
    )


def _figures(rows: Sequence[Row], sources: Sequence[str]) -> str:
    return _grid(["", *_headings(sources)], [[row.name, *_cells(row, sources)] for row in rows])


def _headings(sources: Sequence[str]) -> list[str]:
    return [heading for heading, _ in _columns(sources)]


def _cells(row: Row, sources: Sequence[str]) -> list[str]:
    return [read(row) for _, read in _columns(sources)]


def _columns(sources: Sequence[str]) -> list[Column]:
    def rho(source: str) -> Column:
        return f"rho {source}", lambda row: _number(row.spearman.get(source))

    return [
        ("need AUROC", lambda row: _number(row.need_auc)),
        ("Brier", lambda row: _number(row.need_brier, ci=False)),
        *(rho(source) for source in sources),
        ("pinball", lambda row: _number(row.pinball.get("mean"), ci=False)),
        ("p80 named/not", lambda row: _covered(row, "p80")),
        ("p90 named/not", lambda row: _covered(row, "p90")),
        *(_lift_column(what) for what in ("switch", "settled", "natural")),
        ("abstains", lambda row: _number(row.abstained, ci=False)),
        ("us", lambda row: NA if row.us_per_query.value is None else f"{row.us_per_query.value:.0f}"),
    ]


def _lift_column(what: str) -> Column:
    return f"lift {what}", lambda row: _number(row.lift.get(what))


def _covered(row: Row, quantile: str) -> str:
    named, unnamed = (row.coverage.get(model, {}).get(quantile) for model in ("named", "unnamed"))
    return NA if named is None else f"{_number(named)} / {_number(unnamed, ci=False)}"


def _abstention(rows: Sequence[Row]) -> str:
    """Return the figures on the most confident questions; the heuristic, always as sure, has no such."""
    shown = [row for row in rows if len({point.kept for point in row.abstention}) > 1]
    if not shown:
        return ""
    shares = [f"{100 * point.share:.0f} %" for point in shown[0].abstention]
    lines = [
        [f"{row.name}, {what}", *(_number(read(point), ci=False) for point in row.abstention)]
        for row in shown
        for what, read in _CONFIDENT
    ]
    return f"On the most confident questions:\n\n{_grid(['', *shares], lines)}"


_CONFIDENT: tuple[tuple[str, Callable[[Confident], Figure | None]], ...] = (
    ("need AUROC", lambda point: point.need_auc),
    ("Brier", lambda point: point.need_brier),
    ("p90 named", lambda point: point.p90),
    ("lift switch", lambda point: point.lift.get("switch")),
    ("lift natural", lambda point: point.lift.get("natural")),
)


def _stability(rows: Sequence[Row]) -> str:
    """Return how often the action stays the same when a prompt is edited."""
    shown = [row for row in rows if row.stable]
    if not shown:
        return ""
    lines = [[row.name, *(_number(figure) for figure in row.stable.values())] for row in shown]
    return f"The same action after an edit:\n\n{_grid(['', *shown[0].stable], lines)}"


def _number(figure: Figure | None, *, ci: bool = True) -> str:
    if figure is None or figure.value is None:
        return NA
    ends = f" [{_short(figure.ci[0])}, {_short(figure.ci[1])}]" if ci and figure.ci is not None else ""
    return f"{_short(figure.value)}{ends}"


def _short(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def _grid(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns are also aligned as plain text."""
    widths = [max(len(line[i]) for line in [headings, *rows]) for i in range(len(headings))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        for line in [headings, rule, *rows]
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
