"""How a thought is really ended: which way is taken where, what it costs, and what happens when it fails.

The order is: the server's own cap, its live end, then closing the stream and going on from the closed thought
(raw completion, continued chat turn), then asking again; where nothing can act, criteria only observe.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from openai import OpenAI

import budgetctl
from budgetctl.capabilities import Capability, Table
from budgetctl.engine.continuation import Begun
from budgetctl.engine.endings import ChatContinuation, Reask, endings
from budgetctl.integrations._alarm import hang_up
from budgetctl.integrations.openai import wrap
from budgetctl.types import StopReason

from .calling import MESSAGES, QWEN, WAYS, call, opened, through
from .scripted import ANSWER, Scripted, serving

TEXT = "".join(ANSWER)
CONTROL = "/chat/completions/control"
STREAMS = ("stream", "async stream")
LOOP = "auto"
"""A policy whose loop criterion fires; llama.cpp's own cap would end the thought before any of ours."""


@pytest.fixture
def server() -> Iterator[Scripted]:
    with serving(delay_s=0.001) as running:
        yield running


@pytest.fixture
def looping(server: Scripted) -> Scripted:
    server.scenario, server.thought, server.delay_s = "loop", 1500, 0.0005
    return server


def table(tmp_path: Path, row: str) -> dict[str, Any]:
    """Return settings with a capability row of the user's own."""
    path = tmp_path / "own.toml"
    path.write_text(f'[[row]]\nmodels = ["mine"]\nendpoints = ["openai-compatible"]\nsource = "me"\n{row}\n')
    return {"capabilities": Table.load(path)}


streamed = pytest.mark.parametrize("way", STREAMS)
every_way = pytest.mark.parametrize("way", WAYS)


# --- Live end (llama.cpp) ---


@streamed
async def test_the_server_ends_the_thought_and_the_same_stream_brings_the_answer(looping: Scripted, way: str):
    looping.control = "ends"
    got = await call(looping, way, LOOP, endpoint="llama.cpp")
    assert (got.content, got.finish) == (TEXT, ["stop"])
    assert looping.paths == ["/chat/completions", CONTROL]
    first, control = looping.seen
    assert first.body["reasoning_control"] is True
    assert control.body == {"id": "chatcmpl-1", "action": "reasoning_end"}
    assert not first.closed_by_client, "the running stream goes on"
    stop = got.outcome.stop
    assert (stop.reason, stop.criterion, stop.actuator) == (StopReason.LOOP, "loop", "live_end")
    assert (stop.extra_calls, stop.prefill_tokens, stop.degraded) == (1, 0, False)
    assert got.outcome.fallback is None
    assert "by live_end" in got.outcome.why


@every_way
async def test_a_live_end_keeps_a_cap_that_the_engine_has_not(server: Scripted, way: str, tmp_path: Path):
    server.control = "ends"
    own = table(tmp_path, "live_end = true")
    got = await call(server, way, endpoint="openai-compatible", model="mine", settings=own)
    assert got.content == TEXT
    assert 55 <= len(got.reasoning.split()) < server.thought
    assert (got.outcome.stop.reason, got.outcome.stop.actuator) == (StopReason.CAP, "live_end")


@pytest.mark.parametrize("control", [None, "is refused"])
@streamed
async def test_a_server_without_the_control_is_asked_once_and_warned_about_once(
    looping: Scripted, way: str, control: Any, caplog: pytest.LogCaptureFixture
):
    looping.control = control
    caplog.set_level(logging.WARNING, logger="budgetctl")
    async with opened(looping, way, LOOP, endpoint="llama.cpp") as client:
        first = await through(looping, client, way)
        second = await through(looping, client, way)
    status = 404 if control is None else 400
    assert first.content == second.content == TEXT
    assert "not ended live: " in str(first.outcome.fallback)
    assert f"(HTTP {status})" in str(first.outcome.fallback)
    assert [first.outcome.stop.actuator, second.outcome.stop.actuator] == ["raw_completions"] * 2
    assert (first.outcome.stop.extra_calls, first.outcome.stop.prefill_tokens) == (2, 60)
    assert looping.paths == [
        "/chat/completions",
        CONTROL,
        "/completions",
        "/chat/completions",
        "/completions",
    ]
    assert "reasoning_control" not in looping.seen[3].body
    assert [r.message for r in caplog.records] == [
        f"{QWEN} at {looping.url}/ does not keep: reasoning_control"
    ]


