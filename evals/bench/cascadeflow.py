"""The complexity and difficulty rules of cascadeflow 1.2.0, restated.

Source: the distribution ``cascadeflow`` 1.2.0 (MIT), classes
``cascadeflow.quality.complexity.ComplexityDetector``, without context or embeddings, and
``cascadeflow.quality.query_difficulty.QueryDifficultyEstimator``. The first picks the route, the second
the threshold above which a draft is accepted.
"""

from __future__ import annotations

from enum import IntEnum

from budgetctl.evals.bench import cascadeflow_terms as terms
from budgetctl.evals.bench.keywords import count, count_whole, is_whole, keywords

LONG_WORDS = 200
"""From here on (for some rules: above) single finds are taken for accidents."""


class Level(IntEnum):
    """Its levels of complexity."""

    TRIVIAL = 0
    SIMPLE = 1
    MODERATE = 2
    HARD = 3
    EXPERT = 4


def complexity(text: str) -> float:
    """Return its level of complexity, 0 (trivial) to 4 (expert).

    Sums, phrases like "capital of" and everyday words make a text trivial. Otherwise keywords set a level;
    signs of proof, design and the like raise it to a floor; technical terms and mathematical notation make
    it expert; code and structure raise it by one each. Tool prompts and long documents with a question come
    back down to moderate.
    """
    lower = text.lower().strip()
    words = len(text.split())
    if terms.TRIVIAL.search(lower) or _everyday(lower, words):
        return float(Level.TRIVIAL)
    boost = _technical(text, lower, words)
    level = max(_by_keywords(lower, words, boost), _by_signals(lower))
    if boost >= 1.5:
        level = Level.EXPERT
    if terms.CODE.search(text) and level < Level.HARD:
        level = Level(level + 1)
    if _structured(text, lower) and level < (Level.MODERATE if words > LONG_WORDS else Level.HARD):
        level = Level(level + 1)
    if words < 10 and boost < 2:
        level = min(level, Level.HARD)
    if words > 5000:
        level = max(level, Level.HARD)
    if _is_tool_prompt(lower) or _is_document_question(lower, words):
        level = min(level, Level.MODERATE)
    return float(level)


def _everyday(lower: str, words: int) -> bool:
    found = count_whole(terms.EVERYDAY, lower)
    needed = 1 if words <= 8 else 2 if words <= 50 else 3 if words <= LONG_WORDS else 5
    return found >= needed or (words > LONG_WORDS and found / words > 0.03)


def _technical(text: str, lower: str, words: int) -> float:
    """Return the boost by technical terms and notation: 1 is some, 1.5 makes a text expert."""
    tokens = set(lower.split())
    found: set[str] = set()
    strongest = 0.0
    for listed in terms.DOMAINS.values():
        here = [t for t in listed if t in lower and (t in tokens if t.isalpha() else is_whole(t, lower))]
        found.update(here)
        # Single words count half, and only where no punctuation touches them.
        strongest = max(strongest, sum(0.5 if t.isalpha() else 1.0 for t in here))
    symbols = len(set(terms.MATHS.findall(text)))
    if words < LONG_WORDS:
        return 0.5 * len(found) + 0.3 * symbols + min(1.5, 0.5 * int(strongest))
    return (
        _diluted(100 * len(found) / words, len(found)) + _symbols(symbols, words) + _focus(strongest, words)
    )


def _diluted(percent: float, found: int) -> float:
    if percent < 1:
        return 0.5 if found >= 2 else 0.0
    return found * (0.5 if percent >= 3 else 0.25 + 0.125 * (percent - 1))


def _symbols(symbols: int, words: int) -> float:
    if symbols / words >= 0.005:
        return 0.3 * symbols
    return 0.15 * symbols if symbols >= 2 else 0.0


def _focus(strongest: float, words: int) -> float:
    if strongest >= 5:
        return 1.5
    if strongest / words >= 0.01:
        return 1.0 if strongest >= 3 else 0.5 if strongest >= 2 else 0.0
    return 0.5 if strongest >= 3 else 0.0


