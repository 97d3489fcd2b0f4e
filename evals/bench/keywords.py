"""Keyword lists, and counting which of them a text holds: what most of the published rules come down to."""

from __future__ import annotations

import re
from collections.abc import Iterable


def keywords(listed: str) -> tuple[str, ...]:
    """Return the entries of a list written as ``"one, another"``."""
    return tuple(listed.split(", "))


def count(listed: Iterable[str], lower: str) -> int:
    """Return how many of the keywords occur in a lower-case text, inside longer words too, each once."""
    return sum(keyword in lower for keyword in listed)


def count_whole(listed: Iterable[str], lower: str) -> int:
    """Return how many of the keywords occur in a lower-case text as whole words, each once."""
    return sum(is_whole(keyword, lower) for keyword in listed)


def is_whole(keyword: str, lower: str) -> bool:
    """Return whether the keyword occurs with a word boundary on either side."""
    return keyword in lower and re.search(rf"\b{re.escape(keyword)}\b", lower) is not None
