"""Classifiers from one's own data: what it takes, how it is divided, and what came of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from budgetctl.classifiers import fit, metrics, train
from budgetctl.classifiers.linear import LinearClassifier
from budgetctl.classifiers.readout import QUANTILES
from budgetctl.classifiers.targets import Example

from budgetctl.errors import ClassifierError
from budgetctl.types import Estimate

ClusterBy = Literal["question", "cluster"]
Parts = tuple[list[Example], list[Example], list[Example]]

CALIBRATION, TEST = 0.2, 0.2
QUESTIONS = 300
"""So many different questions are needed; a fifth of them calibrates."""
NEEDED: Mapping[str, tuple[int, str]] = {
    "off": (100, "p_off: feedback on calls without thinking"),
    "full": (100, "p_full: feedback on calls whose thinking ended by itself"),
    "natural": (100, "natural tokens: calls whose thinking ended by itself, with its tokens"),
}
MOST = 0.8
"""N-grams are learnt where at least this share of the examples has its text."""
FEWEST = 20
"""Questions of the test part below which nothing is said of it."""
SURE = 0.5
"""From this confidence on an estimate is believed: the controller's own threshold."""
RECIPE = fit.Recipe(bag_drop=0.1)


def divide(examples: Sequence[Example], *, by: ClusterBy = "question") -> Parts:
    """Return training, calibration and test examples, drawn by a hash of the question or its cluster.

    All that was recorded of a question, by whichever model and in whichever file, is on one side.
    """
    parts: Parts = ([], [], [])
    for example in examples:
        key = example.task if by == "cluster" and example.task else example.key
        drawn = train.split(key)
        parts[2 if drawn < TEST else 1 if drawn < TEST + CALIBRATION else 0].append(example)
    return parts


def check(examples: Sequence[Example], needed: Mapping[str, tuple[int, str]], *, questions: int) -> None:
    """Refuse data that is too thin to learn from.

    Raises:
        ClassifierError: Says of every target how many questions there are and how many it takes.
    """
    seen = {"": {e.key for e in examples}}
    seen |= {name: {e.key for e in examples if getattr(e, name) is not None} for name in needed}
    wanted = {"": (questions, "different questions"), **needed}
    if any(len(seen[name]) < n for name, (n, _) in wanted.items()):
        lines = [f"  {what}: {len(seen[name])} questions, {n} needed" for name, (n, what) in wanted.items()]
        raise ClassifierError("\n".join(("too little to learn from:", *lines)))


def with_text(examples: Sequence[Example]) -> float:
    """Return the share of examples whose text is known."""
    return sum(bool(e.text) for e in examples) / max(len(examples), 1)


def fitted(
    training: Sequence[Example],
    calibration: Sequence[Example],
    *,
    name: str,
    note: str,
    created: str,
    progress: fit.Progress = fit.quiet,
) -> LinearClassifier:
    """Return a classifier of one's own; without n-grams where most texts are unknown.

    Raises:
        ClassifierError: Too few questions are left on either side, or the ``train`` extra is missing.
    """
    dense_only = with_text([*training, *calibration]) < MOST
    return train.train(
        training,
        calibration,
        name=name,
        note=note,
        created=created,
        recipe=replace(RECIPE, vocabulary=0) if dense_only else RECIPE,
        progress=progress,
    )


def judge(classifier: LinearClassifier, examples: Sequence[Example]) -> dict[str, Any]:
    """Return the metrics of a classifier on a test part, and each target against the best constant.

    ``against_constant`` has, for ``p_off`` and ``p_full``, the Brier scores of the classifier and of the base
    rate, for ``natural`` the pinball losses, averaged over quantiles, of the classifier and of the quantiles
    of each model; ``gain`` is their difference with a 95 % interval over questions, weighted as in training.
    Constants are those of the test part itself, which favours them. The other metrics are not weighted.
    """
    found = train.estimates(classifier, examples)
    sure = [e.confidence >= SURE for e in found]
    return {
        **metrics.evaluate(found, examples),
        "sure": round(float(np.mean(sure)), 4) if sure else None,
        "against_constant": {
            "p_off": _gain(examples, _brier(found, examples, "off")),
            "p_full": _gain(examples, _brier(found, examples, "full")),
            "natural": _gain(examples, _pinball(found, examples)),
        },
    }


def _brier(found: Sequence[Estimate], examples: Sequence[Example], target: str) -> tuple[Any, Any, Any]:
    """Return which examples are known, and the losses of the classifier and of the base rate on them."""
    right = np.array([np.nan if (y := getattr(e, target)) is None else y for e in examples], dtype=float)
    known = ~np.isnan(right)
    y, p = right[known], np.array([getattr(e, f"p_{target}") for e in found])[known]
    weight = np.array([e.weight for e in examples])[known]
    rate = np.average(y, weights=weight) if len(y) else 0.0
    return known, (p - y) ** 2, (rate - y) ** 2


def _pinball(found: Sequence[Estimate], examples: Sequence[Example]) -> tuple[Any, Any, Any]:
    logs = np.log1p([np.nan if e.natural is None else e.natural for e in examples])
    known = ~np.isnan(logs)
    constant = np.full((len(logs), len(QUANTILES)), np.nan)
    for model in {e.model for e in examples}:
        of = known & np.array([e.model == model for e in examples])
        if of.any():
            constant[of] = np.quantile(logs[of], QUANTILES)
    said = np.log1p([[metrics.at(e.natural, q) for q in QUANTILES] for e in found]).reshape(constant.shape)
    return known, *(_loss(logs[known], p[known]) for p in (said, constant))


def _loss(y: Any, predicted: Any) -> Any:
    error, q = y[:, None] - predicted, np.array(QUANTILES)
    return np.maximum(q * error, (q - 1) * error).mean(axis=1)


def _gain(examples: Sequence[Example], losses: tuple[Any, Any, Any]) -> dict[str, Any] | None:
    """Return mean losses and their difference, which says nothing of fewer than :data:`FEWEST` questions."""
    known, ours, constant = losses
    chosen = [e for e, k in zip(examples, known, strict=True) if k]
    by_question: dict[str, list[int]] = defaultdict(list)
    for i, example in enumerate(chosen):
        by_question[example.key].append(i)
    if len(by_question) < FEWEST:
        return None
    weight = np.array([e.weight for e in chosen])
    sums = np.array(
        [[(weight[i] * (constant - ours)[i]).sum(), weight[i].sum()] for i in by_question.values()]
    )
    gain = sums[:, 0].sum() / sums[:, 1].sum()
    # The standard error of a ratio of sums over questions (Cochran 1977, ch. 6).
    error = np.sqrt(((sums[:, 0] - gain * sums[:, 1]) ** 2).sum()) / sums[:, 1].sum()
    low, high = gain - 1.96 * error, gain + 1.96 * error
    values = {
        "classifier": np.average(ours, weights=weight),
        "constant": np.average(constant, weights=weight),
    }
    return {
        "questions": len(by_question),
        **{name: round(float(value), 4) for name, value in values.items()},
        "gain": round(float(gain), 4),
        "gain_ci": [round(float(low), 4), round(float(high), 4)],
    }
