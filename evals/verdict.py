"""The verdict: which budget to use here, or that none should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from budgetctl.evals.metrics import FULL, Evaluation, PolicyRow, is_fixed
from budgetctl.evals.stats import units_without_a_difference

MARGIN = 0.02
"""Largest loss of accuracy that still passes, as a share: two points."""

Choice = Literal["policy", "fixed", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an evaluation says.

    Attributes:
        choice: ``policy``: use a policy that was asked for; ``fixed``: a fixed budget that nobody asked
            for does it; ``none``: do not use a budget here.
        recommended: The policy or fixed budget to use; None with ``none``.
        text: One to three sentences for people.
    """

    choice: Choice
    recommended: str | None
    text: str

    @property
    def negative(self) -> bool:
        """Whether none of the policies that were asked for is recommended."""
        return self.choice != "policy"


def decide(evaluation: Evaluation, *, margin: float = MARGIN) -> Verdict:
    """Return the verdict on an evaluation.

    A budget passes where the interval of its accuracy difference stays above ``-margin`` and that of its
    token saving above zero. A policy that chooses per question must also show a lift over the fixed cap of
    the same mean tokens; otherwise the fixed cap, which needs no classifier, is what to use.
    """
    asked = {row.policy for row in evaluation.policies}
    named = [row for row in evaluation.policies if row.policy != FULL]
    fixed = [row for row in evaluation.fixed if row.policy != FULL]
    choosing = [row for row in named if not is_fixed(row.policy)]
    lifted = [row for row in choosing if _passes(row, margin) and _lifts(row)]
    if lifted:
        best = max(lifted, key=_saving)
        return Verdict(choice="policy", recommended=best.policy, text=_use(best, margin))
    uniform = max((row for row in fixed if _passes(row, margin)), key=_saving, default=None)
    if uniform is not None:
        text = _use_fixed(uniform, choosing, margin)
        return Verdict(
            choice="policy" if uniform.policy in asked else "fixed", recommended=uniform.policy, text=text
        )
    unproven = max((row for row in choosing if _passes(row, margin)), key=_saving, default=None)
    if unproven is not None:
        text = f"{_use(unproven, margin)} No lift over a fixed cap was shown, but no fixed cap passes here."
        return Verdict(choice="policy", recommended=unproven.policy, text=text)
    return Verdict(choice="none", recommended=None, text=_refuse(named or fixed, evaluation, margin))


def _passes(row: PolicyRow, margin: float) -> bool:
    return _keeps_accuracy(row, margin) and row.token_saving_ci is not None and row.token_saving_ci[0] > 0


def _keeps_accuracy(row: PolicyRow, margin: float) -> bool:
    return row.delta_ci is not None and row.delta_ci[0] >= -margin


def _lifts(row: PolicyRow) -> bool:
    return row.lift_ci is not None and row.lift_ci[0] > 0


def _saving(row: PolicyRow) -> float:
    return row.token_saving or 0.0


def _use(row: PolicyRow, margin: float) -> str:
    lift = ""
    if _lifts(row):
        lift = f"; at the same mean tokens {row.matched_cap} is {points(row.lift_over_cap)[1:]} less accurate"
    return (
        f"Use {row.policy}: it saves {share(row.token_saving)} of the tokens and loses no more than "
        f"{100 * margin:g} points of accuracy (seen {points(row.delta_accuracy)}, 95 % interval "
        f"{span(row.delta_ci)}){lift}. It was picked on these questions: confirm it on fresh ones."
    )


def _use_fixed(row: PolicyRow, choosing: list[PolicyRow], margin: float) -> str:
    against: dict[str, list[str]] = {}
    for r in choosing:
        if _passes(r, margin):
            why = "no lift over a fixed cap was shown"
        elif _keeps_accuracy(r, margin):
            why = "no token saving was shown"
        else:
            why = f"losing more than {100 * margin:g} points was not ruled out"
        against.setdefault(why, []).append(r.policy)
    opening = "".join(f"Do not use {', '.join(names)} here: {why}. " for why, names in against.items())
    return opening + _use(row, margin)


def _refuse(rows: list[PolicyRow], evaluation: Evaluation, margin: float) -> str:
    opening = "Do not use a budget here"
    judged = [row for row in rows if row.delta_ci is not None]
    if not judged:
        return f"{opening}: nothing but full thinking was tried."
    saving = [row for row in judged if row.token_saving_ci is not None and row.token_saving_ci[0] > 0]
    if not saving:
        return f"{opening}: no policy was shown to save tokens. Keep full thinking."
    best = max(saving, key=lambda row: row.delta_ci[0] if row.delta_ci else -1.0)
    high = best.delta_ci[1] if best.delta_ci else 0.0
    seen = f"{best.policy} comes closest with {points(best.delta_accuracy)} ({span(best.delta_ci)})"
    if high < 0:
        return f"{opening}: every policy that saves tokens loses accuracy; {seen}. Keep full thinking."
    needed = units_without_a_difference(margin) if margin > 0 else 0
    more = (
        f" {evaluation.n} questions are too few: even without one difference it takes {needed}."
        if evaluation.clusters < needed
        else " More questions may narrow the interval."
    )
    return (
        f"{opening}: that the loss stays within {100 * margin:g} points could not be shown; {seen}.{more} "
        "Keep full thinking."
    )


def points(value: float | None) -> str:
    """Return a difference of shares in signed percentage points."""
    return "n/a" if value is None else f"{100 * value:+.1f} points"


def share(value: float | None) -> str:
    """Return a share as a percentage."""
    return "n/a" if value is None else f"{100 * value:.0f} %"


def span(ci: tuple[float, float] | None) -> str:
    """Return an interval of a difference in signed percentage points."""
    return "n/a" if ci is None else f"{100 * ci[0]:+.1f} to {100 * ci[1]:+.1f}"
