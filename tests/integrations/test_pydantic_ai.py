"""pydantic-ai: over a wrapped client, with the capability, and with a budgeted model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

pytest.importorskip("pydantic_ai")

from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, PromptedOutput
from pydantic_ai.direct import model_request
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessagesTypeAdapter, ModelRequest
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.google import GoogleModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.google import GoogleProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

import budgetctl
from budgetctl import ConfigError
from budgetctl.integrations.pydantic_ai import BudgetCapability, budgeted_model
from tests.contract import loopback
from tests.contract.loopback import Provider
from tests.engines.scripted import Scripted, serving
from tests.integrations.contract import TEXT, Collect, Contract, LevelInTheQuestion

OPEN: list[AsyncOpenAI] = []


def client_of(server: Scripted) -> AsyncOpenAI:
    OPEN.append(AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=20))
    return OPEN[-1]


def model_of(client: AsyncOpenAI, name: str = "Qwen3-8B") -> OpenAIChatModel:
    return OpenAIChatModel(name, provider=OpenAIProvider(openai_client=client))


async def close() -> None:
    while OPEN:
        await OPEN.pop().close()


class OverAClient(Contract):
    """What the agents of all contracts here share."""

    ways = ("async whole", "async stream")

    async def ask(self, made: Any, way: str, question: str) -> Any:
        if way == "async whole":
            return (await made.run(question)).output
        return "".join([piece async for piece in self.stream(made, way, question)])

    async def stream(self, made: Any, way: str, question: str) -> AsyncIterator[str]:
        async with made.run_stream(question) as run:
            async for piece in run.stream_text(delta=True, debounce_by=None):
                yield piece

    async def close(self) -> None:
        await close()


class TestOverTheWrappedClient(OverAClient):
    def made(self, server: Scripted, policy: Any, *, own: dict[str, Any], **settings: Any) -> Any:
        client = budgetctl.wrap(
            client_of(server), policy=policy, endpoint="vllm", classifier=None, **settings
        )
        return Agent(model_of(client), model_settings=ModelSettings(**own))

    def bare(self, server: Scripted) -> Any:
        return Agent(model_of(client_of(server)))


class TestTheCapability(OverAClient):
    def made(self, server: Scripted, policy: Any, *, own: dict[str, Any], **settings: Any) -> Any:
        budget = BudgetCapability(policy, endpoint="vllm", classifier=None, **settings)
        return Agent(model_of(client_of(server)), model_settings=ModelSettings(**own), capabilities=[budget])

    def bare(self, server: Scripted) -> Any:
        return Agent(model_of(client_of(server)))


class TestTheUnifiedSetting(OverAClient):
    """``thinking`` of the caller's, on a model that has levels."""

    policy = "effort:low"
    by_question = LevelInTheQuestion()
    budget = ("reasoning_effort", "low")
    pinned = {"thinking": "high"}, "high"
    ceiling = {"thinking": "high"}, "low"

    def made(self, server: Scripted, policy: Any, *, own: dict[str, Any], **settings: Any) -> Any:
        budget = BudgetCapability(policy, endpoint="openai", classifier=None, **settings)
        model = model_of(client_of(server), "gpt-5-mini")
        return Agent(model, model_settings=ModelSettings(**own), capabilities=[budget])

    def bare(self, server: Scripted) -> Any:
        return Agent(model_of(client_of(server), "gpt-5-mini"))


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    with serving() as running:
        yield running
        await close()


def both(server: Scripted, **settings: Any) -> list[Agent[Any, Any]]:
    """Return an agent over a wrapped client and one with the capability."""
    options = {"endpoint": "vllm", "classifier": None, **settings}
    over = budgetctl.wrap(client_of(server), policy="cap:50", **options)
    capability = BudgetCapability("cap:50", **options)
    return [Agent(model_of(over)), Agent(model_of(client_of(server)), capabilities=[capability])]


async def test_each_step_of_a_tool_loop_is_decided_and_recorded(server: Scripted):
    sink = Collect()
    for agent in both(server, sink=sink):

        @agent.tool_plain
        def weather(city: str, note: str) -> str:
            server.scenario = "normal"
            return f"sunny in {city}"

        server.scenario = "tools"
        run = await agent.run("How is the weather in Paris?")
        assert run.output == TEXT
    assert [one.body["thinking_token_budget"] for one in server.seen] == [50] * 4
    assert len({row.id for row in sink.rows}) == 4


