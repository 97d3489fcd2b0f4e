"""The p-values: golden numbers, and what must hold for all losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from budgetctl.evals.risk.pvalues import betting_p, binomial_p, minimum_n, needed_n, p_value
from hypothesis import given
from hypothesis import strategies as st

shares = st.floats(0.005, 0.5)
losses = st.lists(st.floats(-1, 1), min_size=1, max_size=60)


def test_the_binomial_p_value_is_that_of_scipy():
    binom = pytest.importorskip("scipy.stats").binom
    for n, k, epsilon in [
        (59, 0, 0.05),
        (300, 3, 0.03),
        (1, 0, 0.5),
        (5000, 140, 0.03),
        (10, 9, 0.2),
        (7, 7, 0.1),
    ]:
        assert binomial_p(k, n, epsilon=epsilon) == pytest.approx(binom.cdf(k, n, epsilon), rel=1e-9)


@given(n=st.integers(1, 200), k=st.integers(0, 200), a=shares, b=shares)
def test_the_binomial_p_value_falls_with_epsilon_and_grows_with_harm(n: int, k: int, a: float, b: float):
    k = min(k, n)
    low, high = sorted((a, b))
    assert binomial_p(k, n, epsilon=high) <= binomial_p(k, n, epsilon=low) + 1e-12
    if k < n:
        assert binomial_p(k, n, epsilon=a) <= binomial_p(k + 1, n, epsilon=a) + 1e-12


@given(values=losses, epsilon=shares, level=shares)
def test_the_betting_p_value_is_a_probability(values: list[float], epsilon: float, level: float):
    assert 0 < betting_p(values, epsilon=epsilon, level=level) <= 1


@given(n=st.integers(1, 100), epsilon=shares)
def test_nothing_but_losses_is_no_evidence(n: int, epsilon: float):
    assert betting_p([1.0] * n, epsilon=epsilon, level=0.1) == 1


@given(values=losses, epsilon=shares)
def test_the_betting_p_value_is_the_inverse_of_the_largest_wealth(values: list[float], epsilon: float):
    """The same by the definition, with products instead of sums of logarithms."""
    wealth, best, var, past = 1.0, 1.0, 0.25, []
    for x in values:
        nu = min(math.sqrt(2 * math.log(10) / (len(values) * var)), 0.75 / (1 - epsilon))
        wealth *= 1 - nu * (x - epsilon)
        best = max(best, wealth)
        past.append(x)
        i = len(past)
        means = [sum(past[: j + 1]) / (j + 2) for j in range(i)]
        var = (0.25 + sum((a - m) ** 2 for a, m in zip(past, means, strict=True))) / (i + 1)
    assert betting_p(values, epsilon=epsilon, level=0.1) == pytest.approx(1 / best, rel=1e-9)


@pytest.mark.parametrize("bad", [[1.1], [math.nan], [-math.inf]])
def test_losses_above_one_are_refused(bad: list[float]):
    with pytest.raises(ValueError, match="at most 1"):
        betting_p(bad, epsilon=0.1, level=0.1)


def test_the_binomial_test_takes_losses_of_zero_or_one():
    with pytest.raises(ValueError, match="0 or 1"):
        p_value([0.5], epsilon=0.1, level=0.1, test="binomial")
    with pytest.raises(ValueError, match="cannot be harms"):
        binomial_p(3, 2, epsilon=0.1)


@pytest.mark.parametrize(("epsilon", "least"), [(0.01, 299), (0.02, 149), (0.03, 99), (0.05, 59)])
def test_the_least_number_of_questions_without_a_loss(epsilon: float, least: int):
    assert minimum_n(epsilon=epsilon, level=0.05, test="binomial") == least
    for test in ("binomial", "betting"):
        n = minimum_n(epsilon=epsilon, level=0.05, test=test)
        assert p_value(np.zeros(n), epsilon=epsilon, level=0.05, test=test) <= 0.05
        assert p_value(np.zeros(n - 1), epsilon=epsilon, level=0.05, test=test) > 0.05


def test_how_many_it_would_take_is_told_by_the_losses_seen():
    rng = np.random.default_rng(0)
    some = [1.0] * 2 + [0.0] * 98
    needed = needed_n(some, epsilon=0.05, level=0.1, test="betting", rng=rng)
    assert needed is not None
    assert 100 < needed < 1500
    clean = needed_n([0.0] * 10, epsilon=0.05, level=0.1, test="betting", rng=rng)
    assert clean == minimum_n(epsilon=0.05, level=0.1, test="betting")
    assert needed_n([1.0] * 10 + [0.0] * 90, epsilon=0.05, level=0.1, test="betting", rng=rng) is None
