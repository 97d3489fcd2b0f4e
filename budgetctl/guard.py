"""The answer guard: an answer always comes back.

Sans-io: it says what to try next, the engine does it. Also knows when a model thinks on after its thinking
was closed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

RETHINK_CHARS = 48
"""How much of an answer is looked at, and held back for it, before it counts as an answer."""

# Anchored: an answer may well contain such words, it does not begin with them.
_RETHINK = re.compile(
    r"""\s*(?:<think>
        |(?:(?:but|okay|ok|so|hmm+|no)[,.\s]+)*(?:wait|hmm+)\b
        |(?:(?:but|okay|ok|so|hmm+)[,.\s]+)*let\s+me\s+
            (?:think|reconsider|re-?check|double[- ]?check|re-?calculate|verify|try\s+again|go\s+back)
        |(?:but\s+)?alternatively\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)


def rethinks(text: str) -> bool:
    """Whether an answer begins as thinking does ("Wait, ...", "But let me check ...", an opening tag)."""
    return _RETHINK.match(text) is not None


class Opening:
    """Holds back the first characters of an answer that follows a forced close, until it is known for one.

    Closing tags at the very start are left out: an engine that cuts a thought may write a second one. One
    that comes after some text shows that the text still belonged to the thought.

    Args:
        close_tag: The tag after thinking.
        judged: Wait for so much text that thinking which begins again is seen; otherwise only for so much
            as could still be a tag.

    Attributes:
        thought: Text that a closing tag has shown to be thinking.
    """

    def __init__(self, *, close_tag: str = "</think>", judged: bool = True) -> None:
        self.thought = ""
        self._tag = close_tag
        self._judged = judged
        self._held = ""
        self._released = False

    def feed(self, text: str) -> str:
        """Take the next piece and return what may be shown; the decision falls after RETHINK_CHARS."""
        if self._released:
            return text
        self._held += text
        while (rest := self._held.lstrip()).startswith(self._tag):
            self._held = rest[len(self._tag) :]
        if self._tag in self._held:
            self.thought, _, self._held = self._held.partition(self._tag)
            rest = self._held.lstrip()
        if self._tag.startswith(rest) and (rest or self._judged):
            return ""
        if self._judged and (len(rest) < RETHINK_CHARS or self.rethinking):
            return ""
        self._released = bool(rest)
        return self._take()

    def release(self) -> str:
        """Return what is held back: it is an answer."""
        self._released = True
        return self._take()

    def _take(self) -> str:
        text, self._held = self._held, ""
        return text

    @property
    def held(self) -> str:
        """What has not been shown."""
        return self._held

    @property
    def rethinking(self) -> bool:
        """Whether what is held back begins as thinking does."""
        return self._judged and not self._released and rethinks(self._held)


def garbled(message: Mapping[str, Any], *, structured: bool) -> bool:
    """Whether a message that should be JSON is none: a tool's arguments, or the answer if ``structured``.

    Engines that force the end of a thought have been seen to write it into both.
    """
    functions = [call.get("function") or {} for call in message.get("tool_calls") or ()]
    functions += [message["function_call"]] if message.get("function_call") else []
    texts = [str(function.get("arguments") or "{}") for function in functions]
    if structured and message.get("content"):
        texts.append(str(message["content"]))
    return not all(map(_is_json, texts))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


class Step(StrEnum):
    """What to try next for a call without an answer."""

    CONTINUE = "continued with thinking closed"
    OFF = "called again with thinking off"
    OWN = "called again with the caller's own parameters"
    GIVE_UP = "no answer"


class Guard:
    """Says what to try when a call that a budget of ours has shaped comes back without an answer.

    One recovery, then the caller's own parameters, then nothing.

    Args:
        ours: The call carried a budget; one that did not is passed through, empty or not.
        time_left: Seconds until the call's deadline; None without one.
    """

    def __init__(self, *, ours: bool, time_left: Callable[[], float | None]) -> None:
        self.ours = ours
        self.steps: list[Step] = []
        self._time_left = time_left
        self._reclosed = False

    def next(self, *, can_continue: bool, can_switch_off: bool) -> Step:
        """Return the next thing to try, given what is still possible."""
        step = self._choose(can_continue=can_continue, can_switch_off=can_switch_off)
        self.steps.append(step)
        return step

    def reclose(self) -> bool:
        """Whether thinking that began again may be closed again: once."""
        allowed, self._reclosed = not self._reclosed, True
        return allowed

    def _choose(self, *, can_continue: bool, can_switch_off: bool) -> Step:
        if not self.steps and can_continue:
            return Step.CONTINUE
        if not self.steps and can_switch_off:
            return Step.OFF
        left = self._time_left()
        if Step.OWN not in self.steps and (left is None or left > 0):
            return Step.OWN
        return Step.GIVE_UP
