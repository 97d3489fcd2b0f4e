"""Where soft evidence may not end a thought."""

from __future__ import annotations

import math

from budgetctl.types import Evidence, Progress

from .compose import AnyOf, Criterion, Signal
from .signals import LowConfidence

MIN_THINK = 64
"""Tokens of thinking before which no soft evidence counts, for models whose thoughts take hundreds."""

MIN_SHARE = 0.15
"""Share of the cap before which none counts. Thoughts that are closed at 5 to 11 % of their natural length go
on in the answer; above 14 % that was not seen (measured on two models, jundot/omlx#1812)."""


class Guarded(AnyOf):
    """Stop as soon as one of the criteria does, but on soft evidence only where it can be trusted.

    None counts, and no probe is asked for, before ``max(min_think, 0.15 * cap)`` tokens of thinking and
    while one of the criteria is a :class:`LowConfidence` whose bar is missed. Hard evidence always counts.

    Args:
        criteria: What may end the thought.
        cap: The call's cap in tokens; None is none.
        min_think: Tokens of thinking before which no soft evidence counts.
    """

    def __init__(self, *criteria: Criterion, cap: int | None = None, min_think: int = MIN_THINK) -> None:
        super().__init__(*criteria)
        self.start = max(min_think, math.ceil(MIN_SHARE * (cap or 0)))
        self._vetoes = [c for c in criteria if isinstance(c, LowConfidence)]

    def observe(self, progress: Progress) -> Evidence | None:
        """Return the first evidence that counts."""
        found = super().observe(progress)
        return found if found is None or found.hard or self._open(progress) else None

    def asks(self, progress: Progress) -> frozenset[Signal]:
        """Return what the parts ask for, where an answer to it could count."""
        return super().asks(progress) if self._open(progress) else frozenset()

    def _open(self, progress: Progress) -> bool:
        return progress.reasoning_tokens >= self.start and not any(veto.low for veto in self._vetoes)
