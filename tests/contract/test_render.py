"""Rendering is pure: a budget, a capability and parameters go in, new parameters come out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetctl.adapters import Rendered, openai_chat, openai_responses
from budgetctl.adapters.base import fit_cap
from budgetctl.adapters.paths import without_auto
from budgetctl.capabilities import Cap, Capability, Effort, Table
from budgetctl.stopping import with_grace
from budgetctl.types import Budget

TABLE = Table.load()
QWEN = TABLE.lookup("Qwen3-8B", "vllm")
SERVED = TABLE.lookup("Qwen3-8B", "transformers-serve")
LLAMA = TABLE.lookup("Qwen3-8B", "llama.cpp")
GPT5 = TABLE.lookup("gpt-5", "openai")
GPT51 = TABLE.lookup("gpt-5.1", "openai")
MESSAGES = [{"role": "user", "content": "hi"}]


def chat(
    budget: Budget, capability: Capability, *, caller_values: Any = "pin", live: bool = False, **params: Any
) -> Rendered:
    call = {"model": "m", "messages": MESSAGES, **params}
    before = copy.deepcopy(call)
    rendered = openai_chat.render(budget, capability, call, caller_values=caller_values, live=live)
    assert call == before, "the caller's own objects are only read"
    return rendered


def names(rendered: Rendered) -> dict[str, str]:
    return {c.name: c.strength for c in rendered.controls}


def test_a_cap_goes_to_the_engine_as_a_hard_control():
    rendered = chat(Budget(reasoning_tokens=500), QWEN)
    assert rendered.params["extra_body"] == {"thinking_token_budget": 500}
    assert names(rendered)["thinking_token_budget"] == "hard"
    assert rendered.unsupported == ()


def test_a_cap_that_nothing_keeps_is_reported():
    rendered = chat(Budget(reasoning_tokens=5000), GPT5)
    assert rendered.params == {"model": "m", "messages": MESSAGES}
    assert rendered.unsupported == ("cap",)


def test_a_small_cap_becomes_the_nearest_level_where_levels_are_all_there_is():
    rendered = chat(Budget(reasoning_tokens=1000), GPT5)
    assert rendered.params["reasoning_effort"] == "low"
    assert names(rendered) == {"reasoning_effort": "advisory"}
    assert rendered.unsupported == ("cap",)


def test_a_cap_never_switches_on_a_model_that_does_not_think_by_default():
    assert "reasoning_effort" not in chat(Budget(reasoning_tokens=1000), GPT51).params


@pytest.mark.parametrize("level", ["low", "high", "xhigh"])
def test_no_level_switches_on_a_model_that_does_not_think_by_default(level: str):
    rendered = chat(Budget(effort=level), GPT51)
    assert rendered.params == {"model": "m", "messages": MESSAGES}
    assert rendered.unsupported == (f"effort:{level}",)
    assert chat(Budget(effort="none"), GPT51).params["reasoning_effort"] == "none"
    asked = chat(Budget(effort="low"), GPT51, caller_values="ceiling", reasoning_effort="high")
    assert asked.params["reasoning_effort"] == "low", "the caller has switched it on"


@pytest.mark.parametrize("caller_values", ["pin", "ceiling"])
@pytest.mark.parametrize(
    ("own", "place"),
    [({"thinking": True}, "thinking"), ({"thinking": "enabled"}, "thinking"), ("not a body", "extra_body")],
)
def test_a_value_of_another_kind_in_the_way_of_a_control_stays(own: Any, place: str, caller_values: Any):
    deepseek = TABLE.lookup("deepseek-v4-pro", "deepseek")
    rendered = chat(Budget(reasoning_tokens=0), deepseek, caller_values=caller_values, extra_body=own)
    assert rendered.params["extra_body"] == own
    assert rendered.pinned == (place,)
    assert rendered.controls == ()


def test_off_uses_the_switch_and_keeps_what_else_the_caller_put_there():
    own = {"chat_template_kwargs": {"tone": "dry"}}
    rendered = chat(Budget(reasoning_tokens=0), QWEN, extra_body=own)
    kwargs = rendered.params["extra_body"]["chat_template_kwargs"]
    assert kwargs == {"tone": "dry", "enable_thinking": False}


def test_off_without_a_switch_asks_for_the_weakest_level_and_says_so():
    rendered = chat(Budget(reasoning_tokens=0), GPT5)
    assert rendered.params["reasoning_effort"] == "minimal"
    assert rendered.unsupported == ("off",)


@pytest.mark.parametrize(
    ("level", "sent", "unsupported"),
    [("low", "low", ()), ("max", "high", ("effort:max",)), ("none", "minimal", ("effort:none",))],
)
def test_a_level_that_the_model_lacks_becomes_the_nearest_weaker_one(level: str, sent: str, unsupported):
    rendered = chat(Budget(effort=level), GPT5)
    assert rendered.params["reasoning_effort"] == sent
    assert rendered.unsupported == unsupported


def test_a_preset_whose_trial_answers_nobody_asks_for_is_not_said_to_act():
    rendered = chat(Budget(reasoning_tokens=100, stop="balanced"), SERVED, live=True)
    assert rendered.unsupported == ("trial_answer",)
    assert {c.name: c.value for c in rendered.controls}["stop"] == "safe"
    assert chat(Budget(reasoning_tokens=100, stop="safe"), SERVED, live=True).unsupported == ()


@pytest.mark.parametrize(
    "own",
    [
        {"reasoning_effort": "high"},
        {"extra_body": {"thinking_token_budget": 9000}},
        {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}},
    ],
)
def test_pinned_values_stay(own: dict[str, Any]):
    rendered = chat(Budget(reasoning_tokens=100), QWEN, live=True, **own)
    assert rendered.params == {"model": "m", "messages": MESSAGES, **own}
    assert len(rendered.pinned) == 1
    assert set(names(rendered)) <= {"stop"}


def test_a_ceiling_may_be_lowered_and_never_raised():
    lower = chat(
        Budget(reasoning_tokens=100), QWEN, caller_values="ceiling", extra_body={"thinking_token_budget": 900}
    )
    assert lower.params["extra_body"]["thinking_token_budget"] == 100
    kept = chat(
        Budget(reasoning_tokens=900), QWEN, caller_values="ceiling", extra_body={"thinking_token_budget": 100}
    )
    assert kept.params["extra_body"]["thinking_token_budget"] == 100
    effort = chat(Budget(effort="high"), GPT5, caller_values="ceiling", reasoning_effort="low")
    assert effort.params["reasoning_effort"] == "low"


@pytest.mark.parametrize("caller_values", ["pin", "ceiling"])
@pytest.mark.parametrize(
    ("capability", "own"),
    [
        (QWEN, {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}),
        (GPT51, {"reasoning_effort": "none"}),
    ],
)
def test_what_is_off_stays_off(capability: Capability, own: dict[str, Any], caller_values: str):
    for budget in (Budget(reasoning_tokens=500), Budget(effort="high"), Budget()):
        rendered = chat(budget, capability, caller_values=caller_values, live=True, **own)
        assert rendered.params == {"model": "m", "messages": MESSAGES, **own}
        assert rendered.controls == ()


def test_what_acts_on_the_stream_is_named_only_where_someone_watches():
    budget = Budget(reasoning_tokens=100, deadline_s=5)
    live = names(chat(budget, SERVED, live=True))
    assert live["abort_continue"] == live["deadline"] == live["stop"] == "hard"
    blind = chat(budget, SERVED)
    assert "abort_continue" not in names(blind)
    assert set(blind.unsupported) == {"cap", "deadline"}


@pytest.mark.parametrize(
    ("budget", "own", "asked"),
    [
        (Budget(), {"stream": True}, True),
        (Budget(stop="none"), {"stream": True}, False),
        (Budget(), {}, False),
        (Budget(deadline_s=5), {}, True),
        (Budget(deadline_s=5), {"tools": [{}]}, False),
    ],
)
def test_a_live_end_is_asked_for_where_a_stream_is_watched(budget: Budget, own: dict[str, Any], asked: bool):
    rendered = chat(budget, LLAMA, live=True, **own)
    assert (names(rendered).get("reasoning_control") == "hard") is asked
    assert ("reasoning_control" in rendered.params.get("extra_body", {})) is asked
    assert "reasoning_control" not in names(chat(budget, LLAMA, **own)), "nobody watches"
    assert "reasoning_control" not in names(chat(budget, SERVED, live=True, **own)), "no such server"


@pytest.mark.parametrize(
    "own",
    [
        {"tools": [{}]},
        {"response_format": {"type": "json_object"}},
        {"n": 2},
        {"logprobs": True},
        {"extra_body": {"n": 2}},
        {"extra_body": {"tools": [{}]}},
        {"extra_body": {"guided_json": {}}},
        {"extra_body": {"structured_outputs": {"json": {}}}},
        {"extra_body": {"regex": "a+"}},
    ],
)
def test_nothing_of_ours_cuts_next_to_tools_grammars_or_choices(own: dict[str, Any]):
    assert "abort_continue" not in names(chat(Budget(reasoning_tokens=100), SERVED, live=True, **own))


def test_a_cap_and_a_deadline_act_whatever_the_stop_preset():
    rendered = chat(Budget(reasoning_tokens=100, deadline_s=5, stop="none"), SERVED, live=True)
    assert names(rendered) == {"abort_continue": "hard", "deadline": "hard"}


def test_what_the_caller_put_into_extra_body_wins_on_the_wire_and_so_is_what_is_lowered():
    own = {"reasoning_effort": "high"}
    rendered = chat(Budget(effort="low"), GPT5, caller_values="ceiling", extra_body=own)
    assert rendered.params["extra_body"] == {"reasoning_effort": "low"}
    assert "reasoning_effort" not in {k for k in rendered.params if k != "extra_body"}


def test_a_level_that_nobody_knows_is_not_taken_for_the_highest():
    rendered = chat(Budget(effort="loww"), GPT5)
    assert (rendered.controls, rendered.unsupported) == ((), ("effort:loww",))


@pytest.mark.parametrize("limit", [-1, 0, "many", None])
def test_a_limit_that_limits_nothing_does_not_shrink_the_cap(limit: Any):
    rendered = chat(Budget(reasoning_tokens=500), QWEN, max_tokens=limit)
    assert rendered.params["extra_body"] == {"thinking_token_budget": 500}


@pytest.mark.parametrize(("own", "sent"), [("300", 300), (-1, 500), (0, 0), (900, 500)])
def test_a_ceiling_reads_the_callers_cap_in_whatever_form(own: Any, sent: int):
    extra = {"thinking_token_budget": own}
    rendered = chat(Budget(reasoning_tokens=500), QWEN, caller_values="ceiling", extra_body=extra)
    assert rendered.params["extra_body"] == {"thinking_token_budget": sent}


def test_sampling_is_never_touched():
    own = {"temperature": 0.3, "top_p": 0.9, "seed": 7, "stop": ["x"], "frequency_penalty": 0.1}
    for budget in (Budget(reasoning_tokens=0), Budget(reasoning_tokens=64), Budget(effort="low")):
        for capability in (QWEN, SERVED, GPT5):
            rendered = chat(budget, capability, live=True, **own)
            assert own.items() <= rendered.params.items()


def test_a_low_default_of_the_server_is_raised_to_make_room():
    params = chat(Budget(reasoning_tokens=4000), SERVED, live=True).params
    assert params["max_completion_tokens"] >= with_grace(4000) + 512
    assert "max_completion_tokens" not in chat(Budget(reasoning_tokens=100), SERVED, live=True).params


@given(
    cap=st.integers(1, 100_000),
    limit=st.integers(16, 100_000),
    reserve=st.integers(1, 4096),
    live=st.booleans(),
)
def test_an_output_limit_always_has_room_for_cap_grace_and_answer(
    cap: int, limit: int, reserve: int, live: bool
):
    budget = Budget(reasoning_tokens=cap, answer_tokens=reserve)
    for capability, name in ((QWEN, "thinking_token_budget"), (SERVED, "abort_continue")):
        rendered = chat(budget, capability, live=live, max_tokens=limit)
        assert rendered.params["max_tokens"] == limit, "the caller's limit stays"
        kept = [c.value for c in rendered.controls if c.name == name]
        if kept and kept[0] > 1:
            assert with_grace(kept[0]) + min(reserve, limit // 2) <= limit


def test_fit_cap_leaves_a_cap_alone_that_fits():
    assert fit_cap(100, limit=None, reserve=512) == 100
    assert fit_cap(100, limit=1000, reserve=512) == 100
    assert fit_cap(1000, limit=1000, reserve=450) == 500


def test_responses_take_levels_and_leave_the_callers_object_alone():
    own = {"model": "gpt-5", "input": "hi", "reasoning": {"summary": "auto"}}
    before = copy.deepcopy(own)
    rendered = openai_responses.render(Budget(effort="low"), GPT5, own)
    assert own == before
    assert rendered.params["reasoning"] == {"summary": "auto", "effort": "low"}


@pytest.mark.parametrize("caller_values", ["pin", "ceiling"])
@pytest.mark.parametrize("budget", [Budget(effort="low"), Budget(reasoning_tokens=0)])
def test_a_level_in_the_input_of_a_response_is_the_callers(budget: Budget, caller_values: Any):
    update = {"type": "configuration_update", "reasoning": {"effort": "high"}}
    own = {"model": "gpt-5", "input": [{"role": "user", "content": "hi"}, update]}
    rendered = openai_responses.render(budget, GPT5, own, caller_values=caller_values)
    assert (rendered.params, rendered.pinned) == (own, ("input.configuration_update",))
    assert rendered.unsupported


def test_responses_report_a_cap_as_unsupported():
    rendered = openai_responses.render(Budget(reasoning_tokens=100), QWEN, {"model": "m", "input": "hi"})
    assert rendered.unsupported == ("cap",)
    assert rendered.params == {"model": "m", "input": "hi"}


BUDGETED = Capability(
    models=("m",),
    endpoints=("openrouter",),
    cap=Cap(
        parameters=("reasoning.max_tokens",),
        strength="advisory",
        minimum=1024,
        maximum=4000,
        within_limit=True,
        also={"reasoning.enabled": True},
        unless=("reasoning.effort",),
    ),
    effort=Effort(levels=("low", "high"), default="high", parameter="reasoning.effort", below={"low": 2000}),
)
SILENT = BUDGETED.model_copy(update={"thinks_by_default": False})


@pytest.mark.parametrize(
    ("cap", "sent", "unsupported"),
    [(2000, 2000, ()), (9000, 4000, ()), (300, 1024, ("cap:300",))],
)
def test_a_cap_is_brought_into_the_range_that_is_taken(cap: int, sent: int, unsupported: tuple[str, ...]):
    rendered = chat(Budget(reasoning_tokens=cap), BUDGETED)
    assert rendered.params["extra_body"]["reasoning"] == {"max_tokens": sent, "enabled": True}
    assert rendered.unsupported == unsupported


@pytest.mark.parametrize(("limit", "sent"), [(4000, 3170), (1500, 1024), (1024, None), (800, None)])
def test_a_cap_lies_below_the_output_limit_or_is_not_sent(limit: int, sent: int | None):
    rendered = chat(Budget(reasoning_tokens=4000), BUDGETED, max_tokens=limit)
    assert rendered.params["max_tokens"] == limit
    assert rendered.params.get("extra_body", {}).get("reasoning", {}).get("max_tokens") == sent
    assert ("cap" in rendered.unsupported) is (sent is None)


def test_a_cap_and_a_level_that_exclude_each_other_are_never_sent_together():
    level = {"reasoning": {"effort": "high"}}
    lowered = chat(Budget(reasoning_tokens=1500), BUDGETED, caller_values="ceiling", extra_body=level)
    assert lowered.params["extra_body"]["reasoning"] == {"effort": "low"}
    tokens = {"reasoning": {"max_tokens": 3000}}
    kept = chat(Budget(effort="low"), BUDGETED, caller_values="ceiling", extra_body=tokens)
    assert kept.params["extra_body"]["reasoning"] == {"max_tokens": 3000}
    both = chat(Budget(effort="low", reasoning_tokens=1500), BUDGETED)
    assert both.params["extra_body"]["reasoning"] == {"effort": "low"}


def test_nothing_is_written_for_a_model_that_keeps_silent_until_the_call_asks_it_to_think():
    for budget in (Budget(reasoning_tokens=2000), Budget(effort="low")):
        assert chat(budget, SILENT).params == {"model": "m", "messages": MESSAGES}
    assert chat(Budget(reasoning_tokens=2000), SILENT).unsupported == (), (
        "a thought that is not there is short"
    )
    asked = {"reasoning": {"enabled": True}}
    rendered = chat(Budget(reasoning_tokens=2000), SILENT, caller_values="ceiling", extra_body=asked)
    assert rendered.params["extra_body"]["reasoning"] == {"enabled": True, "max_tokens": 2000}


def test_the_smallest_of_the_callers_numbers_is_the_ceiling_under_all_names():
    own = {"thinking_budget_tokens": 200}
    rendered = chat(Budget(reasoning_tokens=900), LLAMA, caller_values="ceiling", extra_body=own)
    assert set(rendered.params["extra_body"].values()) == {200}


def test_none_is_off_and_no_level_is_rounded_to_it():
    assert chat(Budget(effort="none"), QWEN).params == chat(Budget(reasoning_tokens=0), QWEN).params
    awake = GPT51.model_copy(update={"effort": Effort(levels=("none", "low", "high"), default="high")})
    rendered = chat(Budget(effort="minimal"), awake)
    assert (rendered.params["reasoning_effort"], rendered.unsupported) == ("low", ("effort:minimal",))


def test_a_level_of_auto_is_taken_out_of_a_copy():
    own = {"model": "m", "reasoning_effort": "auto", "extra_body": {"reasoning": {"effort": "auto"}, "k": 1}}
    before = copy.deepcopy(own)
    assert without_auto(own) == {"model": "m", "extra_body": {"k": 1}}
    assert own == before
    assert without_auto({"reasoning": {"effort": "auto", "summary": "auto"}}) == {
        "reasoning": {"summary": "auto"}
    }
    assert without_auto({"reasoning_effort": "low"}) == {"reasoning_effort": "low"}
