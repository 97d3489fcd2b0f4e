"""Where settings come from, and how a mistake in them is told."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from budgetctl.config.resolving import Problems
from budgetctl.errors import ConfigError
from budgetctl.names import close_to

PREFIX = "BUDGETCTL_"
# Variables that other parts of the package read: not settings.
NOT_SETTINGS = frozenset({"HOME", "DATA"})


def read(source: str | Path | Mapping[str, Any] | None) -> tuple[dict[str, Any], str]:
    """Return the values of a file or mapping, and what to call it in errors.

    Raises:
        ConfigError: The file cannot be read, or is not TOML.
    """
    if isinstance(source, Mapping):
        return dict(source), "the configuration"
    path = Path("budgetctl.toml") if source is None else Path(source)
    if source is None and not path.exists():
        return {}, "the configuration"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")), str(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def from_env(env: Mapping[str, str]) -> dict[str, Any]:
    """Return what the environment says, in tables: ``BUDGETCTL_LIMITS__DEADLINE_S`` is in ``limits``.

    Raises:
        ConfigError: A variable stands for a table of which another one sets a key.
    """
    found: dict[str, Any] = {}
    for name in sorted(env):
        if not name.startswith(PREFIX) or name.removeprefix(PREFIX) in NOT_SETTINGS:
            continue
        *tables, key = name.removeprefix(PREFIX).lower().split("__")
        if tables == ["models"]:  # the model alone, as in BUDGETCTL_MODELS__FAST
            tables, key = ["models", key], "model"
        inside = found
        for table in tables:
            inside = inside.setdefault(table, {})
            if not isinstance(inside, dict):
                raise ConfigError(
                    f"{name}: seen beside {PREFIX}{'__'.join(tables).upper()}; allowed: one of them"
                )
        inside[key] = env[name]
    return found


def merged(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` with ``overrides`` in them, key by key."""
    models = values.get("models")
    if isinstance(models, Mapping):
        models = {name: {"model": m} if isinstance(m, str) else m for name, m in models.items()}
        values = {**values, "models": models}
    return _merged(values, overrides)


def _merged(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(values)
    for variable, value in overrides.items():
        key = next((key for key in values if _variable(key) == variable), variable)
        below = result.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            result[key] = _merged(below, value)
        else:
            result[key] = value
    return result


def _variable(key: str) -> str:
    """Return how a key is written in a variable, in lower case."""
    return key.lower().replace("-", "_")


def explain(error: Any, settings: type[BaseModel], where: str, overrides: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong: the file or variable, the key, what was seen and what is allowed."""
    cause = (error.get("ctx") or {}).get("error")
    if isinstance(cause, Problems):
        for keys, seen, message in cause.problems:
            yield f"{_source(keys, where, overrides)}: {'.'.join(keys)}: seen {seen!r}: {message}"
        return
    path = [str(part) for part in error["loc"]]
    source, key = _source(path, where, overrides), ".".join(path)
    if error["type"] == "extra_forbidden":
        known = _section(settings, path[:-1]).model_fields
        near = close_to(path[-1], known)
        yield f"{source}: unknown key {key!r} = {error['input']!r}{near}; allowed: {', '.join(known)}"
    elif error["type"] == "missing":
        yield f"{_source(path[:-1], where, overrides)}: key {key!r} is missing"
    elif error["type"] in ("dict_type", "model_type"):
        yield f"{source}: {key}: seen {error['input']!r}: Input should be a table"
    else:
        yield f"{source}: {key}: seen {error['input']!r}: {error['msg'].removeprefix('Value error, ')}"


def _source(path: Sequence[str], where: str, overrides: Mapping[str, Any]) -> str:
    """Name the variable that said it, else the file."""
    names = [_variable(part) for part in path]
    inside: Any = overrides
    for name in names:
        if not isinstance(inside, Mapping) or name not in inside:
            return where
        inside = inside[name]
    return PREFIX + "__".join(names).upper()


def _section(settings: type[BaseModel], path: Sequence[str]) -> type[BaseModel]:
    """Return the schema of the table at ``path``."""
    kind: Any = settings
    for part in path:
        is_section = isinstance(kind, type) and issubclass(kind, BaseModel)
        kind = kind.model_fields[part].annotation if is_section else _item(kind)
    section: type[BaseModel] = kind
    return section


def _item(kind: Any) -> Any:
    """Return the type of the values of a mapping, or of the items of a sequence."""
    return next(inner for inner in reversed(get_args(kind)) if inner is not Ellipsis)
