"""The wrapped client against a real server: ``transformers serve`` with the pocket reasoner.

That an early stop saves anything is read from the server itself: its CPU time in the second after the close,
against a second of generating.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI

import budgetctl
from budgetctl.capabilities import Table
from budgetctl.cli import main
from budgetctl.integrations.openai import wrap
from budgetctl.types import StopReason

from .served import Served, serving

pytestmark = [
    pytest.mark.skipif(find_spec("torch") is None, reason="needs torch and transformers"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the server's activity from /proc"),
]
SENTENCE = 16
"""Tokens in a sentence of this model."""
IDLE = 0.25
"""Share of a generating server's CPU time below which it counts as idle."""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    from budgetctl.evals import pocket

    with serving(pocket.path(), home=tmp_path_factory.mktemp("home")) as running:
        yield running


@pytest.fixture(scope="session")
def endless(server: Served) -> dict[str, Any]:
    """Parameters under which the model neither closes its thinking nor ends its text by itself."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(server.model)
    banned = [tokenizer.convert_tokens_to_ids(t) for t in ("</think>", "<|im_end|>")]
    config = {"max_new_tokens": 1900, "do_sample": False, "suppress_tokens": banned}
    return {"generation_config": json.dumps(config)}


@pytest.fixture(scope="session")
def question() -> Any:
    from budgetctl.evals import pocket

    hard = max(pocket.questions("test", 40), key=lambda q: q.level)
    return [{"role": "user", "content": hard.text}]


@pytest.fixture
def client(server: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.url, api_key="x", max_retries=0, timeout=60) as sdk:
        yield wrap(sdk, policy="cap:12", endpoint="transformers-serve", classifier=None)


def reasoning(delta: Any) -> str:
    return getattr(delta, "reasoning_content", None) or ""


def test_a_capped_stream_shows_both_channels_and_ends_with_an_answer(
    client: OpenAI, server: Served, question: Any
):
    thought, answer, finish = "", "", None
    stream = client.chat.completions.create(model=server.model, messages=question, stream=True)
    for chunk in stream:
        [choice] = chunk.choices
        thought += reasoning(choice.delta)
        answer += choice.delta.content or ""
        finish = choice.finish_reason or finish
        usage = chunk.usage
    found = budgetctl.outcome(stream)
    assert thought.strip()
    assert answer.strip()
    assert "think>" not in answer
    assert finish == "stop"
    assert found.stop.reason == StopReason.CAP
    assert found.usage.reasoning_tokens is not None
    assert 12 <= found.usage.reasoning_tokens <= 13, "the cap and its grace"
    assert usage is not None
    assert usage.prompt_tokens > 0, "the lost prompt count is worked out from the continuation's"
    details = usage.completion_tokens_details
    assert details is not None
    assert details.reasoning_tokens == found.usage.reasoning_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_a_cap_is_kept_on_every_question_and_all_are_answered(server: Served, stream: bool):
    from budgetctl.evals import pocket
    from transformers import AutoTokenizer

    cap, spent = 24, []
    with OpenAI(base_url=server.url, api_key="x", max_retries=0, timeout=60) as sdk:
        client = wrap(
            sdk,
            policy=f"cap:{cap}",
            endpoint="transformers-serve",
            classifier=None,
            tokenizer=AutoTokenizer.from_pretrained(server.model),
        )
        for question in sorted(pocket.questions("test", 200), key=lambda q: -q.level)[:8]:
            reply: Any = client.chat.completions.create(
                model=server.model, messages=[{"role": "user", "content": question.text}], stream=stream
            )
            if stream:
                answer = "".join(c.choices[0].delta.content or "" for c in reply if c.choices)
            else:
                answer = reply.choices[0].message.content
            found = budgetctl.outcome(reply)
            assert answer.strip()
            assert found.answered
            assert found.usage.provenance == "counted"
            spent.append(found.reasoning_tokens or 0)
    print(f"\ncap {cap}, {'stream' if stream else 'whole'}: overshoot {[tokens - cap for tokens in spent]}")
    assert max(spent) <= 1.1 * cap + SENTENCE
    assert sum(tokens >= cap for tokens in spent) >= 4, "else there was nothing to cut"


def test_counts_with_the_models_own_tokenizer_are_exact(server: Served, question: Any):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(server.model)
    with OpenAI(base_url=server.url, api_key="x") as sdk:
        client = wrap(
            sdk, policy="cap:12", endpoint="transformers-serve", classifier=None, tokenizer=tokenizer
        )
        reply = client.chat.completions.create(model=server.model, messages=question)
    thought = reply.choices[0].message.reasoning_content  # type: ignore[attr-defined]
    found = budgetctl.outcome(reply)
    assert found.usage.provenance == "counted"
    assert found.usage.reasoning_tokens == len(tokenizer.encode(thought, add_special_tokens=False))


def test_the_continuation_is_the_servers_own_prompt(server: Served, question: Any):
    """What we render by hand is what the chat template renders, token by token."""
    from transformers import AutoTokenizer

    from budgetctl.engine import Continuation
    from budgetctl.engine.continuation import Begun

    capability = Table.load().lookup(server.model, "transformers-serve")
    messages = [{"role": "system", "content": "You are a helpful assistant."}, *question]
    tokenizer = AutoTokenizer.from_pretrained(server.model)
    theirs = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ours = Continuation(capability, messages).prompt(
        Begun(thoughts=["\nStep 1:"], close=capability.close_text)
    )
    assert ours == theirs + "<think>\nStep 1:" + capability.close_text


def test_off_leaves_no_thinking(client: OpenAI, server: Served, question: Any):
    off = client.with_policy("off")  # type: ignore[attr-defined]
    reply = off.chat.completions.create(model=server.model, messages=question)
    found = budgetctl.outcome(reply)
    assert found.stop.reason == StopReason.OFF
    assert found.usage.reasoning_tokens == 0
    assert reply.choices[0].message.content


def test_full_passes_through(client: OpenAI, server: Served, question: Any):
    with OpenAI(base_url=server.url, api_key="x") as plain:
        theirs = plain.chat.completions.create(model=server.model, messages=question)
    full = client.with_policy("full")  # type: ignore[attr-defined]
    ours = full.chat.completions.create(model=server.model, messages=question)
    assert ours.choices[0].message == theirs.choices[0].message
    assert ours.usage == theirs.usage


async def test_async_calls_stream_and_come_whole(server: Served, question: Any):
    async with AsyncOpenAI(base_url=server.url, api_key="x", timeout=60) as sdk:
        client = wrap(sdk, policy="cap:12", endpoint="transformers-serve", classifier=None)
        stream = await client.chat.completions.create(model=server.model, messages=question, stream=True)
        answer = "".join([c.choices[0].delta.content or "" async for c in stream])
        assert answer.strip()
        assert budgetctl.outcome(stream).stop.reason == StopReason.CAP
        reply = await client.chat.completions.create(model=server.model, messages=question)
        assert reply.choices[0].message.content == answer


def test_the_responses_api_is_observed(client: OpenAI, server: Served, question: Any):
    events = client.responses.create(model=server.model, input=question[0]["content"], stream=True)
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    found = budgetctl.outcome(events)
    assert text.strip()
    assert found.usage.reasoning_tokens, "counted here, the server reports none"
    assert {c.strength for c in found.controls} <= {"none"}


# --- An early stop ends the generation on the server ---


def generating(server: Served, stream: Any) -> float:
    """CPU seconds of one second of generating, seen from a stream that has begun."""
    for chunk in stream:
        if reasoning(chunk.choices[0].delta):
            break
    return server.busy_s()


def ends(server: Served, leave: Callable[[], tuple[float, float]]) -> bool:
    """Whether a generation ends with ``leave``: it returns CPU seconds of a second of it, and of one after.

    ``transformers serve`` itself overlooks about one closed connection in 25, the plain SDK's as well, and
    then generates to the end: hence three tries.
    """
    for _ in range(3):
        busy, after = leave()
        if after < IDLE * busy:
            return True
        while server.busy_s(0.5) > IDLE * 0.5 * busy:
            pass
    return False


def test_closing_a_stream_ends_the_generation(
    client: OpenAI, server: Served, question: Any, endless: dict[str, Any]
):
    watched = client.with_policy("full")  # type: ignore[attr-defined]

    def leave() -> tuple[float, float]:
        stream = watched.chat.completions.create(
            model=server.model, messages=question, stream=True, extra_body=endless
        )
        busy = generating(server, stream)
        stream.close()
        assert budgetctl.outcome(stream).stop.reason == StopReason.CALLER
        return busy, server.busy_s()

    assert ends(server, leave)


def test_a_cap_ends_the_generation(client: OpenAI, server: Served, question: Any, endless: dict[str, Any]):
    call = {"model": server.model, "messages": question, "extra_body": endless}
    watched = client.with_policy("full")  # type: ignore[attr-defined]

    def leave() -> tuple[float, float]:
        free = watched.chat.completions.create(**call, stream=True)
        busy = generating(server, free)
        free.close()
        capped = client.chat.completions.create(**call, stream=True, max_completion_tokens=40)
        finish = [c.choices[0].finish_reason for c in capped][-1]
        assert budgetctl.outcome(capped).stop.reason == StopReason.CAP
        assert finish == "length", "this model was kept from ending its answer"
        return busy, server.busy_s()

    assert ends(server, leave), "1,900 tokens were asked for; the server is idle after 40"


def test_cancelling_a_task_ends_the_generation(server: Served, question: Any, endless: dict[str, Any]):
    async def cancelled() -> tuple[float, float]:
        async with AsyncOpenAI(base_url=server.url, api_key="x", timeout=60) as sdk:
            client = wrap(sdk, policy="full", endpoint="transformers-serve", classifier=None)
            stream = await client.chat.completions.create(
                model=server.model, messages=question, stream=True, extra_body=endless
            )
            begun = asyncio.Event()

            async def consume() -> None:
                async for _ in stream:
                    begun.set()

            task = asyncio.create_task(consume())
            await begun.wait()
            busy = await asyncio.to_thread(server.busy_s)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # Still within the client: leaving it closes the connection, whatever the cancelled task did.
            return busy, await asyncio.to_thread(server.busy_s)

    assert ends(server, lambda: asyncio.run(cancelled()))


def test_the_doctor_finds_what_this_engine_keeps(
    server: Served, question: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """It refuses every cap, switches thinking off, and continues a closed thought."""
    argv = ["doctor", "--base-url", server.url, "--model", server.model, "--endpoint", "transformers-serve"]
    code = main([*argv, "--question", question[0]["content"], "--max-tokens", "600", "--json"])
    report = json.loads(capsys.readouterr().out)
    seen = {control["name"]: control["verified"] for control in report["controls"]}
    assert (code, report["broken"]) == (0, [])
    assert seen == {"off": True, "cap": False, "abort_continue": True, "close": None}
    assert all(t["observed"].startswith("refused: 422") for t in report["tried"] if t["name"] == "cap")
    assert (report["reasoning"]["seen"], report["stream_usage"]) == ("field", "always")
