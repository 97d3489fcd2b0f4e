"""The wrapped client against a server that thinks by script and misbehaves on demand."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import openai
import pydantic
import pytest
from openai import AsyncOpenAI, AsyncStream, OpenAI, Stream

import budgetctl
from budgetctl.errors import AnswerTruncated, ConfigError
from budgetctl.integrations.openai import wrap
from budgetctl.types import StopReason

from .scripted import ANSWER, Scripted, Seen, serving

MESSAGES: Any = [{"role": "user", "content": "What is it?"}]
QWEN, UNKNOWN = "Qwen3-8B", "some-model"
TEXT = "".join(ANSWER)


@dataclass
class Shown:
    """What a consumer saw of a stream."""

    reasoning: str = ""
    content: str = ""
    finish: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    usage: list[Any] = field(default_factory=list)

    def add(self, chunk: Any) -> None:
        self.ids.add(chunk.id)
        if chunk.usage is not None:
            self.usage.append(chunk.usage)
        for choice in chunk.choices:
            self.content += choice.delta.content or ""
            self.reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            self.finish += [choice.finish_reason] if choice.finish_reason else []


def shown(stream: Any) -> Shown:
    seen = Shown()
    for chunk in stream:
        seen.add(chunk)
    return seen


@pytest.fixture
def server() -> Iterator[Scripted]:
    with serving() as running:
        yield running


Make = Callable[..., OpenAI]


@pytest.fixture
def make(server: Scripted) -> Iterator[Make]:
    opened: list[OpenAI] = []

    def client(policy: str = "cap:50", *, endpoint: str = "transformers-serve", **settings: Any) -> OpenAI:
        sdk = OpenAI(base_url=server.url, api_key="x", max_retries=0)
        opened.append(sdk)
        return wrap(sdk, policy=policy, endpoint=endpoint, classifier=None, **settings)

    yield client
    for one in opened:
        one.close()


def ended(seen: Seen) -> Seen:
    assert seen.done.wait(10), "the server is still writing"
    return seen


# --- A cap that the server does not know: close and continue ---


def test_a_capped_stream_shows_the_thought_up_to_the_cap_and_then_the_answer(server: Scripted, make: Make):
    server.delay_s = 0.001
    stream = make().chat.completions.create(model=QWEN, messages=MESSAGES, stream=True)
    assert isinstance(stream, Stream)
    seen = shown(stream)
    assert seen.content == TEXT
    assert seen.reasoning.split() == [f"step{n}" for n in range(55)], "the cap and its grace"
    assert seen.finish == ["stop"]
    assert seen.ids == {"chatcmpl-1"}, "the answer carries the id of the stream that it belongs to"
    first, second = server.seen
    assert ended(first).closed_by_client
    assert first.sent < server.thought
    assert second.path == "/completions"
    assert second.body["prompt"].endswith(
        "step54 \n\nTime to answer based on the reasoning so far.\n</think>\n\n"
    )
    assert second.body["prompt"].startswith(
        "<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\n<think>"
    )
    found = budgetctl.outcome(stream)
    assert (found.stop.reason, found.stop.criterion) == (StopReason.CAP, "reasoning_cap")
    assert (found.usage.reasoning_tokens, found.usage.answer_tokens) == (55, 4)
    assert found.usage.provenance == "estimated"
    assert found.answered


def test_a_whole_call_is_capped_too_and_comes_back_whole(server: Scripted, make: Make):
    reply = make().chat.completions.create(model=QWEN, messages=MESSAGES, temperature=0.3)
    assert isinstance(reply, openai.types.chat.ChatCompletion)
    message = reply.choices[0].message
    assert message.content == TEXT
    assert len(message.reasoning_content.split()) == 55  # type: ignore[attr-defined]
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 59
    assert server.seen[1].body["temperature"] == 0.3, "sampling goes with the continuation"
    assert budgetctl.outcome(reply).stop.reason == StopReason.CAP


async def test_an_async_client_does_the_same(server: Scripted):
    async with AsyncOpenAI(base_url=server.url, api_key="x") as sdk:
        client = wrap(sdk, policy="cap:50", endpoint="transformers-serve", classifier=None)
        stream = await client.chat.completions.create(model=QWEN, messages=MESSAGES, stream=True)
        assert isinstance(stream, AsyncStream)
        seen = Shown()
        async for chunk in stream:
            seen.add(chunk)
        assert seen.content == TEXT
        assert budgetctl.outcome(stream).stop.reason == StopReason.CAP
        reply = await client.chat.completions.create(model=QWEN, messages=MESSAGES)
        assert reply.choices[0].message.content == TEXT
        assert budgetctl.outcome(reply).stop.reason == StopReason.CAP


def test_a_thought_below_the_cap_passes_untouched(server: Scripted, make: Make):
    server.thought = 10
    stream = make().chat.completions.create(model=QWEN, messages=MESSAGES, stream=True)
    chunks = list(stream)
    assert len(chunks) == 1 + 10 + 4 + 1
    assert len(server.seen) == 1
    found = budgetctl.outcome(stream)
    assert found.stop.reason == StopReason.NATURAL
    assert found.usage.reasoning_tokens == 10
    assert found.timing.ttfo_s >= found.timing.ttft_s  # type: ignore[operator]


def test_inline_tags_stay_balanced_when_the_thought_is_cut(server: Scripted, make: Make):
    server.scenario = "inline"
    seen = shown(make().chat.completions.create(model=QWEN, messages=MESSAGES, stream=True))
    assert seen.content.count("<think>") == seen.content.count("</think>") == 1
    assert seen.content.endswith("</think>\n\n" + TEXT)


def test_a_missing_opening_tag_is_understood_afterwards(server: Scripted, make: Make):
    server.scenario, server.thought = "missing open tag", 20
    stream = make("full").chat.completions.create(model=QWEN, messages=MESSAGES, stream=True)
    assert shown(stream).content.endswith(TEXT)
    assert budgetctl.outcome(stream).usage.reasoning_tokens == 20


def test_a_tokenizer_makes_counts_exact(server: Scripted, make: Make):
    client = make(tokenizer=lambda text: len(text.split()))
    reply = client.chat.completions.create(model=QWEN, messages=MESSAGES)
    assert budgetctl.outcome(reply).usage.provenance == "counted"


@pytest.mark.parametrize("endpoint", ["vllm", "sglang"])
def test_a_tokenizer_that_fails_is_done_without_and_never_quoted(
    server: Scripted, make: Make, endpoint: str, caplog: pytest.LogCaptureFixture
):
    def fails(text: str) -> int:
        raise ValueError(f"disallowed special token in {text!r}")

    client = make("cap:12", endpoint=endpoint, tokenizer=fails)
    stream = client.chat.completions.create(model=QWEN, messages=MESSAGES, stream=True)
    assert shown(stream).content.endswith(TEXT)
    outcome = budgetctl.outcome(stream)
    assert outcome.usage.provenance == "estimated"
    assert outcome.usage.reasoning_tokens is not None
    assert outcome.usage.reasoning_tokens <= 14, "the cap is kept all the same"
    assert outcome.fallback is None
    assert "the tokenizer failed, tokens are estimated: ValueError" in caplog.text
    assert "special token" not in caplog.text


def test_usage_is_rebuilt_for_who_asked_for_it(server: Scripted, make: Make):
    server.delay_s = 0.001
    stream = make(endpoint="sglang").chat.completions.create(
        model=QWEN, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    [usage] = shown(stream).usage
    assert usage.completion_tokens == 59
    assert usage.completion_tokens_details.reasoning_tokens == 55
    assert usage.provenance == "estimated"


def test_a_loop_is_ended_under_auto(server: Scripted, make: Make):
    server.scenario, server.thought, server.delay_s = "loop", 3000, 0.0005
    stream = make("auto").chat.completions.create(model=QWEN, messages=MESSAGES, stream=True)
    assert shown(stream).content == TEXT
    assert budgetctl.outcome(stream).stop.reason == StopReason.LOOP
    assert ended(server.seen[0]).closed_by_client


def test_a_deadline_closes_the_thought(server: Scripted, make: Make):
    server.delay_s, server.thought = 0.005, 5000
    stream = make("deadline:0.3").chat.completions.create(model=QWEN, messages=MESSAGES, stream=True)
    assert shown(stream).content == TEXT
    assert budgetctl.outcome(stream).stop.reason == StopReason.DEADLINE
    assert ended(server.seen[0]).closed_by_client


def test_where_nothing_can_act_criteria_only_observe(server: Scripted, make: Make):
    client = make(endpoint="vllm")
    stream = client.chat.completions.create(
        model=QWEN, messages=MESSAGES, stream=True, tools=[], response_format={"type": "json_object"}
    )
    assert shown(stream).content == TEXT
    assert len(server.seen) == 1


def test_a_whole_call_that_nobody_watches_does_not_claim_to_stop_loops(server: Scripted, make: Make):
    client = make(endpoint="vllm")
    stops = []
    for stream in (True, False):
        reply = client.chat.completions.create(model=QWEN, messages=MESSAGES, stream=stream)
        if stream:
            shown(reply)
        stops.append({c.name: c.strength for c in budgetctl.outcome(reply).controls})
    assert stops[0] == {"thinking_token_budget": "hard", "stop": "hard"}
    assert stops[1] == {"thinking_token_budget": "hard", "stop": "none"}


def test_a_whole_call_shows_its_answer_at_the_end_and_the_speed_is_learned_all_the_same(server: Scripted):
    controller = budgetctl.Controller("cap:50", classifier=None)
    sdk = OpenAI(base_url=server.url, api_key="x")
    server.delay_s, server.thought = 0.001, 40
    with wrap(sdk, controller=controller, endpoint="transformers-serve") as client:
        for _ in range(3):
            reply = client.chat.completions.create(model=QWEN, messages=MESSAGES)
    assert server.seen[0].body["stream"]
    timing = budgetctl.outcome(reply).timing
    assert (timing.ttft_s, timing.ttfo_s) == (None, timing.e2e_s)
    pace = controller.speeds.pace(f"{server.url}/", QWEN)
    assert pace is not None
    assert pace.ttft_s < timing.e2e_s  # type: ignore[operator]


def test_where_nothing_was_answered_no_answer_has_a_time(server: Scripted, make: Make):
    server.scenario, server.thought = "empty", 20
    for policy in ("full", "auto"):  # whole, and streamed for us
        reply = make(policy).chat.completions.create(model=QWEN, messages=MESSAGES)
        assert budgetctl.outcome(reply).timing.ttfo_s is None
        assert budgetctl.outcome(reply).timing.e2e_s is not None


# --- An output limit of ours, for servers that overlook that a stream was closed ---

POCKET = "pocket-1"
LONG = tuple(f"word{n} " for n in range(40))


@pytest.fixture
def limiting(server: Scripted) -> Scripted:
    """Keeps output limits, thinks just less than the cap of 50, and has 40 words to say."""
    server.keeps_limit, server.thought, server.answer = True, 49, LONG
    server.continuation = [LONG[30:]]
    return server


def test_where_answers_are_known_the_server_is_told_where_to_stop_by_itself(limiting: Scripted, make: Make):
    make().chat.completions.create(model=POCKET, messages=MESSAGES)
    make().chat.completions.create(model=QWEN, messages=MESSAGES)
    make("full").chat.completions.create(model=POCKET, messages=MESSAGES)
    limits = [seen.body.get("max_completion_tokens") for seen in limiting.seen if "messages" in seen.body]
    assert limits == [55 + 24, None, None], "cap with its grace, and the 95th percentile of its answers"


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_our_limit_cuts_off_goes_on(limiting: Scripted, make: Make, stream: bool):
    reply = make().chat.completions.create(model=POCKET, messages=MESSAGES, stream=stream)
    if stream:
        seen = shown(reply)
        assert (seen.content, seen.finish) == ("".join(LONG), ["stop"])
    else:
        assert reply.choices[0].message.content == "".join(LONG)
        assert reply.choices[0].finish_reason == "stop"
    first, second = limiting.seen
    assert not first.closed_by_client
    thought = "".join(f"step{n} " for n in range(49))
    assert second.body["prompt"].endswith(f"{thought}\n</think>\n\n{''.join(LONG[:30])}")
    found = budgetctl.outcome(reply)
    assert (found.stop.reason, found.stop.extra_calls) == (StopReason.NATURAL, 1)
    assert (found.usage.reasoning_tokens, found.usage.answer_tokens) == (49, 40)
    assert not found.stop.degraded


def test_an_answer_that_ends_where_our_limit_is_gets_nothing_more(limiting: Scripted, make: Make):
    limiting.continuation = [()]
    reply = make().chat.completions.create(model=POCKET, messages=MESSAGES)
    assert reply.choices[0].message.content == "".join(LONG[:30])
    assert reply.choices[0].finish_reason == "stop"
    assert len(limiting.seen) == 2


def test_an_answer_that_nothing_goes_on_with_stays_cut_off_and_says_so(limiting: Scripted, make: Make):
    limiting.scenario = "no completions"
    stream = make().chat.completions.create(model=POCKET, messages=MESSAGES, stream=True)
    seen = shown(stream)
    assert (seen.content, seen.finish) == ("".join(LONG[:30]), ["length"])
    assert (
        "not gone on with the answer (raw_completions): NotFoundError" in budgetctl.outcome(stream).fallback
    )


def test_a_server_that_refuses_our_limit_is_asked_without_it_from_then_on(limiting: Scripted, make: Make):
    limiting.refuses, limiting.thought = ("max_completion_tokens",), 400
    client = make()
    for _ in range(3):
        client.chat.completions.create(model=POCKET, messages=MESSAGES)
    chats = [seen.body for seen in limiting.seen if seen.path == "/chat/completions"]
    assert ["max_completion_tokens" in body for body in chats] == [True, False, False, False]
    assert limiting.paths.count("/completions") == 2, "and the cap is kept again"


def test_a_resumed_answer_that_its_caller_leaves_at_the_end_was_complete(limiting: Scripted, make: Make):
    for rest in (LONG[30:], ()):
        limiting.continuation = [rest]
        stream = make().chat.completions.create(model=POCKET, messages=MESSAGES, stream=True)
        for chunk in stream:
            if chunk.choices and chunk.choices[0].finish_reason:
                break
        stream.close()
        assert budgetctl.outcome(stream).stop.reason == StopReason.NATURAL


def test_an_answer_whose_prompt_cannot_be_written_stays_cut_off(limiting: Scripted, make: Make):
    def fails(messages: Any) -> str:
        raise ValueError("no template")

    reply = make(render_prompt=fails).chat.completions.create(model=POCKET, messages=MESSAGES)
    assert reply.choices[0].message.content == "".join(LONG[:30])
    assert reply.choices[0].finish_reason == "length"
    found = budgetctl.outcome(reply)
    assert (found.stop.reason, found.stop.extra_calls) == (StopReason.LENGTH, 0)


def test_what_an_answer_says_of_tags_is_text(limiting: Scripted, make: Make):
    limiting.answer = ("The tag </think> closes ", *LONG)
    limiting.continuation = [("and <think> opens ", "it: </think>", ".")]
    stream = make().chat.completions.create(model=POCKET, messages=MESSAGES, stream=True)
    first = "".join(limiting.answer[:30])
    assert shown(stream).content == f"{first}and <think> opens it: </think>."


def test_the_prompt_is_counted_without_what_it_goes_on_from(limiting: Scripted, make: Make):
    """The raw completion's prompt of 60 tokens holds the thought and the answer so far."""
    client = make(tokenizer=lambda text: len(text.split()))
    stream = client.chat.completions.create(model=POCKET, messages=MESSAGES, stream=True)
    shown(stream)
    assert budgetctl.outcome(stream).usage.prompt_tokens == 60 + max(0, 60 - 49 - 31)


