"""Soft criteria on what the model's own distribution shows: the wish to stop, doubt, a settled entropy."""

from __future__ import annotations

import math
from collections import deque

from budgetctl.types import Evidence, Progress, StopReason

from .compose import Composable, Signal


class CloseMargin(Composable):
    """Stop where the model is about to stop thinking anyway, or nearly.

    At the end of a sentence the end-of-thinking token is at most ``margin`` less likely, in nats, than the
    likeliest token, for ``patience`` boundaries in a row. It costs nothing: the distribution is there.
    ThinkBrake (arXiv 2510.00546), whose threshold is to be calibrated per model. A full stop and the line
    end behind it are two boundaries where they are two tokens.

    Args:
        margin: Largest ``logp(likeliest) - logp(end of thinking)`` that counts, in nats.
        patience: Boundaries in a row at which it must.
    """

    name = "close_margin"
    needs: frozenset[Signal] = frozenset({"close_margin"})

    def __init__(self, margin: float = 2.0, *, patience: int = 2) -> None:
        self.margin = margin
        self.patience = patience
        self._run = 0

    def observe(self, progress: Progress) -> Evidence | None:
        """Return evidence at the last boundary of a run; its score is the ratio of the two probabilities."""
        margin = progress.close_margin
        if margin is None or not progress.at_boundary:
            return None
        self._run = self._run + 1 if margin <= self.margin else 0
        if self._run < self.patience:
            return None
        return Evidence(
            criterion=self.name, reason=StopReason.SETTLED, hard=False, score=math.exp(-max(margin, 0.0))
        )


class LowConfidence(Composable):
    """Never stop, and keep soft evidence from stopping while the model is unsure (see :class:`Guarded`).

    The mean of the token confidence over the last ``window`` tokens is below a bar. Token confidence is the
    mean negative log-probability of the likeliest tokens: where one of them has it all, the others are far
    down and it is high. DeepConf (arXiv 2508.15260) drops such traces from a vote; of a single one it says
    that the answer is not there yet, or that the question is for a stronger model.

    Args:
        bar: Mean token confidence, in nats, from which on the model is sure enough; to be measured on the
            model's own traces (the paper takes a low percentile of them).
        window: Tokens in the mean. Before as many have come nothing is low.
    """

    name = "low_confidence"
    needs: frozenset[Signal] = frozenset({"token_confidence"})

    def __init__(self, bar: float, *, window: int = 1024) -> None:
        self.bar = bar
        self._last: deque[float] = deque(maxlen=window)

    def observe(self, progress: Progress) -> Evidence | None:
        """Take the confidence of the next token."""
        if progress.token_confidence is not None:
            self._last.append(progress.token_confidence)
        return None

    @property
    def low(self) -> bool:
        """Whether confidence is below the bar now: no soft stop, and a reason to escalate."""
        full = len(self._last) == self._last.maxlen
        return full and sum(self._last) < self.bar * len(self._last)


class EntropyAfterThink(Composable):
    """Stop when it no longer changes how open the answer would be if the thought ended now.

    The entropy of the token after a hypothetical close is followed by a moving mean and variance,
    ``m = a H + (1 - a) m`` and ``v = a (H - m)^2 + (1 - a) v``; a variance below ``delta`` is evidence, from
    the ``4 / a``-th reading on. EAT (arXiv 2509.26522), which has no default for either: calibrate them.

    Args:
        alpha: Weight of the newest reading, in (0, 1].
        delta: Variance, in squared nats, below which the entropy has settled.
    """

    name = "entropy_after_think"
    needs: frozenset[Signal] = frozenset({"entropy_after"})

    def __init__(self, alpha: float = 0.1, *, delta: float) -> None:
        self.alpha = alpha
        self.delta = delta
        self._readings = 0
        self._mean = self._variance = 0.0

    def observe(self, progress: Progress) -> Evidence | None:
        """Return evidence when the variance is small; its score is how far it lies below the bar."""
        entropy = progress.entropy_after
        if entropy is None or not math.isfinite(entropy):
            return None
        self._readings += 1
        if self._readings == 1:
            self._mean = entropy
        self._mean += self.alpha * (entropy - self._mean)
        self._variance += self.alpha * ((entropy - self._mean) ** 2 - self._variance)
        if self._readings < 4 / self.alpha or self._variance >= self.delta:
            return None
        score = 1 - self._variance / self.delta
        return Evidence(criterion=self.name, reason=StopReason.SETTLED, hard=False, score=score)
