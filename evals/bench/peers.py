"""Difficulty rules that other projects publish, as baselines for the classifier.

Each is restated in a module of its own from what its published package computes, at the named version and
with the package's defaults; the module names package, class and licence. They see the text alone, as there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from budgetctl.evals.bench import cascadeflow, litellm, pareto_router, thinkbudget, thinkrouter


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One published rule.

    Attributes:
        name: Its key in ``PEERS`` and in tables.
        version: Version of the package that is restated.
        source: Package, module and licence.
        score: Text to a number that grows with the difficulty it sees. Scores of two peers share no scale:
            only the order of texts compares.
    """

    name: str
    version: str
    source: str
    score: Callable[[str], float]


PROMPT_LENGTH = Peer(
    name="prompt-length",
    version="1",
    source="the number of characters: what every rule has to beat",
    score=lambda text: float(len(text)),
)

_PEERS = (
    Peer(
        name="thinkbudget",
        version="0.1.0",
        source="thinkbudget: thinkbudget.classifier.QueryClassifier (AGPL-3.0-only)",
        score=thinkbudget.score,
    ),
    Peer(
        name="thinkrouter",
        version="0.3.0",
        source="thinkrouter: thinkrouter.classifier.HeuristicClassifier (MIT)",
        score=thinkrouter.score,
    ),
    Peer(
        name="cascadeflow-complexity",
        version="1.2.0",
        source="cascadeflow: cascadeflow.quality.complexity.ComplexityDetector (MIT)",
        score=cascadeflow.complexity,
    ),
    Peer(
        name="cascadeflow-difficulty",
        version="1.2.0",
        source="cascadeflow: cascadeflow.quality.query_difficulty.QueryDifficultyEstimator (MIT)",
        score=cascadeflow.difficulty,
    ),
    Peer(
        name="pareto-router",
        version="0.1.0",
        source="pareto-router: pareto_router.evaluator.heuristic.HeuristicEvaluator (no licence declared)",
        score=pareto_router.score,
    ),
    Peer(
        name="litellm",
        version="1.106.2",
        source="litellm: litellm.router_strategy.complexity_router.complexity_router.ComplexityRouter (MIT)",
        score=litellm.score,
    ),
)

PEERS: Mapping[str, Peer] = MappingProxyType({peer.name: peer for peer in _PEERS})
"""The published rules by name, in the order of tables."""
