"""The tables of docs/anthropic.md and docs/google.md, made from what really goes over the wire.

``python -m tests.integrations.hosted_table`` writes them. Each case is a call through the real SDK to a
server on loopback, once under each budget: what is new in the body is what carries the budget.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anthropic import Anthropic
from google import genai

import budgetctl
from tests.integrations.hosted import AnthropicServer, GeminiServer, HostedServer, running

DOCS = Path(__file__).resolve().parents[2] / "docs"
BEGIN, END = "<!-- support table: begin -->", "<!-- support table: end -->"
BUDGETS = {"Off": "off", "Cap of 2,000 tokens": "cap:2000", "Effort": "effort:low", "Deadline": "deadline:60"}
ADAPTIVE = {"thinking": {"type": "adaptive"}}
ENABLED = {"thinking": {"type": "enabled", "budget_tokens": 8000}}
ANTHROPIC: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("claude-haiku-4-5", {}),
    ("claude-haiku-4-5", ENABLED),
    ("claude-sonnet-4-6", ENABLED),
    ("claude-sonnet-4-6", ADAPTIVE),
    ("claude-opus-4-8", {}),
    ("claude-opus-4-8", ADAPTIVE),
    ("claude-opus-5", {}),
    ("claude-sonnet-5-5", {}),
    ("claude-haiku-5-5", {}),
    ("claude-opus-5-5", {}),
    ("claude-fable-5", {}),
)
GOOGLE: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("gemini-2.5-flash-lite", {}),
    ("gemini-2.5-flash-lite", {"thinking_config": {"thinking_budget": -1}}),
    ("gemini-2.5-flash", {}),
    ("gemini-2.5-pro", {}),
    ("gemini-3-pro-preview", {}),
    ("gemini-3.1-pro-preview", {}),
    ("gemini-3.5-flash", {}),
    ("gemini-3.8-flash", {}),
)


@dataclass(frozen=True, kw_only=True)
class Page:
    """One table.

    Attributes:
        ask: Makes a call of a model with parameters of its own, under a policy; returns its outcome.
        below: Where in the body the parameters of thinking are; names are given from there on.
    """

    name: str
    server: Callable[[], HostedServer]
    cases: tuple[tuple[str, Mapping[str, Any]], ...]
    ask: Callable[[HostedServer, str, Mapping[str, Any], str], budgetctl.Outcome]
    below: str = ""

    def text(self) -> str:
        """Return the page with the table as it is now."""
        path = DOCS / self.name
        before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
        with running(self.server()) as server:
            rows = "\n".join(self._rows(server))
        return f"{before}{BEGIN}\n{rows}\n{END}{rest.partition(END)[2]}"

    def _rows(self, server: HostedServer) -> Iterator[str]:
        yield f"| Model | The call says | {' | '.join(BUDGETS)} |"
        yield "|---" * (len(BUDGETS) + 2) + "|"
        for model, own in self.cases:
            cells = [self._cell(server, model, own, policy) for policy in BUDGETS.values()]
            said = ", ".join(f"`{name} = {_json(value)}`" for name, value in _flat(own)) or "nothing"
            yield f"| `{model}` | {said} | {' | '.join(cells)} |"

    def _cell(self, server: HostedServer, model: str, own: Mapping[str, Any], policy: str) -> str:
        self.ask(server, model, own, "full")
        outcome = self.ask(server, model, own, policy)
        before, after = (dict(_flat(body)) for body in server.bodies[-2:])
        sent = {name: value for name, value in after.items() if before.get(name) != value}
        strengths = {control.strength for control in outcome.controls} - {"none"}
        if not sent:
            return "none"
        how = [f"`{name.removeprefix(self.below)} = {_json(value)}`" for name, value in sorted(sent.items())]
        return f"{'hard' if 'hard' in strengths else 'advisory'}: {', '.join(how)}"


def _anthropic(server: HostedServer, model: str, own: Mapping[str, Any], policy: str) -> budgetctl.Outcome:
    with Anthropic(base_url=server.url, api_key="none") as client:
        wrapped = budgetctl.wrap(client, policy=policy, caller_values="ceiling", classifier=None)
        messages: Any = [{"role": "user", "content": "Why?"}]
        create: Any = wrapped.messages.create
        return budgetctl.outcome(create(model=model, max_tokens=16_000, messages=messages, **own))


def _google(server: HostedServer, model: str, own: Mapping[str, Any], policy: str) -> budgetctl.Outcome:
    client = genai.Client(vertexai=False, api_key="none", http_options={"base_url": server.url})
    wrapped = budgetctl.wrap(client, policy=policy, caller_values="ceiling", classifier=None)
    ask: Any = wrapped.models.generate_content
    outcome = budgetctl.outcome(ask(model=model, contents="Why?", **({"config": dict(own)} if own else {})))
    client.close()
    return outcome


def _flat(body: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in body.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{under}{name}.")
        else:
            yield f"{under}{name}", value


def _json(value: Any) -> str:
    return json.dumps(value)


PAGES = (
    Page(name="anthropic.md", server=AnthropicServer, cases=ANTHROPIC, ask=_anthropic),
    Page(
        name="google.md",
        server=GeminiServer,
        cases=GOOGLE,
        ask=_google,
        below="generationConfig.thinkingConfig.",
    ),
)

if __name__ == "__main__":
    for page in PAGES:
        (DOCS / page.name).write_text(page.text(), encoding="utf-8")
