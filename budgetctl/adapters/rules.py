"""How a budget becomes parameters, and who yields to whom, in OpenAI's dialects and Google's.

Switch, cap and level are values of their own there, each at a path that the capability names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from budgetctl.adapters.base import (
    ABORT_CONTINUE,
    DEADLINE,
    LIVE_END,
    STOP,
    Dialect,
    Rendered,
    Writer,
    fit_cap,
    rank,
    steerable,
    switched_off,
)
from budgetctl.adapters.paths import THINKING
from budgetctl.capabilities import Cap, Capability
from budgetctl.stopping.criteria import ANSWER_TOKENS, with_grace
from budgetctl.stopping.presets import WITH_TRIALS, without_trials
from budgetctl.stopping.trial import TrialAnswer
from budgetctl.types import EFFORTS, Budget, CallerValues


def render(
    dialect: Dialect,
    budget: Budget,
    capability: Capability,
    params: Mapping[str, Any],
    *,
    caller_values: CallerValues = "pin",
    live: bool = False,
    resumes: bool = False,
) -> Rendered:
    """Write ``budget`` into ``params`` as far as ``capability`` carries it.

    Args:
        live: The caller of this function watches the stream and can end its thinking.
        resumes: It can also go on with an answer that an output limit of ours cuts off.
    """
    writer = Writer(dialect=dialect, capability=capability, params=dict(params), caller_values=caller_values)
    live = live and capability.stoppable and steerable(params)
    asked = [path for path in THINKING if writer.get(path) is not None]
    limits = [name for name in dialect.limits if writer.get(name) is not None]
    if caller_values == "pin":
        writer.pinned += asked + limits
    if switched_off(writer) or (asked and caller_values == "pin"):
        pass  # thinking is the caller's own: nothing switched on, nothing changed
    elif budget.off or budget.effort == "none":
        _off(writer, "off" if budget.off else "effort:none")
    else:
        if budget.effort is not None:
            _effort(writer, budget.effort)
        if budget.reasoning_tokens is not None:
            _cap(writer, budget, limits, live=live, resumes=resumes)
    _watch(writer, budget, live=live)
    return writer.result()


def _off(writer: Writer, asked: str) -> None:
    switch, effort = writer.capability.off, writer.capability.effort
    if switch is None or not _carries(writer, switch.parameters):
        writer.unsupported.append(asked)
        weakest = effort.nearest("minimal") if effort is not None else None
        if weakest in EFFORTS[:3]:
            _level(writer, str(weakest))
        return
    for path, value in switch.parameters.items():
        writer.put(writer.dialect.effort if path == "reasoning_effort" else path, value, switch.strength)


def _effort(writer: Writer, level: str) -> None:
    """Write a level, or the nearest one that the model has."""
    effort = writer.capability.effort
    nearest = None if effort is None else effort.nearest(level)
    if nearest != level or writer.silent:
        writer.unsupported.append(f"effort:{level}")
    if nearest is not None:
        _level(writer, nearest)


def _level(writer: Writer, level: str) -> None:
    """Write a level that the model has, never above what the caller set, and none that switches it on."""
    effort = writer.capability.effort
    own = writer.get(writer.effort_path)
    if effort is None or writer.silent or _capped(writer):
        return
    if own is None or rank(level) < rank(own):
        writer.put(writer.effort_path, level, effort.strength)


def _capped(writer: Writer) -> bool:
    """Whether the call has a cap that no level can go with."""
    cap = writer.capability.cap
    if cap is None or writer.effort_path not in cap.unless:
        return False
    return any(writer.get(path) is not None for path in cap.parameters)


def _cap(writer: Writer, budget: Budget, limits: list[str], *, live: bool, resumes: bool) -> None:
    capability = writer.capability
    assert budget.reasoning_tokens is not None
    limit = (_number(writer.get(limits[0])) if limits else None) or None
    known = budget.answer_tokens or capability.answer_tokens
    reserve = known or ANSWER_TOKENS
    cap = fit_cap(budget.reasoning_tokens, limit=limit, reserve=reserve)
    engine = capability.cap if writer.dialect.engine_controls else None
    if engine is not None and any(writer.get(path) is not None for path in engine.unless):
        engine = None
    sent = None if engine is None else _takes(engine, cap, limit=limit)
    if engine is not None and sent is not None and not writer.silent:
        _engine_cap(writer, engine, sent)
        if sent > cap:
            writer.unsupported.append(f"cap:{cap}")
    cut = live and (sent is None or sent > cap or engine is None or engine.strength != "hard")
    if cut:
        writer.act(ABORT_CONTINUE, cap, "hard")
    elif sent is None and not writer.silent:
        writer.unsupported.append("cap")
        _effort_for_cap(writer, cap)
    need = with_grace(cap) + reserve
    default = capability.default_output_tokens
    if limits or writer.get("generation_config") is not None or default is None or not _caps(writer):
        return
    # A server that overlooks that the stream was closed then stops here by itself.
    stops = cut and resumes and capability.overlooks_close and known is not None
    if need > default or stops:
        writer.put(capability.output_limit, need, "hard")


def _engine_cap(writer: Writer, engine: Cap, tokens: int) -> None:
    own = [number for path in engine.parameters if (number := _number(writer.get(path))) is not None]
    for path in engine.parameters:
        writer.put(path, min([tokens, *own]), engine.strength)
    for path, value in engine.also.items():
        writer.put(path, value, engine.strength)
    if not engine.parameters:
        writer.act("logits", tokens, engine.strength)


def _takes(engine: Cap, cap: int, *, limit: int | None) -> int | None:
    """Return what the engine takes for ``cap``; None where its smallest number leaves the answer no room."""
    sent = max(engine.minimum or 1, min(cap, engine.maximum or cap))
    return None if engine.within_limit and limit is not None and sent >= limit else sent


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
    level = None if effort is None else effort.for_cap(cap)
    if effort is None or level is None:
        return
    usual = writer.get(writer.effort_path) or effort.default
    if usual is not None and rank(level) < rank(usual):
        _level(writer, level)


def _watch(writer: Writer, budget: Budget, *, live: bool) -> None:
    """Note what acts on the stream besides the cap: the deadline and the stop preset."""
    if writer.capability.reasoning == "none" or switched_off(writer):
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
