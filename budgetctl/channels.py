"""What a provider's deltas mean: reasoning, answer, tool call, usage or finish.

Servers disagree on where thinking travels: a field of its own under one of four names, a list of parts,
or inline tags in the content, split anywhere across chunks, sometimes without the opening tag and
sometimes with a second closing one. The classes here read all of them into one list of events.

Two rules hold for every dialect: nothing but the tags themselves is lost, and the events, once joined,
do not depend on how the text was cut into chunks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .types import Event, EventKind, Usage

OPEN_TAG = "<think>"
CLOSE_TAG = "</think>"

REASONING_FIELDS = ("reasoning_content", "reasoning", "reasoning_details", "thinking")
_REASONING_PARTS = ("thinking", "reasoning", "reasoning.text", "reasoning.summary")
_SPACE = re.compile(r"\s*")


def join(events: Iterable[Event]) -> tuple[str, str]:
    """Return the reasoning and the answer that a sequence of events adds up to."""
    reasoning, answer = "", ""
    for event in events:
        if event.kind == "reasoning":
            reasoning += event.text
        elif event.kind == "answer":
            answer += event.text
        elif event.kind == "reclassify":
            reasoning, answer = reasoning + answer, ""
    return reasoning, answer


class TagSplitter:
    """Split text with inline thinking tags into reasoning and answer.

    Tags count at the start of a segment, where only white space came before: an opening tag starts thinking,
    a closing tag ends it, a second closing tag at the start of the answer is stripped. A closing tag
    without an opening one turns everything before it into reasoning (a ``reclassify`` event). Tags that
    come after real answer text are text: an answer may well speak about them.

    At most a tag's prefix, and white space at the start of a segment, is held back.

    Args:
        open_tag: The tag before thinking.
        close_tag: The tag after it.
        starts_in_think: The chat template already opened the thinking.

    Attributes:
        untagged: A thought was closed that no opening tag had begun.
    """

    def __init__(
        self, open_tag: str = OPEN_TAG, close_tag: str = CLOSE_TAG, *, starts_in_think: bool = False
    ) -> None:
        self.untagged = False
        self._opened = False
        self._open = open_tag
        self._close = close_tag
        self._thinking = starts_in_think
        self._at_start = True
        self._tagged = starts_in_think
        self._literal = False
        self._held = ""

    @property
    def in_thought(self) -> bool:
        """Whether the text so far ends inside a thought."""
        return self._thinking

    def feed(self, text: str) -> list[Event]:
        """Take the next piece of text and return what is certain by now."""
        self._held += text
        events: list[Event] = []
        while self._held and self._step(events):
            pass
        return events

    def flush(self) -> list[Event]:
        """Return what was held back: the text has ended, so it was no tag."""
        events: list[Event] = []
        self._emit(events, len(self._held))
        return events

    def _step(self, events: list[Event]) -> bool:
        """Consume up to and with the next tag; False when more text is needed."""
        tags = self._tags()
        if self._at_start:
            return self._start(events, tags)
        found = min(((i, t) for t in tags if (i := self._held.find(t)) >= 0), default=None)
        if found is None:
            self._emit(events, len(self._held) - _tail(self._held, tags))
            return False
        at, tag = found
        if tag == self._open:  # after real answer text: they write about tags, so a close is text, too
            self._literal = True
            self._emit(events, at + len(tag))
            return True
        self._emit(events, at)
        self._turn(events, tag)
        return True

    def _start(self, events: list[Event], tags: Sequence[str]) -> bool:
        body = _end_of_space(self._held)
        rest = self._held[body:]
        tag = next((t for t in tags if rest.startswith(t)), None)
        if tag is not None:
            self._thinking = self._thinking or tag == self._open or not self._tagged
            self._emit(events, body)
            self._turn(events, tag)
            return True
        if not rest or any(t.startswith(rest) for t in tags):
            return False
        self._at_start = False
        return True

    def _tags(self) -> Sequence[str]:
        if self._at_start:
            return (self._open, self._close)
        if self._thinking:
            return (self._close,)
        return () if self._tagged or self._literal else (self._open, self._close)

    def _turn(self, events: list[Event], tag: str) -> None:
        self._held = self._held[len(tag) :]
        if tag == self._close and not self._thinking and not self._tagged:
            events.append(Event(kind="reclassify"))
        self.untagged |= tag == self._close and not self._opened
        self._opened |= tag == self._open
        self._thinking = tag == self._open
        self._tagged = self._at_start = True

    def _emit(self, events: list[Event], length: int) -> None:
        text, self._held = self._held[:length], self._held[length:]
        if text:
            events.append(Event(kind="reasoning" if self._thinking else "answer", text=text))


def _end_of_space(text: str) -> int:
    match = _SPACE.match(text)
    return match.end() if match else 0


def _tail(text: str, tags: Sequence[str]) -> int:
    """Length of the longest end of ``text`` that a tag could still grow from."""
    longest = max((len(t) for t in tags), default=1) - 1
    return next((n for n in range(min(longest, len(text)), 0, -1) if _begins(text[-n:], tags)), 0)


def _begins(piece: str, tags: Sequence[str]) -> bool:
    return any(t.startswith(piece) for t in tags)


class _Content:
    """The content channel of a stream: text that may hold inline tags.

    ``starts_in_think`` is set aside as soon as the server delivers thinking in a field of its own, because
    the content is then the answer. A finish reason flushes.
    """

    def __init__(
        self, *, open_tag: str = OPEN_TAG, close_tag: str = CLOSE_TAG, starts_in_think: bool = False
    ) -> None:
        self._tags = (open_tag, close_tag)
        self._starts_in_think = starts_in_think
        self._splitter: TagSplitter | None = None
        self._saw_reasoning = False

    @property
    def in_thought(self) -> bool:
        """Whether the content so far ends inside an inline thought."""
        return self._splitter is not None and self._splitter.in_thought

    @property
    def untagged(self) -> bool:
        """Whether an inline thought came without its opening tag."""
        return self._splitter is not None and self._splitter.untagged

    def flush(self) -> list[Event]:
        """Return what is held back when a stream ends without saying so."""
        return self._splitter.flush() if self._splitter else []

    def _reasoning(self, text: str) -> Event:
        self._starts_in_think = False
        self._saw_reasoning |= bool(text.strip())
        return Event(kind="reasoning", text=text)

    def _content(self, text: str) -> list[Event]:
        if self._splitter is None:
            self._splitter = TagSplitter(*self._tags, starts_in_think=self._starts_in_think)
        return self._noted(self._splitter.feed(text))

    def _noted(self, events: list[Event]) -> list[Event]:
        self._saw_reasoning |= any(
            (e.kind == "reasoning" and e.text.strip()) or e.kind == "reclassify" for e in events
        )
        return events

    def _usage(self, usage: Mapping[str, Any]) -> Event:
        return Event(kind="usage", usage=parse_usage(usage, saw_reasoning=self._saw_reasoning))


class ChatChannels(_Content):
    """Read the chunks of a chat completion stream, as plain dicts.

    Only choice 0 is read.
    """

    def feed(self, chunk: Mapping[str, Any]) -> list[Event]:
        """Return the events of one chunk."""
        events: list[Event] = []
        for choice in chunk.get("choices") or ():
            if not choice.get("index"):
                self._choice(choice, events)
        if (usage := chunk.get("usage")) and isinstance(usage, Mapping):
            events.append(self._usage(usage))
        return events

    def _choice(self, choice: Mapping[str, Any], events: list[Event]) -> None:
        delta = choice.get("delta") or choice.get("message") or {}
        reasoning, content, refusal = _texts(delta)
        if reasoning:
            events.append(self._reasoning(reasoning))
        if content:
            events += self._content(content)
        if refusal:
            events.append(Event(kind="answer", text=refusal))
        if delta.get("tool_calls") or delta.get("function_call"):
            events += _tool_events(delta)
        if choice.get("finish_reason"):
            events += self._noted(self.flush())
            events.append(Event(kind="finish", finish=str(choice["finish_reason"])))


class ResponsesChannels(_Content):
    """Read the events of a Responses API stream, as plain dicts.

    The finish reason is put in the words of the chat API: ``stop`` for a completed response, ``length``
    for one cut by its output limit, otherwise the reason or status as the server gave it.
    """

    _TEXT: Mapping[str, EventKind] = {
        "response.refusal.delta": "answer",
        "response.function_call_arguments.delta": "tool",
        "response.custom_tool_call_input.delta": "tool",
        "response.mcp_call_arguments.delta": "tool",
    }

    def feed(self, event: Mapping[str, Any]) -> list[Event]:
        """Return the events of one stream event; types that carry none of ours give an empty list."""
        kind = str(event.get("type", ""))
        delta = str(event.get("delta") or "")
        if kind in ("response.reasoning_text.delta", "response.reasoning_summary_text.delta"):
            return [self._reasoning(delta)]
        if kind == "response.output_text.delta":
            return self._content(delta)
        if kind in self._TEXT:
            return [Event(kind=self._TEXT[kind], text=delta)]
        if kind == "response.output_item.added" and _is_call(event.get("item")):
            return [Event(kind="tool")]
        if kind in ("response.completed", "response.incomplete", "response.failed"):
            return self._end(event.get("response") or {})
        return [*self.flush(), Event(kind="finish", finish="error")] if kind == "error" else []

    def _end(self, response: Mapping[str, Any]) -> list[Event]:
        events = self._noted(self.flush())
        if response.get("usage"):
            events.append(self._usage(response["usage"]))
        status = str(response.get("status") or "completed")
        reason = (response.get("incomplete_details") or {}).get("reason") or status
        words = {"completed": "stop", "max_output_tokens": "length"}
        events.append(Event(kind="finish", finish=words.get(reason, str(reason))))
        return events


def split_message(
    message: Mapping[str, Any],
    *,
    open_tag: str = OPEN_TAG,
    close_tag: str = CLOSE_TAG,
    starts_in_think: bool = False,
) -> tuple[str, str]:
    """Return the reasoning and the answer of a whole chat message.

    Thinking that a server gives twice, in a field and inline, comes back once.
    """
    field, content, refusal = _texts(message)
    splitter = TagSplitter(open_tag, close_tag, starts_in_think=starts_in_think and not field)
    inline, answer = join([*splitter.feed(content), *splitter.flush()])
    twice = field and inline.strip() == field.strip()
    return field if twice else field + inline, answer + refusal


def split_response(response: Mapping[str, Any]) -> tuple[str, str]:
    """Return the reasoning and the answer of a whole Responses API object."""
    reasoning, answer = "", ""
    for item in response.get("output") or ():
        if item.get("type") == "reasoning":
            reasoning += _parts_text(item.get("content")) or _parts_text(item.get("summary"))
        elif item.get("type") == "message":
            inline, text = split_message(item)
            reasoning, answer = reasoning + inline, answer + text
    return reasoning, answer


def response_id(body: Mapping[str, Any]) -> str | None:
    """Return the id of the Responses API object that a body is, or that a stream's event carries."""
    response = body.get("response", body)
    if not isinstance(response, Mapping) or response.get("object") != "response":
        return None
    found = response.get("id")
    return found if isinstance(found, str) else None


