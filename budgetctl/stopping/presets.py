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
from functools import partial

from .criteria import AnyOf, Criterion
from .loop import LoopStop
from .trial import TrialAnswer

PRESETS: Mapping[str, tuple[Callable[[], Criterion], ...]] = {
    "none": (),
    "safe": (LoopStop,),
    "balanced": (LoopStop, partial(TrialAnswer, confidence=0.995, mass=0.1)),
    "aggressive": (LoopStop, partial(TrialAnswer, confidence=0.9, mass=0.03)),
}
"""Name to what makes its criteria, which keep state and so are made for one call each."""

WITH_TRIALS = frozenset({"balanced", "aggressive"})
"""Presets that look at trial answers, which somebody has to ask for."""


def without_trials(name: str) -> str:
    """Return the preset that is left of ``name`` where nobody asks for trial answers."""
    return "safe" if name in WITH_TRIALS else name


def preset(name: str) -> AnyOf:
    """Return the criteria of a stop preset, fresh for one call."""
    return AnyOf(*(make() for make in PRESETS[name]))
