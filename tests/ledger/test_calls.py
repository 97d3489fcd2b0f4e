"""Spending limits around real calls: a client, a provider on loopback that counts requests, and a ledger."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("openai")

from openai import AsyncOpenAI, InternalServerError, OpenAI

import budgetctl
from budgetctl import ConfigError, budgeted
from budgetctl.errors import LedgerUnavailable, LimitExceeded
from budgetctl.ledger import Ledger, MemoryStore, Store
from tests.ledger.provider import Provider, serving

CALLS = 200
COST = 7
"""Tokens of a call: three of the prompt, whose nine characters are taken for as many, and four of output."""
ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "nine char"}], "max_tokens": 4}


@pytest.fixture
def provider() -> Iterator[Provider]:
    with serving() as server:
        yield server


def client(provider: Provider, ledger: Ledger, **given: Any) -> Any:
    plain = OpenAI(base_url=provider.url, api_key="x", max_retries=0)
    return budgetctl.wrap(plain, **{"policy": "full", "ledger": ledger, **given})


def async_client(provider: Provider, ledger: Ledger, **given: Any) -> Any:
    plain = AsyncOpenAI(base_url=provider.url, api_key="x", max_retries=0)
    return budgetctl.wrap(plain, **{"policy": "full", "ledger": ledger, **given})


def ledger(tokens: int, *, store: Store | None = None, **limit: Any) -> Ledger:
    return Ledger(
        {"limits": [{"name": "team", "tokens": tokens, "window": "day", **limit}], "hold_s": 60}, store=store
    )


def stands(book: Ledger, **subject: str) -> tuple[float, float]:
    found = book.standing(**subject)[0]
    return found.spent, found.held


# Concurrency


def test_of_200_calls_in_threads_as_many_are_made_as_fit(provider: Provider, make_store: Any):
    provider.delay_s = 0.05
    book = ledger(100 * COST, store=make_store())
    wrapped, barrier = client(provider, book), threading.Barrier(CALLS)

    def one(_: int) -> bool:
        barrier.wait()
        try:
            wrapped.chat.completions.create(**ASK)
        except LimitExceeded:
            return False
        return True

    with ThreadPoolExecutor(CALLS) as pool:
        assert sum(pool.map(one, range(CALLS))) == 100
    assert len(provider.bodies) == 100
    assert stands(book) == (100 * COST, 0)


async def test_of_200_calls_in_tasks_as_many_are_made_as_fit(provider: Provider, make_store: Any):
    provider.delay_s = 0.05
    book = ledger(100 * COST, store=make_store())
    async with async_client(provider, book) as wrapped:
        calls = [wrapped.chat.completions.create(**ASK) for _ in range(CALLS)]
        results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [result for result in results if isinstance(result, BaseException)]
    assert {type(error) for error in refused} == {LimitExceeded}
    assert len(refused) == len(provider.bodies) == 100
    assert stands(book) == (100 * COST, 0)


async def test_a_slow_store_does_not_hold_up_the_loop(provider: Provider):
    class Slow(MemoryStore):
        def reserve(self, *args: Any, **named: Any) -> Any:
            time.sleep(0.3)
            return super().reserve(*args, **named)

    class Remote:
        """Like a store on a network: not known to answer at once."""

        def __init__(self) -> None:
            inner = Slow()
            self.reserve, self.settle, self.read = inner.reserve, inner.settle, inner.read

    async with async_client(provider, ledger(100, store=Remote())) as wrapped:
        call = asyncio.ensure_future(wrapped.chat.completions.create(**ASK))
        ticks = 0
        while not call.done():
            ticks += 1
            await asyncio.sleep(0.01)
    assert ticks > 15


async def test_a_task_that_is_cancelled_while_it_reserves_leaves_nothing_reserved(provider: Provider):
    inner = MemoryStore()
    asked, go = threading.Event(), threading.Event()

    class Remote:
        settle, read = inner.settle, inner.read

        def reserve(self, *args: Any, **named: Any) -> Any:
            reply = inner.reserve(*args, **named)
            asked.set()
            go.wait()
            return reply

    book = ledger(100, store=Remote())
    async with async_client(provider, book) as wrapped:
        call = asyncio.ensure_future(wrapped.chat.completions.create(**ASK))
        await asyncio.to_thread(asked.wait)
        assert stands(book) == (0, COST)
        call.cancel()
        await asyncio.sleep(0.05)
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await call
        for _ in range(100):
            if stands(book) == (0, 0):
                break
            await asyncio.sleep(0.02)
    assert stands(book) == (0, 0)
    assert provider.bodies == []


KILLED = """
import sys, budgetctl
from openai import OpenAI
from budgetctl.ledger import Ledger
from budgetctl.ledger.redis import RedisStore

