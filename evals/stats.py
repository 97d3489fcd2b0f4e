"""Paired statistics: bootstrap over questions or clusters, standard errors, quantiles with exact bounds.

Everything that draws takes its random generator as an argument. Undefined statistics are None, not zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from budgetctl.evals.results import Floats
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
RESAMPLES = 2000
_CHUNK_CELLS = 4_000_000

Interval = tuple[float, float]


def bootstrap_means(
    values: ArrayLike,
    *,
    rng: np.random.Generator,
    groups: ArrayLike | None = None,
    resamples: int = RESAMPLES,
) -> Floats:
    """Resample rows (or whole groups of rows) and return the mean of every column in each resample.

    All columns are resampled together, so any function of them (a difference, a ratio, an interpolation) has
    its paired bootstrap distribution in the rows of the result.

    Args:
        values: Shape (n, columns): one row per question.
        rng: Source of the draws.
        groups: Shape (n,): integers from 0; rows of a group are drawn together. None: every row by itself.
        resamples: How many.

    Returns:
        Shape (resamples, columns).
    """
    table = np.atleast_2d(np.asarray(values, dtype=float))
    ids = np.arange(len(table)) if groups is None else np.asarray(groups, dtype=np.intp)
    count = int(ids.max()) + 1
    sums = np.zeros((count, table.shape[1]))
    np.add.at(sums, ids, table)
    sizes = np.bincount(ids, minlength=count).astype(float)
    step = max(1, min(resamples, _CHUNK_CELLS // count))
    means = np.empty((resamples, table.shape[1]))
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        draws = rng.multinomial(count, np.full(count, 1 / count), size=stop - start).astype(float)
        means[start:stop] = (draws @ sums) / (draws @ sizes)[:, None]
    return means


def interval(samples: ArrayLike, *, level: float = LEVEL) -> Interval:
    """Return the percentile interval of bootstrap samples."""
    low, high = np.quantile(np.asarray(samples, dtype=float), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def rule_of_three(n: int, *, level: float = LEVEL) -> float:
    """Return the largest rate that still leaves n trials without an event with probability (1 - level) / 2.

    Where no question differs between two policies the bootstrap knows no spread and would give an interval of
    width zero. This bound, about 3.7 / n, is what n questions without a difference really show.
    """
    return 1.0 - float(((1 - level) / 2) ** (1 / n))


def difference_interval(samples: ArrayLike, *, point: float, n: int, level: float = LEVEL) -> Interval:
    """Return the percentile interval of a difference in [-1, 1], never narrower than ``n`` units can show.

    Args:
        samples: Bootstrap samples of the difference.
        point: The difference itself.
        n: Number of independent units (questions, or clusters).
        level: Coverage.
    """
    low, high = interval(samples, level=level)
    if low < high:
        return low, high
    slack = rule_of_three(n, level=level)
    return max(-1.0, point - slack), min(1.0, point + slack)


def paired_se(differences: ArrayLike, *, groups: ArrayLike | None = None) -> float | None:
    """Return the standard error of a mean of paired differences, clustered.

    ``sqrt(C / (C - 1) * sum_c (sum_{q in c} (d_q - mean))^2) / n`` with C clusters; with one question per
    cluster this is the usual standard error of paired differences (Miller 2024, arXiv 2411.00640).

    Returns:
        None with fewer than two clusters.
    """
    d = np.asarray(differences, dtype=float)
    ids = np.arange(len(d)) if groups is None else np.asarray(groups, dtype=np.intp)
    count = len(np.unique(ids))
    if count < 2:
        return None
    sums = np.bincount(ids, weights=d - d.mean())
    return math.sqrt(count / (count - 1) * float((sums**2).sum())) / len(d)


@dataclass(frozen=True, slots=True, kw_only=True)
class HarmHelp:
    """Paired counts against full thinking (the McNemar table).

    Attributes:
        harm: Right with full thinking, wrong under the policy.
        help: Wrong with full thinking, right under the policy; overthinking shows here.
        both_right: Right under both.
        both_wrong: Wrong under both.
    """

    harm: int
    help: int
    both_right: int
    both_wrong: int

    @property
    def p_value(self) -> float:
        """Exact two-sided McNemar p-value of harm and help being equally likely; 1 without either."""
        n, k = self.harm + self.help, min(self.harm, self.help)
        tail = sum(math.comb(n, i) for i in range(k + 1))
        return min(1.0, 2 * float(tail / 2**n))


def harm_help(full: Sequence[bool], policy: Sequence[bool]) -> HarmHelp:
    """Count the paired outcomes of two runs over the same calls, in the same order."""
    pairs = list(zip(full, policy, strict=True))
    return HarmHelp(
        harm=sum(f and not p for f, p in pairs),
        help=sum(p and not f for f, p in pairs),
        both_right=sum(f and p for f, p in pairs),
        both_wrong=sum(not f and not p for f, p in pairs),
    )


def minimum_n(q: float, *, level: float = LEVEL) -> int:
    """Return how many values a one-sided upper bound of the q quantile needs.

    That is the least n with ``q^n <= 1 - level``: 59 for p95, 299 for p99.
    """
    return math.ceil(math.log(1 - level) / math.log(q))


def quantile(values: ArrayLike, q: float) -> float | None:
    """Return the q quantile as an order statistic, the ceil(q n)-th smallest; None without values."""
    ordered = np.sort(np.asarray(values, dtype=float))
    if not len(ordered):
        return None
    # The tiny slack keeps 0.95 * 100 = 95.00000000000001 from becoming rank 96.
    return float(ordered[max(0, math.ceil(q * len(ordered) - 1e-9) - 1)])


def quantile_interval(
    values: ArrayLike, q: float, *, level: float = LEVEL
) -> tuple[float | None, float | None]:
    """Return a distribution-free interval of the q quantile from two order statistics.

    The r-th smallest of n values is a lower bound where ``P(Bin(n, q) >= r) >= (1 + level) / 2`` and an upper
    bound where ``P(Bin(n, q) <= r - 1) >= (1 + level) / 2``. An end is None where n is too small for it.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    n = len(ordered)
    if not n:
        return None, None
    below = _binomial_cdf(n, q)
    alpha = (1 - level) / 2
    lower = [r for r in range(1, n + 1) if below[r - 1] <= alpha]
    upper = [r for r in range(1, n + 1) if 1 - below[r - 1] <= alpha]
    return (
        float(ordered[lower[-1] - 1]) if lower else None,
        float(ordered[upper[0] - 1]) if upper else None,
    )


def _binomial_cdf(n: int, p: float) -> NDArray[np.float64]:
    """Return P(Bin(n, p) <= k) for k = 0..n."""
    k = np.arange(n + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    logs = factorials[n] - factorials - factorials[::-1] + k * math.log(p) + (n - k) * math.log1p(-p)
    return np.asarray(np.minimum(np.cumsum(np.exp(logs)), 1.0), dtype=float)
