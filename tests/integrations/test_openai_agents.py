"""The OpenAI Agents SDK over a wrapped client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("agents")

import agents
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner
from openai import AsyncOpenAI
from openai.types.shared import Reasoning
from pydantic import BaseModel, ValidationError

import budgetctl
from tests.engines.scripted import ANSWER, Scripted, serving
from tests.integrations.contract import TEXT, Collect, Contract

OPEN: list[AsyncOpenAI] = []


@pytest.fixture(autouse=True)
def _no_tracing() -> None:
    agents.set_tracing_disabled(True)


def client_of(server: Scripted) -> AsyncOpenAI:
    OPEN.append(AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=20))
    return OPEN[-1]


def under(server: Scripted, policy: Any = "cap:50", **settings: Any) -> AsyncOpenAI:
    options = {"endpoint": "vllm", "classifier": None, **settings}
    return budgetctl.wrap(client_of(server), policy=policy, **options)


def agent_of(client: AsyncOpenAI, own: dict[str, Any] | None = None, **options: Any) -> Agent[Any]:
    model = OpenAIChatCompletionsModel("Qwen3-8B", openai_client=client)
    return Agent("asked", model=model, model_settings=ModelSettings(**(own or {})), **options)


async def close() -> None:
    while OPEN:
        await OPEN.pop().close()


class TestContract(Contract):
    ways = ("async whole", "async stream")

    def made(self, server: Scripted, policy: Any, *, own: dict[str, Any], **settings: Any) -> Any:
        return agent_of(under(server, policy, **settings), own)

    def bare(self, server: Scripted) -> Any:
        return agent_of(client_of(server))

    async def ask(self, made: Any, way: str, question: str) -> Any:
        if way == "async whole":
            return (await Runner.run(made, question)).final_output
        return "".join([piece async for piece in self.stream(made, way, question)])

    async def stream(self, made: Any, way: str, question: str) -> AsyncIterator[str]:
        run = Runner.run_streamed(made, question)
        try:
            async for event in run.stream_events():
                if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                    yield event.data.delta
        finally:
            run.cancel()

    async def close(self) -> None:
        await close()


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    with serving() as running:
        yield running
        await close()


async def test_each_step_of_a_tool_loop_has_its_budget(server: Scripted):
    server.scenario, sink = "tools", Collect()

    @agents.function_tool
    def weather(city: str, note: str) -> str:
        """Tell the weather."""
        server.scenario = "normal"
        return f"sunny in {city}"

    agent = agent_of(under(server, sink=sink), tools=[weather])
    run = await Runner.run(agent, "How is the weather in Paris?")
    assert run.final_output == TEXT
    assert [one.body["thinking_token_budget"] for one in server.seen] == [50, 50]
    assert server.seen[-1].body["messages"][-1]["content"] == "sunny in Paris"
    assert len(sink.rows) == 2


class Place(BaseModel):
    city: str


async def test_structured_output_works(server: Scripted):
    server.answer = ('{"city": ', '"Paris"}')
    run = await Runner.run(agent_of(under(server), output_type=Place), "Which city?")
    assert run.final_output == Place(city="Paris")
    assert server.seen[-1].body["thinking_token_budget"] == 50


async def test_a_thought_is_ended_in_time_where_the_server_has_no_cap(server: Scripted):
    agent = agent_of(under(server, endpoint="transformers-serve"))
    assert (await Runner.run(agent, "What is it?")).final_output == "".join(ANSWER)
    assert server.paths == ["/chat/completions", "/completions"]


async def test_the_default_client_can_be_budgeted(server: Scripted):
    agents.set_default_openai_client(under(server), use_for_tracing=False)
    agents.set_default_openai_api("chat_completions")
    try:
        run = await Runner.run(Agent("asked", model="Qwen3-8B"), "What is it?")
    finally:
        agents.set_default_openai_api("responses")
    assert run.final_output == TEXT
    assert server.seen[-1].body["thinking_token_budget"] == 50


async def test_the_responses_api_gets_levels_and_pins_the_agents_own(server: Scripted):
    client = under(server, "effort:low", endpoint="openai")
    model = OpenAIResponsesModel("gpt-5-mini", openai_client=client)
    agent = Agent("asked", model=model)
    high = replace(agent, model_settings=ModelSettings(reasoning=Reasoning(effort="high")))
    for one in (agent, high):
        with pytest.raises(
            ValidationError
        ):  # the server answers in the chat dialect; it was asked all the same
            await Runner.run(one, "What is it?")
    assert [one.body["reasoning"]["effort"] for one in server.seen] == ["low", "high"]
