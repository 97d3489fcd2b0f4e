"""Difficulty rules that other packages publish, as baselines for the classifier.

The packages themselves are asked, with their defaults and the text alone, where this version of them is
installed: ``make test-integrations FAMILY=peers`` makes an environment with all of them. None of their code
or word lists is part of this project.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module, metadata
from types import MappingProxyType

from budgetctl.errors import EvalError

Score = Callable[[str], float]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One rule.

    Attributes:
        name: Its key in ``PEERS`` and in tables.
        load: Returns its score, or raises.
        package: Its distribution and version, as ``name==version``; None is no package.
    """

    name: str
    load: Callable[[], Score]
    package: str | None = None

    @cached_property
    def score(self) -> Score:
        """Text to a number that grows with the difficulty it sees.

        Scores of two peers share no scale: only the order of texts compares.

        Raises:
            EvalError: The package cannot be asked.
        """
        try:
            return self.load()
        except Exception as error:  # a package may lack what it needs, or raise what it likes
            raise EvalError(f"{self.package} cannot be asked: {type(error).__name__}: {error}") from error

    @property
    def installed(self) -> bool:
        """Whether the package is there, in the version that is compared with."""
        if self.package is None:
            return True
        name, _, version = self.package.partition("==")
        try:
            return metadata.version(name) == version
        except metadata.PackageNotFoundError:
            return False


def _thinkbudget() -> Score:
    """Points, from which its tiers are cut; small talk, for which it counts none, has 0."""
    rule = import_module("thinkbudget.classifier").QueryClassifier()
    tiers, points = rule._score_to_tier, [0.0]

    def kept(score: float, signals: object) -> object:
        points[0] = score  # it hands out the tier alone
        return tiers(score, signals)

    rule._score_to_tier = kept

    def score(text: str) -> float:
        points[0] = 0.0
        rule.classify(text)
        return points[0]

    return score


def _thinkrouter() -> Score:
    """Tier, from 0 (no thinking) to 2."""
    rule = import_module("thinkrouter.classifier").HeuristicClassifier()
    return lambda text: float(rule.predict(text).tier)


def _complexity() -> Score:
    """Level of complexity, from 0 (trivial) to 4 (expert); it picks the route."""
    module = import_module("cascadeflow.quality.complexity")
    rule, levels = module.ComplexityDetector(), list(module.QueryComplexity)
    return lambda text: float(levels.index(rule.detect(text)[0]))


def _difficulty() -> Score:
    """Difficulty in [0, 1]; it sets the confidence above which a draft is accepted."""
    rule = import_module("cascadeflow.quality.query_difficulty").QueryDifficultyEstimator()
    return lambda text: float(rule.estimate(text))


def _pareto_router() -> Score:
    """Logic in [0, 1]: its other axis, knowledge, picks a model and not the amount of thinking."""
    rule = import_module("pareto_router.evaluator.heuristic").HeuristicEvaluator()
    return lambda text: float(rule.evaluate_sync(text).logic_score)


def _litellm() -> Score:
    """Score of its complexity router; at least where the top tier begins for what it lifts there."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else importing it asks the network
    module = import_module("litellm.router_strategy.complexity_router.complexity_router")
    rule = module.ComplexityRouter(model_name="", litellm_router_instance=None)
    top = rule._effective_tier_boundaries()["complex_reasoning"]

    def score(text: str) -> float:
        tier, points, _ = rule.classify(text)
        return float(max(points, top) if tier is module.ComplexityTier.REASONING else points)

    return score


PROMPT_LENGTH = Peer(name="prompt-length", load=lambda: lambda text: float(len(text)))
"""The number of characters: what every rule has to beat."""

_PEERS = (
    Peer(name="thinkbudget", package="thinkbudget==0.1.0", load=_thinkbudget),
    Peer(name="thinkrouter", package="thinkrouter==0.3.0", load=_thinkrouter),
    Peer(name="cascadeflow-complexity", package="cascadeflow==1.2.0", load=_complexity),
    Peer(name="cascadeflow-difficulty", package="cascadeflow==1.2.0", load=_difficulty),
    Peer(name="pareto-router", package="pareto-router==0.1.0", load=_pareto_router),
    Peer(name="litellm", package="litellm==1.106.2", load=_litellm),
)

PEERS: Mapping[str, Peer] = MappingProxyType({peer.name: peer for peer in _PEERS})
"""The published rules by name, in the order of tables."""


def installed() -> list[Peer]:
    """Return those that are here, each of them loaded: what cannot be asked is known before any work.

    Raises:
        EvalError: One of them cannot be asked.
    """
    found = [peer for peer in PEERS.values() if peer.installed]
    for peer in found:
        _ = peer.score
    return found


def packages(peers: Iterable[Peer]) -> list[str]:
    """Return what pip installs for them, each once."""
    return list(dict.fromkeys(peer.package for peer in peers if peer.package is not None))
