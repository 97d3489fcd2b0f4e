"""Comparing two finished evaluations, question by question: does the second one lose accuracy?

A comparison passes only where the lower 95 % bound of the paired accuracy difference lies above ``-margin``.
It is a loss where it does not pass and the whole interval lies below zero; in between the evidence is not
enough, and the number of questions that would settle it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from budgetctl.evals import stats
from budgetctl.evals.metrics import PolicyRow, evaluate
from budgetctl.evals.results import ClusterBy, Result
from budgetctl.evals.verdict import points, share, span

from budgetctl.errors import PairingError

MARGIN = 0.02
Finding = Literal["pass", "loss", "not_enough"]
OF_ONE = (
    *("policy", "accuracy", "tokens_mean", "ttfo_p95_s", "e2e_p95_s"),
    *("cost_usd_mean", "cost_usd_per_correct", "empty_answers"),
)
OF_BOTH = (
    *("n", "runs", "delta_accuracy", "delta_ci", "harm", "help", "mcnemar_p"),
    *("token_saving", "token_saving_ci"),
)
EXIT_CODES: Mapping[Finding, int] = {"pass": 0, "loss": 1, "not_enough": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One policy of an evaluation against one of another (or the same) evaluation.

    Attributes:
        a: The numbers of the reference.
        b: Those of the candidate; differences and savings are against ``a``.
        margin: The loss of accuracy that passes, as a share of questions.
        finding: See the module.
        n_needed: Questions that would settle it with a probability of 80 %, if the difference is as it was
            seen; None where it is settled.
    """

    a: PolicyRow
    b: PolicyRow
    margin: float
    finding: Finding
    n_needed: int | None

    @property
    def text(self) -> str:
        """One sentence for people."""
        b = self.b
        seen = f"{points(b.delta_accuracy)}, 95 % interval {span(b.delta_ci)}, n = {b.n}"
        margin = f"{100 * self.margin:g} points"
        if self.finding == "pass":
            return f"{b.policy} loses less than {margin} of accuracy against {self.a.policy} ({seen})."
        if self.finding == "loss":
            return (
                f"{b.policy} loses accuracy against {self.a.policy}, and that the loss stays within {margin} "
                f"was not shown ({seen})."
            )
        return (
            f"Not enough evidence that {b.policy} loses less than {margin} of accuracy against "
            f"{self.a.policy} ({seen}): {needed_text(self.n_needed)}."
        )

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as plain JSON values."""
        a, b = self.a.as_json(), self.b.as_json()
        return {
            "a": {key: a[key] for key in OF_ONE},
            "b": {key: b[key] for key in OF_ONE},
            **{key: b[key] for key in OF_BOTH},
            "margin": self.margin,
            "finding": self.finding,
            "n_needed": self.n_needed,
            "text": self.text,
        }


def needed_text(n: int | None) -> str:
    """Say how many questions would settle it."""
    if n is None or n >= stats.MOST_NEEDED:
        return (
            "the difference lies so near to the margin that no practical number of questions would settle it"
        )
    return f"if the difference is as it was seen, about {n:,} questions would settle it"


def compare(
    a: Sequence[Result],
    b: Sequence[Result],
    *,
    names: tuple[str, str],
    rng: np.random.Generator,
    margin: float = MARGIN,
    cluster_by: ClusterBy = "question",
) -> Comparison:
    """Compare two runs of the same questions.

    Calls are paired by question and sample. Where each run has one model its name does not matter, so that
    two versions of a model can be compared; where there are several they have to be the same.

    Args:
        a: The reference.
        b: The candidate.
        names: What to call them.
        rng: Source of the bootstrap draws.
        margin: The loss of accuracy that passes, as a share of questions.
        cluster_by: See :func:`~budgetctl.evals.results.pair`.

    Raises:
        PairingError: They cannot be paired; the message names a question.
    """
    if len({r.model for r in a}) == len({r.model for r in b}) == 1:
        a, b = ([replace(r, model="") for r in run] for run in (a, b))
    if names[0] == names[1]:
        raise PairingError(f"there is nothing to compare: both are {names[0]}")
    evaluation = evaluate(
        {names[0]: a, names[1]: b}, rng=rng, reference=names[0], cluster_by=cluster_by, asked=names
    )
    reference, candidate = evaluation.policies
    return judge(reference, candidate, margin=margin, units=evaluation.clusters)


def judge(a: PolicyRow, b: PolicyRow, *, margin: float, units: int) -> Comparison:
    """Return what the numbers of a candidate, which are against those of ``a``, come to.

    Args:
        a: The reference.
        b: The candidate.
        margin: The loss of accuracy that passes.
        units: Number of independent units that the intervals rest on.
    """
    assert b.delta_ci is not None
    assert b.delta_accuracy is not None
    low, high = b.delta_ci
    finding: Finding = "pass" if low > -margin else "loss" if high < 0 else "not_enough"
    needed = None
    if finding == "not_enough":
        needed = stats.units_needed(se=b.delta_se, n=units, point=b.delta_accuracy, margin=margin)
        # Clusters are counted in questions, of which there are as many in each as so far.
        needed = max(b.n + 1, min(stats.MOST_NEEDED, round(needed * b.n / units)))
    return Comparison(a=a, b=b, margin=margin, finding=finding, n_needed=needed)


def overall(found: Sequence[Comparison]) -> Finding:
    """Return the finding on all comparisons together: each has to pass."""
    findings = {one.finding for one in found}
    return "loss" if "loss" in findings else "not_enough" if "not_enough" in findings else "pass"


def markdown(found: Sequence[Comparison]) -> str:
    """Return the comparisons as a table for a pull request."""
    marks = {"pass": "pass", "loss": "**loss**", "not_enough": "not enough evidence"}
    lines = [
        "| policy | finding | accuracy | difference, points (95 % interval) | tokens saved | p95 to the end "
        "| $/request | $/right answer |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        a, b = one.a, one.b
        cells = [
            b.policy,
            marks[one.finding],
            f"{100 * a.accuracy:.1f} % → {100 * b.accuracy:.1f} %",
            f"{points(b.delta_accuracy).removesuffix(' points')} ({span(b.delta_ci)})",
            share(b.token_saving),
            _change(a.e2e_p95_s, b.e2e_p95_s, ".2f", " s"),
            _change(a.cost_usd_mean, b.cost_usd_mean, ".2g"),
            _change(a.cost_usd_per_correct, b.cost_usd_per_correct, ".2g"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"- {one.text}" for one in found)])


def _change(before: float | None, after: float | None, form: str, unit: str = "") -> str:
    shown = ["n/a" if v is None else f"{v:{form}}{unit}" for v in (before, after)]
    return "n/a" if shown == ["n/a", "n/a"] else " → ".join(shown)
