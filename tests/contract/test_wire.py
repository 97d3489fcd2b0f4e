"""What really goes over the wire, row by row of the capability table, through the real SDK."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI

from budgetctl.integrations.openai import wrap

try:
    import httpx2
except ImportError:  # SDKs before 3.0 are built on its predecessor
    import httpx as httpx2

MESSAGES = [{"role": "user", "content": "Why?"}]
REPLY = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": '{"a": "42"}'}}
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
}
RESPONSE = {
    "id": "r1",
    "object": "response",
    "created_at": 1,
    "model": "m",
    "status": "completed",
    "output": [
        {
            "id": "m1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "42", "annotations": []}],
        }
    ],
    "usage": {
        "input_tokens": 3,
        "output_tokens": 9,
        "total_tokens": 12,
        "output_tokens_details": {"reasoning_tokens": 7},
    },
}


class Wire:
    """Answers every request and keeps its body."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, request: Any) -> Any:
        body = json.loads(request.content)
        self.bodies.append(body)
        if body.get("stream"):
            chunk = {
                "id": "c1",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "m",
                "choices": [{"index": 0, "delta": {"content": "42"}, "finish_reason": "stop"}],
            }
            text = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
            return httpx2.Response(200, text=text, headers={"content-type": "text/event-stream"})
        reply = RESPONSE if request.url.path.endswith("/responses") else REPLY
        return httpx2.Response(200, json=reply)

    def client(self, **settings: Any) -> OpenAI:
        http = httpx2.Client(transport=httpx2.MockTransport(self))
        sdk = OpenAI(base_url="http://test/v1", api_key="x", http_client=http, max_retries=0)
        return wrap(sdk, classifier=None, **settings)


@pytest.fixture
def wire() -> Wire:
    return Wire()


ROWS = [
    ("openai", "gpt-5-mini", "cap:1000", {"reasoning_effort": "low"}),
    ("openai", "gpt-5-mini", "cap:8000", {}),
    ("openai", "gpt-5-mini", "effort:high", {"reasoning_effort": "high"}),
    ("openai", "gpt-5-mini", "off", {"reasoning_effort": "minimal"}),
    ("openai", "gpt-5.1", "off", {"reasoning_effort": "none"}),
    ("openai", "gpt-6-sol", "effort:minimal", {"reasoning_effort": "low"}),
    ("openai", "o3", "effort:low", {"reasoning_effort": "low"}),
    ("openai", "gpt-4o", "cap:100", {}),
    ("openai", "gpt-4o", "off", {}),
    ("vllm", "Qwen/Qwen3-8B", "cap:1000", {"thinking_token_budget": 1000}),
    ("vllm", "Qwen/Qwen3-8B", "off", {"chat_template_kwargs": {"enable_thinking": False}}),
    ("vllm", "deepseek-ai/DeepSeek-R1", "cap:1000", {"thinking_token_budget": 1000}),
    ("vllm", "deepseek-ai/DeepSeek-R1", "off", {}),
    ("sglang", "Qwen/Qwen3-8B", "off", {"chat_template_kwargs": {"enable_thinking": False}}),
    (
        "llama.cpp",
        "Qwen3-8B",
        "cap:1000",
        {"reasoning_budget_tokens": 1000, "thinking_budget_tokens": 1000},
    ),
    ("transformers-serve", "Qwen3-8B", "off", {"chat_template_kwargs": {"enable_thinking": False}}),
    ("transformers-serve", "pocket-1", "off", {"chat_template_kwargs": {"enable_thinking": False}}),
    ("openai-compatible", "whatever", "cap:1000", {}),
    ("openai-compatible", "whatever", "off", {}),
    ("vllm", "whatever", "cap:1000", {}),
    ("vllm", "Qwen/Qwen3-8B", "full", {}),
    ("openai", "gpt-5-mini", "auto", {}),
]


@pytest.mark.parametrize(("endpoint", "model", "policy", "added"), ROWS)
def test_a_row_adds_its_parameters_and_nothing_else(
    wire: Wire, endpoint: str, model: str, policy: str, added: dict[str, Any]
):
    own = {"model": model, "messages": MESSAGES, "temperature": 0.5}
    wire.client(policy=policy, endpoint=endpoint).chat.completions.create(**own)  # type: ignore[call-overload]
    assert wire.bodies == [own | added]


def test_sglang_gets_its_cap_and_is_read_as_a_stream_because_it_may_not_keep_it(wire: Wire):
    client = wire.client(policy="cap:1000", endpoint="sglang")
    reply = client.chat.completions.create(model="Qwen3-8B", messages=MESSAGES)
    [body] = wire.bodies
    assert body["custom_params"] == {"thinking_budget": 1000}
    assert body["stream"] is True
    assert reply.choices[0].message.content == "42"


