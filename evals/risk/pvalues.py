"""P-values of the hypothesis "the expected loss is at least epsilon", for independent losses of at most 1.

Both are exact in finite samples: ``P(p <= a) <= a`` for every ``a`` whenever the hypothesis is true. Neither
is a normal approximation; at small epsilon those reject far too often (see ``honesty``).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

Test = Literal["betting", "binomial"]
MOST_BET = 0.75
MOST_UNITS = 100_000


def betting_p(losses: ArrayLike, *, epsilon: float, level: float) -> float:
    """Return the betting p-value of ``E[loss] >= epsilon``, in (0, 1].

    A gambler who bets that the loss is small has, after i losses, the wealth
    ``K_i = prod_{j <= i} (1 - nu_j (x_j - epsilon))``. The stake ``nu_j`` lies in [0, 0.75 / (1 - epsilon)]
    and is chosen from the losses before j only, so every factor is positive for ``x_j <= 1``, however far
    below zero it may be, and ``E[K_i | past] = K_{i-1} (1 - nu_i (E[x_i | past] - epsilon)) <= K_{i-1}``
    under the hypothesis. So K is a non-negative supermartingale that starts at 1, ``P(max_i K_i >= 1 / a) <=
    a`` (Ville 1939), and ``1 / max_i K_i`` is a p-value. The stakes are the predictable
    ones of Waudby-Smith & Ramdas 2024 (arXiv 2010.09686): ``nu_i = sqrt(2 ln(1 / level) / (n var_{i-1}))``,
    truncated, where mean and variance are those of the losses so far with one prior loss of 0 and variance
    1/4.

    Args:
        losses: One per independent unit, in an order that does not depend on them.
        epsilon: The bound that is to be shown, in (0, 1).
        level: The level that the p-value is meant for; it shapes the stakes, and validity does not depend on
        it.

    Raises:
        ValueError: A loss is above 1 or not finite.
    """
    values = np.asarray(losses, dtype=float)
    if not (np.isfinite(values).all() and (values <= 1).all()):
        raise ValueError("losses are finite and at most 1")
    stake = 2 * math.log(1 / level) / max(len(values), 1)
    most = MOST_BET / (1 - epsilon)
    wealth = best = total = squares = 0.0
    variance = 0.25
    for i, loss in enumerate(values.tolist(), start=1):
        nu = min(math.sqrt(stake / variance), most)
        wealth += math.log1p(-nu * (loss - epsilon))
        best = max(best, wealth)
        total += loss
        mean = total / (i + 1)
        squares += (loss - mean) ** 2
        variance = (0.25 + squares) / (i + 1)
    return math.exp(-best)


def binomial_p(harms: int, n: int, *, epsilon: float) -> float:
    """Return ``P(Bin(n, epsilon) <= harms)``: exact for losses of 0 or 1, of which ``harms`` are 1.

    The distribution function falls as its probability grows, so the value at epsilon bounds those of all
    larger expected losses.

    Raises:
        ValueError: There are not 0 to n harms.
    """
    if not 0 <= harms <= n:
        raise ValueError(f"of {n} losses {harms} cannot be harms")
    if harms == n:
        return 1.0
    log_odds = math.log(epsilon) - math.log1p(-epsilon)
    log_term = n * math.log1p(-epsilon)
    terms = [log_term]
    for k in range(1, harms + 1):
        log_term += math.log((n - k + 1) / k) + log_odds
        terms.append(log_term)
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def p_value(losses: ArrayLike, *, epsilon: float, level: float, test: Test) -> float:
    """Return the p-value of "the expected loss is at least epsilon" by the named test."""
    values = np.asarray(losses, dtype=float)
    if test == "betting":
        return betting_p(values, epsilon=epsilon, level=level)
    if not np.isin(values, (0.0, 1.0)).all():
        raise ValueError("the binomial test takes losses of 0 or 1")
    return binomial_p(int(values.sum()), len(values), epsilon=epsilon)


def minimum_n(*, epsilon: float, level: float, test: Test) -> int:
    """Return how many losses of exactly 0 it takes to reject at ``level``: fewer can never certify."""
    factor = -math.log1p(-epsilon)
    least = math.ceil(math.log(1 / level) / factor)
    sizes = range(least, 4 * least + 1)

    def rejects(n: int) -> bool:
        return p_value(np.zeros(n), epsilon=epsilon, level=level, test=test) <= level

    return sizes[bisect_left(sizes, True, key=rejects)]


def needed_n(
    losses: Sequence[float], *, epsilon: float, level: float, test: Test, rng: np.random.Generator
) -> int | None:
    """Return about how many units like these it takes to reject at ``level``, in steps of a quarter.

    Losses are drawn anew from those that were seen, 20 times for each size, and most draws have to reject.
    That is a projection, with nothing guaranteed.

    Returns:
        None where the mean loss is not below epsilon, so that more of the same will not do, or where
        :data:`MOST_UNITS` would not.
    """
    seen = np.asarray(losses, dtype=float)
    if seen.mean() >= epsilon:
        return None
    n = max(minimum_n(epsilon=epsilon, level=level, test=test), len(seen))
    while n <= MOST_UNITS:
        draws = (rng.choice(seen, size=n) for _ in range(20))
        rejected = sum(p_value(draw, epsilon=epsilon, level=level, test=test) <= level for draw in draws)
        if rejected >= 16:
            return n
        n = math.ceil(1.25 * n)
    return None
