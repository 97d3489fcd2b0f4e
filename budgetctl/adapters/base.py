"""What the adapters share: how a budget becomes parameters, and who yields to whom.

Three rules hold for every dialect. Inputs are never changed. Nothing is switched on that was off, and
sampling is never touched. An output limit, where one is sent, is never below cap + grace + answer reserve:
the caller's limit stays and the cap gives way (:func:`fit_cap`, the one place that clamps).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from budgetctl.capabilities import Capability
from budgetctl.stopping.criteria import ANSWER_TOKENS, GRACE, with_grace
from budgetctl.stopping.presets import WITH_TRIALS, without_trials
from budgetctl.stopping.trial import TrialAnswer
from budgetctl.types import EFFORTS, AppliedControl, Budget, CallerValues, Strength

ABORT_CONTINUE = "abort_continue"
"""Control of ours: the stream is closed at the cap and the answer written from the closed thought."""
DEADLINE = "deadline"
"""Control of ours: thinking is closed when only the time for the answer is left."""
STOP = "stop"
"""Control of ours: the stop preset's criteria may close the thinking."""
LIVE_END = "reasoning_control"
"""Parameter by which a call asks that its thinking can be ended from outside, while it runs (llama.cpp)."""
OURS = frozenset({ABORT_CONTINUE, DEADLINE, STOP})

EFFORT_FOR_CAP = ((512, "minimal"), (2048, "low"))
"""The level that comes nearest to a cap below so many tokens, where levels are all that there is. The bounds
are those of LiteLLM's mapping between budgets and levels, read backwards and rounded down."""

THINKING = (
    "reasoning_effort",
    "reasoning.effort",
    "thinking",
    "thinking_budget",
    "thinking_token_budget",
    "thinking_budget_tokens",
    "reasoning_budget_tokens",
    "custom_params.thinking_budget",
    "enable_thinking",
    "chat_template_kwargs.enable_thinking",
    "chat_template_kwargs.thinking",
    "chat_template_kwargs.thinking_budget",
)
"""Every parameter by which a caller may have set the amount of thinking."""

_GRAMMARS = (
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "json_schema",
    "regex",
    "ebnf",
    "grammar",
    "structural_tag",
)
"""Parameters that give the answer a form: OpenAI's own and those of vLLM, SGLang and llama.cpp."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """Parameters with a budget in them.

    Attributes:
        params: The parameters to send: new, the caller's own objects are only read.
        controls: What carries the budget, each with its strength. Names in ``OURS`` act on the stream.
        unsupported: Parts of the budget that nothing carries, or only something weaker.
        pinned: Parameters that the caller had set and that were left alone.
    """

    params: dict[str, Any]
    controls: tuple[AppliedControl, ...] = ()
    unsupported: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Names of a wire dialect.

    Attributes:
        effort: Path of the effort level.
        limits: Names of the output limit, the one in force first.
        standard: Top-level parameters that the dialect's SDK knows; all else travels in ``extra_body``.
        engine_controls: Caps and switches of the engine are known for this dialect.
    """

    effort: str
    limits: tuple[str, ...]
    standard: frozenset[str]
    engine_controls: bool = True


@dataclass(slots=True, kw_only=True)
class Writer:
    """Collects what one rendering does; ``params`` is a copy as deep as what is written into it."""

    dialect: Dialect
    capability: Capability
    params: dict[str, Any]
    caller_values: CallerValues
    controls: list[AppliedControl] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)
    pinned: list[str] = field(default_factory=list)

    def get(self, path: str) -> Any:
        """Return what the call says at ``path``, in ``extra_body``, which wins, or in the body; else None."""
        found = _dig(self.params.get("extra_body"), path)
        return _dig(self.params, path) if found is None else found

    def put(self, path: str, value: Any, strength: Strength) -> None:
        """Write one control, where the call already has it or where the dialect's SDK takes it."""
        head = path.partition(".")[0]
        elsewhere = head not in self.dialect.standard and head not in self.params
        if elsewhere or head in (self.params.get("extra_body") or ()):
            path = f"extra_body.{path}"
        _plant(self.params, path, value)
        self.controls.append(
            AppliedControl(name=path.removeprefix("extra_body."), value=value, strength=strength)
        )

    def act(self, name: str, value: Any, strength: Strength) -> None:
        """Note a control of ours that works on the stream."""
        self.controls.append(AppliedControl(name=name, value=value, strength=strength))

    def result(self) -> Rendered:
        """Return what was collected."""
        return Rendered(
            params=self.params,
            controls=tuple(self.controls),
            unsupported=tuple(self.unsupported),
            pinned=tuple(self.pinned),
        )


