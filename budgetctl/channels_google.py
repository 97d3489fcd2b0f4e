"""What the chunks of Google's ``generateContent`` mean; see :mod:`budgetctl.channels`.

Read in the SDK's own names. Thoughts are delivered, as summaries, only when a call asks for them; their
tokens are counted beside those of the candidates. A count that is left out is zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .types import Event, Usage

_SIGNS = {"text", "thought", "thought_signature"}


class GoogleChannels:
    """Read the chunks of a stream, or a whole response, as plain dicts. Only the first candidate is read."""

    in_thought = False
    untagged = False

    def __init__(self) -> None:
        self._thought = False

    def feed(self, body: Mapping[str, Any]) -> list[Event]:
        """Return the events of one chunk or of a whole response."""
        candidate: Mapping[str, Any] = next(iter(body.get("candidates") or ()), {})
        parts = (candidate.get("content") or {}).get("parts") or ()
        events = [event for part in parts for event in self._part(part)]
        if body.get("usage_metadata"):
            events.append(Event(kind="usage", usage=self._usage(body["usage_metadata"])))
        if candidate.get("finish_reason"):
            reason = str(candidate["finish_reason"])
            events.append(Event(kind="finish", finish="length" if reason == "MAX_TOKENS" else reason.lower()))
        return events

    def flush(self) -> list[Event]:
        """Return what was held back: nothing ever is."""
        return []

    def _part(self, part: Mapping[str, Any]) -> list[Event]:
        text = part.get("text")
        if part.get("thought"):
            self._thought = True
            return [Event(kind="reasoning", text=text)] if text else []
        if text is None:  # a call, or something that is made: code, an image
            return [Event(kind="tool")] if part.keys() - _SIGNS else []
        return [Event(kind="answer", text=text)] if text else []

    def _usage(self, counts: Mapping[str, Any]) -> Usage:
        prompt, answer = counts.get("prompt_token_count"), counts.get("candidates_token_count") or 0
        thought = counts.get("thoughts_token_count")
        if thought is None and not self._thought:
            thought = 0
        return Usage(
            prompt_tokens=None
            if prompt is None
            else prompt + (counts.get("tool_use_prompt_token_count") or 0),
            reasoning_tokens=thought,
            answer_tokens=answer,
            output_tokens=None if thought is None else answer + thought,
            cached_tokens=counts.get("cached_content_token_count") or 0,
            provenance="reported",
        )