@pytest.mark.parametrize(
    "own",
    [
        {"max_tokens": -1},
        {"extra_body": {"max_completion_tokens": 500}},
        {"extra_body": {"generation_config": '{"max_new_tokens": 12}'}},
    ],
    ids=["no limit", "in the extra body", "in a generation config"],
)
def test_beside_a_limit_of_the_callers_own_none_of_ours_is_sent(
    limiting: Scripted, make: Make, own: dict[str, Any]
):
    make().chat.completions.create(model=POCKET, messages=MESSAGES, **own)
    sent = limiting.seen[0].body
    assert sent.get("max_completion_tokens") == own.get("extra_body", {}).get("max_completion_tokens")


def test_a_limit_of_the_callers_own_is_theirs(limiting: Scripted, make: Make):
    reply = make().chat.completions.create(model=POCKET, messages=MESSAGES, max_completion_tokens=79)
    assert reply.choices[0].finish_reason == "length"
    assert [seen.body["max_completion_tokens"] for seen in limiting.seen] == [79]


def test_a_thought_that_runs_into_our_limit_was_capped(limiting: Scripted, make: Make):
    """Deltas of several tokens are counted as fewer than they are."""
    limiting.thought, limiting.continuation = 400, [ANSWER]
    client = make(tokenizer=lambda text: len(text.split()) // 2)
    reply = client.chat.completions.create(model=POCKET, messages=MESSAGES)
    assert reply.choices[0].message.content == TEXT
    assert budgetctl.outcome(reply).stop.reason == StopReason.CAP


# --- A cap of the engine: nothing to do, unless it is ignored ---


def test_an_engine_cap_is_left_to_the_engine(server: Scripted, make: Make):
    stream = make(endpoint="vllm").chat.completions.create(model=QWEN, messages=MESSAGES, stream=True)
    assert len(shown(stream).reasoning.split()) == 50
    assert len(server.seen) == 1
    found = budgetctl.outcome(stream)
    assert found.stop.reason == StopReason.CAP
    assert found.controls[0].strength == "hard"


def test_an_ignored_cap_is_noticed_recorded_and_made_good(server: Scripted, make: Make):
    server.scenario, server.delay_s = "ignored cap", 0.001
    client = make(endpoint="vllm")
    stream = client.chat.completions.create(model=QWEN, messages=MESSAGES, stream=True)
    assert shown(stream).content == TEXT
    found = budgetctl.outcome(stream)
    assert found.stop.criterion == "watchdog"
    assert {c.name: c.strength for c in found.controls}["thinking_token_budget"] == "none"
    assert "thinking_token_budget=50 was sent and ignored" in (found.fallback or "")
    assert ended(server.seen[0]).closed_by_client
    client.chat.completions.create(model=QWEN, messages=MESSAGES)
    assert "thinking_token_budget" not in server.seen[-2].body, "not tried again"


# --- The guard ---


def test_an_empty_answer_under_a_cap_is_continued(server: Scripted, make: Make):
    server.scenario = "empty under a cap"
    for stream in (True, False):
        reply = make(endpoint="vllm").chat.completions.create(model=QWEN, messages=MESSAGES, stream=stream)
        content = shown(reply).content if stream else reply.choices[0].message.content
        assert content == TEXT
        assert [one.path for one in server.seen[-2:]] == ["/chat/completions", "/completions"]
        assert budgetctl.outcome(reply).answered


def test_without_raw_completions_the_question_is_asked_again_with_the_thought_quoted(
    server: Scripted, make: Make
):
    server.scenario = "no completions"
    reply = make().chat.completions.create(model=QWEN, messages=MESSAGES)
    assert reply.choices[0].message.content == TEXT
    paths = [one.path for one in server.seen]
    assert paths == ["/chat/completions", "/completions", "/chat/completions"]
    assert server.seen[-1].body["chat_template_kwargs"] == {"enable_thinking": False}
    assert "asked again with thinking off" in str(budgetctl.outcome(reply).fallback)


def test_when_all_fails_the_error_carries_the_thought_and_the_outcome(server: Scripted, make: Make):
    server.scenario, server.continuation = "empty", [()]
    client = make(endpoint="vllm")
    with pytest.raises(AnswerTruncated) as caught:
        client.chat.completions.create(model="deepseek-r1", messages=MESSAGES)
    assert caught.value.reasoning.startswith("step0 step1")
    assert "step0" not in str(caught.value), "messages are logged, thoughts are private"
    assert budgetctl.outcome(caught.value).answered is False


@pytest.mark.parametrize("policy", ["full", "auto"])
def test_an_empty_answer_that_no_budget_of_ours_cut_is_passed_through(
    server: Scripted, make: Make, policy: str
):
    server.scenario, server.thought = "empty", 20
    reply = make(policy).chat.completions.create(model=QWEN, messages=MESSAGES)
    assert reply.choices[0].message.content == ""
    assert reply.choices[0].finish_reason == "length"
    assert len(server.seen) == 1
    assert budgetctl.outcome(reply).answered is False


class Number(pydantic.BaseModel):
    value: int


def parse_of(client: OpenAI) -> Any:
    """The method that SDKs before 1.92 have under ``beta`` only."""
    return getattr(client.chat.completions, "parse", None) or client.beta.chat.completions.parse


def test_the_answer_of_a_second_call_is_parsed_into_the_callers_model(server: Scripted, make: Make):
    server.scenario, server.answer = "empty under a cap", ('{"value": ', "42}")
    parse = parse_of(make(endpoint="vllm"))
    reply = parse(model=QWEN, messages=MESSAGES, response_format=Number)  # the first one ends with "length"
    assert reply.choices[0].message.parsed == Number(value=42)
    assert len(server.seen) == 2
    assert budgetctl.outcome(reply).answered


def test_what_was_streamed_for_parse_is_parsed_once_and_whole(server: Scripted, make: Make):
    reply = parse_of(make())(model=QWEN, messages=MESSAGES)
    assert reply.choices[0].message.content == TEXT
    assert reply.choices[0].message.parsed is None
    assert budgetctl.outcome(reply).stop.reason == StopReason.CAP


def test_an_answer_that_stays_truncated_is_the_sdks_own_error(server: Scripted, make: Make):
    server.scenario = "empty"
    parse = parse_of(make("full", endpoint="vllm"))
    with pytest.raises(openai.LengthFinishReasonError) as caught:
        parse(model=QWEN, messages=MESSAGES, response_format=Number)
    assert budgetctl.outcome(caught.value).answered is False


def test_thinking_that_begins_again_is_closed_once_more(server: Scripted, make: Make):
    again = ("But ", "wait, ", "let ", "me ", "check ", "that.")
    server.continuation = [again, ("42.",)]
    seen = shown(make().chat.completions.create(model=QWEN, messages=MESSAGES, stream=True))
    assert seen.content == "Final answer:42."
    assert "wait" in seen.reasoning
    prompts = [one.body["prompt"] for one in server.seen if one.path == "/completions"]
    assert len(prompts) == 2
    assert prompts[1].endswith("</think>\n\nFinal answer:")


def test_thinking_that_begins_again_and_again_is_let_through(server: Scripted, make: Make):
    server.continuation = [("Wait, ", "no."), ("Hmm, ", "it ", "is ", "42.")]
    seen = shown(make().chat.completions.create(model=QWEN, messages=MESSAGES, stream=True))
    assert seen.content.endswith("Hmm, it is 42.")


# --- Faults ---


def test_a_server_that_refuses_our_parameter_gets_the_callers_own(server: Scripted, make: Make):
    server.refuses, server.thought = ("thinking_token_budget",), 5
    client = make(endpoint="vllm")
    reply = client.chat.completions.create(model=QWEN, messages=MESSAGES)
    assert reply.choices[0].message.content == TEXT
    assert "thinking_token_budget" not in server.seen[1].body
    found = budgetctl.outcome(reply)
    assert "HTTP 400" in (found.fallback or "")
    assert found.controls == ()
    client.chat.completions.create(model=QWEN, messages=MESSAGES)
    assert "thinking_token_budget" not in server.seen[2].body, "the refused parameter is not tried again"


def test_a_server_that_refuses_the_callers_own_parameter_is_not_asked_twice_for_us(
    server: Scripted, make: Make
):
    server.refuses = ("temperature",)
    with pytest.raises(openai.BadRequestError):
        make("full").chat.completions.create(model=QWEN, messages=MESSAGES, temperature=0.5)
    assert len(server.seen) == 1


def test_a_server_that_refuses_our_stream_gets_exactly_the_callers_call(server: Scripted, make: Make):
    server.refuses, server.thought = ("stream",), 5
    reply = make().chat.completions.create(model=QWEN, messages=MESSAGES)
    assert reply.choices[0].message.content == TEXT
    first, second = server.seen
    assert first.body["stream"]
    assert second.body == {"model": QWEN, "messages": MESSAGES}
    found = budgetctl.outcome(reply)
    assert found.fallback == "HTTP 400 on stream: sent again with the caller's own parameters"
    assert found.controls == ()


@pytest.mark.parametrize("refused", ["custom_params", "stream_options"])
def test_a_refused_parameter_beside_our_stream_is_sent_again_without_either(
    server: Scripted, make: Make, refused: str
):
    server.refuses, server.thought = (refused,), 5
    reply = make(endpoint="sglang").chat.completions.create(model=QWEN, messages=MESSAGES)
    assert reply.choices[0].message.content == TEXT
    assert [one.body.get("stream") for one in server.seen] == [True, None]


def test_what_a_server_says_about_the_prompt_is_not_recorded(tmp_path: Any):
    quoting = serving(refuses=("messages", "input"))
    with quoting as server, OpenAI(base_url=server.url, api_key="x", max_retries=0) as sdk:
        client = wrap(sdk, policy="cap:50", endpoint="vllm", classifier=None, sink=tmp_path / "o.jsonl")
        for call in (client.chat.completions.create, client.chat.completions.with_raw_response.create):
            with pytest.raises(openai.BadRequestError, match="What is it"):
                call(model=QWEN, messages=MESSAGES)
    text = (tmp_path / "o.jsonl").read_text()
    assert text.count("BadRequestError (HTTP 400)") == 2
    assert "What is it" not in text


def test_a_server_that_cannot_stream_still_answers_who_did_not_ask_for_a_stream(server: Scripted, make: Make):
    server.scenario = "never streams"
    client = make("cap:500", endpoint="sglang")  # a cap that may not be kept is watched, so it is streamed
    reply = client.chat.completions.create(model=QWEN, messages=MESSAGES)
    assert reply.choices[0].message.content == TEXT
    assert server.seen[0].body["stream"]
    assert [one.path for one in server.seen] == ["/chat/completions"] * 2, (
        "no thought came that could be closed"
    )
    assert server.seen[1].body == {"model": QWEN, "messages": MESSAGES}, "the caller's own call"
    assert reply.id == "chatcmpl-1"
    assert (
        budgetctl.outcome(reply).fallback == "no answer came: called again with the caller's own parameters"
    )


@pytest.mark.parametrize(("endpoint", "calls"), [("vllm", 1), ("sglang", 2)])
def test_a_body_without_choices_is_handed_on_as_it_came(
    server: Scripted, make: Make, endpoint: str, calls: int
):
    server.scenario = "error in disguise"
    reply = make(endpoint=endpoint).chat.completions.create(model=QWEN, messages=MESSAGES)
    assert reply.error["message"] == "no provider is free"  # type: ignore[attr-defined]
    assert len(server.seen) == calls
    assert server.seen[-1].body.get("stream") is None, "not as the stream that we read for a cap"
    assert not budgetctl.outcome(reply).answered


@pytest.mark.parametrize("settings", [{"mode": "observe"}, {"endpoint": "vllm"}, {"endpoint": "sglang"}])
def test_malformed_choices_are_handed_on_as_they_came(server: Scripted, make: Make, settings: dict[str, Any]):
    server.scenario = "null choice"
    client = make("cap:12", **settings)
    stream = client.chat.completions.create(model=QWEN, messages=MESSAGES, stream=True)
    chunks = list(stream)
    assert [c for c in chunks if c.choices == [None]]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices != [None]).endswith(TEXT)
    if settings.get("endpoint") != "sglang":  # there a whole call is a stream underneath
        assert client.chat.completions.create(model=QWEN, messages=MESSAGES).choices == [None]


