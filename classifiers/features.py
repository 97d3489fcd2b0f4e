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
from struct import Struct
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
# Arrays without dimensions: with scalars of numpy the same operations take twice as long.
_SALT_ASKED = np.array(0x5BD1E995, dtype=np.uint32)
_MIX = np.array(0x9E3779B1, dtype=np.uint32)

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
    b" \t\r",
    bytes(range(97, 123)),
)
_GROUP_OF = bytes(next((i for i, group in enumerate(_GROUPS) if c in group), 255) for c in range(256))
_LINES = [name for name, _ in _CHARS].index("lines")
_ALL_BYTES = bytes(range(256))
_NO_BRACKETS = bytes(c for c in range(256) if c not in b"([{}])")
_ZEROS = bytes(c if c not in b"0123456789" else ord("0") for c in range(256))
_NO_NUMBERS = (0,) * len([name for name in _LOGS if "number" in name or name.startswith("gap")])
_PACKED = Struct(f"={len(DENSE)}d").pack
_IS_LOG = slice(len(_PLAIN), len(_PLAIN) + len(_LOGS) + len(_SHAPES))


def encode(query: Query) -> tuple[Hashes, Floats]:
    """Return the hashes of the n-grams of a query (with repetitions) and its dense features."""
    text = _read(query)
    cased = text.encode("utf-8", "replace")
    raw = cased.lower() if len(cased) == len(text) else text.lower().encode("utf-8", "replace")
    start, end = _asked(raw)
    # No word and no number lies across an end of the sentence that asks: its own are a stretch of all.
    words, words_asked = _split(raw, start, end, _LETTERS)
    numbers, numbers_asked = _split(raw, start, end, _DIGITS)
    n = len(words) or 1
    lengths = [*map(len, words)]
    distinct = len(set(words))
    # Of so few bytes this counts faster than numpy does.
    *chars, digits, upper, blank, lower = map(cased.translate(_GROUP_OF).count, range(len(_GROUPS)))
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
        *_numbers(numbers, numbers_asked),
        *_conversation(query),
        *_classes(words, words_asked),
        *chars,
        # _SHAPES
        *(256 - len(_ALL_BYTES.translate(None, cased)), distinct, max(lengths, default=0)),
        *(raw.translate(_ZEROS).count(b"0.0") if numbers else 0, longest, mean),
        # _SHARES
        *(digits / size, upper / size, (blank + chars[_LINES]) / size, (upper + lower) / size),
        *(lengths.count(1) / n, short, equal),
    )
    dense = np.frombuffer(bytearray(_PACKED(*values)))  # faster than what numpy makes of a tuple
    logs = dense[_IS_LOG]
    np.log1p(logs, out=logs)
    return _ngrams(words, numbers, words_asked), dense


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
    found = raw.rfind
    start = max(found(b". ", 0, stop), found(b"? ", 0, stop), found(b"! ", 0, stop), found(b"\n", 0, stop))
    return start + 1, end


def _split(raw: bytes, start: int, end: int, kept: bytes) -> tuple[list[bytes], slice]:
    """Return the stretches of bytes that ``kept`` does not blank out, and which lie from start to end."""
    before, asked = raw[:start].translate(kept).split(), raw[start:end].translate(kept).split()
    after = raw[end:].translate(kept).split()
    return before + asked + after, slice(len(before), len(before) + len(asked))


def _numbers(found: list[bytes], asked: slice) -> tuple[int, ...]:
    if not found:
        return _NO_NUMBERS
    values = [int(digits) if len(digits) < 10 else MAX_NUMBER for digits in found]
    # How often one quantity goes into the distance between two others is how long many derivations are.
    a, b, c, d = values[:FIRST] if len(values) >= FIRST else (values + [0] * FIRST)[:FIRST]
    asked_values = values[asked]
    return (
        len(values),
        len([value for value in values if value >= 10]),
        max(values),
        sum(values),
        values[-1],
        *(a, b, c, d),
        *(abs(a - b), abs(a - c), abs(a - d), abs(b - c), abs(b - d), abs(c - d)),
        len(asked_values),
        max(asked_values) if asked_values else 0,
    )


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


def _classes(words: list[bytes], asked: slice) -> list[int]:
    """Return how many of the words, and then of the asking sentence's, are of each class."""
    counts = [0] * (2 * len(CLASSES))
    for i in map(WORD_CLASS.get, words):
        if i is not None:
            counts[i] += 1
    for i in map(WORD_CLASS.get, words[asked]):
        if i is not None:
            counts[len(CLASSES) + i] += 1
    return counts


def _conversation(query: Query) -> tuple[int, ...]:
    recent = sum(len(turn.text) for turn in query.recent) if query.recent else 0
    others = max(query.total_chars - len(query.text) - recent - query.system_chars, 0)
    return len(query.recent), recent, others, query.system_chars


def _ngrams(words: list[bytes], numbers: list[bytes], asked: slice) -> Hashes:
    """Return hashes of words, numbers and the asking sentence's own words, and of pairs of neighbours.

    A pair that spans two of the three lists is a word no text has; it is harmless and saves four calls.
    """
    read = len(words) + len(numbers)
    singles = read + asked.stop - asked.start
    # Written into one array: every array more costs as much as all of its arithmetic.
    found = np.empty(max(2 * singles - 1, 0), dtype=np.uint32)
    found[:read] = [*map(crc32, words), *map(crc32, numbers)]
    np.bitwise_xor(found[asked], _SALT_ASKED, out=found[read:singles])
    pairs = found[singles:]
    np.multiply(found[: len(pairs)], _MIX, out=pairs)
    pairs ^= found[1 : len(pairs) + 1]
    return found
