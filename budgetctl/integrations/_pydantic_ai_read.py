"""What pydantic-ai's messages, responses and stream events say, in the words of the rest of budgetctl."""

# pyright: reportMissingImports=false
# The package lives in an environment of its own.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    SystemPromptPart,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
    ToolCallPartDelta,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.usage import RequestUsage

from budgetctl.types import Query


def as_query(messages: Sequence[ModelMessage], parameters: ModelRequestParameters, *, model: str) -> Query:
    """Build the query of a request; the messages are only read."""
    return Query.from_messages(
        [turn for message in messages for turn in _turns(message)],
        model=model,
        has_tools=bool(parameters.function_tools or parameters.native_tools),
        structured=parameters.output_mode != "text",
    )


def _turns(message: ModelMessage) -> Iterator[dict[str, str]]:
    if isinstance(message, ModelResponse):
        yield {"role": "assistant", "content": message.text or ""}
        return
    assert isinstance(message, ModelRequest)
    if message.instructions:
        yield {"role": "system", "content": message.instructions}
    for part in message.parts:
        if isinstance(part, UserPromptPart):
            said = [part.content] if isinstance(part.content, str) else part.content
            yield {"role": "user", "content": "\n".join(text for text in map(_text, said) if text)}
        else:
            role = "system" if isinstance(part, SystemPromptPart) else "tool"
            yield {"role": role, "content": str(getattr(part, "content", "") or "")}


def _text(content: Any) -> str:
    """Return the text of a piece of a prompt; images and files have none."""
    found = content if isinstance(content, str) else getattr(content, "content", None)
    return found if isinstance(found, str) else ""


def response_body(response: ModelResponse) -> dict[str, Any]:
    """Return a whole response as the body of a chat completion."""
    calls = [part for part in response.parts if isinstance(part, ToolCallPart)]
    message = {
        "reasoning_content": "".join(p.content for p in response.parts if isinstance(p, ThinkingPart)),
        "content": "".join(p.content for p in response.parts if isinstance(p, TextPart)),
        "tool_calls": [{"function": {"arguments": call.args_as_json_str()}} for call in calls],
    }
    choice = {"message": message, "finish_reason": response.finish_reason or "stop"}
    return {"choices": [choice], "usage": usage_body(response.usage)}


def event_body(event: Any) -> dict[str, Any]:
    """Return a stream event as the chunk of a chat completion."""
    piece: Any = event.part if isinstance(event, PartStartEvent) else None
    piece = event.delta if isinstance(event, PartDeltaEvent) else piece
    delta: dict[str, Any] = {}
    if isinstance(piece, ThinkingPart):
        delta = {"reasoning_content": piece.content}
    elif isinstance(piece, ThinkingPartDelta):
        delta = {"reasoning_content": piece.content_delta or ""}
    elif isinstance(piece, TextPart):
        delta = {"content": piece.content}
    elif isinstance(piece, TextPartDelta):
        delta = {"content": piece.content_delta}
    elif isinstance(piece, ToolCallPart):
        delta = {"tool_calls": [{"function": {"arguments": piece.args_as_json_str() if piece.args else ""}}]}
    elif isinstance(piece, ToolCallPartDelta):
        delta = {"tool_calls": [{"function": {"arguments": str(piece.args_delta or "")}}]}
    return {"choices": [{"delta": delta}]}


def usage_body(usage: RequestUsage) -> dict[str, Any] | None:
    """Return usage in the words of the chat API. Thinking of 0 tokens is how pydantic-ai says unknown."""
    if not usage.has_values():
        return None
    body: dict[str, Any] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
    if usage.cache_read_tokens:
        body["prompt_tokens_details"] = {"cached_tokens": usage.cache_read_tokens}
    if usage.output_reasoning_tokens:
        body["completion_tokens_details"] = {"reasoning_tokens": usage.output_reasoning_tokens}
    return body
