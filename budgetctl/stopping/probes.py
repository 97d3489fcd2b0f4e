"""Probes: how trial answers are asked for, how many tokens they may cost, and when one is due."""

from __future__ import annotations

from dataclasses import dataclass

SHARE = 0.10
"""Most tokens that probes may generate, as a share of the thinking so far."""

BACK_OFF = 1.5
"""Factor by which each trial answer that ends nothing lengthens the wait for the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """How trial answers are asked for.

    Attributes:
        cue: Text behind the closing text that leads to the answer.
        until: Text that ends a trial answer; the model's own end always does. Braces within the answer are
            no end. Text behind it is not part of the answer.
        tokens: Most tokens of a trial answer. One that has not come to its end by then has a mass of 0.
        choices: The valid answers, if there are few of them, each known by its first token behind the cue.
            A trial then takes one token, and both of its probabilities are exact.
        every: Tokens of thinking after a trial that ended nothing until the next one, the first time; every
            further one makes the wait half as long again. Probes together never generate more than a tenth
            of the thinking so far, whatever this says.
    """

    cue: str = "**Final Answer**\n\\boxed{"
    until: str = "}"
    tokens: int = 24
    choices: tuple[str, ...] = ()
    every: int = 128


@dataclass(slots=True, kw_only=True)
class ProbeLedger:
    """The probes of one thought.

    Attributes:
        gap: Tokens of thinking between a trial answer that ended nothing and the next one; it grows.
        generated: Tokens that probes have generated.
        prefilled: Tokens that were read again for them.
    """

    gap: float
    generated: int = 0
    prefilled: int = 0
    _due: float = 0.0

    def affords(self, tokens: int, *, thought: int) -> bool:
        """Return whether a probe of up to ``tokens`` fits into the share of a thought, in tokens so far."""
        return self.generated + tokens <= SHARE * thought

    def due(self, *, thought: int) -> bool:
        """Return whether it is time for a trial answer."""
        return thought >= self._due

    def charge(self, *, generated: int, prefilled: int) -> None:
        """Book a probe."""
        self.generated += generated
        self.prefilled += prefilled

    def in_vain(self, *, thought: int) -> None:
        """Note that a trial answer ended nothing."""
        self._due = thought + self.gap
        self.gap *= BACK_OFF