@streamed
async def test_a_live_end_that_is_only_promised_is_noticed_and_made_good(looping: Scripted, way: str):
    looping.control, looping.thought = "is ignored", 12_000
    got = await call(looping, way, LOOP, endpoint="llama.cpp")
    assert got.content == TEXT
    assert got.outcome.fallback == "the server said that it ended the thinking, and did not"
    assert got.outcome.stop.actuator == "raw_completions"
    assert looping.seen[0].closed_by_client, "it was given a second"
    strengths = {c.name: c.strength for c in got.outcome.controls}
    assert strengths["reasoning_control"] == "none"


@streamed
async def test_a_control_that_does_not_answer_does_not_hold_the_call_up(
    looping: Scripted, way: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("budgetctl.integrations._openai_io.CONTROL_TIMEOUT_S", 0.2)
    looping.control = "hangs"
    got = await call(looping, way, LOOP, endpoint="llama.cpp", retries=2)
    assert got.content == TEXT
    assert looping.paths.count(CONTROL) == 1, "it is not worth a second try"
    assert got.outcome.fallback == "not ended live: APITimeoutError"
    assert got.outcome.stop.actuator == "raw_completions"


async def test_a_server_that_does_not_know_the_parameter_gets_the_callers_own_call():
    with serving(thought=5, refuses=("reasoning_control",)) as server:
        got = await call(server, "stream", LOOP, endpoint="llama.cpp")
        assert (got.content, got.outcome.controls) == (TEXT, ())
        assert "reasoning_control" in str(got.outcome.fallback)
        assert "reasoning_control" not in server.seen[1].body


async def test_the_control_is_only_asked_for_where_somebody_watches(server: Scripted):
    server.thought = 5
    for way, policy, sent in [
        ("whole", "cap:50", False),
        ("stream", "cap:50+stop:none", False),
        ("stream", "cap:50", True),
        ("whole", "cap:50&deadline:20", True),
    ]:
        await call(server, way, policy, endpoint="llama.cpp")
        assert ("reasoning_control" in server.seen[-1].body) is sent, (way, policy)
    await call(server, "stream", endpoint="llama.cpp", tools=[{"type": "function"}])
    assert "reasoning_control" not in server.seen[-1].body


# --- A chat turn that goes on (vLLM, SGLang) ---


@every_way
async def test_without_raw_completions_the_assistants_turn_goes_on(server: Scripted, way: str):
    server.scenario = "no completions"
    got = await call(server, way, endpoint="sglang", temperature=0.3, max_tokens=900)
    assert (got.content, got.finish) == (TEXT, ["stop"])
    assert server.paths == ["/chat/completions", "/completions", "/chat/completions"]
    body = server.seen[-1].body
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    question, begun = body["messages"]
    assert (question, begun["role"]) == (MESSAGES[0], "assistant")
    assert begun["content"].startswith("<think>\nstep0 step1 ")
    assert begun["content"].endswith("step54 \n\nTime to answer based on the reasoning so far.\n</think>\n\n")
    assert (body["temperature"], body["max_tokens"]) == (0.3, 900 - 55)
    stop = got.outcome.stop
    assert (stop.actuator, stop.degraded, stop.extra_calls, stop.prefill_tokens) == ("chat", False, 2, 70)


@every_way
async def test_an_answer_that_the_server_counts_as_thinking_is_counted_as_an_answer(
    server: Scripted, way: str
):
    server.scenario = "no completions"
    got = await call(server, way, endpoint="sglang")
    assert got.outcome.usage.answer_tokens == len(server.answer)
    assert got.outcome.usage.reasoning_tokens == 55


async def test_what_was_refused_once_is_not_tried_again(server: Scripted):
    server.scenario = "no completions"
    async with opened(server, "stream", "cap:50", endpoint="sglang") as client:
        for calls in (3, 2):
            before = len(server.seen)
            got = await through(server, client, "stream")
            assert (got.content, len(server.seen) - before) == (TEXT, calls)


def test_pictures_go_on_as_a_chat_turn_where_no_prompt_can_be_rendered():
    row = Capability(
        models=("*",),
        endpoints=("vllm",),
        continuation=("raw_completions", "chat"),  # type: ignore[arg-type]  # as in the file
        prompt_format="chatml",
    )
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    assert [one.name for one in endings(row, picture)] == ["chat"]
    assert [one.name for one in endings(row, MESSAGES)] == ["raw_completions", "chat"]
    assert endings(row, None) == ()


def test_a_limit_is_lowered_where_the_caller_put_it():
    row = Capability(models=("*",), endpoints=("vllm",))
    own = {"model": "m", "max_completion_tokens": 100, "extra_body": {"top_k": 3, "max_tokens": 100}}
    begun = Begun(thoughts=["a"], close="</t>", used=60, reserve=10)
    sent = ChatContinuation(row, MESSAGES).request(own, begun)
    assert sent["max_completion_tokens"] == sent["extra_body"]["max_tokens"] == 40
    assert sent["extra_body"]["top_k"] == 3
    assert own["extra_body"] == {"top_k": 3, "max_tokens": 100}
    unlimited = ChatContinuation(row, MESSAGES).request({"model": "m"}, begun)
    assert set(unlimited) == {"model", "messages", "extra_body"}


# --- Asking again ---


@every_way
async def test_asking_again_quotes_the_thought_and_is_called_degraded(server: Scripted, way: str):
    server.scenario = "no completions"
    got = await call(server, way, endpoint="transformers-serve")
    assert got.content == TEXT
    body = server.seen[-1].body
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    [turn] = body["messages"]
    assert turn["content"].startswith("What is it?\n\nThis question has been thought about already")
    assert "step0 step1 " in turn["content"]
    stop = got.outcome.stop
    assert (stop.actuator, stop.degraded, stop.reason) == ("reask", True, StopReason.CAP)
    assert "asked again with thinking off and the thought quoted" in str(got.outcome.fallback)
    assert '"degraded":true' in got.outcome.model_dump_json()


async def test_a_policy_that_cuts_no_quality_does_not_ask_again(looping: Scripted, tmp_path: Path):
    row = 'continuation = "reask"\noff = { parameters = { enable_thinking = false }, strength = "hard" }'
    got = await call(
        looping, "stream", LOOP, endpoint="openai-compatible", model="mine", settings=table(tmp_path, row)
    )
    assert looping.paths == ["/chat/completions"]
    assert got.content == TEXT, "after the whole loop"
    assert got.outcome.stop.actuator is None
    assert {c.name: c.strength for c in got.outcome.controls} == {"stop": "none"}


def test_only_a_users_turn_can_quote_and_only_with_an_off_switch():
    row = Capability.model_validate(
        {
            "models": ["*"],
            "endpoints": ["vllm"],
            "continuation": "reask",
            "off": {"parameters": {"enable_thinking": False}, "strength": "hard"},
        }
    )
    assert [one.name for one in endings(row, MESSAGES, may_reask=True)] == ["reask"]
    assert endings(row, MESSAGES) == ()
    assert endings(row, [*MESSAGES, {"role": "assistant", "content": "x"}], may_reask=True) == ()
    assert endings(row.model_copy(update={"off": None}), MESSAGES, may_reask=True) == ()
    parts = [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}]
    sent = Reask(row, parts).request({"model": "m", "messages": parts}, Begun(thoughts=["so"], close="</t>"))
    assert [part["type"] for part in sent["messages"][0]["content"]] == ["text", "text"]
    assert len(parts[0]["content"]) == 1


