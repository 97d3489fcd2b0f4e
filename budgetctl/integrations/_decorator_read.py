"""What comes back from a budgeted function: responses and chunks of any dialect, or plain text."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any

from budgetctl.channels import ChatChannels, ResponsesChannels, response_id
from budgetctl.channels_anthropic import AnthropicChannels
from budgetctl.channels_google import GoogleChannels
from budgetctl.engine import Transcript
from budgetctl.engine.transcript import Channels, as_whole
from budgetctl.types import Event, Timing, Usage

_LATER = (Iterator, AsyncIterator, AbstractContextManager, AbstractAsyncContextManager)


class Listener:
    """Hears what a function returns or yields.

    Attributes:
        response: The id of a response of the Responses API.
    """

    def __init__(self, *, clock: Callable[[], float], started: float) -> None:
        self._transcript = Transcript(_Channels(), clock=clock, started=started)
        self._whole = False
        self._something = False
        self.response: str | None = None

    @property
    def finish(self) -> str | None:
        """The finish reason."""
        return self._transcript.finish

    @property
    def answered(self) -> bool:
        """Whether there is an answer of any kind, as far as can be told."""
        return self._something or not self._transcript.empty

    def item(self, item: Any) -> list[Event]:
        """Take an item of a stream."""
        body = _body(item)
        if body is None:
            return []
        self.response = response_id(body) or self.response
        return self._transcript.feed(body)

    def whole(self, result: Any) -> None:
        """Take all that a function returned. What cannot be read is an answer, unless it is nothing."""
        self._whole = True
        body = _body(result)
        if body is not None and _dialect(body) is not None:
            self.response = response_id(body)
            self._transcript.read(body)
        self.end()
        read = self._transcript.heard or self._transcript.finish is not None or isinstance(result, str)
        self._something = not read and result is not None

    def end(self) -> None:
        """Take what was held back: there is no more."""
        self._transcript.flush()

    def usage(self) -> Usage:
        """Return the tokens, with their provenance."""
        known = self._transcript.reported is not None or self._transcript.reasoning
        return self._transcript.usage(visible=False) if known else Usage()

    def timing(self) -> Timing:
        """Return the seconds until the first token, the first answer token and now."""
        timing = self._transcript.timing()
        return as_whole(timing, answered=self.answered) if self._whole else timing


def unread(result: Any) -> bool:
    """Whether ``result`` is still to bring what it stands for."""
    return isinstance(result, _LATER) or inspect.isawaitable(result)


class _Channels:
    """Reads bodies in the dialect of the first one that has any."""

    in_thought = False
    untagged = False

    def __init__(self) -> None:
        self._own: Channels | None = None

    def feed(self, body: Mapping[str, Any]) -> list[Event]:
        if self._own is None:
            self._own = _dialect(body)
        return [] if self._own is None else self._own.feed(body)

    def flush(self) -> list[Event]:
        return [] if self._own is None else self._own.flush()


def _dialect(body: Mapping[str, Any]) -> Channels | None:
    kind = str(body.get("type") or "")
    if "choices" in body:
        return ChatChannels()
    if kind.startswith("response.") or body.get("object") == "response":
        return ResponsesChannels()
    if kind.startswith(("message", "content_block")):
        return AnthropicChannels()
    return GoogleChannels() if "candidates" in body or "usage_metadata" in body else None


def _body(item: Any) -> Mapping[str, Any] | None:
    """Return a response or a chunk as a plain dict; text as a chunk of chat."""
    if isinstance(item, str):
        return {"choices": [{"delta": {"content": item}}]}
    if isinstance(item, Mapping):
        return item
    if type(item).__module__.startswith("google.genai."):
        from budgetctl.integrations._google_io import dump

        return dump(item)
    dumped: Callable[[], Mapping[str, Any]] | None = getattr(item, "model_dump", None)
    return None if dumped is None else dumped()
