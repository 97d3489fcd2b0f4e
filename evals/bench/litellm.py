"""The keyword heuristic (v1) of LiteLLM's complexity router, restated.

Source: the distribution ``litellm`` 1.106.2, class
``litellm.router_strategy.complexity_router.complexity_router.ComplexityRouter`` with the defaults of its
``config`` (MIT). Only the caller's own text is scored there too, never the system prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from budgetctl.evals.bench.keywords import is_whole, keywords

TOP_TIER = 0.60
"""Where the highest of four tiers begins; the others begin at 0.15 and 0.35."""

_CODE = keywords(
    "algorithm, angular, api, async, await, branch, catch, class, commit, const, database, debug, def, "
    "docker, endpoint, error, exception, export, function, git, golang, implement, import, java, javascript, "
    "kubernetes, let, merge, node, optimize, pull request, python, query, react, refactor, request, "
    "response, return, rust, schema, sql, try, typescript, var, vue"
)
_REASONING = keywords(
    "analyze this, break down, chain of thought, compare and contrast, conclude, consider all, deduce, "
    "evaluate, explain your reasoning, infer, let's think, logical, pros and cons, reason through, "
    "show your work, step by step, think carefully, think through, weigh the options"
)
_TECHNICAL = keywords(
    "architecture, authentication, authorization, benchmark, concurrency, container, cpu, deep learning, "
    "distributed, encryption, gpu, grpc, http, latency, machine learning, memory, microservice, "
    "neural network, optimization, orchestration, parallel, performance, protocol, scalable, tcp, threading, "
    "throughput, websocket"
)
_SIMPLE = keywords(
    "brief, bye, define, definition of, goodbye, hello, hey, hi, how many, how much, okay, quick, short, "
    "simple, thank you, thanks, true or false, what is, what's, when did, when was, where is, where was, "
    "who is, who was, yes or no"
)
_STEPS = re.compile(r"first.*?then|step\s*\d|\d+\.\s|[a-z]\)\s")


def score(text: str) -> float:
    """Return the weighted sum of seven dimensions, in [-0.15, 0.95].

    Code 0.30 (half of it for a single keyword), reasoning 0.25 (0.7 of it for a single one), technical terms
    0.25 (from four on; half of it for two or three), length 0.10 (plus above 400 tokens, minus below 15, a
    token being four characters), simple words -0.05, several steps 0.015, more than three question marks
    0.01. Single words match whole words, phrases match anywhere.

    Two reasoning markers lift a text above the lowest tier straight to the highest one; its score is then
    at least ``TOP_TIER``, so that scores order texts as tiers do.
    """
    lower = text.lower()
    reasoning = _hits(_REASONING, lower)
    tokens = len(text) // 4
    total = 0.10 * ((tokens > 400) - (tokens < 15))
    total += 0.30 * _step(_hits(_CODE, lower), (1, 0.5), (2, 1.0))
    total += 0.25 * _step(reasoning, (1, 0.7), (2, 1.0))
    total += 0.25 * _step(_hits(_TECHNICAL, lower), (2, 0.5), (4, 1.0))
    total -= 0.05 * (_hits(_SIMPLE, lower) > 0)
    total += 0.015 * bool(_STEPS.search(lower))
    total += 0.01 * (text.count("?") > 3)
    return max(total, TOP_TIER) if reasoning >= 2 and total >= 0.15 else total


def _hits(listed: Iterable[str], lower: str) -> int:
    return sum(keyword in lower if " " in keyword else is_whole(keyword, lower) for keyword in listed)


def _step(hits: int, low: tuple[int, float], high: tuple[int, float]) -> float:
    """Return the value of the last threshold that ``hits`` reaches; a threshold is (hits, value)."""
    return high[1] if hits >= high[0] else low[1] if hits >= low[0] else 0.0
