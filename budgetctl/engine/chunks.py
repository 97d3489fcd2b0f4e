"""Chat chunks and completions as plain dicts: built, relabelled, put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from budgetctl.capabilities import Capability
from budgetctl.channels import REASONING_FIELDS
from budgetctl.types import Usage

_LABELS = ("id", "created", "model", "system_fingerprint", "service_tier")


class Codec(Protocol):
    """Turns an SDK's objects into plain dicts and back."""

    def dump(self, item: Any) -> dict[str, Any]:
        """Return a chunk or completion as a plain dict."""
        ...

    def chunk(self, body: Mapping[str, Any]) -> Any:
        """Build a chat chunk."""
        ...

    def completion(self, body: Mapping[str, Any]) -> Any:
        """Build a whole chat completion."""
        ...


class Labels:
    """What every chunk of one stream shares: id, model, creation time and the name of its thinking field."""

    def __init__(self) -> None:
        self._shared: dict[str, Any] = {}
        self.reasoning = REASONING_FIELDS[0]
        self.inline = False

    def learn(self, body: Mapping[str, Any], *, reasoning: bool) -> None:
        """Take what the stream's own chunks carry; ``reasoning``: this one brought some."""
        if not self._shared:
            self._shared = {key: body[key] for key in _LABELS if body.get(key) is not None}
        if reasoning:
            delta = delta_of(body)
            carrying = [f for f in REASONING_FIELDS if delta.get(f)]
            self.inline = not carrying
            # Ours are texts: where thinking comes as a list of parts, it goes on in a field for texts.
            self.reasoning = next((f for f in carrying if isinstance(delta[f], str)), self.reasoning)

    def chunk(
        self,
        *,
        content: str | None = None,
        reasoning: str | None = None,
        finish: str | None = None,
        usage: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return a chunk of this stream."""
        delta: dict[str, Any] = {}
        if content is not None:
            delta["content"] = content
        if reasoning is not None:
            delta[self.reasoning] = reasoning
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        body = {"object": "chat.completion.chunk", "choices": [choice], **self._shared}
        return body if usage is None else {**body, "usage": dict(usage)}

    def usage_chunk(self, usage: Mapping[str, Any]) -> dict[str, Any]:
        """Return the chunk without choices that ends a stream whose caller asked for usage."""
        return {"object": "chat.completion.chunk", "choices": [], **self._shared, "usage": dict(usage)}

    def relabel(self, body: Mapping[str, Any], *, said: bool = True) -> dict[str, Any] | None:
        """Return another response's chunk as one of this stream, its end left out; None when that is all.

        Args:
            body: The chunk, or a whole completion.
            said: Take over what it says and thinks, too; without, only the rest, such as tool calls.
        """
        left_out = {"role"} if said else {"role", "content", *REASONING_FIELDS}
        delta = {k: v for k, v in delta_of(body).items() if k not in left_out and v is not None}
        if not delta:
            return None
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        return {"object": "chat.completion.chunk", "choices": [choice], **self._shared}


class Assembler:
    """Puts the chunks of a stream together into the completion that the caller asked for."""

    def __init__(self) -> None:
        self._shared: dict[str, Any] = {}
        self._message: dict[str, Any] = {"role": "assistant", "content": None}
        self._finish: str | None = None
        self._usage: Any = None

    def seed(self, completion: Mapping[str, Any], *, thoughts_only: bool = False) -> None:
        """Start from a completion that came whole, or only from what it thought."""
        self._labels(completion)
        message = dict(delta_of(completion) or self._message)
        if thoughts_only:
            message = {k: v for k, v in message.items() if k == "role" or k in REASONING_FIELDS}
            message["content"] = None
        self._message = message

    def add(self, body: Mapping[str, Any]) -> None:
        """Take one chunk."""
        self._labels(body)
        self._usage = body.get("usage") or self._usage
        for choice in (body.get("choices") or ())[:1]:
            self._finish = choice.get("finish_reason") or self._finish
            for key, value in (choice.get("delta") or {}).items():
                self._merge(key, value)

    def completion(self) -> dict[str, Any]:
        """Return what came together."""
        choice = {"index": 0, "message": self._message, "finish_reason": self._finish, "logprobs": None}
        return {
            "object": "chat.completion",
            **self._shared,
            "choices": [choice],
            "usage": self._usage,
        }

    def _labels(self, body: Mapping[str, Any]) -> None:
        for key in _LABELS:
            if body.get(key) is not None:
                self._shared.setdefault(key, body[key])

    def _merge(self, key: str, value: Any) -> None:
        if value is None or key == "role":
            return
        if key == "tool_calls":
            self._tools(value)
        elif isinstance(value, str):
            self._message[key] = (self._message.get(key) or "") + value
        elif isinstance(value, list):
            self._message[key] = [*(self._message.get(key) or ()), *value]
        else:
            self._message[key] = value

    def _tools(self, calls: Any) -> None:
        known: list[dict[str, Any]] = self._message.setdefault("tool_calls", [])
        for position, call in enumerate(calls):
            at = call.get("index")
            at = position if at is None else at  # whole messages have no index
            while len(known) <= at:
                known.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
            function = call.get("function") or {}
            known[at]["id"] = call.get("id") or known[at]["id"]
            for part in ("name", "arguments"):
                known[at]["function"][part] += function.get(part) or ""


def usage_body(usage: Usage, *, prompt: int | None) -> dict[str, Any]:
    """Return token counts in the provider's form, with where they come from.

    Args:
        usage: Everything that was generated for the call.
        prompt: Tokens of the caller's own prompt, whatever was prefilled again on the way.
    """
    parts = (usage.reasoning_tokens, usage.answer_tokens)
    output = sum(p or 0 for p in parts) if usage.output_tokens is None else usage.output_tokens
    return {
        "prompt_tokens": prompt or 0,
        "completion_tokens": output,
        "total_tokens": (prompt or 0) + output,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "provenance": usage.provenance,
    }


def asked(params: Mapping[str, Any], capability: Capability) -> dict[str, Any]:
    """Return parameters for a stream that we read ourselves, its usage asked for where that is needed."""
    body = {**params, "stream": True}
    if capability.stream_usage == "include_usage":
        body["stream_options"] = {"include_usage": True}
    return body


def as_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a chunk of a raw completion in the form of a chat chunk."""
    choices = [
        {"index": 0, "delta": {"content": c.get("text") or ""}, "finish_reason": c.get("finish_reason")}
        for c in (body.get("choices") or ())[:1]
    ]
    return {"choices": choices, "usage": body.get("usage")}


def with_content(body: Mapping[str, Any], content: str, **more: Any) -> dict[str, Any]:
    """Return a copy of a chunk or completion whose first choice says ``content``, and ``more`` beside it."""
    first, *others = body["choices"]
    key = "delta" if first.get("delta") else "message" if first.get("message") else "delta"
    said = {**(first.get(key) or {}), "content": content, **more}
    return {**body, "choices": [{**first, key: said}, *others]}


def delta_of(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the first choice's delta or message; empty where there is none."""
    choices: Any = body.get("choices") or ({},)
    return choices[0].get("delta") or choices[0].get("message") or {}
