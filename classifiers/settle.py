"""Where a recorded thinking settles: from where on its final answer is stated and no longer changes.

A trace mentions its answer far more often than it concludes it: as a number of the question, an intermediate
value, a guess that is tested. So the miner reads sentence by sentence, and a sentence counts

for the answer  when it states it plainly: as a result, as its last number, in a box, as "the answer is", as
                "option 3" or in the words of that option;
against it      when it states another one as the answer: what stood before was not yet settled;
not at all      when it hedges, supposes, asks or denies.

The settled point is the end of the first statement of the answer after the last one against it. Yes, no and
whole explanations cannot be told from the words around them: None rather than a guess.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from budgetctl.errors import ClassifierError

Reading = Callable[[str, str], int | None]
"""What a sentence (with the one before) says: where it states the answer, AGAINST, or None for neither."""
AGAINST = -1

# Bounded, as other repetitions that could meet themselves: a megabyte of anything is read in linear time.
_SENTENCE = re.compile(
    r"[^\n]{0,2000}?(?:(?<!\n\d)(?<!\n\d\d)[.!?]{1,3}[\"”*)]{0,3}(?=\s)|\n|\Z)|[^\n]{2000}"
)
_HEDGE = re.compile(
    r"\b(?:if|maybe|perhaps|might|may|could|suppose|assum\w+|whether|possibly|(?:it's|is) possible|let'?s say"
    r"|imagine|unless|guess|for example|not|cannot|neither|wrong|incorrect|instead of|try|need to"
    r"|for\s+\w+\s+to|says|states)\b|n't\b|e\.g\.|\?",
    re.IGNORECASE,
)
_SO = re.compile(r"\W{0,9}\b(?:so|thus|hence|therefore|answer)\b", re.IGNORECASE)
# What keeps a rival from being one: others would say so, or it is only named beside the answer.
_ASIDE = re.compile(
    r"\b(?:(?:classic|standard|usual|traditional|typical|intended|expected)\w*"
    r"|also|false|unlikely|less|either|necessarily|technically|out|options)\b",
    re.IGNORECASE,
)
_WORDS = ("three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_NUMBER = re.compile(
    r"(?<![\w.])-?\\[dt]?frac\{(\d{1,15})\}\{(\d{1,15})\}"
    r"|(?<![\w.^_])(-?(?:\d{1,3}(?:,\d{3}){1,5}|\d{1,15})(?:\.\d{1,15})?)(?:\s?/\s?(\d{1,15}))?(?![\w^]|\.\d|-[a-z])"
    rf"|\b({'|'.join(_WORDS)})\b",
    re.IGNORECASE,
)
_CUE = re.compile(
    r"\\boxed\s*\{|\banswer\b[^.\n]{0,60}?(?:\bis\b|\bbe\b|:|=|>)|\banswer\s+(?=[(\d])", re.IGNORECASE
)
_COMPUTED = r"(?:=|≈|\b(?:equals|equal to|gives?(?: me| us)?|which is|which gives))[^\w.]*$"
_RESULT = re.compile(rf"{_COMPUTED}|\b(?:is|are|be|total (?:\w+ )?of)[^\w.]*$", re.IGNORECASE)
_OPERATOR = re.compile(
    r"\s*(?:[-+*/\xd7\xf7^<>]|\\times|\\div|\\cdot|(?:plus|minus|times|divided)\b|(?:,| and)\s*\$?\d)"
)
_LISTED = re.compile(r"\d,?\s*(?:and\s*)?\$?$")
_LABEL = re.compile(r"^[ \t]*\(?([A-J]|\d{1,2})[.)][ \t]+(\S.*)$", re.MULTILINE)
_EMPTY = frozenset(("a", "an", "the", "is", "are", "and", "of", "to", "in", "has", "have", "both", "share"))
_CONVERSE = {"ancestor": "descendant", "descendant": "ancestor"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The settled point of one thinking; ``sample`` counts from 0 the rows of its pair in the file."""

    question_id: str
    model: str
    sample: int
    share: float | None


