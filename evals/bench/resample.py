"""Figures with the number of cases behind them and a bootstrap interval."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from budgetctl.evals import stats
from budgetctl.evals.results import Floats
from numpy.typing import ArrayLike, NDArray

Rows = NDArray[np.intp]
Statistic = Callable[[Rows], float | None]
"""From the numbers of the cases that were drawn, repeated as often as they were, to a statistic of them."""

RESAMPLES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number; None is unknown, never zero.

    Attributes:
        value: The number.
        n: How many cases (questions, or questions with a model) it rests on.
        ci: 95 % interval.
    """

    value: float | None
    n: int
    ci: stats.Interval | None = None

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values, rounded to what could matter."""
        ci = None if self.ci is None else [round(end, 4) for end in self.ci]
        return {"value": None if self.value is None else round(self.value, 4), "n": self.n, "ci": ci}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """Percentile bootstrap over clusters of cases (Efron & Tibshirani 1993).

    Every figure is drawn from the same seed, so that two rows over the same cases are drawn alike.
    """

    seed: int
    resamples: int

    def figure(self, statistic: Statistic, clusters: Sequence[Hashable]) -> Figure:
        """Return a statistic of the cases with its interval; ``clusters`` names each case's cluster."""
        value = statistic(np.arange(len(clusters))) if len(clusters) else None
        drawn = [] if value is None else self._draws(statistic, clusters)
        return Figure(value=value, n=len(clusters), ci=stats.interval(drawn) if drawn else None)

    def mean(self, values: ArrayLike, clusters: Sequence[Hashable]) -> Figure:
        """Return the mean over the cases with its interval."""
        value, drawn = self._means(values, clusters)
        return Figure(value=value, n=len(clusters), ci=stats.interval(drawn) if len(drawn) else None)

    def share(self, hits: ArrayLike, clusters: Sequence[Hashable]) -> Figure:
        """Return the share of cases that are hits; its interval is never narrower than the clusters allow."""
        value, drawn = self._means(hits, clusters)
        if value is None or not len(drawn):
            return Figure(value=value, n=len(clusters))
        low, high = stats.difference_interval(drawn, point=value, n=len(set(clusters)))
        return Figure(value=value, n=len(clusters), ci=(max(low, 0.0), high))

    def _means(self, values: ArrayLike, clusters: Sequence[Hashable]) -> tuple[float | None, Floats]:
        """Return the mean and its resamples; none of less than two clusters."""
        found, groups = np.asarray(values, dtype=float), _numbered(clusters)
        if not len(found):
            return None, np.empty(0)
        value = float(found.mean())
        if groups.max() == 0:
            return value, np.empty(0)
        rng = np.random.default_rng(self.seed)
        drawn = stats.bootstrap_means(found[:, None], rng=rng, groups=groups, resamples=self.resamples)
        return value, drawn[:, 0]

    def _draws(self, statistic: Statistic, clusters: Sequence[Hashable]) -> list[float]:
        """Return the statistic of every resample in which it is defined; none of less than two clusters."""
        cluster = _numbered(clusters)
        count = int(cluster.max()) + 1
        if count < 2:
            return []
        rng = np.random.default_rng(self.seed)
        drawn = []
        for _ in range(self.resamples):
            times = np.bincount(rng.integers(count, size=count), minlength=count)
            value = statistic(np.repeat(np.arange(len(cluster)), times[cluster]))
            if value is not None:
                drawn.append(value)
        return drawn


def _numbered(clusters: Sequence[Hashable]) -> Rows:
    numbers = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    return np.array([numbers[name] for name in clusters], dtype=np.intp)
