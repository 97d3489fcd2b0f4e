"""How good estimates are on examples with known outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from budgetctl.classifiers.readout import QUANTILES
from budgetctl.classifiers.targets import Example
from numpy.typing import ArrayLike

from budgetctl.types import Estimate, Quantiles


def evaluate(estimates: Sequence[Estimate], examples: Sequence[Example]) -> dict[str, Any]:
    """Return AUC and Brier score of p_off and p_full; coverage, pinball loss and Spearman of token counts.

    ``settled`` is judged on the questions that thinking helps, its ``coverage_all`` on all with a known
    settling point. Coverage is the share at or below the quantile; pinball loss is in log(1 + tokens). A
    number that the examples cannot give is None.
    """
    pairs = list(zip(estimates, examples, strict=True))
    helped = [(e, x) for e, x in pairs if x.helped]
    known = [(e, x) for e, x in pairs if x.settled is not None]
    timed = [(e, x) for e, x in pairs if x.natural is not None]
    coverage_all = [
        _share([x.settled <= at(e.settled, q) for e, x in known if x.settled is not None]) for q in QUANTILES
    ]
    return {
        "n": len(pairs),
        "accuracy_full": _share([x.full for _, x in pairs if x.full is not None]),
        "accuracy_off": _share([x.off for _, x in pairs if x.off is not None]),
        "p_full": _binary(
            [e.p_full for e, x in pairs if x.full is not None],
            [x.full for _, x in pairs if x.full is not None],
        ),
        "p_off": _binary(
            [e.p_off for e, x in pairs if x.off is not None], [x.off for _, x in pairs if x.off is not None]
        ),
        "settled": {
            **_quantiles([(e.settled, x.settled or 0) for e, x in helped]),
            "coverage_all": _by_quantile(coverage_all),
        },
        "natural": _quantiles([(e.natural, x.natural or 0) for e, x in timed]),
        "confidence_p5": _round(float(np.quantile([e.confidence for e, _ in pairs], 0.05)))
        if pairs
        else None,
    }


def _binary(p: list[float], right: list[Any]) -> dict[str, Any]:
    y = np.array(right, dtype=float)
    brier = float(np.mean((np.array(p) - y) ** 2)) if p else None
    return {"auc": _round(auc(p, y >= 0.5)), "brier": _round(brier), "mean": _share(p)}


def auc(scores: ArrayLike, positive: ArrayLike) -> float | None:
    """Return the probability that a positive outscores a negative, ties counting half; None without both."""
    y = np.array(positive, dtype=bool)
    n1, n0 = int(y.sum()), int((~y).sum())
    if not n1 or not n0:
        return None
    return float((_ranks(np.array(scores))[y].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))


def spearman(a: ArrayLike, b: ArrayLike) -> float | None:
    """Return Spearman's rank correlation; None where one of them never varies."""
    ranks = [_ranks(np.array(values)) for values in (a, b)]
    if any(len(r) == 0 or r.min() == r.max() for r in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: Any) -> Any:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _quantiles(pairs: list[tuple[Any, float]]) -> dict[str, Any]:
    coverage = [_share([y <= at(p, q) for p, y in pairs]) for q in QUANTILES]
    losses = [pinball(pairs, q) for q in QUANTILES]
    return {
        "n": len(pairs),
        "coverage": _by_quantile(coverage),
        "pinball": _by_quantile(losses),
        "spearman": _round(spearman([p.p50 for p, _ in pairs], [y for _, y in pairs])),
    }


def pinball(pairs: Sequence[tuple[Quantiles, float]], q: float) -> float | None:
    """Return the mean pinball loss of the ``q`` quantile in log(1 + tokens); None without pairs."""
    if not pairs:
        return None
    error = np.array([np.log1p(y) - np.log1p(at(p, q)) for p, y in pairs])
    return _round(float(np.mean(np.maximum(q * error, (q - 1) * error))))


def at(quantiles: Quantiles, q: float) -> float:
    """Return the ``q`` quantile."""
    return float(getattr(quantiles, f"p{round(100 * q)}"))


def _by_quantile(values: list[float | None]) -> dict[str, float | None]:
    return {f"p{round(100 * q)}": v for q, v in zip(QUANTILES, values, strict=True)}


def _share(values: Sequence[Any]) -> float | None:
    return _round(float(np.mean(values))) if len(values) else None


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
