"""How differences, times and tokens are distributed over groups of calls, for the charts of the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from budgetctl.evals import stats
from budgetctl.evals.metrics import FULL, unrestricted
from budgetctl.evals.results import Floats, Paired, budgets, column, modelled

BINS = 24
SHARES = (0.5, 0.9, 0.95, 0.99)


def forest(
    paired: Paired, groups: Mapping[str, str], *, rng: np.random.Generator
) -> Iterable[dict[str, Any]]:
    """Yield the accuracy difference of every policy in every group, with paired intervals."""
    of = np.array([groups[q] for q in paired.questions])
    names = [name for name in paired.runs if name != FULL]
    if not names:
        return
    same = {name: all(map(unrestricted, budgets(paired.runs[name]))) for name in names}
    accuracy = {name: _right(paired, name) for name in paired.runs}
    for group in dict.fromkeys(of.tolist()):
        inside = of == group
        units, numbers = np.unique(paired.groups[inside], return_inverse=True)
        table = np.column_stack([accuracy[name][inside] - accuracy[FULL][inside] for name in names])
        draws = stats.bootstrap_means(table, rng=rng, groups=numbers)
        for i, name in enumerate(names):
            point = float(table[:, i].mean())
            low, high = stats.difference_interval(draws[:, i], point=point, n=len(units))
            if same[name] and not table[:, i].any():
                low = high = 0.0  # the very same calls: there is nothing to be uncertain about
            yield {
                "group": group,
                "policy": name,
                "n": int(inside.sum()),
                "delta": point,
                "low": low,
                "high": high,
            }


def _right(paired: Paired, name: str) -> Floats:
    values = paired.by_question(column(paired.runs[name], "correct"))
    assert values is not None
    return values


def latency(paired: Paired, what: str) -> Iterable[dict[str, Any]]:
    """Yield the distribution of one time under every policy: at most 200 points (seconds, share of calls)."""
    for name, results in paired.runs.items():
        times = column(results, what)
        if what == "ttfo_s":  # no answer ever came: later than any other, not left out
            times = np.where(column(results, "answered") > 0, times, math.inf)
        if np.isnan(times).any():
            continue
        ordered = np.sort(times)
        ranks = np.unique(np.ceil(np.linspace(1 / 200, 1, 200) * len(ordered)).astype(int))
        points = [[float(ordered[r - 1]), r / len(ordered)] for r in ranks if math.isfinite(ordered[r - 1])]
        enough = {q: len(paired.questions) >= stats.minimum_n(q) for q in SHARES}
        yield {
            "policy": name,
            "what": what,
            "modelled": what in modelled(results),
            "points": points,
            "quantiles": [_finite(stats.quantile(ordered, q)) if enough[q] else None for q in SHARES],
        }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def spent_by_level(paired: Paired, levels: Mapping[str, str], *, basis: str | None) -> dict[str, Any] | None:
    """Return how many tokens calls of each difficulty used: counts in equal bins, the last one open."""
    if basis is None or not levels:
        return None
    tokens_of = {name: column(results, basis) for name, results in paired.runs.items()}
    width = max(1, math.ceil(float(np.quantile(tokens_of[FULL], 0.99)) / (BINS - 1)))
    step = np.array([levels[q] for q in paired.questions])[paired.index]
    rows = []
    for level in dict.fromkeys(levels.values()):
        inside = step == level
        for name, tokens in tokens_of.items():
            right = column(paired.runs[name], "correct")
            bins = np.minimum(tokens[inside] // width, BINS - 1).astype(int)
            rows.append(
                {
                    "level": level,
                    "policy": name,
                    "n": int(inside.sum()),
                    "mean": float(tokens[inside].mean()),
                    "accuracy": float(right[inside].mean()),
                    "counts": np.bincount(bins, minlength=BINS).tolist(),
                }
            )
    return {"width": width, "rows": rows}
