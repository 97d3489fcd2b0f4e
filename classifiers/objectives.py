"""What the outputs of a network are fitted to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from budgetctl.classifiers.habits import Habits
from budgetctl.classifiers.targets import Question
from numpy.typing import NDArray

Array = NDArray[Any]

SMALLEST_STD = 0.3

AT_ONCE_WEIGHT = 0.1
"""Weight, in the curve of ``settled``, of questions that need no thinking: near 0 where all are such."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What the heads learn, one row per question.

    Attributes:
        off: Share of models right without thinking; NaN where unknown.
        full: Share of models right with thinking; NaN where unknown.
        tokens: questions x 2: how far settled and natural difficulty lie from the mean of their kind, in
            log(1 + tokens); 0 where unknown.
        weights: questions x 2: 0 where unknown, more for kinds whose questions differ little.
        centres: kinds x 2: the mean of each kind.
        kinds: questions x kinds: 1 for the kind it is; all 0 where that is not known from training.
        level: Named difficulty; NaN where unknown.
        weight: What each question counts, 1 on average; ``weights`` have it in them.
    """

    off: Array
    full: Array
    tokens: Array
    weights: Array
    centres: Array
    kinds: Array
    level: Array
    weight: Array


def labels(questions: Sequence[Question], habits: Habits, kinds: Sequence[str]) -> Labels:
    """Return targets and their weights; ``kinds`` are the kinds of question in training."""
    tokens = np.stack([_floats(habits.difficulty(p) for p in pairs) for pairs in _pairs(questions)], axis=1)
    known = ~np.isnan(tokens)
    weight = _floats(q.weight for q in questions)
    weight /= weight.mean()
    weights = known * weight[:, None]
    weights[:, 0] *= [_settling_weight(q) for q in questions]
    is_kind = np.array([[float(q.kind == kind) for kind in kinds] for q in questions])
    centres = np.zeros((len(kinds), 2))
    for kind, target in np.ndindex(centres.shape):
        of_kind = is_kind[:, kind] > 0
        used = of_kind & known[:, target]
        values = tokens[used, target]
        if len(values):
            centres[kind, target] = np.average(values, weights=weight[used])
            weights[of_kind, target] /= max(float(values.std()), SMALLEST_STD)
        else:  # of a kind of unknown length nothing is known but what all questions are like
            centres[kind, target] = (
                np.nan_to_num(np.nanmean(tokens[:, target])) if known[:, target].any() else 0.0
            )
    return Labels(
        off=_floats(q.off for q in questions),
        full=_floats(q.full for q in questions),
        tokens=np.where(known, tokens - is_kind @ centres, 0.0),
        weights=weights,
        centres=centres,
        kinds=is_kind,
        level=_floats(q.level for q in questions),
        weight=weight,
    )


def _pairs(questions: Sequence[Question]) -> tuple[list[Any], list[Any]]:
    return [q.settled for q in questions], [q.natural for q in questions]


def _settling_weight(question: Question) -> float:
    if not question.settled:
        return 0.0
    return 1.0 if any(tokens > 0 for _, tokens in question.settled) else AT_ONCE_WEIGHT


def _floats(values: Iterable[float | None]) -> Array:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def shares(p: Array, off: Array, full: Array) -> Array:
    """Return what class probabilities ``p`` become once shares of right models are known (questions x 4).

    Classes are right in both ways, only with thinking, only without, in neither. Two known shares are taken
    for independent between models; of an unknown one the probabilities keep their own opinion.
    """
    right_off, right_full = p[:, [0, 2]].sum(axis=1), p[:, [0, 1]].sum(axis=1)
    both = np.stack([off * full, (1 - off) * full, off * (1 - full), (1 - off) * (1 - full)], axis=1)
    given_off = p * _scale(off, right_off, (0, 2))
    given_full = p * _scale(full, right_full, (0, 1))
    found = np.where(np.isnan(off)[:, None], np.where(np.isnan(full)[:, None], p, given_full), given_off)
    return np.asarray(np.where(np.isnan(off + full)[:, None], found, both))


def _scale(share: Array, probability: Array, right: tuple[int, int]) -> Array:
    """Return the factors that bring the classes ``right`` to a total of ``share``, the others to the rest."""
    factor = np.repeat(((1 - share) / np.maximum(1 - probability, 1e-12))[:, None], 4, axis=1)
    factor[:, list(right)] = (share / np.maximum(probability, 1e-12))[:, None]
    return factor


def majority(share: Array) -> Array:
    """Return 1 where at least half of the models are right, 0 where fewer are, NaN where unknown."""
    return np.where(np.isnan(share), np.nan, (share >= 0.5).astype(float))
