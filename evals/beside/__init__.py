"""Suites beside accuracy, on questions made here: ``slowdown``, ``safety`` and ``language``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from budgetctl.evals.beside import language, safety, slowdown
from budgetctl.evals.questions import LiveQuestion

from budgetctl.errors import ConfigError

SIZES = {"slowdown": 240, "safety": 240, "language": 480}
"""Questions of each suite where nothing else is said."""
SLOWDOWN = "slowdown"
"""The one that the pocket reasoner can answer."""


def questions(
    name: str, *, limit: int | None, seed: int, simple: bool, judge: Any = None
) -> tuple[Sequence[LiveQuestion], Callable[[str, Any], bool]]:
    """Return the questions of a suite and what grades them.

    Args:
        name: One of :data:`SIZES`.
        limit: About how many questions; None is the suite's own size. Questions that belong together stay so.
        seed: What they are drawn with.
        simple: In the words of the pocket reasoner; ``slowdown`` only.
        judge: What tells refusals instead of patterns; ``safety`` only.

    Raises:
        ConfigError: A judge for a suite whose answers are read mechanically.
        EvalError: There is no such judge.
    """
    n = SIZES[name] if limit is None else limit
    if judge is not None and name != "safety":
        raise ConfigError(f"the suite {name!r} brings its own grader: leave out --grader")
    if name == "safety":
        return safety.questions(n, seed=seed), safety.grader(judge)
    if name == "language":
        return language.questions(n, seed=seed), language.grade
    return slowdown.questions(n, seed=seed, simple=simple), slowdown.grader(simple=simple)
