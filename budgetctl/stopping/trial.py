"""Trial answers: what the model would say if it had to answer now, how sure it is, and whether it stays."""

from __future__ import annotations

import re
from collections import deque

from budgetctl.types import Evidence, Progress, StopReason

from .compose import Composable, Signal

HEDGES = re.compile(r"\b(?:wait|hold on|but|however|hmm+|actually|maybe|perhaps|not sure)\b", re.IGNORECASE)
"""Words of somebody who has not decided yet. "No" and "okay" are none: they are answers."""

_BOXED = re.compile(r"\\boxed\{(.*)\}", re.DOTALL)


class TrialAnswer(Composable):
    """Stop when a trial answer is confident, and the model means to answer at all.

    A trial answer is asked for in the middle of a thought (DEER, Yang et al. 2025, arXiv 2504.15895). Among
    a few valid answers its ``confidence`` is normalised over them, so it is high also where the model, forced
    to say something, merely prefers one of the letters; alone it fires far too early. ``mass`` is the
    probability that falls on any valid answer at all, which is tiny while the model would rather go on
    thinking. The two together are the signal. Of free answers ``confidence`` is the geometric mean of the
    tokens' probabilities, and ``mass`` says whether the answer came to its end. One confident trial suffices:
    to wait for a second gives most of the saving away.

    Args:
        confidence: Confidence of the answer, from which on it counts.
        mass: Probability of all valid answers together, from which on the trial counts.
    """

    name = "trial_answer"
    needs: frozenset[Signal] = frozenset({"trial"})

    def __init__(self, *, confidence: float, mass: float) -> None:
        self.confidence = confidence
        self.mass = mass

    def observe(self, progress: Progress) -> Evidence | None:
        """Return evidence when the trial answer is confident."""
        trial = progress.trial
        # What is not a number is no evidence.
        if trial is None or not (trial.mass >= self.mass and trial.confidence >= self.confidence):
            return None
        return Evidence(criterion=self.name, reason=StopReason.SETTLED, hard=False, score=trial.confidence)


class AnswerAgreement(Composable):
    """Stop when the last ``k`` trial answers are the same, however sure the model is of them.

    They must be complete, not empty, and free of words that take an answer back. Answers are compared
    without case, outer punctuation and the dress of a formula. Dynasor (arXiv 2412.20993) and ES-CoT
    (arXiv 2509.14004) stop on such runs; it needs no probabilities, but ``k`` trials.

    Args:
        k: Trial answers in a row that must agree, at least 2.
    """

    name = "answer_agreement"
    needs: frozenset[Signal] = frozenset({"trial"})

    def __init__(self, k: int = 3) -> None:
        if k < 2:
            raise ValueError(f"an agreement takes at least two answers, seen k={k}")
        self.k = k
        self._last: deque[str] = deque(maxlen=k)

    def observe(self, progress: Progress) -> Evidence | None:
        """Return evidence when a trial answer completes the run."""
        if progress.trial is None:
            return None
        answer = progress.trial.answer or ""
        self._last.append("" if HEDGES.search(answer) else normalised(answer))
        if len(self._last) < self.k or not self._last[0] or len(set(self._last)) > 1:
            return None
        return Evidence(criterion=self.name, reason=StopReason.SETTLED, hard=False)


def normalised(answer: str) -> str:
    r"""Return what is compared of an answer: ``\boxed{42}``, ``$42$`` and ``42.`` are the same."""
    return " ".join(_BOXED.sub(r"\1", answer).split()).strip(" $*.\"'`").casefold()
