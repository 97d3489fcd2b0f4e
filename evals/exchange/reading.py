"""Reads a log of any known source, told apart by its content, and counts what is no row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from budgetctl.evals.cube import CubeRow, lines
from budgetctl.evals.exchange import calls, inspect_logs, lm_eval, outcomes
from budgetctl.evals.exchange.common import Defaults, record

from budgetctl.errors import EvalError

Reader = Callable[[Path, Defaults, Counter[str]], Iterator[CubeRow]]
SOURCES: Mapping[str, Reader] = {
    "inspect": inspect_logs.read,
    "lm-eval": lm_eval.read,
    "calls": calls.read,
    "outcomes": outcomes.read,
}
"""Name of a source to what reads a file of it, and counts by reason what it leaves out."""


@dataclass(slots=True)
class Imported:
    """Rows out of logs, made one at a time.

    Attributes:
        rows: The rows.
        left_out: Reason to how many records are no row; complete once the rows have been read.
    """

    rows: Iterator[CubeRow]
    left_out: Counter[str] = field(default_factory=Counter)


def read(paths: Iterable[Path], *, source: str | None = None, defaults: Defaults | None = None) -> Imported:
    """Return the rows of log files.

    Args:
        paths: Files; folders of inspect_ai logs too.
        source: One of ``SOURCES``; None tells it from each file.
        defaults: What the logs do not say.

    Raises:
        EvalError: While iterating: a file cannot be read, or a record is not what its source writes.
    """
    if source is not None and source not in SOURCES:
        raise EvalError(f"source {source!r}: allowed are {', '.join(SOURCES)}")
    imported = Imported(iter(()))
    imported.rows = _rows(list(paths), source, defaults or Defaults(), imported.left_out)
    return imported


def _rows(
    paths: list[Path], source: str | None, defaults: Defaults, left_out: Counter[str]
) -> Iterator[CubeRow]:
    for path in paths:
        yield from SOURCES[source or tell(path)](path, defaults, left_out)


def tell(path: Path) -> str:
    """Return the source that a file is from.

    Raises:
        EvalError: It cannot be told.
    """
    if path.is_dir() or path.suffix in (".eval", ".json"):
        return "inspect"
    number, first = next(((n, line) for n, line in lines(path) if line.strip()), (1, b"{}"))
    row = record(first, where=f"{path}:{number}")
    if "doc_id" in row and "doc" in row:
        return "lm-eval"
    if "policy_hash" in row and "schema_version" in row:
        return "outcomes"
    if {"request", "response", "choices", "messages", "output"} & set(row):
        return "calls"
    fields = ", ".join(sorted(row)[:8])
    raise EvalError(f"{path}: its first line, with the fields {fields}, is of no known source; name one")
