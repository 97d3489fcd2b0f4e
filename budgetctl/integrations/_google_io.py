"""The io of the Google integration: contents as messages, responses as dicts, streams that can be closed."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from google.genai import types

_ROLES = {"model": "assistant", None: "user"}


class Opened:
    """A stream whose request has gone out: the SDK sends it when the first chunk is asked for."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._first = next(stream, None)

    def __next__(self) -> Any:
        first, self._first = self._first, None
        return next(self._stream) if first is None else first

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()


class AsyncOpened:
    """The asynchronous twin of :class:`Opened`; the SDK has sent the request.

    Args:
        stream: What the SDK returned.
        client: What it was sent by.
    """

    def __init__(self, stream: AsyncIterator[Any], *, client: Keeping) -> None:
        self._stream: Any = stream
        self._client = client

    async def __anext__(self) -> Any:
        return await anext(self._stream)

    async def close(self) -> None:
        """Close the connection."""
        await self._stream.aclose()
        body = getattr(self._client.response, "response_stream", None)  # of httpx, or of aiohttp
        close = getattr(body, "aclose", None) or getattr(body, "close", None)
        closing = None if close is None else close()
        if inspect.isawaitable(closing):
            await closing


class Keeping:
    """The SDK's own API client, for one stream, whose response it keeps.

    The SDK leaves a stream that its caller has left open until a garbage collection comes by, and the model
    goes on meanwhile.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.response: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def async_request_streamed(self, *arguments: Any, **named: Any) -> Any:
        """Send a request; what the SDK's method calls of itself, it calls here."""
        return await type(self._client).async_request_streamed(self, *arguments, **named)

    async def _async_request(self, *arguments: Any, **named: Any) -> Any:
        self.response = await self._client._async_request(*arguments, **named)
        return self.response


def plain_config(config: Any) -> dict[str, Any]:
    """Return what a configuration says as a mapping; its values stay the caller's own objects.

    Only ``thinking_config`` is made a mapping as well, in the SDK's names.
    """
    found = _fields(config)
    thinking = found.get("thinking_config")
    if thinking is not None:
        thinking = types.ThinkingConfig.model_validate(thinking)
        found["thinking_config"] = thinking.model_dump(mode="json", exclude_none=True)
    return found


def with_plain(config: Any, wanted: Mapping[str, Any]) -> Any:
    """Return ``config`` with the ``thinking_config`` of ``wanted``: itself where that is its own."""
    thinking = wanted.get("thinking_config")
    if thinking == plain_config(config).get("thinking_config"):
        return config
    changed = {"thinking_config": None if thinking is None else types.ThinkingConfig(**thinking)}
    if isinstance(config, types.GenerateContentConfig):
        return config.model_copy(update=changed)
    return types.GenerateContentConfig(**{**_fields(config), **changed})


def messages(contents: Any) -> Iterator[dict[str, str]]:
    """Return the texts of ``contents`` as chat messages. Loose parts are the user's, one turn together."""
    loose: list[str] = []
    for item in contents if isinstance(contents, list | tuple) else [contents]:
        fields = _fields(item)
        if "parts" not in fields and "role" not in fields:
            loose.append(item if isinstance(item, str) else str(fields.get("text") or ""))
            continue
        if loose:
            yield {"role": "user", "content": "\n".join(loose)}
            loose = []
        parts = [_fields(part) for part in fields.get("parts") or ()]
        role = fields.get("role")
        if any(part.get("function_response") for part in parts):
            role = "tool"
        text = "\n".join(str(part["text"]) for part in parts if part.get("text") and not part.get("thought"))
        yield {"role": _ROLES.get(role, str(role)), "content": text}
    if loose:
        yield {"role": "user", "content": "\n".join(loose)}


def dump(response: Any) -> Mapping[str, Any] | None:
    """Return of a response or chunk what is read of it; what is made (an image) by its name only."""
    if not isinstance(response, types.GenerateContentResponse):
        return None
    if response.candidates is None and response.usage_metadata is None:
        return None
    found: dict[str, Any] = {"candidates": [_candidate(one) for one in (response.candidates or ())[:1]]}
    if response.usage_metadata is not None:
        found["usage_metadata"] = response.usage_metadata.model_dump(mode="json", exclude_none=True)
    return found


def _candidate(candidate: types.Candidate) -> dict[str, Any]:
    parts = candidate.content.parts if candidate.content is not None else None
    reason = candidate.finish_reason
    return {
        "content": {"parts": [_part(part) for part in parts or ()]},
        "finish_reason": getattr(reason, "value", reason),
    }


def _part(part: types.Part) -> dict[str, Any]:
    said = {"text": part.text, "thought": part.thought}
    made = {name: True for name in part.model_fields_set if getattr(part, name) is not None}
    return made | {name: value for name, value in said.items() if value is not None}


def _fields(item: Any) -> dict[str, Any]:
    """Return what is set of a model or a mapping, under the SDK's names; nothing of what is neither."""
    if isinstance(item, Mapping):
        return dict(item)
    names = getattr(item, "model_fields_set", ())
    return {name: getattr(item, name) for name in names}
