"""``@budgeted`` around plain clients: what comes back is read in whatever dialect it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import budgetctl
from budgetctl import budgeted
from budgetctl.types import StopReason
from tests.contract.loopback import serving
from tests.integrations.hosted import AnthropicServer, GeminiServer, at, running

ANSWER = 4
"""Tokens of the servers' answer."""


@pytest.fixture
def claude() -> Iterator[tuple[AnthropicServer, Any]]:
    sdk = pytest.importorskip("anthropic")
    with running(AnthropicServer()) as server, sdk.Anthropic(base_url=server.url, api_key="x") as client:
        yield server, client


@pytest.fixture
def gemini() -> Iterator[tuple[GeminiServer, Any]]:
    genai = pytest.importorskip("google.genai")
    with running(GeminiServer()) as server:
        client = genai.Client(api_key="x", http_options={"base_url": server.url})
        yield server, client
        client.close()


def tokens(row: budgetctl.Outcome) -> tuple[int | None, ...]:
    return row.prompt_tokens, row.reasoning_tokens, row.answer_tokens


class Rows:
    def __init__(self) -> None:
        self.rows: list[budgetctl.Outcome] = []

    def write(self, outcome: budgetctl.Outcome, *, text: str | None = None) -> None:
        self.rows.append(outcome)


OPUS: dict[str, Any] = {"model": "claude-opus-5", "endpoint": "anthropic", "classifier": None}
FLASH: dict[str, Any] = {"model": "gemini-2.5-flash", "endpoint": "google", "classifier": None}
ASKED: dict[str, Any] = {
    "model": "claude-opus-5",
    "max_tokens": 9000,
    "messages": [{"role": "user", "content": "Why?"}],
}


def test_a_message_is_read(claude: Any):
    server, client = claude

    @budgeted("effort:low", **OPUS)
    def ask(question: str, **llm: Any) -> Any:
        return client.messages.create(**ASKED, **llm)

    row = budgetctl.outcome(ask("Why?"))
    assert at(server.bodies[0], "output_config.effort") == "low"
    assert tokens(row) == (10, 20, ANSWER)
    assert (row.usage.cached_tokens, row.answered, row.stop.reason) == (3, True, StopReason.NATURAL)
    assert row.ttfo_s == row.e2e_s


@pytest.mark.parametrize("helper", [False, True])
def test_the_events_of_a_message_are_read(claude: Any, helper: bool):
    _, client = claude
    sink = Rows()

    @budgeted("off", sinks=[sink], **OPUS)
    def ask(question: str, **llm: Any) -> Iterator[Any]:
        if helper:
            with client.messages.stream(**ASKED, **llm) as stream:
                yield from stream
        else:
            yield from client.messages.create(**ASKED, stream=True, **llm)

    assert list(ask("Why?"))
    [row] = sink.rows
    assert tokens(row) == (10, 0, ANSWER)
    assert (row.answered, row.stop.reason, row.usage.provenance) == (True, StopReason.OFF, "reported")
    assert row.ttfo_s is not None
    assert row.e2e_s is not None
    assert row.ttfo_s <= row.e2e_s


def test_an_output_limit_and_a_tool_call_are_seen(claude: Any):
    server, client = claude

    @budgeted("full", **OPUS)
    def ask(question: str, **llm: Any) -> Any:
        return client.messages.create(**ASKED, **llm)

    server.scenario = "cut"
    assert budgetctl.outcome(ask("Why?")).stop.reason is StopReason.LENGTH
    server.scenario = "tools"
    assert budgetctl.outcome(ask("Why?")).answered


def test_a_stream_that_is_still_to_be_opened_is_not_taken_for_an_answer(claude: Any):
    _, client = claude
    sink = Rows()

    @budgeted("full", sinks=[sink], **OPUS)
    def ask(question: str, **llm: Any) -> Any:
        return client.messages.stream(**ASKED, **llm)

    ask("Why?")
    assert [(row.answered, row.stop.reason) for row in sink.rows] == [(False, StopReason.UNKNOWN)]


def test_a_generated_content_is_read(gemini: Any):
    server, client = gemini

    @budgeted("cap:15", **FLASH)
    def ask(question: str, config: Any = None) -> Any:
        return client.models.generate_content(model="gemini-2.5-flash", contents=question, config=config)

    row = budgetctl.outcome(ask("Why?"))
    assert at(server.bodies[0], "generationConfig.thinkingConfig.thinking_budget") == 15
    assert tokens(row) == (10, 15, ANSWER)
    assert row.answered


def test_the_chunks_of_a_generated_content_are_read(gemini: Any):
    _, client = gemini
    sink = Rows()

    @budgeted("cap:15", sinks=[sink], **FLASH)
    def ask(question: str, config: Any = None) -> Iterator[Any]:
        yield from client.models.generate_content_stream(
            model="gemini-2.5-flash", contents=question, config=config
        )

    assert list(ask("Why?"))
    [row] = sink.rows
    assert tokens(row) == (10, 15, ANSWER)
    assert (row.answered, row.stop.reason) == (True, StopReason.NATURAL)


def test_a_response_of_the_responses_api_is_read_whole_and_as_a_stream():
    sink = Rows()
    with serving() as provider:
        client = provider.client()

        def ask(question: str, **llm: Any) -> Any:
            return client.responses.create(model="gpt-5-mini", input=question)

        def stream(question: str, **llm: Any) -> Iterator[Any]:
            yield from client.responses.create(model="gpt-5-mini", input=question, stream=True)

        around = budgeted("full", sinks=[sink], classifier=None, endpoint="openai", model="gpt-5-mini")
        around(ask)("Why?")
        assert list(around(stream)("Why?"))
    assert [(row.prompt_tokens, row.stop.reason) for row in sink.rows] == [(3, StopReason.NATURAL)] * 2
    assert sink.rows[0].answered


@pytest.mark.parametrize("result", [{"output": "42"}, {"response": "42"}, {"type": 1}, 42])
def test_what_is_of_no_dialect_is_an_answer_all_the_same(result: Any):
    sink = Rows()

    @budgeted("full", classifier=None, sinks=[sink])
    def ask(question: str) -> Any:
        return result

    assert ask("Why?") == result
    assert [(row.answered, row.usage.provenance) for row in sink.rows] == [(True, "estimated")]


def test_a_text_that_looks_like_the_beginning_of_a_tag_is_an_answer():
    @budgeted("full", classifier=None)
    def ask(question: str) -> str:
        return "<"

    rows = Rows()
    ask.controller.sinks = (rows,)
    ask("Why?")
    assert rows.rows[0].answered
