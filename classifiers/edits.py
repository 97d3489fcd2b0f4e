"""Edits of a prompt that must not change what it deserves: typing errors, and the same said otherwise.

A classifier whose estimate moves under them reads the surface. Training shows questions in such copies, and
what it has learnt from them is judged by other draws, and by one edit that it is never shown. Digits stay,
and so does what :mod:`.prose` does not count as prose.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType

from budgetctl.classifiers import prose

Edit = Callable[[str, random.Random], str]

TYPO_RATE = 0.02
"""Typing errors per letter of the words that may have any."""
SHARE = 0.6
"""Probability of each kind of rewording, and of each chance within it."""

_WORD = re.compile(r"(?<![\w\\'\u2019-])[^\W\d_]{4,}(?![\w'\u2019-])")

_NEIGHBOURS = {
    letter: row[max(i - 1, 0) : i] + row[i + 1 : i + 2]
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for i, letter in enumerate(row)
}


def typos(text: str, rng: random.Random) -> str:
    """Return ``text`` with typing errors: letters swapped, dropped, doubled or hit beside the key.

    ``TYPO_RATE`` of the letters are hit, at least one. Only words of four and more letters have errors:
    shorter ones become other words too easily. A text without such words comes back as it is.

    Args:
        text: A prompt.
        rng: Where chance comes from; the same state gives the same errors.
    """
    words = [word for start, end in prose.stretches(text) for word in _WORD.finditer(text, start, end)]
    # Words in capitals name things: points, variables, grammar symbols.
    spots = [spot for word in words if not word[0].isupper() for spot in _spots(word)]
    if not spots:
        return text
    hits = max(1, int(len(spots) * TYPO_RATE + rng.random()))
    letters = list(text)
    for place, last in sorted(rng.sample(spots, hits)):
        _mistype(letters, place, last=last, rng=rng)
    return "".join(letters)


def _spots(word: re.Match[str]) -> list[tuple[int, bool]]:
    """Return the places of the letters of a word, and whether each is its last."""
    return [(place, place == word.end() - 1) for place in range(word.start(), word.end())]


def _mistype(letters: list[str], place: int, *, last: bool, rng: random.Random) -> None:
    letter = letters[place]
    other = place - 1 if last else place + 1
    kind = rng.choice(("swap", "drop", "double", "neighbour"))
    beside = _NEIGHBOURS.get(letter.lower(), "")
    if kind == "swap" and letters[other] != letter:
        letters[place], letters[other] = letters[other], letter
    elif kind == "drop":
        letters[place] = ""
    elif kind == "neighbour" and beside:
        hit = rng.choice(beside)
        letters[place] = hit.upper() if letter.isupper() else hit
    else:
        letters[place] = 2 * letter


def paraphrase(text: str, rng: random.Random) -> str:
    """Return ``text`` said otherwise: the same numbers, the same request.

    Contractions are made or undone, the verb that asks is exchanged, lines break elsewhere, quotes turn curly
    or straight, the last mark and the case of the first letter change, politeness is added or dropped; each
    with probability ``SHARE``, where the text offers it. Where nothing else took, politeness changes. A blank
    text comes back as it is.

    Args:
        text: A prompt.
        rng: Where chance comes from; the same state gives the same wording.
    """
    if not text.strip():
        return text
    changed = text
    for edit in (_contractions, _verbs, _questions, _spacing, _quotes):
        if rng.random() < SHARE:
            changed = prose.rewrite(changed, partial(edit, rng=rng))
    for edit in (_last_mark, _first_case, _politeness):
        if rng.random() < SHARE:
            changed = edit(changed, rng)
    return _politeness(text, rng) if changed == text else changed


def casual(text: str, rng: random.Random) -> str:
    """Return ``text`` as it is typed in a chat: no capitals, fewer commas, no apostrophes, no last mark.

    Each with probability ``SHARE`` where the text offers it, and an opener where nothing else took. A blank
    text comes back as it is.

    Args:
        text: A prompt.
        rng: Where chance comes from; the same state gives the same wording.
    """
    if not text.strip():
        return text
    changed = prose.rewrite(text, partial(_carelessly, rng=rng))
    if prose.ends(changed) and rng.random() < SHARE:
        changed = re.sub(r"(?<=\w)[.?!](\s*)\Z", r"\1", changed)
    if changed != text and rng.random() < SHARE:
        return changed
    return rng.choice(_ASIDES) + (" " if prose.starts(changed) else _APART) + changed


EDITS: Mapping[str, Edit] = MappingProxyType({"typos": typos, "paraphrase": paraphrase, "casual": casual})
"""The edits by name: (text, rng) -> text."""


def copy(text: str, *, number: int) -> str:
    """Return a copy for training: in turn with typing errors, said otherwise, and both; never casual."""
    rng = random.Random(f"copy {number}: {text}")
    edited = text if number % 3 == 0 else paraphrase(text, rng)
    return edited if number % 3 == 1 else typos(edited, rng)


def _both_ways(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {old.lower(): new for a, b in pairs for old, new in ((a, b), (b, a))}


def _any_of(table: Iterable[str]) -> str:
    return "|".join(sorted(table, key=len, reverse=True))


def _exchange(pattern: re.Pattern[str], table: Mapping[str, str], text: str, rng: random.Random) -> str:
    """Exchange finds of ``pattern`` by ``table``, each with probability ``SHARE``, keeping a capital."""

    def other(found: re.Match[str]) -> str:
        old = found[0]
        if rng.random() >= SHARE:
            return old
        new = table[old.lower()]
        return new[0].upper() + new[1:] if old[0].isupper() else new

    return pattern.sub(other, text)


_NEGATED = ("do", "does", "did", "is", "are", "was", "were", "has", "have", "had", "could", "should", "would")
_FORMS = _both_ways(
    (
        *((f"{verb}n't", f"{verb} not") for verb in _NEGATED),
        *((f"{who}'ll", f"{who} will") for who in ("I", "you", "we", "they")),
        *((f"{who}'re", f"{who} are") for who in ("you", "we", "they")),
        *(
            ("can't", "cannot"),
            ("won't", "will not"),
            ("I'm", "I am"),
            ("what's", "what is"),
            ("it's", "it is"),
        ),
    )
)
# Before a word only: "they are." has no contraction. "It's been" is short for "it has been".
_FORM = re.compile(rf"\b(?:{_any_of(_FORMS)})(?= (?!been\b)[a-z])", re.IGNORECASE)

_VERBS = _both_ways(
    (
        ("find", "determine"),
        ("compute", "calculate"),
        ("show that", "prove that"),
        ("choose", "select"),
        ("write a", "create a"),
        ("suppose", "assume"),
        ("explain", "describe"),
    )
)
_VERB = re.compile(
    rf"(?:^|(?<=[.!?:][ ])|(?<=\n)|(?<=please[ ]))(?:{_any_of(_VERBS)})\b(?![ ](?:if|whether)\b)",
    re.IGNORECASE,
)


def _contractions(text: str, rng: random.Random) -> str:
    return _exchange(_FORM, _FORMS, text, rng)


def _verbs(text: str, rng: random.Random) -> str:
    return _exchange(_VERB, _VERBS, text, rng)


def _questions(text: str, rng: random.Random) -> str:
    asked = rng.choice((r"Give \1.", r"Tell me \1.", r"What would \1 be?"))
    return re.sub(r"\bWhat(?: i|')s (the [^?.!\n]+)\?", asked, text)


def _spacing(text: str, rng: random.Random) -> str:
    return re.sub(
        r"(?<=[a-z][.?!]) (?=[A-Z])",
        lambda _: rng.choice(("\n", "  ")) if rng.random() < SHARE else " ",
        text,
    )


def _quotes(text: str, rng: random.Random) -> str:
    if "\u201c" in text or "\u2019" in text:
        return re.sub("[\u201c\u201d]", '"', text).replace("\u2019", "'")
    text = re.sub(r'(?<![^\s(])"(?=\S)([^"\n]+)(?<=\S)"(?!\w)', "\u201c\\1\u201d", text)
    return re.sub(r"(?<=[a-z])'(?=[a-z])", "\u2019", text)


def _last_mark(text: str, rng: random.Random) -> str:
    body = text.rstrip()
    if not prose.ends(text) or body.endswith(".."):
        return text
    if body.endswith("."):
        return body[:-1] + text[len(body) :]
    if body.endswith("?"):
        return body[:-1] + rng.choice(("", " ?", "??")) + text[len(body) :]
    return f"{body}.{text[len(body) :]}" if body[-1].isalpha() else text


def _first_case(text: str, rng: random.Random) -> str:
    """Flip the first letter of a word; a letter of its own may be a variable."""
    first = re.match(r"[A-Za-z](?=[a-z])", text)
    return first[0].swapcase() + text[1:] if first and prose.starts(text) else text


_ASIDES = ("ok so", "quick one:", "hey", "i'm stuck on this one,", "next question:")


def _carelessly(text: str, rng: random.Random) -> str:
    if rng.random() < SHARE:
        text = re.sub(r"\b[A-Z](?=[a-z]*\b)", lambda letter: letter[0].lower(), text)
    if rng.random() < SHARE:
        text = re.sub(r"(?<=[a-z]),(?= [a-z])", lambda mark: "" if rng.random() < SHARE else mark[0], text)
    return re.sub(r"(?<=[a-z])['\u2019](?=[a-z])", "", text) if rng.random() < SHARE else text


_APART = "\n\n"
_REQUEST = re.compile(
    r"(?:find|determine|compute|calculate|evaluate|solve|simplify|explain|describe|write|create|show|prove|choose"
    r"|select|give|list|name|translate|summari[sz]e|convert|count)\b(?P<rest>[^.?!\n]*\.(?=\s|$))?",
    re.IGNORECASE,
)
_OPENERS = ("Hi!", "Hello,", "I have a question.", "Could you help me with this?", "Here is my question:")
_CLOSERS = ("Thanks!", "Thank you.", "Thank you in advance!", "Any help is welcome.")


def _politeness(text: str, rng: random.Random) -> str:
    """Drop a "please" that opens the text, or add courtesy before or after it."""
    if re.match(r"please [a-z]", text, re.IGNORECASE):
        return text[7].upper() + text[8:]
    request = _REQUEST.match(text)
    if request and rng.random() < SHARE:
        asked = text[0].lower() + text[1:]
        if request["rest"] and rng.random() < SHARE:
            return f"Could you {asked[: request.end() - 1]}?{asked[request.end() :]}"
        return f"Please {asked}"
    if rng.random() < SHARE:
        return rng.choice(_OPENERS) + (" " if prose.starts(text) else _APART) + text
    near = "\n" not in text and prose.ends(text)
    return text.rstrip() + (" " if near else _APART) + rng.choice(_CLOSERS)
