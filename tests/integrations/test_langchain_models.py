"""``budgeted_chat_model``: a chat model of the same class, whose calls are budgeted."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain")
pytest.importorskip("langchain_openai")

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, messages_from_dict, messages_to_dict
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from openai import InternalServerError
from pydantic import BaseModel

import budgetctl
from budgetctl import Budget, Callbacks, ConfigError, budgeted
from budgetctl.integrations.langchain import BudgetMiddleware, budgeted_chat_model
from budgetctl.outcomes import Outcome
from budgetctl.types import StopReason
from tests.contract import loopback as provider
from tests.engines import served
from tests.engines.scripted import Scripted, serving

WAYS = ("invoke", "stream", "ainvoke", "astream", "batch", "abatch")
TIMEOUTS = count(20.0, 0.001)  # langchain-openai shares one HTTP client among models that have all in common
OPEN: list[Any] = []


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    with serving() as running:
        yield running
        await close()


def chat(server: Scripted, **options: Any) -> ChatOpenAI:
    own = {"model": "Qwen3-8B", "api_key": "none", "max_retries": 0, "timeout": next(TIMEOUTS)}
    OPEN.append(ChatOpenAI(base_url=server.url, **(own | options)))
    return OPEN[-1]


async def close() -> None:
    """Close the clients of all models; LangChain leaves them open."""
    while OPEN:
        model = OPEN.pop()
        model.root_client.close()
        await model.root_async_client.close()


def under(model: Any, policy: Any = "cap:50", **options: Any) -> Any:
    return budgeted_chat_model(model, policy, **({"endpoint": "vllm", "classifier": None} | options))


async def call(model: Any, way: str, asked: Any = "What is it?") -> Any:
    """Call a model in one of the ways in which callers do, and return the message."""
    if way == "invoke":
        return model.invoke(asked)
    if way == "ainvoke":
        return await model.ainvoke(asked)
    if way == "batch":
        return model.batch([asked])[0]
    if way == "abatch":
        return (await model.abatch([asked]))[0]
    chunks = [c async for c in model.astream(asked)] if way == "astream" else list(model.stream(asked))
    message = chunks[0]
    for chunk in chunks[1:]:
        message += chunk
    return message


class Collect:
    def __init__(self) -> None:
        self.rows: list[Outcome] = []

    def write(self, outcome: Outcome, *, text: str | None = None) -> None:
        self.rows.append(outcome)


class NumberInTheQuestion:
    """A policy of a user's own: the question says what it may cost."""

    needs_estimate = False

    def budget(self, situation: Any) -> Budget:
        return Budget(reasoning_tokens=int(situation.query.text.split()[-1]), stop="none")


def test_it_is_of_the_same_class_and_the_model_is_not_touched(server: Scripted):
    model = chat(server)
    clients = model.root_client, model.client
    capped = under(model)
    assert isinstance(capped, ChatOpenAI)
    model.invoke("What is it?")
    assert "thinking_token_budget" not in server.seen[-1].body
    assert (model.root_client, model.client) == clients
    assert type(model) is ChatOpenAI


@pytest.mark.parametrize("way", WAYS)
async def test_every_way_to_call_it_is_budgeted_and_the_message_tells(server: Scripted, way: str):
    message = await call(under(chat(server)), way)
    assert message.text == "The answer is 42."
    assert server.seen[-1].body["thinking_token_budget"] == 50
    outcome = budgetctl.outcome(message)
    assert outcome.reasoning_tokens is not None
    assert 40 <= outcome.reasoning_tokens <= 55
    assert outcome.stop.reason is StopReason.CAP
    assert "allowed 50 reasoning tokens" in outcome.why


def test_the_outcome_outlives_a_message_that_is_stored(server: Scripted):
    message = under(chat(server)).invoke("What is it?")
    [restored] = messages_from_dict(json.loads(json.dumps(messages_to_dict([message]))))
    assert budgetctl.outcome(restored) == budgetctl.outcome(message)


@pytest.mark.parametrize("way", WAYS)
async def test_thinking_is_ended_in_time_where_the_server_has_no_cap(server: Scripted, way: str):
    message = await call(under(chat(server), endpoint="transformers-serve"), way)
    assert message.text == "The answer is 42."
    assert server.paths == ["/chat/completions", "/completions"]
    assert budgetctl.outcome(message).stop.actuator == "raw_completions"


