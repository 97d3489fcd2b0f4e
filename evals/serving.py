"""Times of calls and what they come to per machine: quantiles, goodput, requests an hour.

Definitions (times of a call are from its start; one without an answer waits for ever for the first token of
it, is not done in time and keeps no deadline, however soon it ended):

* TTFT, TTFO, E2E: to the first token of any kind, to the first token of the answer, to the end. Probes,
  continuations and prefilling again are within them; waits before a try and failed tries are not.
* Quantiles are order statistics, the ceil(q n)-th smallest, and their intervals need no distribution. A
  quantile is None where even the largest value does not bound it: a p95 takes 59 questions, a p99 299.
* ``goodput``: share of calls done within ``slo_s``; ``accurate_goodput``: done in time and right.
* ``deadline_met``: share of the calls with a deadline that ended within it; ``deadline_p95``: the 95th
  percentile of their time as a multiple of it. None where no call had one.
* ``requests_per_hour``: calls divided by the hours in which at least one of them was in flight. Policies
  take turns, so those are the hours of a machine that serves this policy alone, at the run's concurrency.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from budgetctl.evals import stats
from budgetctl.evals.replayed import Replayed
from budgetctl.evals.results import Floats, Result, Table, column, modelled

TIMES = ("ttft_s", "ttfo_s", "e2e_s")
DEADLINE = ("deadline_met", "deadline_p95")
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
_OF_REPLAYS = ("ttfo_s", "e2e_s")


def serving(results: Sequence[Result], *, questions: int, slo_s: float | None) -> dict[str, Any]:
    """Return the fields of a policy's row that are about time.

    Args:
        results: All calls of the policy.
        questions: How many questions they are of; calls of one question are no independent ones, so this
            decides which quantiles can be told.
        slo_s: The limit on E2E; None leaves the goodputs out.
    """
    marks, answered = modelled(results), column(results, "answered") != 0
    e2e = known(np.where(answered, _measured(results, "e2e_s"), np.inf))
    found: dict[str, Any] = {}
    named: list[str] = []
    for what in TIMES:
        values = _measured(results, what)
        values_known = known(np.where(answered, values, np.inf) if what == "ttfo_s" else values)
        for name, q in QUANTILES.items():
            field = f"{what.removesuffix('_s')}_{name}_s"
            found[field] = _quantile(values_known, q, questions=questions)
            if what in marks and name in ("p50", "p95"):
                named.append(field)
        if what != "ttft_s":
            found[f"{what.removesuffix('_s')}_p95_ci"] = _interval(values_known, questions=questions)
    in_time = None if slo_s is None or e2e is None else e2e <= slo_s
    right = column(results, "correct") == 1
    found |= _deadline(results, e2e, questions=questions)
    if "e2e_s" in marks:
        named += [name for name in DEADLINE if found[name] is not None]
    return found | {
        "goodput": None if in_time is None else float(np.mean(in_time)),
        "accurate_goodput": None if in_time is None else float(np.mean(in_time & right)),
        "requests_per_hour": requests_per_hour(results),
        "modelled": (*named, *(("goodput", "accurate_goodput") if "e2e_s" in marks else ())),
    }


def _deadline(results: Sequence[Result], e2e: Floats | None, *, questions: int) -> dict[str, float | None]:
    """Return how well deadlines were kept."""
    if isinstance(results, Replayed):
        each = np.array([b.deadline_s for b in results.given.budgets], dtype=float)[results.which]
    else:
        each = np.array([r.budget.deadline_s for r in results], dtype=float)
    given = ~np.isnan(each)
    if e2e is None or not given.any():
        return dict.fromkeys(DEADLINE)
    ratio = e2e[given] / each[given]
    return dict(
        zip(DEADLINE, (float(np.mean(ratio <= 1)), _quantile(ratio, 0.95, questions=questions)), strict=True)
    )


def requests_per_hour(results: Sequence[Result]) -> float | None:
    """Return the calls per hour in which at least one was in flight; None where that was not recorded."""
    starts, seconds = known(_measured(results, "started_s")), known(_measured(results, "e2e_s"))
    if starts is None or seconds is None or not len(starts):
        return None
    order = np.argsort(starts)
    starts, ends = starts[order], (starts + seconds)[order]
    before = np.concatenate([[-np.inf], np.maximum.accumulate(ends)[:-1]])
    busy = float(np.maximum(0.0, ends - np.maximum(starts, before)).sum())
    return len(starts) / busy * 3600 if busy > 0 else None


def known(values: Floats) -> Floats | None:
    """Return the values, or None where one is unknown."""
    return None if np.isnan(values).any() else values


def _measured(results: Sequence[Result], name: str) -> Floats:
    if isinstance(results, Table) and name not in _OF_REPLAYS:
        return np.full(len(results), np.nan)
    return column(results, name)


def _quantile(values: Floats | None, q: float, *, questions: int) -> float | None:
    if values is None or (q > 0.5 and questions < stats.minimum_n(q)):
        return None
    value = stats.quantile(values, q)
    return value if value is not None and np.isfinite(value) else None


def _interval(values: Floats | None, *, questions: int) -> tuple[float | None, float | None] | None:
    if values is None or questions < stats.minimum_n(0.95):
        return None
    low, high = (
        None if end is None or not np.isfinite(end) else end for end in stats.quantile_interval(values, 0.95)
    )
    return low, high