def render(
    dialect: Dialect,
    budget: Budget,
    capability: Capability,
    params: Mapping[str, Any],
    *,
    caller_values: CallerValues = "pin",
    live: bool = False,
) -> Rendered:
    """Write ``budget`` into ``params`` as far as ``capability`` carries it.

    Args:
        live: The caller of this function watches the stream and can end its thinking.
    """
    writer = Writer(dialect=dialect, capability=capability, params=dict(params), caller_values=caller_values)
    live = live and capability.stoppable and steerable(params)
    asked = [path for path in THINKING if writer.get(path) is not None]
    limits = [name for name in dialect.limits if writer.get(name) is not None]
    if caller_values == "pin":
        writer.pinned += asked + limits
    if switched_off(writer.get) or (asked and caller_values == "pin"):
        pass  # thinking is the caller's own: nothing switched on, nothing changed
    elif budget.off:
        _off(writer)
    else:
        if budget.effort is not None:
            _effort(writer, budget.effort)
        if budget.reasoning_tokens is not None:
            _cap(writer, budget, limits, live=live)
    _watch(writer, budget, live=live)
    return writer.result()


def steerable(params: Mapping[str, Any]) -> bool:
    """Whether a thought may be cut and continued: one choice, no tools, no structured output, no logprobs.

    A cut next to a tool call or a grammar breaks their syntax, so there only the engine may cut.
    """
    params = {**params, **(params.get("extra_body") or {})}
    return (
        not any(params.get(name) for name in ("tools", "functions", "logprobs"))
        and all(params.get(name) is None for name in _GRAMMARS)
        and (params.get("n") or 1) == 1
    )


def switched_off(get: Any) -> bool:
    """Whether the caller has switched thinking off; ``get`` returns the value at a path."""
    levels = (get("reasoning_effort"), get("reasoning.effort"))
    switches = (get("chat_template_kwargs.enable_thinking"), get("enable_thinking"))
    thinking = get("thinking")
    disabled = isinstance(thinking, Mapping) and thinking.get("type") == "disabled"
    return "none" in levels or False in switches or disabled


