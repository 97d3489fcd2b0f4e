"""What is said of one predictor.

``need_auc``          AUROC of ``Answer.score`` for "only thinking solves it": fewer than half of the models
                      are right without thinking, and at least half with it. Over the questions where both
                      are known.
``need_product_auc``  The same with ``p_full * (1 - p_off)`` for the score.
``need_brier``        Mean of ``(need - y)^2``, need clipped to [0, 1], y 1 where only thinking solves it.
``need_share``        Share of questions that only thinking solves.
``spearman``          Rank correlation, inside one source, of ``Answer.length`` and the observed length: the
                      mean over models of log(1 + tokens), less each model's own mean over the source's
                      questions. Across sources it would mostly say that they differ.
``pinball``           Loss of the natural quantiles in log(1 + tokens), with the model named, and their mean.
``coverage``          Share of natural tokens at or below p50, p80 and p90, with the model named and not. One
                      case is one model on one question.
``settled_coverage``  The same of settled tokens, on the questions that thinking helps.
``abstained``         Share of questions whose confidence is below the controller's threshold.
``abstention``        Figures on the most confident questions; more are kept than asked where they tie.
``within_parts``      ``need_auc`` and ``spearman`` once more, computed part by part and averaged by number of
                      questions. Pooled, the answers of classifiers that were fitted on different parts are
                      ranked together, which weights in use never are.
``lift``              Share of the oracle's lift over blind spending that the estimate realises, for switching
                      thinking on and for caps (:mod:`budgetctl.evals.bench.lift`).
``lift_by_source``    The same inside one source.
``stable``            Share of questions whose action stays the same under an edit
                      (:mod:`budgetctl.evals.bench.stability`); of classifiers.
``us_per_query``      Median of single predictions without a model, in microseconds.

A source is the part of a kind before the first "/".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from budgetctl.evals.bench.resample import Figure

Figures = dict[str, Figure]


@dataclass(frozen=True, slots=True, kw_only=True)
class Confident:
    """The figures on the most confident ``share`` of the questions.

    Attributes:
        kept: The share that was kept, of the questions whose need is known.
        lift: Without intervals.
    """

    share: float
    kept: float | None
    need_auc: Figure
    need_brier: Figure
    p90: Figure
    lift: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """All figures of one predictor; those a rule cannot have are None or empty."""

    name: str
    need_auc: Figure
    need_auc_by_source: Figures
    need_share: Figure
    spearman: Figures
    within_parts: Mapping[str, Figure | Figures]
    us_per_query: Figure
    is_rule: bool = True
    need_product_auc: Figure | None = None
    need_brier: Figure | None = None
    pinball: Figures = field(default_factory=dict)
    coverage: Mapping[str, Figures] = field(default_factory=dict)
    coverage_by_source: Mapping[str, Figures] = field(default_factory=dict)
    settled_coverage: Mapping[str, Figures] = field(default_factory=dict)
    lift: Figures = field(default_factory=dict)
    lift_by_source: Mapping[str, Figures] = field(default_factory=dict)
    stable: Figures = field(default_factory=dict)
    abstained: Figure | None = None
    abstention: tuple[Confident, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


def _plain(value: Any) -> Any:
    if isinstance(value, Figure):
        return value.as_json()
    if isinstance(value, Confident):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple) else value
