"""What is read off a query: hashed n-grams, which know one kind of traffic, and dense features, which carry
across kinds.

Only the first and the last ``CLIP`` characters of a long prompt are read, so a prompt of any size takes
bounded time. A short last turn is read together with the turns before it: "yes" after a hard plan asks for
the plan. No word is stored anywhere: n-grams exist as 32-bit hashes only.
"""

from __future__ import annotations

import re
from itertools import combinations
from operator import eq
from zlib import crc32

import numpy as np
from budgetctl.classifiers.lexicon import CLASSES, WORD_CLASS
from numpy.typing import NDArray

from budgetctl.types import Query

VERSION = 3
"""Weights fit one version of these features; it changes with every change of what is computed here."""

CLIP = 2048
SHORT_TURN = 80
"""A last turn of fewer characters is read together with the conversation before it."""
SHORT_LINE = 25
MAX_NUMBER = 10**9
FIRST = 4
"""So many numbers, in the order they are told, have their size and their distances among the features."""

SLOTS = 1 << 18
SLOT_SHIFT = np.uint32(32 - 18)
"""The leading bits of a hash are its slot. Weights know one hash of each at most, and so find it at once."""

Hashes = NDArray[np.uint32]
Floats = NDArray[np.float64]

# To blank out all other bytes and split is four times faster than to search for words.
_LETTERS = bytes(c if c in b"abcdefghijklmnopqrstuvwxyz" or c > 127 else 32 for c in range(256))
_DIGITS = bytes(c if c in b"0123456789" else 32 for c in range(256))
# Begins with one certain byte, so it is searched for by that byte: many times faster than by a class.
_OPTION = re.compile(rb"\n[ \t]*\(?[a-j1-9][).:] ")
_SALT_ASKED = np.uint32(0x5BD1E995)
_MIX = np.uint32(0x9E3779B1)

_CHARS: tuple[tuple[str, bytes], ...] = (
    ("questions", b"?"),
    ("commas", b","),
    ("semicolons", b";:"),
    ("lines", b"\n"),
    ("quotes", b"\"'"),
    ("brackets", b"([{"),
    ("equals", b"=<>"),
    ("operators", b"+*/^%"),
    ("maths", b"\\$"),
    ("code", b"`_#|"),
)

_PLAIN = ("word_length", "distinct_words", "non_ascii", "asked_last", "depth", "has_tools", "structured")
_LOGS = (
    *("chars", "words", "sentences", "asked_chars", "options"),
    *("numbers", "long_numbers", "max_number", "sum_numbers", "last_number"),
    *(f"number_{i}" for i in range(1, FIRST + 1)),
    *(f"gap_{i}_{j}" for i, j in combinations(range(1, FIRST + 1), 2)),
    *("asked_numbers", "asked_max_number"),
    *("turns", "recent_chars", "other_chars", "system_chars"),
    *(f"words_{name}" for name in CLASSES),
    *(f"asked_{name}" for name in CLASSES),
    *(f"chars_{name}" for name, _ in _CHARS),
)
_SHARES = (
    *("digits", "upper", "space", "letters", "single_characters"),
    *("short_lines", "equal_lines"),
)
_SHAPES = (
    *("distinct_bytes", "distinct_words", "longest_word", "decimals"),
    *("longest_line", "mean_line"),
)
DENSE = (
    *_PLAIN,
    *(f"log_{name}" for name in (*_LOGS, *_SHAPES)),
    *(f"share_{name}" for name in _SHARES),
)
"""Names of the dense features, in order."""

_GROUPS = (
    *(chars for _, chars in _CHARS),
    b"0123456789",
    bytes(range(65, 91)),
    b" \t\n\r",
    bytes([*range(65, 91), *range(97, 123)]),
)
_GROUPED = np.array([*b"".join(_GROUPS)], dtype=np.intp)
_GROUP_STARTS = np.cumsum([0, *map(len, _GROUPS[:-1])], dtype=np.intp)
"""The bytes of all groups, one group after another, and where each begins."""
_NO_BRACKETS = bytes(c for c in range(256) if c not in b"([{}])")
_DECIMAL = re.compile(rb"[0-9][.][0-9]")
_IS_LOG = slice(len(_PLAIN), len(_PLAIN) + len(_LOGS) + len(_SHAPES))


