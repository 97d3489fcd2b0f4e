"""The Anthropic SDK over a loopback server: budgets of all kinds of models, whatever way a call takes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

pytest.importorskip("anthropic")

import anthropic
from anthropic import Anthropic, AnthropicBedrock, AnthropicVertex, AsyncAnthropic
from pydantic import BaseModel

import budgetctl
from budgetctl.types import StopReason
from tests.engines.scripted import ANSWER
from tests.integrations.contract import LEVELS, Collect, Contract, LevelInTheQuestion, aiter_of
from tests.integrations.hosted import AnthropicServer, at, running

TEXT = "".join(ANSWER)
EARLY, ASKED, ALWAYS = "claude-haiku-4-5", "claude-opus-4-8", "claude-opus-5"
MESSAGES = [{"role": "user", "content": "What is it?"}]
BASE: dict[str, Any] = {"max_tokens": 8000, "messages": MESSAGES}
OPEN: list[Any] = []


def client_of(server: AnthropicServer, kind: Any = Anthropic, **options: Any) -> Any:
    credentials = {"api_key": "none"} if kind in (Anthropic, AsyncAnthropic) else {}
    OPEN.append(kind(base_url=server.url, **(credentials | {"max_retries": 0, "timeout": 20} | options)))
    return OPEN[-1]


def under(client: Any, policy: Any, **settings: Any) -> Any:
    return budgetctl.wrap(client, policy=policy, classifier=None, **settings)


async def close() -> None:
    while OPEN:
        closing = OPEN.pop().close()
        if closing is not None:
            await closing


@pytest.fixture
async def server() -> AsyncIterator[AnthropicServer]:
    with running(AnthropicServer()) as started:
        yield started
        await close()


def thoughts_of(message: Any) -> str:
    return "".join(block.thinking for block in message.content if block.type == "thinking")


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def texts(events: Any) -> Iterator[str]:
    for event in events:
        if event.type == "content_block_delta" and event.delta.type == "text_delta":
            yield event.delta.text


class TestContract(Contract):
    """Levels, with a model that thinks by default."""

    ways = ("create", "create stream", "helper stream", "beta", "async create", "async create stream")
    policy = "effort:low"
    by_question = LevelInTheQuestion()
    budget = ("output_config", {"effort": "low"})
    pinned = {"output_config": {"effort": "medium"}}, {"effort": "medium"}
    pinned_as = "output_config.effort"
    ceiling = {"output_config": {"effort": "medium"}}, {"effort": "low"}

    @pytest.fixture
    async def server(self) -> AsyncIterator[Any]:
        with running(AnthropicServer()) as started:
            yield started
            await close()

    def made(self, server: Any, policy: Any, *, own: dict[str, Any], **settings: Any) -> Any:
        return {
            "sync": under(client_of(server), policy, **settings),
            "async": under(client_of(server, AsyncAnthropic), policy, **settings),
            "own": own,
        }

    def bare(self, server: Any) -> Any:
        return {"sync": client_of(server), "async": client_of(server, AsyncAnthropic), "own": {}}

    async def ask(self, made: Any, way: str, question: str) -> Any:
        if "stream" in way:
            return "".join([piece async for piece in self.stream(made, way, question)])
        call = self._call(made, question)
        if way == "beta":
            return text_of(made["sync"].beta.messages.create(**call))
        if way == "create":
            return text_of(made["sync"].messages.create(**call))
        return text_of(await made["async"].messages.create(**call))

    async def stream(self, made: Any, way: str, question: str) -> AsyncIterator[str]:
        call = self._call(made, question)
        if way.startswith("async"):
            async with await made["async"].messages.create(**call, stream=True) as stream:
                async for event in stream:
                    for text in texts([event]):
                        yield text
        elif way == "helper stream":
            with made["sync"].messages.stream(**call) as helper:
                async for text in aiter_of(helper.text_stream):
                    yield text
        else:
            with made["sync"].messages.create(**call, stream=True) as stream:
                async for text in aiter_of(texts(stream)):
                    yield text

    def _call(self, made: Any, question: str) -> dict[str, Any]:
        messages = [{"role": "user", "content": question}]
        return {"model": ALWAYS, "max_tokens": 800, "messages": messages, **made["own"]}

    def number(self, n: int) -> Any:
        level = LEVELS[n % 4]
        return {"effort": "low" if level == "minimal" else level}


# --- budgets in tokens ---


def test_a_budget_that_the_call_has_is_lowered_under_a_ceiling(server: AnthropicServer):
    client = under(client_of(server), "cap:2000", caller_values="ceiling")
    asked = {"type": "enabled", "budget_tokens": 5000}
    reply = client.messages.create(model=EARLY, thinking=asked, **BASE)
    assert server.bodies[0]["thinking"] == {"type": "enabled", "budget_tokens": 2000}
    assert asked == {"type": "enabled", "budget_tokens": 5000}
    outcome = budgetctl.outcome(reply)
    assert [(c.name, c.value, c.strength) for c in outcome.controls] == [
        ("thinking.budget_tokens", 2000, "advisory")
    ]
    assert (outcome.usage.prompt_tokens, outcome.usage.reasoning_tokens) == (10, 20)
    assert (outcome.usage.answer_tokens, outcome.usage.provenance) == (4, "reported")


def test_pinned_it_stays(server: AnthropicServer):
    asked = {"type": "enabled", "budget_tokens": 5000}
    reply = under(client_of(server), "cap:2000").messages.create(model=EARLY, thinking=asked, **BASE)
    assert server.bodies[0]["thinking"] == asked
    assert budgetctl.outcome(reply).pinned == ("thinking.type", "thinking.budget_tokens")


@pytest.mark.parametrize("model", [EARLY, ASKED])
@pytest.mark.parametrize("policy", ["cap:2000", "off", "effort:low"])
def test_nothing_is_written_where_thinking_is_off(server: AnthropicServer, model: str, policy: str):
    client = under(client_of(server), policy, caller_values="ceiling", strict=True)
    client.messages.create(model=model, **BASE)
    assert server.bodies == [{"model": model, **BASE}]


def test_no_thinking_is_seen_is_known_as_none(server: AnthropicServer):
    server.thought = 0
    reply = under(client_of(server), "cap:2000").messages.create(model=EARLY, **BASE)
    assert budgetctl.outcome(reply).usage.reasoning_tokens == 0


# --- thinking off ---


def test_off_says_so_to_a_model_that_thinks_by_default(server: AnthropicServer):
    reply = under(client_of(server), "off").messages.create(model=ALWAYS, **BASE)
    assert server.bodies[0]["thinking"] == {"type": "disabled"}
    assert thoughts_of(reply) == ""
    assert budgetctl.outcome(reply).stop.reason is StopReason.OFF


def test_off_leaves_no_request_that_is_refused(server: AnthropicServer):
    client = under(client_of(server), "off", caller_values="ceiling")
    adaptive = {"type": "adaptive", "display": "summarized"}
    client.messages.create(model=ALWAYS, thinking=adaptive, output_config={"effort": "max"}, **BASE)
    assert server.bodies[0]["thinking"] == {"type": "disabled"}
    assert server.bodies[0]["output_config"] == {"effort": "high"}


# --- the ways of a call ---


def test_the_original_is_not_touched_and_the_class_stays(server: AnthropicServer):
    plain = client_of(server)
    client = under(plain, "off")
    assert isinstance(client, Anthropic)
    plain.messages.create(model=ALWAYS, **BASE)
    client.with_options(max_retries=1).messages.create(model=ALWAYS, **BASE)
    client.with_policy("full").messages.create(model=ALWAYS, **BASE)
    assert ["thinking" in body for body in server.bodies] == [False, True, False]


def test_the_sdks_retries_keep_the_decision(server: AnthropicServer):
    server.failures, sink = [500, 529], Collect()
    decided: list[Any] = []
    client = under(
        client_of(server, max_retries=2),
        "off",
        sink=sink,
        callbacks=budgetctl.Callbacks(on_decision=decided.append),
    )
    client.messages.create(model=ALWAYS, **BASE)
    assert [body["thinking"] for body in server.bodies] == [{"type": "disabled"}] * 3
    assert (len(decided), len(sink.rows)) == (1, 1)


def test_the_sdks_own_middleware_sees_what_is_sent(server: AnthropicServer):
    seen: list[Any] = []

    def look(request: Any, call_next: Any) -> Any:
        seen.append(request.json["thinking"])
        return call_next(request)

    client = under(client_of(server, middleware=[look]), "off")
    client.messages.create(model=ALWAYS, **BASE)
    assert seen == [{"type": "disabled"}]


def test_raw_responses_are_budgeted_and_read_where_they_have_arrived(server: AnthropicServer):
    client, sink = client_of(server), Collect()
    client = under(client, "off", sink=sink)
    raw = client.messages.with_raw_response.create(model=ALWAYS, **BASE)
    assert text_of(raw.parse()) == TEXT
    assert raw.http_response.json()["id"] == "msg_1"
    with client.messages.with_streaming_response.create(model=ALWAYS, **BASE) as response:
        assert json.loads(response.read())["id"] == "msg_1"
    assert [body["thinking"]["type"] for body in server.bodies] == ["disabled"] * 2
    assert [row.usage.answer_tokens for row in sink.rows] == [4, None]
    assert sink.rows[1].fallback == "the response was not read"


def test_a_parsed_answer_carries_the_outcome(server: AnthropicServer):
    class Note(BaseModel):
        text: str

    server.answer = ('{"text": ', '"It is 42."}')
    reply = under(client_of(server), "effort:low").messages.parse(model=ALWAYS, output_format=Note, **BASE)
    assert reply.parsed_output == Note(text="It is 42.")
    assert server.bodies[0]["output_config"]["effort"] == "low"
    assert server.bodies[0]["output_config"]["format"]["type"] == "json_schema"
    assert budgetctl.outcome(reply).answered


def test_a_stream_tells_its_outcome(server: AnthropicServer):
    client = under(client_of(server), "effort:low")
    stream = client.messages.create(model=ALWAYS, stream=True, **BASE)
    assert "".join(texts(stream)) == TEXT
    outcome = budgetctl.outcome(stream)
    assert (outcome.usage.reasoning_tokens, outcome.usage.answer_tokens) == (20, 4)
    assert outcome.timing.ttfo_s is not None
    with client.messages.stream(model=ALWAYS, **BASE) as helper:
        final = helper.get_final_message()
    assert (text_of(final), thoughts_of(final)[:6]) == (TEXT, "step0 ")
    assert budgetctl.outcome(helper).usage == outcome.usage


async def test_asynchronous_streams_do_as_well(server: AnthropicServer):
    client = under(client_of(server, AsyncAnthropic), "effort:low")
    async with client.messages.stream(model=ALWAYS, **BASE) as helper:
        assert text_of(await helper.get_final_message()) == TEXT
    assert budgetctl.outcome(helper).usage.reasoning_tokens == 20


async def test_a_dropped_stream_is_closed(server: AnthropicServer):
    server.delay_s, server.answer = 0.01, ("4",) * 400
    client, sink = under(client_of(server), "effort:low"), Collect()
    next(iter(client.messages.create(model=ALWAYS, stream=True, **BASE)))
    other = under(client_of(server, AsyncAnthropic), "effort:low", sink=sink)
    await anext(aiter(await other.messages.create(model=ALWAYS, stream=True, **BASE)))
    for _ in range(20):
        await asyncio.sleep(0.01)
    assert await asyncio.to_thread(server.left_open) == []
    assert [row.stop.reason for row in sink.rows] == [StopReason.CALLER]


@pytest.mark.parametrize("streamed", [False, True])
def test_tool_use_is_untouched(server: AnthropicServer, streamed: bool):
    server.scenario = "tools"
    tools = [{"name": "weather", "input_schema": {"type": "object", "properties": {}}}]
    call = {"model": ALWAYS, "tools": tools, "tool_choice": {"type": "auto"}, **BASE}
    client = under(client_of(server), "effort:low")
    if streamed:
        with client.messages.stream(**call) as stream:
            reply, outcome = stream.get_final_message(), None
        outcome = budgetctl.outcome(stream)
    else:
        reply = client.messages.create(**call)
        outcome = budgetctl.outcome(reply)
    assert (server.bodies[0]["tools"], server.bodies[0]["tool_choice"]) == (tools, {"type": "auto"})
    thought, called = reply.content
    assert (thought.signature, called.input) == ("c2lnbmVk", {"city": "Paris"})
    assert outcome.answered


def test_a_tool_loop_goes_on_with_its_thoughts(server: AnthropicServer):
    """Thinking blocks and results come back as they were; the question stays the user's, and its budget."""
    server.scenario = "tools"
    asked: list[str | None] = []

    class Questions(Collect):
        def write(self, outcome: Any, *, text: str | None = None) -> None:
            asked.append(text)

    client = under(client_of(server), "effort:low", sink=Questions())
    reply = client.messages.create(model=ALWAYS, **BASE)
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Rain."}
    turns = [
        *MESSAGES,
        {"role": "assistant", "content": reply.content},
        {"role": "user", "content": [result]},
    ]
    client.messages.create(model=ALWAYS, max_tokens=8000, messages=turns)
    assert asked == ["What is it?", "What is it?"]
    assert [body["output_config"] for body in server.bodies] == [{"effort": "low"}] * 2
    assert server.bodies[1]["messages"][1]["content"][0]["signature"] == "c2lnbmVk"
    assert server.bodies[1]["messages"][2]["content"] == [result]


