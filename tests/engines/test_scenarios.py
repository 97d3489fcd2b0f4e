"""What servers do wrong, one by one: what the caller gets, and what the outcome says.

Every scenario is played whole and streamed, sync and async. After each call no request of it is left running.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from budgetctl.errors import AnswerTruncated
from budgetctl.types import StopReason

from .calling import MESSAGES, WAYS, call
from .scripted import ANSWER, ARGUMENTS, RETHINKS, Scripted, serving

TEXT = "".join(ANSWER)
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
JSON_MODE: Any = {"type": "json_object"}
STREAMS = ("stream", "async stream")
SERVED = "transformers-serve"
"""An endpoint without a cap of its own: we keep it, so its whole calls are streams, too."""


@pytest.fixture
def server() -> Iterator[Scripted]:
    with serving() as running:
        yield running


every_way = pytest.mark.parametrize("way", WAYS)
streamed = pytest.mark.parametrize("way", STREAMS)


# --- The upstream falls silent or goes away ---


@every_way
async def test_a_deadline_holds_although_nothing_comes_any_more(server: Scripted, way: str):
    server.scenario = "stall"  # it still sends comments, which keep the connection alive and say nothing
    began = time.monotonic()
    got = await call(server, way, "deadline:0.5", endpoint=SERVED)
    assert time.monotonic() - began < 5
    assert (got.content, got.finish) == (TEXT, ["stop"])
    assert len(got.reasoning.split()) == 6
    assert (got.outcome.stop.reason, got.outcome.stop.criterion) == (StopReason.DEADLINE, "deadline")
    assert got.outcome.stop.actuator == "raw_completions"
    assert got.outcome.fallback == "the stream fell silent"
    assert server.seen[0].done.wait(5)
    assert server.seen[0].closed_by_client
    assert got.outcome.answered


@pytest.mark.parametrize("where", ["in the thought", "at the close", "in the answer"])
@every_way
async def test_a_lost_connection_is_the_providers_own_error(server: Scripted, way: str, where: str):
    server.scenario, server.thought = f"disconnect {where}", 30
    got = await call(server, way, endpoint=SERVED)
    assert got.error is not None
    assert type(got.error).__module__.split(".")[0] in ("openai", "httpx"), "as without a budget"
    assert server.paths == ["/chat/completions"], "nothing is tried behind the caller's back"
    assert got.outcome.stop.reason is StopReason.ERROR
    assert got.outcome.usage.reasoning_tokens == (20 if where == "in the thought" else 30)
    assert got.outcome.answered is (where == "in the answer")


@every_way
async def test_a_connection_lost_before_the_continued_answer_leaves_room_for_the_next_way(
    server: Scripted, way: str
):
    server.scenario = "disconnect in the continuation at 0"
    got = await call(server, way, endpoint=SERVED)
    assert got.content == TEXT
    assert server.paths == ["/chat/completions", "/completions", "/chat/completions"]
    assert "not continued with thinking closed (raw_completions)" in str(got.outcome.fallback)
    assert (got.outcome.stop.actuator, got.outcome.stop.degraded) == ("reask", True)


@every_way
async def test_a_connection_lost_within_the_continued_answer_is_the_providers_own_error(
    server: Scripted, way: str
):
    server.scenario = "disconnect in the continuation at 2"
    server.continuation = [("The answer that was under way for quite some time, so that it is shown, ",) * 4]
    got = await call(server, way, endpoint=SERVED)
    assert got.error is not None
    assert got.outcome.stop.reason is StopReason.ERROR
    assert got.outcome.answered
    if way in STREAMS:
        assert got.content == server.continuation[0][0] * 2, "what has been said has been said"


# --- Statuses ---


@every_way
async def test_a_server_fault_is_the_providers_own_error(server: Scripted, way: str):
    server.failures = [(500, {})]
    got = await call(server, way)
    assert getattr(got.error, "status_code", None) == 500
    assert len(server.seen) == 1
    assert got.outcome.stop.reason is StopReason.ERROR
    assert got.outcome.fallback == "InternalServerError (HTTP 500)"


@every_way
async def test_the_sdk_waits_as_it_is_told_and_one_call_stays_one_decision(server: Scripted, way: str):
    server.failures = [(429, {"retry-after-ms": "200"})] * 2
    outcomes: list[Any] = []

    class Sink:
        def write(self, outcome: Any, *, text: str | None = None) -> None:
            outcomes.append(outcome)

    began = time.monotonic()
    got = await call(server, way, retries=2, settings={"sinks": (Sink(),)})
    assert time.monotonic() - began >= 0.4
    assert got.content == TEXT
    assert [one.body["thinking_token_budget"] for one in server.seen] == [50, 50, 50]
    assert [one.id for one in outcomes] == [got.outcome.id]
    assert (got.outcome.stop.reason, got.outcome.fallback) == (StopReason.CAP, None)


@every_way
async def test_where_no_thought_can_be_continued_the_question_is_asked_again(server: Scripted, way: str):
    server.scenario = "nothing continues"  # 404 on raw completions, 400 on a prefilled turn
    got = await call(server, way, endpoint="sglang")
    assert got.content == TEXT
    assert server.paths == ["/chat/completions", "/completions", *["/chat/completions"] * 2]
    assert (got.outcome.stop.actuator, got.outcome.stop.degraded) == ("reask", True)
    assert "(raw_completions): NotFoundError (HTTP 404)" in str(got.outcome.fallback)
    assert "(chat): BadRequestError (HTTP 400)" in str(got.outcome.fallback)
    assert got.outcome.stop.extra_calls == 3


# --- Tools and JSON ---


@every_way
async def test_the_arguments_of_a_tool_call_are_not_touched(server: Scripted, way: str):
    server.scenario, server.thought = "tools", 10
    got = await call(server, way, "cap:50&deadline:20", tools=TOOLS)
    assert got.arguments == "".join(ARGUMENTS), "not even what looks like a tag"
    assert got.finish == ["tool_calls"]
    assert server.paths == ["/chat/completions"]
    assert (got.outcome.stop.reason, got.outcome.answered) == (StopReason.NATURAL, True)
    assert got.outcome.fallback is None


@every_way
async def test_the_first_sign_of_a_tool_call_disarms_every_criterion(server: Scripted, way: str):
    server.scenario, server.thought = "tools and more thoughts", 10
    got = await call(server, way, endpoint=SERVED)
    assert got.arguments == "".join(ARGUMENTS)
    assert len(got.reasoning.split()) == 110, "far beyond the cap"
    assert server.paths == ["/chat/completions"]
    assert (got.outcome.stop.reason, got.outcome.stop.criterion) == (StopReason.NATURAL, None)


@every_way
async def test_a_phrase_forced_into_the_arguments_costs_a_second_call_without_the_cap(
    server: Scripted, way: str
):
    server.scenario, server.thought = "tools spoilt", 100
    got = await call(server, way, tools=TOOLS)
    assert json.loads(got.arguments) == {"city": "Paris", "note": "</think> is only text"}
    assert got.finish == ["tool_calls"]
    first, second = server.seen
    assert first.body["thinking_token_budget"] == 50
    assert "thinking_token_budget" not in second.body
    said = "what had to be JSON was none: called again with the caller's own parameters"
    assert got.outcome.fallback == said
    assert got.outcome.stop.extra_calls == 1
    thought = got.outcome.usage.reasoning_tokens
    assert thought is not None
    assert 100 < thought <= 154, "what was thought for nothing is counted, as well as it can be split"


@every_way
async def test_under_json_mode_only_the_engine_ends_a_thought(server: Scripted, way: str):
    server.answer = ('{"value": ', "42}")
    got = await call(server, way, "cap:50&deadline:0.01", response_format=JSON_MODE)
    assert json.loads(got.content) == {"value": 42}
    assert server.paths == ["/chat/completions"]
    assert (got.outcome.stop.reason, got.outcome.stop.actuator) == (StopReason.CAP, "engine_cap")
    strengths = {c.name: c.strength for c in got.outcome.controls}
    assert strengths == {"thinking_token_budget": "hard", "deadline": "none", "stop": "none"}


@pytest.mark.parametrize("way", ["whole", "async whole"])
async def test_json_that_the_cap_has_spoilt_is_asked_for_again(server: Scripted, way: str):
    server.scenario, server.answer = "json spoilt", ('{"value": ', "42}")
    got = await call(server, way, response_format=JSON_MODE)
    assert json.loads(got.content) == {"value": 42}
    assert "thinking_token_budget" not in server.seen[1].body
    assert "what had to be JSON was none" in str(got.outcome.fallback)


@pytest.mark.parametrize("way", STREAMS)
async def test_a_stream_of_json_that_the_cap_has_spoilt_is_recorded_as_such(server: Scripted, way: str):
    server.scenario, server.answer = "json spoilt", ('{"value": ', "42}")
    got = await call(server, way, response_format=JSON_MODE)
    assert server.paths == ["/chat/completions"], "what the caller has seen cannot be taken back"
    assert "what had to be JSON is none" in str(got.outcome.fallback)


# --- Caps and tags ---


@every_way
async def test_an_ignored_cap_is_noticed(server: Scripted, way: str):
    server.scenario, server.delay_s = "ignored cap", 0.001
    got = await call(server, way)
    assert got.content == TEXT
    assert "thinking_token_budget=50 was sent and ignored" in str(got.outcome.fallback)
    assert {c.name: c.strength for c in got.outcome.controls}["thinking_token_budget"] == "none"
    if way in STREAMS:  # a whole call is over when it is seen
        assert (got.outcome.stop.criterion, got.outcome.stop.actuator) == ("watchdog", "raw_completions")
        assert server.seen[0].closed_by_client
        assert len(got.reasoning.split()) < 150


@pytest.mark.parametrize("scenario", ["stray close tag", "leftover and close tag"])
@every_way
async def test_a_second_closing_tag_is_left_out_and_what_comes_before_it_is_a_thought(
    server: Scripted, way: str, scenario: str
):
    server.scenario = scenario
    got = await call(server, way)
    assert got.content.strip() == TEXT
    assert ("so it is 42." in got.reasoning) is (scenario == "leftover and close tag")
    assert got.outcome.answered
    assert got.outcome.usage.reasoning_tokens is not None


@every_way
async def test_without_a_budget_a_response_is_the_servers_own(server: Scripted, way: str):
    server.scenario = "stray close tag"
    got = await call(server, way, "full+stop:none")
    assert got.content == "</think>\n\n" + TEXT


@every_way
async def test_thinking_after_the_close_is_no_answer(server: Scripted, way: str):
    server.scenario = "reasoning after the close"
    got = await call(server, way)
    assert got.content == TEXT
    assert got.reasoning.endswith("afterthought ")
    assert server.paths == ["/chat/completions"]
    assert got.outcome.answered


@streamed
async def test_thinking_on_after_the_engines_close_is_closed_once_more(server: Scripted, way: str):
    server.scenario = "rethinks"
    got = await call(server, way)
    assert got.content == "Final answer:" + TEXT
    assert got.reasoning.endswith("step49 Wait, "), "as far as it came"
    assert server.paths == ["/chat/completions", "/completions"]
    assert "thinking began again after the close" in str(got.outcome.fallback)
    assert got.outcome.stop.actuator == "raw_completions"


@streamed
async def test_thinking_on_is_let_through_where_nothing_can_close_it(server: Scripted, way: str):
    server.scenario = "rethinks"
    got = await call(server, way, tools=TOOLS)
    assert got.content == "".join(RETHINKS)
    assert server.paths == ["/chat/completions"]


@every_way
async def test_a_missing_opening_tag_is_understood_afterwards(server: Scripted, way: str):
    server.scenario, server.thought = "missing open tag", 20
    got = await call(server, way, endpoint=SERVED)
    assert got.content == "".join(f"step{n} " for n in range(20)) + "</think>\n\n" + TEXT
    assert (got.outcome.usage.reasoning_tokens, got.outcome.usage.answer_tokens) == (20, 4)
    assert got.outcome.stop.reason is StopReason.NATURAL


@pytest.mark.parametrize("carrier", ["reasoning_content", "reasoning", "thinking", "reasoning_details"])
@every_way
async def test_thinking_is_seen_in_whatever_field_it_comes(server: Scripted, way: str, carrier: str):
    server.carrier = carrier
    got = await call(server, way, endpoint=SERVED)
    assert got.content == TEXT
    assert len(got.reasoning.split()) == 55
    assert got.outcome.usage.reasoning_tokens == 55


@pytest.mark.parametrize("cut", range(1, 9))
@every_way
async def test_tags_may_be_cut_anywhere(server: Scripted, way: str, cut: int):
    server.scenario, server.cut, server.thought = "inline", cut, 12
    got = await call(server, way, "cap:1000", endpoint=SERVED)
    thought = "".join(f"step{n} " for n in range(12))
    assert got.content == f"<think>\n{thought}</think>\n\n{TEXT}"
    assert got.outcome.usage.answer_tokens is not None
    assert got.outcome.answered
    assert got.outcome.stop.reason is StopReason.NATURAL


# --- Answers that are none ---


@every_way
async def test_an_answer_filed_as_thinking_is_still_the_answer(server: Scripted, way: str):
    server.scenario = "misfiled"  # the parser waits for a closing tag, which is in the prompt
    got = await call(server, way, endpoint="sglang")
    assert (got.content, got.finish) == (TEXT, ["stop"])
    assert TEXT not in got.reasoning
    assert got.outcome.stop.actuator == "chat"
    assert got.outcome.answered


@pytest.mark.parametrize("finish", ["stop", "length"])
@every_way
async def test_an_empty_answer_under_a_cap_is_made_good(server: Scripted, way: str, finish: str):
    server.scenario = "empty with stop" if finish == "stop" else "empty under a cap"
    got = await call(server, way)
    assert (got.content, got.finish) == (TEXT, ["stop"])
    assert server.paths == ["/chat/completions", "/completions"]
    assert got.outcome.fallback == "no answer came: continued with thinking closed"
    assert (got.outcome.stop.actuator, got.outcome.answered) == ("raw_completions", True)


@every_way
async def test_no_answer_at_all_is_a_typed_error_with_the_thought(server: Scripted, way: str):
    server.scenario, server.continuation = "empty", [()]
    got = await call(server, way, model="deepseek-r1")
    assert isinstance(got.error, AnswerTruncated)
    assert got.error.reasoning.startswith("step0 step1")
    assert "step0" not in str(got.error)
    assert (got.outcome.answered, got.outcome.stop.reason) == (False, StopReason.ERROR)


def test_the_callers_messages_are_never_changed():
    assert MESSAGES == [{"role": "user", "content": "What is it?"}]
