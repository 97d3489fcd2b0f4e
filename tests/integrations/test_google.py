"""The google-genai SDK over a loopback server: budgets, levels, chats, function calling, both APIs."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("google.genai")

from google import genai
from google.genai import errors, types
from pydantic import BaseModel

import budgetctl
from budgetctl.types import StopReason
from tests.engines.scripted import ANSWER
from tests.integrations.contract import Collect, Contract, aiter_of
from tests.integrations.hosted import GeminiServer, at, running

TEXT = "".join(ANSWER)
FLASH, PRO, LITE, THREE = (
    "gemini-2.5-flash",
    "gemini-2.5-pro",
    "gemini-2.5-flash-lite",
    "gemini-3.1-pro-preview",
)
BUDGET, LEVEL = (
    "generationConfig.thinkingConfig.thinking_budget",
    "generationConfig.thinkingConfig.thinking_level",
)
ASK = {"contents": "What is it?"}
OPEN: list[Any] = []


def client_of(server: GeminiServer, **options: Any) -> Any:
    http = {"base_url": server.url, "timeout": 20_000}
    OPEN.append(genai.Client(**({"api_key": "none", "vertexai": False} | options), http_options=http))
    return OPEN[-1]


def under(client: Any, policy: Any, **settings: Any) -> Any:
    return budgetctl.wrap(client, policy=policy, classifier=None, **settings)


async def close() -> None:
    while OPEN:
        client = OPEN.pop()
        await client.aio.aclose()
        client.close()


@pytest.fixture
async def server() -> AsyncIterator[GeminiServer]:
    with running(GeminiServer()) as started:
        yield started
        await close()


class TestContract(Contract):
    """Budgets in tokens, with a model that thinks by default."""

    ways = ("generate", "generate stream", "chat", "async generate", "async generate stream", "async chat")
    policy = "cap:15"
    budget = ("generationConfig", {"thinkingConfig": {"thinking_budget": 15}})
    pinned = {"thinking_budget": 300}, {"thinkingConfig": {"thinking_budget": 300}}
    pinned_as = "config.thinking_config.thinking_budget"
    ceiling = {"thinking_budget": 300}, budget[1]

    @pytest.fixture
    async def server(self) -> AsyncIterator[Any]:
        with running(GeminiServer()) as started:
            yield started
            await close()

    def made(self, server: Any, policy: Any, *, own: dict[str, Any], **settings: Any) -> Any:
        return under(client_of(server), policy, **settings), own

    def bare(self, server: Any) -> Any:
        return client_of(server), {}

    async def ask(self, made: Any, way: str, question: str) -> Any:
        if "stream" in way:
            return "".join([piece async for piece in self.stream(made, way, question)])
        client, own = made
        call, asynchronous = self._call(own), way.startswith("async")
        if "chat" in way:
            chat = (client.aio if asynchronous else client).chats.create(**call)
            sent = chat.send_message(question)
            return (await sent if asynchronous else sent).text
        if asynchronous:
            return (await client.aio.models.generate_content(**call, contents=question)).text
        return client.models.generate_content(**call, contents=question).text

    async def stream(self, made: Any, way: str, question: str) -> AsyncIterator[str]:
        client, own = made
        call = {**self._call(own), "contents": question}
        if way.startswith("async"):
            stream = await client.aio.models.generate_content_stream(**call)
        else:
            stream = aiter_of(client.models.generate_content_stream(**call))
        try:
            async for chunk in stream:
                yield chunk.text or ""
        finally:
            await stream.aclose()

    def _call(self, own: dict[str, Any]) -> dict[str, Any]:
        config = {"config": {"thinking_config": own}} if own else {}
        return {"model": FLASH, **config}

    def question(self, body: dict[str, Any]) -> str:
        return str(body["contents"][-1]["parts"][0]["text"])

    def number(self, n: int) -> Any:
        return {"thinkingConfig": {"thinking_budget": n}}


# --- what is written ---


def sent(server: GeminiServer) -> tuple[Any, Any]:
    return at(server.bodies[-1], BUDGET), at(server.bodies[-1], LEVEL)


@pytest.mark.parametrize(
    ("model", "policy", "expected"),
    [
        (FLASH, "cap:2000", (2000, None)),
        (FLASH, "off", (0, None)),
        (PRO, "cap:50", (128, None)),
        (PRO, "off", (None, None)),
        (LITE, "cap:2000", (None, None)),
        (THREE, "cap:2000", (None, "LOW")),
        (THREE, "effort:medium", (None, "MEDIUM")),
        (THREE, "off", (None, "LOW")),
        ("gemini-2.0-flash", "cap:2000", (None, None)),
        ("gemini-9", "cap:2000", (None, None)),
    ],
)
def test_each_model_gets_what_it_takes(server: GeminiServer, model: str, policy: str, expected: Any):
    under(client_of(server), policy).models.generate_content(model=model, **ASK)
    assert sent(server) == expected


def test_a_call_never_gets_both(server: GeminiServer):
    client = under(client_of(server), "cap:2000&effort:low", caller_values="ceiling")
    own = types.ThinkingConfig(thinking_level=types.ThinkingLevel.HIGH)
    client.models.generate_content(model=THREE, config={"thinking_config": own}, **ASK)
    assert sent(server) == (None, "LOW")
    client.models.generate_content(model=THREE, config={"thinking_config": {"thinking_budget": 900}}, **ASK)
    assert sent(server) == (900, None)


def test_a_level_is_never_raised(server: GeminiServer):
    client = under(client_of(server), "effort:high", caller_values="ceiling")
    client.models.generate_content(model=THREE, config={"thinking_config": {"thinking_level": "LOW"}}, **ASK)
    assert sent(server) == (None, "LOW")


def test_dynamic_thinking_has_no_bound_to_go_below(server: GeminiServer):
    client = under(client_of(server), "cap:2000", caller_values="ceiling")
    client.models.generate_content(model=FLASH, config={"thinking_config": {"thinking_budget": -1}}, **ASK)
    assert sent(server) == (2000, None)


def test_thoughts_that_are_off_are_not_asked_for(server: GeminiServer):
    own = types.GenerateContentConfig(thinking_config=types.ThinkingConfig(include_thoughts=True))
    client = under(client_of(server), "off")
    client.models.generate_content(model=FLASH, config=own, **ASK)
    assert server.bodies[0]["generationConfig"]["thinkingConfig"] == {"thinking_budget": 0}
    client.with_policy("cap:10").models.generate_content(model=FLASH, config=own, **ASK)
    expected = {"include_thoughts": True, "thinking_budget": 10}
    assert server.bodies[1]["generationConfig"]["thinkingConfig"] == expected
    assert own == types.GenerateContentConfig(thinking_config=types.ThinkingConfig(include_thoughts=True))


def test_the_rest_of_a_configuration_stays(server: GeminiServer):
    class Note(BaseModel):
        text: str

    server.answer = ('{"text": ', '"It is 42."}')
    own = types.GenerateContentConfig(
        response_schema=Note,
        response_mime_type="application/json",
        system_instruction="Be brief.",
        temperature=0.5,
        max_output_tokens=4000,
    )
    plain, client = client_of(server), under(client_of(server), "cap:2000")
    plain.models.generate_content(model=FLASH, config=own, **ASK)
    reply = client.models.generate_content(model=FLASH, config=own, **ASK)
    before, after = server.bodies
    assert after["generationConfig"].pop("thinkingConfig") == {"thinking_budget": 2000}
    assert after == before
    assert reply.parsed == Note(text="It is 42.")


# --- what is read ---


def test_thoughts_are_counted_beside_the_answer(server: GeminiServer):
    reply = under(client_of(server), "full").models.generate_content(model=FLASH, **ASK)
    outcome = budgetctl.outcome(reply)
    assert (outcome.usage.prompt_tokens, outcome.usage.reasoning_tokens) == (10, 20)
    assert (outcome.usage.answer_tokens, outcome.usage.provenance) == (4, "reported")


def test_no_count_of_thoughts_is_none_of_them(server: GeminiServer):
    reply = under(client_of(server), "off").models.generate_content(model=FLASH, **ASK)
    assert budgetctl.outcome(reply).usage.reasoning_tokens == 0
    assert budgetctl.outcome(reply).stop.reason is StopReason.OFF


def test_a_stream_and_its_last_chunk_tell_the_outcome(server: GeminiServer):
    client = under(client_of(server), "full")
    stream = client.models.generate_content_stream(
        model=FLASH, config={"thinking_config": {"include_thoughts": True}}, **ASK
    )
    chunks = list(stream)
    assert "".join(chunk.text or "" for chunk in chunks) == TEXT
    outcome = budgetctl.outcome(stream)
    assert budgetctl.outcome(chunks[-1]) == outcome
    assert (outcome.usage.reasoning_tokens, outcome.usage.answer_tokens) == (20, 4)
    assert outcome.timing.ttft_s < outcome.timing.ttfo_s


async def test_an_asynchronous_one_as_well(server: GeminiServer):
    stream = await under(client_of(server), "full").aio.models.generate_content_stream(model=FLASH, **ASK)
    assert [chunk async for chunk in stream]
    assert budgetctl.outcome(stream).usage.reasoning_tokens == 20


def test_an_output_limit_is_told_from_an_end(server: GeminiServer):
    server.scenario = "cut"
    reply = under(client_of(server), "full").models.generate_content(model=FLASH, **ASK)
    assert budgetctl.outcome(reply).stop.reason is StopReason.LENGTH


# --- the ways of a call ---


def test_the_original_is_not_touched_and_may_be_dropped(server: GeminiServer):
    plain = client_of(server)
    client = under(plain, "off")
    assert isinstance(client, genai.Client)
    assert isinstance(client.models, type(plain.models))
    plain.models.generate_content(model=FLASH, **ASK)
    OPEN.remove(plain)
    del plain
    gc.collect()
    client.models.generate_content(model=FLASH, **ASK)
    client.with_policy("full").models.generate_content(model=FLASH, **ASK)
    assert [at(body, BUDGET) for body in server.bodies] == [None, 0, None]
    client.close()


def test_a_copy_that_is_dropped_leaves_the_original_open(server: GeminiServer):
    plain = client_of(server)
    under(plain, "off")
    gc.collect()
    assert plain.models.generate_content(model=FLASH, **ASK).text == TEXT


@pytest.mark.parametrize("chat", [False, True])
def test_tools_are_called_and_every_step_has_its_budget(server: GeminiServer, chat: bool):
    server.scenario, asked = "tools", []

    def weather(city: str) -> str:
        """Tell the weather."""
        asked.append(city)
        return "Rain."

    class Questions(Collect):
        def write(self, outcome: Any, *, text: str | None = None) -> None:
            questions.append(text)

    questions: list[Any] = []
    client, config = under(client_of(server), "cap:10", sink=Questions()), {"tools": [weather]}
    if chat:
        reply = client.chats.create(model=FLASH, config=config).send_message("What is it?")
    else:
        reply = client.models.generate_content(model=FLASH, config=config, **ASK)
    assert (reply.text, asked) == (TEXT, ["Paris"])
    assert [at(body, BUDGET) for body in server.bodies] == [10, 10]
    assert server.bodies[0]["tools"] == server.bodies[1]["tools"]
    assert server.bodies[1]["contents"][1]["parts"][0]["thoughtSignature"]
    assert questions == ["What is it?", "What is it?"]


def test_contents_of_any_kind_are_read(server: GeminiServer):
    from budgetctl.integrations._google_io import messages

    said = types.Content(role="user", parts=[types.Part(text="Why"), types.Part(text="is it?")])
    thought = types.Part(text="Hm.", thought=True)
    answer = types.Content(role="model", parts=[thought, types.Part(text="So.")])
    assert list(messages("Why?")) == [{"role": "user", "content": "Why?"}]
    assert list(messages([said, answer, "And", types.Part(text="now?")])) == [
        {"role": "user", "content": "Why\nis it?"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "And\nnow?"},
    ]
    result = {"role": "user", "parts": [{"function_response": {"name": "f", "response": {}}}]}
    assert [m["role"] for m in messages([said, result])] == ["user", "tool"]


def test_errors_are_the_sdks_own(server: GeminiServer):
    server.failures, sink = [403], Collect()
    client = under(client_of(server), "off", sink=sink)
    with pytest.raises(errors.ClientError):
        client.models.generate_content(model=FLASH, **ASK)
    server.failures = [400, 400]
    with pytest.raises(errors.ClientError):
        list(client.models.generate_content_stream(model=FLASH, **ASK))
    assert [row.stop.reason for row in sink.rows] == [StopReason.ERROR] * 2
    with pytest.raises(ValueError, match="validation error"):
        client.models.generate_content(model=FLASH, config={"thinking_config": "none"}, **ASK)


async def test_a_dropped_stream_is_closed(server: GeminiServer):
    server.delay_s, server.answer = 0.01, ("4",) * 400
    client, sink = client_of(server), Collect()
    next(under(client, "off").models.generate_content_stream(model=FLASH, **ASK))
    async for _ in await under(client, "off", sink=sink).aio.models.generate_content_stream(
        model=FLASH, **ASK
    ):
        break
    for _ in range(20):
        await asyncio.sleep(0.01)
    assert await asyncio.to_thread(server.left_open) == []
    assert [row.stop.reason for row in sink.rows] == [StopReason.CALLER]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("endpoint", ["openai-compatible", "google"])
def test_a_budgeted_function_hands_its_decision_on(server: GeminiServer, wrapped: bool, endpoint: str):
    """Without a wrapped client inside, a function that is told the endpoint is given what it takes."""
    client, sink = client_of(server), Collect()
    if wrapped:
        client = under(client, "full")

    @budgetctl.budgeted("cap:15", model=FLASH, endpoint=endpoint, classifier=None, sinks=[sink])
    def ask(question: str, **llm: Any) -> Any:
        return client.models.generate_content(model=FLASH, contents=question, **llm)

    assert ask("What is it?").text == TEXT
    assert sent(server) == (15 if wrapped or endpoint == "google" else None, None)
    assert [row.usage.reasoning_tokens for row in sink.rows] == [
        15 if wrapped or endpoint == "google" else 20
    ]


def test_vertex_has_the_same_budgets(server: GeminiServer):
    client = under(client_of(server, vertexai=True), "cap:15")
    reply = client.models.generate_content(model=FLASH, **ASK)
    assert "publishers/google" in server.seen[0].path
    assert sent(server) == (15, None)
    assert budgetctl.outcome(reply).usage.reasoning_tokens == 15


def test_arguments_that_do_not_fit_are_refused_before_any_call(server: GeminiServer):
    with pytest.raises(budgetctl.ConfigError, match="allowed for this client: google"):
        under(client_of(server), "full", endpoint="vllm")
    with pytest.raises(budgetctl.ConfigError, match=r"takes a google.genai.Client, seen AsyncClient"):
        under(client_of(server).aio, "full")
    assert server.seen == []
