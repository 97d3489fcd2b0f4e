"""The support table of docs/providers.md, made from what really goes over the wire.

``python -m tests.contract.support_table`` writes it. Each case is a call through the real SDK to a server on
loopback, once without and once under each budget: what differs in the body is what carries the budget, and
the outcome says how strong it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import budgetctl
from budgetctl.adapters.base import ABORT_CONTINUE, DEADLINE, OURS
from budgetctl.capabilities import Table
from budgetctl.outcomes import Outcome
from tests.contract.loopback import Provider, flat, serving

PAGE = Path(__file__).resolve().parents[2] / "docs" / "providers.md"
BEGIN, END = "<!-- support table: begin -->", "<!-- support table: end -->"
TABLE = Table.load()
BUDGETS = {
    "Off": "off+stop:none",
    "Cap": "cap:300+stop:none",
    "Effort": "effort:low+stop:none",
    "Deadline": "deadline:60+stop:none",
}
READ_AS_A_STREAM = {"stream", "stream_options.include_usage"}
"""What is added only because the stream is watched."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of endpoint with one model.

    Attributes:
        asks: What the call itself says, for models that do not think unless they are asked to.
    """

    endpoint: str
    model: str
    api: Literal["chat", "responses", "messages", "content"] = "chat"
    asks: Mapping[str, Any] = field(default_factory=dict)

    @property
    def call(self) -> dict[str, Any]:
        """The caller's own parameters."""
        turn = {"messages": [{"role": "user", "content": "Why?"}]}
        said = {
            "chat": turn,
            "responses": {"input": "Why?"},
            "messages": {**turn, "max_tokens": 4000},
            "content": {"contents": "Why?"},
        }
        return {"model": self.model, **said[self.api], **self.asks}

    def client(self, server: Provider) -> Any:
        """Return the SDK's client for it."""
        kinds = {"azure": "azure", "anthropic": "anthropic", "google": "google"}
        return server.client(kinds.get(self.endpoint, "openai"))

    def create(self, client: Any) -> Any:
        """Make the call."""
        calls = {
            "chat": lambda: client.chat.completions.create,
            "responses": lambda: client.responses.create,
            "messages": lambda: client.messages.create,
            "content": lambda: client.models.generate_content,
        }
        return calls[self.api]()(**self.call)


CASES = (
    Case(endpoint="openai", model="gpt-5-mini"),
    Case(endpoint="openai", model="gpt-6-sol"),
    Case(endpoint="openai", model="gpt-6-sol", api="responses"),
    Case(endpoint="azure", model="gpt-5-mini"),
    Case(endpoint="azure", model="gpt-5-mini", api="responses"),
    Case(endpoint="openrouter", model="openai/gpt-5-mini"),
    Case(
        endpoint="openrouter",
        model="anthropic/claude-sonnet-4.5",
        asks={"extra_body": {"reasoning": {"enabled": True}}},
    ),
    Case(endpoint="deepseek", model="deepseek-v4-pro"),
    Case(endpoint="dashscope", model="qwen3.7-plus"),
    Case(endpoint="dashscope", model="qwen-plus", asks={"extra_body": {"enable_thinking": True}}),
    Case(endpoint="xai", model="grok-4.3"),
    Case(endpoint="xai", model="grok-4.6"),
    Case(endpoint="mistral", model="mistral-medium-latest", asks={"reasoning_effort": "high"}),
    Case(endpoint="mistral", model="magistral-medium-latest"),
    Case(endpoint="groq", model="qwen/qwen3-32b"),
    Case(endpoint="groq", model="openai/gpt-oss-120b"),
    Case(endpoint="vllm", model="Qwen/Qwen3-8B"),
    Case(endpoint="vllm", model="openai/gpt-oss-20b"),
    Case(endpoint="sglang", model="Qwen/Qwen3-8B"),
    Case(endpoint="llama.cpp", model="Qwen3-8B"),
    Case(endpoint="ollama", model="qwen3:8b"),
    Case(endpoint="ollama", model="gpt-oss:20b"),
    Case(endpoint="tensorrt-llm", model="Qwen/Qwen3-8B"),
    Case(endpoint="transformers-serve", model="Qwen/Qwen3-8B"),
    Case(endpoint="openai-compatible", model="any-model"),
)
"""What speaks OpenAI's dialects."""

OTHERS = (
    Case(
        endpoint="anthropic",
        model="claude-opus-4-5",
        api="messages",
        asks={"thinking": {"type": "enabled", "budget_tokens": 2048}},
    ),
    Case(
        endpoint="anthropic", model="claude-opus-4-7", api="messages", asks={"thinking": {"type": "adaptive"}}
    ),
    Case(endpoint="google", model="gemini-2.5-flash", api="content"),
    Case(endpoint="google", model="gemini-3-pro-preview", api="content"),
)
"""Dialects with an SDK of their own."""


@dataclass(frozen=True, kw_only=True)
class Captured:
    """A call as it arrives without budgetctl, as it arrives with it, and what its outcome says."""

    before: dict[str, Any]
    after: dict[str, Any]
    outcome: Outcome

    @property
    def changed(self) -> dict[str, Any]:
        """Dotted paths that are new in the body, or have another value."""
        before, after = flat(self.before), flat(self.after)
        ours = READ_AS_A_STREAM - before.keys()
        return {p: value for p, value in after.items() if p not in ours and before.get(p) != value}


def capture(server: Provider, case: Case, policy: str, **settings: Any) -> Captured:
    """Make the call of ``case`` under ``policy``; what it asks for itself is a ceiling."""
    settings = {"caller_values": "ceiling", "classifier": None, "capabilities": TABLE, **settings}
    client = case.client(server)
    case.create(client)
    before = server.bodies.pop()
    reply = case.create(budgetctl.wrap(client, policy=policy, endpoint=case.endpoint, **settings))
    return Captured(before=before, after=server.bodies[-1], outcome=budgetctl.outcome(reply))


def table(server: Provider) -> str:
    """Return the table in Markdown."""
    lines = [f"| Endpoint | Model | {' | '.join(BUDGETS)} |", "|---" * (len(BUDGETS) + 2) + "|"]
    for case in CASES + OTHERS:
        endpoint = f"`{case.endpoint}`" + (", Responses" if case.api == "responses" else "")
        model = f"`{case.model}`" + (", asked to think" if case.asks else "")
        cells = [cell(capture(server, case, policy)) for policy in BUDGETS.values()]
        lines.append(f"| {endpoint} | {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(captured: Captured) -> str:
    """Say how strong the budget is kept, and by what."""
    controls = {c.name: c.strength for c in captured.outcome.controls}
    written = controls.keys() - OURS
    by_us = [name for name in (ABORT_CONTINUE, DEADLINE) if controls.get(name) == "hard"]
    assert bool(written) == bool(captured.changed), "the outcome names what was written"
    if not written and not by_us:
        return "none"
    strength = "hard" if "hard" in [controls[name] for name in (*written, *by_us)] else "advisory"
    how = [f"`{name} = {json.dumps(value)}`" for name, value in sorted(captured.changed.items())]
    return f"{strength}: {', '.join([*how, *['cut by budgetctl'] * bool(by_us)])}"


def page(server: Provider) -> str:
    """Return docs/providers.md with the table as it is now."""
    text = PAGE.read_text(encoding="utf-8")
    head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
    return f"{head}{BEGIN}\n{table(server)}\n{END}{tail}"


if __name__ == "__main__":
    with serving() as provider:
        PAGE.write_text(page(provider), encoding="utf-8")
