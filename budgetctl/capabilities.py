"""What a model can do about its thinking, behind which kind of endpoint.

The table is data (``capabilities.toml``): rows of model patterns and endpoint kinds, the first match wins,
and rows of a user's own file come before the shipped ones. A model that no row knows has no controls: its
calls pass through and are recorded.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from budgetctl.errors import ConfigError
from budgetctl.types import ModelFacts, Strength

Continuation = Literal["raw_completions", "chat", "reask"]
EndpointKind = Literal[
    "openai", "vllm", "sglang", "llama.cpp", "transformers-serve", "in-process", "openai-compatible"
]
ENDPOINTS: tuple[str, ...] = get_args(EndpointKind)
SHIPPED = Path(__file__).with_name("capabilities.toml")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _several(value: Any) -> Any:
    """A single one is a list of one."""
    return (value,) if isinstance(value, str) else value


class Cap(_Strict):
    """A cap on thinking tokens that the engine takes with the request.

    Attributes:
        parameters: Dotted paths in the request body that all get the number of tokens.
        strength: Who keeps it.
    """

    parameters: tuple[str, ...] = ()
    strength: Strength


class Switch(_Strict):
    """How thinking is switched off: dotted paths in the request body and their values."""

    parameters: dict[str, bool | str | int]
    strength: Strength


class Effort(_Strict):
    """Effort levels.

    Attributes:
        levels: What the model accepts, weakest first.
        default: What it uses when the call names none; None is unknown.
    """

    levels: tuple[str, ...] = Field(min_length=1)
    default: str | None = None
    strength: Strength = "advisory"


class Capability(_Strict):
    """One row: which controls these models have behind these endpoints, and how strong they are.

    Attributes:
        models: Patterns (``*``, ``?``, ``[]``; case does not matter), tried on the whole model name and
            on what follows its last slash.
        endpoints: Kinds of endpoint the row holds for.
        cap: The engine's own cap on thinking.
        off: How thinking is switched off.
        effort: Effort levels.
        live_end: The server ends a running thought on request, and the stream goes on with the answer. So
            does llama.cpp: ``reasoning_control`` in the call, then ``reasoning_end`` to
            ``/chat/completions/control``.
        continuation: How a thought that was cut can be brought to its answer, in the order in which it is
            tried: ``raw_completions`` sends the rendered prompt and the closed thought to ``/completions``,
            ``chat`` sends the closed thought as the assistant's turn that goes on, ``reask`` asks again with
            thinking off and the thought quoted, under budgets that are meant to cut ordinary thoughts.
        prompt_format: How a list of messages becomes such a prompt; None needs the caller's own renderer.
        open_text: What the model writes before its thinking.
        close_text: What ends a thinking that is cut: a transition, then the closing tag.
        open_tag: The tag before inline thinking.
        close_tag: The tag after it.
        starts_in_think: The chat template already opened the thinking.
        reasoning: Where thinking is seen: ``hidden``, in a ``field`` of its own, ``inline`` in the content;
            ``none`` where the model does not think.
        output_limit: Name of the output limit where the caller has set none.
        default_output_tokens: Output limit that the server applies when none is sent; None is none.
        reasoning_in_output: Reported output tokens include the thinking.
        stream_usage: How a stream reports usage: on request (``include_usage``), ``always``, ``never``.
        natural_p99: 99th percentile of the model's natural thinking, in tokens.
        answer_tokens: 95th percentile of its answers, in tokens.
        leak_ratio: Below this share of its natural length a cap makes thinking leak into the answer.
        verified_on: Day on which the row was last checked, ISO format.
        source: What it was checked against.
    """

    models: tuple[str, ...] = Field(min_length=1)
    endpoints: tuple[EndpointKind, ...] = Field(min_length=1)
    cap: Cap | None = None
    off: Switch | None = None
    effort: Effort | None = None
    live_end: bool = False
    continuation: Annotated[tuple[Continuation, ...], BeforeValidator(_several)] | None = Field(
        default=None, min_length=1
    )
    prompt_format: Literal["chatml"] | None = None
    open_text: str = "<think>\n"
    close_text: str = "\n\nTime to answer based on the reasoning so far.\n</think>\n\n"
    open_tag: str = "<think>"
    close_tag: str = "</think>"
    starts_in_think: bool = False
    reasoning: Literal["hidden", "field", "inline", "none"] = "field"
    output_limit: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    default_output_tokens: int | None = Field(default=None, gt=0)
    reasoning_in_output: bool = True
    stream_usage: Literal["include_usage", "always", "never"] = "include_usage"
    natural_p99: int | None = Field(default=None, gt=0)
    answer_tokens: int | None = Field(default=None, gt=0)
    leak_ratio: float | None = Field(default=None, gt=0, lt=1)
    verified_on: str | None = Field(default=None, pattern=r"^\d{4}-\d\d-\d\d$")
    source: str | None = None

    @property
    def known(self) -> bool:
        """Whether a row of the table stands behind this capability."""
        return self.source is not None

    @property
    def stoppable(self) -> bool:
        """Whether a running thought can be ended."""
        return self.live_end or self.continuation is not None

    def matches(self, model: str, endpoint: str) -> bool:
        """Whether this row speaks for ``model`` at a kind of ``endpoint``."""
        if endpoint not in self.endpoints:
            return False
        name = model.lower().rstrip("/")
        names = (name, name.rpartition("/")[2])
        return any(fnmatchcase(n, p.lower()) for p in self.models for n in names)

    def without(self, controls: frozenset[str]) -> Capability:
        """Return this capability less the controls that set one of the parameters named in ``controls``.

        Used where an endpoint turned out not to accept or not to keep them.
        """
        gone: dict[str, Any] = {}
        if self.cap is not None and controls.intersection(self.cap.parameters):
            gone["cap"] = None
        if self.off is not None and controls.intersection(self.off.parameters):
            gone["off"] = None
        if self.effort is not None and controls.intersection(("reasoning_effort", "reasoning.effort")):
            gone["effort"] = None
        if "reasoning_control" in controls:
            gone["live_end"] = False
        if "abort_continue" in controls or controls.intersection(self.continuation or ()):
            left = tuple(name for name in self.continuation or () if name not in controls)
            gone["continuation"] = None if "abort_continue" in controls else left or None
        return self.model_copy(update=gone) if gone else self

    def facts(self) -> ModelFacts:
        """Return what a policy may know."""
        return ModelFacts(
            can_switch_off=self.off is not None,
            can_cap=self.cap is not None or self.stoppable,
            efforts=self.effort.levels if self.effort is not None else (),
            natural_p99=self.natural_p99,
            answer_tokens=self.answer_tokens,
            leak_ratio=self.leak_ratio,
        )


UNKNOWN = Capability(models=("*",), endpoints=("openai-compatible",))
"""A model of which nothing is known: no controls."""


class _File(_Strict):
    version: str = ""
    row: tuple[Capability, ...] = ()


class Table:
    """The capability table.

    Attributes:
        version: Version of the shipped data; certificates bind it.
    """

    def __init__(self, rows: tuple[Capability, ...], *, version: str) -> None:
        self.rows = rows
        self.version = version

    @classmethod
    def load(cls, extra: str | Path | None = None) -> Table:
        """Read the shipped table and, before it, the rows of ``extra``.

        Raises:
            ConfigError: Names the file, row, key, the value seen and what is allowed.
        """
        shipped = _read(SHIPPED)
        own = _read(Path(extra)).row if extra is not None else ()
        return cls(own + shipped.row, version=shipped.version + ("+own" if own else ""))

    @cached_property
    def _found(self) -> dict[tuple[str, str], Capability]:
        return {}

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


def guess_endpoint(base_url: str | None) -> EndpointKind:
    """Return the kind of endpoint that ``base_url`` names; without a URL the SDK's own default, OpenAI."""
    if base_url is None:
        return "openai"
    host = urlsplit(base_url).hostname or ""
    return "openai" if host == "openai.com" or host.endswith(".openai.com") else "openai-compatible"


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
