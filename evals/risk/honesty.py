"""Is the certificate honest? How often one is given in worlds in which every certificate is wrong.

In a least favourable world every member of the family has an expected loss just above epsilon, so that
whatever is certified is wrong, and the rate of certificates must not exceed delta. Beside what this package
does stand canaries: procedures that are in use and are not valid. They have to fail, or the harness could not
see a fault.

    python -m budgetctl.evals.risk.honesty --repeats 2000
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from budgetctl.evals.results import Floats
from budgetctl.evals.risk.pvalues import Test, betting_p, binomial_p, p_value
from budgetctl.evals.risk.selection import fixed_sequence, halve, split_path

from budgetctl.monitor import Evidence

TINY = 1e-9
SLACK = 1e-4
"""Probability with which a procedure at exactly delta would be failed."""

Draw = Callable[[np.random.Generator], Floats]
Pick = Callable[[Floats, "World"], int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A source of losses.

    Attributes:
        draw: Returns losses of shape (members, units), or (members, units, items) where units are clusters.
        wrong: Which members have an expected loss above epsilon.
        test: The exact test for it.
    """

    name: str
    epsilon: float
    delta: float
    draw: Draw
    wrong: tuple[bool, ...]
    test: Test = "betting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One procedure in one world.

    Attributes:
        canary: It is known to be invalid, and has to be caught.
    """

    name: str
    world: World
    pick: Pick
    canary: bool = False

    def rate(self, *, repeats: int, seed: int = 0) -> float:
        """Return how often a wrong member was certified."""
        rng = np.random.default_rng(seed)
        wrong = 0
        for _ in range(repeats):
            picked = self.pick(self.world.draw(rng), self.world)
            wrong += picked is not None and self.world.wrong[picked]
        return wrong / repeats


def limit(repeats: int, delta: float) -> float:
    """Return the rate above which ``repeats`` tries at a true rate of ``delta`` lie with probability 1e-4."""
    k = math.floor(repeats * delta)
    while binomial_p(k, repeats, epsilon=delta) < 1 - SLACK:
        k += 1
    return k / repeats


def _binary(n: int, m: int, epsilon: float, *, shared: float) -> Draw:
    """Losses of 0 or 1; a share of the questions has one lot for all members."""

    def draw(rng: np.random.Generator) -> Floats:
        own, common = rng.random((m, n)), rng.random(n)
        lots = np.where(rng.random(n) < shared, common, own)
        return (lots < epsilon + TINY).astype(float)

    return draw


def _helps(n: int, m: int, epsilon: float, *, help_rate: float) -> Draw:
    def draw(rng: np.random.Generator) -> Floats:
        lots = rng.random((m, n))
        return (lots < epsilon + TINY + help_rate).astype(float) - (lots > 1 - help_rate)

    return draw


def _fractional(n: int, m: int, epsilon: float) -> Draw:
    """Means over several samples of a question: mostly 0, else anything up to 1."""

    def draw(rng: np.random.Generator) -> Floats:
        return (rng.random((m, n)) < 2 * (epsilon + TINY)) * rng.random((m, n))

    return draw


def _clustered(clusters: int, items: int, m: int, epsilon: float) -> Draw:
    """All items of a cluster fail together, which happens with probability epsilon."""

    def draw(rng: np.random.Generator) -> Floats:
        failed = rng.random((m, clusters, 1)) < epsilon + TINY
        return np.repeat(failed, items, axis=2).astype(float)

    return draw


def _not_monotone(n: int, m: int, epsilon: float) -> Draw:
    """Overthinking: every third member has no loss at all, the others have epsilon."""

    def draw(rng: np.random.Generator) -> Floats:
        rates = np.array([0.0 if i % 3 == 0 else epsilon + TINY for i in range(m)])
        return (rng.random((m, n)) < rates[:, None]).astype(float)

    return draw


def _p(losses: Floats, world: World) -> float:
    return p_value(losses, epsilon=world.epsilon, level=world.delta, test=world.test)


def ours(losses: Floats, world: World) -> int | None:
    """Fixed sequence over exact p-values, one loss per unit: what ``calibrate`` does."""
    units = losses.mean(axis=2) if losses.ndim == 3 else losses
    return fixed_sequence((_p(row, world) for row in units), level=world.delta).last


def our_path(losses: Floats, world: World) -> int | None:
    """The order learnt on one half, tested on the other: what ``calibrate`` does in two dimensions."""
    first, second = halve(losses.shape[1], rng=np.random.default_rng(0))
    tokens = -np.arange(len(losses), dtype=float)[:, None] * np.ones(len(first))
    order = split_path(losses[:, first], tokens, lambda i: _p(losses[i, first], world))
    last = fixed_sequence((_p(losses[i, second], world) for i in order), level=world.delta).last
    return None if last is None else order[last]


def plug_in(losses: Floats, world: World) -> int | None:
    """Canary: the cheapest member whose mean loss is at most epsilon."""
    good = np.flatnonzero(losses.mean(axis=1) <= world.epsilon)
    return int(good[-1]) if len(good) else None


def pointwise(losses: Floats, world: World) -> int | None:
    """Canary: an exact p-value for each member, and the cheapest that passes."""
    good = [i for i, row in enumerate(losses) if _p(row, world) <= world.delta]
    return good[-1] if good else None


def same_data_order(losses: Floats, world: World) -> int | None:
    """Canary: a fixed sequence whose order comes from the data that it is tested on."""
    order = np.argsort(losses.mean(axis=1), kind="stable").tolist()
    last = fixed_sequence((_p(losses[i], world) for i in order), level=world.delta).last
    return None if last is None else int(order[last])


def items_as_units(losses: Floats, world: World) -> int | None:
    """Canary: items of one cluster counted as independent."""
    flat = losses.reshape(len(losses), -1)
    return fixed_sequence((_p(row, world) for row in flat), level=world.delta).last


def normal(losses: Floats, world: World) -> int | None:
    """Canary: the normal approximation instead of an exact p-value."""

    def p(row: Floats) -> float:
        error = float(row.std(ddof=1)) / math.sqrt(len(row))
        if error == 0:
            return 0.0 if row.mean() < world.epsilon else 1.0
        return 0.5 * math.erfc((world.epsilon - float(row.mean())) / error / math.sqrt(2))

    return fixed_sequence((p(row) for row in losses), level=world.delta).last


def peeking(losses: Floats, world: World) -> int | None:
    """Canary: the exact test after every ten questions, until it rejects."""
    row = losses[0]
    for n in range(10, len(row) + 1, 10):
        if binomial_p(int(row[:n].sum()), n, epsilon=world.epsilon) <= world.delta:
            return 0
    return None


def betting_with_peeking(losses: Floats, world: World) -> int | None:
    """The betting test looked at after every question: its wealth is a supermartingale, so one may."""
    p = betting_p(losses[0], epsilon=world.epsilon, level=world.delta)
    return 0 if p <= world.delta else None


def checks() -> list[Check]:
    """Return every procedure in every world that it is judged in."""
    small = World(
        name="n 200, 30 members, epsilon .02, independent",
        epsilon=0.02,
        delta=0.1,
        draw=_binary(200, 30, 0.02, shared=0.0),
        wrong=(True,) * 30,
        test="binomial",
    )
    worlds = [
        small,
        World(
            name="n 300, 30 members, epsilon .05, one lot for all",
            epsilon=0.05,
            delta=0.1,
            draw=_binary(300, 30, 0.05, shared=1.0),
            wrong=(True,) * 30,
            test="binomial",
        ),
        World(
            name="n 300, epsilon .05, half the lots shared, betting",
            epsilon=0.05,
            delta=0.1,
            draw=_binary(300, 30, 0.05, shared=0.5),
            wrong=(True,) * 30,
        ),
        World(
            name="n 300, epsilon .03, helps .05",
            epsilon=0.03,
            delta=0.1,
            draw=_helps(300, 30, 0.03, help_rate=0.05),
            wrong=(True,) * 30,
        ),
        World(
            name="n 200, epsilon .05, fractional",
            epsilon=0.05,
            delta=0.05,
            draw=_fractional(200, 30, 0.05),
            wrong=(True,) * 30,
        ),
        World(
            name="n 300, epsilon .05, loss not monotone",
            epsilon=0.05,
            delta=0.1,
            draw=_not_monotone(300, 30, 0.05),
            wrong=tuple(i % 3 != 0 for i in range(30)),
        ),
    ]
    clusters = World(
        name="80 clusters of 5, epsilon .05",
        epsilon=0.05,
        delta=0.1,
        draw=_clustered(80, 5, 10, 0.05),
        wrong=(True,) * 10,
    )
    found = [Check(name="ours", world=world, pick=ours) for world in [*worlds, clusters]]
    found += [
        Check(name="ours, order learnt on one half", world=world, pick=our_path) for world in worlds[2:4]
    ]
    found.append(
        Check(name="ours, looked at after every question", world=worlds[2], pick=betting_with_peeking)
    )
    canaries = (plug_in, pointwise, same_data_order, normal)
    found += [Check(name=pick.__name__, world=small, pick=pick, canary=True) for pick in canaries]
    found.append(Check(name="peeking", world=worlds[1], pick=peeking, canary=True))
    found.append(Check(name="items_as_units", world=clusters, pick=items_as_units, canary=True))
    return found


def audit_rate(
    what: Literal["alarm", "proven"],
    *,
    risk: float,
    epsilon: float,
    alpha: float,
    steps: int,
    repeats: int,
    seed: int = 0,
) -> float:
    """Return how often audits of a policy with expected loss ``risk`` come to ``what`` within ``steps``."""
    rng = random.Random(seed)
    decided = 0
    for _ in range(repeats):
        evidence = Evidence(epsilon, alpha)
        for _ in range(steps):
            evidence.add(float(rng.random() < risk))
            if getattr(evidence, what):
                decided += 1
                break
    return decided / repeats


def repeated_test_rate(
    *, risk: float, epsilon: float, alpha: float, steps: int, repeats: int, seed: int = 0
) -> float:
    """Return how often a fixed-size test, repeated after each audit, raises the alarm: the canary."""
    rng = random.Random(seed)
    alarms = 0
    for _ in range(repeats):
        harms = 0
        for n in range(1, steps + 1):
            harm = rng.random() < risk
            harms += harm
            if harm and 1 - binomial_p(harms - 1, n, epsilon=epsilon) <= alpha:
                alarms += 1
                break
    return alarms / repeats


def main(argv: Sequence[str] | None = None) -> int:
    """Print the rates; 1 where a procedure of ours is above its limit or a canary is not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2000)
    repeats = parser.parse_args(argv).repeats
    failed = 0
    print(f"{'rate':>6} {'limit':>6}  procedure, world")
    for check in checks():
        rate, most = check.rate(repeats=repeats), limit(repeats, check.world.delta)
        caught = rate > most
        failed += caught is not check.canary
        mark = "canary " if check.canary else ""
        print(f"{rate:6.3f} {most:6.3f}  {mark}{check.name}; {check.world.name}, delta {check.world.delta:g}")
    few = max(1, repeats // 4)
    most = limit(few, 0.1)
    rate_of = partial(audit_rate, epsilon=0.05, alpha=0.1, steps=1000, repeats=few)
    repeated = repeated_test_rate(risk=0.05, epsilon=0.05, alpha=0.1, steps=1000, repeats=few)
    rows = [
        ("audits, loss epsilon: false alarm", rate_of("alarm", risk=0.05), False),
        ("audits, loss epsilon: false proof", rate_of("proven", risk=0.05), False),
        ("canary repeated test, loss epsilon: false alarm", repeated, True),
        ("audits, loss .15: alarm", rate_of("alarm", risk=0.15), None),
        ("audits, loss .01: proof", rate_of("proven", risk=0.01), None),
    ]
    for name, rate, canary in rows:
        failed += canary is not None and (rate > most) is not canary
        print(f"{rate:6.3f} {most if canary is not None else math.nan:6.3f}  {name} within 1,000 audits")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
