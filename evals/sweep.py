"""The curve of a choice between two models by a score: what is spent, and how many are right.

Every curve is computed for many weightings of its calls at once, one per row: those of a bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from budgetctl.evals.columns import Ints
from budgetctl.evals.results import Floats

Axis = Literal["share", "cost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Calls that can be answered by either of two models; all arrays have one value per call.

    Attributes:
        score: The larger, the sooner a call goes to the large model.
        small: (Right, cost) at the small model alone; right is 0 to 1, cost in dollars or tokens or None.
        large: The same at the large one.
        kept: The same of a call that the policy does not send up. A router's is ``small``.
        sent: The same of one that it sends. A router's is ``large``, a cascade adds the cost of its draft.
        groups: Number of the unit that the bootstrap draws, from 0.
        weight: Weight of each call; calls of one question share theirs.
    """

    score: Floats
    small: tuple[Floats, Floats | None]
    large: tuple[Floats, Floats | None]
    kept: tuple[Floats, Floats | None]
    sent: tuple[Floats, Floats | None]
    groups: Ints
    weight: Floats

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes on which this can be judged; ``cost`` takes known costs and a dearer large model."""
        if self.small[1] is None or self.large[1] is None:
            return ("share",)
        return ("share", "cost") if self.weight @ (self.large[1] - self.small[1]) > 0 else ("share",)


def oracle_score(choice: Choice, axis: Axis) -> Floats:
    """Return the score that makes the best curve on an axis: gain, or gain per cost, known afterwards."""
    gain = choice.large[0] - choice.small[0]
    if axis == "share" or choice.large[1] is None or choice.small[1] is None:
        return gain
    extra = choice.large[1] - choice.small[1]
    return np.asarray(gain / np.maximum(extra, 1e-9 * np.abs(extra).max()))


class Sweep:
    """The curve of a choice under several weightings of its calls at once, one per row.

    Attributes:
        gap: (rows,) accuracy of always-large less that of always-small.
        share: (rows, points) share of calls sent, from none to all.
        gain: (rows, points) accuracy less that of always-small.
        cost: (rows, points) cost, 0 at always-small and 1 at always-large; None where it is not known.
        at: Numbers of calls in the order of their scores, ``starts`` where each new score begins.
    """

    def __init__(self, choice: Choice, weights: Floats, *, dealt: Ints | None = None) -> None:
        self.at = np.argsort(-choice.score, kind="stable")
        ordered = choice.score[self.at]
        self.starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        (small, cheap), (large, dear) = choice.small, choice.large
        (kept, kept_cost), (sent, sent_cost) = choice.kept, choice.sent
        self._weights, self._dealt = weights, dealt
        whole = weights.sum(axis=1)[:, None]
        self.gap: Floats = (weights @ (large - small)) / whole[:, 0]
        self.share: Floats = self._path(np.ones_like(small)) / whole
        self.gain: Floats = ((weights @ (kept - small))[:, None] + self._path(sent - kept)) / whole
        self.cost: Floats | None = None
        if "cost" in choice.axes and cheap is not None and dear is not None:
            assert kept_cost is not None
            assert sent_cost is not None
            extra = (weights @ (dear - cheap))[:, None]
            self.cost = ((weights @ (kept_cost - cheap))[:, None] + self._path(sent_cost - kept_cost)) / extra

    def _path(self, values: Floats) -> Floats:
        """Return the running weighted sums after each score, from 0."""
        if self._dealt is None:
            terms = self._weights[:, self.at] * values[self.at]
        else:
            terms = np.broadcast_to(self._weights[0] * values, self._dealt.shape)
            terms = np.take_along_axis(terms, self._dealt, axis=1)
        steps = np.add.reduceat(terms, self.starts, axis=1)
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
