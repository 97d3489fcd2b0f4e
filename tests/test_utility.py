"""``utility`` and ``exchange``: what a right answer is worth against what thinking costs."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetctl.errors import ConfigError
from budgetctl.policy import CAPS, Exchange, Situation, Utility, parse
from budgetctl.types import Budget, Estimate, Limits, ModelFacts, Pace, Price, Quantiles, Query

FACTS = ModelFacts(can_switch_off=True, can_cap=True)
PRICE = Price(input=1, output=10)
PACE = Pace(ttft_s=0.5, s_per_token=0.02)
HELPS = Estimate(
    p_off=0.4,
    p_full=0.9,
    settled=Quantiles(p50=100, p80=300, p90=600, p95=900),
    natural=Quantiles(p50=1000, p80=1500, p90=2000, p95=2500),
    confidence=1,
    source="test",
)


def budget(policy: Utility | Exchange, estimate: Estimate | None = HELPS, **given: object) -> Budget:
    known: dict = {"facts": FACTS, "price": PRICE, **given}
    return policy.budget(Situation(query=Query.from_text("why?"), estimate=estimate, **known))


def size(found: Budget) -> float:
    return math.inf if found.reasoning_tokens is None else found.reasoning_tokens


def test_the_budget_is_the_best_of_off_the_shared_caps_and_no_cap():
    """Checked against the definition: value * p_correct - price * E[tokens], over all options."""
    lengths = [HELPS.natural.at((i + 0.5) / 16) for i in range(16)]

    def net(cap: int | None, value: float) -> float:
        tokens = sum(length if cap is None else min(length, cap) for length in lengths) / 16
        return value * HELPS.p_correct(cap) - tokens * 10 / 1e6

    for value in (0.001, 0.005, 0.02, 0.1, 1.0, 100.0):
        best = max((0, *CAPS, None), key=lambda cap, value=value: net(cap, value))
        chosen = budget(Utility(value)).reasoning_tokens
        assert net(chosen, value) == pytest.approx(net(best, value), abs=1e-9), value


def test_a_right_answer_worth_a_fortune_is_worth_full_thinking_and_one_worth_nothing_is_not():
    assert budget(Utility(1e9)).reasoning_tokens is None
    assert budget(Utility(1e-9)).off


@st.composite
def estimates(draw: st.DrawFn) -> Estimate:
    def quantiles() -> Quantiles:
        a, b, c, d = sorted(draw(st.lists(st.floats(1, 1e5), min_size=4, max_size=4)))
        return Quantiles(p50=a, p80=b, p90=c, p95=d)

    return Estimate(
        p_off=draw(st.floats(0, 1)),
        p_full=draw(st.floats(0, 1)),
        settled=quantiles(),
        natural=quantiles(),
        confidence=1,
        source="drawn",
    )


@given(estimate=estimates(), off=st.booleans(), leak=st.none() | st.floats(0.01, 0.9))
def test_a_larger_value_never_gives_a_smaller_budget(estimate: Estimate, off: bool, leak: float | None):
    facts = ModelFacts(can_switch_off=off, can_cap=True, leak_ratio=leak)
    values = [10**k for k in (-6, -5, -4, -3, -2, -1, 0, 1, 3, 6)]
    sizes = [size(budget(Utility(value), estimate, facts=facts)) for value in values]
    assert all(a <= b for a, b in pairwise(sizes))


@given(estimate=estimates())
def test_a_larger_rate_never_gives_a_larger_budget(estimate: Estimate):
    sizes = [size(budget(Exchange(rate), estimate)) for rate in (0, 0.001, 0.01, 0.1, 1, 10, 100)]
    assert all(a >= b for a, b in pairwise(sizes))
    assert sizes[0] == math.inf or estimate.need < 0


def test_waiting_costs_what_the_caller_says_it_costs():
    at_once = budget(Utility(0.05), pace=PACE)
    in_a_hurry = budget(Utility(0.05), pace=PACE, limits=Limits(usd_per_s=0.01))
    assert size(in_a_hurry) < size(at_once)
    assert at_once == budget(Utility(0.05))


def test_what_is_not_known_counts_as_nothing_and_is_said():
    hurry = Limits(usd_per_s=0.01)
    no_speed = budget(Utility(0.05), limits=hurry)
    assert no_speed == budget(Utility(0.05))
    assert "speed unknown" in no_speed.reasons[0]
    no_price = budget(Utility(0.05), price=None, pace=PACE, limits=hurry)
    assert "price unknown" in no_price.reasons[0]
    assert size(no_price) >= size(budget(Utility(0.05), pace=PACE, limits=hurry))


def test_with_neither_price_nor_speed_the_callers_parameters_stay():
    for limits in (Limits(), Limits(usd_per_s=1)):
        found = budget(Utility(0.05), price=None, limits=limits)
        assert found == Budget()
        assert "neither a price nor" in found.reasons[0]


def test_without_an_estimate_the_callers_parameters_stay():
    assert budget(Utility(0.05), None) == Budget()
    assert budget(Exchange(0.1), None) == Budget()
    assert parse("utility:1").needs_estimate
    assert parse("exchange:1").needs_estimate


def test_a_model_without_controls_gets_no_budget():
    assert budget(Utility(1e-9), facts=ModelFacts()).reasoning_tokens is None


def test_a_model_with_effort_levels_only_gets_a_cap_for_its_adapter_to_write_as_a_level():
    assert budget(Utility(0.005), facts=ModelFacts(efforts=("low", "high"))).reasoning_tokens in CAPS


def test_caps_at_which_the_model_leaks_are_no_options():
    leaky = ModelFacts(can_switch_off=True, can_cap=True, leak_ratio=0.6)
    found = {budget(Utility(10**k), facts=leaky).reasoning_tokens for k in (-4, -3, -2, -1, 0)}
    assert not {cap for cap in found if cap and cap < 600}


@pytest.mark.parametrize("text", ["utility:0.05", "exchange:0.02+stop:none", "utility:2&cap:100"])
def test_it_is_its_own_name(text: str):
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("utility:0", "above zero"),
        ("utility:nan", "above zero"),
        ("utility", "utility:0.05"),
        ("exchange:-1", "from 0"),
    ],
)
def test_what_does_not_parse_says_what_is_allowed(text: str, said: str):
    with pytest.raises(ConfigError, match=said):
        parse(text)


@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan])
def test_a_second_costs_a_number_of_dollars(value: float):
    with pytest.raises(ConfigError, match="usd_per_s"):
        Limits(usd_per_s=value)
