"""However a call ends, it is not counted as in flight any more: deadlines are planned with that number."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

import budgetctl
from budgetctl.integrations.openai import wrap

from .scripted import Scripted, serving

CALL: Any = {"model": "Qwen3-8B", "messages": [{"role": "user", "content": "What is it?"}]}


@pytest.fixture
def server() -> Iterator[Scripted]:
    with serving() as running:
        yield running


@pytest.fixture
def controller() -> budgetctl.Controller:
    return budgetctl.Controller("deadline:20", classifier=None)


@pytest.fixture
def client(server: Scripted, controller: budgetctl.Controller) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.url, api_key="x", max_retries=0) as sdk:
        yield wrap(sdk, controller=controller, endpoint="transformers-serve")


def flying(server: Scripted, controller: budgetctl.Controller) -> int:
    gc.collect()
    return controller.speeds.in_flight(f"{server.url}/")


def test_a_call_counts_from_its_start_to_its_end(
    server: Scripted, controller: budgetctl.Controller, client: OpenAI
):
    first = client.chat.completions.create(**CALL, stream=True)
    second = client.chat.completions.create(**CALL, stream=True)
    assert flying(server, controller) == 2
    for stream in (first, second):
        list(stream)
    assert flying(server, controller) == 0
    client.chat.completions.create(**CALL)
    assert flying(server, controller) == 0
    [kept] = controller.speeds.adherence()
    assert (kept.endpoint, kept.model) == (f"{server.url}/", CALL["model"])
    assert (kept.calls, kept.kept) == (3, 1.0)


@pytest.mark.parametrize("leave", ["close", "drop"])
def test_a_stream_that_is_left_counts_no_more(
    server: Scripted, controller: budgetctl.Controller, client: OpenAI, leave: str
):
    stream = client.chat.completions.create(**CALL, stream=True)
    next(iter(stream))
    if leave == "close":
        stream.close()
    del stream
    assert flying(server, controller) == 0
    assert controller.speeds.adherence() == [], "the caller left: no deadline was kept or missed"


def test_a_call_that_fails_counts_no_more(controller: budgetctl.Controller):
    with OpenAI(base_url="http://127.0.0.1:9/v1", api_key="x", max_retries=0) as sdk:
        gone = wrap(sdk, controller=controller, endpoint="transformers-serve")
        with pytest.raises(openai.APIConnectionError):
            gone.chat.completions.create(**CALL)
    gc.collect()
    assert controller.speeds.in_flight("http://127.0.0.1:9/v1/") == 0


async def test_a_cancelled_task_counts_no_more(server: Scripted, controller: budgetctl.Controller):
    server.delay_s, server.thought = 0.02, 500
    async with AsyncOpenAI(base_url=server.url, api_key="x") as sdk:
        client = wrap(sdk, controller=controller, endpoint="transformers-serve")
        task = asyncio.create_task(client.chat.completions.create(**CALL))
        while not server.seen:
            await asyncio.sleep(0.01)
        assert flying(server, controller) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        assert flying(server, controller) == 0


def test_a_budgeted_function_counts_no_more_whatever_is_kept_of_it():
    controller = budgetctl.Controller("full", classifier=None)

    @budgetctl.budgeted(controller=controller, endpoint="openai-compatible")
    def ask(question: str, **llm: Any) -> Any:
        with OpenAI(base_url="http://127.0.0.1:1/v1", api_key="x", max_retries=0) as sdk:
            messages: Any = [{"role": "user", "content": question}]
            return wrap(sdk, controller=controller).chat.completions.create(messages=messages, **llm)

    with pytest.raises(openai.APIConnectionError) as kept:
        ask("What is it?", model="Qwen3-8B")
    assert controller.speeds.in_flight("openai-compatible") == 0
    assert kept.value is not None
