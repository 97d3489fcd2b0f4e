"""What has been seen of one upstream response: texts, tokens, times."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from budgetctl.channels import split_response
from budgetctl.errors import brief
from budgetctl.stopping.boundary import Boundaries
from budgetctl.types import Event, Progress, Timing, Usage

logger = logging.getLogger("budgetctl")

Counter = Callable[[str], int]
"""Counts the tokens of a text."""

WINDOW = 16_384
_MEASURED_FROM = 8
_SHORT = 16


def as_whole(timing: Timing, *, answered: bool) -> Timing:
    """Return what the caller sees of ``timing`` when all comes at once: the answer, at the end."""
    return Timing(ttfo_s=timing.e2e_s if answered else None, e2e_s=timing.e2e_s)


class Channels(Protocol):
    """Reads one dialect's chunks; see ``budgetctl.channels``."""

    @property
    def in_thought(self) -> bool:
        """Whether the content so far ends inside an inline thought."""
        ...

    @property
    def untagged(self) -> bool:
        """Whether an inline thought came without its opening tag."""
        ...

    def feed(self, body: Mapping[str, Any], /) -> list[Event]:
        """Return the events of one chunk."""
        ...

    def flush(self) -> list[Event]:
        """Return what was held back."""
        ...


class Transcript:
    """Accumulates events.

    Token counts are exact where ``counter`` is given and does not fail. Otherwise a short delta counts as
    one token, because that is what servers send, and a longer one as a token for every four characters.

    Args:
        closed: Thinking was closed in the prompt already. Parsers that look for the closing tag in the output
            count such an answer as thinking (vLLM 0.32), so only the total of the reported usage is believed.

    Attributes:
        began: Seconds from the start of the call at which this response was asked for.
        called: A tool was called.
        finish: The finish reason.
        reported: Usage as the provider reported it.
        reasoning_tokens: Tokens of thinking so far, as well as they are known live.
    """

    def __init__(
        self,
        channels: Channels,
        *,
        clock: Callable[[], float],
        started: float,
        counter: Counter | None = None,
        closed: bool = False,
    ) -> None:
        self._channels = channels
        self._clock = clock
        self._started = started
        self._counter = counter
        self._closed = closed
        self._boundaries = Boundaries()
        self._at_boundary = False
        self._recent = ""
        self._first: float | None = None
        self._first_answer: float | None = None
        self._last: float | None = None
        self._heard_at: float | None = None
        self.began = clock() - started
        self._answer_tokens = 0
        self._tool_tokens = 0
        # Lists: a thought may have a hundred thousand deltas, and adding to a string copies it.
        self._reasoning: list[str] = []
        self._answer: list[str] = []
        self._answered = False
        self.called = False
        self.finish: str | None = None
        self.reported: Usage | None = None
        self.reasoning_tokens = 0

    @property
    def reasoning(self) -> str:
        """Thinking so far."""
        return "".join(self._reasoning)

    @property
    def answer(self) -> str:
        """Answer so far."""
        return "".join(self._answer)

    @property
    def thinking(self) -> bool:
        """Whether the model is still thinking: nothing but thoughts so far, and at least one."""
        return bool(self._reasoning) and self.empty and self.finish is None

    @property
    def in_thought(self) -> bool:
        """Whether the content so far ends inside an inline thought, whose closing tag is still to come."""
        return self._channels.in_thought

    @property
    def untagged(self) -> bool:
        """Whether an inline thought came without its opening tag."""
        return self._channels.untagged

    @property
    def empty(self) -> bool:
        """Whether there is no answer of any kind."""
        return not self._answered and not self.called

    def feed(self, body: Mapping[str, Any]) -> list[Event]:
        """Take one chunk, or a whole completion, as a plain dict and return its events."""
        events = self._channels.feed(body)
        for event in events:
            self._take(event)
        return events

    def flush(self) -> list[Event]:
        """Take what the channels held back: the stream has ended."""
        events = self._channels.flush()
        for event in events:
            self._take(event)
        return events

    def reclassify(self) -> None:
        """Take the answer so far for thinking: it was thinking that had begun again."""
        self._take(Event(kind="reclassify"))

    def unthink(self) -> None:
        """Take the thinking so far for the answer: it was only supposed to be thinking."""
        self._answer, self._answer_tokens = self._reasoning, self.reasoning_tokens
        self._reasoning, self.reasoning_tokens = [], 0
        self._answered = bool(self.answer.strip())
        self._first_answer = self._first

    def read(self, body: Mapping[str, Any]) -> list[Event]:
        """Take a whole response as a plain dict, chat or Responses API, and return its events."""
        if "output" not in body:
            return self.feed(body)
        reasoning, answer = split_response(body)
        events = [Event(kind="reasoning", text=reasoning), Event(kind="answer", text=answer)]
        if any(str(item.get("type", "")).endswith("_call") for item in body.get("output") or ()):
            events.append(Event(kind="tool"))
        for event in events:
            self._take(event)
        # The last event of a stream carries the usage and the status of the whole.
        return events + self.feed({"type": "response.completed", "response": body})

    def progress(self) -> Progress:
        """Return what a criterion may see."""
        return Progress(
            reasoning_tokens=self.reasoning_tokens,
            reasoning=self._recent,
            elapsed_s=self.elapsed_s,
            s_per_token=self.pace,
            ttft_s=self.ttft_s,
            at_boundary=self._at_boundary,
        )

    def usage(self, *, visible: bool) -> Usage:
        """Return the tokens of this response with their provenance.

        Args:
            visible: The model's thinking is delivered, so that none seen means that there was none.
        """
        reported = self.reported or Usage(provenance="reported")
        if reported.reasoning_tokens is not None:
            return reported
        if not visible and not self._reasoning:
            return reported
        if not self._reasoning and reported.output_tokens is not None:
            return replace(reported, reasoning_tokens=0, answer_tokens=reported.output_tokens)
        thought, answered = self._counts(reported.output_tokens)
        return Usage(
            prompt_tokens=reported.prompt_tokens,
            reasoning_tokens=thought,
            answer_tokens=answered,
            output_tokens=thought + answered,
            cached_tokens=reported.cached_tokens,
            cache_write_tokens=reported.cache_write_tokens,
            provenance="counted" if self._counter is not None else "estimated",
        )

    def timing(self) -> Timing:
        """Return the seconds until the first token, the first answer token and now."""
        return Timing(ttft_s=self._first, ttfo_s=self._first_answer, e2e_s=self.elapsed_s)

    @property
    def heard(self) -> bool:
        """Whether anything has arrived."""
        return bool(self._reasoning or self._answer or self.called)

    def count(self, text: str) -> int:
        """Return the tokens of ``text``, counted or estimated."""
        counted = self._counted(text)
        return round(len(text) / 4) if counted is None else counted

    def _counts(self, output: int | None) -> tuple[int, int]:
        thought, answered = self.reasoning_tokens, self._answer_tokens
        counted, also = self._counted(self.reasoning), self._counted(self.answer)
        if counted is not None and also is not None:
            thought, answered = counted, also
        answered += self._tool_tokens
        if output is None:
            return thought, answered
        if self._counter is None and thought + answered > 0:
            # The total is known: only its split is estimated.
            thought = round(output * thought / (thought + answered))
        thought = min(thought, output)
        return thought, output - thought

    def _take(self, event: Event) -> None:
        now = self.elapsed_s
        if event.text or event.kind == "tool":
            self._heard_at = now
        if self._first is None and (event.text or event.kind == "tool"):
            self._first = now
        if event.kind == "reasoning" and event.text:
            self._reasoning.append(event.text)
            self._recent = (self._recent + event.text)[-WINDOW:]
            self._at_boundary = self._boundaries.feed(event.text)
            self.reasoning_tokens += self._count(event.text)
            self._last = now
        elif event.kind == "answer":
            self._answer.append(event.text)
            self._answer_tokens += self._count(event.text)
            if not self._answered and event.text.strip():
                self._answered, self._first_answer = True, now
        elif event.kind == "tool":
            self.called = True
            self._tool_tokens += self._count(event.text) if event.text else 0
            self._first_answer = now if self._first_answer is None else self._first_answer
        elif event.kind == "reclassify":
            self._recent = (self._recent + self.answer)[-WINDOW:]
            self._reasoning += self._answer
            self.reasoning_tokens += self._answer_tokens
            self._answer, self._answer_tokens, self._answered, self._first_answer = [], 0, False, None
        elif event.kind == "usage" and event.usage is not None:
            self.reported = event.usage
            if self._closed:
                self.reported = replace(event.usage, reasoning_tokens=None, answer_tokens=None)
        elif event.kind == "finish":
            self.finish = event.finish

    def _count(self, text: str) -> int:
        return 1 if self._counter is None and len(text) <= _SHORT else self.count(text)

    def _counted(self, text: str) -> int | None:
        """Count with the user's tokenizer; one that fails, as on a special token, is done without."""
        try:
            return None if self._counter is None else self._counter(text)
        except Exception as error:
            logger.warning("the tokenizer failed, tokens are estimated: %s", brief(error))
            self._counter = None
            return None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the call was sent."""
        return self._clock() - self._started

    @property
    def ttft_s(self) -> float | None:
        """Seconds from its sending to its first token."""
        return None if self._first is None else self._first - self.began

    @property
    def took_s(self) -> float | None:
        """Seconds from its sending to its last token so far."""
        return None if self._heard_at is None else self._heard_at - self.began

    @property
    def pace(self) -> float | None:
        """Seconds per token of this thought; None until it is measured."""
        if self._first is None or self._last is None or self.reasoning_tokens < _MEASURED_FROM:
            return None
        return (self._last - self._first) / (self.reasoning_tokens - 1)
