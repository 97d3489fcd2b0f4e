"""Policies: what each name means as a budget, and what is said of names that mean nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from budgetctl.errors import ConfigError
from budgetctl.policy import Situation, parse, policy_name
from budgetctl.types import Budget, Estimate, ModelFacts, Pace, Quantiles, Query

SETTLED = Quantiles(p50=100, p80=200, p90=400, p95=500)
NATURAL = Quantiles(p50=1000, p80=1500, p90=2000, p95=2500)
HELPS = Estimate(p_off=0.4, p_full=0.9, settled=SETTLED, natural=NATURAL, confidence=1, source="test")
USELESS = Estimate(p_off=0.9, p_full=0.901, settled=SETTLED, natural=NATURAL, confidence=1, source="test")
SWITCHABLE = ModelFacts(can_switch_off=True, can_cap=True, natural_p99=4000, answer_tokens=50)


def budget(policy: str, **situation: object) -> Budget:
    given = {"query": Query.from_text("why?"), "facts": SWITCHABLE, **situation}
    return parse(policy).budget(Situation(**given))  # type: ignore[arg-type]


def test_full_is_the_callers_own_call_and_watches_nothing():
    assert budget("full") == Budget(stop="none")


def test_off_switches_thinking_off():
    assert budget("off").off


def test_cap_is_the_same_for_every_call():
    assert budget("cap:300") == Budget(reasoning_tokens=300)
    assert budget("cap:300", estimate=USELESS) == Budget(reasoning_tokens=300)


def test_quantile_caps_where_the_answer_has_settled():
    assert budget("quantile:0.9", estimate=HELPS).reasoning_tokens == 400
    assert budget("quantile:0.5", estimate=HELPS).reasoning_tokens == 100


@pytest.mark.parametrize("policy", ["quantile:0.9", "tiered"])
def test_thinking_that_adds_nothing_is_switched_off_where_the_model_allows(policy: str):
    assert budget(policy, estimate=USELESS).off
    stuck = ModelFacts(can_switch_off=False)
    assert budget(policy, estimate=USELESS, facts=stuck).reasoning_tokens not in (0, None)


@pytest.mark.parametrize("policy", ["quantile:0.9", "tiered"])
def test_without_an_estimate_the_callers_parameters_stay(policy: str):
    assert parse(policy).needs_estimate
    assert budget(policy) == Budget()


def test_tiers_grow_by_a_factor_of_four():
    assert budget("tiered", estimate=HELPS).reasoning_tokens == 512
    settled = replace(HELPS.settled, p90=513.0, p95=600.0)
    assert budget("tiered", estimate=replace(HELPS, settled=settled)).reasoning_tokens == 2048


def test_a_cap_so_short_that_the_model_leaks_becomes_off():
    leaky = ModelFacts(can_switch_off=True, leak_ratio=0.15)
    assert budget("cap:149", estimate=HELPS, facts=leaky).off
    assert budget("cap:150", estimate=HELPS, facts=leaky).reasoning_tokens == 150


def test_a_deadline_becomes_the_tokens_that_fit_before_the_answer():
    pace = Pace(ttft_s=0.5, s_per_token=0.01)
    assert budget("deadline:2", pace=pace) == Budget(reasoning_tokens=100, deadline_s=2)


def test_a_deadline_too_near_to_think_switches_thinking_off():
    assert budget("deadline:0.6", pace=Pace(ttft_s=0.5, s_per_token=0.01)).off


def test_a_deadline_leaves_room_for_the_request_that_writes_the_answer():
    pace = Pace(ttft_s=0.5, s_per_token=0.01)
    once = ModelFacts(can_cap=True, can_switch_off=True, answer_tokens=20)
    twice = replace(once, recalls=True)
    assert budget("deadline:2", pace=pace, facts=once).reasoning_tokens == 130
    assert budget("deadline:2", pace=pace, facts=twice).reasoning_tokens == 80
    assert budget("deadline:1.35", pace=pace, facts=once).reasoning_tokens == 65
    assert budget("deadline:1.35", pace=pace, facts=twice).off, "15 tokens are not worth a second request"


def test_a_deadline_is_planned_with_the_margin_and_the_crowd_of_the_moment():
    pace = Pace(ttft_s=0.9, s_per_token=0.01, alone_s=0.1, crowd=1.0, margin=1.25)
    facts = ModelFacts(can_cap=True, answer_tokens=20)
    fits = (5 / 1.25 / 2 - 0.1) / 0.01
    assert budget("deadline:5", pace=pace, facts=facts).reasoning_tokens == fits - 20


def test_a_model_that_cannot_be_switched_off_thinks_one_token_before_a_near_deadline():
    facts = ModelFacts(can_cap=True)
    near = budget("deadline:0.6", pace=Pace(ttft_s=0.5, s_per_token=0.01), facts=facts)
    assert (near.reasoning_tokens, near.deadline_s) == (1, 0.6)


def test_a_deadline_at_unknown_speed_is_only_watched():
    assert budget("deadline:2") == Budget(deadline_s=2)


def test_auto_cuts_no_quality_before_it_has_evidence():
    assert budget("auto") == Budget(reasoning_tokens=4000)
    assert budget("auto", facts=ModelFacts()) == Budget()
    assert budget("auto", estimate=USELESS) == Budget(reasoning_tokens=4000)


def test_and_takes_the_tighter_of_both():
    both = budget("cap:300 & deadline:2", pace=Pace(ttft_s=0.5, s_per_token=0.01))
    assert (both.reasoning_tokens, both.deadline_s) == (100, 2)
    assert (parse("cap:300") & parse("cap:200")).budget(  # type: ignore[operator]
        Situation(query=Query.from_text("x"))
    ).reasoning_tokens == 200


def test_half_of_an_and_still_holds_when_the_estimate_is_missing():
    assert budget("quantile:0.9&cap:70").reasoning_tokens == 70


@pytest.mark.parametrize(
    "text",
    [
        "auto",
        "full",
        "off",
        "cap:12+stop:none",
        "tiered",
        "quantile:0.9&deadline:2.5",
        "effort:low",
        "quantile:0.9999999&deadline:1234567.5",
    ],
)
def test_a_policy_is_its_own_name(text: str):
    assert str(parse(text)) == text
    assert parse(str(parse(text))) == parse(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fast", "unknown part 'fast'; allowed: auto, full"),
        ("", "unknown part ''"),
        ("cap", "needs an argument, for example 'cap:4096'"),
        ("cap:many", "'many' does not fit"),
        ("cap:-3", "from 1 to"),
        ("cap:0", "use 'off'"),
        ("cap:99999999999", "from 1 to 10,000,000"),
        ("quantile:1.5", "between 0 and 1"),
        ("deadline:-1", "above zero"),
        ("deadline:nan", "above zero"),
        ("off:3", "takes no argument"),
        ("cap:3+stop:wild", "allowed: +stop:none, +stop:safe"),
        ("cap:3+safe", "unknown option '+safe'"),
        ("cap:3&bogus", "unknown part 'bogus'"),
        ("quantille:0.9", "did you mean 'quantile:0.9'?"),
        ("cap:3&Auto", "certified:CERT; did you mean 'auto'?"),
        ("cap=2000+stop:safe", "did you mean 'cap:2000+stop:safe'?"),
        ("cap4096", "did you mean 'cap:4096'?"),
        ("cap:3+stop:ballanced", "did you mean '+stop:balanced'?"),
        ("cap:3+safe", "did you mean '+stop:safe'?"),
    ],
)
def test_what_does_not_parse_names_the_part_and_what_is_allowed(text: str, said: str):
    with pytest.raises(ConfigError) as seen:
        parse(text)
    assert said in str(seen.value)
    assert repr(text) in str(seen.value)


def test_an_object_with_a_budget_method_is_a_policy_and_anything_else_is_not():
    class Mine:
        needs_estimate = False

        def budget(self, situation: Situation) -> Budget:
            return Budget(reasoning_tokens=7)

    assert parse(Mine()).budget(Situation(query=Query.from_text("x"))).reasoning_tokens == 7
    with pytest.raises(ConfigError, match="int"):
        parse(7)  # type: ignore[arg-type]


def test_a_policy_that_does_not_name_itself_is_called_by_its_class():
    class Mine:
        needs_estimate = False

        def budget(self, situation: Situation) -> Budget:
            return Budget()

    assert policy_name(Mine()) == "Mine"
    assert str(parse("off") & Mine()) == "off&Mine"  # type: ignore[operator]


def test_a_pace_of_no_time_at_all_is_no_pace():
    situation = Situation(query=Query.from_text("x"), pace=Pace(ttft_s=0.1, s_per_token=0.0))
    assert parse("deadline:2").budget(situation).reasoning_tokens is None


def test_what_comes_near_nothing_is_not_guessed_at():
    with pytest.raises(ConfigError, match=r"certified:CERT$"):
        parse("bogus")


def test_names_of_a_configuration_are_guessed_at_too():
    with pytest.raises(ConfigError, match=r"allowed: .*, careful; did you mean 'careful'\?"):
        parse("carefull", names={"careful": parse("cap:9")})
