"""OpenAI chat completions, and the servers that speak their dialect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from budgetctl.adapters.base import Dialect, Rendered
from budgetctl.adapters.rules import render as _render
from budgetctl.capabilities import Capability
from budgetctl.types import Budget, CallerValues

DIALECT = Dialect(
    effort="reasoning_effort",
    limits=("max_completion_tokens", "max_tokens"),
    standard=frozenset({"reasoning_effort", "max_completion_tokens", "max_tokens", "extra_body"}),
)


def render(
    budget: Budget,
    capability: Capability,
    params: Mapping[str, Any],
    *,
    caller_values: CallerValues = "pin",
    live: bool = False,
    resumes: bool = False,
) -> Rendered:
    """Write ``budget`` into the parameters of ``chat.completions.create``.

    Parameters of one engine only travel in ``extra_body``, as the SDK wants it.

    Args:
        budget: What the call may spend on thinking.
        capability: What the model can do.
        params: The call's own parameters; only read.
        caller_values: ``pin`` leaves what the caller set alone; ``ceiling`` may go below it, never above.
        live: Whoever renders also watches the stream and can end its thinking.
        resumes: They can also go on with an answer that an output limit of ours cuts off.
    """
    return _render(
        DIALECT, budget, capability, params, caller_values=caller_values, live=live, resumes=resumes
    )
