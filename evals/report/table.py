"""The plain-text table: one line per policy, baselines below."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from budgetctl.evals.metrics import Evaluation, PolicyRow
from budgetctl.evals.replayed import PESSIMISTIC
from budgetctl.evals.verdict import share, span

NA = "n/a"

Column = tuple[str, Callable[[PolicyRow], str]]


def _number(value: float | None, form: str) -> str:
    return NA if value is None else format(value, form)


def _seconds(value: float | None, row: PolicyRow, field: str) -> str:
    if value is None:
        return NA
    digits = 2 if value < 100 else 0
    return f"{'~' if field in row.modelled else ''}{value:.{digits}f}"


def _marked(shown: str, row: PolicyRow, field: str) -> str:
    return f"~{shown}" if field in row.modelled else shown


def _accuracy(row: PolicyRow) -> str:
    ci = row.accuracy_ci
    bounds = "" if ci is None else f" ({100 * ci[0]:.1f}-{100 * ci[1]:.1f})"
    return f"{100 * row.accuracy:.1f} %{bounds}"


def _delta(row: PolicyRow) -> str:
    return NA if row.delta_accuracy is None else f"{100 * row.delta_accuracy:+.1f} ({span(row.delta_ci)})"


def lift(row: PolicyRow) -> str:
    """Return the lift over the fixed cap with its interval, in points."""
    return NA if row.lift_over_cap is None else f"{100 * row.lift_over_cap:+.1f} ({span(row.lift_ci)})"


def _saving(row: PolicyRow) -> str:
    ci = row.token_saving_ci
    bounds = "" if ci is None else f" ({100 * ci[0]:.0f}-{100 * ci[1]:.0f})"
    return NA if row.token_saving is None else share(row.token_saving) + bounds


COLUMNS: tuple[Column, ...] = (
    ("policy", lambda row: row.policy),
    ("accuracy (95 % CI)", _accuracy),
    ("vs full, points", _delta),
    ("harm/help", lambda row: NA if row.harm is None else f"{row.harm}/{row.help}"),
    ("tokens", lambda row: _number(row.tokens_mean, ",.0f")),
    ("saved (95 % CI)", _saving),
    ("lift over cap, points", lift),
    ("TTFO p50 s", lambda row: _seconds(row.ttfo_p50_s, row, "ttfo_p50_s")),
    ("TTFO p95 s", lambda row: _seconds(row.ttfo_p95_s, row, "ttfo_p95_s")),
    ("E2E p50 s", lambda row: _seconds(row.e2e_p50_s, row, "e2e_p50_s")),
    ("E2E p95 s", lambda row: _seconds(row.e2e_p95_s, row, "e2e_p95_s")),
    ("$/request", lambda row: _number(row.cost_usd_mean, ".2g")),
    ("$/right", lambda row: _number(row.cost_usd_per_correct, ".2g")),
    ("right in time", lambda row: share(row.accurate_goodput)),
    ("within the deadline", lambda row: _marked(share(row.deadline_met), row, "deadline_met")),
    ("p95 / deadline", lambda row: _marked(_number(row.deadline_p95, ".2f"), row, "deadline_p95")),
    ("no answer", lambda row: str(row.empty_answers)),
)


def cells(rows: Sequence[PolicyRow]) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells, without columns in which nothing is known."""
    filled = [[read(row) for _, read in COLUMNS] for row in rows]
    keep = [i for i in range(len(COLUMNS)) if any(line[i] != NA for line in filled)]
    return [COLUMNS[i][0] for i in keep], [[line[i] for i in keep] for line in filled]


def footnotes(evaluation: Evaluation) -> list[str]:
    """Return what a reader of the numbers has to know."""
    rows = [*evaluation.policies, *evaluation.baselines]
    basis = next((row.token_basis for row in rows if row.token_basis), None)
    notes = [
        f"n = {evaluation.n} questions; intervals: paired bootstrap over {evaluation.clusters} units, 95 %."
    ]
    if basis is not None:
        notes.append(f"tokens: mean {basis.replace('_', ' ')} per question.")
    if evaluation.slo_s is not None:
        notes.append(
            f"right in time: right and done within {evaluation.slo_s:.3g} s ({evaluation.slo_source})."
        )
    if any(row.modelled for row in rows):
        notes.append("~ modelled from a speed profile, not measured.")
    notes += [f"{row.policy}: {row.label}." for row in rows if row.label]
    notes += [f"{row.policy}: {n} x {note}." for row in evaluation.policies for note, n in row.notes.items()]
    if any(PESSIMISTIC in row.notes for row in evaluation.baselines):
        notes.append(f"some fixed caps: {PESSIMISTIC}.")
    return notes


def table(evaluation: Evaluation) -> str:
    """Return the table as aligned plain text, policies first, then baselines, then footnotes."""
    headings, lines = cells([*evaluation.policies, *evaluation.baselines])
    shown = plain(headings, lines, split=len(evaluation.policies))
    return "\n".join([shown, "", *footnotes(evaluation)])


def plain(headings: Sequence[str], lines: Sequence[Sequence[str]], *, split: int | None = None) -> str:
    """Return a table as aligned plain text, with a rule below the headings and before the line ``split``."""
    widths = [max(len(line[i]) for line in [headings, *lines]) for i in range(len(headings))]
    rule = "  ".join("-" * width for width in widths)
    shown = [_aligned(line, widths) for line in lines]
    below = [] if split is None or not shown[split:] else [rule, *shown[split:]]
    return "\n".join([_aligned(headings, widths), rule, *shown[:split], *below])


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.ljust(w) if i == 0 else cell.rjust(w)
        for i, (cell, w) in enumerate(zip(line, widths, strict=True))
    )
    return "  ".join([first, *others]).rstrip()
