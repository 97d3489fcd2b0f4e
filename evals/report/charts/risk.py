"""Estimates against answers, and the loss of fixed budgets against the loss that passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from budgetctl.evals.report.charts import vega
from budgetctl.evals.report.charts.figure import Figure
from budgetctl.evals.report.charts.vega import Look, Spec, at, axis, constant, mark, scale, value
from budgetctl.evals.report.table import NA
from budgetctl.evals.verdict import share

Row = Mapping[str, Any]


def reliability(details: Mapping[str, Any], look: Mapping[str, Look]) -> Figure | None:
    """Return how often answers were right against how often decisions expected it."""
    found = [(entry, b) for entry in details["reliability"] for b in entry["bins"]]
    if not found:
        return None
    rows = [
        {
            "policy": entry["policy"],
            "x": 100 * b["expected"],
            "y": 100 * b["right"],
            "low": 100 * b["low"],
            "high": 100 * b["high"],
            "say": f"{entry['policy']}\nexpected {share(b['expected'])}, right {share(b['right'])}\n"
            f"{b['n']:,} questions",
            **look[entry["policy"]].fields(),
        }
        for entry, b in found
    ]
    across, up, dash = at("x", "x"), at("y", "y"), value([5, 4])
    chart = vega.chart(
        "Share of right answers against the probability that decisions expected",
        height=380,
        data={"rows": rows, "ideal": [{"x": 0, "y": 0}, {"x": 100, "y": 100}]},
        scales=[scale("x", "linear", [0, 100]), scale("y", "linear", [0, 100])],
        axes=[axis("bottom", "expected to be right, %"), axis("left", "were right, %")],
        marks=[
            mark("line", "ideal", x=across, y=up, stroke=value(vega.MUTED), strokeDash=dash),
            vega.intervals("rows", x=across, y=at("y", "low"), y2=at("y", "high")),
            vega.points("rows", x=across, y=up),
        ],
    )
    return Figure(
        id="reliability",
        title="Reliability of the estimates",
        note="Questions grouped by the probability of a right answer that the decision expected. On the "
        "dashed line they were right as often as that; bars are 95 % intervals (Wilson). It says how "
        "good the estimates are, not whether the policy pays.",
        variants={"all": chart},
        headings=["policy", "questions", "mean gap (ECE)", "expected right", "were right (95 % CI)", "of"],
        lines=[
            [
                entry["policy"],
                f"{entry['n']:,}",
                f"{entry['ece']:.3f}",
                share(b["expected"]),
                f"{share(b['right'])} ({100 * b['low']:.0f}-{100 * b['high']:.0f})",
                f"{b['n']:,}",
            ]
            for entry, b in found
        ],
        narrow=True,
    )


def risk(details: Mapping[str, Any], look: Mapping[str, Look], *, margin: float | None) -> Figure | None:
    """Return the loss of every fixed budget, in the order in which a certificate would test them."""
    rows = [row for row in details["risk"] if row["low"] is not None]
    if not rows:
        return None
    sure = f"{100 * (1 - details['level_of_bounds']):.0f} %"
    return Figure(
        id="risk",
        title="Risk of a fixed budget",
        note=f"Accuracy lost against full thinking, with 95 % intervals; the triangles are the {sure} upper "
        "bound of the betting test. A budget whose bound lies below epsilon could be certified by "
        "itself; budgetctl calibrate walks from the left and stops at the first that could not.",
        variants={"all": _risk(rows, look, sure=sure, margin=margin)},
        headings=["budget", "mean tokens", "points lost (95 % CI)", f"{sure} upper bound"],
        lines=[[r["policy"], f"{r['tokens']:,.0f}", _loss(r), _points(r["bound"])] for r in rows],
    )


def _risk(found: Sequence[Row], look: Mapping[str, Look], *, sure: str, margin: float | None) -> Spec:
    rows = [
        {
            "cap": row["policy"],
            "y": 100 * row["loss"],
            "low": 100 * row["low"],
            "high": 100 * row["high"],
            "bound": None if row["bound"] is None else 100 * row["bound"],
            "say": f"{row['policy']}\nloss {_loss(row)} points\n{sure} upper bound {_points(row['bound'])}\n"
            f"{row['tokens']:,.0f} mean tokens",
            **look[row["policy"]].fields(size=80),
        }
        for row in found
    ]
    across, bound, say = at("x", "cap"), at("y", "bound"), vega.field("say")
    colour = value("var(--p1)")
    triangle: Spec = {"shape": value("triangle-down"), "size": value(70), "fill": colour, "tooltip": say}
    limits = vega.limit(f"epsilon {100 * margin:g}", y=constant("y", 100 * margin)) if margin else []
    return vega.chart(
        "Accuracy lost against full thinking under fixed budgets, from the safest to the cheapest",
        height=340,
        data={"rows": rows, "bounds": [row for row in rows if row["bound"] is not None]},
        scales=[
            scale("x", "point", [row["policy"] for row in found], padding=0.5),
            scale("y", "linear", {"data": "rows", "fields": ["low", "high", "bound"]}, zero=True, nice=True),
        ],
        axes=[
            axis("bottom", "fixed budget, safest first", grid=False, labelAngle=-40, labelAlign="right"),
            axis("left", "points lost against full"),
        ],
        marks=[
            *limits,
            mark("line", "bounds", x=across, y=bound, stroke=colour, strokeWidth=value(1.6)),
            vega.intervals("rows", x=across, y=at("y", "low"), y2=at("y", "high")),
            vega.points("rows", x=across, y=at("y", "y")),
            mark("symbol", "bounds", x=across, y=bound, **triangle),
        ],
    )


def _loss(row: Row) -> str:
    return f"{100 * row['loss']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})"


def _points(loss: float | None) -> str:
    return NA if loss is None else f"{100 * loss:.1f}"
