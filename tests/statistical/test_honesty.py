"""Certificates in worlds in which every one is wrong. STATISTICAL_REPEATS=2000 runs them in full."""

from __future__ import annotations

import os

import numpy as np
import pytest
from budgetctl.evals.risk import honesty
from budgetctl.evals.risk.pvalues import betting_p, binomial_p, minimum_n
from budgetctl.evals.risk.selection import fixed_sequence

REPEATS = int(os.environ.get("STATISTICAL_REPEATS", "300"))
CHECKS = {f"{c.name}; {c.world.name}": c for c in honesty.checks()}
OURS = {name: c for name, c in CHECKS.items() if not c.canary}
CANARIES = {name: c for name, c in CHECKS.items() if c.canary}
AUDITS = {"epsilon": 0.05, "alpha": 0.1, "steps": 500, "repeats": max(100, REPEATS // 4)}


@pytest.mark.parametrize("name", OURS)
def test_a_wrong_certificate_is_as_rare_as_it_says(name: str):
    check = OURS[name]
    assert check.rate(repeats=REPEATS) <= honesty.limit(REPEATS, check.world.delta)


@pytest.mark.parametrize("name", CANARIES)
def test_the_harness_catches_what_is_not_valid(name: str):
    check = CANARIES[name]
    assert check.rate(repeats=REPEATS) > honesty.limit(REPEATS, check.world.delta)


def test_a_world_without_loss_is_certified_with_twice_the_least_number_of_questions():
    n = 2 * minimum_n(epsilon=0.05, level=0.1, test="betting")
    losses = np.zeros((30, n))
    walk = fixed_sequence((betting_p(row, epsilon=0.05, level=0.1) for row in losses), level=0.1)
    assert walk.last == 29


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1, 0.2])
@pytest.mark.parametrize("test", ["betting", "binomial"])
def test_p_values_of_a_true_hypothesis_are_small_no_more_often_than_they_say(test: str, alpha: float):
    rng = np.random.default_rng(0)
    small = 0
    for _ in range(REPEATS):
        losses = (rng.random(200) < 0.05).astype(float)
        p = (
            binomial_p(int(losses.sum()), 200, epsilon=0.05)
            if test == "binomial"
            else betting_p(losses, epsilon=0.05, level=0.1)
        )
        small += p <= alpha
    assert small / REPEATS <= honesty.limit(REPEATS, alpha)


def test_audits_of_a_policy_at_the_bound_seldom_raise_the_alarm_however_often_one_looks():
    assert honesty.audit_rate("alarm", risk=0.05, **AUDITS) <= honesty.limit(AUDITS["repeats"], 0.1)


def test_audits_of_a_policy_at_the_bound_seldom_prove_it():
    assert honesty.audit_rate("proven", risk=0.05, **AUDITS) <= honesty.limit(AUDITS["repeats"], 0.1)


def test_a_fixed_size_test_repeated_after_each_audit_raises_false_alarms():
    assert honesty.repeated_test_rate(risk=0.05, **AUDITS) > honesty.limit(AUDITS["repeats"], 0.1)


def test_audits_find_what_is_there():
    assert honesty.audit_rate("alarm", risk=0.15, **AUDITS) >= 0.9
    assert honesty.audit_rate("proven", risk=0.01, **AUDITS) >= 0.9


def test_the_limit_is_the_quantile_that_the_documentation_quotes():
    assert honesty.limit(2000, 0.1) == pytest.approx(0.126, abs=0.001)
    assert honesty.limit(2000, 0.05) == pytest.approx(0.069, abs=0.001)
