"""The difficulty rule of ThinkRouter 0.3.0, restated.

Source: the distribution ``thinkrouter`` 0.3.0, class ``thinkrouter.classifier.HeuristicClassifier`` (MIT),
its default back end.
"""

from __future__ import annotations

import re

SHORT_WORDS, LONG_WORDS = 12, 32

_EASY = (
    r"what\s+is\s+\d+[-\s+*/x\xd7\xf7]\d+",
    r"calculate\s+[\d(]",
    r"convert\s+\d+\s+\w+\s+to\s+\w+",
    r"define\s+\w+",
    r"what\s+(?:is|are)\s+(?:the\s+)?(?:capital|population|currency|language|flag)\s+of",
    r"translate\s+.{1,60}\s+to\s+\w+",
    r"(?:spell|capitali[sz]e)\s+",
    r"how\s+many\s+(?:days|hours|minutes|seconds)\s+(?:are\s+)?in\s+a",
    r"what\s+(?:year|date|day)\s+(?:was|is|did)\b",
    r"who\s+(?:wrote|invented|discovered|founded|created|won)\b",
    r"(?:yes|no|true|false)\s*\??\s*$",
    r"is\s+\w+\s+(?:an?|the)\b.{1,40}\??\s*$",
    r"what\s+(?:colou?r|shape|size)\s+is\b",
    r"(?:hello|hi|hey|greetings)\b",
)
"""Ways to begin that mean no thinking."""

_HARD = (
    r"(?:prove|derive|comprehensive)\b",
    r"demonstrate\s+(?:that|why|how)\b",
    r"verify\s+(?:that|whether)\b",
    r"design\b.{0,50}\b(?:system|database|architecture|pipeline|api|service|platform)\b",
    r"architect\b.{0,50}\b(?:system|solution|platform|service)\b",
    r"(?:fault[\s-]tolerant|highly\s+available|horizontally\s+scalable|microservice)\b",
    r"scalable\b.{0,30}\b(?:system|architecture|solution)\b",
    r"write\s+(?:a\s+)?(?:\w+\s+)?"
    r"(?:program|code|function|class|algorithm|implementation|script|module)\b",
    r"implement\b.{0,60}\b(?:algorithm|data\s+structure|tree|graph|sort|search|queue|stack|heap)\b",
    r"implement\b.{0,30}\b(?:from\s+scratch|in\s+(?:python|javascript|java|rust))\b",
    r"create\s+(?:a\s+)?(?:\w+\s+)?(?:class|module|library|framework|api|sdk)\b",
    r"(?:debug|fix|refactor)\b.{0,60}"
    r"\b(?:code|bug|error|issue|function|deadlock|race\s+condition|memory\s+leak|crash)\b",
    r"optimise?\b.{0,40}\b(?:algorithm|code|query|performance|memory|time\s+complexity)\b",
    r"explain\s+(?:in\s+detail|how|why|the\s+(?:difference|concept))\b",
    r"walk\s+(?:me\s+)?through\b",
    r"how\s+does\b.{0,50}\bwork\b.{0,20}\b(?:in\s+detail|under\s+the\s+hood|internally|step.by.step)\b",
    r"compare\s+and\s+contrast\b",
    r"what\s+are\s+the\s+(?:tradeoffs?|pros\s+and\s+cons|advantages\s+and\s+disadvantages)\b",
    r"critically\s+(?:evaluate|analyse|analyze|assess)\b",
    r"analyse?\s+(?:the|this|how)\b",
    r"step[\s-]by[\s-]step\b",
    r"in\s+depth\b",
    r"detailed\s+(?:explanation|analysis|breakdown|guide)\b",
)
"""Phrases that mean full thinking wherever they stand; the American "analyze" and "optimize" are not among
them."""

_EASY_START = re.compile("|".join(_EASY), re.IGNORECASE)
_HARD_PHRASE = re.compile(rf"\b(?:{'|'.join(_HARD)})", re.IGNORECASE)


def score(text: str) -> float:
    """Return its tier: 0 no thinking, 1 short thinking, 2 full thinking.

    The first rule that holds decides: an easy beginning is 0, a hard phrase 2, up to ``SHORT_WORDS`` words 0,
    from ``LONG_WORDS`` words on 2; anything else is 1.
    """
    text = text.strip()
    words = len(text.split())
    if _EASY_START.match(text):
        return 0.0
    if _HARD_PHRASE.search(text) or words >= LONG_WORDS:
        return 2.0
    return 0.0 if words <= SHORT_WORDS else 1.0
