"""What models have in common, and what is each one's own habit of thinking long or short.

    log(1 + tokens) = generic + habit of the model + difficulty of the question + noise

fitted by alternating means, each shrunk by the number of its rows (a two-way random-effects model). The
difficulty of a question is then comparable between models that never saw the same questions, as long as a
chain of shared ones connects them; a model that nothing connects is taken for a generic one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from budgetctl.classifiers.targets import Question

MODEL_PRIOR = 5.0
"""A habit counts as if this many rows had shown none."""
QUESTION_PRIOR = 0.5
ROUNDS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """Offsets in log(1 + tokens).

    Attributes:
        generic: Mean over questions and models.
        models: Model to its offset from the generic reasoner.
    """

    generic: float
    models: Mapping[str, float]

    def level(self, model: str) -> float:
        """Return what a question of mean difficulty costs ``model``, in log(1 + tokens)."""
        return self.generic + self.models.get(model, 0.0)

    def difficulty(self, pairs: Iterable[tuple[str, float]]) -> float | None:
        """Return the mean difficulty that (model, tokens) pairs of one question show; None without any."""
        found = [float(np.log1p(tokens)) - self.level(model) for model, tokens in pairs]
        return sum(found) / len(found) if found else None


def fit(questions: Sequence[Question]) -> Habits:
    """Return the habits that the natural lengths of these questions show."""
    rows = [(i, m, np.log1p(t)) for i, q in enumerate(questions) for m, t in q.natural]
    if not rows:
        return Habits(generic=0.0, models={})
    names = sorted({model for _, model, _ in rows})
    index = {name: j for j, name in enumerate(names)}
    asked = np.array([i for i, *_ in rows])
    who = np.array([index[model] for _, model, _ in rows])
    y = np.array([value for *_, value in rows])
    generic = y.mean()
    difficulty = np.zeros(len(questions))
    habit = np.zeros(len(names))
    for _ in range(ROUNDS):
        difficulty = _shrunk(asked, y - generic - habit[who], len(questions), QUESTION_PRIOR)
        habit = _shrunk(who, y - generic - difficulty[asked], len(names), MODEL_PRIOR)
        generic = float((y - habit[who] - difficulty[asked]).mean())
    return Habits(generic=float(generic), models=dict(zip(names, habit.tolist(), strict=True)))


def _shrunk(group: np.ndarray, values: np.ndarray, n: int, prior: float) -> np.ndarray:
    counts = np.bincount(group, minlength=n)
    return np.asarray(np.bincount(group, values, minlength=n) / (counts + prior))
