"""Stop presets: which criteria, besides the cap and the deadline, may end a thought.

``none``        nothing.
``safe``        loops. The default of all policies that budget anything.
``balanced``    and a confident trial answer.
``aggressive``  and a less confident one.

Each holds what the one before it does, so of two presets the later one is the tighter. The thresholds were
chosen on half of the questions of a recording, and measured on the other half (docs/stopping.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from budgetctl.errors import ConfigError

from .candidate import CandidateSeen, StallStop
from .compose import AnyOf, Criterion
from .guard import MIN_THINK, Guarded
from .loop import LoopStop
from .signals import CloseMargin, EntropyAfterThink, LowConfidence
from .trial import AnswerAgreement, TrialAnswer

Preset = Mapping[str, Any] | Callable[[], Criterion]
"""The soft criteria of a preset: a table of names and arguments, or what makes a criterion for one call."""

PRESETS: Mapping[str, Preset] = {
    "none": {},
    "safe": {},
    "balanced": {"trial_answer": {"confidence": 0.995, "mass": 0.1}},
    "aggressive": {"trial_answer": {"confidence": 0.9, "mass": 0.03}},
}
"""Name to soft criteria, any of which may end a thought. All but ``none`` end loops as well."""

WITH_TRIALS = frozenset({"balanced", "aggressive"})
"""Presets that look at trial answers, which somebody has to ask for."""

_MIN_THINK = "min_think"
_CRITERIA: Mapping[str, Callable[..., Criterion]] = {
    "answer_agreement": AnswerAgreement,
    "candidate_seen": CandidateSeen,
    "close_margin": CloseMargin,
    "entropy_after_think": EntropyAfterThink,
    "low_confidence": LowConfidence,
    "stall": StallStop,
    "trial_answer": TrialAnswer,
}


def without_trials(name: str) -> str:
    """Return the preset that is left of ``name`` where nobody asks for trial answers."""
    return "safe" if name in WITH_TRIALS else name


def preset(name: str, *, cap: int | None = None) -> AnyOf:
    """Return the criteria of a stop preset, fresh for one call.

    Args:
        name: One of ``STOP_PRESETS``.
        cap: The call's cap in tokens, before a share of which nothing soft counts.
    """
    if name == "none":
        return AnyOf()
    found = soft(name, cap=cap)
    return AnyOf(LoopStop()) if found is None else AnyOf(LoopStop(), found)


def soft(name: str, *, cap: int | None = None, presets: Mapping[str, Preset] | None = None) -> Guarded | None:
    """Return the soft criteria of a stop preset under their guards, fresh for one call; None has none.

    Args:
        name: One of ``STOP_PRESETS``.
        cap: As for :func:`preset`.
        presets: Other criteria for ``balanced`` and ``aggressive``: a table such as
            ``{"close_margin": {"margin": 1.0}, "low_confidence": {"bar": 9.0}, "min_think": 32}``, or what
            makes a criterion, as ``lambda: CloseMargin(1.0) & TrialAnswer(confidence=0.9, mass=0.1)``. One
            that makes a :class:`Guarded` brings its own guards.

    Raises:
        ConfigError: A table names an unknown preset, criterion or argument.
    """
    own = {} if presets is None else presets
    unknown = sorted(set(own) - WITH_TRIALS)
    if unknown:
        raise ConfigError(
            f"stop preset {unknown[0]!r} cannot be replaced; allowed are {', '.join(sorted(WITH_TRIALS))}"
        )
    given = own.get(name, PRESETS[name])
    if not isinstance(given, Mapping):
        made = given()
        return made if isinstance(made, Guarded) else Guarded(made, cap=cap)
    criteria = [_criterion(key, given[key], preset=name) for key in given if key != _MIN_THINK]
    return Guarded(*criteria, cap=cap, min_think=given.get(_MIN_THINK, MIN_THINK)) if criteria else None


def _criterion(name: str, arguments: Any, *, preset: str) -> Criterion:
    if name not in _CRITERIA:
        allowed = ", ".join([*_CRITERIA, _MIN_THINK])
        raise ConfigError(f"stop preset {preset!r}: {name!r} is no criterion; allowed are {allowed}")
    try:
        return _CRITERIA[name](**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"stop preset {preset!r}: {name}: {error}, seen {arguments!r}") from None
