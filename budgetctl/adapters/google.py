"""Google's ``generate_content``: thinking budgets of Gemini 2.5, thinking levels since Gemini 3.

Written in the names of the google-genai SDK (``config.thinking_config``), which are those of its calls. A
call never gets a budget and a level: where it has set one of them, only that one is lowered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from budgetctl.adapters.base import Dialect, Rendered
from budgetctl.adapters.rules import render as _render
from budgetctl.capabilities import Capability
from budgetctl.types import Budget, CallerValues

TOKENS = "config.thinking_config.thinking_budget"
LEVEL = "config.thinking_config.thinking_level"
DIALECT = Dialect(effort=LEVEL, limits=("config.max_output_tokens",), standard=frozenset({"config"}))


def render(
    budget: Budget,
    capability: Capability,
    params: Mapping[str, Any],
    *,
    caller_values: CallerValues = "pin",
) -> Rendered:
    """Write ``budget`` into the arguments of ``models.generate_content``.

    Args:
        budget: The budget.
        capability: What the model can do.
        params: The call's own arguments; only read. A ``config`` that is no mapping is left alone.
        caller_values: ``pin`` leaves a budget or a level that the call sets alone; ``ceiling`` may go below
            them, never above.
    """
    config = params.get("config")
    thinking = config.get("thinking_config") if isinstance(config, Mapping) else config
    gone: dict[str, Any] = {}
    if thinking is not None and not isinstance(thinking, Mapping):
        gone = {"cap": None, "off": None, "effort": None}
    elif thinking is not None and thinking.get("thinking_budget") is not None:
        gone = {"effort": None}
    elif thinking is not None and thinking.get("thinking_level") is not None:
        gone = {"cap": None, "off": None}
    capability = capability.model_copy(update=gone)
    rendered = _render(DIALECT, budget, capability, params, caller_values=caller_values)
    if any(control.name == TOKENS and control.value == 0 for control in rendered.controls):
        # Thoughts that are switched off cannot be asked for. What was written into is a copy.
        rendered.params["config"]["thinking_config"].pop("include_thoughts", None)
    return rendered
