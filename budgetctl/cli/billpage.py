"""The overthinking bill for people: a text table, and one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any


def as_text(bill: Mapping[str, Any]) -> str:
    """Return the bill as lines for a terminal."""
    parts = ["\n".join(_headline(bill))]
    parts += [f"{title}\n{_columns(head, rows)}" for title, head, rows in _tables(bill)]
    parts.append("\n".join(_notes(bill)))
    return "\n\n".join(parts)


def as_html(bill: Mapping[str, Any]) -> str:
    """Return the bill as one HTML page that loads nothing from anywhere."""
    from budgetctl.evals.report.html import document, table

    body = ["<h1>Overthinking bill</h1>", *(f"<p>{escape(line)}</p>" for line in _headline(bill))]
    body.append(_svg(bill["histogram"]))
    for title, head, rows in _tables(bill):
        body.append(f"<section><h2>{escape(title)}</h2>{table(head, rows)}</section>")
    body += [f'<p class="note">{escape(line)}</p>' for line in _notes(bill)]
    return document("Overthinking bill", "\n".join(body))


def _headline(bill: Mapping[str, Any]) -> list[str]:
    tokens, dollars, seconds, empty = (bill[k] for k in ("tokens", "dollars", "seconds", "empty_answers"))
    modelled = "modelled" if "seconds.thinking" in bill["modelled"] else "measured"
    lines = [
        f"{_calls(bill['calls'])}, {_count(bill['failed'])} of them failed"
        + (
            f", {_count(bill['drafts'])} of them drafts of ladders that were not handed on"
            if bill["drafts"]
            else ""
        ),
        f"tokens: {_count(tokens['thinking'])} thinking, {_count(tokens['answer'])} answer "
        f"({_share(tokens['thinking_share'])} of the output was thinking)",
        f"dollars: {_usd(dollars['thinking'])} thinking, {_usd(dollars['total'])} in all",
        f"seconds spent thinking: {_seconds(seconds['thinking'])}"
        + (f" ({modelled})" if seconds["thinking"] is not None else ""),
        f"empty answers: {_count(empty['count'])}"
        + (
            f", billed {_count(empty['tokens'])} output tokens, {_usd(empty['dollars'])}"
            if empty["count"]
            else ""
        ),
    ]
    return lines + _unknown(bill)


def _unknown(bill: Mapping[str, Any]) -> list[str]:
    """Say which numbers above do not cover every call."""
    gaps = {
        "thinking tokens": bill["tokens"]["calls_unknown"],
        "dollars": bill["dollars"]["calls_total_unknown"],
        "dollars of thinking": bill["dollars"]["calls_thinking_unknown"],
        "seconds of thinking": bill["seconds"]["calls_unknown"],
    }
    said = [f"{name} of {_calls(n)}" for name, n in gaps.items() if n]
    lines = [f"unknown, and left out of the sums: {', '.join(said)}"] if said else []
    if estimated := bill["tokens"]["calls_estimated"]:
        lines.append(f"thinking tokens of {_calls(estimated)} are estimated from the length of the text")
    unpriced = [
        row for row in bill["models"] if row["dollars"]["thinking"] is None and row["tokens"]["thinking"]
    ]
    if unpriced:
        names = ", ".join(_model(row) for row in unpriced)
        lines.append(f"no price is known for {names}: give --price-in and --price-out, or --prices")
    return lines


def _notes(bill: Mapping[str, Any]) -> list[str]:
    lines = list(bill["notes"])
    models: dict[str, list[str]] = {}
    for row in bill["models"]:
        if row["price_source"] is not None:
            models.setdefault(row["price_source"], []).append(_model(row))
    lines += [f"price of {', '.join(names)}: {source}" for source, names in models.items()]
    unknown = bill["unknown_lines"]
    if unknown["count"]:
        lines.append(f"not counted, lines that are no calls: {_count(unknown['count'])}")
        lines += [f"  {line}" for line in unknown["first"]]
        if unknown["count"] > len(unknown["first"]):
            lines.append(f"  and {_count(unknown['count'] - len(unknown['first']))} more")
    return lines


Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]


def _tables(bill: Mapping[str, Any]) -> list[Table]:
    lengths = bill["quantiles"]
    caps = [
        [
            _count(cap["cap"]),
            _share(cap["share_hit"]),
            _count(cap["tokens_cut"]),
            _least(_usd(cap["dollars_cut"]), cap["calls_dollars_unknown"]),
            _least(_seconds(cap["seconds_cut"]), cap["calls_seconds_unknown"]),
        ]
        for cap in _telling(bill["caps"])
    ]
    models = [
        [
            _model(row),
            _count(row["calls"]),
            _count(row["tokens"]["thinking"]),
            _share(row["tokens"]["thinking_share"]),
            _usd(row["dollars"]["thinking"]),
            _usd(row["dollars"]["total"]),
            _count(row["quantiles"]["p50"]),
            _count(row["quantiles"]["p95"]),
            _count(row["empty_answers"]["count"]),
        ]
        for row in bill["models"]
    ]
    return [
        ("Thinking tokens per call", list(lengths), [[_count(v) for v in lengths.values()]]),
        (
            "What a fixed cap would have cut (accuracy unknown, seconds modelled)",
            ["cap", "calls hit", "tokens", "dollars", "seconds"],
            caps,
        ),
        (
            "By model",
            ["model", "calls", "thinking", "share", "$ thinking", "$ total", "p50", "p95", "empty"],
            models,
        ),
    ]


def _telling(caps: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return the caps up to the first one that no call reaches."""
    hit = sum(1 for cap in caps if cap["calls_hit"])
    return caps[: hit + 1]


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = []
    for row in [head, *rows]:
        first = row[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(["", first, *rest]).rstrip())
    return "\n".join(lines)


def _svg(bins: Sequence[Mapping[str, int]]) -> str:
    """Draw how many calls thought how long; the steps double."""
    if not bins:
        return ""
    top = max(row["calls"] for row in bins)
    width, height = 46, 120
    bars = []
    for i, row in enumerate(bins):
        size = height * row["calls"] / top
        x, y, middle = i * width + 3, height - size + 16, i * width + width / 2
        label = f"{row['from']:,} to {row['to']:,} tokens: {row['calls']:,} calls"
        bars.append(
            f'<rect x="{x}" y="{y:.1f}" width="{width - 6}" height="{size:.1f}" fill="var(--p0)">'
            f"<title>{label}</title></rect>"
            f'<text x="{middle}" y="{y - 3:.1f}" text-anchor="middle">{row["calls"]:,}</text>'
            f'<text x="{middle}" y="{height + 30}" text-anchor="middle">{row["from"]:,}</text>'
        )
    return (
        '<div class="scroll" tabindex="0"><svg role="img" aria-label="Calls by thinking tokens" '
        f'font-size="11" fill="var(--muted)" width="{len(bins) * width}" height="{height + 52}">'
        f"{''.join(bars)}"
        f'<text x="3" y="{height + 47}">calls by thinking tokens; a bar starts at the number below it</text>'
        "</svg></div>"
    )


def _model(row: Mapping[str, Any]) -> str:
    return str(row["model"] or "(no model named)")


def _calls(n: int) -> str:
    return "1 call" if n == 1 else f"{n:,} calls"


def _least(text: str, left_out: int) -> str:
    return f">= {text}" if left_out and text != "unknown" else text


def _count(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.0f}"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def _usd(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"${value:,.2f}" if value >= 1 or value == 0 else f"${value:.4g}"


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.1f} s"