def test_what_can_be_read_once_is_sent_twice(server: AnthropicServer):
    server.refuses = ("output_config",)
    client = under(client_of(server), "effort:low")
    client.messages.create(model=ALWAYS, max_tokens=800, messages=iter(MESSAGES))
    assert [body["messages"] for body in server.bodies] == [MESSAGES, MESSAGES]


def test_an_output_limit_is_told_from_an_end(server: AnthropicServer):
    server.scenario = "cut"
    reply = under(client_of(server), "effort:low").messages.create(model=ALWAYS, **BASE)
    assert budgetctl.outcome(reply).stop.reason is StopReason.LENGTH


def test_errors_are_the_sdks_own(server: AnthropicServer):
    server.failures, sink = [429], Collect()
    client = under(client_of(server), "effort:low", sink=sink)
    with pytest.raises(anthropic.RateLimitError):
        client.messages.create(model=ALWAYS, **BASE)
    assert [row.stop.reason for row in sink.rows] == [StopReason.ERROR]
    server.failures = [400, 400]
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(model=ALWAYS, **BASE)


def test_a_stream_that_breaks_raises_what_the_sdk_raises(server: AnthropicServer):
    server.scenario, sink = "broken", Collect()
    with pytest.raises(Exception, match=r"peer closed|incomplete") as plain:
        list(client_of(server).messages.create(model=ALWAYS, stream=True, **BASE))
    stream = under(client_of(server), "effort:low", sink=sink).messages.create(
        model=ALWAYS, stream=True, **BASE
    )
    with pytest.raises(plain.type):
        list(stream)
    assert [row.stop.reason for row in sink.rows] == [StopReason.ERROR]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("endpoint", ["openai-compatible", "anthropic"])
