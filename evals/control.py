"""How well budgets were kept: adherence, overshoot, truncation, why thinking ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from budgetctl.evals import stats
from budgetctl.evals.replayed import Replayed
from budgetctl.evals.results import Floats, Result, Table, column

from budgetctl.types import StopReason

SLACK = 1.05
"""A call that thinks up to 5 % beyond its cap counts as within it: engines finish a sentence."""


def control(results: Sequence[Result]) -> dict[str, Any]:
    """Return the fields of a policy's row that are about how its budgets were kept.

    ``adherence`` is the share of capped calls that thought no more than their cap and 5 %, probes left out;
    ``overshoot_p95`` the 95th percentile of tokens beyond the cap (0 where there are none). Both are None
    where no call was capped. ``truncated`` counts calls that the output limit cut, and ``stops`` why
    thinking ended; replays do not know these.
    """
    caps = _caps(results)
    used = column(results, "reasoning_tokens") - column(results, "probe_tokens")
    capped = (caps > 0) & ~np.isnan(used)
    beyond = np.maximum(0.0, used[capped] - caps[capped])
    stops = None if isinstance(results, Table) else Counter(r.stop for r in results if r.stop is not None)
    return {
        "adherence": float(np.mean(used[capped] <= SLACK * caps[capped])) if capped.any() else None,
        "overshoot_p95": stats.quantile(beyond, 0.95),
        "truncated": None if stops is None else stops[StopReason.LENGTH],
        "stops": None if stops is None else dict(sorted(stops.items())),
    }


def stopped(results: Sequence[Result]) -> bool:
    """Return whether a stop preset ended the thinking of any call."""
    if isinstance(results, Replayed):
        return results.stopped
    return any(r.stop in (StopReason.LOOP, StopReason.SETTLED) for r in results)


def _caps(results: Sequence[Result]) -> Floats:
    if isinstance(results, Replayed):
        caps = [b.reasoning_tokens for b in results.given.budgets]
        return np.array(caps, dtype=float)[results.which]
    return np.array([r.budget.reasoning_tokens for r in results], dtype=float)
