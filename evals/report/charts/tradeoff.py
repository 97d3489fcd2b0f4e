"""Accuracy against tokens, seconds and dollars, with intervals and baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from budgetctl.evals.metrics import Evaluation, PolicyRow, is_fixed
from budgetctl.evals.report.charts import vega
from budgetctl.evals.report.charts.figure import Figure
from budgetctl.evals.report.charts.vega import Look, Spec, at, axis, mark, scale, signal, value
from budgetctl.evals.report.table import NA, cells, lift


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cost:
    """One horizontal axis.

    Attributes:
        title: Its title.
        of: A policy's place on it.
        interval: The 95 % interval of that place, where there is one.
        mixes: Random mixes of two budgets lie on the line between them, as means do and quantiles do not.
    """

    title: str
    of: Callable[[PolicyRow], float | None]
    interval: Callable[[PolicyRow], tuple[float | None, float | None] | None] = lambda row: None
    mixes: bool = False


def tradeoff(evaluation: Evaluation, look: Mapping[str, Look]) -> Figure:
    """Return accuracy against each of the costs that are known."""
    rows = [*evaluation.policies, *evaluation.baselines]
    basis = next((row.token_basis for row in rows if row.token_basis), None) or "tokens"
    modelled = " (modelled)" if any("e2e_p95_s" in row.modelled for row in rows) else ""
    costs = {
        "tokens": _Cost(
            title=f"mean {basis.replace('_', ' ')} per question", of=lambda row: row.tokens_mean, mixes=True
        ),
        "p95 seconds": _Cost(
            title=f"p95 seconds to the end of the answer{modelled}",
            of=lambda row: row.e2e_p95_s,
            interval=lambda row: row.e2e_p95_ci,
        ),
        "dollars per request": _Cost(
            title="mean dollars per request", of=lambda row: row.cost_usd_mean, mixes=True
        ),
        "dollars per right answer": _Cost(
            title="dollars per right answer", of=lambda row: row.cost_usd_per_correct
        ),
    }
    return Figure(
        id="tradeoff",
        title="Accuracy against what it costs",
        note="Up and to the left is better. Bars are 95 % intervals. The grey line is what one fixed budget "
        "for all questions reaches, random mixes of neighbours included; a policy that chooses per question "
        "has to lie above it. The oracle knows the outcome and is inflated by chance.",
        variants={
            name: _chart(rows, look, cost=cost)
            for name, cost in costs.items()
            if any(cost.of(row) is not None for row in rows)
        },
        choice="Against",
        headings=["policy", "harm", "help", "McNemar p", "fixed budget at the same tokens", "lift over it"],
        lines=[
            [r.policy, str(r.harm), str(r.help), f"{r.mcnemar_p:.3g}", r.matched_cap or NA, lift(r)]
            for r in rows
            if r.mcnemar_p is not None
        ],
    )


def _chart(rows: Sequence[PolicyRow], look: Mapping[str, Look], *, cost: _Cost) -> Spec:
    points = [
        _point(row, look[row.policy], x=x, cost=cost)
        for row in sorted(rows, key=lambda row: look[row.policy].rank)
        if (x := cost.of(row)) is not None
    ]
    said = _said(rows)
    for point in points:
        point["say"] = said[point["policy"]]
    fixed = sorted((p["x"], p["y"]) for p in points if cost.mixes and is_fixed(p["policy"]))
    across, up = at("x", "x"), at("y", "y")
    grey, thin = value(vega.CAP), value(1.5)
    mixes = (
        [mark("line", "curve", name="fixed", x=across, y=up, stroke=grey, strokeWidth=thin)] if fixed else []
    )
    return vega.chart(
        f"Accuracy against {cost.title}",
        height=430,
        data={"rows": points, "curve": [{"x": x, "y": y} for x, y in fixed]},
        scales=[
            scale("x", "linear", _domain(rows=("x", "most"), curve=("x",)), zero=True, nice=True),
            scale("y", "linear", _domain(rows=("low", "high"), curve=("y",)), zero=False, nice=True),
        ],
        axes=[axis("bottom", cost.title), axis("left", "accuracy, %", offset=10)],
        marks=[
            *mixes,
            vega.intervals("rows", name="bars", x=across, y=at("y", "low"), y2=at("y", "high")),
            vega.intervals("rows", name="across", y=up, x=at("x", "least"), x2=at("x", "most")),
            vega.points("rows", name="points", x=across, y=up),
            _labels(avoid=["bars", "across", *(m["name"] for m in mixes)]),
        ],
    )


def _domain(**fields: Sequence[str]) -> Spec:
    """Return the domain over fields of several data sets."""
    return {"fields": [{"data": data, "field": name} for data, names in fields.items() for name in names]}


def _point(row: PolicyRow, look: Look, *, x: float, cost: _Cost) -> dict[str, Any]:
    low, high = row.accuracy_ci or (row.accuracy, row.accuracy)
    least, most = cost.interval(row) or (x, x)
    return {
        "policy": row.policy,
        "x": x,
        "least": x if least is None else least,
        "most": x if most is None else most,
        "y": 100 * row.accuracy,
        "low": 100 * low,
        "high": 100 * high,
        **look.fields(),
    }


def _said(rows: Sequence[PolicyRow]) -> dict[str, str]:
    """Return each policy's line of the table as words."""
    headings, lines = cells(rows)
    return {
        line[0]: "\n".join(f"{head}: {cell}" for head, cell in zip(headings, line, strict=True))
        for line in lines
    }


def _labels(*, avoid: Sequence[str]) -> Spec:
    """Return names beside the points, where they cover nothing; one without room is left to the pointer."""
    name, colour = vega.field("datum.policy"), vega.field("datum.colour")
    labels = mark("text", "points", text=name, fill=colour, fontSize=value(12))
    corners = ("right", "top-right", "bottom-right", "left", "top-left", "bottom-left", "top", "bottom")
    labels["transform"] = [
        {
            "type": "label",
            "size": signal("[width, height]"),
            "anchor": corners * 3,
            "offset": [distance for distance in (5, 14, 26) for _ in corners],
            "avoidMarks": avoid,
            "padding": 14,
        }
    ]
    return labels
