"""The HTML report: one self-contained file, pictures inlined, no script, nothing fetched."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

from budgetctl.evals.metrics import Evaluation
from budgetctl.evals.report.table import cells, footnotes
from budgetctl.evals.verdict import Verdict

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 76rem; margin: 2rem auto; }
body { padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.verdict { border-left: 5px solid $colour; background: #f6f6f6; padding: .8rem 1rem; font-size: 1.05rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #e3e3e3; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tr.baseline td { color: #666; }
tr.first td { border-top: 2px solid #999; }
svg { max-width: 100%; height: auto; }
li, .settings { font-size: .86rem; color: #555; }
</style>
</head>
<body>
<h1>$title</h1>
<p class="verdict">$verdict</p>
<h2>Results</h2>
<div class="scroll">$table</div>
<ul>$notes</ul>
<h2>Accuracy against thinking and time</h2>
$picture
<h2>Harm and help against full thinking</h2>
<p>Harm: right with full thinking and wrong under the policy. Help: the other way round.</p>
<div class="scroll">$harm</div>
<h2>Settings</h2>
<div class="scroll settings">$settings</div>
</body>
</html>
""")


def page(
    evaluation: Evaluation, verdict: Verdict, *, title: str, settings: Mapping[str, Any], svg: str | None
) -> str:
    """Return the report as one HTML document. Every text in it is escaped."""
    headings, lines = cells([*evaluation.policies, *evaluation.baselines])
    return _PAGE.substitute(
        title=html.escape(title),
        colour="#D55E00" if verdict.negative else "#009E73",
        verdict=html.escape(verdict.text),
        table=_table(headings, lines, baselines_from=len(evaluation.policies)),
        notes="".join(f"<li>{html.escape(note)}</li>" for note in footnotes(evaluation)),
        picture=_inline(svg) if svg is not None else "<p>No picture: matplotlib is not installed.</p>",
        harm=_harm(evaluation),
        settings=_table(["setting", "value"], [[str(key), _plain(value)] for key, value in settings.items()]),
    )


def _table(
    headings: Sequence[str], lines: Sequence[Sequence[str]], *, baselines_from: int | None = None
) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in headings)
    body = []
    for i, line in enumerate(lines):
        kind = ""
        if baselines_from is not None and i >= baselines_from:
            kind = ' class="baseline first"' if i == baselines_from else ' class="baseline"'
        body.append(f"<tr{kind}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _harm(evaluation: Evaluation) -> str:
    rows = [row for row in (*evaluation.policies, *evaluation.baselines) if row.harm is not None]
    lines = [[row.policy, str(row.harm), str(row.help), f"{row.mcnemar_p:.3g}"] for row in rows]
    return _table(["policy", "harm (calls)", "help (calls)", "McNemar p"], lines)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _inline(svg: str) -> str:
    """Return the drawing without what belongs to a file of its own."""
    return re.sub(r"^.*?(?=<svg)", "", svg, count=1, flags=re.DOTALL)