def parse_usage(usage: Mapping[str, Any], *, saw_reasoning: bool = False) -> Usage:
    """Read token counts of any OpenAI-style shape, chat or Responses.

    Args:
        usage: The provider's usage object.
        saw_reasoning: Thinking was seen. A reported zero is then a field that the server does not fill.

    Returns:
        ``answer_tokens`` excludes reasoning. Providers count reasoning inside the completion, except those
        whose total is prompt + completion + reasoning. Where reasoning is not reported, both it and the
        answer are None and only ``output_tokens`` is known.
    """
    prompt = _first(usage, "prompt_tokens", "input_tokens")
    completion = _first(usage, "completion_tokens", "output_tokens")
    details = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
    read = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    cached = _first(read, "cached_tokens")
    cached = _first(usage, "prompt_cache_hit_tokens") if cached is None else cached  # DeepSeek's
    reasoning = _first(details, "reasoning_tokens", "thinking_tokens")
    reasoning = _first(usage, "reasoning_tokens") if reasoning is None else reasoning
    if not reasoning and saw_reasoning:
        reasoning = None
    if reasoning is None or completion is None:
        answer = None
    elif _beside(usage.get("total_tokens"), prompt, completion, reasoning):
        answer, completion = completion, completion + reasoning
    else:
        answer = completion - reasoning
    return Usage(
        prompt_tokens=prompt,
        reasoning_tokens=reasoning,
        answer_tokens=answer,
        output_tokens=completion,
        cached_tokens=cached,
        cache_write_tokens=_first(read, "cache_write_tokens"),
        provenance="reported",
    )