def settled_share(thinking: str, *, answer: str, question: str) -> float | None:
    """Return where ``answer`` is settled, as a share of the characters of ``thinking``.

    Args:
        thinking: Full text of the thinking.
        answer: The final answer: a number, an expression, an option's label, or a few words.
        question: Text of the question; its options and its numbers are read.

    Returns:
        A number in (0, 1], or None where the answer is never stated plainly or was given up again.
    """
    read = _reading(answer, question)
    if read is None:
        return None
    point: int | None = None
    before = ""
    for match in _SENTENCE.finditer(thinking):
        end = read(match[0], before)
        before = match[0] if match[0].strip() else before
        if end == AGAINST:
            point = None
        elif end is not None and point is None:
            point = match.start() + end
    return None if point is None else point / len(thinking)


def _reading(answer: str, question: str) -> Reading | None:
    answer = _plain(answer)
    options = {label: text.strip() for label, text in _LABEL.findall(question)}
    if len(options) > 1 and answer.strip("()") in options:
        return _option_reading(answer.strip("()"), options)
    words, values = _tokens(answer), _values(answer)
    if len(values) == 1 and len(words) <= 3 and not re.search(r"\^|√|\d[a-z]\b", answer):
        return _number_reading(values[0][0], question)
    if not answer or len(words) > 4 or words[:1] in (["yes"], ["no"]):
        return None
    return _phrase_reading(answer, question)


def _plain(text: str) -> str:
    text = re.sub(r"\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\[dt]?frac\s*(\d)\s*(\d)", r"\1/\2", text)
    text = re.sub(r"\\sqrt\s*\{?(\w+)\}?", r"√\1", text)
    return re.sub(r"\\(?:left|right|!|,|;)|\^\{?\\circ\}?|[$*]|\\%", "", text).strip()


def _tokens(text: str) -> list[str]:
    return [w for w in re.findall(r"[a-z]+|\d+", text.lower()) if w not in _EMPTY]


def _values(text: str) -> list[tuple[Fraction, int, int]]:
    """Return the numbers of a text with where they start and end."""
    found = []
    for m in _NUMBER.finditer(text):
        if m[1]:
            value = Fraction(int(m[1]), int(m[2]) or 1) * (-1 if m[0].startswith("-") else 1)
        elif m[3]:
            value = Fraction(m[3].replace(",", "")) / (int(m[4] or 1) or 1)
        else:
            value = Fraction(_WORDS.index(m[5].lower()) + 3)
        found.append((value, m.start(), m.end()))
    return found


def _hedged(sentence: str, end: int) -> bool:
    """Whether a statement is none: something before it takes it back, or a question mark follows it."""
    return bool(_HEDGE.search(sentence, 0, end)) or sentence.rstrip().endswith("?")


def _number_reading(target: Fraction, question: str) -> Reading:
    given = target in {value for value, _, _ in _values(question)}
    computed = re.compile(_COMPUTED, re.IGNORECASE)

    def read(sentence: str, before: str) -> int | None:
        values = _values(sentence)
        if not values or _hedged(sentence, values[0][1]):
            return None
        ends = [(start, end) for value, start, end in values if value == target]
        cue = _CUE.search(sentence)
        if cue and any(0 <= start - cue.end() < 40 for _, start, _ in values):
            if ends:
                return ends[0][1]
            return None if _ASIDE.search(sentence) or _hedged(sentence, cue.end()) else AGAINST
        result = computed if given and not _SO.match(sentence) else _RESULT
        for start, end in ends:
            plain = (
                end == values[-1][2] and not given and not _LISTED.search(sentence, max(0, start - 9), start)
            )
            if (plain or result.search(sentence, max(0, start - 40), start)) and not _OPERATOR.match(
                sentence, end
            ):
                return end
        return None

    return read