def test_choices_without_an_index_are_read(server: Scripted, make: Make):
    server.scenario = "no index"
    stream = make().chat.completions.create(model=QWEN, messages=MESSAGES, stream=True)
    seen = shown(stream)
    assert (seen.content, len(seen.reasoning.split())) == (TEXT, 55)


@pytest.mark.parametrize("policy", ["full", "cap:50"])
def test_an_event_that_is_null_is_passed_on_as_by_the_bare_client(server: Scripted, make: Make, policy: str):
    server.scenario, server.thought = "null event", 5
    asked: Any = {"model": QWEN, "messages": MESSAGES, "stream": True}
    with OpenAI(base_url=server.url, api_key="x", max_retries=0) as bare:
        expected = list(bare.chat.completions.create(**asked))
    seen = list(make(policy).chat.completions.create(**asked))
    assert expected[1] is None
    assert seen == expected


async def test_an_event_that_is_null_is_passed_on_by_the_asynchronous_client_too(server: Scripted):
    server.scenario, server.thought = "null event", 5
    async with AsyncOpenAI(base_url=server.url, api_key="x", max_retries=0) as bare:
        client = wrap(bare, policy="cap:50", classifier=None)
        stream = await client.chat.completions.create(model=QWEN, messages=MESSAGES, stream=True)
        seen = [chunk async for chunk in stream]
    assert seen[1] is None
    assert "".join(c.choices[0].delta.content or "" for c in seen if c is not None) == TEXT


