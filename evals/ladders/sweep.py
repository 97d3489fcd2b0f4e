"""The curve of a choice between two models by a score: what is spent, and how many are right.

Every curve is computed for many weightings of its calls at once, one per row: those of a bootstrap.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from budgetctl.evals.columns import Floats
from budgetctl.evals.ladders.choices import Axis, Choice


class Sweep:
    """The curve of a choice under several weightings of its calls at once, one per row.

    Attributes:
        gap: (rows,) accuracy of always-large less that of always-small.
        share: (rows, points) share of calls sent, from none to all.
        gain: (rows, points) accuracy less that of always-small.
        cost: (rows, points) cost, 0 at always-small and 1 at always-large; None where it is not known.
        at: Numbers of calls in the order of their scores, ``starts`` where each new score begins.
    """

    def __init__(self, choice: Choice, weights: Floats) -> None:
        self.at = np.argsort(-choice.score, kind="stable")
        ordered = choice.score[self.at]
        self.starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        (small, cheap), (kept, kept_cost), (sent, sent_cost) = choice.small, choice.kept, choice.sent
        self._weights = weights
        whole = weights.sum(axis=1)[:, None]
        self.gap: Floats = (weights @ choice.gain) / whole[:, 0]
        self.share: Floats = self._path(np.ones_like(small)) / whole
        self.gain: Floats = ((weights @ (kept - small))[:, None] + self._path(sent - kept)) / whole
        self.cost: Floats | None = None
        if "cost" in choice.axes:
            assert choice.extra is not None
            assert cheap is not None
            assert kept_cost is not None
            assert sent_cost is not None
            extra = (weights @ choice.extra)[:, None]
            self.cost = ((weights @ (kept_cost - cheap))[:, None] + self._path(sent_cost - kept_cost)) / extra

    def _path(self, values: Floats) -> Floats:
        """Return the running weighted sums after each score, from 0."""
        steps = np.add.reduceat(self._weights[:, self.at] * values[self.at], self.starts, axis=1)
        return np.concatenate([np.zeros((len(steps), 1)), np.cumsum(steps, axis=1)], axis=1)

    def x(self, axis: Axis) -> Floats:
        """Return the (rows, points) positions on an axis."""
        if axis == "share":
            return self.share
        assert self.cost is not None
        return self.cost

    def area(self, axis: Axis) -> Floats:
        """Return the area between each row's curve and its random mix, up to always-large."""
        x, above = self.x(axis), self.gain - self.x(axis) * self.gap[:, None]
        x0, x1, y0, y1 = x[:, :-1], x[:, 1:], above[:, :-1], above[:, 1:]
        # The part of each piece that lies before always-large; all of it for most, none beyond.
        part = np.where(x1 > x0, np.clip((1 - x0) / np.where(x1 > x0, x1 - x0, 1), 0, 1), x0 < 1 + 1e-12)
        part = np.where(x[:, -1:] > 1 + 1e-9, part, 1.0)
        return np.asarray(((y0 + part * (y1 - y0) / 2) * part * (x1 - x0)).sum(axis=1))

    def reaches(self, axis: Axis, part: float) -> Floats:
        """Return the least position at which each row recovers a part of its gap; 1 where it never does."""
        x, wanted = self.x(axis), part * self.gap[:, None]
        there = self.gain >= wanted - 1e-12
        i = np.maximum(np.argmax(there, axis=1), 1)
        rows = np.arange(len(x))
        x0, x1, y0, y1 = x[rows, i - 1], x[rows, i], self.gain[rows, i - 1], self.gain[rows, i]
        rise = np.where(y1 > y0, (wanted[:, 0] - y0) / np.where(y1 > y0, y1 - y0, 1), 1.0)
        found = np.where(there[:, 0], x[:, 0], x0 + np.clip(rise, 0, 1) * (x1 - x0))
        return np.where(there.any(axis=1), np.clip(found, 0.0, 1.0), 1.0)


def with_score(choice: Choice, score: Floats) -> Choice:
    """Return a router of the same models by another score."""
    return replace(choice, score=score, kept=choice.small, sent=choice.large)


def oracle(choice: Choice, axis: Axis) -> Choice:
    """Return the router of the same models that makes the best curve on an axis, known afterwards.

    It sends calls up by what they gain or, on the axis of cost, by gain per cost: as an angle, so that calls
    that the large model answers for less come first, unless it loses them, and then last.
    """
    extra = choice.extra
    if axis == "share" or extra is None:
        return with_score(choice, choice.gain)
    return with_score(choice, np.arctan2(choice.gain, extra))