def test_a_budgeted_function_hands_its_decision_on(server: AnthropicServer, wrapped: bool, endpoint: str):
    """Without a wrapped client inside, a function that is told the endpoint is given what it takes."""
    client, sink = client_of(server), Collect()
    if wrapped:
        client = under(client, "full")

    @budgetctl.budgeted("effort:low", model=ALWAYS, endpoint=endpoint, classifier=None, sinks=[sink])
    def ask(question: str, **llm: Any) -> Any:
        turns = [{"role": "user", "content": question}]
        return client.messages.create(model=ALWAYS, max_tokens=800, messages=turns, **llm)

    assert text_of(ask("What is it?")) == TEXT
    expected = {"effort": "low"} if wrapped or endpoint == "anthropic" else None
    assert server.bodies[0].get("output_config") == expected
    assert [row.usage.reasoning_tokens for row in sink.rows] == [20]


def test_other_calls_go_through(server: AnthropicServer):
    client = under(client_of(server), "off")
    client.messages.count_tokens(model=ALWAYS, messages=MESSAGES)
    assert "thinking" not in server.bodies[0]


def test_models_that_nobody_knows_pass_through(server: AnthropicServer):
    reply = under(client_of(server), "cap:100&effort:low").messages.create(model="glm-9", **BASE)
    assert server.bodies == [{"model": "glm-9", **BASE}]
    assert budgetctl.outcome(reply).controls == ()


