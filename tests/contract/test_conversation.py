"""One decision per conversation on the wire, and what it costs where there is another one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import budgetctl
from budgetctl.controller import Controller
from budgetctl.types import Budget, Limits
from tests.contract.loopback import Provider, serving

MODEL, CLAUDE = "gpt-5-mini", "claude-opus-5"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with serving() as provider:
        yield provider


class Alternating:
    """A policy that asks for another level at every call."""

    needs_estimate = False

    def __init__(self) -> None:
        self.asked = 0

    def budget(self, situation: Any) -> Budget:
        self.asked += 1
        return Budget(effort=("low", "high")[self.asked % 2])

    def __str__(self) -> str:
        return "alternating"


def wrap(provider: Provider, sdk: str = "openai", **settings: Any) -> Any:
    if sdk == "anthropic":
        pytest.importorskip("anthropic")
    given = {} if sdk == "anthropic" else {"endpoint": "openai"}
    settings = {"policy": Alternating(), "classifier": None} | settings
    return budgetctl.wrap(provider.client(sdk), **given, **settings)


def levels(provider: Provider) -> list[str]:
    bodies = provider.bodies
    return [(b.get("reasoning") or b.get("output_config") or {}).get("effort") for b in bodies]


def turns(*said: str) -> list[dict[str, str]]:
    roles = ("user", "assistant") * len(said)
    return [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_goes_on_by_the_id_of_its_last_response(provider: Provider, stream: bool):
    client, last = wrap(provider), None
    for text in ("Why?", "And why that?", "So?"):
        answer = client.responses.create(
            model=MODEL, input=text, stream=stream, **({"previous_response_id": last} if last else {})
        )
        last = [event.response.id for event in answer][-1] if stream else answer.id
    client.responses.create(model=MODEL, input="Another one?")
    assert levels(provider) == ["high", "high", "high", "low"]


def test_a_branch_of_a_conversation_is_of_the_same_conversation(provider: Provider):
    client = wrap(provider)
    first = client.responses.create(model=MODEL, input="Why?")
    other = client.responses.create(model=MODEL, input="Who?")
    for before in (first, other, first):
        client.responses.create(model=MODEL, input="And?", previous_response_id=before.id)
    assert levels(provider) == ["high", "low", "high", "low", "high"]


def test_a_response_that_nobody_of_ours_has_seen_begins_what_follows_it(provider: Provider):
    client = wrap(provider)
    for _ in range(2):
        client.responses.create(model=MODEL, input="And?", previous_response_id="resp_of_yesterday")
    client.responses.create(model=MODEL, input="And?", previous_response_id="resp_of_last_week")
    assert levels(provider) == ["high", "high", "low"]


def test_the_openings_of_conversations_with_anthropic_tell_them_apart(provider: Provider):
    client = wrap(provider, "anthropic")
    for said in (("Why?",), ("Who?",), ("Why?", "Because.", "So?"), ("Who?", "I.", "So?")):
        client.messages.create(model=CLAUDE, max_tokens=9000, messages=turns(*said))
    assert levels(provider) == ["high", "low", "high", "low"]


def test_a_budgeted_function_around_a_plain_client_passes_the_id_on(provider: Provider):
    client = provider.client()

    @budgetctl.budgeted(Alternating(), endpoint="openai", model=MODEL, classifier=None)
    def ask(question: str, reasoning_effort: str = "high", **llm: Any) -> Any:
        return client.responses.create(
            model=MODEL, input=question, reasoning={"effort": reasoning_effort}, **llm
        )

    for conversation in ("c1", "c2", "c1"):
        last = ask("And?", conversation=conversation)
    ask("And?", previous_response_id=last.id)
    assert levels(provider) == ["high", "low", "high", "high"]


def test_what_another_policy_costs_a_conversation_is_said_and_counted(provider: Provider, tmp_path: Path):
    client = wrap(provider, "anthropic", policy="effort:low", sink=tmp_path / "outcomes.jsonl")
    options: dict[str, Any] = {"model": CLAUDE, "max_tokens": 9000}
    provider.usage = {"input_tokens": 10, "cache_creation_input_tokens": 50_000, "cache_read_input_tokens": 0}
    first = client.messages.create(**options, messages=turns("Why?"))
    with budgetctl.override("effort:medium"):
        later = client.messages.create(**options, messages=turns("Why?", "Because.", "So?"))
    gives_up = (
        "gives up the conversation's prompt cache (50,000 tokens): its last call asked for other thinking"
    )
    assert gives_up in budgetctl.outcome(later).why
    lost = budgetctl.outcome(later).cache_lost
    assert lost is not None
    assert (lost.tokens, lost.usd) == (50_000, pytest.approx(50_000 * (6.25 - 0.5) / 1e6))
    assert budgetctl.outcome(first).cache_lost is None
    rows = [json.loads(line) for line in (tmp_path / "outcomes.jsonl").read_text().splitlines()]
    assert [row["cache_lost"] is not None for row in rows] == [False, True]
    assert rows[0]["usage"]["cache_write_tokens"] == 50_000


def test_a_limit_of_the_call_is_said_to_give_the_cache_up_as_well(provider: Provider):
    client = wrap(provider, "anthropic", policy="effort:medium")
    options: dict[str, Any] = {"model": CLAUDE, "max_tokens": 9000}
    provider.usage = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    client.messages.create(**options, messages=turns("Why?"))
    limited = Controller("effort:medium", classifier=None, limits=Limits(reasoning_tokens=1000))
    limited.conversations = client._budgetctl.controller.conversations
    later = budgetctl.wrap(provider.client("anthropic"), controller=limited)
    answer = later.messages.create(**options, messages=turns("Why?", "Because.", "So?"))
    assert levels(provider) == ["medium", "low"]
    assert "gives up the conversation's prompt cache: its last call" in budgetctl.outcome(answer).why
    assert budgetctl.outcome(answer).cache_lost is None, "the provider counted nothing that was lost"


def test_nothing_is_lost_where_the_level_stays_the_same(provider: Provider):
    client = wrap(provider, "anthropic", policy="effort:low")
    options: dict[str, Any] = {"model": CLAUDE, "max_tokens": 9000}
    provider.usage = {"cache_creation_input_tokens": 50_000, "cache_read_input_tokens": 0}
    client.messages.create(**options, messages=turns("Why?"))
    with budgetctl.override("cap:1000"):  # which is the level low as well
        later = client.messages.create(**options, messages=turns("Why?", "Because.", "So?"))
    assert levels(provider) == ["low", "low"]
    assert budgetctl.outcome(later).cache_lost is None
    assert "gives up" not in budgetctl.outcome(later).why


def test_cached_prompt_tokens_cost_what_they_cost(provider: Provider):
    client = wrap(provider, policy="full")
    provider.usage = {"prompt_tokens": 100_000, "prompt_tokens_details": {"cached_tokens": 90_000}}
    answer = client.chat.completions.create(model=MODEL, messages=turns("Why?"))
    outcome = budgetctl.outcome(answer)
    assert outcome.usage.cached_tokens == 90_000
    assert outcome.cost_usd == pytest.approx((10_000 * 0.25 + 90_000 * 0.025 + 4 * 2) / 1e6)


def test_observing_keeps_no_budget_and_gives_nothing_up(provider: Provider):
    client = wrap(
        provider, controller=Controller(Alternating(), classifier=None, mode="observe"), policy=None
    )
    for said in (("Why?",), ("Why?", "Because.", "So?")):
        client.chat.completions.create(model=MODEL, messages=turns(*said))
    assert all("reasoning_effort" not in body for body in provider.bodies)
