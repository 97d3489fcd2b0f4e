"""Spending limits in the integrations: each refuses before a request, and charges what was reported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("openai")

import budgetctl
from budgetctl.errors import LimitExceeded
from budgetctl.ledger import Ledger, MemoryStore
from tests.contract.loopback import Provider
from tests.contract.loopback import serving as answering

MESSAGES = [{"role": "user", "content": "nine char"}]
USED = 7
"""What the provider reports of every call."""


class Remote:
    """A store that is not in memory, as far as anybody knows: asynchronous callers ask it in a thread."""

    def __init__(self) -> None:
        inner = MemoryStore()
        self.reserve, self.settle, self.read = inner.reserve, inner.settle, inner.read


@pytest.fixture(params=[MemoryStore, Remote])
def book(request: pytest.FixtureRequest) -> Ledger:
    """A ledger with room for one call of at most ten tokens."""
    return Ledger({"limits": [{"name": "team", "tokens": 10, "window": "day"}]}, store=request.param())


@pytest.fixture
def provider() -> Iterator[Provider]:
    with answering() as server:
        yield server


def spent(ledger: Ledger) -> tuple[float, float]:
    found = ledger.standing()[0]
    return found.spent, found.held


def test_anthropic(provider: Provider, book: Ledger):
    pytest.importorskip("anthropic")
    client = budgetctl.wrap(provider.client("anthropic"), policy="full", ledger=book)
    client.messages.create(model="m", max_tokens=4, messages=MESSAGES)
    assert spent(book) == (USED, 0)
    with pytest.raises(LimitExceeded):
        client.messages.create(model="m", max_tokens=4, messages=MESSAGES)
    assert len(provider.bodies) == 1


def test_google(provider: Provider, book: Ledger):
    pytest.importorskip("google.genai")
    client = budgetctl.wrap(provider.client("google"), policy="full", ledger=book)
    ask: dict[str, Any] = {"model": "m", "contents": "nine char", "config": {"max_output_tokens": 4}}
    client.models.generate_content(**ask)
    assert spent(book) == (USED, 0)
    with pytest.raises(LimitExceeded):
        client.models.generate_content(**ask)
    with pytest.raises(LimitExceeded):
        list(client.models.generate_content_stream(**ask))
    assert len(provider.bodies) == 1


def test_the_responses_api(provider: Provider, book: Ledger):
    client = budgetctl.wrap(provider.client(), policy="full", ledger=book)
    ask: dict[str, Any] = {"model": "m", "input": "nine char", "max_output_tokens": 4}
    client.responses.create(**ask)
    assert spent(book) == (USED, 0)
    with pytest.raises(LimitExceeded):
        client.responses.create(**ask)
    with pytest.raises(LimitExceeded):
        client.responses.with_raw_response.create(**ask)
    assert len(provider.bodies) == 1


async def test_langchain_over_a_client_of_ours(provider: Provider, book: Ledger):
    pytest.importorskip("langchain_openai")
    from langchain_openai import ChatOpenAI

    from budgetctl.integrations.langchain import budgeted_chat_model

    plain = ChatOpenAI(base_url=f"{provider.url}/v1", api_key="x", model="m", max_tokens=4, max_retries=0)
    model = budgeted_chat_model(plain, "full", ledger=book)
    model.invoke("nine char")
    assert spent(book) == (USED, 0)
    with pytest.raises(LimitExceeded):
        model.invoke("nine char")
    with pytest.raises(LimitExceeded):
        await model.ainvoke("nine char")
    with pytest.raises(LimitExceeded):
        list(model.stream("nine char"))
    assert len(provider.bodies) == 1
    plain.root_client.close()
    await plain.root_async_client.close()


async def test_langchain_over_any_other_model(book: Ledger):
    pytest.importorskip("langchain")
    from langchain_core.language_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage

    from budgetctl.integrations.langchain import budgeted_chat_model

    said = AIMessage("42", usage_metadata={"input_tokens": 3, "output_tokens": 4, "total_tokens": 7})
    calls: list[int] = []

    def answers() -> Iterator[AIMessage]:
        while True:
            calls.append(1)
            yield said

    model: Any = budgeted_chat_model(GenericFakeChatModel(messages=answers()), "full", ledger=book)
    model.invoke("nine char", max_tokens=4)
    assert spent(book) == (USED, 0)
    with pytest.raises(LimitExceeded):
        model.invoke("nine char", max_tokens=4)
    with pytest.raises(LimitExceeded):
        await model.ainvoke("nine char", max_tokens=4)
    with pytest.raises(LimitExceeded):
        list(model.stream("nine char", max_tokens=4))
    with pytest.raises(LimitExceeded):
        [piece async for piece in model.astream("nine char", max_tokens=4)]
    assert len(calls) == 1


async def test_a_langchain_stream_that_fails_before_it_begins_leaves_nothing_reserved(book: Ledger):
    """Where what makes the stream is a plain function, it fails when it is called and not when it is read."""
    pytest.importorskip("langchain_core")
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel

    from budgetctl.integrations.langchain import budgeted_chat_model

    class Away(GenericFakeChatModel):
        def _stream(self, *given: Any, **named: Any) -> Any:
            raise ConnectionError

        def _astream(self, *given: Any, **named: Any) -> Any:
            raise ConnectionError

    model = budgeted_chat_model(Away(messages=iter(())), "full", ledger=book)
    with pytest.raises(ConnectionError) as failed:
        list(model.stream("hi", max_tokens=4))
    assert budgetctl.outcome(failed.value).stop.reason == "error"
    with pytest.raises(ConnectionError):
        async for _ in model.astream("hi", max_tokens=4):
            pass
    assert book.standing()[0].held == 0


@pytest.mark.filterwarnings("ignore")
async def test_litellm(provider: Provider, book: Ledger, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = pytest.importorskip("litellm")
    from budgetctl.integrations.litellm import BudgetHandler, wrap

    ask: dict[str, Any] = {
        "model": "hosted_vllm/m",
        "messages": MESSAGES,
        "max_tokens": 4,
        "api_base": f"{provider.url}/v1",
        "api_key": "x",
        "max_retries": 0,
    }
    wrap(litellm.completion, policy="full", ledger=book)(**ask)
    assert spent(book) == (USED, 0)
    with pytest.raises(LimitExceeded):
        wrap(litellm.completion, policy="full", ledger=book)(**ask)
    with pytest.raises(LimitExceeded):
        await wrap(litellm.acompletion, policy="full", ledger=book)(**ask)
    monkeypatch.setattr(litellm, "callbacks", [BudgetHandler("full", ledger=book)])
    with pytest.raises(Exception, match="limit 'team'"):
        await litellm.acompletion(**ask)
    assert len(provider.bodies) == 1
    assert spent(book) == (USED, 0)


async def test_pydantic_ai(provider: Provider, book: Ledger):
    pytest.importorskip("pydantic_ai")
    from openai import AsyncOpenAI
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider
    from pydantic_ai.settings import ModelSettings

    from budgetctl.integrations.pydantic_ai import budgeted_model

    async with AsyncOpenAI(base_url=f"{provider.url}/v1", api_key="x", max_retries=0) as client:
        plain = OpenAIChatModel("m", provider=OpenAIProvider(openai_client=client))
        model = budgeted_model(plain, "full", ledger=book)
        agent = Agent(model, model_settings=ModelSettings(max_tokens=4))
        await agent.run("nine char")
        assert spent(book) == (USED, 0)
        with pytest.raises(LimitExceeded):
            await agent.run("nine char")
    assert len(provider.bodies) == 1


def test_audits_are_charged_to_whom_they_are_of(tmp_path: Any, book: Ledger):
    """A delivered call of seven tokens leaves no room for its audit."""
    from budgetctl import Controller
    from budgetctl.audit import Audits

    def audited(tokens: int) -> tuple[Ledger, int]:
        limit = {"name": "team", "tokens": tokens, "window": "day", "scope": {"tenant": "acme"}}
        ledger = Ledger({"limits": [limit]}, store=book.store)
        audits = Audits(tmp_path / f"{tokens}.jsonl", policy="cap:100", rate=1.0, tokens_per_day=10**6)
        controller = Controller("cap:100", ledger=ledger, audits=audits)
        with answering() as server:
            client = budgetctl.wrap(server.client(), controller=controller, endpoint="vllm")
            with budgetctl.override(tenant="acme"):
                ask: dict[str, Any] = {"model": "Qwen/Qwen3-8B", "messages": MESSAGES, "max_tokens": 4}
                client.chat.completions.create(**ask)
            assert audits.background.wait(10)
            return ledger, len(server.bodies)

    ledger, made = audited(13)
    assert (made, ledger.standing(tenant="acme")[0].spent) == (1, USED)
    ledger, made = audited(21)
    assert (made, ledger.standing(tenant="acme")[0].spent) == (2, 3 * USED)


def test_transformers():
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from budgetctl.evals.pocket import load

    from budgetctl.integrations.transformers import generate

    torch.set_num_threads(1)
    model, tokenizer = load()
    ledger = Ledger({"limits": [{"name": "team", "tokens": 70, "window": "day"}]})
    ask: dict[str, Any] = {"controller": budgetctl.Controller("full", ledger=ledger), "max_new_tokens": 40}
    generate(model, tokenizer, ["what is 1 + 2 ?"], **ask)
    used, held = spent(ledger)
    assert held == 0
    assert 3 < used <= 70
    with pytest.raises(LimitExceeded):
        generate(model, tokenizer, ["what is 1 + 2 ?"] * 2, **ask)
    assert spent(ledger) == (used, 0)


def test_what_a_server_refuses_and_then_takes_is_one_call(provider: Provider):
    ledger = Ledger({"limits": [{"name": "team", "tokens": 1_000, "window": "day"}]})
    client = budgetctl.wrap(provider.client(), policy="cap:100", endpoint="vllm", ledger=ledger)
    provider.refuses = {"thinking_token_budget": 100}
    client.chat.completions.create(model="Qwen/Qwen3-8B", messages=MESSAGES)
    assert len(provider.bodies) == 2
    assert spent(ledger) == (USED, 0)