class Place(BaseModel):
    city: str


@pytest.mark.parametrize("kind", [NativeOutput, PromptedOutput])
async def test_structured_output_works(server: Scripted, kind: Any):
    server.answer = ('{"city": ', '"Paris"}')
    for agent in both(server):
        assert (await agent.run("Which city?", output_type=kind(Place))).output == Place(city="Paris")
    assert [one.body["thinking_token_budget"] for one in server.seen] == [50, 50]


async def test_over_the_client_a_thought_is_ended_where_the_server_has_no_cap(server: Scripted):
    over, _ = both(server, endpoint="transformers-serve")
    assert (await over.run("What is it?")).output == TEXT
    assert server.paths == ["/chat/completions", "/completions"]


async def test_the_response_in_the_messages_carries_its_outcome_also_when_stored(server: Scripted):
    _, agent = both(server)
    whole = (await agent.run("What is it?")).all_messages()
    async with agent.run_stream("What is it?") as run:
        await run.get_output()
    for messages in (whole, run.all_messages()):
        stored = ModelMessagesTypeAdapter.dump_json(messages)
        for response in (messages[-1], ModelMessagesTypeAdapter.validate_json(stored)[-1]):
            outcome = budgetctl.outcome(response)
            assert outcome.decision.reasoning_tokens == 50
            assert outcome.timing.ttfo_s is not None


async def test_a_model_without_an_agent(server: Scripted):
    model = budgeted_model(model_of(client_of(server)), "cap:50", endpoint="vllm", classifier=None)
    response = await model_request(model, [ModelRequest.user_text_prompt("What is it?")])
    assert response.text == TEXT
    assert server.seen[-1].body["thinking_token_budget"] == 50
    again = budgeted_model(model, "cap:30", endpoint="vllm", classifier=None)
    await model_request(again, [ModelRequest.user_text_prompt("What is it?")])
    assert server.seen[-1].body["thinking_token_budget"] == 30


async def test_members_of_a_fallback_each_get_their_own(server: Scripted):
    server.refuses, server.thought = ("max_completion_tokens",), 20
    members = [
        budgeted_model(model_of(client_of(server), name), "cap:50", endpoint=kind, classifier=None)
        for name, kind in (("gpt-5-mini", "openai"), ("Qwen3-8B", "vllm"))
    ]
    agent = Agent(FallbackModel(*members, fallback_on=ModelHTTPError))
    server.failures = [(503, {})]
    assert (await agent.run("What is it?")).output == TEXT
    first, second = (one.body for one in server.seen)
    assert first["reasoning_effort"] == "minimal"
    assert second["thinking_token_budget"] == 50


async def test_to_a_wrapped_client_inside_the_capability_is_its_caller(server: Scripted):
    sink = Collect()
    client = budgetctl.wrap(client_of(server), policy="cap:10", endpoint="vllm", classifier=None, sink=sink)
    budget = BudgetCapability("cap:30", endpoint="vllm", classifier=None)
    await Agent(model_of(client), capabilities=[budget]).run("What is it?")
    assert server.seen[-1].body["thinking_token_budget"] == 30
    assert [row.pinned for row in sink.rows] == [("thinking_token_budget",)]


async def test_the_responses_api_gets_levels(server: Scripted):
    model = OpenAIResponsesModel("gpt-5-mini", provider=OpenAIProvider(openai_client=client_of(server)))
    agent = Agent(model, capabilities=[BudgetCapability("effort:low", endpoint="openai", classifier=None)])
    with pytest.raises(Exception):  # noqa: B017, PT011  # the server answers in the chat dialect
        await agent.run("What is it?")
    assert server.seen[-1].body["reasoning"]["effort"] == "low"


class Recorder(TestModel):
    """A model that keeps the settings it gets."""

    def __init__(self, system: str, name: str) -> None:
        super().__init__(
            custom_output_text="42", model_name=name, profile=ModelProfile(supports_thinking=True)
        )
        self._system = system
        self.got: list[Any] = []

    async def request(self, messages: Any, model_settings: Any, model_request_parameters: Any) -> Any:
        self.got.append(model_settings)
        return await super().request(messages, model_settings, model_request_parameters)


