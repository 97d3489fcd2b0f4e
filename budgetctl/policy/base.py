"""What every policy is: the protocol, what it may look at, its name in records, and two joined by ``&``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from budgetctl.types import Budget, Estimate, Limits, ModelFacts, Pace, Price, Query, tighter

if TYPE_CHECKING:
    from budgetctl.certificate import Circumstances
    from budgetctl.policy.auto import Footing

JOINED = "joined with another policy by &"


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything a policy may look at.

    Attributes:
        query: The call, as the classifier saw it.
        estimate: The success curve; None when there is none that can be trusted.
        facts: What the model can do.
        limits: What the caller can spend.
        pace: How fast the endpoint answers, if measured.
        price: What the model costs, if known.
        circumstances: What a certificate must agree with; None where no certificate can hold.
        void: Why none can hold, where that is known beforehand.
        footing: What ``auto`` may stand on; None where nothing is configured.
    """

    query: Query
    estimate: Estimate | None = None
    facts: ModelFacts = field(default_factory=ModelFacts)
    limits: Limits = field(default_factory=Limits)
    pace: Pace | None = None
    price: Price | None = None
    circumstances: Circumstances | None = None
    void: str | None = None
    footing: Footing | None = None


@runtime_checkable
class Policy(Protocol):
    """Maps a situation to a budget. Pure: the same situation gives the same budget.

    A policy that needs an estimate and gets none must leave the caller's own parameters alone.
    ``str(policy)`` is its name in records; without ``__str__`` and ``__repr__`` that is its class.
    """

    @property
    def needs_estimate(self) -> bool:
        """Whether :meth:`budget` wants an estimate."""
        ...

    def budget(self, situation: Situation) -> Budget:
        """Return the budget for one call."""
        ...


@dataclass(frozen=True, slots=True)
class Named:
    """What the built-in policies share: ``&``, and no classifier unless they say so."""

    @property
    def needs_estimate(self) -> bool:
        return False

    def __and__(self, other: Policy) -> Both:
        return Both(cast(Policy, self), other)


@dataclass(frozen=True, slots=True)
class Both(Named):
    """The tighter budget of two policies."""

    left: Policy
    right: Policy

    @property
    def needs_estimate(self) -> bool:
        return self.left.needs_estimate or self.right.needs_estimate

    def budget(self, situation: Situation) -> Budget:
        situation = replace(situation, void=JOINED)
        return tighter(self.left.budget(situation), self.right.budget(situation))

    def __str__(self) -> str:
        return f"{policy_name(self.left)}&{policy_name(self.right)}"


def policy_name(policy: Policy) -> str:
    """Return the name of ``policy`` in records; of one that does not name itself, its class: no addresses."""
    kind = type(policy)
    nameless = kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__
    return kind.__name__ if nameless else str(policy)


def exact(number: float) -> str:
    """Write a number short where that loses nothing."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def named(base: str, stop: str, *, default: str = "safe") -> str:
    """Return the string of a policy, without a stop preset that is its default."""
    return base if stop == default else f"{base}+stop:{stop}"
