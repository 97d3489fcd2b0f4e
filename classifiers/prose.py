"""Which parts of a prompt are prose.

The rest, where a change of one letter could change what is asked, is code, formulas, data in brackets,
addresses, and single words in quotes.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_FIXED = re.compile(
    r"""
    ```[\s\S]*?(?:```|\Z) | `[^`\n]*`                              # code, fenced and in a line
    | ^(?:[ ]{4}|\t).*$                                            # indented code or data
    | ^.*(?:[;{}]|==|=>|->|\)[ ]?:)[ \t]*$                         # a line that ends as code does
    | ^\s*(?:def|class|import|from|return|print|for|while|if)\b.*[:(].*$
    | \$\$[\s\S]*?\$\$ | \\\([\s\S]*?\\\) | \\\[[\s\S]*?\\\]       # formulas
    | \\begin\{[\s\S]*?\\end\{[^}]*\}
    | \$(?![\s$])[^$]*?(?<!\s)\$(?!\d) | \$[ ][^$\n]*?[ ]\$        # not two sums of dollars
    | \\[a-zA-Z]+(?:\{[^{}]*\})*
    | \[[^\]\n]*\] | \{[^}\n]*\}                                   # data
    | https?://\S+ | \S+@\S+
    | ["'\u201c\u2018][^\W_]+["'\u201d\u2019]            # a word that is spoken of
    """,
    re.VERBOSE | re.MULTILINE,
)


def stretches(text: str) -> list[tuple[int, int]]:
    """Return the stretches of prose, as (start, end); the first starts and the last ends with the text."""
    bounds = [0, *(place for found in _FIXED.finditer(text) for place in found.span()), len(text)]
    return list(zip(bounds[::2], bounds[1::2], strict=True))


def rewrite(text: str, edit: Callable[[str], str]) -> str:
    """Return ``text`` with ``edit`` applied to every stretch of prose."""
    done = 0
    pieces: list[str] = []
    for start, end in stretches(text):
        pieces += (text[done:start], edit(text[start:end]))
        done = end
    return "".join(pieces)


def starts(text: str) -> bool:
    """Return whether the text starts as prose."""
    return stretches(text)[0][1] > 0


def ends(text: str) -> bool:
    """Return whether the text, but for white space, ends as prose."""
    return stretches(text)[-1][0] < len(text.rstrip())
