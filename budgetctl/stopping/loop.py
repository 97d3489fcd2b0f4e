"""Loops: a model that says the same thing again and again will not stop by itself."""

from __future__ import annotations

import re
import zlib

from budgetctl.types import Evidence, Progress, StopReason

from .compose import Composable, Signal

FIRST_CHECK = 256
CHECK_EVERY = 16
PERIODS = range(4, 65)
REPEATS = 4
SPAN_WORDS = 256
SENTENCES = 60
DISTINCT_SENTENCES = 4
COMPRESSED_CHARS = 2000
COMPRESSED_TO = 0.06

_TAIL = 8192
_SENTENCE = re.compile(r"[.!?]\s+|\n+")
_WORD = re.compile(r"\w+")


class LoopStop(Composable):
    """Stop when the thinking repeats itself. Looks every 16 tokens, from token 256 on.

    Any of three signs will do: the last words are one pattern of 4 to 64 words, four times or more over at
    least 256 words; the last 60 sentences are at most 4 different ones; the last 2,000 characters compress
    to under 6 %.

    Models repeat themselves more than one would think and still find the right answer, so the bars are high.
    On 4,191 finished traces with a right answer (lineage-bench, LRMTokenEconomy, MiP on GSM8K and MATH;
    dozens of models) these rules fire on 2, or 0.05 %: both really repeat hundreds of words, and recover.
    Lower bars do not hold there: a sentence four times among the last 40 is found in 9.8 % of the traces of
    the last two sources, a pattern four times in a row, however short, in 1.0 %, compression under 15 % in
    3.7 % of a sample of the first. Traces that end in a loop, mostly at the output limit, repeat thousands
    of words.
    """

    name = "loop"
    needs: frozenset[Signal] = frozenset({"text"})

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
    words = tail.split()[:-1]  # the last one may be half a word
    return _patterned(words) or _recurring(tail) or _compressible(tail)


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
