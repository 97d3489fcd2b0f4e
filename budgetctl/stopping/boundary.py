"""Where a thought can be ended without cutting a sentence, a code block or a formula."""

from __future__ import annotations

import re

_CLOSERS = r"""["')\]*_\u201d\u2019]*"""
_SENTENCE_END = re.compile(
    rf"""(?:[.!?]{_CLOSERS}\s+|[!?]{_CLOSERS}|(?:[^\W\d_]{{2}}|[)\]}}$"'\u201d\u2019])\.{_CLOSERS})\Z"""
)
_MARKS = frozenset("\n$`\\")
_TAIL = 16


class Boundaries:
    r"""Tell, delta by delta, whether the text so far ends a sentence or a line.

    A line end always counts; a full stop counts where space follows, or where it cannot be the inside of a
    number or an abbreviation. Inside a code fence and inside ``$...$``, ``$$...$$``, ``\(...\)`` or
    ``\[...\]`` nothing counts. Inline formulas end with their line at the latest, so that a price in dollars
    cannot hide the rest of the text.
    """

    def __init__(self) -> None:
        self._tail = ""
        self._fenced = self._display = self._inline = False
        self._escaped = self._dollar = False
        self._line_start = True
        self._ticks = 0

    @property
    def at_boundary(self) -> bool:
        """Whether the text so far ends a sentence or a line, outside code and formulas."""
        if self._fenced or self._display or self._inline:
            return False
        return self._tail.endswith("\n") or _SENTENCE_END.search(self._tail) is not None

    def feed(self, text: str) -> bool:
        """Take the next delta and return whether a boundary lies right behind it."""
        if self._escaped or self._dollar or self._line_start or not _MARKS.isdisjoint(text):
            for char in text:
                self._follow(char)
        self._tail = (self._tail + text)[-_TAIL:]
        return self.at_boundary

    def _follow(self, char: str) -> None:
        if self._escaped:
            self._escaped = False
            self._delimit(char)
            return
        if self._dollar:
            self._dollar = False
            if char == "$":
                self._display = not self._display
                return
            if not self._display:
                self._inline = not self._inline
        if char == "\n":
            self._inline, self._line_start, self._ticks = False, True, 0
        elif char == "`" and self._line_start:
            self._ticks += 1
            if self._ticks == 3:
                self._fenced = not self._fenced
        else:
            self._line_start = self._line_start and char in " \t"
            self._escaped = char == "\\" and not self._fenced
            self._dollar = char == "$" and not self._fenced

    def _delimit(self, char: str) -> None:
        if char in "()" and not self._display:
            self._inline = char == "("
        elif char in "[]":
            self._display = char == "["
