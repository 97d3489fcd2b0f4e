"""What the readers of all sources share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from budgetctl.evals.cube import CubeBudget, CubeRow, lines
from pydantic import ValidationError
from pydantic_core import from_json

from budgetctl.errors import EvalError

Grade = Callable[[str, Mapping[str, Any]], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a log does not say.

    Attributes:
        dataset: Name of the dataset; None takes the log's own, else the file's name.
        model: Name of the model; None takes the log's own.
        budget: What the calls were allowed to think; None takes what the log says.
        scorer: Which of several scores of inspect_ai counts.
        metric: Which of several metrics of lm-eval counts.
        filter: Which of several answer filters of lm-eval counts.
        threshold: Score from which on an answer is right.
        grade: Judges answers, for logs of calls that do not say whether the answer was right.
    """

    dataset: str | None = None
    model: str | None = None
    budget: CubeBudget | None = None
    scorer: str | None = None
    metric: str | None = None
    filter: str | None = None
    threshold: float = 1.0
    grade: Grade | None = None


def records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the JSON objects of a file of lines, each with file and line."""
    for number, line in lines(path):
        if line.strip():
            where = f"{path}:{number}"
            yield where, record(line, where=where)


def record(text: bytes, *, where: str) -> dict[str, Any]:
    """Return the JSON object in a text."""
    try:
        found = from_json(text)
    except ValueError as error:
        raise EvalError(f"{where}: not a JSON object: {error}") from None
    if not isinstance(found, dict):
        raise EvalError(f"{where}: not a JSON object: a {type(found).__name__}")
    return found


def make(where: str, **fields: Any) -> CubeRow:
    """Return a row.

    Raises:
        EvalError: A field is not what it should be; the message begins with ``where``.
    """
    try:
        return CubeRow(**fields)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in fault["loc"])
        raise EvalError(f"{where}: {name}: {fault['msg']}, seen {str(fault['input'])[:60]!r}") from None


def chosen(options: Mapping[str, Any], wanted: str | None, *, what: str, where: str, flag: str) -> str:
    """Return the name of the only option, or of the wanted one.

    Raises:
        EvalError: There are several and none is named, or the named one is missing.
    """
    known = ", ".join(options) or "none"
    if wanted is not None:
        if wanted not in options:
            raise EvalError(f"{where}: no {what} {wanted!r}; there is {known}")
        return wanted
    if len(options) != 1:
        raise EvalError(f"{where}: one {what} is needed, and there is {known}; name it with {flag}")
    return next(iter(options))


def budget_of(effort: Any, tokens: Any) -> CubeBudget:
    """Return the recorded form of what a request said about thinking; natural where it said nothing."""
    if isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 0:
        return CubeBudget(kind="tokens", value=tokens) if tokens else CubeBudget(kind="off")
    if isinstance(effort, str):
        return CubeBudget(kind="off") if effort == "none" else CubeBudget(kind="effort", value=effort)
    return CubeBudget(kind="natural")