@pytest.mark.parametrize("way", WAYS)
async def test_an_answer_comes_back_where_the_cap_left_none(server: Scripted, way: str):
    server.scenario = "empty under a cap"
    message = await call(under(chat(server)), way)
    assert message.text == "The answer is 42."
    assert len(server.seen) > 1


def test_it_works_in_a_pipe(server: Scripted):
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "{question}")])
    chain = prompt | under(chat(server)) | StrOutputParser()
    assert chain.invoke({"question": "What is it?"}) == "The answer is 42."
    assert "".join(chain.stream({"question": "What is it?"})) == "The answer is 42."
    assert [one.body["thinking_token_budget"] for one in server.seen] == [50, 50]


@tool
def weather(city: str, note: str) -> str:
    """Tell the weather."""
    return f"sunny in {city}"


@pytest.mark.parametrize("way", WAYS)
async def test_tools_can_be_bound(server: Scripted, way: str):
    server.scenario = "tools"
    message = await call(under(chat(server)).bind_tools([weather]), way)
    assert [c["args"]["city"] for c in message.tool_calls] == ["Paris"]
    assert server.seen[-1].body["thinking_token_budget"] == 50


class Place(BaseModel):
    city: str


@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
async def test_structured_output_works(server: Scripted, method: Any):
    server.answer = ('{"city": ', '"Paris"}')
    structured = under(chat(server)).with_structured_output(Place, method=method)
    assert structured.invoke("Which city, in JSON?") == Place(city="Paris")
    assert await structured.ainvoke("Which city, in JSON?") == Place(city="Paris")
    assert [one.body["thinking_token_budget"] for one in server.seen] == [50, 50]


@pytest.mark.parametrize("where", ["model", "bound before", "bound after", "call"])
def test_what_the_caller_has_set_is_pinned(server: Scripted, where: str):
    own = {"extra_body": {"thinking_token_budget": 300}}
    model = under(chat(server, **(own if where == "model" else {})))
    if where == "bound before":
        model = under(chat(server).bind(**own))
    message = (model.bind(**own) if where == "bound after" else model).invoke(
        "What is it?", **(own if where == "call" else {})
    )
    assert server.seen[-1].body["thinking_token_budget"] == 300
    assert budgetctl.outcome(message).pinned == ("thinking_token_budget",)


@pytest.mark.parametrize(("own", "sent"), [("high", "low"), ("minimal", "minimal")])
def test_a_ceiling_is_only_gone_below(server: Scripted, own: str, sent: str):
    model = chat(server, model="gpt-5-mini", reasoning_effort=own)
    under(model, "effort:low", endpoint="openai", caller_values="ceiling").invoke("What is it?")
    assert server.seen[-1].body["reasoning_effort"] == sent


@pytest.mark.parametrize("way", WAYS)
async def test_observing_changes_nothing_and_records(server: Scripted, way: str):
    server.thought = 80
    sink = Collect()
    await call(chat(server), way)
    await call(under(chat(server), mode="observe", sink=sink), way)
    plain, observed = (one.body for one in server.seen)
    assert observed == plain
    assert [row.decision.reasoning_tokens for row in sink.rows] == [50]


@pytest.mark.parametrize("way", WAYS)
async def test_a_parameter_that_is_refused_is_left_out_once_and_for_all(server: Scripted, way: str):
    server.refuses = ("thinking_token_budget",)
    server.thought = 20
    model = under(chat(server))
    first = await call(model, way)
    assert first.text == "The answer is 42."
    assert "HTTP 400" in (budgetctl.outcome(first).fallback or "")
    assert len(server.seen) == 2
    await call(model, way)
    assert len(server.seen) == 3


async def test_chunks_are_passed_on_as_they_come(server: Scripted):
    server.delay_s, server.thought = 0.02, 100
    model = under(chat(server), "full")
    stream = model.stream("What is it?")
    next(stream)
    assert server.seen[-1].sent < 50
    stream.close()
    async_stream = model.astream("What is it?")
    await anext(async_stream)
    assert server.seen[-1].sent < 50
    await async_stream.aclose()


@pytest.mark.parametrize("policy", ["full", "cap:5000"])
def test_leaving_a_stream_ends_the_generation(server: Scripted, policy: str):
    server.delay_s = 0.01
    stream = under(chat(server), policy).stream("What is it?")
    next(stream)
    stream.close()
    assert server.left_open() == []
    assert server.seen[-1].closed_by_client


