"""Paired statistics: bootstrap over questions or clusters, standard errors, quantiles with exact bounds.

Everything that draws takes its random generator as an argument. Undefined statistics are None, not zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from budgetctl.evals.results import Floats
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
RESAMPLES = 2000
POWER = 0.8
MOST_NEEDED = 1_000_000
"""What is said where the data cannot tell: no practical number of questions would do."""
MOST_UNITS = 10_000
"""Rows or groups that are drawn one by one; where there are more, this many random bundles of them are drawn,
whose means vary as much (random groups, Wolter 2007, chapter 2)."""
_CHUNK_CELLS = 4_000_000
_EXACT = 1000
"""Trials up to which binomial sums are taken in whole numbers."""

Interval = tuple[float, float]


def bootstrap_means(
    values: ArrayLike,
    *,
    rng: np.random.Generator,
    groups: ArrayLike | None = None,
    resamples: int = RESAMPLES,
) -> Floats:
    """Resample rows (or whole groups of rows) and return the mean of every column in each resample.

    Args:
        values: Shape (n, columns): one row per question.
        rng: As for :func:`bootstrap_columns`, as is all else.
    """
    table = np.atleast_2d(np.asarray(values, dtype=float))
    return bootstrap_columns(list(table.T), rng=rng, groups=groups, resamples=resamples)


def bootstrap_columns(
    columns: Sequence[Floats],
    *,
    rng: np.random.Generator,
    groups: ArrayLike | None = None,
    resamples: int = RESAMPLES,
) -> Floats:
    """Resample rows (or whole groups of rows) and return the mean of every column in each resample.

    All columns are resampled together, so any function of them (a difference, a ratio, an interpolation) has
    its paired bootstrap distribution in the rows of the result.

    Args:
        columns: One array of shape (n,) per quantity, one value per question.
        rng: Source of the draws.
        groups: Shape (n,): integers from 0; rows of a group are drawn together. None: every row by itself.
        resamples: How many.

    Returns:
        Shape (resamples, columns).
    """
    ids = np.arange(len(columns[0])) if groups is None else np.asarray(groups, dtype=np.intp)
    count = int(ids.max()) + 1
    if count > MOST_UNITS:
        ids, count = rng.permutation(count)[ids] % MOST_UNITS, MOST_UNITS
    sums = np.column_stack([np.bincount(ids, weights=c, minlength=count) for c in columns])
    sizes = np.bincount(ids, minlength=count).astype(float)
    step = max(1, min(resamples, _CHUNK_CELLS // count))
    means = np.empty((resamples, len(columns)))
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


def paired_interval(
    samples: ArrayLike, *, point: float, n: int, rng: np.random.Generator, level: float = LEVEL
) -> Interval:
    """Return the interval of a difference between two policies, safe where few units differ.

    A resample of k events counts about Poisson(k) of them, while k events do not exclude a rate of
    Poisson(k + 1) (Garwood 1936, Biometrika 28): with one unit better and none worse the percentile bootstrap
    would rule out every loss. So each resample counts Poisson(1) losses and Poisson(1) gains that were not
    seen. Where no unit differs the interval is as wide as ``n`` units without a difference allow
    (:func:`rule_of_three`).

    Args:
        samples: Bootstrap samples of the difference.
        point: The difference itself.
        n: Number of independent units (questions, or clusters).
        rng: Source of the draws.
        level: Coverage.
    """
    drawn = np.asarray(samples, dtype=float)
    low, high = interval(drawn + (rng.poisson(1, drawn.shape) - rng.poisson(1, drawn.shape)) / n, level=level)
    if not np.ptp(drawn):
        slack = rule_of_three(n, level=level)
        low, high = min(low, point - slack), max(high, point + slack)
    return max(-1.0, low), min(1.0, high)


def units_without_a_difference(margin: float, *, level: float = LEVEL) -> int:
    """Return the least number of units that rule out a loss of ``margin`` where not one of them differs.

    Raises:
        ValueError: ``margin`` is not between 0 and 1.
    """
    if not 0 < margin < 1:
        raise ValueError(f"a margin lies between 0 and 1, seen {margin}")
    return math.floor(math.log((1 - level) / 2) / math.log1p(-margin)) + 1


def units_needed(*, se: float | None, n: int, point: float, margin: float, power: float = POWER) -> int:
    """Return how many units would settle whether a difference as it was seen stays above ``-margin``.

    ``((z_level + z_power) * sd / distance)^2`` (Miller 2024, arXiv 2411.00640, section 5): the distance is
    that from ``-margin`` where the difference lies above it (a gain counts as none: it may be luck), and that
    from 0, for a loss to be shown, where it does not.

    Args:
        se: Standard error of the difference over ``n`` units; None is unknown.
        n: Units so far.
        point: The difference.
        margin: The loss that passes.
        power: Probability that so many units settle it.
    """
    fewest = units_without_a_difference(margin) if margin > 0 else MOST_NEEDED
    if not se:
        return fewest
    seen = min(point, 0.0)
    distance = seen + margin if seen > -margin else -seen
    if distance <= 0:
        return MOST_NEEDED
    z = NormalDist().inv_cdf((1 + LEVEL) / 2) + NormalDist().inv_cdf(power)
    return min(MOST_NEEDED, max(fewest, math.ceil((z * se / distance) ** 2 * n)))


def paired_se(differences: ArrayLike, *, groups: ArrayLike | None = None) -> float | None:
    """Return the standard error of a mean of paired differences, clustered.

    ``sqrt(C / (C - 1) * sum_c (sum_{q in c} (d_q - mean))^2) / n`` with C clusters; with one question per
    cluster this is the usual standard error of paired differences (Miller 2024, arXiv 2411.00640).

    Returns:
        None with fewer than two clusters.
    """
    d = np.asarray(differences, dtype=float)
    ids = np.arange(len(d)) if groups is None else np.asarray(groups, dtype=np.intp)
    count = np.count_nonzero(np.bincount(ids))
    if count < 2:
        return None
    sums = np.bincount(ids, weights=d - d.mean())
    return math.sqrt(count / (count - 1) * float((sums**2).sum())) / len(d)


def variance_parts(values: ArrayLike, questions: ArrayLike) -> tuple[float, float] | None:
    """Return the variance of a mean over questions in two parts: that of questions and that of samples.

    ``(Var_q + E[Var_sample] / K) / n`` (Miller 2024, arXiv 2411.00640, section 3.2).

    Args:
        values: One per call, 0 or 1.
        questions: For every call the number of its question.

    Returns:
        None with fewer than two questions or samples, or where questions differ in their samples.
    """
    index = np.asarray(questions, dtype=np.intp)
    counts = np.bincount(index)
    k, n = int(counts[0]), len(counts)
    if n < 2 or k < 2 or (counts != k).any():
        return None
    means = np.bincount(index, weights=np.asarray(values, dtype=float)) / k
    within = float(np.mean(means * (1 - means) * k / (k - 1)))
    return max(0.0, float(means.var(ddof=1)) - within / k) / n, within / k / n


def harm_help(full: ArrayLike, policy: ArrayLike) -> tuple[int, int]:
    """Count the calls that only full thinking got right, and those that only the policy got right.

    Args:
        full: One per call, 0 or 1.
        policy: The same calls in the same order.
    """
    f, p = np.asarray(full, dtype=bool), np.asarray(policy, dtype=bool)
    if f.shape != p.shape:
        raise ValueError(f"runs of {len(f)} and {len(p)} calls cannot be paired")
    return int((f & ~p).sum()), int((p & ~f).sum())


def sign_test(losses: int, gains: int) -> float:
    """Return the exact two-sided p-value of losses and gains being equally likely; 1 without either.

    With one call per unit this is the exact McNemar test.
    """
    n, k = losses + gains, min(losses, gains)
    if n > _EXACT:
        return min(1.0, 2 * float(_binomial_cdf(n, 0.5)[k]))
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, 2 * float(tail / 2**n))


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
    lower = np.flatnonzero(below[:-1] <= alpha)
    upper = np.flatnonzero(1 - below[:-1] <= alpha)
    return (
        float(ordered[lower[-1]]) if len(lower) else None,
        float(ordered[upper[0]]) if len(upper) else None,
    )


def upper_bound(values: ArrayLike, q: float, *, level: float = LEVEL) -> float | None:
    """Return a one-sided distribution-free upper bound of the q quantile; None where n is too small.

    It takes :func:`minimum_n` values.
    """
    return quantile_interval(values, q, level=2 * level - 1)[1]


def _binomial_cdf(n: int, p: float) -> NDArray[np.float64]:
    """Return P(Bin(n, p) <= k) for k = 0..n."""
    k = np.arange(n + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    logs = factorials[n] - factorials - factorials[::-1] + k * math.log(p) + (n - k) * math.log1p(-p)
    return np.asarray(np.minimum(np.cumsum(np.exp(logs)), 1.0), dtype=float)