@pytest.mark.parametrize("extra_body", ["a string", 3, [1]])
def test_an_extra_body_that_is_no_mapping_fails_as_with_the_bare_client(
    server: Scripted, make: Make, extra_body: Any
):
    failures = []
    with OpenAI(base_url=server.url, api_key="x", max_retries=0) as bare:
        for client in (bare, make()):
            with pytest.raises(Exception, match=r".") as caught:  # whatever the installed SDK says of it
                client.chat.completions.create(model=QWEN, messages=MESSAGES, extra_body=extra_body)
            failures.append((type(caught.value), str(caught.value)))
    assert failures[0] == failures[1]


def test_a_stream_that_breaks_raises_the_providers_own_error(server: Scripted, make: Make):
    server.scenario = "broken"
    stream = make().chat.completions.create(model=QWEN, messages=MESSAGES, stream=True)
    with pytest.raises(Exception, match=r"Connection error|peer closed connection") as caught:
        shown(stream)
    assert type(caught.value).__module__.split(".")[0] in ("openai", "httpx"), "as without a budget"
    found = budgetctl.outcome(stream)
    assert found.stop.reason == StopReason.ERROR
    assert found.usage.reasoning_tokens == 19


def test_a_fault_of_ours_never_fails_the_call(server: Scripted, make: Make):
    class Broken:
        hash = "0"

        def estimate(self, query: Any) -> Any:
            raise RuntimeError("no")

    def bad_count(text: str) -> int:
        raise RuntimeError("no tokens today")

    server.thought = 5
    sdk = OpenAI(base_url=server.url, api_key="x")
    with wrap(
        sdk, policy="quantile:0.9", endpoint="vllm", classifier=Broken(), tokenizer=bad_count
    ) as client:
        stream = client.chat.completions.create(model=QWEN, messages=MESSAGES, stream=True)
        assert shown(stream).content == TEXT


