"""From paired runs to one loss per independent unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from budgetctl.evals.results import ClusterBy, Floats, Paired, Result, column, pair
from budgetctl.evals.risk.pvalues import Test

from budgetctl.certificate import Loss
from budgetctl.errors import EvalError

FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Losses and tokens of every member on every unit.

    A unit is a question, or a cluster of questions that stand or fall together: samples of one question are
    averaged first, questions of one cluster next, so the loss that is bounded is that of a cluster drawn at
    random.

    Attributes:
        loss: Shape (members, units), at most 1.
        tokens: Shape (members, units): mean tokens per call.
        full_tokens: Shape (units,): the same at full thinking.
        results: Calls per policy behind all units.
        test: ``binomial`` where every loss is 0 or 1 by design (one call per unit, a loss of two values).
    """

    loss: Floats
    tokens: Floats
    full_tokens: Floats
    results: int
    test: Test

    @property
    def n(self) -> int:
        """Number of units."""
        return int(self.loss.shape[1])

    def of(self, units: Sequence[int]) -> Losses:
        """Return the losses on some of the units, in the given order."""
        at = np.asarray(units, dtype=np.intp)
        return replace(
            self, loss=self.loss[:, at], tokens=self.tokens[:, at], full_tokens=self.full_tokens[at]
        )

    def only(self, members: Sequence[int]) -> Losses:
        """Return the losses of some of the members, in the given order."""
        at = list(members)
        return replace(self, loss=self.loss[at], tokens=self.tokens[at])

    def saving(self, member: int) -> float:
        """Return ``1 - sum(tokens) / sum(tokens of full)``; 0 where full thinking spent none."""
        full = float(self.full_tokens.sum())
        return 1 - float(self.tokens[member].sum()) / full if full else 0.0


def losses(
    full: Sequence[Result],
    runs: Mapping[str, Sequence[Result]],
    *,
    loss: Loss,
    cluster_by: ClusterBy = "question",
) -> Losses:
    """Return the losses of every run against full thinking.

    Args:
        full: Results at full thinking.
        runs: Member to its results on the same calls, in the order in which they are to be tested.
        loss: What is counted; see :data:`budgetctl.certificate.Loss`.
        cluster_by: What a unit is.

    Raises:
        PairingError: The runs cover different calls, or name no clusters.
        EvalError: Answers or tokens that are needed were not recorded.
    """
    paired = pair({FULL: full, **runs}, cluster_by=cluster_by)
    basis = _basis(paired)
    base = paired.runs[FULL]
    units = int(paired.groups.max()) + 1
    return Losses(
        loss=np.array([_by_unit(paired, _loss(base, paired.runs[name], loss=loss)) for name in runs]),
        tokens=np.array([_by_unit(paired, column(paired.runs[name], basis)) for name in runs]),
        full_tokens=_by_unit(paired, column(base, basis)),
        results=len(base),
        test="binomial" if loss != "accuracy" and len(base) == units else "betting",
    )


def _basis(paired: Paired) -> str:
    for name in ("reasoning_tokens", "output_tokens"):
        if not any(np.isnan(column(results, name)).any() for results in paired.runs.values()):
            return name
    raise EvalError("neither thinking tokens nor output tokens were recorded for every call")


def _by_unit(paired: Paired, values: Floats) -> Floats:
    by_question = paired.by_question(values)
    assert by_question is not None
    sums = np.bincount(paired.groups, weights=by_question)
    return np.asarray(sums / np.bincount(paired.groups), dtype=float)


def _loss(full: Sequence[Result], results: Sequence[Result], *, loss: Loss) -> Floats:
    if loss == "disagreement":
        pairs = zip(map(_answer, full), map(_answer, results), strict=True)
        return np.array([before != after for before, after in pairs], dtype=float)
    difference = column(full, "correct") - column(results, "correct")
    return difference if loss == "accuracy" else np.maximum(difference, 0.0)


def _answer(result: Result) -> str | None:
    """Return the answer of a call; None where it gave none."""
    if result.answered and result.answer is None:
        raise EvalError(f"{result.question_id}: disagreement needs the answers, and one was not recorded")
    return result.answer if result.answered else None
