"""Configuration: ``budgetctl.toml``, environment variables or a dict become one checked controller.

The environment wins over the file: ``BUDGETCTL_POLICY=off`` sets ``policy``, and
``BUDGETCTL_LIMITS__DEADLINE_S=5`` sets ``deadline_s`` of ``[limits]``.
Nothing else in the package reads configuration.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from budgetctl.controller import MIN_CONFIDENCE, Controller
from budgetctl.errors import ConfigError
from budgetctl.policy import parse
from budgetctl.types import Limits

PREFIX = "BUDGETCTL_"
# Variables that other parts of the package read: not settings.
NOT_SETTINGS = frozenset({"HOME", "DATA"})


class LimitSettings(BaseModel):
    """``[limits]``: what one call may spend."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    deadline_s: float | None = Field(default=None, gt=0)


class Settings(BaseModel):
    """Everything that can be configured; see :class:`~budgetctl.Controller` for the meanings.

    Attributes:
        sink: JSONL file that outcomes are appended to.
        store_text: Keep query texts in the sink. Off unless asked for.
        capabilities: TOML file whose rows win over the table that ships with the package.
        prices: TOML file whose rows win over the prices that ship with the package.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: str = "auto"
    classifier: str | None = "default"
    mode: Literal["enforce", "observe"] = "enforce"
    caller_values: Literal["pin", "ceiling"] = "pin"
    strict: bool = False
    min_confidence: float = Field(default=MIN_CONFIDENCE, ge=0, le=1)
    route: str | None = None
    sink: Path | None = None
    store_text: bool = False
    capabilities: Path | None = None
    prices: Path | None = None
    limits: LimitSettings = Field(default_factory=LimitSettings)

    @field_validator("policy")
    @classmethod
    def _parses(cls, value: str) -> str:
        parse(value)
        return value

    @classmethod
    def load(
        cls,
        source: str | Path | Mapping[str, Any] | None = None,
        *,
        env: Mapping[str, str] | None = None,
    ) -> Settings:
        """Read settings from a TOML file, a mapping, or nothing, and let the environment override them.

        Args:
            source: None reads ``budgetctl.toml`` of the working directory where there is one.
            env: The environment; None takes the process's.

        Raises:
            ConfigError: Names the file or variable, the key, the value seen and what is allowed.
        """
        values, where = _read(source)
        overrides = _from_env(os.environ if env is None else env)
        merged = {**values, **overrides}
        if isinstance(values.get("limits"), Mapping) and isinstance(overrides.get("limits"), Mapping):
            merged["limits"] = {**values["limits"], **overrides["limits"]}
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            raise ConfigError("\n".join(_explain(e, where, overrides) for e in error.errors())) from None

    def controller(self, **injected: Any) -> Controller:
        """Build the controller; keyword arguments replace what the settings say.

        Raises:
            ConfigError: A file that the settings name cannot be used.
        """
        from budgetctl.capabilities import Table
        from budgetctl.pricing import Prices
        from budgetctl.records import JsonlSink

        sinks = () if self.sink is None else (JsonlSink(self.sink, store_text=self.store_text),)
        arguments: dict[str, Any] = {
            "policy": self.policy,
            "classifier": self.classifier,
            "mode": self.mode,
            "caller_values": self.caller_values,
            "strict": self.strict,
            "min_confidence": self.min_confidence,
            "route": self.route,
            "limits": Limits(**self.limits.model_dump()),
            "capabilities": Table.load(self.capabilities),
            "prices": Prices.load(self.prices),
            "sinks": sinks,
        }
        return Controller(**(arguments | injected))


def _read(source: str | Path | Mapping[str, Any] | None) -> tuple[dict[str, Any], str]:
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


def _from_env(env: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in env.items():
        if not name.startswith(PREFIX) or name.removeprefix(PREFIX) in NOT_SETTINGS:
            continue
        table, _, key = name.removeprefix(PREFIX).lower().rpartition("__")
        (found.setdefault(table, {}) if table else found)[key] = value
    return found


def _explain(error: Any, where: str, overrides: Mapping[str, Any]) -> str:
    path = [str(part) for part in error["loc"]]
    key = ".".join(path)
    if path and path[0] in overrides:
        where = PREFIX + "__".join(path).upper()
    if error["type"] == "extra_forbidden":
        model = LimitSettings if path[:-1] == ["limits"] else Settings
        return f"{where}: unknown key {key!r}; allowed: {', '.join(model.model_fields)}"
    return f"{where}: {key}: seen {error['input']!r}: {error['msg']}"
