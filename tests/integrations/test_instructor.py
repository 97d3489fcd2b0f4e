"""instructor over a wrapped client: structured answers under a budget, and what its retries are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("instructor")

import instructor
from instructor.core.exceptions import InstructorRetryException
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, ConfigDict, Field, field_validator

import budgetctl
from tests.engines.scripted import Scripted, serving
from tests.integrations.contract import Collect, Contract

MESSAGES = [{"role": "user", "content": "Which city, in JSON?"}]
OPEN: list[Any] = []


class Note(BaseModel):
    text: str


class Weather(BaseModel):
    model_config = ConfigDict(title="weather")

    city: str
    note: str


def client_of(server: Scripted, *, asynchronous: bool = False) -> Any:
    kind = AsyncOpenAI if asynchronous else OpenAI
    OPEN.append(kind(base_url=server.url, api_key="none", max_retries=0, timeout=20))
    return OPEN[-1]


def under(client: Any, policy: Any = "cap:50", **settings: Any) -> Any:
    return budgetctl.wrap(client, policy=policy, endpoint="vllm", classifier=None, **settings)


async def close() -> None:
    while OPEN:
        closing = OPEN.pop().close()
        if closing is not None:
            await closing


class TestContract(Contract):
    ways = ("whole", "async whole", "async stream")  # blocking streams are read to their end by instructor
    pieces = ('{"text": ', '"It is ', '42."}')
    long = ('{"text": "', *("4",) * 400, '"}')
    answer = Note(text="It is 42.")

    def made(self, server: Scripted, policy: Any, *, own: dict[str, Any], **settings: Any) -> Any:
        clients = {
            way: instructor.from_openai(
                under(client_of(server, asynchronous=way == "async"), policy, **settings),
                mode=instructor.Mode.JSON,
            )
            for way in ("sync", "async")
        }
        return clients, own

    def bare(self, server: Scripted) -> Any:
        clients = {
            way: instructor.from_openai(
                client_of(server, asynchronous=way == "async"), mode=instructor.Mode.JSON
            )
            for way in ("sync", "async")
        }
        return clients, {}

    async def ask(self, made: Any, way: str, question: str) -> Any:
        if way.endswith("stream"):
            notes = [note async for note in self.stream(made, way, question)]
            return Note(text=notes[-1].text)
        clients, own = made
        asked = {"response_model": Note, **self._asked(question, own)}
        if way == "async whole":
            note = await clients["async"].create(**asked)
        else:
            note = clients["sync"].create(**asked)
        return Note(text=note.text)  # without the raw response, which instructor keeps in it

    def stream(self, made: Any, way: str, question: str) -> AsyncIterator[Any]:
        clients, own = made
        return clients["async"].create_partial(response_model=Note, **self._asked(question, own))

    async def close(self) -> None:
        await close()

    def _asked(self, question: str, own: dict[str, Any]) -> dict[str, Any]:
        return {"model": "Qwen3-8B", "messages": [{"role": "user", "content": question}], **own}


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    with serving() as running:
        running.answer = ('{"text": ', '"It is ', '42."}')
        yield running
        await close()


@pytest.mark.parametrize("mode", ["TOOLS", "JSON", "JSON_SCHEMA", "MD_JSON"])
@pytest.mark.parametrize("endpoint", ["vllm", "transformers-serve"])
def test_no_mode_is_harmed(server: Scripted, mode: str, endpoint: str):
    if mode == "TOOLS":
        server.scenario = "tools"
    else:
        server.answer = ('{"city": ', '"Paris", ', '"note": ""}')
        server.continuation = [server.answer]
    client = budgetctl.wrap(client_of(server), policy="cap:50", endpoint=endpoint, classifier=None)
    asked = instructor.from_openai(client, mode=instructor.Mode[mode])
    weather = asked.create(model="Qwen3-8B", messages=MESSAGES, response_model=Weather)
    assert weather.city == "Paris"
    if endpoint == "vllm":
        assert server.seen[-1].body["thinking_token_budget"] == 50


def test_the_outcome_is_that_of_the_raw_response(server: Scripted):
    asked = instructor.from_openai(under(client_of(server)), mode=instructor.Mode.JSON)
    note, completion = asked.create_with_completion(model="Qwen3-8B", messages=MESSAGES, response_model=Note)
    assert note.text == "It is 42."
    assert budgetctl.outcome(completion).decision.reasoning_tokens == 50


class Even(BaseModel):
    number: int = Field(description="an even number")

    @field_validator("number")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("not even")
        return value


def test_each_retry_is_a_call_with_a_decision_of_its_own(server: Scripted):
    server.answer = ('{"number": ', "7}")
    sink = Collect()
    asked = instructor.from_openai(under(client_of(server), sink=sink), mode=instructor.Mode.JSON)
    with pytest.raises(InstructorRetryException):
        asked.create(model="Qwen3-8B", messages=MESSAGES, response_model=Even, max_retries=2)
    assert [one.body["thinking_token_budget"] for one in server.seen] == [50, 50, 50]
    assert len({row.id for row in sink.rows}) == 3
    assert len(server.seen[-1].body["messages"]) > len(server.seen[0].body["messages"])
