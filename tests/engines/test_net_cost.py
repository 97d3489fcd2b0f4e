"""The cost of a call is net: whatever a budget made necessary is in it. One test for each thing to forget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from budgetctl.evals.metrics import evaluate
from openai import OpenAI

import budgetctl
from budgetctl.controller import Controller
from budgetctl.integrations.openai import wrap
from budgetctl.pricing import Prices
from budgetctl.session import Acted, Session
from budgetctl.types import Query, StopReason, Timing, Usage
from tests.evals.worlds import results
from tests.test_controller import render

from .scripted import ANSWER, Scripted, serving

MESSAGES: Any = [{"role": "user", "content": "What is it?"}]
QWEN = "Qwen3-8B"
PRICES = Prices.load({QWEN: {"input": 1.0, "output": 10.0}})
Ask = Callable[..., Any]


def usd(*, prompt: int, output: int) -> Any:
    return pytest.approx((prompt * 1.0 + output * 10.0) / 1e6)


@pytest.fixture
def server() -> Iterator[Scripted]:
    with serving() as running:
        yield running


@pytest.fixture
def ask(server: Scripted) -> Iterator[Ask]:
    with OpenAI(base_url=server.url, api_key="x", max_retries=0) as sdk:

        def call(policy: str, *, endpoint: str) -> Any:
            client = wrap(sdk, policy=policy, endpoint=endpoint, classifier=None, prices=PRICES)
            return budgetctl.outcome(client.chat.completions.create(model=QWEN, messages=MESSAGES))

        yield call


def session(**settings: Any) -> Session:
    controller = Controller("full", classifier=None, **settings)
    return controller.session(
        Query.from_text("Why?", model=QWEN), params={}, endpoint="in-process", render=render
    )


def spent(call: Session, usage: Usage, **rest: Any) -> float | None:
    outcome = call.finish(usage=usage, timing=Timing(), stop=StopReason.NATURAL, answered=True, **rest)
    assert outcome is not None
    return outcome.cost_usd


def test_a_plain_call_costs_what_was_reported(server: Scripted, ask: Ask):
    found = ask("full", endpoint="vllm")
    assert found.cost_usd == usd(prompt=10, output=400 + len(ANSWER))


def test_a_recovery_is_charged_with_the_prompt_that_it_reads_again(server: Scripted, ask: Ask):
    server.scenario = "empty under a cap"
    found = ask("cap:50", endpoint="vllm")
    assert server.paths[-2:] == ["/chat/completions", "/completions"]
    assert (found.stop.extra_calls, found.stop.prefill_tokens) == (1, 60)
    assert found.cost_usd == usd(prompt=10 + 60, output=50 + len(ANSWER))


def test_a_second_call_with_the_callers_own_parameters_is_charged_beside_the_first(
    server: Scripted, ask: Ask
):
    server.scenario, server.continuation = "empty under a cap", [()]
    found = ask("cap:50", endpoint="vllm")
    assert server.paths[-1] == "/chat/completions"
    assert found.stop.extra_calls == len(server.paths) - 1 >= 2
    generated = 50 + (400 + len(ANSWER))
    assert found.cost_usd == usd(prompt=10 + 60 + 10, output=generated)


def test_a_call_that_was_refused_is_not_charged_twice(server: Scripted, ask: Ask):
    server.refuses, server.thought = ("thinking_token_budget",), 5
    found = ask("cap:50", endpoint="vllm")
    assert len(server.paths) == 2
    assert found.cost_usd == usd(prompt=10, output=5 + len(ANSWER))


def test_a_part_of_a_call_that_nobody_counted_makes_its_cost_unknown(server: Scripted, ask: Ask):
    server.scenario = "no completions"
    found = ask("cap:50", endpoint="transformers-serve")
    assert found.stop.extra_calls == 2
    assert (found.usage.prompt_tokens, found.cost_usd) == (None, None)


def test_probes_are_charged_with_what_they_read(server: Scripted):
    usage = Usage(prompt_tokens=100, reasoning_tokens=200, answer_tokens=20)
    cost = spent(session(prices=PRICES), usage, probe_tokens=30, probe_prefill=40)
    assert cost == usd(prompt=100 + 40, output=200 + 20 + 30)


def test_a_prompt_read_twice_is_charged_twice_and_at_its_own_tier():
    tiers = [{"above": 1000, "input": 2, "output": 20}]
    prices = Prices.load({QWEN: {"input": 1, "output": 10, "tiers": tiers}})
    usage = Usage(prompt_tokens=1700, reasoning_tokens=100, answer_tokens=0)
    acted = Acted(extra_calls=1, prefill_tokens=900)
    assert spent(session(prices=prices), usage, acted=acted) == usd(prompt=1700, output=100)


def test_a_lost_cache_is_in_the_cost_and_told_apart():
    prices = Prices.load({QWEN: {"input": 1, "output": 10, "cached_input": 0.1}})
    kept = Usage(prompt_tokens=1000, cached_tokens=900, reasoning_tokens=0, answer_tokens=10)
    lost = Usage(prompt_tokens=1000, cached_tokens=0, reasoning_tokens=0, answer_tokens=10)
    costs = [spent(session(prices=prices), usage) for usage in (kept, lost)]
    assert costs[1] - costs[0] == pytest.approx(prices.cache_lost(QWEN, lost, 900)) == pytest.approx(0.00081)


def test_a_policy_that_costs_more_saves_less_than_nothing():
    runs = {"full": results([True, True], [100, 100]), "auto": results([True, True], [150, 160])}
    (row,) = evaluate(runs, rng=np.random.default_rng(0), asked=["auto"]).policies
    assert row.token_saving is not None
    assert row.token_saving < 0
