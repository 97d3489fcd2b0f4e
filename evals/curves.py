"""A whole curve of budgets in one number: AIQ, APGR, CPT. All are secondary to the lift over the fixed cap.

A curve is a set of (mean tokens, accuracy). Each number is given for the fixed budgets alone (the Zero
router: no query is looked at) and for these with the policies that were asked for, over the same range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from budgetctl.evals.results import Floats

Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The numbers of one set of budgets; None is not computable.

    Attributes:
        aiq: See :func:`aiq`.
        apgr: See :func:`apgr`.
        cpt50: See :func:`cpt`; the share of the tokens that keeps half of what thinking gains.
        cpt80: The share that keeps 80 % of it.
    """

    aiq: float | None
    apgr: float | None
    cpt50: float | None
    cpt80: float | None

    def as_json(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values."""
        return asdict(self)


def frontier(points: Sequence[Point]) -> list[Point]:
    """Return the non-decreasing upper hull of (cost, quality), cheapest first.

    Points between two of its corners are reached by a random mix of both.
    """
    hull: list[Point] = []
    for cost, quality in sorted(points, key=lambda p: (p[0], -p[1])):
        if hull and quality <= hull[-1][1]:
            continue
        while len(hull) > 1 and _turns_up(hull[-2], hull[-1], (cost, quality)):
            hull.pop()
        hull.append((cost, quality))
    return hull


def _turns_up(a: Point, b: Point, c: Point) -> bool:
    return (b[0] - a[0]) * (c[1] - a[1]) >= (c[0] - a[0]) * (b[1] - a[1])


def aiq(points: Sequence[Point], *, low: float, high: float) -> float | None:
    """Return the average quality over a range of costs (Hu et al. 2024, arXiv 2403.12031, section 3).

    ``1 / (high - low)`` times the integral of the non-decreasing hull from ``low`` to ``high``. Left of its
    cheapest corner the hull has that corner's quality, right of its dearest the dearest one's.

    Returns:
        None without points or range.
    """
    hull = frontier(points)
    if not hull or not high > low:
        return None
    x, y = np.array(hull).T
    grid = np.unique(np.clip(np.concatenate([x, [low, high]]), low, high))
    return float(np.trapezoid(np.interp(grid, x, y), grid) / (high - low))


def recovered(points: Sequence[Point], *, off: Point, full: Point) -> tuple[Floats, Floats]:
    """Return the curve of the performance gap recovered (Ong et al. 2024, arXiv 2406.18665, equation 8).

    Tokens are normalised so that no thinking is 0 and full thinking is 1, quality likewise. The curve is made
    monotone: at each cost the best that costs no more.
    """
    inside = [p for p in (*points, off, full) if off[0] <= p[0] <= full[0]]
    x, y = np.array(sorted(inside)).T
    share = (x - off[0]) / (full[0] - off[0])
    gap = (np.maximum.accumulate(y) - off[1]) / (full[1] - off[1])
    # Of equal costs the best stands, which the running maximum has put last.
    last = np.append(np.diff(share) > 0, True)
    return share[last], gap[last]


def apgr(points: Sequence[Point], *, off: Point, full: Point, gap_se: float | None) -> float | None:
    """Return the average of the gap recovered over all normalised costs, by trapezoids.

    Returns:
        None where the gap between full and no thinking is below twice its standard error: a quotient by what
        may be zero means nothing.
    """
    if not _told_apart(off, full, gap_se):
        return None
    share, gap = recovered(points, off=off, full=full)
    return float(np.trapezoid(gap, share))


def cpt(
    points: Sequence[Point], *, off: Point, full: Point, gap_se: float | None, part: float
) -> float | None:
    """Return the least normalised cost that recovers ``part`` of the gap; None as for :func:`apgr`."""
    if not _told_apart(off, full, gap_se):
        return None
    share, gap = recovered(points, off=off, full=full)
    after = int(np.argmax(gap >= part))
    if after == 0:
        return float(share[0])
    rise = (part - gap[after - 1]) / (gap[after] - gap[after - 1])
    return float(share[after - 1] + rise * (share[after] - share[after - 1]))


def _told_apart(off: Point, full: Point, gap_se: float | None) -> bool:
    gap = full[1] - off[1]
    return gap_se is not None and gap > 2 * gap_se and gap > 0 and full[0] > off[0]


def compare_curves(
    fixed: Mapping[str, Point], policies: Mapping[str, Point], *, gap_se: float | None
) -> dict[str, Curve]:
    """Return the numbers of the fixed budgets (``fixed``) and of these with policies (``with_policies``).

    Args:
        fixed: Name to mean tokens and accuracy; ``full`` is among them.
        policies: The same of policies.
        gap_se: Standard error of the paired accuracy difference of full and no thinking.
    """
    together = [*fixed.values(), *policies.values()]
    low, high = min(c for c, _ in together), max(c for c, _ in together)
    off, full = fixed.get("off"), fixed["full"]

    def curve(points: Sequence[Point]) -> Curve:
        area = aiq(points, low=low, high=high)
        if off is None:
            return Curve(aiq=area, apgr=None, cpt50=None, cpt80=None)
        return Curve(
            aiq=area,
            apgr=apgr(points, off=off, full=full, gap_se=gap_se),
            cpt50=cpt(points, off=off, full=full, gap_se=gap_se, part=0.5),
            cpt80=cpt(points, off=off, full=full, gap_se=gap_se, part=0.8),
        )

    return {"fixed": curve(list(fixed.values())), "with_policies": curve(together)}
