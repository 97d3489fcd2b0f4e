"""HTML that the project's pages have in common. Every text that goes in is escaped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any


@cache
def asset(name: str) -> str:
    """Return a file of the package's assets."""
    return (files("budgetctl.evals.report") / "assets" / name).read_text(encoding="utf-8")


def words(text: str) -> str:
    """Return text in which a number and its percent sign stay on one line."""
    return escape(text.replace(" %", "\u00a0%"))


def document(title: str, body: str, *, scripts: str = "") -> str:
    """Return a page that loads nothing from anywhere. ``body`` and ``scripts`` are HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{asset('report.css')}</style>\n</head>\n"
        f"<body>\n{body}\n{scripts}</body>\n</html>\n"
    )


def table(headings: Sequence[str], lines: Sequence[Sequence[str]], *, classes: Sequence[str] = ()) -> str:
    """Return a table that scrolls sideways where it is too wide; the first cell of a line is its heading.

    Args:
        headings: One per column.
        lines: Cells.
        classes: One per line, or none.
    """
    head = "".join(f'<th scope="col">{words(cell)}</th>' for cell in headings)
    rows = []
    for i, (first, *others) in enumerate(lines):
        kind = f' class="{classes[i]}"' if classes and classes[i] else ""
        cells = "".join(f"<td>{_cell(cell)}</td>" for cell in others)
        rows.append(f'<tr{kind}><th scope="row">{escape(first)}</th>{cells}</tr>')
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    """Return a cell with what stands in brackets at its end, an interval, on a line of its own."""
    value, bracket, rest = text.partition(" (")
    if not (bracket and rest.endswith(")")):
        return words(text)
    return f"{words(value)}<br><small>({words(rest)}</small>"


def embedded(name: str, content: Any) -> str:
    """Return JSON values as an element that scripts read and that no text inside can close."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    safe = text.replace("<", r"\u003c")
    return f'<script type="application/json" id="{escape(name)}">{safe}</script>\n'
