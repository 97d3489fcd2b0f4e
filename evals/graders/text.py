"""Graders of plain text: exact, normalised, regular expressions, choice letters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from budgetctl.errors import EvalError

_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_STATED = re.compile(
    r"(?:final\s+answer|answer|solution)(?:\s+choice|\s+option)?\s*(?:is|:|=|are)+\s*:?\s*(?P<said>.+)",
    re.IGNORECASE,
)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")

_LETTER = r"(?P<letter>[A-Z])"
_END = r"(?=$|[\s.,:;)\]}*\"'])"
_OPEN = r"[(\[*_$\s]*"
_CHOICES = (
    re.compile(r"\\(?:boxed|fbox)\s*\{\s*(?:\\text(?:bf)?\s*\{)?\s*\(?" + _LETTER + r"\)?\s*\}"),
    re.compile(
        r"(?i:answer|choice|option)[*_]*\s*(?i:is|are|:|=)+[\s*_:]*(?i:option\s+|choice\s+)?"
        + _OPEN
        + _LETTER
        + _END
    ),
    re.compile(r"^[\s*_(\[]*" + _LETTER + r"[\s*_.)\]]*$", re.MULTILINE),
    re.compile(r"^[\s*_(\[]*" + _LETTER + r"[.):\]]", re.MULTILINE),
    re.compile(r"(?:^|\s)[*_(\[]+" + _LETTER + r"[*_)\].]+(?=\s|$|[.,;])"),
    re.compile(r"(?i:choose|select|pick|correct)\s+(?i:option|choice|answer|is)?" + _OPEN + _LETTER + _END),
)
"""How answers name a letter, the surest way first; of several matches of one way the last counts."""


def reference(line: Any) -> Any:
    """Return the right answer of a question's line.

    Raises:
        EvalError: It has none.
    """
    found = line.get("reference_answer", line.get("answer")) if isinstance(line, Mapping) else None
    if found is None:
        raise EvalError("the question has no 'reference_answer' or 'answer' to grade by")
    return found


def exact(answer: str, line: Any) -> bool:
    """Whether the answer is the reference, but for white space around it."""
    return answer.strip() == str(reference(line)).strip()


def normalised(answer: str, line: Any) -> bool:
    """Whether the final answer is the reference without case, punctuation, articles and spacing.

    The normalisation is that of SQuAD (Rajpurkar et al. 2016). Of a list of references any is right.
    """
    wanted = reference(line)
    allowed = {normal(str(one)) for one in (wanted if isinstance(wanted, list) else [wanted])}
    return normal(answer) in allowed or normal(final(answer)) in allowed


def normal(text: str) -> str:
    """Return text without case, punctuation, articles and spacing."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    bare = "".join(" " if unicodedata.category(c)[0] in "PZ" else c for c in folded)
    words = _ARTICLES.sub(" ", bare).split() or bare.split()  # "(A)" is no article where it is all there is
    return " ".join(words)


def final(answer: str) -> str:
    r"""Return what an answer states in the end: in ``\boxed{}``, behind "the answer is", or all of it."""
    boxed = boxes(answer)
    if boxed:
        return boxed[-1]
    stated = list(_STATED.finditer(answer))
    return stated[-1]["said"].strip().strip("*_$ ") if stated else answer.strip()


def boxes(answer: str) -> list[str]:
    r"""Return what stands in each ``\boxed{}``, inner braces and all."""
    found = []
    for match in _BOXED.finditer(answer):
        depth, end = 1, match.end()
        while end < len(answer) and depth:
            depth += {"{": 1, "}": -1}.get(answer[end], 0)
            end += 1
        if not depth:
            found.append(answer[match.end() : end - 1].strip())
    return found


def regex(pattern: str) -> Any:
    """Return a grader that looks for a pattern; its last match counts.

    Raises:
        EvalError: It is no regular expression.
    """
    try:
        compiled = re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise EvalError(f"grader 'regex:{pattern}': no regular expression: {error}") from None

    def grade(answer: str, line: Any) -> bool:
        matches = list(compiled.finditer(answer))
        if (
            not matches
            or not isinstance(line, Mapping)
            or line.get("reference_answer", line.get("answer")) is None
        ):
            return bool(matches)
        said = matches[-1][1] if compiled.groups else matches[-1][0]
        return normal(said or "") == normal(str(reference(line)))

    return grade


def choice(answer: str, line: Any) -> bool:
    """Whether the letter that an answer gives is the reference; an option's own words count as its letter."""
    wanted, options = str(reference(line)).strip(), _options(line)
    if not re.fullmatch(r"\(?[A-Z]\)?\.?", wanted):
        raise EvalError(f"the reference of a choice is one capital letter, seen {wanted!r:.40}")
    wanted = wanted.strip("().")
    said = letter(answer, among=len(options) or 26)
    if said is None and options:
        words = [normal(option) for option in options]
        stated = normal(final(answer))
        said = chr(65 + words.index(stated)) if words.count(stated) == 1 else None
    return said == wanted


def stated(answer: str, line: Any) -> bool:
    """Whether the final answer is the reference: a letter where that is ``(X)``, else normalised text."""
    letters = re.fullmatch(r"\([A-Z]\)", str(reference(line)).strip())
    return choice(answer, line) if letters else normalised(answer, line)


def letter(answer: str, *, among: int = 26) -> str | None:
    """Return the letter that an answer gives, of the first ``among`` of the alphabet, else None."""
    for pattern in _CHOICES:
        found = [m["letter"] for m in pattern.finditer(answer) if ord(m["letter"]) - 65 < among]
        if found:
            return found[-1]
    return None


def _options(line: Any) -> list[str]:
    options = line.get("options", line.get("choices")) if isinstance(line, Mapping) else None
    if isinstance(options, Mapping):
        options = options.get("text")
    return [str(option) for option in options] if isinstance(options, list) else []
