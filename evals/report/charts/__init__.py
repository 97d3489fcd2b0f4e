"""The figures of the page: what is drawn, and the same numbers as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from budgetctl.evals.metrics import Evaluation
from budgetctl.evals.report.charts.figure import Figure
from budgetctl.evals.report.charts.groups import forest, spent
from budgetctl.evals.report.charts.latency import latency
from budgetctl.evals.report.charts.risk import reliability, risk
from budgetctl.evals.report.charts.tradeoff import tradeoff
from budgetctl.evals.report.charts.vega import looks

__all__ = ["Figure", "figures"]


def figures(
    evaluation: Evaluation,
    details: Mapping[str, Any] | None,
    *,
    margin: float | None,
    recommended: str | None = None,
) -> list[Figure]:
    """Return the figures that the numbers suffice for.

    Args:
        evaluation: The numbers of the table.
        details: What :func:`budgetctl.evals.report.details.details` returned, if anything.
        margin: Loss of accuracy that passes: epsilon.
        recommended: The policy that is looked at first.
    """
    look = looks(evaluation)
    found: list[Figure | None] = [tradeoff(evaluation, look)]
    if details is not None:
        found += [
            forest(evaluation, details, look, margin=margin),
            latency(evaluation, details, look),
            spent(details, look, recommended=recommended),
            reliability(details, look),
            risk(details, look, margin=margin),
        ]
    return [figure for figure in found if figure is not None and figure.variants]