def _beside(total: Any, prompt: int | None, completion: int, reasoning: int) -> bool:
    """Whether reasoning is counted beside the completion and not inside it."""
    if reasoning > completion:
        return True
    return reasoning > 0 and total == (prompt or 0) + completion + reasoning


def _first(counts: Mapping[str, Any], *names: str) -> int | None:
    return next((int(counts[n]) for n in names if counts.get(n) is not None), None)


def _texts(delta: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return reasoning, content and refusal of a delta or message."""
    content = delta.get("content")
    thoughts = [_parts_text(delta[field]) for field in REASONING_FIELDS if delta.get(field)]
    if isinstance(content, list):
        thoughts.append("".join(_part_text(p) for p in content if _is_thought(p)))
        content = "".join(_part_text(p) for p in content if not _is_thought(p))
    reasoning = ""
    for text in thoughts:
        if not reasoning or text.strip() not in reasoning:  # a second field with the same words adds nothing
            reasoning += text
    return reasoning, content if isinstance(content, str) else "", str(delta.get("refusal") or "")


def _is_thought(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in _REASONING_PARTS


def _parts_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "".join(map(_part_text, value)) if isinstance(value, list) else ""


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        return ""
    values = (part.get(key) for key in ("text", "thinking", "reasoning", "summary"))
    return next((_parts_text(v) for v in values if v), "")


def _tool_events(delta: Mapping[str, Any]) -> Iterator[Event]:
    calls = [call.get("function") or {} for call in delta.get("tool_calls") or ()]
    if delta.get("function_call"):
        calls.append(delta["function_call"])
    for call in calls:
        yield Event(kind="tool", text=str(call.get("arguments") or ""))


def _is_call(item: Any) -> bool:
    return isinstance(item, Mapping) and str(item.get("type", "")).endswith("_call")