def test_clouds_that_serve_the_same_models(server: AnthropicServer):
    vertex = client_of(server, AnthropicVertex, region="eu", project_id="p", access_token="none")
    bedrock = client_of(server, AnthropicBedrock, api_key="none", aws_region="eu-west-1")
    under(vertex, "off").messages.create(model="claude-opus-5@20260901", **BASE)
    under(bedrock, "off").messages.create(model="eu.anthropic.claude-opus-5-v1:0", **BASE)
    assert [at(body, "thinking.type") for body in server.bodies] == ["disabled", "disabled"]
    assert "rawPredict" in server.seen[0].path


def test_arguments_that_do_not_fit_are_refused_before_any_call(server: AnthropicServer):
    with pytest.raises(budgetctl.ConfigError, match="allowed for this client: anthropic"):
        under(client_of(server), "full", endpoint="vllm")
    with pytest.raises(budgetctl.ConfigError, match="only for a client of the OpenAI SDK: tokenizer"):
        under(client_of(server), "full", tokenizer=len)
    with pytest.raises(budgetctl.ConfigError, match="seen str"):
        budgetctl.wrap("client")
    assert server.seen == []


def test_no_other_sdk_is_loaded():
    code = (
        "import sys, budgetctl; from anthropic import Anthropic; budgetctl.wrap(Anthropic(api_key='none'));"
        "print([name for name in ('openai', 'google.genai') if name in sys.modules])"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "[]"
