"""What a budget becomes in a Messages API call, before and after, and what its events are read as."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from budgetctl import Budget
from budgetctl.adapters.anthropic import render
from budgetctl.capabilities import Table
from budgetctl.channels import join
from budgetctl.channels_anthropic import AnthropicChannels

TABLE = Table.load()
EARLY, BOTH, ASKED, ALWAYS, UNSTOPPABLE = (
    "claude-haiku-4-5",
    "claude-opus-4-6",
    "claude-opus-4-8",
    "claude-opus-5",
    "claude-opus-5-5",
)
CAP, OFF, LOW = Budget(reasoning_tokens=3000), Budget(reasoning_tokens=0), Budget(effort="low")
ADAPTIVE = {"type": "adaptive"}


def enabled(tokens: int) -> dict[str, Any]:
    return {"type": "enabled", "budget_tokens": tokens}


def rendered(model: str, budget: Budget, own: dict[str, Any], caller_values: Any = "ceiling") -> Any:
    params = {"model": model, "max_tokens": 16000, "messages": [], **own}
    before = copy.deepcopy(params)
    found = render(budget, TABLE.lookup(model, "anthropic"), params, caller_values=caller_values)
    assert params == before, "inputs are only read"
    return found


@pytest.mark.parametrize(
    ("model", "budget", "own", "added"),
    [
        # Off by default, and nothing is switched on.
        (EARLY, CAP, {}, {}),
        (EARLY, OFF, {}, {}),
        (BOTH, LOW, {}, {}),
        (ASKED, LOW, {"output_config": {"effort": "high"}}, {}),
        (ALWAYS, CAP, {"thinking": {"type": "disabled"}}, {}),
        ("claude-sonnet-5-5", LOW, {"thinking": {"type": "between_tools"}}, {}),
        # Budgets are lowered, to the floor at the most, and never raised.
        (EARLY, CAP, {"thinking": enabled(9000)}, {"thinking": enabled(3000)}),
        (EARLY, CAP, {"thinking": enabled(2000)}, {"thinking": enabled(2000)}),
        (EARLY, Budget(reasoning_tokens=500), {"thinking": enabled(9000)}, {"thinking": enabled(1024)}),
        (
            EARLY,
            CAP,
            {"thinking": enabled(1900), "max_tokens": 2000},
            {"thinking": enabled(1352), "max_tokens": 2000},
        ),
        (BOTH, CAP, {"thinking": enabled(9000)}, {"thinking": enabled(3000)}),
        # Where the model decides, the level that is nearest to the cap stands for it.
        (ASKED, CAP, {"thinking": ADAPTIVE}, {"thinking": ADAPTIVE, "output_config": {"effort": "medium"}}),
        (BOTH, CAP, {"thinking": ADAPTIVE}, {"thinking": ADAPTIVE, "output_config": {"effort": "medium"}}),
        (ALWAYS, Budget(reasoning_tokens=1000), {}, {"output_config": {"effort": "low"}}),
        (UNSTOPPABLE, Budget(reasoning_tokens=9000), {}, {}),
        (ALWAYS, CAP, {"output_config": {"effort": "low"}}, {"output_config": {"effort": "low"}}),
        # Levels: what the model lacks is rounded down, what the call says is never raised.
        (ALWAYS, LOW, {}, {"output_config": {"effort": "low"}}),
        (ALWAYS, Budget(effort="minimal"), {}, {"output_config": {"effort": "low"}}),
        (BOTH, Budget(effort="xhigh"), {"thinking": ADAPTIVE}, {"output_config": {"effort": "high"}}),
        (ALWAYS, Budget(effort="max"), {"output_config": {"effort": "low"}}, {}),
        # Off, and what goes with it.
        (ALWAYS, OFF, {}, {"thinking": {"type": "disabled"}}),
        ("claude-sonnet-5-5", OFF, {}, {"thinking": {"type": "between_tools"}}),
        (EARLY, OFF, {"thinking": enabled(9000)}, {"thinking": {"type": "disabled"}}),
        (
            ALWAYS,
            OFF,
            {"output_config": {"effort": "xhigh"}},
            {"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}},
        ),
        (UNSTOPPABLE, OFF, {}, {"output_config": {"effort": "low"}}),
    ],
)
def test_what_is_sent(model: str, budget: Budget, own: dict[str, Any], added: dict[str, Any]):
    whole = {"model": model, "max_tokens": 16000, "messages": [], **own, **added}
    assert rendered(model, budget, own).params == whole


@pytest.mark.parametrize(
    ("budget", "own", "added"),
    [
        (CAP, {"thinking": enabled(9000)}, {}),
        (OFF, {"thinking": ADAPTIVE}, {}),
        (LOW, {"output_config": {"effort": "high"}}, {}),
        (OFF, {"output_config": {"effort": "max"}}, {}),
        (LOW, {"thinking": ADAPTIVE}, {"output_config": {"effort": "low"}}),
        (
            LOW,
            {"output_config": {"format": {"type": "json_schema"}}},
            {"output_config": {"format": {"type": "json_schema"}, "effort": "low"}},
        ),
    ],
)
def test_pinned_values_stay_and_what_is_not_said_may_be_added(
    budget: Budget, own: dict[str, Any], added: dict[str, Any]
):
    found = rendered(ALWAYS, budget, own, "pin")
    assert found.params == {"model": ALWAYS, "max_tokens": 16000, "messages": [], **own, **added}


@pytest.mark.parametrize(
    ("model", "budget", "own", "unsupported"),
    [
        (EARLY, CAP, {"thinking": enabled(9000)}, ()),
        (EARLY, Budget(reasoning_tokens=500), {"thinking": enabled(9000)}, ("cap:500",)),
        (ALWAYS, CAP, {}, ("cap",)),
        (UNSTOPPABLE, OFF, {}, ("off",)),
        (ALWAYS, Budget(effort="minimal"), {}, ("effort:minimal",)),
        (ALWAYS, Budget(deadline_s=3.0), {}, ("deadline",)),
        (EARLY, CAP, {}, ()),
    ],
)
def test_what_nothing_carries_is_said(model: str, budget: Budget, own: dict[str, Any], unsupported: Any):
    assert rendered(model, budget, own).unsupported == unsupported


@pytest.mark.parametrize("caller_values", ["pin", "ceiling"])
@pytest.mark.parametrize("budget", [Budget(effort="low"), Budget(reasoning_tokens=0)])
def test_a_level_of_one_message_is_the_callers(budget: Budget, caller_values: Any):
    later = {"role": "system", "output_config": {"effort": "high"}}
    own = {"max_tokens": 9000, "messages": [{"role": "user", "content": "hi"}, later]}
    capability = Table.load().lookup("claude-opus-5", "anthropic")
    rendered = render(budget, capability, own, caller_values=caller_values)
    assert (rendered.params, rendered.pinned) == (own, ("messages.output_config.effort",))


def test_values_of_an_extra_body_count_as_well():
    own = {"extra_body": {"thinking": enabled(9000)}}
    assert rendered(EARLY, CAP, own).params["extra_body"] == {"thinking": enabled(3000)}
    off = rendered(EARLY, OFF, own).params
    assert (off["thinking"], off["extra_body"]) == ({"type": "disabled"}, {})


# --- events ---


def test_blocks_of_every_kind_are_read():
    content = [
        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "So."},
        {"type": "server_tool_use", "id": "1", "name": "web_search", "input": {}},
    ]
    usage = {
        "input_tokens": 1,
        "cache_creation_input_tokens": 2,
        "output_tokens": 9,
        "cache_read_input_tokens": 0,
    }
    body = {"type": "message", "content": content, "stop_reason": "end_turn", "usage": usage}
    events = AnthropicChannels().feed(body)
    assert join(events) == ("Hm.", "So.")
    assert [event.kind for event in events] == ["reasoning", "answer", "tool", "usage", "finish"]
    # There was thinking, and nobody says how much: its tokens are unknown and not zero.
    usage_seen = events[3].usage
    assert usage_seen is not None
    assert (usage_seen.prompt_tokens, usage_seen.output_tokens, usage_seen.reasoning_tokens) == (3, 9, None)
    assert (usage_seen.cached_tokens, usage_seen.cache_write_tokens) == (0, 2)


def test_thoughts_that_are_withheld_are_counted():
    channels = AnthropicChannels()
    start = {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}}
    signed = {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta"}}
    assert channels.feed(start) + channels.feed(signed) == []
    usage = {"output_tokens": 30, "output_tokens_details": {"thinking_tokens": 20}}
    stop = {"stop_reason": "max_tokens"}
    counted, finished = channels.feed({"type": "message_delta", "delta": stop, "usage": usage})
    assert counted.usage is not None
    assert (counted.usage.reasoning_tokens, counted.usage.answer_tokens) == (20, 10)
    assert finished.finish == "length"