# --- The order is data, and what nothing can end is only observed ---


@pytest.mark.parametrize("first", ["raw_completions", "chat"])
async def test_the_users_own_row_says_what_is_tried_first(server: Scripted, tmp_path: Path, first: str):
    other = {"raw_completions": "chat", "chat": "raw_completions"}[first]
    row = f'continuation = ["{first}", "{other}"]\nprompt_format = "chatml"'
    got = await call(
        server, "stream", endpoint="openai-compatible", model="mine", settings=table(tmp_path, row)
    )
    assert got.content == TEXT
    assert (got.outcome.stop.actuator, len(server.seen)) == (first, 2)


@every_way
async def test_where_nothing_can_end_a_thought_it_is_only_watched(server: Scripted, way: str, tmp_path: Path):
    server.thought = 100
    own = table(tmp_path, 'reasoning = "field"')
    got = await call(server, way, endpoint="openai-compatible", model="mine", settings=own)
    assert got.content == TEXT
    assert len(got.reasoning.split()) == 100
    assert server.paths == ["/chat/completions"]
    assert got.outcome.stop.reason is StopReason.NATURAL
    assert set(got.outcome.model_dump()["stop"]) == {"reason", "criterion", "probe_tokens"}


# --- Leaving in the middle closes everything ---


@pytest.mark.parametrize("when", ["in the thought", "in the answer"])
async def test_a_cancelled_task_closes_the_upstream(server: Scripted, when: str):
    server.delay_s, server.continuation = 0.005, [tuple(f"word{n} " for n in range(3000))]
    async with opened(server, "async stream", "cap:50", endpoint="transformers-serve") as client:
        await cancelled(client, when)
    assert server.left_open() == []
    assert server.seen[-1].closed_by_client


