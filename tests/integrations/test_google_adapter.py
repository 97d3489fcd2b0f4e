"""What a budget becomes in a ``generate_content`` call, before and after, and what its chunks are read as."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from budgetctl import Budget
from budgetctl.adapters.google import render
from budgetctl.capabilities import Table
from budgetctl.channels import join
from budgetctl.channels_google import GoogleChannels

TABLE = Table.load()
FLASH, LITE, PRO, THREE = (
    "gemini-2.5-flash",
    "gemini-2.5-flash-lite",
    "gemini-2.5-pro",
    "gemini-3-pro-preview",
)
CAP, OFF = Budget(reasoning_tokens=1000), Budget(reasoning_tokens=0)


def rendered(model: str, budget: Budget, own: Any, caller_values: Any = "ceiling", **config: Any) -> Any:
    thinking = {} if own is None else {"thinking_config": own}
    params = {"model": model, "contents": "Why?", "config": {**config, **thinking}}
    before = copy.deepcopy(params)
    found = render(budget, TABLE.lookup(model, "google"), params, caller_values=caller_values)
    assert params == before, "inputs are only read"
    return found


@pytest.mark.parametrize(
    ("model", "budget", "own", "sent"),
    [
        (FLASH, CAP, None, {"thinking_budget": 1000}),
        (FLASH, Budget(reasoning_tokens=99_999), None, {"thinking_budget": 24_576}),
        (PRO, Budget(reasoning_tokens=10), None, {"thinking_budget": 128}),
        (FLASH, CAP, {"thinking_budget": 300}, {"thinking_budget": 300}),
        (FLASH, CAP, {"thinking_budget": -1}, {"thinking_budget": 1000}),
        (FLASH, CAP, {"thinking_budget": 0}, {"thinking_budget": 0}),
        (FLASH, CAP, {"include_thoughts": True}, {"include_thoughts": True, "thinking_budget": 1000}),
        (FLASH, OFF, {"include_thoughts": True}, {"thinking_budget": 0}),
        (FLASH, Budget(effort="low"), None, None),
        # Off unless it is asked for.
        (LITE, CAP, None, None),
        (LITE, CAP, {"thinking_budget": 4000}, {"thinking_budget": 1000}),
        (LITE, Budget(reasoning_tokens=10), {"thinking_budget": 4000}, {"thinking_budget": 512}),
        # Cannot be switched off.
        (PRO, OFF, None, None),
        (THREE, OFF, None, {"thinking_level": "low"}),
        # Levels.
        (THREE, CAP, None, {"thinking_level": "low"}),
        (THREE, Budget(effort="medium"), None, {"thinking_level": "low"}),
        (THREE, Budget(effort="low"), {"thinking_level": "HIGH"}, {"thinking_level": "low"}),
        (THREE, Budget(effort="high"), {"thinking_level": "LOW"}, {"thinking_level": "LOW"}),
        (THREE, Budget(effort="low"), {"thinking_budget": 500}, {"thinking_budget": 500}),
        (THREE, CAP, {"thinking_budget": 5000}, {"thinking_budget": 5000}),
    ],
)
def test_what_is_sent(model: str, budget: Budget, own: Any, sent: Any):
    found = rendered(model, budget, own)
    assert found.params["config"].get("thinking_config") == sent


@pytest.mark.parametrize(
    ("model", "own"), [(FLASH, {"thinking_budget": 9000}), (THREE, {"thinking_level": "HIGH"})]
)
@pytest.mark.parametrize("budget", [CAP, OFF, Budget(effort="low")])
def test_pinned_values_stay(model: str, own: Any, budget: Budget):
    found = rendered(model, budget, own, "pin")
    assert found.params["config"]["thinking_config"] == own
    assert found.controls == ()


def test_a_cap_leaves_room_for_the_answer():
    found = rendered(FLASH, CAP, None, max_output_tokens=600)
    assert found.params["config"]["max_output_tokens"] == 600
    assert found.params["config"]["thinking_config"]["thinking_budget"] * 1.1 <= 300


def test_a_configuration_that_cannot_be_read_is_left_alone():
    config = object()
    found = render(CAP, TABLE.lookup(FLASH, "google"), {"model": FLASH, "config": config})
    assert found.params == {"model": FLASH, "config": config}
    assert found.unsupported == ("cap",)


# --- chunks ---


def chunk(*parts: dict[str, Any], finish: str | None = None, **counts: int) -> dict[str, Any]:
    candidate = {"content": {"parts": list(parts)}, "finish_reason": finish}
    return {"candidates": [candidate], "usage_metadata": counts}


def test_parts_of_every_kind_are_read():
    channels = GoogleChannels()
    thought, answer = {"text": "Hm.", "thought": True}, {"text": "So."}
    events = channels.feed(chunk(thought, answer, {"text": "", "thought_signature": True}))
    assert join(events) == ("Hm.", "So.")
    assert [event.kind for event in events] == ["reasoning", "answer"]
    assert [e.kind for e in channels.feed(chunk({"function_call": True}, {"inline_data": True}))] == [
        "tool"
    ] * 2
    assert channels.feed(chunk({"thought_signature": True})) == []


def test_thoughts_are_counted_beside_the_candidates():
    counts = {"prompt_token_count": 7, "tool_use_prompt_token_count": 2, "candidates_token_count": 5}
    counts["cached_content_token_count"] = 4
    counted, finished = GoogleChannels().feed(chunk(finish="MAX_TOKENS", thoughts_token_count=30, **counts))
    assert counted.usage is not None
    assert (counted.usage.prompt_tokens, counted.usage.output_tokens) == (9, 35)
    assert counted.usage.cached_tokens == 4
    assert (counted.usage.reasoning_tokens, counted.usage.answer_tokens) == (30, 5)
    assert finished.finish == "length"


def test_thoughts_that_nobody_counts_are_unknown_only_where_there_were_any():
    [counted] = GoogleChannels().feed(chunk(candidates_token_count=5))
    assert counted.usage is not None
    assert counted.usage.reasoning_tokens == 0
    _, counted = GoogleChannels().feed(chunk({"text": "Hm.", "thought": True}, candidates_token_count=5))
    assert counted.usage is not None
    assert counted.usage.reasoning_tokens is None
