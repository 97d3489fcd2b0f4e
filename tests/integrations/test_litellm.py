"""LiteLLM's functions, wrapped and under the handler; what reaches each provider."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # read when it is loaded: no download
pytest.importorskip("litellm")

import litellm

import budgetctl
from budgetctl import ConfigError
from budgetctl.integrations.litellm import BudgetHandler, wrap
from tests.contract import loopback
from tests.contract.loopback import Provider
from tests.engines.scripted import Scripted, serving
from tests.integrations.contract import Collect, Contract, aiter_of

pytestmark = pytest.mark.filterwarnings("ignore")


def asked(server: Scripted, question: str, own: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": "hosted_vllm/Qwen3-8B",
        "messages": [{"role": "user", "content": question}],
        "api_base": server.url,
        "api_key": "none",
        "max_retries": 0,
        "timeout": 20,
        **own,
    }


class TestTheFunctions(Contract):
    ways = ("whole", "stream", "async whole", "async stream")

    def made(self, server: Scripted, policy: Any, *, own: dict[str, Any], **settings: Any) -> Any:
        wrapped = [
            wrap(function, policy=policy, classifier=None, **settings)
            for function in (litellm.completion, litellm.acompletion)
        ]
        return server, own, *wrapped

    def bare(self, server: Scripted) -> Any:
        return server, {}, litellm.completion, litellm.acompletion

    async def ask(self, made: Any, way: str, question: str) -> Any:
        server, own, completion, acompletion = made
        if way.endswith("stream"):
            return "".join([piece async for piece in self.stream(made, way, question)])
        given = asked(server, question, own)
        response = completion(**given) if way == "whole" else await acompletion(**given)
        return response.choices[0].message.content

    async def stream(self, made: Any, way: str, question: str) -> AsyncIterator[str]:
        server, own, completion, acompletion = made
        given = {**asked(server, question, own), "stream": True}
        if way == "stream":
            chunks = completion(**given)
            pieces, close = aiter_of(chunks), None
        else:
            chunks = await acompletion(**given)
            pieces, close = chunks, chunks.aclose
        try:
            async for chunk in pieces:
                if chunk.choices and chunk.choices[0].delta.content:
                    yield chunk.choices[0].delta.content
        finally:
            if close is None:
                chunks.close()
            else:
                await close()


@pytest.fixture
def provider() -> Iterator[Provider]:
    with loopback.serving() as running:
        yield running


THOUSAND = {"type": "enabled", "budget_tokens": 9000}
WIRE: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("openai/gpt-5-mini", "effort:low", {}, {"reasoning_effort": "low"}),
    ("openai/gpt-6-sol", "off", {}, {"reasoning_effort": "none"}),
    ("azure/gpt-5-mini", "effort:low", {"api_version": "2025-01-01"}, {"reasoning_effort": "low"}),
    ("hosted_vllm/Qwen/Qwen3-8B", "cap:100", {}, {"thinking_token_budget": 100}),
    ("hosted_vllm/Qwen/Qwen3-8B", "off", {}, {"chat_template_kwargs.enable_thinking": False}),
    ("deepseek/deepseek-v4", "off", {}, {"thinking.type": "disabled"}),
    ("deepseek/deepseek-v4", "effort:low", {}, {"reasoning_effort": "low"}),
    ("dashscope/qwen3.5-plus", "cap:100", {}, {"thinking_budget": 100}),
    ("dashscope/qwen3.5-plus", "off", {}, {"enable_thinking": False}),
    ("xai/grok-4.3", "effort:low", {}, {"reasoning_effort": "low"}),
    ("xai/grok-4.3", "off", {}, {"reasoning_effort": "none"}),
    ("mistral/mistral-medium-latest", "effort:low", {}, {"reasoning_effort": None}),
    ("mistral/mistral-medium-latest", "off", {"reasoning_effort": "high"}, {"reasoning_effort": "none"}),
    ("openrouter/openai/gpt-5", "effort:low", {}, {"reasoning.effort": "low"}),
    ("ollama_chat/qwen3:8b", "off", {}, {"think": False}),
    ("anthropic/claude-sonnet-4-5", "cap:2000", {"thinking": THOUSAND}, {"thinking.budget_tokens": 2000}),
    ("anthropic/claude-sonnet-4-5", "cap:2000", {}, {"thinking.type": None}),
    ("anthropic/claude-opus-5", "effort:low", {}, {"output_config.effort": "low"}),
    ("anthropic/claude-opus-5", "off", {}, {"thinking.type": "disabled"}),
    ("anthropic/claude-opus-5", "effort:low", {"reasoning_effort": "high"}, {"output_config.effort": "low"}),
    ("gemini/gemini-2.5-flash", "cap:1000", {}, {"generationConfig.thinkingConfig.thinkingBudget": 1000}),
    ("gemini/gemini-2.5-flash", "off", {}, {"generationConfig.thinkingConfig.thinkingBudget": 0}),
    (
        "gemini/gemini-2.5-flash",
        "cap:2000",
        {"thinking": THOUSAND},
        {"generationConfig.thinkingConfig.thinkingBudget": 2000},
    ),
    (
        "gemini/gemini-3-pro-preview",
        "effort:low",
        {},
        {"generationConfig.thinkingConfig.thinkingLevel": "low"},
    ),
    ("together_ai/some/model", "cap:100", {}, {"reasoning_effort": None}),
]


@pytest.mark.parametrize(("model", "policy", "own", "sent"), WIRE)
def test_what_is_meant_is_what_reaches_the_provider(
    provider: Provider, model: str, policy: str, own: dict[str, Any], sent: dict[str, Any]
):
    endpoint = "openai" if model.startswith("openai/") else None  # told by the host, which is ours here
    complete = wrap(
        litellm.completion, policy=policy, endpoint=endpoint, classifier=None, caller_values="ceiling"
    )
    base = provider.url + ("" if model.startswith(("azure", "anthropic", "gemini", "ollama")) else "/v1")
    message = {"role": "user", "content": "Why?"}
    # Ollama's answers have a shape of their own; what it was asked is what counts.
    with contextlib.suppress(litellm.exceptions.APIConnectionError):
        complete(model=model, messages=[message], api_base=base, api_key="x", max_tokens=20_000, **own)
    seen = loopback.flat(provider.bodies[-1])
    assert {path: seen.get(path) for path in sent} == sent


def test_arguments_may_come_by_place(server: Scripted):
    complete = wrap(litellm.completion, policy="cap:50", classifier=None)
    given = asked(server, "What is it?", {})
    response = complete(given.pop("model"), given.pop("messages"), **given)
    assert budgetctl.outcome(response).decision.reasoning_tokens == 50


async def test_a_finished_stream_tells_what_happened(server: Scripted):
    given = {**asked(server, "What is it?", {}), "stream": True}
    stream = wrap(litellm.completion, policy="cap:50", classifier=None)(**given)
    assert isinstance(stream, litellm.CustomStreamWrapper)
    list(stream)
    assert budgetctl.outcome(stream).timing.ttfo_s is not None
    later = await wrap(litellm.acompletion, policy="cap:50", classifier=None)(**given)
    assert [chunk async for chunk in later]
    assert budgetctl.outcome(later).timing.ttfo_s is not None


def test_bad_arguments_are_refused():
    with pytest.raises(ConfigError, match="wrap takes litellm"):
        wrap(litellm.embedding)
    with pytest.raises(ConfigError, match="endpoint: seen 'tgi'"):
        wrap(litellm.completion, endpoint="tgi")


@pytest.fixture
def server() -> Iterator[Scripted]:
    with serving() as running:
        yield running


class TestTheHandler(Contract):
    """``litellm.callbacks`` and a router, which tries once more where it is told to."""

    ways = ("async whole", "async stream")

    def made(self, server: Scripted, policy: Any, *, own: dict[str, Any], **settings: Any) -> Any:
        litellm.logging_callback_manager._reset_all_callbacks()  # it keeps one handler of a class
        litellm.callbacks = [BudgetHandler(policy, classifier=None, **settings)]
        return self.router(server), own

    def bare(self, server: Scripted) -> Any:
        litellm.logging_callback_manager._reset_all_callbacks()
        return self.router(server), {}

    async def test_a_whole_response_carries_its_outcome(self, server: Scripted):
        router, _ = self.made(server, "cap:50", own={})
        response = await router.acompletion("mine", [{"role": "user", "content": "What is it?"}])
        assert budgetctl.outcome(response).decision.reasoning_tokens == 50

    def router(self, server: Scripted) -> litellm.Router:
        given = asked(server, "", {})
        del given["messages"]
        deployment = {"model_name": "mine", "litellm_params": given}
        policy = litellm.RetryPolicy(BadRequestErrorRetries=1)
        return litellm.Router([deployment], num_retries=0, retry_policy=policy)

    async def ask(self, made: Any, way: str, question: str) -> Any:
        router, own = made
        if way == "async stream":
            return "".join([piece async for piece in self.stream(made, way, question)])
        response = await router.acompletion("mine", [{"role": "user", "content": question}], **own)
        return response.choices[0].message.content

    async def stream(self, made: Any, way: str, question: str) -> AsyncIterator[str]:
        router, own = made
        asked = [{"role": "user", "content": question}]
        chunks = await router.acompletion("mine", asked, stream=True, **own)
        try:
            async for chunk in chunks:
                if chunk.choices and chunk.choices[0].delta.content:
                    yield chunk.choices[0].delta.content
        finally:
            await chunks.aclose()

    async def settle(self, sink: Collect, rows: int = 1) -> None:
        for attempt in range(100):  # LiteLLM tells from a queue, or of a cancelled call nothing at all
            if len(sink.rows) >= rows:
                return
            await asyncio.sleep(0.05)
            if attempt > 10:
                gc.collect()

    async def close(self) -> None:
        litellm.logging_callback_manager._reset_all_callbacks()