url, redis_url, prefix = sys.argv[1:]
limits = [{"name": "team", "tokens": 14, "window": "day"}]
ledger = Ledger({"limits": limits, "hold_s": 2}, store=RedisStore.from_url(redis_url, prefix=prefix))
client = budgetctl.wrap(OpenAI(base_url=url, api_key="x"), policy="full", ledger=ledger)
client.chat.completions.create(model="m", messages=[{"role": "user", "content": "nine char"}], max_tokens=4)
"""


def test_what_a_killed_client_had_reserved_counts_until_it_expires(provider: Provider, redis_url: str):
    from budgetctl.ledger.redis import RedisStore

    provider.delay_s = 30
    store = RedisStore.from_url(redis_url, prefix="killed")
    book = ledger(2 * COST, store=store)
    process = subprocess.Popen([sys.executable, "-c", KILLED, provider.url, redis_url, "killed"])
    try:
        while not provider.bodies:
            time.sleep(0.02)
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    provider.delay_s = 0
    wrapped = client(provider, book)
    wrapped.chat.completions.create(**ASK)
    with pytest.raises(LimitExceeded):  # one is spent, the other one held for the dead
        wrapped.chat.completions.create(**ASK)
    end = time.monotonic() + 10
    while stands(book) != (COST, 0) and time.monotonic() < end:
        time.sleep(0.05)
    wrapped.chat.completions.create(**ASK)
    assert stands(book) == (2 * COST, 0)
    store.client.close()


# Refusal


class Kept:
    """A sink in memory."""

    def __init__(self) -> None:
        self.outcomes: list[Any] = []

    def write(self, outcome: Any, *, text: str | None = None) -> None:
        self.outcomes.append(outcome)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("strict", [False, True])
def test_a_refused_call_is_never_made_and_says_so(provider: Provider, stream: bool, strict: bool):
    kept = Kept()
    calls = client(provider, ledger(6), strict=strict, sink=kept)
    with pytest.raises(LimitExceeded, match="limit 'team': 7 tokens asked; of 6 per day") as refused:
        calls.chat.completions.create(**ASK, stream=stream)
    assert provider.bodies == []
    outcome = budgetctl.outcome(refused.value)
    assert not outcome.answered
    assert "limit 'team'" in str(outcome.fallback)
    assert outcome.usage.prompt_tokens == 0
    assert [found.id for found in kept.outcomes] == [outcome.id]


async def test_a_refused_call_is_never_made_asynchronously(provider: Provider):
    async with async_client(provider, ledger(6)) as calls:
        with pytest.raises(LimitExceeded):
            await calls.chat.completions.create(**ASK)
        with pytest.raises(LimitExceeded):
            await calls.responses.create(model="m", input="nine char", max_output_tokens=4)
    assert provider.bodies == []


def test_where_the_store_is_away_no_call_is_made(provider: Provider):
    redis = pytest.importorskip("redis")
    from budgetctl.ledger.redis import RedisStore

    with redis.Redis(port=1, retry=None) as away:
        calls = client(provider, ledger(100, store=RedisStore(away)))
        with pytest.raises(LedgerUnavailable, match="the call was not made") as failed:
            calls.chat.completions.create(**ASK)
    assert isinstance(failed.value.__cause__, redis.exceptions.ConnectionError)
    assert provider.bodies == []


def test_an_unknown_price_is_not_free(provider: Provider):
    book = Ledger({"limits": [{"name": "team", "usd": 1, "window": "day"}]})
    with pytest.raises(ConfigError, match="the price of 'm' is unknown"):
        client(provider, book).chat.completions.create(**ASK)
    assert provider.bodies == []


def test_a_call_that_cannot_be_counted_is_not_made(provider: Provider):
    """A fault of ours, which lets calls through unchanged where nobody counts them."""

    class Broken:
        hash = "broken"

        def lookup(self, *args: Any, **named: Any) -> Any:
            raise RuntimeError("broken")

    with pytest.raises(LedgerUnavailable, match="could not be counted"):
        client(provider, ledger(100), capabilities=Broken()).chat.completions.create(**ASK)
    assert provider.bodies == []


def test_observing_counts_and_refuses_nothing(provider: Provider):
    book = ledger(COST)
    calls = client(provider, book, mode="observe")
    first, second = (budgetctl.outcome(calls.chat.completions.create(**ASK)) for _ in range(2))
    assert "would have been refused" not in first.why
    assert "limit 'team'" in second.why
    assert "would have been refused" in second.why
    assert stands(book) == (2 * COST, 0)


# What is charged


LONG: dict[str, Any] = ASK | {"model": "Qwen/Qwen3-8B", "max_tokens": 1_000}


def test_a_stream_that_is_closed_early_is_charged_what_it_used(provider: Provider):
    provider.delay_s = 0.01
    book = ledger(10_000)
    stream = client(provider, book, endpoint="vllm").chat.completions.create(**LONG, stream=True)
    for _ in range(5):
        next(stream)
    assert stands(book) == (0, 1_003)
    stream.close()
    outcome = budgetctl.outcome(stream)
    assert outcome.usage.answer_tokens is not None
    assert stands(book) == (3 + outcome.usage.answer_tokens, 0)
    assert 0 < outcome.usage.answer_tokens < 50


def test_a_stream_whose_thinking_nobody_sees_is_charged_as_it_was_reserved(provider: Provider):
    book = ledger(10_000)
    stream = client(provider, book).chat.completions.create(**(LONG | {"model": "m"}), stream=True)
    next(stream)
    stream.close()
    assert stands(book) == (1_003, 0)


@pytest.mark.parametrize("asked", [None, True, False])
def test_a_stream_that_reports_only_on_request_is_asked_what_it_used(provider: Provider, asked: bool | None):
    book = ledger(1_000_000)
    options = {} if asked is None else {"stream_options": {"include_usage": asked}}
    chunks = list(client(provider, book).chat.completions.create(**ASK, stream=True, **options))
    assert provider.bodies[0]["stream_options"] == {"include_usage": True}
    assert stands(book) == (COST, 0)
    assert [chunk.usage is not None for chunk in chunks if not chunk.choices] == ([True] if asked else [])


def test_a_stream_under_no_limit_or_only_observed_is_asked_nothing(provider: Provider):
    elsewhere = ledger(100, scope={"route": "elsewhere"})
    for observed in (client(provider, elsewhere), client(provider, ledger(10_000), mode="observe")):
        list(observed.chat.completions.create(**ASK, stream=True))
    assert not any("stream_options" in body for body in provider.bodies)


def test_a_stream_that_is_dropped_is_charged_too(provider: Provider):
    book = ledger(10_000)
    stream = client(provider, book, endpoint="vllm").chat.completions.create(**LONG, stream=True)
    next(stream)
    del stream
    spent, held = stands(book)
    assert held == 0
    assert 3 < spent < 100


async def test_a_cancelled_call_is_charged_as_it_was_reserved(provider: Provider):
    """Nobody knows what the provider has generated meanwhile."""
    provider.delay_s = 5
    book = ledger(10_000)
    async with async_client(provider, book) as calls:
        call = asyncio.ensure_future(calls.chat.completions.create(**ASK))
        while not provider.bodies:
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert stands(book) == (COST, 0)


def test_a_call_that_the_provider_fails_costs_nothing(provider: Provider):
    provider.status = 500
    book = ledger(100)
    with pytest.raises(InternalServerError):
        client(provider, book).chat.completions.create(**ASK)
    assert stands(book) == (0, 0)


def test_a_provider_that_is_away_costs_nothing():
    import openai

    book = ledger(100)
    plain = OpenAI(base_url="http://127.0.0.1:1/v1", api_key="x", max_retries=0)
    with pytest.raises(openai.APIConnectionError):
        budgetctl.wrap(plain, policy="full", ledger=book).chat.completions.create(**ASK)
    assert stands(book) == (0, 0)


def test_a_call_that_got_no_connection_costs_nothing(provider: Provider):
    import httpx
    import openai

    provider.delay_s = 0.1
    book = ledger(10_000)
    one = httpx.Client(limits=httpx.Limits(max_connections=1), timeout=httpx.Timeout(10, pool=0.05))
    with OpenAI(base_url=provider.url, api_key="x", max_retries=0, http_client=one) as plain:
        calls = budgetctl.wrap(plain, policy="full", ledger=book)
        with calls.chat.completions.create(**ASK, stream=True) as stream:
            next(iter(stream))
            spent = stands(book)
            with pytest.raises(openai.APITimeoutError):
                calls.chat.completions.create(**ASK)
            assert stands(book) == spent


@pytest.mark.parametrize("tokens", [-1_000_000, 10**17])
def test_counts_that_cannot_be_are_charged_as_reserved(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, tokens: int
):
    monkeypatch.setattr("tests.ledger.provider.USAGE", {"prompt_tokens": 3, "completion_tokens": tokens})
    book = ledger(100)
    client(provider, book).chat.completions.create(**ASK)
    assert stands(book) == (COST, 0)


def test_dollars_are_those_of_the_outcome(provider: Provider):
    book = Ledger({"limits": [{"name": "team", "usd": 1, "window": "day"}]})
    reply = client(provider, book).chat.completions.create(**(ASK | {"model": "gpt-5-mini"}))
    cost = budgetctl.outcome(reply).cost_usd
    assert cost is not None
    assert stands(book) == (pytest.approx(cost, abs=1e-6), 0)


def test_what_the_store_did_not_take_is_charged_before_the_next_call(provider: Provider):
    inner, away = MemoryStore(), [True]

    class Remote:
        reserve, read = inner.reserve, inner.read

        def settle(self, *args: Any) -> Any:
            if away[0]:
                raise ConnectionError("away")
            return inner.settle(*args)

    book = ledger(3 * COST, store=Remote())
    calls = client(provider, book)
    calls.chat.completions.create(**ASK)
    assert stands(book) == (0, COST)
    with pytest.raises(LedgerUnavailable):  # what was spent comes first
        calls.chat.completions.create(**ASK)
    away[0] = False
    calls.chat.completions.create(**ASK)
    assert stands(book) == (2 * COST, 0)


# Who pays


def test_each_tenant_has_a_limit_of_its_own(provider: Provider):
    book = ledger(COST, scope={"tenant": "*"})
    calls = client(provider, book, tenant="house")
    calls.chat.completions.create(**ASK)
    with pytest.raises(LimitExceeded):
        calls.chat.completions.create(**ASK)
    with budgetctl.override(tenant="acme"):
        calls.chat.completions.create(**ASK)
        with pytest.raises(LimitExceeded):
            calls.chat.completions.create(**ASK)
    assert [stands(book, tenant=name) for name in ("house", "acme", "other")] == [(COST, 0)] * 2 + [(0, 0)]


def test_a_controller_is_shared_by_clients_of_different_payers(provider: Provider):
    book = ledger(COST, scope={"key": "*"})
    controller = budgetctl.Controller("full", ledger=book, route="support")
    plain = OpenAI(base_url=provider.url, api_key="x")
    for key in ("a", "b"):
        budgetctl.wrap(plain, controller=controller, key=key).chat.completions.create(**ASK)
    assert stands(book, key="a") == stands(book, key="b") == (COST, 0)


@pytest.mark.parametrize("given", [{"tenant": 3}, {"key": ""}])
def test_payers_have_names(given: dict[str, Any]):
    with pytest.raises(ConfigError, match=next(iter(given))), budgetctl.override(**given):
        pass
    with pytest.raises(ConfigError, match=next(iter(given))):
        budgetctl.Controller(**given)


def test_a_ledger_is_one():
    with pytest.raises(ConfigError, match="ledger: seen 5"):
        budgetctl.Controller(ledger=5)  # type: ignore[arg-type]


def test_the_limits_of_a_configuration_are_kept(provider: Provider):
    settings = budgetctl.Settings.load(
        {
            "policy": "full",
            "routes": {"support": {"usd_per_month": 0.0}, "other": {}},
            "spend": {"limits": [{"name": "all", "tokens": 2 * COST, "window": "day"}]},
        },
        env={},
    )
    plain = OpenAI(base_url=provider.url, api_key="x")
    ask = ASK | {"model": "gpt-5-mini"}
    other = budgetctl.wrap(plain, controller=settings.controller(), route="other")
    other.chat.completions.create(**ask)
    support = budgetctl.wrap(plain, controller=settings.controller(), route="support")
    with pytest.raises(LimitExceeded, match="limit 'route-support'"):
        support.chat.completions.create(**ask)
    other.chat.completions.create(**ask)
    with pytest.raises(LimitExceeded, match="limit 'all'"):
        other.chat.completions.create(**ask)


# Cheaper rungs


QWEN: dict[str, Any] = {"model": "Qwen/Qwen3-8B", "messages": ASK["messages"]}


def sent(provider: Provider) -> Any:
    body = provider.bodies[-1]
    switch = (body.get("chat_template_kwargs") or {}).get("enable_thinking")
    return "off" if switch is False else body.get("thinking_token_budget")


@pytest.mark.parametrize(
    ("room", "expected"), [(50_000, None), (9_999, 8_192), (3_000, 2_048), (600, 32), (520, "off")]
)
def test_a_limit_that_says_cheaper_makes_the_thinking_shorter(provider: Provider, room: int, expected: Any):
    """Uncapped, a call is taken to use 32,768 tokens; capped, its cap with a tenth more and 512 to answer."""
    calls = client(provider, ledger(room, exceeded="cheaper"), endpoint="vllm")
    outcome = budgetctl.outcome(calls.chat.completions.create(**QWEN))
    assert sent(provider) == expected
    assert ("limit 'team'" in outcome.why) == (expected is not None)


def test_where_no_rung_fits_the_call_is_refused(provider: Provider):
    calls = client(provider, ledger(500, exceeded="cheaper"), endpoint="vllm")
    with pytest.raises(LimitExceeded) as refused:
        calls.chat.completions.create(**QWEN)
    assert refused.value.cheaper
    assert provider.bodies == []


def test_what_the_caller_has_pinned_is_not_made_cheaper(provider: Provider):
    calls = client(provider, ledger(3_000, exceeded="cheaper"), endpoint="vllm")
    with pytest.raises(LimitExceeded):
        calls.chat.completions.create(**QWEN, extra_body={"thinking_token_budget": 9_000})
    assert provider.bodies == []


def test_a_budget_is_never_raised(provider: Provider):
    calls = client(provider, ledger(700, exceeded="cheaper"), endpoint="vllm", policy="cap:100")
    calls.chat.completions.create(**QWEN)
    assert sent(provider) == 100
    calls = client(provider, ledger(600, exceeded="cheaper"), endpoint="vllm", policy="cap:100")
    calls.chat.completions.create(**QWEN)
    assert sent(provider) == 32


# Functions


@pytest.mark.parametrize("inside", ["plain", "budgeted"])
def test_a_budgeted_function_is_charged_once(provider: Provider, inside: str):
    book = ledger(10 * COST, scope={"route": "support"})
    controller = budgetctl.Controller("full", ledger=book)
    plain = OpenAI(base_url=provider.url, api_key="x")
    calls = plain if inside == "plain" else budgetctl.wrap(plain, controller=controller)

    @budgeted(controller=controller.with_route("support"))
    def ask(question: str, max_tokens: int = 4) -> Any:
        messages = [{"role": "user", "content": question}]
        return calls.chat.completions.create(model="m", messages=messages, max_tokens=max_tokens)

    ask("nine char", max_tokens=4)
    assert stands(book, route="support") == (COST, 0)
    for _ in range(9):
        ask("nine char", max_tokens=4)
    with pytest.raises(LimitExceeded):
        ask("nine char", max_tokens=4)
    assert len(provider.bodies) == 10


async def test_budgeted_coroutines_and_generators_keep_limits_too(make_store: Any):
    book = ledger(5_000, store=make_store())
    controller = budgetctl.Controller("full", ledger=book)
    closed: list[str] = []

    @budgeted(controller=controller)
    async def ask(question: str, max_tokens: int) -> str:
        return "42"

    @budgeted(controller=controller)
    def words(question: str, max_tokens: int) -> Iterator[str]:
        try:
            yield "42"
            yield "43"
        finally:
            closed.append(question)

    @budgeted(controller=controller)
    async def later(question: str, max_tokens: int) -> Any:
        yield "42"
        yield "43"

    await ask("nine char", max_tokens=1_000)
    held = words("nine char", max_tokens=1_000)
    next(held)
    assert stands(book)[1] == 1_003
    held.close()  # type: ignore[attr-defined]
    assert closed
    async for _ in later("nine char", max_tokens=1_000):
        assert stands(book)[1] == 1_003
    assert stands(book) == (3 * 1_003, 0)  # what they say is no usage
    with pytest.raises(LimitExceeded):
        await ask("nine char", max_tokens=5_000)
    with pytest.raises(LimitExceeded):
        next(words("nine char", max_tokens=5_000))
    with pytest.raises(LimitExceeded):
        await anext(later("nine char", max_tokens=5_000))
