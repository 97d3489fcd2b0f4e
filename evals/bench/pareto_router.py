"""The logic score of pareto-router 0.1.0, restated.

Source: the distribution ``pareto-router`` 0.1.0, class
``pareto_router.evaluator.heuristic.HeuristicEvaluator`` (no licence declared). What the rule computes is
described here anew; none of its code is used. Its second axis, "knowledge", picks a model rather than the
amount of thinking and is left out.
"""

from __future__ import annotations

import re

from budgetctl.evals.bench.keywords import count, count_whole, keywords

_WORDS = keywords(
    "acid, algorithm, assert, assertion, ast, asymptotic, automata, backtracking, benchmark, bitwise, "
    "boolean, byzantine, calculus, cfg, codeforces, complexity, consensus, contrapositive, counterexample, "
    "deadlock, derivative, deserialization, differential, distributed, eigenvalue, euler, idempotent, iff, "
    "induction, integral, invariant, leetcode, lemma, liveness, lock, matrix, memoization, mutex, paxos, "
    "pointer, profiling, proof, prove, raft, recursion, regex, satisfiability, segfault, semaphore, "
    "serialize, theorem, xor"
)
_PHRASES = keywords(
    "big o, big-o, binary search, breadth first, byzantine fault, depth first, divide and conquer, "
    "dynamic programming, edge case, fault tolerant, finite automata, lock manager, memory leak, "
    "must satisfy, network partition, null pointer, o(1, o(log, o(n, race condition, regular expression, "
    "shortest path, space complexity, stack overflow, strictly satisfy, test case, thread-safe, "
    "time complexity, time limit exceeded, topological sort, truth table, unit test"
)
_CODE = (
    re.compile(r"```[\s\S]*?```"),
    re.compile(r"\b(?:def|class|async|await|return|fn|func|let|const|var|import|from)\b"),
    re.compile(r"\b(?:public|private|protected|static|void|struct|interface|type)\b"),
    re.compile(r"\b(?:select|insert|update|delete|join|group by|order by)\b", re.IGNORECASE),
    re.compile(r"\w+\([\w,\s]*\)\s*(?:->|=>|:)", re.ASCII),
    re.compile(r"\+\+|--|&&|\|\||=>|->|[-+*/%=!<>]="),
    re.compile(r"\b(?:for|while|if|else|elif|switch|case|break|continue)\b\s*[({]"),
    re.compile(r"\b(?:rust|python|golang|typescript|c\+\+|java|sql)\b", re.IGNORECASE),
)
_MATHS = (
    re.compile(r"\$|\\(?:[\[(]|sum|int|frac|sqrt|alpha|beta|gamma)"),
    re.compile(r"\b\d+\s*[-+*/^%]\s*\d+\b"),
    re.compile(r"\b(?:solve for|find x|equation|polynomial|matrix|modulus)\b", re.IGNORECASE),
)
_STRICT = re.compile(
    r"\b(?:strictly|must satisfy|output only|test case|assertion|unit test|falsify|correctness)\b"
)
_SMALL_TALK = re.compile(
    r"\b(?:hi|hello|hey|howdy|sup|greetings|morning|afternoon|evening|good\s+day|who are you"
    r"|what is your name|how are you|how's it going|what's up|thanks|thank you|ok|okay|cool|awesome|great)\b",
    re.IGNORECASE,
)
_REWRITE = re.compile(
    r"\b(?:make\b.*?\b(?:professional|casual|polite|concise|friendly|punchy|better)"
    r"|fix (?:the )?(?:grammar|spelling|typos)|proofread|(?:re|para)phrase|rewrite this"
    r"|translate (?:this |the following )?(?:to|into) \w+"
    r"|format (?:this|as) (?:markdown|bullet points|a table|json)"
    r"|summarize (?:this|the following) in \d+ (?:words|bullets|sentences))\b",
    re.IGNORECASE,
)


def score(text: str) -> float:
    """Return the logic score in [0, 1], to three places.

    The sum, cut at 1, of 0.25 per logic word, 0.35 per logic phrase (inside words too), for each of eight
    marks of code 0.12 per find (at most 0.35), for each of three marks of mathematics 0.15 per find (at most
    0.30), and 0.20 for strict wording. Small talk up to 12 words and requests to reword score 0.02 where the
    sum stays below 0.25.
    """
    lower = text.strip().lower()
    points = 0.25 * count_whole(_WORDS, lower) + 0.35 * count(_PHRASES, lower)
    points += sum(min(0.35, 0.12 * len(mark.findall(text))) for mark in _CODE)
    points += sum(min(0.30, 0.15 * len(mark.findall(text))) for mark in _MATHS)
    points += 0.20 * bool(_STRICT.search(lower))
    chat = len(re.findall(r"\w+", lower)) <= 12 and _SMALL_TALK.search(text)
    if points < 0.25 and (chat or _REWRITE.search(text)):
        return 0.02
    return round(min(1.0, points), 3)
