"""OpenAI's Responses API: effort levels and output limits.

Caps and template switches of self-hosted engines are not known to work on this endpoint, so a budget
that needs them is reported as unsupported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from budgetctl.adapters.base import Dialect, Rendered
from budgetctl.adapters.base import render as _render
from budgetctl.capabilities import Capability
from budgetctl.types import Budget, CallerValues

DIALECT = Dialect(
    effort="reasoning.effort",
    limits=("max_output_tokens",),
    standard=frozenset({"reasoning", "max_output_tokens", "extra_body"}),
    engine_controls=False,
)


def render(
    budget: Budget,
    capability: Capability,
    params: Mapping[str, Any],
    *,
    caller_values: CallerValues = "pin",
) -> Rendered:
    """Write ``budget`` into the parameters of ``responses.create``; arguments as for chat."""
    return _render(DIALECT, budget, capability, params, caller_values=caller_values)
