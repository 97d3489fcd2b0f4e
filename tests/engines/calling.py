"""One call in each of the four ways in which callers make it, and what came of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from openai import AsyncOpenAI, OpenAI

import budgetctl
from budgetctl.integrations.openai import wrap
from budgetctl.outcomes import Outcome

from .scripted import Scripted

WAYS = ("whole", "stream", "async whole", "async stream")
MESSAGES: Any = [{"role": "user", "content": "What is it?"}]
QWEN = "Qwen3-8B"
FIELDS = ("reasoning_content", "reasoning", "thinking")


@dataclass
class Got:
    """What the caller got.

    Attributes:
        content: The answer, inline thinking included.
        reasoning: The thinking that came in a field of its own.
        arguments: Those of the tool call.
        finish: Finish reasons: one.
        error: What was raised instead.
        outcome: What the outcome says.
    """

    content: str = ""
    reasoning: str = ""
    arguments: str = ""
    finish: list[str] = field(default_factory=list)
    error: Exception | None = None
    outcome: Outcome = field(init=False)

    def add(self, item: Any) -> None:
        for choice in item.choices:
            said = choice.delta if hasattr(choice, "delta") else choice.message
            self.content += said.content or ""
            self.reasoning += "".join(_text(getattr(said, name, None)) for name in FIELDS)
            self.reasoning += _text(getattr(said, "reasoning_details", None))
            for call in said.tool_calls or ():
                self.arguments += call.function.arguments or ""
            self.finish += [choice.finish_reason] if choice.finish_reason else []


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "".join(part["text"] for part in value) if isinstance(value, Iterable) else ""


async def call(
    server: Scripted,
    way: str,
    policy: str = "cap:50",
    *,
    endpoint: str = "vllm",
    model: str = QWEN,
    retries: int = 0,
    settings: dict[str, Any] | None = None,
    **params: Any,
) -> Got:
    """Make one call through a wrapped client of its own."""
    made = opened(server, way, policy, endpoint=endpoint, retries=retries, settings=settings)
    async with made as client:
        return await through(server, client, way, model=model, **params)


@asynccontextmanager
async def opened(
    server: Scripted,
    way: str,
    policy: str,
    *,
    endpoint: str,
    retries: int = 0,
    settings: dict[str, Any] | None = None,
) -> AsyncIterator[Any]:
    """Open a wrapped client for several calls."""
    kind = AsyncOpenAI if way.startswith("async") else OpenAI
    sdk = kind(base_url=server.url, api_key="x", max_retries=retries, timeout=20)
    client = wrap(sdk, policy=policy, endpoint=endpoint, classifier=None, **(settings or {}))
    try:
        yield client
    finally:
        closing = client.close()
        if closing is not None:
            await closing


async def through(server: Scripted, client: Any, way: str, *, model: str = QWEN, **params: Any) -> Got:
    """Make one call through ``client``; none of its requests is left running, with both still there."""
    got = Got()
    own = {"model": model, "messages": MESSAGES, **params}
    own |= {"stream": True} if way.endswith("stream") else {}
    carrier: Any = None
    try:
        carrier = client.chat.completions.create(**own)
        if way.startswith("async"):
            carrier = await carrier
        if way == "async stream":
            async for chunk in carrier:
                got.add(chunk)
        elif way == "stream":
            for chunk in carrier:
                got.add(chunk)
        else:
            got.add(carrier)
    except Exception as error:
        got.error = error
    assert server.left_open() == []
    got.outcome = budgetctl.outcome(got.error or carrier)
    return got