def fit_cap(cap: int, *, limit: int | None, reserve: int) -> int:
    """Return the largest cap up to ``cap`` that leaves an output limit room for grace and answer.

    Solves ``cap * (1 + grace) + reserve <= limit``; a reserve of more than half the limit is cut to half.
    """
    if limit is None:
        return cap
    room = limit - min(reserve, limit // 2)
    # The small term undoes binary rounding: 550 tokens of room are a cap of 500.
    return max(1, min(cap, int(room / (1 + GRACE) + 1e-9)))


def _off(writer: Writer) -> None:
    switch = writer.capability.off
    if switch is None or not _carries(writer, switch.parameters):
        writer.unsupported.append("off")
        weakest = writer.capability.effort.levels[0] if writer.capability.effort is not None else None
        if weakest in EFFORTS[:3]:
            _level(writer, str(weakest))
        return
    for path, value in switch.parameters.items():
        writer.put(writer.dialect.effort if path == "reasoning_effort" else path, value, switch.strength)


def _effort(writer: Writer, level: str) -> None:
    """Write a level, or the nearest weaker one that the model has."""
    effort = writer.capability.effort
    if effort is None or (level != "none" and _silent(writer)):
        writer.unsupported.append(f"effort:{level}")
        return
    if level not in effort.levels:
        writer.unsupported.append(f"effort:{level}")
        if level not in EFFORTS:
            return  # nobody knows what it is weaker than
        weaker = [one for one in effort.levels if _rank(one) <= _rank(level)]
        level = weaker[-1] if weaker else effort.levels[0]
    _level(writer, level)


def _level(writer: Writer, level: str) -> None:
    """Write a level that the model has, never above what the caller set."""
    effort = writer.capability.effort
    own = writer.get(writer.dialect.effort)
    if effort is None or (level != "none" and _silent(writer)):
        return
    if own is None or _rank(level) < _rank(own):
        writer.put(writer.dialect.effort, level, effort.strength)


def _silent(writer: Writer) -> bool:
    """Whether the model does not think unless it is asked to, and the caller has not asked."""
    effort = writer.capability.effort
    return effort is not None and effort.default == "none" and writer.get(writer.dialect.effort) is None


def _cap(writer: Writer, budget: Budget, limits: list[str], *, live: bool) -> None:
    capability = writer.capability
    assert budget.reasoning_tokens is not None
    limit = (_number(writer.get(limits[0])) if limits else None) or None
    reserve = budget.answer_tokens or capability.answer_tokens or ANSWER_TOKENS
    cap = fit_cap(budget.reasoning_tokens, limit=limit, reserve=reserve)
    engine = capability.cap if writer.dialect.engine_controls else None
    if engine is not None:
        for path in engine.parameters:
            own = _number(writer.get(path))
            writer.put(path, cap if own is None else min(cap, own), engine.strength)
        if not engine.parameters:
            writer.act("logits", cap, engine.strength)
    if live and (engine is None or engine.strength != "hard"):
        writer.act(ABORT_CONTINUE, cap, "hard")
    elif engine is None:
        writer.unsupported.append("cap")
        _effort_for_cap(writer, cap)
    need = with_grace(cap) + reserve
    default = capability.default_output_tokens
    if limit is None and default is not None and need > default and _caps(writer):
        writer.put(capability.output_limit, need, "hard")


def _number(value: Any) -> int | None:
    """Return a count that the caller gave, in whatever type; None for none, or below zero, for no limit."""
    try:
        number = -1 if value is None else int(value)
    except (TypeError, ValueError, OverflowError):
        return None  # the server's to refuse
    return number if number >= 0 else None


def _caps(writer: Writer) -> bool:
    return any(c.name == ABORT_CONTINUE or c.strength == "hard" for c in writer.controls)


def _effort_for_cap(writer: Writer, cap: int) -> None:
    """Ask for the level nearest to a cap that nothing keeps, unless the model already thinks that little."""
    effort = writer.capability.effort
    if effort is None or effort.default is None:
        return
    wanted = next((level for below, level in EFFORT_FOR_CAP if cap < below), None)
    if wanted is None:
        return
    level = next((one for one in effort.levels if _rank(one) >= _rank(wanted)), None)
    if level is not None and _rank(level) < _rank(effort.default):
        _level(writer, level)


def _watch(writer: Writer, budget: Budget, *, live: bool) -> None:
    """Note what acts on the stream besides the cap: the deadline and the stop preset."""
    if writer.capability.reasoning == "none" or switched_off(writer.get):
        return
    if budget.deadline_s is not None:
        writer.act(DEADLINE, budget.deadline_s, "hard" if live else "none")
        if not live:
            writer.unsupported.append("deadline")
    if budget.stop in WITH_TRIALS:  # no endpoint is asked for any
        writer.unsupported.append(TrialAnswer.name)
    if budget.stop != "none" and writer.capability.stoppable:
        writer.act(STOP, without_trials(budget.stop), "hard" if live else "none")
    if live and writer.capability.live_end and _watched(writer):
        writer.put(LIVE_END, True, "hard")


def _watched(writer: Writer) -> bool:
    """Whether someone will watch a stream: the caller wants one, or a control makes us read one."""
    acting = {c.name for c in writer.controls if c.strength == "hard"}
    streamed = bool(writer.get("stream")) and STOP in acting
    return streamed or bool(acting & {ABORT_CONTINUE, DEADLINE})


def _carries(writer: Writer, parameters: Mapping[str, Any]) -> bool:
    return writer.dialect.engine_controls or set(parameters) == {"reasoning_effort"}


def _rank(level: str) -> int:
    return EFFORTS.index(level) if level in EFFORTS else len(EFFORTS)


def _dig(body: Any, path: str) -> Any:
    for key in path.split("."):
        if not isinstance(body, Mapping):
            return None
        body = body.get(key)
    return body


def _plant(body: dict[str, Any], path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    for key in parents:
        inner = body.get(key)
        body[key] = dict(inner) if isinstance(inner, Mapping) else {}
        body = body[key]
    body[leaf] = value
