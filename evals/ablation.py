"""Where a saving comes from: the budget, the classifier, the stop.

* **stop**: the saving of the policy less that of the same policy without its stop preset. Nothing where the
  preset ended no thought.
* **budget**: what one cap for all questions saves at the accuracy of the policy without its stop preset: the
  cheapest mix of two neighbouring fixed budgets that is as accurate.
* **classifier**: the rest, what choosing per question adds. It is negative where choosing costs tokens.

The three add up to the saving of the policy.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from budgetctl.evals.results import Floats
from budgetctl.evals.stats import Interval, interval
from numpy.typing import ArrayLike

from budgetctl.policy import parse

Drawn = tuple[float, Floats]
"""A mean, and its bootstrap samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The parts of a token saving, as shares of the tokens of full thinking, with 95 % intervals."""

    budget: float
    budget_ci: Interval
    classifier: float
    classifier_ci: Interval
    stop: float
    stop_ci: Interval

    def as_json(self) -> dict[str, Any]:
        """Return the parts as plain JSON values."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


def split(*, full: Drawn, cap: Drawn, plain: Drawn, policy: Drawn) -> Split:
    """Split a saving of tokens.

    Args:
        full: Tokens of full thinking.
        cap: Those of fixed budgets that are as accurate as ``plain``.
        plain: Those of the policy without its stop preset.
        policy: Those of the policy.
    """
    whole, drawn = full
    parts = [
        ((more - less) / whole, interval((more_drawn - less_drawn) / drawn))
        for (more, more_drawn), (less, less_drawn) in ((full, cap), (cap, plain), (plain, policy))
    ]
    (budget, budget_ci), (classifier, classifier_ci), (stop, stop_ci) = parts
    return Split(
        budget=budget,
        budget_ci=budget_ci,
        classifier=classifier,
        classifier_ci=classifier_ci,
        stop=stop,
        stop_ci=stop_ci,
    )


def without_stop(policy: str) -> str:
    """Return the name of the same policy without any stop preset."""
    terms = [re.sub(r"\+stop:[a-z]+", "", term) + "+stop:none" for term in policy.split("&")]
    return str(parse("&".join(terms)))


def matched_tokens(curve_tokens: ArrayLike, curve_accuracy: ArrayLike, accuracy: ArrayLike) -> Floats:
    """Return the least mean tokens at which the curve of fixed budgets reaches an accuracy, curve by curve.

    Between two neighbouring points tokens are those of their random mix. An accuracy above the whole curve is
    reached nowhere: then the tokens of its most accurate point stand, which understates the policy.

    Args:
        curve_tokens: Shape (rows, points): mean tokens of the fixed budgets, in any order.
        curve_accuracy: Shape (rows, points).
        accuracy: Shape (rows,): what to reach.
    """
    x = np.atleast_2d(np.asarray(curve_tokens, dtype=float))
    y = np.atleast_2d(np.asarray(curve_accuracy, dtype=float))
    order = np.lexsort((-y, x), axis=1)
    x, y = np.take_along_axis(x, order, axis=1), np.take_along_axis(y, order, axis=1)
    best = np.maximum.accumulate(y, axis=1)
    wanted = np.minimum(np.atleast_1d(np.asarray(accuracy, dtype=float)), best[:, -1])
    right = np.argmax(best >= wanted[:, None], axis=1)
    left = np.maximum(right - 1, 0)
    rows = np.arange(len(x))
    # A dearer point that is no better is passed over: the best so far stands where it was reached.
    improves = np.diff(best, axis=1, prepend=-np.inf) > 0
    reached = np.maximum.accumulate(np.where(improves, x, -np.inf), axis=1)
    x0, x1, y0, y1 = reached[rows, left], x[rows, right], best[rows, left], y[rows, right]
    rise = np.where(y1 > y0, (wanted - y0) / np.where(y1 > y0, y1 - y0, 1.0), 1.0)
    return np.asarray(x0 + rise * (x1 - x0), dtype=float)
