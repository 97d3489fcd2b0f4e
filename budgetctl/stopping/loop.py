"""Loops: a model that says the same thing again and again will not stop by itself."""

from __future__ import annotations

import re
import zlib

from budgetctl.types import Evidence, Progress, StopReason

from .criteria import _Composable

FIRST_CHECK = 256
CHECK_EVERY = 16
PERIODS = range(4, 65)
REPEATS = 4
SPAN_WORDS = 128
SENTENCES = 40
DISTINCT_SENTENCES = 8
COMPRESSED_CHARS = 2000
COMPRESSED_TO = 0.10

_TAIL = 8192
_SENTENCE = re.compile(r"[.!?]\s+|\n+")
_WORD = re.compile(r"\w+")


class LoopStop(_Composable):
    """Stop when the thinking repeats itself. Looks every 16 tokens, from token 256 on.

    Any of three signs will do: the last words are one pattern of 4 to 64 words, four times or more over at
    least 128 words; the last 40 sentences are at most 8 different ones; the last 2,000 characters compress
    to under 10 %.
    """

    name = "loop"

    def __init__(self) -> None:
        self._next = FIRST_CHECK

    def observe(self, progress: Progress) -> Evidence | None:
        """Return evidence when the end of the thinking text is a loop."""
        if progress.reasoning_tokens < self._next:
            return None
        self._next = progress.reasoning_tokens + CHECK_EVERY
        if looping(progress.reasoning):
            return Evidence(criterion=self.name, reason=StopReason.LOOP)
        return None


def looping(text: str) -> bool:
    """Return whether the end of ``text`` is a loop."""
    tail = text[-_TAIL:]
    return _patterned(tail.split()) or _recurring(tail) or _compressible(tail)


def _patterned(words: list[str]) -> bool:
    """Whether the last words are one pattern over and over."""
    for period in PERIODS:
        span = max(REPEATS * period, SPAN_WORDS)
        if len(words) >= span and words[-1] == words[-1 - period]:  # the second test saves the comparison
            last = words[-span:]
            if last[period:] == last[:-period]:
                return True
    return False


def _recurring(text: str) -> bool:
    """Whether the last whole sentences are only a few different ones."""
    sentences = (" ".join(_WORD.findall(s.lower())) for s in _SENTENCE.split(text)[:-1])
    last = [s for s in sentences if s][-SENTENCES:]
    return len(last) == SENTENCES and len(set(last)) <= DISTINCT_SENTENCES


def _compressible(text: str) -> bool:
    data = text[-COMPRESSED_CHARS:].encode()
    return len(text) >= COMPRESSED_CHARS and len(zlib.compress(data)) < COMPRESSED_TO * len(data)
