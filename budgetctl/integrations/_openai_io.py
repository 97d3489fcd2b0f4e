"""The io of the OpenAI integration: its requests, its models as dicts, its streams watched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from openai import NOT_GIVEN, AsyncStream, BaseModel, Stream
from openai._constants import RAW_RESPONSE_HEADER
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from budgetctl.engine import Send
from budgetctl.engine.continuation import COMPLETIONS
from budgetctl.engine.stopper import CONTROL, CONTROL_TIMEOUT_S
from budgetctl.integrations._shell import AsyncShell, AsyncWatched, Call, SyncShell, Watched
from budgetctl.outcomes import attach

__all__ = [
    "AsyncBudgetedStream",
    "AsyncShell",
    "BudgetedStream",
    "Call",
    "SdkCodec",
    "SyncShell",
    "Wire",
    "again",
    "is_raw",
]

_T = TypeVar("_T")


class SdkCodec:
    """Turns the SDK's models into dicts and back."""

    def dump(self, item: Any) -> dict[str, Any]:
        """Return a model as a plain dict; what is none, or has malformed choices, has nothing to read."""
        if isinstance(item, BaseModel):
            item = item.model_dump(exclude_unset=True, warnings=False)
        choices = item.get("choices") or [] if isinstance(item, Mapping) else None
        return dict(item) if isinstance(choices, list) and all(map(_is_choice, choices)) else {}

    def chunk(self, body: Mapping[str, Any]) -> Any:
        """Build a chat chunk."""
        return ChatCompletionChunk.construct(**body)

    def completion(self, body: Mapping[str, Any]) -> Any:
        """Build a whole chat completion."""
        return ChatCompletion.construct(**body)


class BudgetedStream(Watched, Stream[_T], Generic[_T]):
    """A stream whose thinking is watched. Behaves as the SDK's own; ``close()`` ends the generation."""


class AsyncBudgetedStream(AsyncWatched, AsyncStream[_T], Generic[_T]):
    """The asynchronous twin of :class:`BudgetedStream`."""


class Wire:
    """Turns what a machine sends into the SDK's request options, as close to the caller's as can be."""

    def __init__(self, cast_to: Any, options: Any, stream_cls: Any, completion_cls: Any) -> None:
        self._cast_to = cast_to
        self._options = options
        self._stream_cls = stream_cls
        self._completion_cls = completion_cls
        self._sent = 0
        # Applied once, to what the caller gets: a parser that refuses a truncated answer would be ahead of
        # the guard. A raw response parses itself when it is asked to.
        self._parse = None if is_raw(options) else options.post_parser

    def request(self, send: Send) -> tuple[Any, Any, Any]:
        """Return what to cast to, the options and the stream class."""
        body = dict(send.params)
        extra = body.pop("extra_body", None)
        update: dict[str, Any] = {"url": send.path, "json_data": body, "extra_json": extra}
        if self._sent:
            update["idempotency_key"] = None  # another request: the first one's key would replay its answer
        self._sent += 1
        if self._parse is not None:
            update["post_parser"] = NOT_GIVEN
        if send.path == CONTROL:  # the thought runs on meanwhile: soon, or by another way
            update |= {"max_retries": 0, "timeout": CONTROL_TIMEOUT_S}
            return object, self._options.model_copy(update=update), None
        options = self._options.model_copy(update=update)
        if send.path == COMPLETIONS:
            return Completion, options, self._completion_cls
        return self._cast_to, options, self._stream_cls if send.stream else None

    def parsed(self, result: Any, call: Call) -> Any:
        """Apply what the SDK applies to a whole response: the caller's own model comes out of it."""
        if not callable(self._parse):
            return result
        try:
            parsed = self._parse(result)
        except Exception as error:
            if call.outcome is not None:
                attach(error, call.outcome)
            raise
        if parsed is not result:
            if call.outcome is not None:
                attach(parsed, call.outcome)
            if isinstance(parsed, BaseModel):
                parsed._request_id = getattr(result, "_request_id", None)
        return parsed


def _is_choice(choice: Any) -> bool:
    """Whether a choice is as the API has it; SDKs build their models from whatever comes."""
    if not isinstance(choice, Mapping):
        return False
    said = choice.get("delta") or choice.get("message") or {}
    calls = said.get("tool_calls") or () if isinstance(said, Mapping) else None
    return isinstance(calls, list | tuple) and all(isinstance(call, Mapping) for call in calls)


def again(options: Any) -> Any:
    """Return a request as another one, which is not worth a second try: nobody waits for it."""
    update: dict[str, Any] = {"idempotency_key": None, "max_retries": 0, "post_parser": NOT_GIVEN}
    if isinstance(options.headers, Mapping):  # the first one's key would replay its answer
        kept = {name: v for name, v in options.headers.items() if name.lower() != "idempotency-key"}
        update["headers"] = kept
    return options.model_copy(update=update)


def is_raw(options: Any) -> bool:
    """Whether the caller asked for the response instead of what it says."""
    return isinstance(options.headers, Mapping) and RAW_RESPONSE_HEADER in options.headers
