"""Reads what a rung answers, whole or in chunks, into a draft."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from budgetctl.capabilities import Capability
from budgetctl.channels import ChatChannels
from budgetctl.engine.chunks import Assembler, delta_of
from budgetctl.engine.transcript import Transcript
from budgetctl.ladder.confidence import answer_confidence
from budgetctl.ladder.rungs import Draft
from budgetctl.outcomes import Outcome
from budgetctl.types import Timing, Usage

_FINISHED = ("stop", "tool_calls", "function_call")


class Reading:
    """One response, as far as it has come.

    Attributes:
        items: Its chunks, or the one completion, as the client gave them.
        unread: Something of it could not be read: what was is no whole answer.
    """

    def __init__(self, capability: Capability) -> None:
        channels = ChatChannels(open_tag=capability.open_tag, close_tag=capability.close_tag)
        self._transcript = Transcript(channels, clock=time.perf_counter, started=0.0)
        self._assembler = Assembler()
        self._tokens: list[Mapping[str, Any]] = []
        self._whole: Mapping[str, Any] | None = None
        self.items: list[Any] = []
        self.unread = False

    def feed(self, item: Any, body: Mapping[str, Any]) -> None:
        """Take a chunk or a completion.

        Args:
            body: The same as a plain dict.
        """
        self.items.append(item)
        choices = (body.get("choices") or ())[:1]
        if any("message" in choice for choice in choices):
            self._whole = body
        else:
            self._assembler.add(body)
        self._transcript.feed(body)
        for choice in choices:
            self._tokens += (choice.get("logprobs") or {}).get("content") or ()

    @property
    def spoke(self) -> bool:
        """Whether anything of an answer has come."""
        return not self._transcript.empty

    def completion(self) -> dict[str, Any]:
        """Return the completion that the chunks add up to, with their log-probabilities."""
        body = self._assembler.completion()
        if self._tokens:
            body["choices"][0]["logprobs"] = {"content": self._tokens, "refusal": None}
        return body

    def draft(self, rung: int, outcome: Outcome | None) -> Draft:
        """Return the draft, with what its call has cost as far as that was recorded."""
        self._transcript.flush()
        answer = self._answer()
        timing = None if outcome is None else Timing(**outcome.timing.model_dump())
        return Draft(
            rung=rung,
            answer=answer,
            finished=not self.unread and self._transcript.finish in _FINISHED,
            confidence=None if answer is None else answer_confidence(self._tokens, answer),
            usage=Usage() if outcome is None else outcome.usage.usage(),
            cost_usd=None if outcome is None else outcome.cost_usd,
            timing=timing,
        )

    def tool_calls(self) -> list[Mapping[str, Any]]:
        """Return the tool calls, with their ids."""
        body = self._whole or self._assembler.completion()
        return list(delta_of(body).get("tool_calls") or ())

    def _answer(self) -> str | None:
        if not self._transcript.called:
            return self._transcript.answer.strip() or None  # after a closing tag come line breaks
        functions = [call.get("function") or {} for call in self.tool_calls()]
        return json.dumps([{"name": f.get("name"), "arguments": f.get("arguments")} for f in functions])
