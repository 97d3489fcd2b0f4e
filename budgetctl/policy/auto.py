"""The default policy, which earns its cuts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from budgetctl.policy.base import Named, Situation, named
from budgetctl.types import Budget

if TYPE_CHECKING:
    from budgetctl.policy.certified import Certified


@dataclass(frozen=True, slots=True, kw_only=True)
class Footing:
    """What a certificate and its audits let :class:`Auto` stand on.

    Attributes:
        certified: A certified cap, the same for all calls.
        stage: 1 while nothing speaks against it, else 0.
        reason: Why it is that stage.
    """

    certified: Certified
    stage: int
    reason: str


@dataclass(frozen=True, slots=True)
class Auto(Named):
    """The default. Without evidence from this deployment it cuts no quality (stage 0).

    The caller's effort stays, loops are stopped, the answer is guarded, and a runaway is capped at the 99th
    percentile of the model's natural thinking, where that is known. Where a certificate is configured that
    holds for the call, and its audits have raised no alarm, it is the certified cap (stage 1).
    """

    stop: str = "safe"

    def budget(self, situation: Situation) -> Budget:
        footing, why = situation.footing, self.void(situation)
        if footing is None:
            return self._ground(situation)
        if why is not None:
            ground = self._ground(situation)
            return replace(ground, reasons=(*ground.reasons, f"no certified cap: {why}"))
        budget = footing.certified.member.budget(situation)
        return replace(budget, reasons=(f"auto stage 1: {footing.reason}", *budget.reasons))

    def void(self, situation: Situation) -> str | None:
        """Return why no certificate covers the call; None where one does."""
        footing = situation.footing
        if footing is None:
            return situation.void or "no certificate configured"
        if footing.stage < 1:
            return footing.reason
        if self.stop != "safe":
            return f"the certificate has a stop preset of its own, seen auto+stop:{self.stop}"
        return footing.certified.void(situation)

    def _ground(self, situation: Situation) -> Budget:
        p99 = situation.facts.natural_p99
        found = "natural length unknown, no cap" if p99 is None else f"runaway cap {p99}"
        return Budget(reasoning_tokens=p99, stop=self.stop, reasons=(f"auto stage 0: {found}",))

    def __str__(self) -> str:
        return named("auto", self.stop)