def test_bad_arguments_are_refused_before_any_call(server: Scripted):
    sdk = OpenAI(base_url=server.url, api_key="x")
    with pytest.raises(ConfigError, match="allowed: openai, "):
        wrap(sdk, endpoint="tgi")
    with pytest.raises(ConfigError, match="unknown part"):
        wrap(sdk, policy="fast")
    with pytest.raises(ConfigError, match="say it to the controller"):
        wrap(sdk, controller=budgetctl.Controller("full", classifier=None), sink="x.jsonl")
    with pytest.raises(ConfigError, match="seen str"):
        wrap("client")  # type: ignore[type-var]
    with pytest.raises(ConfigError, match="unknown part ''"):
        wrap(sdk, policy="")
    with pytest.raises(ConfigError, match=r"controller: seen Settings, allowed: .*\.controller\(\)"):
        wrap(sdk, controller=budgetctl.Settings())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="sinks: seen 3, allowed: JsonlSink"):
        wrap(sdk, sink=3)  # type: ignore[arg-type]
    sdk.close()


# --- Closing: in every way a consumer may leave, the server stops ---


@pytest.fixture
def slow(server: Scripted) -> Scripted:
    server.delay_s, server.thought = 0.005, 4000
    return server


def leave_by_close(stream: Any) -> None:
    next(stream)
    stream.close()