@pytest.mark.parametrize("way", ["ainvoke", "astream"])
async def test_a_cancelled_task_ends_the_generation(server: Scripted, way: str):
    # A server that says no more: langchain-openai waits for chunks with a time-out, and on Python 3.11 that
    # loses a cancellation in the moment in which a chunk comes.
    server.scenario, sink = "stall", Collect()
    model = under(chat(server), endpoint="transformers-serve", policy="cap:5000", sink=sink)
    task = asyncio.create_task(call(model, way))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(server.left_open) == []
    assert server.seen[-1].closed_by_client
    assert [row.stop.reason for row in sink.rows] == [StopReason.CALLER]


@pytest.mark.parametrize("way", ["batch", "abatch", "astream"])
async def test_fifty_calls_at_once_do_not_mix_their_budgets(server: Scripted, way: str):
    server.socket.listen(50)  # all of them knock at the same time
    model = under(chat(server), NumberInTheQuestion())
    asked = [f"For at most {n}" for n in range(1, 51)]
    if way == "batch":
        messages = model.batch(asked, config={"max_concurrency": 50})
    elif way == "abatch":
        messages = await model.abatch(asked)
    else:
        messages = await asyncio.gather(*(call(model, way, one) for one in asked))
    for one in server.seen:
        assert one.body["messages"][-1]["content"] == f"For at most {one.body['thinking_token_budget']}"
    assert [budgetctl.outcome(m).decision.reasoning_tokens for m in messages] == [*range(1, 51)]


def test_budgeting_a_budgeted_model_replaces_its_budget(server: Scripted):
    sinks = Collect(), Collect()
    once = under(chat(server), "cap:10", sink=sinks[0])
    message = under(once, "cap:30", sink=sinks[1]).invoke("What is it?")
    assert server.seen[-1].body["thinking_token_budget"] == 30
    assert [len(sink.rows) for sink in sinks] == [0, 1]
    assert budgetctl.outcome(message).policy == "cap:30"


def test_a_decorated_function_around_it_decides(server: Scripted):
    inside, around = Collect(), Collect()
    model = under(chat(server), "cap:10", sink=inside)

    @budgeted("cap:30", model="Qwen3-8B", endpoint="vllm", sinks=[around], classifier=None)
    def ask(question: str) -> Any:
        return model.invoke(question)

    ask("What is it?")
    assert server.seen[-1].body["thinking_token_budget"] == 30
    assert [row.id for row in inside.rows] == [row.id for row in around.rows]


def test_its_relatives_for_other_clouds_are_watched_too(server: Scripted):
    host = server.url.removesuffix("/v1")
    azure = AzureChatOpenAI(
        azure_endpoint=host, azure_deployment="mine", api_version="1", api_key="none", model="gpt-5-mini"
    )
    OPEN.append(azure)
    message = under(azure, "effort:low", endpoint="openai").invoke("What is it?")
    assert server.seen[-1].body["reasoning_effort"] == "low"
    assert budgetctl.outcome(message).decision.effort == "low"


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
def test_streams_of_events_bring_the_outcome_too(server: Scripted):
    stream = under(chat(server)).stream_events("What is it?", version="v3")
    assert "".join(stream.text) == "The answer is 42."
    assert server.seen[-1].body["thinking_token_budget"] == 50
    assert budgetctl.outcome(stream.output).stop.reason is StopReason.CAP


@pytest.mark.parametrize("way", WAYS)
async def test_headers_that_are_wanted_come_and_the_budget_is_still_sent(server: Scripted, way: str):
    message = await call(under(chat(server, include_response_headers=True)), way)
    assert "content-type" in message.response_metadata["headers"]
    assert server.seen[-1].body["thinking_token_budget"] == 50


@pytest.mark.parametrize("decorated", [False, True])
@pytest.mark.parametrize("plain", [False, True])
def test_callbacks_hear_of_each_call_once(server: Scripted, decorated: bool, plain: bool):
    heard: list[Any] = []
    callbacks = Callbacks(on_decision=heard.append, on_outcome=heard.append)
    model = under(PlainChat(url=server.url) if plain else chat(server), callbacks=callbacks)

    def ask(question: str) -> Any:
        return model.invoke(question)

    if decorated:
        ask = budgeted("cap:30", model="Qwen3-8B", endpoint="vllm", classifier=None)(ask)
    ask("What is it?")
    assert callbacks.flush()
    assert [type(one).__name__ for one in heard] == ["Decision", "Outcome"]


def test_an_override_holds_inside_its_block(server: Scripted):
    with budgetctl.override("cap:7"):
        under(chat(server)).invoke("What is it?")
    assert server.seen[-1].body["thinking_token_budget"] == 7