def encode(query: Query) -> tuple[Hashes, Floats]:
    """Return the hashes of the n-grams of a query (with repetitions) and its dense features."""
    text = _read(query)
    cased = text.encode("utf-8", "replace")
    raw = cased.lower() if len(cased) == len(text) else text.lower().encode("utf-8", "replace")
    start, end = _asked(raw)
    question = raw[start:end]
    words, asked = raw.translate(_LETTERS).split(), question.translate(_LETTERS).split()
    numbers, asked_numbers = raw.translate(_DIGITS).split(), question.translate(_DIGITS).split()
    n = len(words) or 1
    lengths = [*map(len, words)]
    distinct = len(set(words))
    counted = np.bincount(np.frombuffer(cased, dtype=np.uint8), minlength=256)
    chars = np.add.reduceat(counted.take(_GROUPED), _GROUP_STARTS).tolist()
    size = len(cased) or 1
    short, equal, longest, mean = _lines(raw)
    values = (
        # _PLAIN
        sum(lengths) / n,
        distinct / n,
        1.0 - len(text.encode("ascii", "ignore")) / len(text) if len(cased) != len(text) else 0.0,
        end >= len(raw.rstrip()),
        _depth(raw),
        query.has_tools,
        query.structured,
        # _LOGS
        *(len(query.text), len(words), raw.count(b". ") + raw.count(b"? ") + raw.count(b"! ")),
        *(end - start, len(_OPTION.findall(b"\n" + raw))),
        *_numbers(numbers, asked_numbers),
        *_conversation(query),
        *_classes(words),
        *_classes(asked),
        *chars[: len(_CHARS)],
        # _SHAPES
        *(np.count_nonzero(counted), distinct, max(lengths, default=0)),
        *(len(_DECIMAL.findall(raw)) if numbers else 0, longest, mean),
        # _SHARES
        *[c / size for c in chars[len(_CHARS) :]],
        *(lengths.count(1) / n, short, equal),
    )
    dense = np.fromiter(values, dtype=np.float64, count=len(DENSE))
    logs = dense[_IS_LOG]
    np.log1p(logs, out=logs)
    return _ngrams(words, numbers, asked), dense


def _read(query: Query) -> str:
    """Return the text that is read: of a short turn with what was said before it, of a long one both ends."""
    text = query.text
    if query.recent and len(text) < SHORT_TURN:
        text = "\n".join((*(turn.text for turn in query.recent), text))
    return text if len(text) <= 2 * CLIP else f"{text[:CLIP]}\n{text[-CLIP:]}"


def _lines(raw: bytes) -> tuple[float, float, int, float]:
    """Return the shares of short lines and of lines as long as the one before, the longest and mean length.

    Blank lines do not count. Equal lengths are what grids and tables look like.
    """
    if b"\n" not in raw:
        return float(len(raw) < SHORT_LINE), 0.0, len(raw), len(raw)
    lengths = [len(line) for line in raw.split(b"\n") if line] or [0]
    n = len(lengths)
    short = sum(map(SHORT_LINE.__gt__, lengths))
    return short / n, sum(map(eq, lengths, lengths[1:])) / n, max(lengths), sum(lengths) / n


def describe(query: Query) -> dict[str, float]:
    """Return the dense features by name, and their ``version``, for training without the text.

    Of the numbers in a text only the magnitude is kept, so that none of them can be read back.
    """
    dense = zip(DENSE, encode(query)[1].tolist(), strict=True)
    kept = {name: round(value, 0 if is_magnitude(name) else 4) for name, value in dense}
    return {"version": float(VERSION), **kept}


def is_magnitude(name: str) -> bool:
    """Return whether a feature is rounded in records, because a number could be read off it."""
    return "number" in name or "gap" in name or name == "log_distinct_bytes"


def _asked(raw: bytes) -> tuple[int, int]:
    """Return where the sentence that asks stands: the last with a question mark, else the last one."""
    end = raw.rfind(b"?") + 1 or len(raw.rstrip())
    stop = max(end - 1, 0)
    start = 1 + max(raw.rfind(mark, 0, stop) for mark in (b". ", b"? ", b"! ", b"\n"))
    return start, end


def _numbers(found: list[bytes], asked: list[bytes]) -> tuple[int, ...]:
    values = _values(found)
    # How often one quantity goes into the distance between two others is how long many derivations are.
    a, b, c, d = (values + [0] * FIRST)[:FIRST]
    return (
        len(found),
        sum(map((10).__le__, values)),
        max(values, default=0),
        sum(values),
        values[-1] if values else 0,
        *(a, b, c, d),
        *(abs(a - b), abs(a - c), abs(a - d), abs(b - c), abs(b - d), abs(c - d)),
        len(asked),
        max(_values(asked), default=0),
    )


def _values(numbers: list[bytes]) -> list[int]:
    return [int(digits) if len(digits) < 10 else MAX_NUMBER for digits in numbers]


def _depth(raw: bytes) -> int:
    """Return how deep brackets nest."""
    depth = deepest = 0
    for c in raw.translate(None, _NO_BRACKETS):
        if c in b"([{":
            depth += 1
            deepest = max(deepest, depth)
        elif depth:
            depth -= 1
    return deepest


def _classes(words: list[bytes]) -> list[int]:
    counts = [0] * len(CLASSES)
    for word in filter(WORD_CLASS.__contains__, words):
        counts[WORD_CLASS[word]] += 1
    return counts


def _conversation(query: Query) -> tuple[int, ...]:
    recent = sum(len(turn.text) for turn in query.recent)
    others = max(query.total_chars - len(query.text) - recent - query.system_chars, 0)
    return len(query.recent), recent, others, query.system_chars


def _ngrams(words: list[bytes], numbers: list[bytes], asked: list[bytes]) -> Hashes:
    """Return hashes of words, numbers and the asking sentence's own words, and of pairs of neighbours.

    A pair that spans two of the three lists is a word no text has; it is harmless and saves four calls.
    """
    singles = np.array([*map(crc32, words), *map(crc32, numbers), *map(crc32, asked)], dtype=np.uint32)
    singles[len(words) + len(numbers) :] ^= _SALT_ASKED
    return np.concatenate((singles, singles[:-1] * _MIX ^ singles[1:]))
