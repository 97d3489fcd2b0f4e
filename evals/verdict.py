"""The verdict: which budget to use here, or that none should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from budgetctl.evals.metrics import FULL, Evaluation, PolicyRow, is_uniform
from budgetctl.evals.replayed import PESSIMISTIC
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

    A policy passes where the interval of its accuracy difference stays above ``-margin`` and that of its
    token saving above zero. One that looks at no question (off, a cap, an effort level, a deadline) may then
    be recommended. One that chooses per question, or ends thoughts by trial answers, must also show a lift
    over the fixed cap of the same mean tokens: without it nothing says that its choices do anything, even
    where no cap passes. Of what may be recommended, that which saves most is; of equals a fixed budget.
    """
    asked = [row for row in evaluation.policies if row.policy != FULL]
    every = [row for row in (*asked, *evaluation.baselines) if row.policy != FULL]
    passing = [row for row in every if _passes(row, margin)]
    uniform = [row for row in passing if is_uniform(row.policy)]
    lifted = [row for row in passing if row in asked and _lifts(row)]
    best = max((*uniform, *lifted), key=_saving, default=None)
    choosing = [row for row in asked if not is_uniform(row.policy)]
    if best is None:
        tried = asked or [row for row in every if is_uniform(row.policy)]
        unproven = max((row for row in choosing if row in passing), key=_saving, default=None)
        text = _refuse(tried, evaluation, margin) if unproven is None else _unproven(unproven, margin)
        return Verdict(choice="none", recommended=None, text=text)
    text = _use(best, margin)
    if best not in lifted:
        text = _against([row for row in choosing if row not in lifted], margin) + text
    return Verdict(choice="policy" if best in asked else "fixed", recommended=best.policy, text=text)


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


def _against(rows: list[PolicyRow], margin: float) -> str:
    """Say of policies that look at the question why they are not to be used, before a fixed budget is."""
    found: dict[str, list[str]] = {}
    for r in rows:
        if _passes(r, margin):
            why = "no lift over a fixed cap was shown"
        elif _keeps_accuracy(r, margin):
            why = "no token saving was shown"
        else:
            why = f"losing more than {100 * margin:g} points was not ruled out"
        found.setdefault(why, []).append(r.policy)
    return "".join(f"Do not use {', '.join(names)} here: {why}. " for why, names in found.items())


def _unproven(row: PolicyRow, margin: float) -> str:
    kept = (
        f"it saves {share(row.token_saving)} of the tokens and loses no more than {100 * margin:g} points of "
        f"accuracy (seen {points(row.delta_accuracy)}, 95 % interval {span(row.delta_ci)})"
    )
    if row.lift_over_cap is None:
        return (
            f"Do not use {row.policy} here yet: {kept}, but there was no fixed budget at the same mean "
            "tokens to hold it against. Add off and a few caps. Until then keep full thinking."
        )
    return (
        f"Do not use a budget here: no fixed budget passes, and {row.policy} shows no lift over one. Though "
        f"{kept}, a fixed cap at the same mean tokens may be as accurate (lift {points(row.lift_over_cap)}, "
        f"{span(row.lift_ci)}). Keep full thinking."
    )


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
    if PESSIMISTIC in best.notes:
        return (
            f"{opening} on this recording: it has no cut points, so every thought that a cap would end "
            f"counts as wrong, and read like that {seen}. A live run would show what a cap really loses. "
            "Keep full thinking."
        )
    if high < 0:
        return f"{opening}: every policy that saves tokens loses accuracy; {seen}. Keep full thinking."
    needed = units_without_a_difference(margin) if margin > 0 else 0
    more = (
        f" {_counted(evaluation)} too few: even without one difference it takes {needed}."
        if evaluation.clusters < needed
        else " More questions may narrow the interval."
    )
    return (
        f"{opening}: that the loss stays within {100 * margin:g} points could not be shown; {seen}.{more} "
        "Keep full thinking."
    )


def _counted(evaluation: Evaluation) -> str:
    n, units = evaluation.n, evaluation.clusters
    what = f"{n} questions in {units} clusters" if units < n else f"{n} question{'s' if n > 1 else ''}"
    return f"{what} {'are' if n > 1 else 'is'}"


def points(value: float | None) -> str:
    """Return a difference of shares in signed percentage points."""
    return "n/a" if value is None else f"{100 * value:+.1f} points"


def share(value: float | None) -> str:
    """Return a share as a percentage."""
    return "n/a" if value is None else f"{100 * value:.0f} %"


def span(ci: tuple[float, float] | None) -> str:
    """Return an interval of a difference in signed percentage points."""
    return "n/a" if ci is None else f"{100 * ci[0]:+.1f} to {100 * ci[1]:+.1f}"
