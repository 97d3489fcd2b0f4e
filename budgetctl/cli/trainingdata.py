"""Reads what ``budgetctl train`` is given: recordings and outcome logs, told apart by their rows."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetctl import records
from budgetctl.cli.inputs import recording
from budgetctl.errors import ConfigError
from budgetctl.outcomes import Feedback, Outcome

if TYPE_CHECKING:
    from budgetctl.classifiers.outcomes import Log
    from budgetctl.classifiers.targets import Example


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Examples, and what became of the rows that they are from.

    Attributes:
        recorded: How many examples are from recordings.
        log: What the outcome logs teach; None where there is none.
        unreadable: Lines of logs that were no rows.
        unmatched: Feedback on calls that are not in the logs.
    """

    examples: list[Example]
    recorded: int
    log: Log | None
    unreadable: int
    unmatched: int

    def summary(self) -> dict[str, Any]:
        """Return how many rows there were, how many are used, and why the others are not."""
        weights = [e.weight for e in self.examples]
        found: dict[str, Any] = {
            "recorded_examples": self.recorded,
            "effective_examples": _effective(weights),
        }
        if self.log is not None:
            found |= {
                "log_rows": self.log.rows,
                "log_used": len(self.log.examples),
                "left_out": dict(self.log.left_out),
                "unreadable_lines": self.unreadable,
                "feedback_without_its_call": self.unmatched,
                "unknown_probability": self.log.unknown_probability,
                "clipped_weights": self.log.clipped,
            }
        return found


def _effective(weights: Sequence[float]) -> float:
    """Return how many equal examples weighted ones are worth (Kish 1965)."""
    return round(sum(weights) ** 2 / sum(w * w for w in weights), 1) if weights else 0.0


@dataclass(slots=True)
class _Rows:
    outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)
    feedback: dict[str, tuple[datetime, float]] = field(default_factory=dict)
    unreadable: int = 0


def read(names: Sequence[str]) -> Data:
    """Read recordings and outcome logs, plain or gzipped. A call's last feedback counts.

    Raises:
        ConfigError: A file cannot be read, or is neither; names file and line.
        ClassifierError: A recording is damaged; names file and line.
    """
    from budgetctl.classifiers import outcomes, targets

    cubes, rows, logs = [], _Rows(), 0
    for path in map(recording, names):
        if is_cube(path):
            cubes.append(path)
        else:
            logs += 1
            _read_log(path, rows)
    recorded = targets.read(cubes) if cubes else []
    right = {name: value for name, (_, value) in rows.feedback.items()}
    log = outcomes.learn([*rows.outcomes.values()], right) if logs else None
    return Data(
        examples=recorded + (log.examples if log is not None else []),
        recorded=len(recorded),
        log=log,
        unreadable=rows.unreadable,
        unmatched=len(right.keys() - rows.outcomes.keys()),
    )


def is_cube(path: Path) -> bool:
    """Whether the first row is one of a recording."""
    from budgetctl.classifiers.targets import REQUIRED

    _, line = next(_lines(path), (0, b""))
    try:
        row = json.loads(line)
    except ValueError:
        return False
    return isinstance(row, dict) and set(REQUIRED) <= set(row)


def _read_log(path: Path, rows: _Rows) -> None:
    """Add the rows of a log; lines that are none, as a killed writer leaves them, are counted and told."""
    found, first = 0, "the file holds no rows"
    before = rows.unreadable
    for number, line in _lines(path):
        try:
            row = records.parse(line)
        except ConfigError as error:
            raise ConfigError(f"{path}:{number}: {error}") from None
        except ValueError as error:
            if rows.unreadable == before:
                first = f"line {number}: {str(error).splitlines()[0]}"
            rows.unreadable += 1
        else:
            found += 1
            _add(row, rows)
    if not found:
        raise ConfigError(f"{path}: neither a recording nor an outcome log with its feedback rows; {first}")
    if rows.unreadable > before:
        print(
            f"{path}: passed over {rows.unreadable - before} lines that are no rows; {first}", file=sys.stderr
        )


def _add(row: Outcome | Feedback, rows: _Rows) -> None:
    if isinstance(row, Outcome):
        plain = row.model_dump()
        if "action_probability" not in row.model_fields_set:
            plain["action_probability"] = None
        rows.outcomes[row.id] = plain
    elif row.id not in rows.feedback or row.time >= rows.feedback[row.id][0]:
        right = row.score if row.correct is None else float(row.correct)
        if right is not None:
            rows.feedback[row.id] = row.time, right


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, with their numbers.

    Raises:
        ConfigError: The file cannot be read.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
