"""The difficulty rule of ThinkBudget 0.1.0, restated.

Source: the distribution ``thinkbudget`` 0.1.0, module ``thinkbudget.classifier`` (AGPL-3.0-only). What the
rule computes is described here anew; none of its code is used. One of its keywords, a regular expression
that it compares as plain text, occurs in no prompt and is left out.
"""

from __future__ import annotations

import re

from budgetctl.evals.bench.keywords import count, keywords

_REASONING = keywords(
    "algorithm, analyze, architecture, availability, byzantine, compare and contrast, complexity, "
    "comprehensive, concurrent, consensus, consequences, consistency, contradiction, convergence, core dump, "
    "cover, data structure, deadlock, debug, derive, design pattern, diagnose, differential, distributed, "
    "edge cases, eigenvalue, error handling, evaluate, explain in detail, failure recovery, fault-tolerant, "
    "formal, from scratch, implement, implications, induction, integral, intermittent, latency, lemma, "
    "lock-free, memory leak, optimization, partitioning, prove, pseudocode, race condition, replication, "
    "root cause, scalability, segfault, show how, show the, stack trace, state machine, step by step, "
    "step-by-step, theorem, throughput, trade-offs, tradeoffs, walk me through"
)
_VERBS = keywords(
    "build, configure, create, deploy, describe, design, explain, fix, generate, implement, list, modify, "
    "optimize, refactor, setup, test, update, write"
)
_LOOKUP = keywords(
    "can you, capital of, convert, define, does it, how many, how much, is it true, population of, "
    "translate, what is, what's, when did, when was, where is, where's, who is, who's, will it"
)
_SMALL_TALK = keywords("bye, goodbye, got it, hello, hey, hi, no, ok, okay, sure, thank you, thanks, yes")
# The hyphen counts as a minus, so that any hyphenated word is mathematics.
_MATHS = re.compile(r"[-+*/^=<>≤≥∫∑∏√]|\\(?:frac|int|sum)")
_STEPS = re.compile(
    r"\b(?:first|second|third|then|next|finally|(?:step|part)\s*\d)\b|^\s*\d+[.)]\s",
    re.IGNORECASE | re.MULTILINE,
)


def score(text: str) -> float:
    """Return the weighted sum of lengths and keywords, from 0 to about 150 points.

    Points: a sixth per token (1.3 per word, at most 40 points), code block 22.5, mathematics 13, question
    marks 3 each (at most 10), reasoning keywords 10 each (at most 40), several steps 15, instruction verbs 3
    each (at most 10). Keywords count once each and inside longer words too. A text that opens like a look-up
    gets at least 10 points. Small talk, and up to three words below ten characters, get none.

    Its tiers begin at 8 (simple), 20 (moderate), 40 (complex) and 65 (deep); below 8 is trivial.
    """
    text = text.strip()
    lower = text.lower()
    words = len(text.split())
    bare = lower.rstrip("!?.,")
    if words <= 3 and not bare.startswith(_LOOKUP) and (bare in _SMALL_TALK or len(text) < 10):
        return 0.0
    points = min(40.0, int(words * 1.3) / 6)
    points += 22.5 * (text.count("```") >= 2)
    points += 13.0 * bool(_MATHS.search(text))
    points += min(10, 3 * text.count("?"))
    points += 2 * min(20, 5 * count(_REASONING, lower))
    points += 15.0 * bool(_STEPS.search(text))
    points += min(10, 3 * count(_VERBS, lower))
    return max(points, 10.0) if lower.startswith(_LOOKUP) else points
