"""Merging cubes and checking them, row by row: what was seen is kept in a file, not in memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from budgetctl.evals.cube import CubeRow, lines, parse_row

from budgetctl.errors import EvalError

NAMED_FAULTS = 20


@dataclass(slots=True, kw_only=True)
class Tally:
    """What was found while cubes were read.

    Attributes:
        rows: Rows that are kept: each once.
        repeated: Rows that are, field for field, what an earlier one is.
        counts: Field to how many rows have each of its values, of dataset, model and budget kind.
        faults: What is wrong, with file and line; the first 20.
        faulty: How many lines are.
    """

    rows: int = 0
    repeated: int = 0
    counts: dict[str, Counter[str]] = field(
        default_factory=lambda: {name: Counter() for name in ("dataset", "model", "budget")}
    )
    faults: list[str] = field(default_factory=list)
    faulty: int = 0


def identity(row: CubeRow) -> tuple[Any, ...]:
    """Return what no two rows of a cube have in common: the same call under the same budget (and policy)."""
    budget = None if row.budget is None else (row.budget.kind, row.budget.value)
    policy = (row.model_extra or {}).get("policy")
    return (row.dataset, row.question_id, row.model, row.sample, budget, row.coupled, policy)


def merged(paths: Iterable[str | os.PathLike[str]], tally: Tally) -> Iterator[CubeRow]:
    """Yield the rows of several cubes, each once, in their order.

    Raises:
        EvalError: A line is no row, or two rows record the same call and differ; names both places.
    """
    with _seen() as seen:
        for path in paths:
            for number, line in lines(Path(path)):
                if line.strip():
                    where = f"{path}:{number}"
                    row: CubeRow = parse_row(line.rstrip(b"\r\n"), where=where)
                    if _is_new(seen, row, where=where, tally=tally):
                        yield row


def check(paths: Iterable[str | os.PathLike[str]]) -> Tally:
    """Read cubes to the end and tell everything that is wrong with them."""
    tally = Tally()
    with _seen() as seen:
        for path in paths:
            for where, line in _numbered(path, tally):
                try:
                    row: CubeRow = parse_row(line.rstrip(b"\r\n"), where=where)
                    _is_new(seen, row, where=where, tally=tally)
                except EvalError as error:
                    _fault(tally, error)
    return tally


def _numbered(path: str | os.PathLike[str], tally: Tally) -> Iterator[tuple[str, bytes]]:
    try:
        for number, line in lines(Path(path)):
            if line.strip():
                yield f"{path}:{number}", line
    except EvalError as error:
        _fault(tally, error)


def _fault(tally: Tally, error: EvalError) -> None:
    tally.faulty += 1
    if len(tally.faults) < NAMED_FAULTS:
        tally.faults.append(str(error))


def _is_new(seen: sqlite3.Connection, row: CubeRow, *, where: str, tally: Tally) -> bool:
    key, content = _digest(repr(identity(row))), _digest(row.model_dump_json())
    try:
        seen.execute("INSERT INTO rows VALUES (?, ?, ?)", (key, content, where))
    except sqlite3.IntegrityError:
        before, place = seen.execute("SELECT content, place FROM rows WHERE key = ?", (key,)).fetchone()
        if before != content:
            raise EvalError(
                f"{where}: {row.question_key}, model {row.model!r}, sample {row.sample}: "
                f"differs from {place}, which records the same call under the same budget"
            ) from None
        tally.repeated += 1
        return False
    tally.rows += 1
    tally.counts["dataset"][row.dataset] += 1
    tally.counts["model"][row.model] += 1
    tally.counts["budget"]["unknown" if row.budget is None else row.budget.kind] += 1
    return True


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


@contextlib.contextmanager
def _seen() -> Iterator[sqlite3.Connection]:
    with tempfile.TemporaryDirectory(prefix="budgetctl-") as folder:
        connection = sqlite3.connect(Path(folder) / "seen.sqlite", isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("CREATE TABLE rows (key BLOB PRIMARY KEY, content, place) WITHOUT ROWID")
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.close()
