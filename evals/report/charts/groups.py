"""Policies by group of questions, and what they spend by difficulty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from budgetctl.evals.baselines import ORACLE
from budgetctl.evals.metrics import FULL, Evaluation, is_fixed
from budgetctl.evals.report.charts import vega
from budgetctl.evals.report.charts.figure import Figure
from budgetctl.evals.report.charts.vega import Look, Spec, at, axis, constant, mark, scale, signal, value
from budgetctl.evals.verdict import share

Row = Mapping[str, Any]


def forest(
    evaluation: Evaluation, details: Mapping[str, Any], look: Mapping[str, Look], *, margin: float | None
) -> Figure | None:
    """Return the accuracy difference of every policy in every group."""
    by = details["grouped_by"]
    if not details["forest"]:
        return None
    compared = [r for r in (*evaluation.policies, *evaluation.baselines) if r.policy not in (FULL, ORACLE)]
    if len(compared) > 1:
        # What off loses is many times what policies lose: on its scale nothing else could be told apart.
        compared = [r for r in compared if r.policy != "off"]
    whole = [
        {"group": "all", "policy": r.policy, "n": r.n, "delta": r.delta_accuracy, "low": ci[0], "high": ci[1]}
        for r in compared
        if (ci := r.delta_ci) is not None
    ]
    names = {row["policy"] for row in whole}
    rows = [*whole, *(row for row in details["forest"] if row["policy"] in names)]
    return Figure(
        id="forest",
        title=f"By {by}",
        note="Each point is a policy's accuracy less that of full thinking on the same questions, with its "
        "95 % paired interval; in brackets the number of questions. Groups are small: an interval that "
        "reaches beyond the margin does not show a loss, it only cannot rule one out.",
        variants={"all": _forest(rows, look, by=by, margin=margin)},
        headings=[by, "policy", "questions", "points against full (95 % CI)"],
        lines=[[str(r["group"]), str(r["policy"]), f"{r['n']:,}", _difference(r)] for r in rows],
    )


def _forest(rows: Sequence[Row], look: Mapping[str, Look], *, by: str, margin: float | None) -> Spec:
    drawn = [
        {
            "group": f"{row['group']} ({row['n']:,})",
            "policy": row["policy"],
            "x": round(100 * row["delta"], 2),
            "low": round(100 * row["low"], 2),
            "high": round(100 * row["high"], 2),
            "say": f"{row['policy']}, {row['group']}\n{_difference(row)} points against full\n"
            f"{row['n']:,} questions",
            **look[row["policy"]].fields(size=70),
        }
        for row in rows
    ]
    groups = list(dict.fromkeys(row["group"] for row in drawn))
    place = {"scale": "group", "field": "group", "offset": at("inner", "policy", band=0.5)}
    limits = vega.limit("full", x=constant("x", 0))
    if margin:
        limits += vega.limit("", x=constant("x", -100 * margin))
    inner = {"data": "rows", "field": "policy"}
    return vega.chart(
        f"Difference in accuracy against full thinking by {by}",
        height=f"max(80, 14 * length(data('rows')) + {8 * len(groups)})",
        data={"rows": drawn},
        scales=[
            scale("x", "linear", {"data": "rows", "fields": ["low", "high"]}, zero=True, nice=True),
            scale("group", "band", groups, paddingInner=0.15),
            {"name": "inner", "type": "band", "domain": inner, "range": signal("[0, bandwidth('group')]")},
        ],
        axes=[
            axis("bottom", "points of accuracy against full thinking"),
            axis("left", "", of="group", grid=False, labelLimit=signal("max(110, 0.3 * containerSize()[0])")),
        ],
        marks=[
            *limits,
            vega.intervals("rows", y=place, x=at("x", "low"), x2=at("x", "high")),
            vega.points("rows", x=at("x", "x"), y=place),
        ],
    )


def _difference(row: Row) -> str:
    return f"{100 * row['delta']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})"


def spent(details: Mapping[str, Any], look: Mapping[str, Look], *, recommended: str | None) -> Figure | None:
    """Return what calls of each difficulty spent, under a policy and under full thinking."""
    found, by = details["spent"], details["difficulty"]
    if found is None:
        return None
    rows, width = found["rows"], found["width"]
    policies = sorted({row["policy"]: None for row in rows}, key=lambda n: (n != recommended, is_fixed(n)))
    return Figure(
        id="spent",
        title="Thinking used, by difficulty",
        note=f"How many tokens calls used, by {by}, easiest first. The outline is full thinking on the same "
        "questions; the last bar holds everything longer. A policy that knows the questions apart gives "
        "little to the easy and leaves the hard alone.",
        variants={
            name: _spent(
                [row for row in rows if row["policy"] in (name, FULL)], look, policy=name, width=width
            )
            for name in policies
        },
        choice="Policy",
        headings=[by, "policy", "calls", "mean tokens", "accuracy"],
        lines=[
            [row["level"], row["policy"], f"{row['n']:,}", f"{row['mean']:,.0f}", share(row["accuracy"])]
            for row in rows
        ],
    )


def _spent(rows: Sequence[Row], look: Mapping[str, Look], *, policy: str, width: int) -> Spec:
    levels = list(dict.fromkeys(row["level"] for row in rows))
    top = max(max(row["counts"]) / row["n"] for row in rows)
    head = signal("scale('level', datum.level) + bandwidth('level') * (1 - datum.tall)")
    places: Spec = {
        "x": at("x", "from"),
        "x2": at("x", "to"),
        "y": head,
        "y2": {"scale": "level", "field": "level", "band": 1},
    }
    fill, opacity, say = value(look[policy].colour), value(0.75), vega.field("say")
    return vega.chart(
        f"Tokens used under {policy} by difficulty",
        height=30 + 62 * len(levels),
        data={
            "bars": [bar for row in rows if row["policy"] == policy for bar in _bars(row, width, top)],
            "full": [bar for row in rows if row["policy"] == FULL for bar in _bars(row, width, top)],
        },
        scales=[
            scale("x", "linear", [0, width * len(rows[0]["counts"])]),
            scale("level", "band", levels, paddingInner=0.2),
        ],
        axes=[
            axis("bottom", "tokens per call"),
            axis("left", "", of="level", grid=False, bandPosition=1, labelOffset=-8),
        ],
        marks=[
            mark("rect", "bars", **places, fill=fill, fillOpacity=opacity, tooltip=say),
            mark("rect", "full", **places, stroke=value(vega.INK), strokeWidth=value(1)),
        ],
    )


def _bars(row: Row, width: int, top: float) -> list[dict[str, Any]]:
    """Return the bars of a histogram that are not empty, without a policy, so that none is hidden."""
    last = len(row["counts"]) - 1
    return [
        {
            "level": row["level"],
            "from": i * width,
            "to": (i + 1) * width,
            "tall": round(count / row["n"] / top, 4),
            "say": f"{row['policy']}, {row['level']}\n{i * width:,} tokens "
            f"{'and more' if i == last else f'to {(i + 1) * width - 1:,}'}\n{count:,} of {row['n']:,} calls",
        }
        for i, count in enumerate(row["counts"])
        if count
    ]
