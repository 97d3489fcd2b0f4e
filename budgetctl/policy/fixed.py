"""Policies that give every query the same: nothing, everything, a cap, an effort level, so many seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from budgetctl.errors import ConfigError
from budgetctl.policy.base import Named, Situation, exact, named
from budgetctl.policy.caps import ANSWER_RESERVE, MAX_CAP, at_most, capped
from budgetctl.types import Budget

LEAST_THOUGHT = 16
"""Tokens of thinking below which a deadline rather has none, where a cut takes another request."""


@dataclass(frozen=True, slots=True)
class Full(Named):
    """Leave thinking to the model: the caller's own parameters, watched and recorded."""

    stop: str = "none"

    def budget(self, situation: Situation) -> Budget:
        return Budget(stop=self.stop, reasons=("full: the caller's own parameters",))

    def __str__(self) -> str:
        return named("full", self.stop, default="none")


@dataclass(frozen=True, slots=True)
class Off(Named):
    """Switch thinking off where the model allows it."""

    stop: str = "none"

    def budget(self, situation: Situation) -> Budget:
        return Budget(reasoning_tokens=0, stop=self.stop, reasons=("off: no thinking",))

    def __str__(self) -> str:
        return named("off", self.stop, default="none")


@dataclass(frozen=True, slots=True)
class Cap(Named):
    """The same cap for every call, in tokens of thinking."""

    tokens: int
    stop: str = "safe"

    def __post_init__(self) -> None:
        if isinstance(self.tokens, bool) or not 1 <= self.tokens <= MAX_CAP:
            raise ConfigError(
                f"cap:{self.tokens}: the cap is a whole number of tokens from 1 to {MAX_CAP:,}; "
                "for no thinking at all use 'off'"
            )

    def budget(self, situation: Situation) -> Budget:
        return capped(self.tokens, f"cap: {self.tokens} tokens", stop=self.stop, situation=situation)

    def __str__(self) -> str:
        return named(f"cap:{self.tokens}", self.stop)


@dataclass(frozen=True, slots=True)
class Effort(Named):
    """Name the provider's effort level; levels that a model lacks are refused or rounded by its adapter."""

    level: str
    stop: str = "safe"

    def budget(self, situation: Situation) -> Budget:
        return Budget(effort=self.level, stop=self.stop, reasons=(f"effort {self.level}",))

    def __str__(self) -> str:
        return named(f"effort:{self.level}", self.stop)


@dataclass(frozen=True, slots=True)
class Deadline(Named):
    """Answer within ``seconds``: live speed turns what is left after the answer reserve into tokens.

    ``thinking = pace.tokens(seconds) - reserve``: what fits at the present load, with the margin by which
    plans have been off, and with two requests where it takes another one to answer from a thought that was
    cut. Too little time for any thinking switches it off, or caps it at a token where it cannot be.

    Without a measured speed no cap is set before the call; the deadline is still watched on the stream.
    """

    seconds: float
    stop: str = "safe"

    def __post_init__(self) -> None:
        if not (0 < self.seconds < math.inf):
            raise ConfigError(f"deadline:{self.seconds}: the deadline is a number of seconds above zero")

    def budget(self, situation: Situation) -> Budget:
        pace = situation.pace
        if pace is None or not pace.s_per_token > 0:
            return Budget(
                deadline_s=self.seconds,
                stop=self.stop,
                reasons=(f"deadline {self.seconds:g} s, speed not yet known: watched on the stream",),
            )
        facts = situation.facts
        fits = pace.tokens(self.seconds, requests=2 if facts.recalls else 1)
        tokens = max(0, fits - (facts.answer_tokens or ANSWER_RESERVE))
        reason = f"deadline {self.seconds:g} s leaves {tokens} tokens"
        if facts.recalls and tokens < LEAST_THOUGHT:
            tokens = 0  # the second request costs more than so short a thought is worth
        budget = at_most(tokens, reason, stop=self.stop, situation=situation)
        return replace(budget, deadline_s=self.seconds)

    def __str__(self) -> str:
        return named(f"deadline:{exact(self.seconds)}", self.stop)
