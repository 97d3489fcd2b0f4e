"""What the events of Anthropic's Messages API mean; see :mod:`budgetctl.channels`.

Thinking is delivered as text, as a summary, as an empty block with a signature or redacted: there is a block
wherever there was thinking. Its tokens are counted inside ``output_tokens``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .channels import parse_usage
from .types import Event, Usage

_THOUGHTS = ("thinking", "redacted_thinking")
_CALLS = ("tool_use", "server_tool_use", "mcp_tool_use")
_LENGTH = ("max_tokens", "model_context_window_exceeded")
_PROMPT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


class AnthropicChannels:
    """Read the events of a message stream, or a whole message, as plain dicts."""

    in_thought = False
    untagged = False

    def __init__(self) -> None:
        self._thought = False
        self._usage: dict[str, Any] = {}

    def feed(self, body: Mapping[str, Any]) -> list[Event]:
        """Return the events of one stream event or of a whole message."""
        kind = body.get("type")
        if kind == "message":
            return [e for block in body.get("content") or () for e in self._block(block)] + self._end(
                body.get("usage"), body.get("stop_reason")
            )
        if kind == "message_start":
            self._count((body.get("message") or {}).get("usage"))
        elif kind == "content_block_start":
            return self._block(body.get("content_block") or {})
        elif kind == "content_block_delta":
            return self._delta(body.get("delta") or {})
        elif kind == "message_delta":
            return self._end(body.get("usage"), (body.get("delta") or {}).get("stop_reason"))
        return []

    def flush(self) -> list[Event]:
        """Return what was held back: nothing ever is."""
        return []

    def _block(self, block: Mapping[str, Any]) -> list[Event]:
        kind = block.get("type")
        if kind in _THOUGHTS:
            self._thought = True
            return _text("reasoning", block.get("thinking"))
        if kind in _CALLS:
            return [Event(kind="tool")]
        return _text("answer", block.get("text")) if kind == "text" else []

    def _delta(self, delta: Mapping[str, Any]) -> list[Event]:
        kind = delta.get("type")
        if kind == "thinking_delta":
            return _text("reasoning", delta.get("thinking"))
        if kind == "input_json_delta":
            return [Event(kind="tool", text=str(delta.get("partial_json") or ""))]
        return _text("answer", delta.get("text")) if kind == "text_delta" else []

    def _count(self, usage: Any) -> None:
        """Take in counts: those of a later event are totals that replace the earlier ones."""
        self._usage |= {k: v for k, v in (usage or {}).items() if v is not None}

    def _end(self, usage: Any, stop: Any) -> list[Event]:
        self._count(usage)
        events = [Event(kind="usage", usage=self._total())] if usage else []
        if stop:
            events.append(Event(kind="finish", finish="length" if stop in _LENGTH else str(stop)))
        return events

    def _total(self) -> Usage:
        # What was read from the cache or written to it is part of the prompt and not of ``input_tokens``.
        counted = [self._usage[name] for name in _PROMPT if name in self._usage]
        prompt = sum(counted) if counted else None
        usage = replace(
            parse_usage({**self._usage, "input_tokens": prompt}, saw_reasoning=self._thought),
            cached_tokens=self._usage.get("cache_read_input_tokens"),
            cache_write_tokens=self._usage.get("cache_creation_input_tokens"),
        )
        if usage.reasoning_tokens is None and not self._thought:
            return replace(usage, reasoning_tokens=0, answer_tokens=usage.output_tokens)
        return usage


def _text(kind: Any, text: Any) -> list[Event]:
    return [Event(kind=kind, text=text)] if text else []
