"""What LangChain's messages say, in the words of the rest of budgetctl."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata, add_usage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk

from budgetctl.callbacks import logger
from budgetctl.channels import ChatChannels
from budgetctl.engine import Transcript
from budgetctl.engine.transcript import as_whole
from budgetctl.errors import brief
from budgetctl.outcomes import MESSAGE_KEY, Outcome
from budgetctl.types import Event, Query, Timing, Usage

_ROLES = {"human": "user", "ai": "assistant", "AIMessageChunk": "assistant"}
_FINISHES = {"max_tokens": "length", "MAX_TOKENS": "length"}


def as_query(messages: Sequence[BaseMessage], *, model: str | None, params: Mapping[str, Any]) -> Query:
    """Build the query of a model call; the messages are only read."""
    turns = [{"role": _ROLES.get(m.type, m.type), "content": str(m.text)} for m in messages]
    return Query.from_messages(
        turns,
        model=model,
        has_tools=bool(params.get("tools")),
        structured=params.get("response_format") is not None,
    )


def note(message: BaseMessage, outcome: Outcome) -> None:
    """Write ``outcome`` into a new message, where it outlives merging, graph state and checkpoints."""
    try:
        row = outcome.model_dump(mode="json")
    except ValueError as error:  # a control's value, of any type, that JSON has no form for
        logger.warning("a message goes without its outcome: %s", brief(error))
        return
    message.response_metadata = {**message.response_metadata, MESSAGE_KEY: row}


class Listener:
    """Hears the generations of one model call.

    Attributes:
        transcript: What has been heard.
        streamed: It came in chunks.

    Packages that drop the text of thoughts (``langchain-openai`` does, on servers other than OpenAI's) leave
    chunks in which nothing is. Each of those that comes before the answer counts as one token of thinking.
    """

    def __init__(self, *, clock: Callable[[], float], started: float) -> None:
        self.transcript = Transcript(ChatChannels(), clock=clock, started=started)
        self._reported: UsageMetadata | None = None
        self.streamed = False

    @property
    def output_tokens(self) -> int | None:
        """All that was generated, as the provider reported it."""
        return None if self._reported is None else self._reported["output_tokens"]

    @property
    def answered(self) -> bool:
        """Whether there is an answer of any kind."""
        return not self.transcript.empty

    def hear(self, generation: ChatGeneration) -> list[Event]:
        """Take a chunk, or a whole generation, and return its events."""
        message, info = generation.message, generation.generation_info or {}
        if not isinstance(message, AIMessage):
            return []
        delta = _delta(message)
        finish = _finish({**message.response_metadata, **info})
        chunk = isinstance(generation, ChatGenerationChunk)
        if chunk and self.streamed and not delta and self._dropped(message, finish):
            delta = {"reasoning_content": " "}
        self.streamed |= chunk
        self.meter(generation)
        return self.transcript.feed({"choices": [{"delta": delta, "finish_reason": finish}]})

    def meter(self, generation: ChatGeneration) -> None:
        """Take nothing but the reported usage, which comes in parts that add up."""
        reported = getattr(generation.message, "usage_metadata", None)
        if reported is not None:
            self._reported = add_usage(self._reported, reported)

    def usage(self) -> Usage:
        """Return the tokens of the call with their provenance."""
        self.transcript.flush()
        if self._reported is not None:
            self.transcript.feed({"choices": [], "usage": _usage(self._reported)})
        return self.transcript.usage(visible=False)

    def timing(self) -> Timing:
        """Return the seconds until the first token, the first answer token and now."""
        timing = self.transcript.timing()
        return timing if self.streamed else as_whole(timing, answered=self.answered)

    def _dropped(self, message: AIMessage, finish: str | None) -> bool:
        """Whether an empty chunk stands where the text of a thought was."""
        ends = finish is not None or getattr(message, "chunk_position", None) is not None
        return not ends and message.usage_metadata is None and self.transcript.empty


def _delta(message: AIMessage) -> dict[str, Any]:
    """Return what a message brings as the delta of an OpenAI chunk, without what is empty."""
    thought, answer = "", ""
    for block in message.content_blocks:
        if block["type"] == "reasoning":
            thought += block.get("reasoning", "")
        elif block["type"] == "text":
            answer += block["text"]
    called = getattr(message, "tool_call_chunks", None) or message.tool_calls or message.invalid_tool_calls
    arguments = [{"function": {"arguments": str(call.get("args") or "")}} for call in called]
    delta = {"reasoning_content": thought, "content": answer, "tool_calls": arguments}
    return {name: value for name, value in delta.items() if value}


def _finish(metadata: Mapping[str, Any]) -> str | None:
    seen = metadata.get("finish_reason") or metadata.get("stop_reason")
    return None if seen is None else _FINISHES.get(seen, str(seen))


def _usage(reported: UsageMetadata) -> dict[str, Any]:
    """Return usage in the words of the chat API. LangChain counts thinking among the output, everywhere."""
    usage: dict[str, Any] = {
        "prompt_tokens": reported["input_tokens"],
        "completion_tokens": reported["output_tokens"],
        "total_tokens": reported["total_tokens"],
    }
    read = reported.get("input_token_details") or {}
    usage["prompt_tokens_details"] = {
        "cached_tokens": read.get("cache_read"),
        "cache_write_tokens": read.get("cache_creation"),
    }
    details = reported.get("output_token_details") or {}
    thought = next((v for k, v in details.items() if k.endswith("reasoning")), None)  # flex_reasoning, ...
    if thought is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": thought}
    return usage
