"""Whether a classifier leads to the same action when a prompt is worded a little differently.

The action is the budget that the policy ``tiered`` gives: thinking off, a cap that is a power of two, or the
caller's own parameters where the classifier abstains. It is compared as a whole (``tier``), and as to which
of the three it is (``switch``). Edits are those of :mod:`budgetctl.evals.bench.edits`, seeded by the text, so
every classifier sees the same ones.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from budgetctl.classifiers import Classifier
from budgetctl.evals.bench.edits import EDITS
from budgetctl.evals.bench.resample import Bootstrap
from budgetctl.evals.bench.rows import Figures

from budgetctl.controller import Controller
from budgetctl.policy import Tiered
from budgetctl.types import ModelFacts, Query

FACTS = ModelFacts(can_switch_off=True, can_cap=True)


def stability(classifier: Classifier, texts: Sequence[str], bootstrap: Bootstrap) -> Figures:
    """Return, for every edit, the shares of the texts it changes whose action stays the same."""
    controller = Controller(Tiered(), classifier=classifier)
    found: Figures = {}
    for name, edit in EDITS.items():
        pairs = [(text, edit(text, random.Random(f"{name}:{text}"))) for text in texts]
        changed = [(text, edited) for text, edited in pairs if text != edited]
        actions = [(action(controller, text), action(controller, edited)) for text, edited in changed]
        clusters = [text for text, _ in changed]
        found[f"{name}, tier"] = bootstrap.share([a == b for a, b in actions], clusters)
        found[f"{name}, switch"] = bootstrap.share([_switch(a) == _switch(b) for a, b in actions], clusters)
    return found


def _switch(tokens: int | None) -> bool | None:
    return None if tokens is None else tokens > 0


def action(controller: Controller, text: str) -> int | None:
    """Return the cap in tokens; 0 is off, None is the caller's own parameters."""
    return controller.decide(Query.from_text(text), facts=FACTS).budget.reasoning_tokens
