"""An upstream made up of faults: what a server might send, in any cut, and how it might fail.

Thoughts are words ``R0 R1 ..``, answers words ``A0 A1 ..``, so that a test can tell them apart wherever they
end up. One seed makes one upstream, always the same.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from budgetctl.engine.effects import ENDED, SILENT, Ended, Silent

FIELDS = ("reasoning_content", "reasoning", "thinking")
HEAD = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}


class Refused(Exception):
    """What an SDK raises for an HTTP status."""

    def __init__(self, status_code: int) -> None:
        super().__init__(f"HTTP {status_code}")
        self.status_code = status_code


class Disconnected(Exception):
    """What an SDK raises when a stream breaks."""


@dataclass
class Stream:
    """A response on its way.

    Attributes:
        breaks: Number of the chunk at which the connection is lost; None: never.
        stalls: Number of the chunk that takes its time.
        open: It was neither closed nor read to its end.
    """

    chunks: list[dict[str, Any]]
    breaks: int | None = None
    stalls: int | None = None
    open: bool = True
    at: int = 0

    def receive(self, within: float | None) -> dict[str, Any] | Silent | Ended:
        if within is not None and self.at == self.stalls:
            self.open = False
            return SILENT
        if self.breaks is not None and self.at >= self.breaks:
            self.open = False
            raise Disconnected("the connection was lost")
        if self.at == len(self.chunks):
            self.open = False
            return ENDED
        self.at += 1
        return self.chunks[self.at - 1]


@dataclass
class Upstream:
    """A server with one seed's faults.

    Attributes:
        sent: Path and parameters of every request.
        answers: The answer texts of all responses that were begun, in order.
        streams: All of them that stream.
        faults: What is wrong with it, for the message of a failing test.
        continued: Number of answers that were continued from a closed thought.
        refused: Number of requests that were refused.
        capped: The latest chat call carried a cap.
    """

    rng: random.Random
    starts_in_think: bool
    sent: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    continued: int = 0
    refused: int = 0
    capped: bool = False

    def __post_init__(self) -> None:
        rng = self.rng
        self.style = rng.choice((*FIELDS, "inline", "inline", "details"))
        self.thought = rng.choice((0, 3, 20, 60, 200))
        self.words = rng.choice((1, 5, 30))
        self.keeps_cap = rng.random() < 0.5
        self.refuses = self._fault("refuses what it does not know", 0.1)
        self.empty = rng.choice(("stop", "length")) if self._fault("first answer empty", 0.25) else None
        self.always_empty = self.empty is not None and self._fault("every answer empty", 0.2)
        self.untagged = self.starts_in_think or (self.style == "inline" and self._fault("no open tag", 0.2))
        self.spoils = self._fault("arguments spoilt under a cap", 0.3)
        self.stalls = self._fault("stalls", 0.1)
        self.control = rng.choice((200, 200, 404, 500))
        self.pretends = self._fault("only says that it ends a thought", 0.2)
        self.stray = self._fault("stray close tag", 0.15)
        self.tool = self.empty is None and self._fault("tool call", 0.1)
        self.completions = rng.choice((200, 200, 200, 404, 400, 500))
        self.chat_continuation = rng.choice((200, 400))
        self.misfiles = self.style in FIELDS and self._fault("continued answer filed as thinking", 0.2)
        self.rethinks = self._fault("thinks again after the close", 0.2)
        self.silent_continuation = self._fault("continuation empty", 0.15)
        self.unfinished = self._fault("no finish reason", 0.1)
        self.no_index = self._fault("no index", 0.1)
        self.usage = rng.choice(("none", "last", "with finish"))
        self.breaks = self._fault("breaks", 0.1)

    def _fault(self, name: str, chance: float) -> bool:
        found = self.rng.random() < chance
        if found:
            self.faults.append(name)
        return found

    def send(self, path: str, params: Mapping[str, Any], *, stream: bool) -> Any:
        """Answer a request: a :class:`Stream`, or a whole body."""
        try:
            return self._send(path, params, stream=stream)
        except Refused:
            self.refused += 1
            raise

    def _send(self, path: str, params: Mapping[str, Any], *, stream: bool) -> Any:
        self.sent.append((path, params))
        flat = {**params, **(params.get("extra_body") or {})}
        if path == "/chat/completions/control":
            return self._end_thought()
        if path == "/completions":
            if self.completions != 200:
                raise Refused(self.completions)
            return self._opened(self._continuation(), first=False)
        if self.refuses and {"thinking_token_budget", "chat_template_kwargs"} & set(flat):
            raise Refused(self.rng.choice((400, 422)))
        if flat.get("continue_final_message"):
            if self.chat_continuation != 200:
                raise Refused(self.chat_continuation)
            return self._opened(self._continued_chat(), first=False)
        thought, answer, finish = self._script(flat)
        self.answers.append(answer)
        if not stream:
            return self._whole(thought, answer, finish)
        return self._opened(self._chunks(thought, answer, finish), first=True)

    def _end_thought(self) -> dict[str, Any]:
        if self.control != 200:
            raise Refused(self.control)
        stream = self.streams[-1]
        if not self.pretends and self.style in FIELDS:
            rest = stream.chunks[stream.at :]
            kept = [c for c in rest if not any(self.style in e["delta"] for e in c["choices"])]
            stream.chunks[stream.at :] = kept
        return {"success": True}

    def _script(self, params: Mapping[str, Any]) -> tuple[str, str, str]:
        count = self.thought
        cap = params.get("thinking_token_budget", params.get("reasoning_budget_tokens"))
        self.capped = cap is not None
        if cap is not None and self.keeps_cap:
            count = min(count, cap)
        if (params.get("chat_template_kwargs") or {}).get("enable_thinking") is False:
            count = 0
        thought = "".join(f"R{i} " for i in range(count))
        first = sum(path != "/completions" for path, _ in self.sent) == 1
        if self.empty is not None and (first or self.always_empty):
            return thought, "", self.empty
        return thought, self._answer(), "stop"

    def _answer(self) -> str:
        turn = len(self.answers)
        return "".join(f"A{turn}.{i} " for i in range(self.words)) + "end"

    def _opened(self, chunks: list[dict[str, Any]], *, first: bool) -> Stream:
        breaks = first and self.breaks
        at = self.rng.randrange(len(chunks) + 1) if breaks and chunks else None
        stalls = self.rng.randrange(len(chunks) + 1) if self.stalls and first else None
        stream = Stream(chunks, breaks=at, stalls=stalls)
        self.streams.append(stream)
        return stream

    def _cut(self, text: str) -> Iterator[str]:
        """Cut a text anywhere, within tags too."""
        while text:
            n = min(self.rng.choice((1, 2, 3, 7, 40)), len(text))
            yield text[:n]
            text = text[n:]

    def _chunks(self, thought: str, answer: str, finish: str) -> list[dict[str, Any]]:
        found = [self._chunk({"role": "assistant", "content": self.rng.choice(("", None))})]
        stray = "</think>\n" if self.stray and thought else ""
        called = self.tool and bool(answer)
        text = "" if called else answer
        if self.style == "inline" and (thought or self.untagged):
            head = "" if self.untagged else "<think>\n"
            tail = self._tail(answer, finish)
            found += [
                self._chunk({"content": part}) for part in self._cut(head + thought + tail + stray + text)
            ]
        else:
            found += [self._chunk(self._field(part)) for part in self._cut(thought)]
            found += [self._chunk({"content": part}) for part in self._cut(stray + text)]
        if called:
            said = '{"x": </think> 1}' if self.spoils and self.capped else '{"x": 1}'
            call = {"index": 0, "id": "t", "function": {"name": "f", "arguments": said}}
            found.append(self._chunk({"tool_calls": [call]}))
            finish = "tool_calls"
        if not self.unfinished:
            found.append(self._chunk({}, finish=finish))
        return self._with_usage(found, len(thought.split()) + len(answer.split()))

    def _tail(self, answer: str, finish: str) -> str:
        """Return the closing tag; a thought that the output limit cut has none.

        Without either tag nobody could know it for a thought, unless the template is known to open it.
        """
        known = self.starts_in_think or not self.untagged
        return "" if finish == "length" and not answer and known else "</think>\n\n"

    def _field(self, part: str) -> dict[str, Any]:
        if self.style == "details":
            return {"reasoning_details": [{"type": "reasoning.text", "text": part}]}
        return {self.style: part, "content": None}

    def _chunk(self, delta: dict[str, Any], *, finish: str | None = None) -> dict[str, Any]:
        index = None if self.no_index else 0
        return {**HEAD, "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}

    def _with_usage(self, chunks: list[dict[str, Any]], tokens: int) -> list[dict[str, Any]]:
        usage = {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens}
        if self.usage == "last":
            chunks.append({**HEAD, "choices": [], "usage": usage})
        elif self.usage == "with finish":
            chunks[-1] = {**chunks[-1], "usage": usage}
        return chunks

    def _continued(self) -> str:
        self.continued += 1
        text = "" if self.silent_continuation else self._answer()
        if self.rethinks and self.continued == 1:
            text = "Wait, let me think again. " + "".join(f"R9{i} " for i in range(30))
            self.answers.append("")
        else:
            self.answers.append(text)
        return text

    def _continued_chat(self) -> list[dict[str, Any]]:
        parts = self._cut(self._continued())
        found = [self._chunk({self.style if self.misfiles else "content": part}) for part in parts]
        return [*found, self._chunk({}, finish=None if self.unfinished else "stop")]

    def _continuation(self) -> list[dict[str, Any]]:
        text = self._continued()
        head = {"id": "c2", "object": "text_completion", "created": 1, "model": "m"}
        parts = [
            {**head, "choices": [{"index": 0, "text": p, "finish_reason": None}]} for p in self._cut(text)
        ]
        last = {"index": 0, "text": "", "finish_reason": None if self.unfinished else "stop"}
        return [*parts, {**head, "choices": [last]}]

    def _whole(self, thought: str, answer: str, finish: str) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer or None}
        if self.style == "inline" and thought:
            head = "" if self.untagged else "<think>\n"
            message["content"] = head + thought + self._tail(answer, finish) + answer
        elif thought:
            message |= self._field(thought) | {"content": answer or None}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        return {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
