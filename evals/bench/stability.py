"""Whether a classifier leads to the same action when a prompt is worded a little differently.

The action is the budget that the policy ``tiered`` gives: thinking off, a cap that is one of few, or the
caller's own parameters where the classifier abstains. It is compared as a whole (``tier``), and as to which
of the three it is (``switch``). Edits are those of :mod:`budgetctl.classifiers.edits`, seeded by the text, so
every classifier sees the same ones.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from budgetctl.classifiers import Classifier
from budgetctl.classifiers.edits import EDITS
from budgetctl.evals.bench.resample import Bootstrap
from budgetctl.evals.bench.rows import Figures

from budgetctl.controller import Controller
from budgetctl.policy import Tiered
from budgetctl.types import ModelFacts, Query

FACTS = ModelFacts(can_switch_off=True, can_cap=True)


@dataclass(frozen=True, slots=True)
class Pair:
    """The actions for a text and for one edit of it."""

    edit: str
    text: str
    before: int | None
    after: int | None


def pairs(classifier: Classifier, texts: Sequence[str]) -> list[Pair]:
    """Return the actions before and after every edit that changes a text."""
    controller = Controller(Tiered(), classifier=classifier)
    found = []
    for text in texts:
        before = action(controller, text)
        for name, edit in EDITS.items():
            edited = edit(text, random.Random(f"{name}:{text}"))
            if edited != text:
                found.append(Pair(name, text, before, action(controller, edited)))
    return found


def stability(found: Sequence[Pair], bootstrap: Bootstrap) -> Figures:
    """Return, for every edit, the shares of the texts it changes whose action stays the same."""
    figures: Figures = {}
    for name in EDITS:
        of = [pair for pair in found if pair.edit == name]
        clusters = [pair.text for pair in of]
        same = {
            "tier": [pair.before == pair.after for pair in of],
            "switch": [_switch(pair.before) == _switch(pair.after) for pair in of],
        }
        figures |= {f"{name}, {what}": bootstrap.share(kept, clusters) for what, kept in same.items()}
    return figures


def _switch(tokens: int | None) -> bool | None:
    return None if tokens is None else tokens > 0


def action(controller: Controller, text: str) -> int | None:
    """Return the cap in tokens; 0 is off, None is the caller's own parameters."""
    return controller.decide(Query.from_text(text), facts=FACTS).budget.reasoning_tokens
