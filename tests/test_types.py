"""The values along one call."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetctl.types import STOP_PRESETS, Budget, Estimate, Quantiles, Query, Usage, tighter

TOKENS = st.lists(st.floats(1, 1e5), min_size=4, max_size=4).map(sorted)


@given(TOKENS, st.floats(0.01, 0.99))
def test_quantile_and_share_are_inverse(tokens: list[float], q: float):
    quantiles = Quantiles(**dict(zip(("p50", "p80", "p90", "p95"), tokens, strict=True)))
    assert quantiles.cdf(quantiles.at(q) * (1 + 1e-9)) >= q - 1e-6


@given(TOKENS, st.floats(0, 1e6), st.floats(0, 1e6))
def test_more_thinking_never_lowers_the_share_of_settled_answers(tokens: list[float], a: float, b: float):
    quantiles = Quantiles(**dict(zip(("p50", "p80", "p90", "p95"), tokens, strict=True)))
    low, high = sorted((a, b))
    assert 0 <= quantiles.cdf(low) <= quantiles.cdf(high) <= 1


def test_the_known_quantiles_come_back_as_they_are():
    quantiles = Quantiles(p50=100, p80=200, p90=400, p95=500)
    assert [round(quantiles.at(q)) for q in (0.5, 0.8, 0.9, 0.95)] == [100, 200, 400, 500]
    assert quantiles.at(0.99) > 500
    assert quantiles.cdf(400) == pytest.approx(0.9)


@pytest.mark.parametrize("q", [0, 1, -0.1, 1.5])
def test_a_quantile_outside_zero_and_one_is_refused(q: float):
    with pytest.raises(ValueError, match=str(q)):
        Quantiles(p50=1, p80=2, p90=3, p95=4).at(q)


def test_the_success_curve_runs_from_off_to_full():
    flat = Quantiles(p50=100, p80=200, p90=400, p95=500)
    estimate = Estimate(p_off=0.4, p_full=0.9, settled=flat, natural=flat, confidence=1, source="test")
    assert estimate.need == pytest.approx(0.5)
    assert estimate.p_correct(0) == 0.4
    assert estimate.p_correct(None) == 0.9
    assert estimate.p_correct(400) == pytest.approx(0.4 + 0.5 * 0.9)


def test_a_query_is_the_last_user_turn_with_what_came_before():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Plan a proof."},
        {"role": "assistant", "content": "Shall I go on?"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "yes"}, {"type": "image_url", "image_url": {}}],
        },
    ]
    query = Query.from_messages(messages, model="m", has_tools=True)
    assert query.text == "yes"
    assert [turn.text for turn in query.recent] == ["Plan a proof.", "Shall I go on?"]
    assert (query.system_chars, query.total_chars) == (9, 39)
    assert query.has_tools


def test_a_conversation_without_a_user_turn_still_has_a_query():
    assert Query.from_messages([]).text == ""
    assert Query.from_messages([{"role": "assistant", "content": None}]).text == ""


def test_the_tighter_budget_satisfies_both():
    a = Budget(reasoning_tokens=500, answer_tokens=100, stop="none", reasons=("a",))
    b = Budget(reasoning_tokens=200, deadline_s=3.0, answer_tokens=300, effort="low", reasons=("b",))
    both = tighter(a, b)
    assert (both.reasoning_tokens, both.deadline_s, both.answer_tokens, both.effort) == (200, 3.0, 300, "low")
    assert both.stop == "safe"
    assert both.reasons == ("a", "b")
    assert tighter(Budget(), Budget()) == Budget()


@given(st.sampled_from(STOP_PRESETS), st.sampled_from(STOP_PRESETS))
def test_the_tighter_stop_preset_is_the_one_that_stops_sooner(a: str, b: str):
    assert STOP_PRESETS.index(tighter(Budget(stop=a), Budget(stop=b)).stop) == max(
        map(STOP_PRESETS.index, (a, b))
    )


def test_unknown_tokens_stay_unknown_when_added():
    known = Usage(prompt_tokens=1, reasoning_tokens=2, answer_tokens=3, provenance="reported")
    total = known + Usage(prompt_tokens=1, reasoning_tokens=None, answer_tokens=4, provenance="counted")
    assert (total.prompt_tokens, total.reasoning_tokens, total.answer_tokens) == (2, None, 7)
    assert total.provenance == "counted"


@pytest.mark.parametrize(
    ("a", "b", "both"),
    [
        ("high", "low", "low"),
        ("none", "minimal", "none"),
        ("max", "xhigh", "xhigh"),
        (None, "high", "high"),
        ("turbo", "low", "turbo"),
        ("low", "turbo", "low"),
        (None, None, None),
    ],
)
def test_the_weaker_of_two_efforts_is_the_tighter_one(a: str | None, b: str | None, both: str | None):
    assert tighter(Budget(effort=a), Budget(effort=b)).effort == both