def leave_by_with(stream: Any) -> None:
    with stream:
        next(stream)


def leave_by_exception(stream: Any) -> None:
    with contextlib.suppress(ZeroDivisionError), stream:
        raise ZeroDivisionError(next(stream))


@pytest.mark.parametrize("leave", [leave_by_close, leave_by_with, leave_by_exception])
def test_leaving_a_stream_closes_the_upstream(slow: Scripted, make: Make, leave: Callable[[Any], None]):
    stream = make("auto").chat.completions.create(model=QWEN, messages=MESSAGES, stream=True)
    leave(stream)
    assert ended(slow.seen[0]).closed_by_client
    assert budgetctl.outcome(stream).stop.reason == StopReason.CALLER


@pytest.mark.parametrize(("thought", "reason"), [(5, StopReason.NATURAL), (400, StopReason.CAP)])
def test_leaving_when_all_has_been_said_has_ended_nothing(
    server: Scripted, make: Make, thought: int, reason: StopReason
):
    server.thought = thought
    stream = make().chat.completions.create(
        model=QWEN, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        if chunk.choices[0].finish_reason:
            break
    stream.close()
    assert budgetctl.outcome(stream).stop.reason is reason


def test_a_dropped_stream_closes_the_upstream_without_waiting_for_the_collector(slow: Scripted, make: Make):
    gc.disable()
    try:
        for _ in make("auto").chat.completions.create(model=QWEN, messages=MESSAGES, stream=True):
            break
        assert ended(slow.seen[0]).closed_by_client
    finally:
        gc.enable()


def test_the_sdks_stream_helper_closes_the_upstream(slow: Scripted, make: Make):
    with make("auto").chat.completions.stream(model=QWEN, messages=MESSAGES) as helper:
        next(helper)
    assert ended(slow.seen[0]).closed_by_client


def test_leaving_during_the_answer_closes_the_continuation(server: Scripted, make: Make):
    server.delay_s, server.continuation = 0.002, [tuple(f"word{n} " for n in range(5000))]
    stream = make().chat.completions.create(model=QWEN, messages=MESSAGES, stream=True)
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    stream.close()
    assert ended(server.seen[1]).closed_by_client


@pytest.mark.parametrize("how", ["close", "cancel", "drop"])
async def test_leaving_an_async_stream_closes_the_upstream(slow: Scripted, how: str):
    async with AsyncOpenAI(base_url=slow.url, api_key="x") as sdk:
        client = wrap(sdk, policy="auto", endpoint="transformers-serve", classifier=None)
        stream = await client.chat.completions.create(model=QWEN, messages=MESSAGES, stream=True)

        async def consume(limit: int) -> None:
            count = 0
            async for _ in stream:
                count += 1
                if count == limit:
                    return

        if how == "cancel":
            task = asyncio.create_task(consume(10**9))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            await consume(3)
        if how == "close":
            await stream.close()
        if how == "drop":
            del stream, consume
        closed = await asyncio.to_thread(slow.seen[0].done.wait, 10)
        assert closed
        if how != "drop":
            assert budgetctl.outcome(stream).stop.reason is StopReason.CALLER
        assert slow.seen[0].closed_by_client


# --- The client ---


def test_the_wrapped_client_is_a_client_and_the_original_stays_as_it_was(server: Scripted):
    server.thought = 5
    sdk = OpenAI(base_url=server.url, api_key="x")
    _ = sdk.chat.completions  # a resource that points to the original
    client = wrap(sdk, policy="off", endpoint="vllm", classifier=None)
    assert isinstance(client, OpenAI)
    assert type(sdk) is OpenAI
    sdk.chat.completions.create(model=QWEN, messages=MESSAGES)
    assert "chat_template_kwargs" not in server.seen[0].body
    client.chat.completions.create(model=QWEN, messages=MESSAGES)
    assert server.seen[1].body["chat_template_kwargs"] == {"enable_thinking": False}
    sdk.close()


def test_wrapping_twice_budgets_once_and_the_last_policy_wins(make: Make, server: Scripted):
    server.thought = 5
    client = wrap(make("off", endpoint="vllm"), policy="full", endpoint="vllm", classifier=None)
    assert len(type(client).__mro__) == len(type(make()).__mro__)
    client.chat.completions.create(model=QWEN, messages=MESSAGES)
    assert "chat_template_kwargs" not in server.seen[0].body


def test_a_policy_for_one_part_of_the_program(make: Make, server: Scripted):
    server.thought = 5
    client = make("full", endpoint="vllm")
    hurried = client.with_policy("off")  # type: ignore[attr-defined]
    hurried.chat.completions.create(model=QWEN, messages=MESSAGES)
    client.chat.completions.create(model=QWEN, messages=MESSAGES)
    with budgetctl.override("off"):
        client.chat.completions.create(model=QWEN, messages=MESSAGES)
    switched = ["chat_template_kwargs" in one.body for one in server.seen]
    assert switched == [True, False, True]


def test_outcomes_go_to_the_sink(make: Make, server: Scripted, tmp_path: Any):
    from budgetctl.records import read

    path = tmp_path / "outcomes.jsonl"
    reply = make(sink=path).chat.completions.create(model=QWEN, messages=MESSAGES)
    raw = make("off", sink=path).chat.completions.with_raw_response.create(model=QWEN, messages=MESSAGES)
    first, second = read(path)
    assert first.id == budgetctl.outcome(reply).id
    assert (second.answered, second.policy) == (True, "off")  # type: ignore[union-attr]
    assert raw.parse().choices[0].message.content == TEXT


def test_a_raw_response_is_not_altered(make: Make, server: Scripted):
    raw = make().chat.completions.with_raw_response.create(model=QWEN, messages=MESSAGES)
    assert len(raw.parse().choices[0].message.reasoning_content.split()) == server.thought  # type: ignore[attr-defined]
    assert [one.path for one in server.seen] == ["/chat/completions"]


def test_a_model_that_no_row_knows_passes_through_and_is_recorded(make: Make, server: Scripted):
    server.thought = 200
    stream = make().chat.completions.create(model=UNKNOWN, messages=MESSAGES, stream=True)
    assert len(shown(stream).reasoning.split()) == 200
    assert len(server.seen) == 1
    found = budgetctl.outcome(stream)
    assert found.controls == ()
    assert found.budget_state.strength == "none"


def test_a_fault_of_ours_in_every_call_is_one_line_in_the_log(
    server: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def broken(*_: Any, **__: Any) -> Any:
        raise KeyError("What is it?")

    monkeypatch.setattr("budgetctl.controller.Controller.session", broken)
    server.thought, client = 5, make()
    for _ in range(3):
        reply = client.chat.completions.create(model=QWEN, messages=MESSAGES)
        assert reply.choices[0].message.content == TEXT
    [line] = [record.getMessage() for record in caplog.records if record.name == "budgetctl"]
    assert line.startswith("the call goes through unchanged: KeyError at ")
    assert "Traceback" not in caplog.text
    assert "What is it?" not in caplog.text