def test_an_error_of_the_provider_stays_its_own_and_carries_the_outcome(server: Scripted):
    server.failures = [(503, {})]
    with pytest.raises(InternalServerError, match="not now") as raised:
        under(chat(server)).invoke("What is it?")
    assert budgetctl.outcome(raised.value).stop.reason is StopReason.ERROR


def test_what_is_no_chat_model_is_refused(server: Scripted):
    with pytest.raises(ConfigError, match="budget the chat model first"):
        budgeted_chat_model(StrOutputParser(), "cap:50")
    with pytest.raises(ConfigError, match="endpoint"):
        budgeted_chat_model(chat(server), "cap:50", endpoint="nowhere")


class Refusal(Exception):
    def __init__(self, status_code: int) -> None:
        super().__init__(f"HTTP {status_code}")
        self.status_code = status_code


class PlainChat(BaseChatModel):
    """A chat model of another package, which knows nothing of the OpenAI SDK."""

    url: str
    model_name: str = "Qwen3-8B"
    thought: int | None = None

    @property
    def _llm_type(self) -> str:
        return "plain"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        body = {} if self.thought is None else {"extra_body": {"thinking_token_budget": self.thought}}
        return {"model": self.model_name, **body}

    def _post(self, messages: Any, stream: bool, **kwargs: Any) -> Any:
        said = [{"role": "user", "content": m.text} for m in messages]
        own = self._identifying_params.get("extra_body", {})
        extra = own | kwargs.pop("extra_body", {})
        body = {"model": self.model_name, "messages": said, "stream": stream, **kwargs, **extra}
        request = urllib.request.Request(f"{self.url}/chat/completions", data=json.dumps(body).encode())
        request.add_header("content-type", "application/json")
        try:
            return urllib.request.urlopen(request, timeout=20)
        except urllib.error.HTTPError as error:
            with error:
                raise Refusal(error.code) from None

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        with self._post(messages, stream=False, **kwargs) as response:
            [choice] = json.load(response)["choices"]
        said = choice["message"]
        message = AIMessage(
            content=said["content"], additional_kwargs={"reasoning_content": said["reasoning_content"]}
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        with self._post(messages, stream=True, **kwargs) as response:
            for line in response:
                if line.startswith(b"data: {"):
                    [choice] = json.loads(line[6:])["choices"]
                    said = choice["delta"]
                    thought = {k: v for k, v in said.items() if k == "reasoning_content"}
                    chunk = AIMessageChunk(content=said.get("content") or "", additional_kwargs=thought)
                    yield ChatGenerationChunk(message=chunk)


@pytest.mark.parametrize("way", WAYS)
async def test_a_model_of_another_package_gets_the_parameters_and_is_recorded(server: Scripted, way: str):
    message = await call(under(PlainChat(url=server.url)), way)
    assert message.text == "The answer is 42."
    assert [one.body["thinking_token_budget"] for one in server.seen] == [50]
    outcome = budgetctl.outcome(message)
    assert 40 <= (outcome.reasoning_tokens or 0) <= 100  # estimated from the text
    assert outcome.budget_state.applied == 50


@pytest.mark.parametrize("way", WAYS)
async def test_it_too_is_asked_again_where_the_parameter_is_refused(server: Scripted, way: str):
    server.refuses = ("thinking_token_budget",)
    model = under(PlainChat(url=server.url))
    message = await call(model, way)
    assert message.text == "The answer is 42."
    assert "HTTP 400" in (budgetctl.outcome(message).fallback or "")
    await call(model, way)
    assert ["thinking_token_budget" in one.body for one in server.seen] == [True, False, False]


def test_a_call_that_is_refused_anyway_tells_nothing_about_the_parameter(server: Scripted):
    model = under(PlainChat(url=server.url))
    server.failures = [(400, {}), (400, {})]
    with pytest.raises(Refusal, match="400"):
        model.invoke("What is it?")
    model.invoke("What is it?")
    assert ["thinking_token_budget" in one.body for one in server.seen] == [True, False, True]


def test_its_own_values_are_pinned_too(server: Scripted):
    message = under(PlainChat(url=server.url, thought=300)).invoke("What is it?")
    assert server.seen[-1].body["thinking_token_budget"] == 300
    assert budgetctl.outcome(message).pinned == ("thinking_token_budget",)


def test_a_model_that_the_table_does_not_know_keeps_its_parameters(server: Scripted):
    message = under(PlainChat(url=server.url, model_name="mystery"), endpoint=None).invoke("What is it?")
    assert "thinking_token_budget" not in server.seen[-1].body
    assert budgetctl.outcome(message).budget_state.strength == "none"


def test_an_agent_limits_it_as_well(server: Scripted):
    budget = BudgetMiddleware("full", tokens_per_turn=70, endpoint="vllm", classifier=None)
    agent = create_agent(PlainChat(url=server.url), middleware=[budget])
    result = agent.invoke({"messages": [{"role": "user", "content": "What is it?"}]})
    assert server.seen[-1].body["thinking_token_budget"] == 70
    assert budgetctl.outcome(result["messages"][-1]).policy == "full&turn:70"


class Selves(PlainChat):
    """Makes a call that does not stream out of one that does, as many packages do."""

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_a_call_that_a_model_makes_of_another_of_its_own_is_one_call(server: Scripted, way: str):
    sink = Collect()
    message = await call(under(Selves(url=server.url), sink=sink), way)
    assert [row.id for row in sink.rows] == [budgetctl.outcome(message).id]


class Picky(PlainChat):
    """Takes no arguments that it does not know."""

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None) -> ChatResult:  # type: ignore[override]
        return super()._generate(messages, stop, run_manager)