def _option_reading(label: str, options: Mapping[str, str]) -> Reading:
    key = rf"\(?({'|'.join(map(re.escape, options))})\b"
    cue = re.compile(
        r"(?i:\\boxed\s*\{|\banswer\b(?!\s+(?:choices|options))[^.\n]{0,40}?(?<!\w)|^\W*option(?=\W+\w+\W*$)"
        r"|\b(?:so|thus|hence|therefore|that's|that is)\b[^.\n]{0,40}?\boption)"
        rf"\W{{0,3}}{key}"
        rf"|{key}\W+(?i:(?:is|seems|must be|should be)\s+(?:the\s+)?(?:correct|right|answer|best))"
    )
    words = {name: _tokens(text) for name, text in options.items()}
    wordings = {name: _wording(w, gap=2 + 4 * (name == label and "s" not in w)) for name, w in words.items()}
    subject = [w for w in words[label] if sum(w in other for other in words.values()) > len(words) // 2]

    def read(sentence: str, before: str) -> int | None:
        if m := cue.search(sentence):
            if _hedged(sentence, m.end() + 30):
                return None
            return m.end() if label in m.groups() else None if _ASIDE.search(sentence) else AGAINST
        if re.match(r"\W*(?:option\s*)?\(?\w{1,2}[.):]|.*\boption\b|\W*[\"“]", sentence, re.IGNORECASE):
            return None  # the options read out again
        length = len(sentence)
        if all(w in (before + sentence).lower() for w in subject):
            sentence = re.sub(r"\bthey\b", lambda m: " ".join(subject), sentence, flags=re.IGNORECASE)
        said = {name: m for name, w in wordings.items() if w and (m := w.search(sentence))}
        if len(said) > 1:  # "A and B have an ancestor in common" may hold the words of "A is B's ancestor"
            most = max(len(words[name]) for name in said)
            said = {name: m for name, m in said.items() if len(words[name]) == most}
        if len(said) != 1 or _hedged(sentence, max(m.end() for m in said.values())):
            return None
        if label in said:
            return length
        return AGAINST if _SO.match(sentence) and not _ASIDE.search(sentence) else None

    return read


def _wording(words: Sequence[str], *, gap: int) -> re.Pattern[str] | None:
    """Return what recognises the words of an option in other common orders too, up to ``gap`` words apart."""
    if not 1 <= len(words) <= 6 or words[0] == "none":
        return None
    orders = {tuple(words)}
    if (
        len(words) == 4 and words[2] == "s"
    ):  # A is B's x, A is an x of B, B is an antonym of A, B is A's antonym
        one, two, _, what = words
        orders.add((one, what, two))
        if what in _CONVERSE:
            orders |= {(two, _CONVERSE[what], one), (two, one, "s", _CONVERSE[what])}
    elif len(words) > 3:  # A and B share an x, B and A do, x is common to A and B
        one, two, *rest = words
        orders |= {(two, one, *rest), (*rest, one, two), (*rest, two, one)}
    between = rf"\W+(?:\w+\W+){{0,{gap}}}?"
    ways = "|".join(between.join(order) for order in sorted(orders))
    ways = ways.replace(rf"{between}s{between}", r"['\u2019]s\W+(?:\w+\W+)?")
    return re.compile(rf"\b(?:{ways})\b(?!['\u2019]s)", re.IGNORECASE)


def _phrase_reading(answer: str, question: str) -> Reading:
    """A name or an expression; one that the question holds too is only believed with "so" or "answer"."""
    key = r"\s*".join(map(re.escape, re.findall(r"\w+|[^\w\s]", answer)))
    phrase = re.compile(rf"(?<!\w){key}(?!\w)", re.IGNORECASE)
    given = phrase.search(question) is not None

    def read(sentence: str, before: str) -> int | None:
        m = phrase.search(sentence)
        if not m and not phrase.search(_plain(sentence)):
            return None
        if _hedged(sentence, m.start() if m else 0) or (given and not _SO.search(sentence)):
            return None
        return m.end() if m else len(sentence)

    return read


def mine(path: str | os.PathLike[str], *, cube: str | os.PathLike[str]) -> Iterator[Settled]:
    """Yield the settled points of the right rows of a trace file; ``cube`` gives the reference answers.

    Raises:
        ClassifierError: A file cannot be read or is not gzipped JSON lines.
    """
    answers = {row["question_id"]: str(row["reference_answer"] or "") for row in _rows(Path(cube))}
    seen: Counter[tuple[str, str]] = Counter()
    for row in _rows(Path(path)):
        pair = (row["question_id"], row.get("model") or row["model_dir"])
        seen[pair] += 1
        thinking = row.get("thinking_text") or (row.get("output_text") or "").split("</think>")[0]
        if row["correct"] and thinking:
            answer = reference(answers.get(pair[0], ""))
            share = settled_share(thinking, answer=answer, question=row["question"]) if answer else None
            yield Settled(question_id=pair[0], model=pair[1], sample=seen[pair] - 1, share=share)


def reference(note: str) -> str:
    """Return the bare answer of a grader's note such as "Answer is 41"; other texts stay as they are."""
    return re.sub(r"^Answer [iì]s\s+", "", note)


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with gzip.open(path) as file:
            yield from map(json.loads, file)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ClassifierError(f"{path}: cannot be read as gzipped JSON lines: {error}") from error
