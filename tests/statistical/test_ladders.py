"""Certificates of ladders, calibrated on samples of a population whose losses are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from budgetctl.evals.cascade import Cascade
from budgetctl.evals.results import Result
from budgetctl.evals.risk import ladders
from budgetctl.evals.risk.calibrate import Goal, certify
from budgetctl.evals.risk.honesty import limit

EPSILON, DELTA, TIMES = 0.0175, 0.1, 300


def drafts(n: int, *, seed: int) -> dict[str, list[Result]]:
    """Rungs whose drafts are right somewhat less often than they are confident."""
    rng = np.random.default_rng(seed)
    runs: dict[str, list[Result]] = {"off": [], "cap:50": [], "full": []}
    for i in range(n):
        for rung, (tokens, sharpness) in zip(runs, ((5, 0.5), (55, 0.1), (155, 0.02)), strict=True):
            confidence = float(rng.uniform() ** sharpness)
            right = bool(rng.uniform() < confidence - 0.02)
            runs[rung].append(
                Result(
                    question_id=str(i),
                    correct=right,
                    answer=str(right),
                    confidence=confidence,
                    reasoning_tokens=tokens - 5,
                    output_tokens=tokens,
                    stop="cap",
                    thought_tokens=tokens - 5,
                )
            )
    return runs


def test_as_few_certificates_of_ladders_are_wrong_as_delta_allows():
    cascade = Cascade.parse("off>cap:50>full?confident:0.5", model="fake")
    goal = Goal(epsilon=EPSILON, delta=DELTA, loss="accuracy")
    population, family = ladders.table(cascade, drafts(1500, seed=1), goal=goal)
    true = population.loss.mean(axis=1)
    assert any(EPSILON < loss < 1.1 * EPSILON for loss in true)  # a member that is all but good enough
    rng = np.random.default_rng(2)
    wrong = naive = certified = 0
    for _ in range(TIMES):
        sample = population.of(rng.integers(0, population.n, 600))
        finding = certify(
            sample, family, goal=replace(goal, seed=int(rng.integers(2**31))), level=DELTA, learn_path=False
        )
        certified += finding.last is not None
        wrong += finding.last is not None and bool(true[finding.last] > EPSILON)
        naive += bool(true[sample.loss.mean(axis=1) <= EPSILON][-1] > EPSILON)
    most = round(limit(TIMES, DELTA) * TIMES)
    assert certified > TIMES / 2
    assert wrong <= most
    assert naive > most  # the cheapest whose seen loss is small enough is too often wrong
