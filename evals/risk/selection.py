"""Which members of an ordered family are certified, with the error of the whole walk held at one level."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from budgetctl.evals.results import Floats


@dataclass(frozen=True, slots=True)
class Walk:
    """What a fixed-sequence test came to.

    Attributes:
        p_values: In order, up to and with the first that was not rejected.
        last: Position of the last member that was rejected in a row; None is none.
    """

    p_values: tuple[float, ...]
    last: int | None


def fixed_sequence(p_values: Iterable[float], *, level: float) -> Walk:
    """Test hypotheses in an order that was fixed before the data, and stop at the first that is not rejected.

    A wrong certificate needs a true hypothesis to be rejected. The walk reaches the first true hypothesis in
    the order only by rejecting false ones, and any true one that it rejects it rejects after that one; so
    the probability of a wrong rejection is at most that of rejecting the first true hypothesis, which is at
    most ``level``. Nothing is assumed of the dependence between p-values, nor that risk grows along the
    order, and ``level`` is not divided.

    Args:
        p_values: One per member, safest first; read only as far as the walk goes.
    """
    seen: list[float] = []
    for p in p_values:
        seen.append(p)
        if not p <= level:
            return Walk(tuple(seen), len(seen) - 2 if len(seen) > 1 else None)
    return Walk(tuple(seen), len(seen) - 1 if seen else None)


def split_path(losses: Floats, tokens: Floats, p_of: Callable[[int], float]) -> list[int]:
    """Return the order in which to test a family of two dimensions, learnt on data of its own.

    Members that another one beats in both mean loss and mean tokens are left out (the Pareto front;
    Laufer-Goldshtein et al. 2023, arXiv 2210.07913). The others follow by their p-value, surest first, and
    the dearer first in ties. The caller tests along this path on other units: the order is then independent
    of the data it is tested on, and :func:`fixed_sequence` is valid.

    Args:
        losses: Shape (members, units): losses on the units that the path is learnt on.
        tokens: Likewise.
        p_of: Position of a member to its p-value on those units.
    """
    loss, spent = losses.mean(axis=1), tokens.mean(axis=1)
    front = [i for i in range(len(loss)) if not _beaten(i, loss, spent)]
    return sorted(front, key=lambda i: (p_of(i), -spent[i]))


def _beaten(i: int, loss: Floats, spent: Floats) -> bool:
    no_worse = (loss <= loss[i]) & (spent <= spent[i])
    better = (loss < loss[i]) | (spent < spent[i])
    return bool(np.any(no_worse & better))


def halve(units: int, *, rng: np.random.Generator) -> tuple[Sequence[int], Sequence[int]]:
    """Divide units at random into two halves, the second the larger where they are odd."""
    order = rng.permutation(units).tolist()
    return order[: units // 2], order[units // 2 :]
