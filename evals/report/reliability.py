"""What was promised against what came: estimates against answers, and caps against the loss that passes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from budgetctl.evals.metrics import FULL, Evaluation
from budgetctl.evals.results import ClusterBy, Floats, Paired, Result, column
from budgetctl.evals.risk.losses import losses
from budgetctl.evals.risk.pvalues import p_value

LEVEL = 0.05
"""What each upper bound of the risk curve is wrong with, at most."""
MOST_UNITS = 20_000
"""Units that a bound is computed from: a random part of more gives a bound that holds too, if a wider one."""


def reliability(paired: Paired, name: str) -> dict[str, Any] | None:
    """Return how often answers were right where the decisions expected it with about the same probability."""
    results = paired.runs[name]
    probability = column(results, "p_correct")
    known = ~np.isnan(probability)
    if not known.any():
        return None
    # Samples of one question share its estimate; they count as one.
    calls = np.bincount(paired.index[known])
    asked = calls > 0
    expected = np.bincount(paired.index[known], weights=probability[known])[asked] / calls[asked]
    correct = column(results, "correct")
    right = np.bincount(paired.index[known], weights=correct[known])[asked] / calls[asked]
    place = np.minimum((expected * 10).astype(int), 9)
    bins = []
    for i in sorted(set(place.tolist())):
        inside = place == i
        low, high = _wilson(float(right[inside].mean()), int(inside.sum()))
        bins.append(
            {
                "expected": float(expected[inside].mean()),
                "right": float(right[inside].mean()),
                "low": low,
                "high": high,
                "n": int(inside.sum()),
            }
        )
    gap = sum(b["n"] * abs(b["expected"] - b["right"]) for b in bins) / len(right)
    return {"policy": name, "n": len(right), "ece": gap, "bins": bins}


def _wilson(share: float, n: int, *, z: float = 1.959964) -> tuple[float, float]:
    """Return the 95 % score interval of a share (Wilson 1927)."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def risk_curve(
    runs: Mapping[str, Sequence[Result]],
    evaluation: Evaluation,
    *,
    rng: np.random.Generator,
    cluster_by: ClusterBy,
) -> list[dict[str, Any]]:
    """Return the loss of every fixed budget against full, from the one that spends most to the cheapest."""
    rows = [row for row in evaluation.fixed[::-1] if row.policy != FULL and row.delta_accuracy is not None]
    if not rows:
        return []
    family = {row.policy: runs[row.policy] for row in rows}
    table = losses(runs[FULL], family, loss="accuracy", cluster_by=cluster_by)
    order = rng.permutation(table.n)
    return [
        {
            "policy": row.policy,
            "tokens": row.tokens_mean,
            "loss": -(row.delta_accuracy or 0.0),
            "low": None if row.delta_ci is None else -row.delta_ci[1],
            "high": None if row.delta_ci is None else -row.delta_ci[0],
            "bound": upper_bound(table.loss[i][order[:MOST_UNITS]]),
        }
        for i, row in enumerate(rows)
    ]


def upper_bound(loss: Floats) -> float | None:
    """Return the smallest epsilon, to 0.0005, of which the betting test rejects that the loss reaches it.

    The expected loss lies above it with probability at most :data:`LEVEL`, for this one budget.
    """
    low, high = 0.0, 1 - 1e-6
    if p_value(loss, epsilon=high, level=LEVEL, test="betting") > LEVEL:
        return None
    while high - low > 5e-4:
        middle = (low + high) / 2
        rejected = p_value(loss, epsilon=middle, level=LEVEL, test="betting") <= LEVEL
        low, high = (low, middle) if rejected else (middle, high)
    return high
