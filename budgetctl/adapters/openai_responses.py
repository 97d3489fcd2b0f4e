"""OpenAI's Responses API: effort levels and output limits.

Caps and template switches of self-hosted engines are not known to work on this endpoint, so a budget
that needs them is reported as unsupported. A level that stands in the input (``configuration_update``) is the
caller's way of changing it without losing the prompt cache: it stays, and no other is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from budgetctl.adapters.base import Dialect, Rendered
from budgetctl.adapters.rules import render as _render
from budgetctl.capabilities import Capability
from budgetctl.types import Budget, CallerValues

DIALECT = Dialect(
    effort="reasoning.effort",
    limits=("max_output_tokens",),
    standard=frozenset({"reasoning", "max_output_tokens", "extra_body"}),
    engine_controls=False,
)
UPDATE = "input.configuration_update"


def render(
    budget: Budget,
    capability: Capability,
    params: Mapping[str, Any],
    *,
    caller_values: CallerValues = "pin",
) -> Rendered:
    """Write ``budget`` into the parameters of ``responses.create``; arguments as for chat."""
    updates = _updates(params.get("input"))
    if updates:
        capability = capability.model_copy(update={"effort": None, "off": None})
    rendered = _render(DIALECT, budget, capability, params, caller_values=caller_values)
    return replace(rendered, pinned=(*rendered.pinned, UPDATE)) if updates else rendered


def _updates(items: Any) -> bool:
    """Whether the input of a call sets a level."""
    return isinstance(items, list) and any(
        isinstance(item, Mapping) and item.get("type") == "configuration_update" and item.get("reasoning")
        for item in items
    )
