"""Do two answers to one question say the same? What audits ask, of answers that can be compared."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from budgetctl.stopping.candidate import candidates
from budgetctl.stopping.trial import normalised

_CHOICE = re.compile(r"\(?([a-j])(?:[).:](?:\s.*)?)?", re.DOTALL)
_COLON = re.compile(r"\bis\s*:")
_NUMBER = re.compile(r"[-+]?(?:\d+|\d{1,3}(?:,\d{3})+)(?:\.\d+)?(?:e[-+]?\d+)?")


def same_answer(a: str, b: str) -> bool:
    r"""Whether two answers agree.

    They do if they are the same JSON, or the same text but for case, white space and outer punctuation; or
    if what they state last as their answer (``\boxed{...}``, "the answer is ...", "option B"; the whole text
    where nothing is stated) is the same text, the same letter of a choice or the same number. Two wordings of
    one thing do not agree: answers in prose need a comparison of your own.
    """
    if normalised(a) == normalised(b):
        return True
    ours, theirs = _json(a), _json(b)
    if ours is not None and theirs is not None:
        return bool(ours == theirs)
    return _same(_final(a), _final(b))


def _json(text: str) -> Any:
    """Return the object or list that a text is; None for any other."""
    text = text.strip().removeprefix("```json").removesuffix("```").strip()
    try:
        return json.loads(text) if text[:1] in ("{", "[") else None
    except ValueError:
        return None


def _final(text: str) -> str:
    stated = [answer for _, answer in candidates(_COLON.sub("is ", text))]
    return stated[-1] if stated else normalised(text)


def _same(a: str, b: str) -> bool:
    if a == b:
        return bool(a)
    letters = _CHOICE.fullmatch(a), _CHOICE.fullmatch(b)
    if letters[0] and letters[1]:
        return letters[0][1] == letters[1][1]
    x, y = _number(a), _number(b)
    return x is not None and y is not None and math.isclose(x, y, rel_tol=1e-9)


def _number(text: str) -> float | None:
    bare = text.strip("$€£ ")
    return float(bare.replace(",", "")) if _NUMBER.fullmatch(bare) else None
