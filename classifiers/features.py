"""What is read off a query: hashed n-grams, which know one kind of traffic, and dense features, which carry
across kinds.

Only the first and the last ``CLIP`` characters of a long prompt are read, so a prompt of any size takes
bounded time. No word is stored anywhere: n-grams exist as 32-bit hashes only.
"""

from __future__ import annotations

import re
from itertools import combinations, repeat
from zlib import crc32

import numpy as np
from budgetctl.classifiers.lexicon import CLASSES, WORD_CLASS
from numpy.typing import NDArray

from budgetctl.types import Query

VERSION = 1
"""Weights fit one version of these features; it changes with every change of what is computed here."""

CLIP = 4096
MAX_NUMBER = 10**9
FIRST = 4
"""So many numbers, in the order they are told, have their size and their distances among the features."""

Hashes = NDArray[np.uint32]
Floats = NDArray[np.float64]

_WORD = re.compile(rb"[a-z\x80-\xff]+|[0-9]+|[^\sa-z0-9]")
_OPTION = re.compile(rb"(?:^|\n)[ \t]*\(?[a-j1-9][).:] ")
_SALT_ASKED = np.uint32(0x5BD1E995)
_SALT_NUMBER = np.uint32(0xC2B2AE35)
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
DENSE = (*_PLAIN, *(f"log_{name}" for name in _LOGS))
"""Names of the dense features, in order."""

_CHAR_GROUPS = np.array([[float(bytes([c]) in chars) for _, chars in _CHARS] for c in range(256)])
"""256 x groups: which byte counts in which group."""


def encode(query: Query) -> tuple[Hashes, Floats]:
    """Return the hashes of the n-grams of a query (with repetitions) and its dense features."""
    text = query.text
    if len(text) > 2 * CLIP:
        text = f"{text[:CLIP]}\n{text[-CLIP:]}"
    raw = text.lower().encode("utf-8", "replace")
    start, end = _asked(raw)
    before, asked = _WORD.findall(raw[:start]), _WORD.findall(raw[start:end])
    words = [*before, *asked, *_WORD.findall(raw[end:])]
    places = [i for i, w in enumerate(words) if w.isdigit()]
    n = len(words) or 1
    plain = [
        sum(map(len, words)) / n,
        len(set(words)) / n,
        0.0 if text.isascii() else 1.0 - len(text.encode("ascii", "ignore")) / len(text),
        end >= len(raw.rstrip()),
        _depth(raw),
        query.has_tools,
        query.structured,
    ]
    counts = [
        *(len(query.text), len(words), raw.count(b". ") + raw.count(b"? ") + raw.count(b"! ")),
        *(end - start, len(_OPTION.findall(raw))),
        *_numbers([words[i] for i in places], [w for w in asked if w.isdigit()]),
        *_conversation(query),
        *_classes(words),
        *_classes(asked),
    ]
    counted = np.bincount(np.frombuffer(raw, dtype=np.uint8), minlength=256)
    chars = np.asarray(counted @ _CHAR_GROUPS, dtype=np.float64)
    dense = np.concatenate((np.array(plain + counts, dtype=np.float64), chars))
    np.log1p(dense[len(plain) :], out=dense[len(plain) :])
    return _ngrams(words, slice(len(before), len(before) + len(asked)), places), dense


def describe(query: Query) -> dict[str, float]:
    """Return the dense features by name, for records: from them weights can be trained without the text.

    Of the numbers in a text only the magnitude is kept, so that none of them can be read back.
    """
    dense = zip(DENSE, encode(query)[1].tolist(), strict=True)
    return {name: round(value, 0 if _is_value(name) else 4) for name, value in dense}


def _is_value(name: str) -> bool:
    return "number" in name or "gap" in name


def _asked(raw: bytes) -> tuple[int, int]:
    """Return where the sentence that asks stands: the last with a question mark, else the last one."""
    end = raw.rfind(b"?") + 1 or len(raw.rstrip())
    stop = max(end - 1, 0)
    start = 1 + max(raw.rfind(mark, 0, stop) for mark in (b". ", b"? ", b"! ", b"\n"))
    return start, end


def _numbers(found: list[bytes], asked: list[bytes]) -> tuple[int, ...]:
    values = [_value(w) for w in found] or [0]
    # How often one quantity goes into the distance between two others is how long many derivations are.
    first = (values + [0] * FIRST)[:FIRST]
    return (
        len(found),
        sum(v >= 10 for v in values),
        max(values),
        sum(values),
        values[-1],
        *first,
        *(abs(a - b) for a, b in combinations(first, 2)),
        len(asked),
        max(map(_value, asked), default=0),
    )


def _value(digits: bytes) -> int:
    return int(digits) if len(digits) < 10 else MAX_NUMBER


def _depth(raw: bytes) -> int:
    """Return how deep brackets nest."""
    if b"(" not in raw and b"[" not in raw and b"{" not in raw:
        return 0
    depth = deepest = 0
    for c in raw:
        if c in b"([{":
            depth += 1
            deepest = max(deepest, depth)
        elif c in b")]}" and depth:
            depth -= 1
    return deepest


def _classes(words: list[bytes]) -> list[int]:
    counts = [0] * (len(CLASSES) + 1)
    for found in map(WORD_CLASS.get, words, repeat(-1)):
        counts[found] += 1
    return counts[:-1]


def _conversation(query: Query) -> tuple[int, ...]:
    recent = sum(len(turn.text) for turn in query.recent)
    others = max(query.total_chars - len(query.text) - recent - query.system_chars, 0)
    return len(query.recent), recent, others, query.system_chars


def _ngrams(words: list[bytes], asked: slice, places: list[int]) -> Hashes:
    """Return hashes of words and pairs, of the asking sentence's own words and pairs, and of number pairs.

    A pair that spans two of the three lists is a word no text has; it is harmless and saves five calls.
    """
    singles = np.array([*map(crc32, words)], dtype=np.uint32)
    numbers = singles[np.array(places, dtype=np.intp)]
    singles = np.concatenate((singles, singles[asked] ^ _SALT_ASKED, numbers ^ _SALT_NUMBER))
    return np.concatenate((singles, singles[:-1] * _MIX ^ singles[1:]))
