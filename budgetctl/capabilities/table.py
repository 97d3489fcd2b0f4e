"""The capability table: reading it, and finding the row of a model."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from budgetctl.capabilities.endpoints import ENDPOINTS
from budgetctl.capabilities.row import UNKNOWN, Bounds, Cap, Capability, Effort, Strict, Switch
from budgetctl.errors import ConfigError

SHIPPED = Path(__file__).parents[1] / "capabilities.toml"


class _File(Strict):
    version: str = ""
    effort_below: Bounds = Field(default_factory=dict)
    row: tuple[Capability, ...] = ()


class Table:
    """The capability table.

    Attributes:
        version: Version of the shipped data; certificates bind it.
    """

    def __init__(self, rows: tuple[Capability, ...], *, version: str) -> None:
        self.rows = rows
        self.version = version
        self._found: dict[tuple[str, str], Capability] = {}

    @classmethod
    def load(cls, extra: str | Path | None = None) -> Table:
        """Read the shipped table and, before it, the rows of ``extra``.

        Raises:
            ConfigError: Names the file, row, key, the value seen and what is allowed.
        """
        shipped = _read(SHIPPED)
        own = _read(Path(extra)) if extra is not None else _File()
        below = own.effort_below or shipped.effort_below
        rows = tuple(_with_bounds(row, below) for row in own.row + shipped.row)
        return cls(rows, version=shipped.version + ("+own" if own != _File() else ""))

    def lookup(self, model: str | None, endpoint: str) -> Capability:
        """Return the first row for ``model`` at ``endpoint``, or one without controls.

        Raises:
            ConfigError: There is no such kind of endpoint.
        """
        if endpoint not in ENDPOINTS:
            raise ConfigError(f"endpoint: seen {endpoint!r}, allowed: {', '.join(ENDPOINTS)}")
        if not model:
            return UNKNOWN
        key = (model, endpoint)
        if key not in self._found:
            self._found[key] = next((r for r in self.rows if r.matches(model, endpoint)), UNKNOWN)
        return self._found[key]


def _with_bounds(row: Capability, below: dict[str, int]) -> Capability:
    if row.effort is None or row.effort.below:
        return row
    return row.model_copy(update={"effort": row.effort.model_copy(update={"below": below})})


def _read(path: Path) -> _File:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    try:
        return _File.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(path, e) for e in error.errors())) from None


def _explain(path: Path, error: Mapping[str, Any]) -> str:
    location = list(error["loc"])
    where = str(path)
    fields: Mapping[str, Any] = _File.model_fields
    if location[0] == "row" and len(location) > 1:
        where += f": row {location[1] + 1}"
        location, fields = location[2:], Capability.model_fields
    key = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        parts: Mapping[str, type[BaseModel]] = {"cap": Cap, "off": Switch, "effort": Effort}
        nested = parts.get(str(location[0]))
        if len(location) > 1 and nested is not None:
            fields = nested.model_fields
        return f"{where}: unknown key {key!r} = {error['input']!r}; allowed: {', '.join(fields)}"
    if error["type"] == "missing":
        return f"{where}: key {key!r} is missing"
    allowed = (error.get("ctx") or {}).get("expected") or error["msg"]
    return f"{where}: key {key!r}: seen {error['input']!r}, allowed: {allowed}"
