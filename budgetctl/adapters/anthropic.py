"""Anthropic's Messages API: adaptive thinking with effort levels, and the budgets of earlier models.

Thinking is on where the call says so (``thinking.type``), or by the model's default; where it is off nothing
is written. A budget is lowered only where the call has one: a call that lets the model decide (``adaptive``,
or no word at all) is given a level instead, and keeps its ``thinking``. So a call that pins the kind of its
thinking may still get a level, as long as it names none. A level of one message is the caller's way of
changing it without losing the prompt cache: it stays, and no other is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from budgetctl.adapters.base import DEADLINE, Dialect, Rendered, Writer, fit_cap, rank
from budgetctl.adapters.paths import dig
from budgetctl.capabilities import Capability
from budgetctl.stopping.criteria import ANSWER_TOKENS
from budgetctl.types import Budget, CallerValues

KIND = "thinking.type"
TOKENS = "thinking.budget_tokens"
EFFORT = "output_config.effort"
MESSAGES = f"messages.{EFFORT}"
DIALECT = Dialect(
    effort=EFFORT,
    limits=("max_tokens",),
    standard=frozenset({"thinking", "output_config", "max_tokens"}),
)

OFF = ("disabled", "between_tools")
HIGHEST_WITHOUT = "high"
"""The highest level that models with a switch accept while it is off."""


def render(
    budget: Budget,
    capability: Capability,
    params: Mapping[str, Any],
    *,
    caller_values: CallerValues = "pin",
) -> Rendered:
    """Write ``budget`` into the parameters of ``messages.create``.

    Args:
        budget: The budget.
        capability: What the model can do.
        params: The call's own parameters, with ``extra_body`` if any; only read.
        caller_values: ``pin`` leaves a kind of thinking, a budget or a level that the call sets alone;
            ``ceiling`` may go below them, never above.
    """
    writer = Writer(dialect=DIALECT, capability=capability, params=dict(params), caller_values=caller_values)
    if caller_values == "pin":
        writer.pinned += [path for path in (KIND, TOKENS, EFFORT) if writer.get(path) is not None]
    if any(dig(message, EFFORT) is not None for message in writer.get("messages") or ()):
        writer.pinned += [MESSAGES]
    if not _thinks(writer):
        return writer.result()
    if budget.off:
        _off(writer)
    elif budget.effort is not None:
        _effort(writer, budget.effort)
    if budget.reasoning_tokens:
        _cap(writer, budget.reasoning_tokens, budget.answer_tokens)
    if budget.deadline_s is not None:
        writer.act(DEADLINE, budget.deadline_s, "none")
        writer.unsupported.append("deadline")
    return writer.result()


def _thinks(writer: Writer) -> bool:
    kind = writer.get(KIND)
    return kind not in OFF if kind is not None else writer.capability.thinks_by_default is not False


def _off(writer: Writer) -> None:
    """Switch thinking off; where that cannot be, ask for the weakest level."""
    if KIND in writer.pinned or MESSAGES in writer.pinned:
        return
    switch, level = writer.capability.off, writer.get(EFFORT)
    too_high = level is not None and rank(level) > rank(HIGHEST_WITHOUT)
    if switch is None or (too_high and EFFORT in writer.pinned):
        writer.unsupported.append("off")
        _effort(writer, "low", said=False)
        return
    if too_high:
        writer.put(EFFORT, HIGHEST_WITHOUT, "advisory")
    # A budget, or how thoughts are displayed, has no place beside the switch.
    writer.params = _without_thinking(writer.params)
    for path, value in switch.parameters.items():
        writer.put(path, value, switch.strength)


def _without_thinking(params: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in params.items() if name != "thinking"}
    if kept.get("extra_body"):
        kept["extra_body"] = _without_thinking(kept["extra_body"])
    return kept


def _effort(writer: Writer, level: str, *, said: bool = True) -> None:
    """Write a level, or the nearest one that the model has, below what the call sets.

    Args:
        said: The budget names the level; otherwise it only stands for something else.
    """
    if EFFORT in writer.pinned or MESSAGES in writer.pinned:
        return
    effort, own = writer.capability.effort, writer.get(EFFORT)
    nearest = None if effort is None else effort.nearest(level)
    if nearest != level and said:
        writer.unsupported.append(f"effort:{level}")
    if effort is None or nearest is None:
        return
    usual = own or (None if said else effort.default)
    if said if usual is None else rank(nearest) < rank(usual):
        writer.put(EFFORT, nearest, effort.strength)


def _cap(writer: Writer, tokens: int, answer_tokens: int | None) -> None:
    limit, own = _number(writer.get("max_tokens")), _number(writer.get(TOKENS))
    reserve = answer_tokens or writer.capability.answer_tokens or ANSWER_TOKENS
    cap, engine = fit_cap(tokens, limit=limit, reserve=reserve), writer.capability.cap
    if TOKENS in writer.pinned:
        return
    if engine is not None and own is not None:
        sent = min(own, max(engine.minimum or 1, cap))
        writer.put(TOKENS, sent, engine.strength)
        if sent > cap:
            writer.unsupported.append(f"cap:{cap}")
        return
    writer.unsupported.append("cap")
    level = None if writer.capability.effort is None else writer.capability.effort.for_cap(cap)
    if level is not None:
        _effort(writer, level, said=False)


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
