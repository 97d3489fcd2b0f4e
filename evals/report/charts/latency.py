"""Distributions of the times to the end and to the first token of the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from budgetctl.evals.metrics import Evaluation
from budgetctl.evals.report.charts import vega
from budgetctl.evals.report.charts.figure import Figure
from budgetctl.evals.report.charts.vega import Look, Spec, at, axis, constant, scale
from budgetctl.evals.report.table import NA

TIMES = {"e2e_s": "to the end of the answer", "ttfo_s": "to the first token of the answer"}
QUANTILES = ("p50", "p90", "p95", "p99")
WIDE = 50
"""Ratio of the longest to the shortest time from which the axis is logarithmic."""

Entry = Mapping[str, Any]


def latency(evaluation: Evaluation, details: Mapping[str, Any], look: Mapping[str, Look]) -> Figure | None:
    """Return the share of calls that are done within a time, for both times where they are known."""
    found = {
        words: entries
        for what, words in TIMES.items()
        if (entries := [e for e in details["latency"] if e["what"] == what and e["points"]])
    }
    if not found:
        return None
    in_time = {TIMES["e2e_s"]: evaluation.slo_s}
    return Figure(
        id="latency",
        title="Latency",
        note="The share of calls that are done within a time. A call without an answer never reaches its "
        "first token of the answer. In the numbers, a quantile that so few questions cannot bound is "
        "n/a (p95 takes 59, p99 takes 299).",
        variants={
            words: _chart(entries, look, words=words, limit=in_time.get(words))
            for words, entries in found.items()
        },
        choice="Time",
        headings=["policy", "seconds", *QUANTILES],
        lines=[[e["policy"], words, *map(_cell, _quantiles(e))] for words, es in found.items() for e in es],
    )


def _chart(entries: Sequence[Entry], look: Mapping[str, Look], *, words: str, limit: float | None) -> Spec:
    modelled = " (modelled)" if any(e["modelled"] for e in entries) else ""
    rows = [
        {"policy": e["policy"], "x": float(f"{seconds:.4g}"), "y": round(100 * share, 2)}
        for e in entries
        for seconds, share in e["points"]
        if seconds > 0
    ]
    times = [row["x"] for row in rows]
    logarithmic = bool(times) and max(times) > WIDE * min(times)
    domain = {"data": "rows", "field": "x"}
    say = {e["policy"]: "\n".join([e["policy"], *_known(e)]) for e in entries}
    return vega.chart(
        f"Share of calls that are done within a time, in seconds {words}",
        height=340,
        data={"rows": rows},
        scales=[
            scale("x", "log", domain) if logarithmic else scale("x", "linear", domain, zero=True, nice=True),
            scale("y", "linear", [0, 100]),
            *vega.by_policy(look, say=say),
        ],
        axes=[axis("bottom", f"seconds {words}{modelled}", format="~g"), axis("left", "calls, %")],
        marks=[
            *(vega.limit("in time", x=constant("x", limit)) if limit else []),
            vega.lines("rows", x=at("x", "x"), y=at("y", "y")),
        ],
    )


def _quantiles(entry: Entry) -> list[tuple[float | None, bool]]:
    return [(q, entry["modelled"]) for q in entry["quantiles"]]


def _known(entry: Entry) -> list[str]:
    cells = map(_cell, _quantiles(entry))
    return [f"{name} {cell} s" for name, cell in zip(QUANTILES, cells, strict=True) if cell != NA]


def _cell(quantile: tuple[float | None, bool]) -> str:
    seconds, modelled = quantile
    return NA if seconds is None else f"{'~' if modelled else ''}{seconds:.3g}"
