"""Trial answers: what the model would say if it had to answer now, and how sure it is."""

from __future__ import annotations

from budgetctl.types import Evidence, Progress, StopReason

from .criteria import _Composable


class TrialAnswer(_Composable):
    """Stop when a trial answer is confident, and the model means to answer at all.

    A trial answer is asked for in the middle of a thought (DEER, Yang et al. 2025). Its ``confidence`` is
    normalised over the valid answers, so it is high also where the model, forced to say something, merely
    prefers one of the letters; alone it fires far too early. ``mass`` is the probability that falls on any
    valid answer at all, which is tiny while the model would rather go on thinking. The two together are the
    signal. One confident trial suffices: to wait for a second gives most of the saving away.

    Args:
        confidence: Probability of the answer among the valid ones, from which on it counts.
        mass: Probability of all valid answers together, from which on the trial counts.
    """

    name = "trial_answer"

    def __init__(self, *, confidence: float, mass: float) -> None:
        self.confidence = confidence
        self.mass = mass

    def observe(self, progress: Progress) -> Evidence | None:
        """Return evidence when the latest trial answer is confident."""
        trial = progress.trial
        # What is not a number is no evidence.
        if trial is None or not (trial.mass >= self.mass and trial.confidence >= self.confidence):
            return None
        return Evidence(criterion=self.name, reason=StopReason.SETTLED, hard=False, score=trial.confidence)
