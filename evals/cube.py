"""Cubes: recorded results, one row per question x model x budget x sample, as JSON lines.

Files may be plain or gzipped; which one is read off the first bytes, not off the name. A row without
``schema_version`` is of version 1. Readers keep fields that they do not know, writers refuse them.
"""

from __future__ import annotations

import gzip
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Annotated, Any, Literal, Self, TypeVar, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    field_validator,
    model_validator,
)

from budgetctl.errors import EvalError
from budgetctl.types import Budget

SCHEMA_MAJOR = 1

Tokens = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Kind = Literal["natural", "off", "tokens", "effort"]


class CubeBudget(BaseModel):
    """What a recorded call was allowed to think."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: Kind
    value: int | str | None = None

    @model_validator(mode="after")
    def _value_fits(self) -> Self:
        if self.kind == "tokens" and not (isinstance(self.value, int) and self.value >= 0):
            raise ValueError("a budget of kind tokens has a whole number from 0")
        if self.kind == "effort" and not isinstance(self.value, str):
            raise ValueError("a budget of kind effort has the name of a level")
        return self

    @classmethod
    def of(cls, budget: Budget) -> CubeBudget:
        """Return the recorded form of a live budget: its cap, else its effort, else natural."""
        if budget.reasoning_tokens is not None:
            return cls(kind="off" if budget.off else "tokens", value=budget.reasoning_tokens or None)
        return cls(kind="effort", value=budget.effort) if budget.effort else cls(kind="natural")


class CubeRow(BaseModel):
    """One recorded call. ``None`` is unknown, never zero.

    Attributes:
        question_id: Unique within ``dataset``.
        sample: Number of the run, for several runs of one question.
        budget: What was asked for; None where the source does not say.
        reasoning_tokens: Tokens of thinking that were spent.
        output_tokens: All tokens that were generated, thinking included.
        coupled: The thinking is a prefix of the natural trace of the same question and sample.
        signals: Whatever else the source recorded.
        cluster: Questions that stand or fall together (a template, a passage, a user).
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    dataset: str
    question_id: str
    question: str | None = None
    reference_answer: Any = None
    subject: str | None = None
    level: int | float | str | None = None
    model: str
    sample: Annotated[int, Field(ge=0)] = 0
    budget: CubeBudget | None = None
    reasoning_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    answer: Any = None
    correct: StrictBool
    coupled: StrictBool = False
    ttfo_s: Seconds | None = None
    e2e_s: Seconds | None = None
    cost_usd: Seconds | None = None
    signals: dict[str, Any] = Field(default_factory=dict)
    cluster: str | None = None

    @property
    def question_key(self) -> str:
        """The question's name across datasets."""
        return f"{self.dataset}/{self.question_id}"

    @field_validator("correct", mode="before")
    @classmethod
    def _zero_or_one(cls, value: Any) -> Any:
        return bool(value) if isinstance(value, int | float) and value in (0, 1) else value

    @field_validator("cluster", "question_id", mode="before")
    @classmethod
    def _number_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Row = TypeVar("Row", bound=CubeRow)


def parse_row(
    line: str | bytes,
    *,
    where: str,
    model: type[Row] = CubeRow,  # type: ignore[assignment]  # a type variable takes no default for its bound
) -> Row:
    """Return the row that one JSON line holds.

    Raises:
        EvalError: The line is no row; the message begins with ``where`` and says what is wrong.
    """
    try:
        row = model.model_validate_json(line)
    except ValidationError as error:
        raise EvalError(f"{where}: {_first_fault(error)}") from None
    version = str((row.model_extra or {}).get("schema_version", SCHEMA_MAJOR))
    if version.split(".")[0] != str(SCHEMA_MAJOR):
        raise EvalError(
            f"{where}: schema_version {version} cannot be read here; this version reads {SCHEMA_MAJOR}.x"
        )
    return row


def _first_fault(error: ValidationError) -> str:
    faults = error.errors(include_url=False)
    fault = faults[0]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    field = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "json_invalid":
        return f"not a JSON object: {fault['ctx']['error'] if 'ctx' in fault else fault['msg']}{more}"
    seen = "" if fault["type"] == "missing" else f", seen {_short(fault['input'])}"
    return f"{field or 'row'}: {fault['msg']}{seen}{more}"


def _short(value: Any, *, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def iterate(path: str | os.PathLike[str]) -> Iterator[CubeRow]:
    """Yield the rows of one cube file, without holding it in memory. Blank lines are skipped.

    Raises:
        EvalError: The file cannot be read, or a line is no row. The message names file and line.
    """
    for number, line in lines(Path(path)):
        if line.strip():
            yield parse_row(line.rstrip(b"\r\n"), where=f"{path}:{number}")


def load(*paths: str | os.PathLike[str]) -> list[CubeRow]:
    """Return the rows of one or more cube files.

    Raises:
        EvalError: As :func:`iterate`, and when a file holds no row at all.
    """
    rows: list[CubeRow] = []
    for path in paths:
        before = len(rows)
        rows.extend(iterate(path))
        if len(rows) == before:
            raise EvalError(f"{path}: the file holds no rows")
    return rows


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a cube file with their numbers, plain or gzipped.

    Raises:
        EvalError: The file cannot be read.
    """
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                yield number, line
    except FileNotFoundError:
        raise EvalError(f"{path}: there is no such file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise EvalError(f"{path}:{number + 1}: the gzip data is damaged or cut off ({error})") from None
    except OSError as error:
        raise EvalError(f"{path}: cannot be read ({error.strerror or error})") from None


def _open(path: Path) -> IO[bytes]:
    file = path.open("rb")
    zipped = file.peek(2)[:2] == b"\x1f\x8b"
    file.close()
    return cast(IO[bytes], gzip.open(path, "rb")) if zipped else path.open("rb")


def dump(row: CubeRow) -> str:
    """Return the JSON line of a row, without its newline.

    Raises:
        EvalError: The row has fields that the schema does not know.
    """
    unknown = [*(row.model_extra or {}), *((row.budget and row.budget.model_extra) or {})]
    if unknown:
        raise EvalError(f"{row.question_key}: unknown fields cannot be written: {', '.join(unknown)}")
    return row.model_dump_json()


def write(path: str | os.PathLike[str], rows: Iterable[CubeRow]) -> int:
    """Write a cube in one step: readers see the old file or the whole new one. ``.gz`` is compressed.

    Returns:
        How many rows were written.

    Raises:
        EvalError: A row has fields that the schema does not know; the old file stays.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    count = 0
    try:
        with os.fdopen(handle, "wb") as raw:
            # No time stamp and no file name inside: the same rows give the same bytes.
            packed = (
                gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0)
                if target.suffix == ".gz"
                else None
            )
            sink = cast(IO[bytes], packed or raw)
            for row in rows:
                sink.write(dump(row).encode() + b"\n")
                count += 1
            if packed is not None:
                packed.close()
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return count
