"""The same action when a prompt is worded a little differently."""

from __future__ import annotations

from budgetctl.classifiers.edits import EDITS
from budgetctl.classifiers.targets import pool
from budgetctl.evals.bench.resample import Bootstrap
from budgetctl.evals.bench.stability import action, pairs, stability

from budgetctl.controller import Controller

from .invented import CONSTANT, Made, examples

BOOTSTRAP = Bootstrap(seed=0, resamples=20)
TEXTS = [f"Please tell me {q.text} Explain carefully every single step." for q in pool(examples(30))]

COUNTING = Made("counting", lambda query: 4.0 ** (len(query.text) % 7))


def test_who_looks_at_nothing_is_moved_by_nothing():
    found = stability(pairs(CONSTANT, TEXTS), BOOTSTRAP)
    assert len(found) == 2 * len(EDITS)
    assert all(figure.value == 1.0 and figure.n > 20 for figure in found.values())


def test_who_counts_letters_is_moved():
    found = stability(pairs(COUNTING, TEXTS), BOOTSTRAP)
    assert all(found[f"{edit}, tier"].value < 0.9 for edit in EDITS)
    assert all(found[f"{edit}, switch"].value == 1.0 for edit in EDITS)


def test_the_same_texts_are_edited_alike():
    assert stability(pairs(COUNTING, TEXTS), BOOTSTRAP) == stability(pairs(COUNTING, TEXTS), BOOTSTRAP)


def test_an_abstention_is_an_action():
    unsure = Made("unsure", lambda query: 4.0, lambda query: 0.0)
    assert action(Controller("tiered", classifier=unsure), TEXTS[0]) is None
