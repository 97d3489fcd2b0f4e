"""A rule of thumb that needs no weights: the baseline that every trained classifier has to beat.

    difficulty = BASE + sum of coefficient * log(1 + how often a sign occurs)
    thinking   = lognormal around exp(difficulty) tokens
    p          = sigmoid((ability - difficulty) / SLOPE), once for an ability without thinking, once with it

One number drives everything: the logarithm of the tokens that a generic reasoning model spends. The two
curves of success are those of an item response model (Rasch 1960), so thinking helps most in the middle:
easy questions are right without it, and some are too hard with it. The coefficients are rounded from a fit
on public questions (MATH, GSM8K, MMLU-Pro, riddles, lineage puzzles, reasoning_gym) and on everyday requests
whose lengths were set by eye.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from itertools import repeat

from budgetctl.classifiers import features

from budgetctl.types import Estimate, Quantiles, Query

CONFIDENCE = 0.2
"""Confidence of every estimate. It is below the controller's threshold (0.5) on purpose: within a source it
orders questions by length of thought at a rank correlation of .3 (GSM8K) to .6 (MATH), but over the tasks of
reasoning_gym it tells those that only thinking solves hardly better than chance (AUC .56), and both were part
of the fit. That is enough to be compared with, not to cut anybody's thinking; a user who wants that says so
with a lower ``min_confidence``."""

BASE = 4.6
"""Difficulty of an empty query: about 100 tokens."""

MARKS: dict[str, tuple[float, str]] = {
    "words": (0.45, r"\w+"),  # how much there is to work through
    "numbers": (0.10, r"[0-9]+"),  # quantities to combine
    "lines": (0.20, r"\n\s*\S"),  # lists of facts, tables, grids, programs
    "maths": (0.10, r"[\\$^=]"),  # formulas
    "code": (0.20, r"[`{};_]|->"),  # programs, and the heavier kind of formula
}
"""Signs that are patterns: coefficient of log(1 + count), pattern in lower-case text."""

WORDS: dict[str, tuple[float, str]] = {
    # Proofs are long, whatever their statement looks like.
    "prove": (1.0, "prove proof proofs show derive theorem lemma"),
    # A result has to be worked out, not remembered.
    "compute": (
        0.7,
        "calculate compute solve evaluate determine find simplify sum product probability integral equation "
        "integer integers triangle polynomial",
    ),
    # Many possibilities have to be gone through, or conditions to be met at once.
    "search": (
        0.6,
        "maximum minimum maximize minimize largest smallest greatest least most shortest longest optimal "
        "ways possible exactly must only unique such rule rules constraint constraints puzzle without",
    ),
    # Programs to write or to follow.
    "program": (
        0.2,
        "function python java javascript sql algorithm implement program code array string "
        "input output bug debug",
    ),
    # Text to produce or facts to recall: the length is in the answer, not in the thinking.
    "write": (
        -0.3,
        "write translate summarize summarise rewrite draft essay poem email story list name define",
    ),
}
"""Signs that are words: coefficient of log(1 + count), the words."""

ABILITY_OFF = 7.3
"""Difficulty at which half of the answers without thinking are right: 1,500 tokens."""
ABILITY_FULL = 8.6
"""Difficulty at which half of the answers after thinking are right: 5,400 tokens."""
SLOPE = 1.3
"""How slowly success falls with difficulty."""

SPREAD = 1.0
"""Standard deviation of log tokens: of questions that look alike, a third is off by more than 2.7 times."""
NORMAL = (0.0, 0.8416, 1.2816, 1.6449)
"""Quantiles 0.5, 0.8, 0.9, 0.95 of the normal distribution."""
SETTLED_SHARE = (0.6, 0.8, 1.0, 1.0)
"""Settled as a share of natural tokens at these quantiles: most thoughts go on after they have settled, but
which ones cannot be seen here, so the upper quantiles take nothing off."""

LOWEST, HIGHEST = math.log(20), math.log(50_000)
"""Range of the difficulty."""

RELIANCE_WORDS = 25
"""From so many words on, a turn speaks for itself; a shorter one is partly as hard as what it refers to."""
CLIP = 2048
"""So many characters are read at each end of the query."""
CLIP_TURN = 512
"""So many characters are read at each end of an earlier turn."""

_MARKS = tuple((coefficient, re.compile(pattern)) for coefficient, pattern in MARKS.values())
_WORD = re.compile(MARKS["words"][1])
_CLASS = {word: name for name, (_, words) in WORDS.items() for word in words.split()}


class HeuristicClassifier:
    """A scoring rule of ten signs. Stateless, so safe to share between threads; microseconds per query."""

    def __init__(self) -> None:
        rule: list[object] = [
            CONFIDENCE,
            BASE,
            MARKS,
            WORDS,
            ABILITY_OFF,
            ABILITY_FULL,
            SLOPE,
            SPREAD,
            NORMAL,
        ]
        rule += [SETTLED_SHARE, LOWEST, HIGHEST, RELIANCE_WORDS, CLIP, CLIP_TURN]
        self._hash = hashlib.sha256(repr(rule).encode()).hexdigest()

    @property
    def name(self) -> str:
        """Its name in records."""
        return "heuristic"

    @property
    def hash(self) -> str:
        """SHA-256 of the coefficients."""
        return self._hash

    def estimate(self, query: Query) -> Estimate:
        """Return the success curve of ``query``, in tokens of a generic reasoning model.

        The model that the query names makes no difference. ``confidence`` is always ``CONFIDENCE``.
        """
        difficulty = _difficulty(query)
        natural = [math.exp(difficulty + SPREAD * z) for z in NORMAL]
        settled = [tokens * share for tokens, share in zip(natural, SETTLED_SHARE, strict=True)]
        return Estimate(
            p_off=_success(ABILITY_OFF, difficulty),
            p_full=_success(ABILITY_FULL, difficulty),
            settled=_quantiles(settled),
            natural=_quantiles(natural),
            confidence=CONFIDENCE,
            source=f"{self.name}:{self.hash[:12]}",
        )

    def describe(self, query: Query) -> dict[str, float]:
        """Return what is kept of ``query`` in records: the features that weights can be trained from."""
        return features.describe(query)


def _difficulty(query: Query) -> float:
    """Return the log of the median tokens of thinking.

    A bare "yes" after a hard plan is as hard as the plan, and so is, wrongly, a "thanks": too much thinking
    is the cheaper mistake.
    """
    own, words = _read(query.text, clip=CLIP)
    reliance = 1.0 - words / RELIANCE_WORDS
    if query.recent and reliance > 0:
        behind = max(_read(turn.text, clip=CLIP_TURN)[0] for turn in query.recent)
        own += reliance * max(behind - own, 0.0)
    return min(max(own, LOWEST), HIGHEST)


def _read(text: str, *, clip: int) -> tuple[float, int]:
    """Return the difficulty of a text by itself, and the number of its words that were read."""
    if len(text) > 2 * clip:
        text = f"{text[:clip]}\n{text[-clip:]}"
    text = text.lower()
    words = _WORD.findall(text)
    classes = Counter(map(_CLASS.get, words, repeat("")))
    marks = sum(c * math.log1p(len(pattern.findall(text))) for c, pattern in _MARKS)
    asked = sum(c * math.log1p(classes[name]) for name, (c, _) in WORDS.items())
    return BASE + marks + asked, len(words)


def _success(ability: float, difficulty: float) -> float:
    return 1.0 / (1.0 + math.exp((difficulty - ability) / SLOPE))


def _quantiles(values: list[float]) -> Quantiles:
    p50, p80, p90, p95 = values
    return Quantiles(p50=p50, p80=p80, p90=p90, p95=p95)