@pytest.mark.parametrize(
    ("system", "name", "policy", "sent"),
    [
        ("groq", "openai/gpt-oss-20b", "effort:low", {"thinking": "low"}),
        ("xai", "grok-4.3", "off", {"thinking": False}),
        ("groq", "openai/gpt-oss-20b", "cap:1000", {"thinking": "low"}),
        ("nobody", "knows", "cap:1000", None),
    ],
)
async def test_models_without_an_adapter_get_the_setting_that_all_have(
    system: str, name: str, policy: str, sent: Any
):
    model = Recorder(system, name)
    await Agent(model, capabilities=[BudgetCapability(policy, classifier=None)]).run("What is it?")
    assert [dict(got) if got else None for got in model.got] == [sent]


def test_bad_arguments_are_refused(server: Scripted):
    with pytest.raises(ConfigError, match="endpoint: seen 'tgi'"):
        BudgetCapability(endpoint="tgi")
    with pytest.raises(ConfigError, match="unknown part"):
        budgeted_model("test", "fast")


@pytest.fixture
def provider() -> Iterator[Provider]:
    with loopback.serving() as running:
        yield running


HIGH = {"type": "enabled", "budget_tokens": 8000}


@pytest.mark.parametrize(
    ("name", "own", "policy", "sent"),
    [
        ("claude-sonnet-4-5", {"anthropic_thinking": HIGH}, "cap:2000", {"thinking.budget_tokens": 2000}),
        ("claude-sonnet-4-5", {}, "cap:2000", {"thinking.type": None}),
        ("claude-opus-5", {}, "effort:low", {"output_config.effort": "low", "thinking.type": None}),
        ("claude-opus-5", {"thinking": "high"}, "effort:low", {"output_config.effort": "low"}),
        ("claude-opus-5", {"thinking": "low"}, "effort:high", {"output_config.effort": "low"}),
        ("claude-opus-5", {"thinking": False}, "effort:low", {"thinking.type": "disabled"}),
    ],
)
async def test_anthropic_gets_budgets_or_levels_and_none_that_switches_thinking_on(
    provider: Provider, name: str, own: Any, policy: str, sent: dict[str, Any]
):
    async with AsyncAnthropic(base_url=provider.url, api_key="x", max_retries=0) as client:
        model = AnthropicModel(name, provider=AnthropicProvider(anthropic_client=client))
        budget = BudgetCapability(policy, classifier=None, caller_values="ceiling")
        agent = Agent(model, model_settings={"max_tokens": 9000, **own}, capabilities=[budget])
        assert (await agent.run("What is it?")).output == "42"
    seen = loopback.flat(provider.bodies[-1])
    assert {path: seen.get(path) for path in sent} == sent


@pytest.mark.parametrize(
    ("name", "own", "policy", "sent"),
    [
        ("gemini-2.5-flash", {}, "cap:1000", {"thinking_budget": 1000}),
        ("gemini-2.5-flash", {}, "off", {"thinking_budget": 0}),
        (
            "gemini-2.5-flash",
            {"google_thinking_config": {"thinking_budget": 500}},
            "cap:1000",
            {"thinking_budget": 500},
        ),
        ("gemini-3-pro-preview", {}, "effort:low", {"thinking_level": "LOW"}),
        ("gemini-3-pro-preview", {"thinking": "high"}, "effort:low", {"thinking_level": "LOW"}),
    ],
)
async def test_google_gets_budgets_or_levels(
    provider: Provider, name: str, own: Any, policy: str, sent: dict[str, Any]
):
    model = GoogleModel(name, provider=GoogleProvider(api_key="x", base_url=provider.url))
    budget = BudgetCapability(policy, classifier=None, caller_values="ceiling")
    agent = Agent(model, model_settings=own, capabilities=[budget])
    async with agent:
        assert (await agent.run("What is it?")).output == "42"
    got = provider.bodies[-1]["generationConfig"]["thinkingConfig"]
    assert got == sent