async def cancelled(client: Any, when: str) -> None:
    stream = await client.chat.completions.create(model=QWEN, messages=MESSAGES, stream=True)
    reached = asyncio.Event()

    async def consume() -> None:
        async for chunk in stream:
            if when == "in the thought" or chunk.choices[0].delta.content:
                reached.set()

    task = asyncio.create_task(consume())
    await asyncio.wait_for(reached.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert budgetctl.outcome(stream).stop.reason is StopReason.CALLER


@pytest.mark.parametrize(("version", "shut"), [("HTTP/1.1", True), ("HTTP/2", False)])
def test_a_connection_that_other_streams_share_is_not_hung_up(version: str, shut: bool):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        network = SimpleNamespace(get_extra_info={"socket": ours}.get)
        response = SimpleNamespace(http_version=version, extensions={"network_stream": network})
        assert hang_up(SimpleNamespace(response=response)) is shut
        theirs.setblocking(False)
        if shut:
            assert theirs.recv(1) == b"", "it has been told that there is no more"
        else:
            with pytest.raises(BlockingIOError):
                theirs.recv(1)


@pytest.mark.parametrize("way", ["stream", "whole"])
def test_a_stalled_stream_that_is_dropped_is_closed(server: Scripted, way: str):
    server.scenario = "stall"
    sdk = OpenAI(base_url=server.url, api_key="x", timeout=5, max_retries=0)
    with wrap(sdk, policy="deadline:0.4", endpoint="transformers-serve", classifier=None) as client:
        if way == "whole":
            client.chat.completions.create(model=QWEN, messages=MESSAGES)
        else:
            stream: Any = client.chat.completions.create(model=QWEN, messages=MESSAGES, stream=True)
            for _ in range(4):
                next(stream)
            del stream
    assert server.left_open() == []
    assert server.seen[0].closed_by_client
