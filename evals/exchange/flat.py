"""Cubes as flat tables: CSV and Parquet, one column per field, nested fields by a dot or as JSON."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from budgetctl.evals.cube import CubeRow

COLUMNS: tuple[str, ...] = (
    "dataset",
    "question_id",
    "question",
    "reference_answer",
    "subject",
    "level",
    "model",
    "sample",
    "budget.kind",
    "budget.value",
    "reasoning_tokens",
    "output_tokens",
    "answer",
    "correct",
    "coupled",
    "ttfo_s",
    "e2e_s",
    "cost_usd",
    "signals",
    "cluster",
    "policy",
)
"""``policy`` is that of live runs. Columns of no one type are text: strings as they are, else JSON."""

_TYPES = {"sample": "int64", "reasoning_tokens": "int64", "output_tokens": "int64", "correct": "bool"} | {
    "coupled": "bool",
    "ttfo_s": "float64",
    "e2e_s": "float64",
    "cost_usd": "float64",
}
BATCH = 10_000


def flat(row: CubeRow) -> dict[str, Any]:
    """Return a row by column; None is unknown."""
    plain = {name: getattr(row, name, None) for name in COLUMNS}
    budget = row.budget
    plain["budget.kind"] = None if budget is None else budget.kind
    plain["budget.value"] = None if budget is None else budget.value
    plain["signals"] = row.signals or None
    plain["policy"] = (row.model_extra or {}).get("policy")
    return {name: value if name in _TYPES else _text(value) for name, value in plain.items()}


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def write_csv(path: Path, rows: Iterable[CubeRow]) -> int:
    """Write a CSV file, row by row; an empty cell is unknown. Returns how many rows there were."""
    count = 0
    with _replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow(flat(row))
            count += 1
    return count


def write_parquet(path: Path, rows: Iterable[CubeRow]) -> int:
    """Write a Parquet file in groups of 10,000 rows. Returns how many rows there were.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
    """
    import pyarrow
    import pyarrow.parquet

    types: dict[str, Any] = {"int64": pyarrow.int64(), "bool": pyarrow.bool_(), "float64": pyarrow.float64()}
    schema = pyarrow.schema([(name, types.get(_TYPES.get(name, ""), pyarrow.string())) for name in COLUMNS])
    count, iterator = 0, iter(rows)
    with _replacing(path) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
        while batch := [flat(row) for row in islice(iterator, BATCH)]:
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file that takes the place of ``path`` once all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


WRITERS: dict[str, Callable[[Path, Iterable[CubeRow]], int]] = {".csv": write_csv, ".parquet": write_parquet}
"""Ending of a file to what writes it."""
