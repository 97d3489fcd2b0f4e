"""What ``budgetctl train`` says of a classifier, as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

TARGETS = {"p_off": "Brier score", "p_full": "Brier score", "natural": "pinball loss"}
MOSTLY = 0.5


def as_text(report: Mapping[str, Any], path: Path) -> str:
    """Return a readable summary of a report: data, figures on the test part, and what they amount to."""
    lines = [*_data(report["data"]), *_parts(report), ""]
    lines += [_figure("p_off", report), _figure("p_full", report), _tokens(report), ""]
    lines += [_verdict(name, report["metrics"]["against_constant"][name]) for name in TARGETS]
    lines.append(_sure(report["metrics"]["sure"]))
    return "\n".join((*lines, f"weights: {path} (sha256 {report['sha256'][:12]}..)"))


def _data(data: Mapping[str, Any]) -> list[str]:
    lines = []
    if data["recorded_examples"]:
        lines.append(f"recordings: {data['recorded_examples']:,} examples")
    if "log_rows" in data:
        lines.append(f"logs: {data['log_used']:,} of {data['log_rows']:,} calls used")
        lines += [f"  left out: {count:,}, {why}" for why, count in data["left_out"].items()]
        if data["unknown_probability"]:
            lines.append(f"  {data['unknown_probability']:,} calls without action_probability: weight 1")
        lines.append(f"  weighted, all examples are worth {data['effective_examples']:,.0f} equal ones")
    return lines


def _parts(report: Mapping[str, Any]) -> list[str]:
    sizes = ", ".join(f"{part} {size['questions']:,}" for part, size in report["parts"].items())
    if "from" in report:
        return [f"questions: {sizes}", f"calibration of {report['from']['name']} fitted anew"]
    words = f"{report['n_grams']:,} n-grams and " if report["n_grams"] else "no texts: "
    return [f"questions: {sizes}", f"features: {words}dense features"]


def _figure(name: str, report: Mapping[str, Any]) -> str:
    found = report["metrics"][name]
    right = report["metrics"][f"accuracy_{name.removeprefix('p_')}"]
    figures = (
        f"AUC {_number(found['auc'])}",
        f"Brier {_number(found['brier'])}{_before(report, name, 'brier')}",
        f"mean {_number(found['mean'])} where {_number(right)} were right",
    )
    return f"{name:<8} on the test part: {', '.join(figures)}"


def _tokens(report: Mapping[str, Any]) -> str:
    found = report["metrics"]["natural"]
    figures = (
        f"Spearman {_number(found['spearman'])}",
        f"p90 covers {_number(found['coverage']['p90'])}{_before(report, 'natural', 'coverage', 'p90')}",
        f"pinball p90 {_number(found['pinball']['p90'])}{_before(report, 'natural', 'pinball', 'p90')}",
    )
    return f"natural  on the test part: {', '.join(figures)}"


def _before(report: Mapping[str, Any], *keys: str) -> str:
    """Return what a figure was before the weights were calibrated anew, if they were."""
    found = report.get("before")
    for key in keys:
        found = None if found is None else found[key]
    return "" if found is None else f" (before: {_number(found)})"


def _verdict(name: str, found: Mapping[str, Any] | None) -> str:
    if found is None:
        return f"{name}: too few test questions to say whether it is better than a constant."
    against = f"{TARGETS[name]} {found['classifier']:.3f} against {found['constant']:.3f}"
    low, high = found["gain_ci"]
    n = f"on {found['questions']:,} test questions"
    if low > 0:
        return f"{name}: better than a constant {n}: {against}."
    if high < 0:
        return f"{name}: WORSE than a constant {n}: {against}. Do not use it as it is."
    return f"{name}: no better than a constant, as far as can be told {n}: {against}."


def _sure(share: float | None) -> str:
    if share is None:
        return "There are no test questions."
    less = " Most of your traffic would go through unchanged." if share < MOSTLY else ""
    return f"It is sure enough to act on {share:.0%} of the test part.{less}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