def test_the_callers_own_values_are_pinned(wire: Wire):
    client = wire.client(policy="cap:100", endpoint="openai")
    client.chat.completions.create(model="gpt-5", messages=MESSAGES, reasoning_effort="high")
    assert wire.bodies[0]["reasoning_effort"] == "high"


def test_a_ceiling_lowers_the_callers_value(wire: Wire):
    client = wire.client(policy="effort:low", endpoint="openai", caller_values="ceiling")
    client.chat.completions.create(model="gpt-5", messages=MESSAGES, reasoning_effort="high")
    assert wire.bodies[0]["reasoning_effort"] == "low"


def test_observing_changes_nothing(wire: Wire):
    client = wire.client(policy="off", endpoint="vllm", mode="observe")
    client.chat.completions.create(model="Qwen3-8B", messages=MESSAGES, stream=False)
    assert wire.bodies == [{"model": "Qwen3-8B", "messages": MESSAGES, "stream": False}]


def test_every_way_to_call_is_budgeted_once(wire: Wire):
    import pydantic

    class Answer(pydantic.BaseModel):
        a: str

    client = wire.client(policy="effort:low", endpoint="openai")
    call = {"model": "gpt-5", "messages": MESSAGES}
    client.chat.completions.create(**call)  # type: ignore[call-overload]
    client.with_options(timeout=5).chat.completions.create(**call)  # type: ignore[call-overload]
    parsed = client.chat.completions.parse(**call, response_format=Answer)
    list(client.chat.completions.create(**call, stream=True))  # type: ignore[call-overload]
    with client.chat.completions.stream(**call) as stream:
        stream.until_done()
    raw = client.chat.completions.with_raw_response.create(**call)  # type: ignore[call-overload]
    with client.chat.completions.with_streaming_response.create(**call) as streamed:  # type: ignore[call-overload]
        streamed.read()
    assert len(wire.bodies) == 7
    assert all(body["reasoning_effort"] == "low" for body in wire.bodies)
    assert parsed.choices[0].message.parsed == Answer(a="42")
    assert raw.parse().choices[0].message.content == '{"a": "42"}'


def test_the_responses_api_gets_its_own_spelling(wire: Wire):
    import budgetctl

    client = wire.client(policy="effort:low", endpoint="openai")
    reply = client.responses.create(model="gpt-5", input="Why?", reasoning={"summary": "auto"})
    assert wire.bodies[0]["reasoning"] == {"summary": "auto", "effort": "low"}
    found = budgetctl.outcome(reply)
    assert (found.usage.reasoning_tokens, found.usage.answer_tokens) == (7, 2)
    assert found.usage.provenance == "reported"


def test_leaving_a_responses_stream_when_all_has_been_said_has_ended_nothing(wire: Wire):
    import budgetctl

    last = {"type": "response.completed", "sequence_number": 1, "response": RESPONSE}
    text = "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in (last, last))
    sent = httpx2.MockTransport(
        lambda _: httpx2.Response(200, text=text, headers={"content-type": "text/event-stream"})
    )
    sdk = OpenAI(base_url="http://test/v1", api_key="x", http_client=httpx2.Client(transport=sent))
    client = wrap(sdk, policy="effort:low", endpoint="openai", classifier=None)
    stream = client.responses.create(model="gpt-5", input="Why?", stream=True)
    next(stream)
    stream.close()
    assert str(budgetctl.outcome(stream).stop.reason) == "natural"


def test_other_endpoints_of_the_api_pass_untouched(wire: Wire):
    client = wire.client(policy="off", endpoint="vllm")
    client.embeddings.with_raw_response.create(model="Qwen3-8B", input="x", encoding_format="float")
    assert wire.bodies == [{"model": "Qwen3-8B", "input": "x", "encoding_format": "float"}]


async def test_an_async_client_is_budgeted_too(wire: Wire):
    async def answer(request: Any) -> Any:
        return wire(request)

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    sdk = AsyncOpenAI(base_url="http://test/v1", api_key="x", http_client=http)
    async with wrap(sdk, policy="effort:low", endpoint="openai", classifier=None) as client:
        await client.chat.completions.create(model="gpt-5", messages=MESSAGES)
        await client.with_options(timeout=5).responses.create(model="gpt-5", input="Why?")
    assert wire.bodies[0]["reasoning_effort"] == "low"
    assert wire.bodies[1]["reasoning"] == {"effort": "low"}
