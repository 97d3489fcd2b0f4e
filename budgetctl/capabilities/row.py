"""One row of the capability table: the controls that models have behind kinds of endpoint."""

from __future__ import annotations

from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from budgetctl.capabilities.endpoints import EndpointKind
from budgetctl.types import EFFORTS, ModelFacts, Strength

Continuation = Literal["raw_completions", "chat", "reask"]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _several(value: Any) -> Any:
    """A single one is a list of one."""
    return (value,) if isinstance(value, str) else value


def _ascending(bounds: dict[str, int]) -> dict[str, int]:
    order = [level for level in EFFORTS[1:] if level in bounds]
    if set(order) != set(bounds) or any(bounds[a] >= bounds[b] for a, b in pairwise(order)):
        raise ValueError(f"levels of {', '.join(EFFORTS[1:])} with rising numbers of tokens")
    return {level: bounds[level] for level in order}


Bounds = Annotated[dict[str, Annotated[int, Field(gt=0)]], AfterValidator(_ascending)]


class Cap(Strict):
    """A cap on thinking tokens that the engine takes with the request.

    Attributes:
        parameters: Dotted paths in the request body that all get the number of tokens.
        strength: Who keeps it.
        minimum: Smallest number that is taken; a smaller cap is sent as this, and said to be.
        maximum: Largest number that is taken; a larger cap is sent as this.
        within_limit: The number must be below the output limit, which counts thinking, too.
        also: Constants that must go with the number; written only where thinking is on already.
        unless: Dotted paths that the number cannot go with: where a call has one of them, it is not sent.
    """

    parameters: tuple[str, ...] = ()
    strength: Strength
    minimum: int | None = Field(default=None, gt=0)
    maximum: int | None = Field(default=None, gt=0)
    within_limit: bool = False
    also: dict[str, bool | str | int] = {}
    unless: tuple[str, ...] = ()


class Switch(Strict):
    """How thinking is switched off: dotted paths in the request body and their values."""

    parameters: dict[str, bool | str | int]
    strength: Strength


class Effort(Strict):
    """Effort levels.

    Attributes:
        levels: What the model accepts, weakest first.
        default: What it uses when the call names none; None is unknown.
        parameter: Dotted path in the request body; None is the dialect's own.
        below: Levels and the tokens below which a cap comes nearest to them, weakest first; empty in a row
            stands for the table's own ``[effort_below]``.
    """

    levels: tuple[str, ...] = Field(min_length=1)
    default: str | None = None
    strength: Strength = "advisory"
    parameter: str | None = None
    below: Bounds = {}

    def nearest(self, level: str) -> str | None:
        """Return the strongest level the model has that is not above ``level``, else its weakest.

        The order is that of ``EFFORTS``. ``none`` is a switch: nothing is rounded to it or from it. None is
        for what cannot be rounded.
        """
        if level in self.levels:
            return level
        graded = [one for one in self.levels if one in EFFORTS and one != "none"]
        if level not in EFFORTS or level == "none" or not graded:
            return None
        weaker = [one for one in graded if EFFORTS.index(one) < EFFORTS.index(level)]
        return weaker[-1] if weaker else graded[0]

    def for_cap(self, tokens: int) -> str | None:
        """Return the level that comes nearest to a cap; None where that is no level of the table's."""
        wanted = next((level for level, bound in self.below.items() if tokens < bound), None)
        return None if wanted is None else self.nearest(wanted)


class Capability(Strict):
    """One row: which controls these models have behind these endpoints, and how strong they are.

    Attributes:
        models: Patterns (``*``, ``?``, ``[]``; case does not matter), tried on the whole model name and
            on what follows its last slash.
        endpoints: Kinds of endpoint the row holds for.
        cap: The engine's own cap on thinking.
        off: How thinking is switched off.
        effort: Effort levels.
        thinks_by_default: The model thinks when a call says nothing about it. Where it does not, nothing that
            could switch it on is written; None is unknown and taken for yes.
        breaks_cache: A conversation loses its prompt cache when its calls differ in what they say about
            thinking.
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
        overlooks_close: The server may generate on when a stream is closed. A call whose cap is kept by
            closing it then carries an output limit as well, where ``answer_tokens`` and
            ``default_output_tokens`` are known.
        default_output_tokens: Output limit that the server applies when none is sent; None is none.
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
    thinks_by_default: bool | None = None
    breaks_cache: bool = False
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
    overlooks_close: bool = False
    default_output_tokens: int | None = Field(default=None, gt=0)
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
    def silent(self) -> bool:
        """Whether the model does not think unless a call asks it to."""
        by_level = self.effort is not None and self.effort.default == "none"
        return self.thinks_by_default is False or by_level

    @property
    def stoppable(self) -> bool:
        """Whether a running thought can be ended."""
        return self.live_end or self.continuation is not None

    @property
    def recalls(self) -> bool:
        """Whether a running thought can only be ended by another request, which writes the answer."""
        return self.continuation is not None and not self.live_end

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
        if self.cap is not None and controls.intersection((*self.cap.parameters, *self.cap.also)):
            gone["cap"] = None
        if self.off is not None and controls.intersection(self.off.parameters):
            gone["off"] = None
        levels = ("reasoning_effort", "reasoning.effort")
        if self.effort is not None and controls.intersection((*levels, self.effort.parameter)):
            gone["effort"] = None
        if "reasoning_control" in controls:
            gone["live_end"] = False
        if self.output_limit in controls:
            gone["overlooks_close"], gone["default_output_tokens"] = False, None
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
            recalls=self.recalls and (self.cap is None or self.cap.strength != "hard"),
        )


UNKNOWN = Capability(models=("*",), endpoints=("openai-compatible",))
"""A model of which nothing is known: no controls."""