def test_a_model_that_takes_no_such_argument_is_called_without(server: Scripted):
    message = under(Picky(url=server.url)).invoke("What is it?")
    assert message.text == "The answer is 42."
    assert "TypeError" in (budgetctl.outcome(message).fallback or "")


@pytest.mark.skipif(find_spec("torch") is None, reason="needs torch and transformers")
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="starts a server as other tests do, on Linux"
)
async def test_a_model_that_really_thinks_is_ended_and_answers(tmp_path: Path):
    from budgetctl.evals import pocket

    hard = max(pocket.questions("test", 40), key=lambda q: q.level)
    with served.serving(pocket.path(), home=tmp_path) as engine:
        model = ChatOpenAI(model=engine.model, base_url=engine.url, api_key="none", timeout=60)
        OPEN.append(model)
        capped = under(model, "cap:12", endpoint="transformers-serve")
        for way in ("invoke", "stream", "ainvoke", "astream"):
            message = await call(capped, way, hard.text)
            assert message.text.strip()
            assert budgetctl.outcome(message).stop.actuator == "raw_completions"
        await close()


def test_importing_budgetctl_does_not_load_langchain():
    code = "import sys, budgetctl; print([m for m in sys.modules if m.startswith('lang')])"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "[]"


def test_without_the_extra_the_error_says_what_to_install():
    code = "import sys; sys.modules['langchain'] = None; import budgetctl.integrations.langchain"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'reasoning-budgetctl[langchain]'" in seen.stderr.splitlines()[-1]


class Alternating:
    """A policy that asks for another level at every call."""

    needs_estimate = False

    def __init__(self) -> None:
        self.asked = 0

    def budget(self, situation: Any) -> Budget:
        self.asked += 1
        return Budget(effort=("low", "high")[self.asked % 2])

    def __str__(self) -> str:
        return "alternating"


async def test_a_conversation_keeps_its_level_where_another_costs_the_cache():
    with provider.serving() as openai:
        own: dict[str, Any] = {"model": "gpt-5-mini", "api_key": "x", "base_url": f"{openai.url}/v1"}
        plain = ChatOpenAI(**own, timeout=next(TIMEOUTS))
        model = under(plain, Alternating(), endpoint="openai")
        OPEN.append(plain)
        first = model.invoke("Why?")
        model.invoke([("user", "Why?"), first, ("user", "And why that?")])
        model.invoke("Who?")
        assert [body["reasoning_effort"] for body in openai.bodies] == ["high", "high", "low"]
        await close()


async def test_a_conversation_that_the_provider_keeps_goes_on_by_the_id_of_its_last_response():
    with provider.serving() as openai:
        own: dict[str, Any] = {"model": "gpt-5-mini", "api_key": "x", "base_url": f"{openai.url}/v1"}
        plain = ChatOpenAI(**own, use_responses_api=True, timeout=next(TIMEOUTS))
        model = under(plain, Alternating(), endpoint="openai")
        OPEN.append(plain)
        last = model.invoke("Why?").response_metadata["id"]
        model.invoke("And why that?", previous_response_id=last)
        model.invoke("Who?")
        assert [body["reasoning"]["effort"] for body in openai.bodies] == ["high", "high", "low"]
        await close()
