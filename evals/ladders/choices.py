"""Choices between two rungs by a score, as they were recorded: routers and cascades.

A router's score is known before anything is asked (:mod:`~budgetctl.evals.ladders.scores`). A cascade's is
read off the draft of the first rung, which is charged whether or not it is accepted:

===============  ========================================================================================
``confidence``   1 - recorded confidence of the draft (``confidence``, ``trial_confidence`` or ``p_top``)
``agreement``    1 - share of the recorded samples of the first rung that give their commonest answer; all of
                 them are charged, and that answer is the one that is kept
===============  ========================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from budgetctl.evals.columns import Floats, Ints
from budgetctl.evals.ladders.recorded import SIGNALS, Recorded
from budgetctl.evals.results import ClusterBy

from budgetctl.errors import EvalError

DRAFTED = ("confidence", "agreement")
Axis = Literal["share", "cost"]
Side = tuple[Floats, Floats | None]
"""For every call whether it is right, 0 to 1, and its cost in dollars or tokens; None is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Calls that can be answered by either of two models; all arrays have one value per call.

    Attributes:
        score: The larger, the sooner a call goes to the large model.
        small: What the small model alone comes to.
        large: What the large one alone comes to.
        kept: What a call comes to that the policy does not send up. A router's is ``small``.
        sent: That of one that it sends. A router's is ``large``, a cascade adds the cost of its draft.
        groups: Number of the unit that the bootstrap draws, from 0 and without gaps.
        weight: Weight of each call; calls of one question share theirs.
    """

    score: Floats
    small: Side
    large: Side
    kept: Side
    sent: Side
    groups: Ints
    weight: Floats

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes on which this can be judged; ``cost`` takes known costs and a dearer large model."""
        extra = self.extra
        return ("share",) if extra is None or self.weight @ extra <= 0 else ("share", "cost")

    @property
    def gain(self) -> Floats:
        """What each call gains by the large model alone."""
        return self.large[0] - self.small[0]

    @property
    def extra(self) -> Floats | None:
        """What it costs more there."""
        return None if self.small[1] is None or self.large[1] is None else self.large[1] - self.small[1]


def router(
    calls: Recorded, scores: Floats, costs: Sequence[Floats] | None, *, cluster_by: ClusterBy = "question"
) -> Choice:
    """Return the choice of a router: one call per question, its samples averaged.

    Args:
        calls: What two rungs did.
        scores: One per question of ``calls``, in the order of their numbers.
        costs: For each rung one per call; None is unknown.
        cluster_by: What the bootstrap draws.
    """
    questions, index = np.unique(calls.question, return_inverse=True)
    counts = np.bincount(index)

    def mean(values: Floats) -> Floats:
        return np.asarray(np.bincount(index, weights=values) / counts)

    small, large = (
        (mean(calls.column(i, "correct")), None if costs is None else mean(costs[i])) for i in (0, 1)
    )
    return Choice(
        score=scores,
        small=small,
        large=large,
        kept=small,
        sent=large,
        groups=_groups(calls, questions, cluster_by=cluster_by),
        weight=np.ones(len(questions)),
    )


def cascade(
    calls: Recorded, name: str, costs: Sequence[Floats] | None, *, cluster_by: ClusterBy = "question"
) -> Choice:
    """Return the choice of a cascade by what was recorded of the drafts of its first rung.

    Args:
        calls: What two rungs did.
        name: One of :data:`DRAFTED`.
        costs: For each rung one per call; None is unknown.
        cluster_by: What the bootstrap draws.

    Raises:
        EvalError: That was not recorded; says what is missing.
    """
    if name == "agreement":
        return _by_agreement(calls, costs, cluster_by=cluster_by)
    confidence = calls.confidence(0)
    if np.isnan(confidence).any():
        raise EvalError(
            f"score 'confidence': no confidence was recorded at {calls.rungs[0]} (a signal "
            f"{', '.join(SIGNALS)} of every row), so no draft can be judged by it"
        )
    small, large = ((calls.column(i, "correct"), None if costs is None else costs[i]) for i in (0, 1))
    questions, index = np.unique(calls.question, return_inverse=True)
    return Choice(
        score=1 - confidence,
        small=small,
        large=large,
        kept=small,
        sent=(large[0], None if costs is None else costs[0] + costs[1]),
        groups=_groups(calls, questions, cluster_by=cluster_by)[index],
        weight=1 / np.bincount(index)[index],
    )


def _by_agreement(calls: Recorded, costs: Sequence[Floats] | None, *, cluster_by: ClusterBy) -> Choice:
    """Return the cascade that asks the first rung as often as it was recorded, and counts the votes."""
    answers = calls.answers(0)
    questions, index = np.unique(calls.question, return_inverse=True)
    counts = np.bincount(index)
    if answers is None or counts.min() < 2:
        missing = "an answer of every row" if answers is None else "a second sample of every question"
        raise EvalError(f"score 'agreement': {missing} of {calls.rungs[0]} was not recorded")
    alone = router(calls, np.zeros(len(questions)), costs, cluster_by=cluster_by)
    pair = index.astype(np.int64) * (int(answers.max()) + 1) + answers
    _, first, votes = np.unique(pair, return_index=True, return_counts=True)
    # The commonest answer of each question; of equally common ones that of the earliest sample. The number of
    # an answer must not decide: it tells what other rows of the file, those of the large model too, hold.
    order = np.lexsort([first, -votes, index[first]])
    best = order[np.unique(index[first][order], return_index=True)[1]]
    (_, cheap), (right, dear) = alone.small, alone.large
    spent = None if cheap is None else cheap * counts
    return Choice(
        score=1 - votes[best] / counts,
        small=alone.small,
        large=alone.large,
        kept=(calls.column(0, "correct")[first[best]], spent),
        sent=(right, None if spent is None or dear is None else spent + dear),
        groups=alone.groups,
        weight=alone.weight,
    )


def _groups(calls: Recorded, questions: Ints, *, cluster_by: ClusterBy) -> Ints:
    if cluster_by == "question":
        return np.arange(len(questions))
    named = [calls.clusters[q] for q in questions.tolist()]
    if None in named:
        first = calls.names[int(questions[named.index(None)])]
        raise EvalError(f"question {first!r} names no cluster: resample by question instead")
    return np.unique(np.array(named), return_inverse=True)[1]
