"""The HTML report: one self-contained file. Verdict and tables are plain HTML, the rest needs scripts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from budgetctl.evals.metrics import FULL, Evaluation, is_fixed
from budgetctl.evals.report.charts import Figure, figures
from budgetctl.evals.report.charts.vega import CONFIG, Look, looks
from budgetctl.evals.report.html import asset, document, embedded, table, words
from budgetctl.evals.report.table import cells, footnotes
from budgetctl.evals.verdict import Verdict

OUTCOMES = {
    "all": "all",
    "harm": "full right, policy wrong",
    "help": "full wrong, policy right",
    "wrong": "both wrong",
    "right": "both right",
    "empty": "policy without an answer",
    "cut": "policy cut the thinking",
}


def page(
    evaluation: Evaluation,
    verdict: Verdict,
    *,
    title: str,
    settings: Mapping[str, Any],
    details: Mapping[str, Any] | None = None,
    beside: Mapping[str, Any] | None = None,
    svg: str | None = None,
) -> str:
    """Return the report as one HTML document.

    Args:
        evaluation: The numbers.
        verdict: What they say.
        title: Heading of the page.
        settings: How they came about; ``margin`` is the epsilon of the charts.
        details: What :func:`budgetctl.evals.report.details.details` returned; None leaves its charts out.
        beside: The table of a suite beside accuracy, as JSON values.
        svg: A drawing for readers without scripts.
    """
    drawn = figures(evaluation, details, margin=settings.get("margin"), recommended=verdict.recommended)
    browser = None if details is None else details["browser"]
    sections = {"results": "Results"} | ({"beside": beside["title"]} if beside else {})
    sections |= {f.id: f.title for f in drawn}
    sections |= {"questions": "Single questions"} if browser else {}
    sections |= {"settings": "Settings"}
    links = "".join(f'<li><a href="#{name}">{escape(text)}</a></li>' for name, text in sections.items())
    body = [
        f"<header><h1>{escape(title)}</h1>",
        f'<p class="verdict{"" if verdict.negative else " good"}">{_said(verdict.text)}</p>',
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header><main>',
        _results(evaluation, verdict),
        _beside(beside) if beside else "",
        f"<noscript><p>Charts and single questions need JavaScript.</p>{_inline(svg)}</noscript>",
        f"<div>{_shown(evaluation, verdict) if drawn else ''}",
        *(_figure(figure) for figure in drawn),
        "</div>",
        "" if details is None else _browser(details, evaluation, verdict),
        _section("settings", "Settings", _settings(settings)),
        "</main>",
    ]
    data = {
        "config": CONFIG,
        "figures": [{"id": f.id, "variants": list(f.variants.values())} for f in drawn],
        "browser": browser,
        "difficulty": None if details is None else details["difficulty"],
    }
    library = f"<script>/*!\n{asset('VEGA-LICENSE.txt')}*/\n{asset('vega.min.js')}</script>\n"
    scripts = f"{embedded('data', data)}{library}<script>\n{asset('report.js')}</script>\n"
    return document(title, "\n".join(body), scripts=scripts)


def _said(text: str) -> str:
    """Return a verdict with its first sentence, which decides, set off."""
    first, stop, others = text.partition(". ")
    return f"<strong>{words(first + stop.strip())}</strong> {words(others)}"


def _section(name: str, title: str, content: str) -> str:
    return f'<section id="{name}"><h2>{escape(title)}</h2>\n{content}\n</section>'


def _results(evaluation: Evaluation, verdict: Verdict) -> str:
    headings, lines = cells([*evaluation.policies, *evaluation.baselines])
    split = len(evaluation.policies)
    classes = [
        "chosen" if line[0] == verdict.recommended else "" if i < split else "baseline"
        for i, line in enumerate(lines)
    ]
    if split < len(lines):
        classes[split] += " first"
    notes = "".join(f"<li>{words(note)}</li>" for note in footnotes(evaluation))
    harm = "Harm: calls right with full thinking and wrong under the policy; help: the other way round."
    results = table(headings, lines, classes=classes)
    return _section("results", "Results", f'{results}<ul class="notes"><li>{harm}</li>{notes}</ul>')


def _beside(beside: Mapping[str, Any]) -> str:
    note = f'<p class="note">{words(beside["note"])}</p>'
    return _section("beside", beside["title"], note + table(beside["headings"], beside["lines"]))


def _shown(evaluation: Evaluation, verdict: Verdict) -> str:
    """Return the legend, which also chooses the policies that are drawn.

    Where there are policies that choose per question, caps begin hidden: there are many, and the grey line of
    the first chart stands for them.
    """
    found = looks(evaluation)
    plain = {name for name in found if is_fixed(name) and name not in (FULL, "off", verdict.recommended)}
    hidden = plain if len(plain) + 3 < len(found) else set()
    boxes = "".join(_box(name, look, checked=name not in hidden) for name, look in found.items())
    return f'<fieldset id="shown" class="shown"><legend>Shown in the charts:</legend>{boxes}</fieldset>'


def _box(name: str, look: Look, *, checked: bool) -> str:
    line = f'<path d="M1,7H33" stroke="{look.colour}" stroke-width="2" stroke-dasharray="{look.dashes}"/>'
    place = f'transform="translate(17,7) scale(4.5)" fill="{look.fill}" stroke="{look.colour}"'
    mark = f'<path d="{look.shape}" {place} stroke-width=".4"/>'
    return (
        f'<label><input type="checkbox" value="{escape(name)}"{" checked" if checked else ""}>'
        f'<svg viewBox="0 0 34 14" aria-hidden="true">{line}{mark}</svg>{escape(name)}</label>'
    )


def _figure(figure: Figure) -> str:
    numbers = f"<details><summary>Numbers</summary>{table(figure.headings, figure.lines)}</details>"
    kind = "chart narrow" if figure.narrow else "chart"
    return _section(
        figure.id,
        figure.title,
        f'<p class="note">{words(figure.note)}</p>{_variants(figure)}'
        f'<figure><div class="{kind}"></div></figure>{numbers}',
    )


def _variants(figure: Figure) -> str:
    """Return the choice between a figure's charts: buttons for a few, a list for many."""
    labels = {str(i): label for i, label in enumerate(figure.variants)}
    if len(labels) < 2:
        return ""
    if len(labels) > 4:
        return f"<form>{_choice(figure.choice, 'variant', labels)}</form>"
    radios = "".join(
        f'<label><input type="radio" name="variant" value="{i}"{" checked" if i == "0" else ""}>'
        f"{escape(label)}</label>"
        for i, label in labels.items()
    )
    return f"<form><fieldset><legend>{escape(figure.choice)}:</legend>{radios}</fieldset></form>"