def _by_keywords(lower: str, words: int, boost: float) -> Level:
    long = words > LONG_WORDS
    find = count_whole if long else count
    expert, hard, moderate = (find(listed, lower) for listed in (terms.EXPERT, terms.HARD, terms.MODERATE))
    moderate = moderate or count(terms.COMPARISONS, lower)
    if boost >= 1:
        return Level.MODERATE
    if expert >= (4 if long else 2) or (expert and not long and words >= 8):
        return Level.EXPERT
    if expert >= (3 if long else 1) or hard >= 2 or (hard and not long and words > 6):
        return Level.HARD
    if moderate >= 2 or (moderate and words > 6):
        return Level.MODERATE
    return Level.SIMPLE if words <= 8 else Level.MODERATE if words <= 2000 else Level.HARD


def _by_signals(lower: str) -> Level:
    found = {kind for kind, pattern in terms.SIGNALS.items() if pattern.search(lower)}
    if len(found) >= 2:
        return Level.EXPERT
    if found & {"proof", "mathematics"}:
        return Level.HARD
    return Level.MODERATE if found else Level.TRIVIAL


def _structured(text: str, lower: str) -> bool:
    """Return whether two of three hold: several questions, conditions with requirements, several parts."""
    demanding = bool(terms.CONDITION.search(lower) and terms.REQUIREMENT.search(lower))
    parts = any(mark in text for mark in (";", "\n", "1.", "2."))
    return (text.count("?") > 1) + demanding + parts >= 2


def _is_tool_prompt(lower: str) -> bool:
    marks = sum(1 for pattern in terms.TOOL_MARKS if pattern.search(lower))
    typed = "- " in lower and ("string" in lower or "number" in lower)
    return marks >= 2 or (marks == 1 and ("parameters:" in lower or typed))


def _is_document_question(lower: str, words: int) -> bool:
    if words < LONG_WORDS:
        return False
    if terms.DOCUMENT.search(lower) and terms.QUESTION.search(lower):
        return True
    end = lower[-100:]
    return words >= 500 and bool("?" in end or terms.QUESTION_WORD.search(end))


_KINDS = tuple(
    (points, keywords(listed))
    for points, listed in (
        (0.25, "synthesize, design, propose, create, develop, formulate, construct, devise"),
        (0.15, "analyze, compare, contrast, evaluate, assess, examine, critique, discuss, argue"),
        (0.0, "why, how does, how do, explain briefly, describe, what causes"),
        (-0.15, "what is, define, who is, when did, where is, name a, name the, list, give me, tell me"),
    )
)
_ACADEMIC = keywords(
    "implications, framework, methodology, theoretical, paradigm, philosophical, epistemological, "
    "ontological, dialectical, heuristic, normative, empirical, phenomenological, hermeneutic, meta-analysis"
)
_COMPOUND = keywords("and also, additionally, furthermore, moreover, and then, as well as, along with")
_HYPOTHETICAL = keywords(
    "if, suppose, assume, given that, provided that, in the case, hypothetically, what would happen"
)
_LENGTHS = ((15, -0.15), (30, -0.05), (50, 0.0), (100, 0.05), (150, 0.10))


def difficulty(text: str) -> float:
    """Return its difficulty in [0, 1]; a text without two visible characters has 0.

    From 0.25 upwards or downwards: length in characters (-0.15 to +0.15), the first kind of question that is
    found (-0.15 to +0.25), 0.07 per academic word (at most 0.20), 0.35 times the
    share of words beyond ten letters (at most 0.12), 0.05 each for several question marks and for compound
    phrasing, and 0.05 per hypothetical word (at most 0.10), which "if" inside "different" is too.

    Its categories begin at 0.25 (simple), 0.45 (moderate), 0.65 (complex) and 0.85 (expert).
    """
    lower = text.lower().strip()
    if len(lower) < 2:
        return 0.0
    total = 0.25 + next((points for below, points in _LENGTHS if len(lower) < below), 0.15)
    kind = next((points for points, listed in _KINDS if count_whole(listed, lower)), 0.0)
    total += -0.10 if kind < 0 and len(lower) < 30 else kind
    total += min(0.20, 0.07 * count(_ACADEMIC, lower))
    total += _terminology(lower)
    total += 0.05 * (lower.count("?") > 1) + 0.05 * (count(_COMPOUND, lower) > 0)
    total += min(0.10, 0.05 * count(_HYPOTHETICAL, lower))
    return max(0.0, min(1.0, total))


def _terminology(lower: str) -> float:
    content = [word for word in lower.split() if len(word) > 3 and word not in ("with", "from")]
    return min(0.12, 0.35 * sum(len(word) > 10 for word in content) / len(content)) if content else 0.0
