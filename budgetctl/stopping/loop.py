"""Loops: a model that says the same thing again and again will not stop by itself."""

from __future__ import annotations

import re
import zlib

from budgetctl.types import Evidence, Progress, StopReason

from .compose import Composable, Signal

FIRST_CHECK = 256
CHECK_EVERY = 16
PERIODS = range(4, 401)
REPEATS = 4
SPAN_WORDS = 256
SENTENCES = 60
DISTINCT_SENTENCES = 4
COMPRESSED_CHARS = 2000
COMPRESSED_TO = 0.06

_TAIL, _SHORT_TAIL = 16384, 8192
_NEWEST, _GLANCE = 12, 512
_SENTENCE = re.compile(r"[.!?]\s+|\n+")
_WORD = re.compile(r"\w+")


class LoopStop(Composable):
    """Stop when the thinking repeats itself. Looks every 16 tokens, from token 256 on.

    Any of three signs will do: the last words are one pattern of 4 to 400 words, four times or more over at
    least 256 words; the last 60 sentences are at most 4 different ones; the last 2,000 characters compress
    to under 6 %.

    Models repeat themselves more than one would think and still find the right answer, so the bars are high:
    on 4,120 recorded traces with a right answer these rules fire on 4, or 0.1 %, all of which really repeat
    hundreds of words and recover (``python -m budgetctl.evals.loops``). Lower bars do not hold there: a
    sentence four times among the last 40 is found in 9.8 % of the traces of LRMTokenEconomy and MiP, a
    pattern four times in a row, however short, in 1.0 %, compression under 15 % in 3.7 % of a sample of
    lineage-bench. Traces that end in a loop, mostly at the output limit, repeat thousands of words.
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
    return _patterned(text[-_TAIL:]) or _recurring(text[-_SHORT_TAIL:]) or _compressible(text)


def _patterned(text: str) -> bool:
    """Whether the last words are one pattern over and over."""
    # In a loop every word comes again; in other text one of the newest is soon found that does not.
    newest = text[-40 * _NEWEST :].split()[:-1][-_NEWEST:]
    longest_first = sorted(newest, key=len, reverse=True)
    if len(newest) < _NEWEST or any(text.count(word) < REPEATS for word in longest_first):
        return False
    words = text.split()[:-1]  # the last one may be half a word
    for period in PERIODS:
        span = max(REPEATS * period, SPAN_WORDS)
        if len(words) >= span and words[-1] == words[-1 - period]:  # the second test saves the comparison
            last = words[-span:]
            if last[period:] == last[:-period]:
                return True
    return False


def _recurring(text: str) -> bool:
    """Whether the last whole sentences are only a few different ones."""
    # Most texts show by their newest sentences that they are not.
    newest = _normalised(_SENTENCE.split(text[-_GLANCE:])[1:-1][-DISTINCT_SENTENCES - 1 :])
    if len(set(newest)) > DISTINCT_SENTENCES:
        return False
    last = _normalised(_SENTENCE.split(text)[:-1])[-SENTENCES:]
    return len(last) == SENTENCES and len(set(last)) <= DISTINCT_SENTENCES


def _normalised(sentences: list[str]) -> list[str]:
    """Return the words of every sentence that has any."""
    words = (" ".join(_WORD.findall(s.lower())) for s in sentences)
    return [s for s in words if s]


def _compressible(text: str) -> bool:
    """Whether the end of the text compresses as no text does that says anything new."""
    data = text[-COMPRESSED_CHARS:].encode()
    smallest = COMPRESSED_TO * len(data)
    # Every new word takes a byte at the very least; to count them takes a quarter of the time.
    if len(text) < COMPRESSED_CHARS or len(set(data.split())) > smallest:
        return False
    return len(zlib.compress(data)) < smallest