def _options(labels: Mapping[str, str], *, chosen: str | None = None) -> str:
    return "".join(
        f'<option value="{escape(key)}"{" selected" if key == chosen else ""}>{escape(text)}</option>'
        for key, text in labels.items()
    )


def _browser(details: Mapping[str, Any], evaluation: Evaluation, verdict: Verdict) -> str:
    browser, groups = details["browser"], details["grouped_by"] or "group"
    policies = list(browser["policies"])
    others = [row.policy for row in evaluation.policies if row.policy != FULL]
    chosen = verdict.recommended or next(iter(others), FULL)
    fields = [
        '<label>Search <input type="search" name="search" placeholder="words, id, reference"></label>',
        _choice("Policy", "policy", {name: name for name in policies}, chosen=chosen),
        _choice("Result", "outcome", OUTCOMES),
        _choice(groups.capitalize(), "group", _values(browser["questions"]["group"])),
        _choice("Difficulty", "level", _values(browser["questions"]["level"])),
    ]
    notes = [f"Texts are cut to {browser['text_cut']:,} characters; of thinking the end is kept."]
    if browser["left_out"]:
        notes.append(
            f"{browser['left_out']:,} calls are not listed; those on which policies differ came first."
        )
    return _section(
        "questions",
        "Single questions",
        f'<p class="note">{escape(" ".join(notes))}</p><form class="filters">{"".join(fields)}</form>'
        '<output aria-live="polite"></output><div class="list"></div><div class="pager">'
        '<button type="button" name="before">Previous</button><span></span>'
        '<button type="button" name="after">Next</button></div>',
    )


def _choice(label: str, name: str, options: Mapping[str, str], *, chosen: str | None = None) -> str:
    return f'<label>{escape(label)} <select name="{name}">{_options(options, chosen=chosen)}</select></label>'


def _values(values: Sequence[str | None]) -> dict[str, str]:
    return {"": "all"} | {value: value for value in dict.fromkeys(values) if value is not None}


def _settings(settings: Mapping[str, Any]) -> str:
    lines = [
        [key, value if isinstance(value, str) else json.dumps(value, default=str)]
        for key, value in settings.items()
    ]
    return f'<div class="settings">{table(["setting", "value"], lines)}</div>'


def _inline(svg: str | None) -> str:
    """Return a drawing without what belongs to a file of its own."""
    return "" if svg is None else re.sub(r"^.*?(?=<svg)", "", svg, count=1, flags=re.DOTALL)
