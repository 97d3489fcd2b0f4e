"""``BudgetCallbackHandler``: an account of every model call, and the end of streams that think too long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import pytest

pytest.importorskip("langchain")
pytest.importorskip("langchain_openai")

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

import budgetctl
from budgetctl import AnswerTruncated, ConfigError, budgeted
from budgetctl.controller import Controller
from budgetctl.integrations.langchain import BudgetCallbackHandler, budgeted_chat_model
from budgetctl.pricing import Prices
from budgetctl.records import read
from budgetctl.types import StopReason
from tests.engines.scripted import Scripted, serving

TIMEOUTS = count(20.0, 0.001)  # langchain-openai shares one HTTP client among models that have all in common
OPEN: list[ChatOpenAI] = []
WAYS = ("invoke", "stream", "ainvoke", "astream")


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    with serving(thought=100) as running:
        yield running
        await close()


def chat(server: Scripted, **options: Any) -> Any:
    own = {"model": "Qwen3-8B", "api_key": "none", "max_retries": 0, "timeout": next(TIMEOUTS)}
    OPEN.append(ChatOpenAI(base_url=server.url, **(own | options)))
    return OPEN[-1]


async def close() -> None:
    """Close the clients of all models; LangChain leaves them open."""
    while OPEN:
        model = OPEN.pop()
        model.root_client.close()
        await model.root_async_client.close()


async def call(model: Any, way: str, handler: BudgetCallbackHandler) -> Any:
    config = {"callbacks": [handler]}
    if way == "invoke":
        return model.invoke("What is it?", config)
    if way == "ainvoke":
        return await model.ainvoke("What is it?", config)
    if way == "stream":
        return list(model.stream("What is it?", config))
    return [chunk async for chunk in model.astream("What is it?", config)]


@pytest.mark.parametrize("way", WAYS)
async def test_every_run_leaves_an_outcome(server: Scripted, way: str, tmp_path: Any):
    path = tmp_path / "outcomes.jsonl"
    handler = BudgetCallbackHandler(sink=path, prices=Prices.load({"Qwen*": {"input": 1, "output": 2}}))
    await call(chat(server, stream_usage=True), way, handler)
    [outcome] = handler.outcomes
    assert [row.id for row in read(path)] == [outcome.id]
    assert (outcome.policy, outcome.model, outcome.answered) == ("full", "Qwen3-8B", True)
    assert outcome.stop.reason is StopReason.NATURAL
    assert outcome.prompt_tokens == 10
    assert outcome.ttfo_s is not None
    assert outcome.e2e_s is not None
    assert 0 < outcome.ttfo_s <= outcome.e2e_s


@pytest.mark.parametrize("way", ["stream", "astream"])
async def test_thoughts_whose_text_the_package_drops_are_counted_by_their_chunks(server: Scripted, way: str):
    server.delay_s = 0.002
    handler = BudgetCallbackHandler(prices=Prices.load({"Qwen*": {"input": 1, "output": 2}}))
    await call(chat(server, stream_usage=True), way, handler)
    [outcome] = handler.outcomes
    assert (outcome.reasoning_tokens, outcome.answer_tokens) == (100, 4)
    assert outcome.usage.provenance == "estimated"
    assert outcome.cost_usd == pytest.approx((10 * 1 + 104 * 2) / 1e6)
    assert outcome.ttfo_s is not None
    assert outcome.ttft_s is not None
    assert outcome.ttfo_s - outcome.ttft_s > 100 * server.delay_s * 0.9


async def test_the_message_of_a_run_finds_its_outcome(server: Scripted):
    handler = BudgetCallbackHandler()
    message = await call(chat(server), "invoke", handler)
    assert budgetctl.outcome(message) is handler.outcomes[-1]


def test_it_hears_the_models_in_a_chain(server: Scripted):
    handler = BudgetCallbackHandler()
    chain = ChatPromptTemplate.from_template("What is {it}?") | chat(server) | StrOutputParser()
    assert chain.invoke({"it": "a frog"}, config={"callbacks": [handler]}) == "The answer is 42."
    assert len(handler.outcomes) == 1


@pytest.mark.parametrize("way", WAYS)
async def test_a_budgeted_model_brings_its_own_outcome(server: Scripted, way: str, tmp_path: Any):
    path = tmp_path / "outcomes.jsonl"
    handler = BudgetCallbackHandler(sink=path)
    model = budgeted_chat_model(chat(server), "cap:50", endpoint="vllm", classifier=None)
    said = await call(model, way, handler)
    message = said if way.endswith("invoke") else sum(said[1:], said[0])
    assert list(handler.outcomes) == [budgetctl.outcome(message)]
    assert [row.policy for row in read(path)] == ["cap:50"]


def test_it_leaves_the_decision_of_a_function_around_to_the_model(server: Scripted):
    model = budgeted_chat_model(chat(server), "cap:50", endpoint="vllm", classifier=None)

    @budgeted("cap:30", model="Qwen3-8B", endpoint="vllm", classifier=None)
    def ask(question: str) -> Any:
        return model.invoke(question, {"callbacks": [BudgetCallbackHandler()]})

    ask("What is it?")
    assert server.seen[-1].body["thinking_token_budget"] == 30


def test_two_handlers_keep_an_account_each(server: Scripted):
    handlers = [BudgetCallbackHandler("full"), BudgetCallbackHandler("off")]
    chat(server).invoke("What is it?", {"callbacks": handlers})
    assert [handler.outcomes[-1].policy for handler in handlers] == ["full", "off"]


@pytest.mark.parametrize("way", ["stream", "astream"])
@pytest.mark.parametrize("scenario", ["normal", "inline"])
async def test_a_stream_over_its_budget_is_ended(server: Scripted, way: str, scenario: str):
    server.scenario, server.delay_s = scenario, 0.01
    handler = BudgetCallbackHandler("cap:20", end_over_budget=True)
    with pytest.raises(AnswerTruncated, match="its cap of 20 tokens") as raised:
        await call(chat(server), way, handler)
    assert ("step19" in raised.value.reasoning) == (scenario == "inline")
    assert await asyncio.to_thread(server.left_open) == []
    assert server.seen[-1].closed_by_client
    [outcome] = handler.outcomes
    assert outcome.stop.reason is StopReason.CAP
    assert not outcome.answered
    assert outcome.reasoning_tokens == pytest.approx(23, abs=3)


async def test_a_stream_within_its_budget_is_left_alone(server: Scripted):
    handler = BudgetCallbackHandler("cap:200", end_over_budget=True)
    chunks = await call(chat(server), "stream", handler)
    assert "".join(c.text for c in chunks) == "The answer is 42."


async def test_a_deadline_ends_thoughts_too(server: Scripted):
    server.delay_s = 0.02
    handler = BudgetCallbackHandler("deadline:0.5", end_over_budget=True)
    with pytest.raises(AnswerTruncated, match=r"deadline of 0\.5 s"):
        await call(chat(server), "stream", handler)
    assert handler.outcomes[-1].stop.reason is StopReason.DEADLINE


async def test_nothing_is_ended_that_was_not_asked_to(server: Scripted):
    chunks = await call(chat(server), "stream", BudgetCallbackHandler("cap:20"))
    assert "".join(c.text for c in chunks) == "The answer is 42."


async def test_a_failed_run_is_recorded_and_the_error_is_the_providers(server: Scripted):
    server.failures = [(503, {})]
    handler = BudgetCallbackHandler("cap:20", end_over_budget=True)
    with pytest.raises(Exception, match="not now") as raised:
        await call(chat(server), "invoke", handler)
    assert handler.outcomes[-1].stop.reason is StopReason.ERROR
    assert budgetctl.outcome(raised.value) is handler.outcomes[-1]


def test_a_stream_that_is_left_is_recorded_as_left(server: Scripted):
    server.delay_s = 0.01
    handler = BudgetCallbackHandler()
    stream = chat(server).stream("What is it?", {"callbacks": [handler]})
    next(stream)
    stream.close()
    assert [o.stop.reason for o in handler.outcomes] == [StopReason.CALLER]


class Broken:
    def write(self, outcome: Any, *, text: str | None = None) -> None:
        raise OSError("disk full")


@pytest.mark.parametrize("capped", [False, True])
async def test_a_fault_of_ours_never_fails_a_run(server: Scripted, capped: bool):
    handler = BudgetCallbackHandler("cap:200", sink=Broken(), end_over_budget=True)
    model = chat(server)
    if capped:
        model = budgeted_chat_model(model, "full")
    assert (await call(model, "invoke", handler)).text == "The answer is 42."


async def test_fifty_runs_at_once_are_fifty_outcomes(server: Scripted):
    server.socket.listen(50)  # all of them knock at the same time
    handler = BudgetCallbackHandler()
    await chat(server).abatch([f"Question {n}" for n in range(50)], {"callbacks": [handler]})
    assert len({outcome.query_hash for outcome in handler.outcomes}) == 50


@pytest.mark.parametrize(
    "wrong",
    [
        {"end_over_budget": True},
        {"endpoint": "nowhere"},
        {"policy": "cap:x"},
        {"controller": Controller("full"), "sink": Broken()},
    ],
)
def test_what_cannot_work_is_refused_at_once(wrong: dict[str, Any]):
    with pytest.raises(ConfigError):
        BudgetCallbackHandler(**wrong)
