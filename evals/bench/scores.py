"""Computes the figures of :mod:`budgetctl.evals.bench.rows` from what a predictor says of known questions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from budgetctl.classifiers import metrics
from budgetctl.classifiers.readout import QUANTILES
from budgetctl.classifiers.targets import Question
from budgetctl.evals.bench import lift
from budgetctl.evals.bench.predictors import Answer
from budgetctl.evals.bench.resample import Bootstrap, Figure
from budgetctl.evals.bench.rows import Confident, Figures, Row
from numpy.typing import NDArray

from budgetctl.controller import MIN_CONFIDENCE
from budgetctl.types import Estimate, Quantiles

SHARES = (1.0, 0.8, 0.6, 0.4, 0.2)
COVERED = (0.5, 0.8, 0.9)
MAJORITY = 0.5
"""From this share of models on a question counts as solved, as in the loss that is trained by."""
ALONE = Bootstrap(seed=0, resamples=0)
"""For figures without an interval."""
MIN_RANKED = 20
"""A rank correlation of fewer questions says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One model's tokens on one question, and what was estimated of them.

    Attributes:
        cluster: What the bootstrap draws it with.
        estimates: Quantiles by whether the model was ``named`` or ``unnamed``.
    """

    cluster: str
    tokens: float
    estimates: Mapping[str, Quantiles]


def row(name: str, answers: Sequence[Answer], bootstrap: Bootstrap) -> Row:
    """Return the figures of the predictor that gave these answers, one per question."""
    known = [a for a in answers if needs(a.question) is not None]
    timed = [a for a in answers if a.question.natural]
    found = Row(
        name=name,
        need_auc=_auc(known, bootstrap),
        need_auc_by_source={s: _auc(group, bootstrap) for s, group in _by_source(known).items()},
        need_share=bootstrap.share(_labels(known), _clusters(known)),
        spearman={s: _spearman(group, bootstrap) for s, group in _by_source(timed).items()},
        within_parts={
            "need_auc": _within_parts(known, _auc),
            "spearman": {s: _within_parts(group, _spearman) for s, group in _by_source(timed).items()},
        },
        lift={"switch": lift.switched(answers, bootstrap)},
        us_per_query=Figure(value=statistics.median(a.ns for a in answers) / 1000, n=len(answers)),
    )
    if any(a.estimate is None for a in answers):
        return found
    natural = _cases(timed, "natural")
    unsure = [_estimate(a).confidence < MIN_CONFIDENCE for a in answers]
    return replace(
        found,
        is_rule=False,
        need_product_auc=_auc(known, bootstrap, score=_product),
        need_brier=_brier(known, bootstrap),
        pinball=_pinball(natural),
        coverage=_coverage(natural, bootstrap),
        coverage_by_source={
            s: _coverage(_cases(group, "natural"), bootstrap)["named"]
            for s, group in _by_source(timed).items()
        },
        settled_coverage=_coverage(_cases(answers, "settled"), bootstrap),
        lift=_lift(answers, bootstrap),
        lift_by_source={s: _lift(group, bootstrap) for s, group in _by_source(answers).items()},
        abstained=bootstrap.share(unsure, _clusters(answers)),
        abstention=tuple(_confident(share, known, timed, bootstrap) for share in SHARES),
    )


def _lift(answers: Sequence[Answer], bootstrap: Bootstrap) -> Figures:
    caps = {target: lift.capped(answers, target, bootstrap) for target in ("settled", "natural")}
    return {"switch": lift.switched(answers, bootstrap), **caps}


def needs(question: Question) -> bool | None:
    """Return whether only thinking solves a question; None where that is not known."""
    if question.off is None or question.full is None:
        return None
    return question.off < MAJORITY <= question.full


def _by_source(answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    groups: dict[str, list[Answer]] = {}
    for a in answers:
        groups.setdefault(a.question.kind.partition("/")[0], []).append(a)
    return groups


def _clusters(answers: Sequence[Answer]) -> list[str]:
    return [a.cluster for a in answers]


def _estimate(answer: Answer) -> Estimate:
    assert answer.estimate is not None, "asked of a rule"
    return answer.estimate


def _product(answer: Answer) -> float:
    return _estimate(answer).p_full * (1 - _estimate(answer).p_off)


def _score(answer: Answer) -> float:
    return answer.score


def _auc(
    known: Sequence[Answer], bootstrap: Bootstrap, *, score: Callable[[Answer], float] = _score
) -> Figure:
    scores, labels = np.array([score(a) for a in known]), _labels(known)
    return bootstrap.figure(lambda rows: metrics.auc(scores[rows], labels[rows]), _clusters(known))


def _labels(known: Sequence[Answer]) -> NDArray[np.bool_]:
    return np.array([needs(a.question) for a in known], dtype=bool)


def _brier(known: Sequence[Answer], bootstrap: Bootstrap) -> Figure:
    chance = np.clip([_estimate(a).need for a in known], 0.0, 1.0)
    losses = (chance - _labels(known)) ** 2
    return bootstrap.mean(losses, _clusters(known))


def _spearman(answers: Sequence[Answer], bootstrap: Bootstrap) -> Figure:
    if len(answers) < MIN_RANKED:
        return Figure(value=None, n=len(answers))
    spent: dict[str, list[float]] = {}
    for a in answers:
        for model, tokens in a.question.natural:
            spent.setdefault(model, []).append(math.log1p(tokens))
    usual = {model: statistics.fmean(logs) for model, logs in spent.items()}
    observed = np.array(
        [statistics.fmean(math.log1p(t) - usual[m] for m, t in a.question.natural) for a in answers]
    )
    expected = np.array([a.length for a in answers])
    return bootstrap.figure(lambda rows: metrics.spearman(expected[rows], observed[rows]), _clusters(answers))


def _within_parts(
    answers: Sequence[Answer], figure: Callable[[Sequence[Answer], Bootstrap], Figure]
) -> Figure:
    """Return the mean of a figure over the parts in which it is defined, weighted by their questions."""
    parts: dict[int, list[Answer]] = {}
    for a in answers:
        parts.setdefault(a.part, []).append(a)
    found = [(f.value, f.n) for group in parts.values() if (f := figure(group, ALONE)).value is not None]
    n = sum(size for _, size in found)
    return Figure(value=sum(value * size for value, size in found) / n if n else None, n=n)


def _cases(answers: Sequence[Answer], target: str) -> list[Case]:
    return [
        Case(
            cluster=a.cluster,
            tokens=tokens,
            estimates={
                "named": getattr(a.named[model], target),
                "unnamed": getattr(_estimate(a), target),
            },
        )
        for a in answers
        for model, tokens in getattr(a.question, target)
        if tokens > 0
    ]


def _pinball(cases: Sequence[Case]) -> Figures:
    pairs = [(case.estimates["named"], case.tokens) for case in cases]
    losses = {f"p{100 * q:.0f}": metrics.pinball(pairs, q) for q in QUANTILES}
    known = [loss for loss in losses.values() if loss is not None]
    mean = statistics.fmean(known) if known else None
    return {key: Figure(value=value, n=len(cases)) for key, value in {**losses, "mean": mean}.items()}


def _coverage(cases: Sequence[Case], bootstrap: Bootstrap) -> dict[str, Figures]:
    return {
        model: {f"p{100 * q:.0f}": _covered(cases, q, bootstrap, model=model) for q in COVERED}
        for model in ("named", "unnamed")
    }


def _covered(cases: Sequence[Case], q: float, bootstrap: Bootstrap, *, model: str) -> Figure:
    hits = [case.tokens <= metrics.at(case.estimates[model], q) for case in cases]
    return bootstrap.share(hits, [case.cluster for case in cases])


def _confident(
    share: float, known: Sequence[Answer], timed: Sequence[Answer], bootstrap: Bootstrap
) -> Confident:
    asked = _most_confident(known, share)
    sure = _most_confident(timed, share)
    return Confident(
        share=share,
        kept=len(asked) / len(known) if known else None,
        need_auc=_auc(asked, bootstrap),
        need_brier=_brier(asked, bootstrap),
        p90=_covered(_cases(sure, "natural"), 0.9, bootstrap, model="named"),
        lift={
            "switch": lift.switched(asked, ALONE),
            "natural": lift.capped(sure, "natural", ALONE),
        },
    )


def _most_confident(answers: Sequence[Answer], share: float) -> list[Answer]:
    confidences = sorted((_estimate(a).confidence for a in answers), reverse=True)
    least = confidences[math.ceil(share * len(confidences)) - 1] if confidences else 0.0
    return [a for a in answers if _estimate(a).confidence >= least]
