"""A certificate calibrated on one half of recorded questions, judged on the other, over many random halvings.

    python -m budgetctl.evals.risk.halvings CUBE --epsilon 0.1 --delta 0.1
    python -m budgetctl.evals.risk.halvings RUN_FOLDER --ladder "off>full+stop:balanced>full"

Three readings of "wrong", since the loss on the other half is itself an estimate:

* ``above``: the mean loss on the other half exceeds epsilon. What a user would see; it also counts those
  that hold and met an unlucky half.
* ``refuted``: the other half rejects "the loss is at most epsilon" at level delta.
* ``pool``: the mean loss of the certified policy over all questions of the recording exceeds epsilon, taking
  the recording for the population that both halves are drawn from.

Halvings of one recording are not independent of each other, so the binomial limit beside the counts is a
yardstick, not a test.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from budgetctl.evals.recording import Recording
from budgetctl.evals.replay import SPEED_PROFILES
from budgetctl.evals.results import ClusterBy
from budgetctl.evals.risk import ladders
from budgetctl.evals.risk.calibrate import Deployment, Goal, certify, play
from budgetctl.evals.risk.families import Member, members
from budgetctl.evals.risk.honesty import limit
from budgetctl.evals.risk.losses import FULL, Losses, losses
from budgetctl.evals.risk.pvalues import betting_p
from budgetctl.evals.risk.selection import halve

from budgetctl.certificate import Loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Halvings:
    """What the halvings came to.

    Attributes:
        units: Independent units of the recording; half of them calibrate.
        halvings: How often it was halved.
        certified: How often something that saves tokens was certified.
        above: Of them, how often the mean loss on the other half exceeds epsilon.
        refuted: How often the other half refutes the certificate at level delta.
        pool: How often the policy's mean loss over all questions exceeds epsilon.
        most: Binomial limit of wrong certificates: in as many independent tries at a rate of delta, more
            than that happen with probability 1e-4.
        saving_mean: Mean token saving on the other half over all halvings, 0 where nothing was certified.
        loss_mean: Mean loss on the other half of what was certified; None without any.
        policies: Certified policy to how often it was.
    """

    units: int
    halvings: int
    epsilon: float
    delta: float
    loss: Loss
    certified: int
    above: int
    refuted: int
    pool: int
    most: int
    saving_mean: float
    loss_mean: float | None
    policies: dict[str, int]


def halvings(
    table: Losses,
    family: Sequence[Member],
    *,
    epsilon: float,
    delta: float,
    loss: Loss,
    times: int,
    seed: int,
) -> Halvings:
    """Calibrate and judge ``times`` times."""
    rng = np.random.default_rng(seed)
    pool = table.loss.mean(axis=1)
    certified: Counter[str] = Counter()
    savings, seen = [], []
    above = refuted = beyond = 0
    for _ in range(times):
        first, second = halve(table.n, rng=rng)
        goal = Goal(epsilon=epsilon, delta=delta, loss=loss, seed=int(rng.integers(2**31)))
        finding = certify(table.of(first), family, goal=goal, level=delta, learn_path=False)
        if finding.last is None or finding.saving <= 0:
            savings.append(0.0)
            continue
        judged = table.of(second)
        on_second = judged.loss[finding.last]
        certified[family[finding.last].policy] += 1
        savings.append(judged.saving(finding.last))
        seen.append(float(on_second.mean()))
        above += seen[-1] > epsilon
        refuted += _refutes(on_second, epsilon=epsilon, level=delta)
        beyond += bool(pool[finding.last] > epsilon)
    return Halvings(
        units=table.n,
        halvings=times,
        epsilon=epsilon,
        delta=delta,
        loss=loss,
        certified=certified.total(),
        above=above,
        refuted=refuted,
        pool=beyond,
        most=round(limit(times, delta) * times),
        saving_mean=float(np.mean(savings)),
        loss_mean=float(np.mean(seen)) if seen else None,
        policies=dict(certified.most_common()),
    )


def _refutes(values: Sequence[float], *, epsilon: float, level: float) -> bool:
    """Whether losses reject "at most epsilon": the betting test of ``(1 - loss) / 2``."""
    gains = (1 - np.asarray(values, dtype=float)) / 2
    return betting_p(gains, epsilon=(1 - epsilon) / 2, level=level) <= level


def main(argv: Sequence[str] | None = None) -> int:
    """Print the counts; 1 where more certificates are wrong on the pool than the limit allows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("cubes", nargs="+", type=Path, metavar="CUBE")
    parser.add_argument("--dataset", help="only rows of this dataset")
    parser.add_argument("--epsilon", type=float, default=0.1)
    parser.add_argument("--delta", type=float, default=0.1)
    parser.add_argument("--loss", choices=("accuracy", "harm", "disagreement"), default="accuracy")
    parser.add_argument("--family", choices=("caps", "utility"), default="caps")
    parser.add_argument("--ladder", metavar="RUNG>RUNG..", help="of a run folder instead of a cube")
    parser.add_argument("--cluster-by", choices=("question", "cluster"), default="question")
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    table, family = _ladder(args) if args.ladder else _cubes(args)
    found = halvings(
        table,
        family,
        epsilon=args.epsilon,
        delta=args.delta,
        loss=args.loss,
        times=args.times,
        seed=args.seed,
    )
    print(json.dumps(asdict(found), indent=2) if args.json else _text(found))
    return 1 if found.pool > found.most else 0


def _ladder(args: argparse.Namespace) -> tuple[Losses, Sequence[Member]]:
    cascade, runs, _ = ladders.read(args.cubes[0], args.ladder)
    goal = Goal(epsilon=args.epsilon, delta=args.delta, loss=args.loss, cluster_by=args.cluster_by)
    return ladders.table(cascade, runs, goal=goal)


def _cubes(args: argparse.Namespace) -> tuple[Losses, Sequence[Member]]:
    recording = Recording.read(*args.cubes, dataset=args.dataset)
    return _table(recording, family=args.family, loss=args.loss, cluster_by=args.cluster_by)


def _table(
    recording: Recording, *, family: str, loss: Loss, cluster_by: ClusterBy
) -> tuple[Losses, Sequence[Member]]:
    classifier = None
    if family == "utility":
        from budgetctl.classifiers.registry import load

        classifier = load("default")
    deployment = Deployment(
        endpoint="in-process", capabilities="", pace=SPEED_PROFILES["nominal"], classifier=classifier
    )
    ordered = members("utility" if family == "utility" else "caps", stop="none", off=recording.has_off)
    runs = play(recording, ordered, deployment=deployment)
    return losses(runs.pop(FULL), runs, loss=loss, cluster_by=cluster_by), ordered


def _text(found: Halvings) -> str:
    policies = ", ".join(f"{name} {count}" for name, count in found.policies.items()) or "none"
    seen = "n/a" if found.loss_mean is None else f"{found.loss_mean:+.4f}"
    return (
        f"{found.units} units, {found.halvings} halvings, epsilon {found.epsilon:g}, delta {found.delta:g}, "
        f"loss {found.loss}: certified {found.certified}; wrong on the pool {found.pool}, refuted "
        f"{found.refuted}, above epsilon on the other half {found.above} (limit {found.most}); on the other "
        f"half it saves {found.saving_mean:.1%} of the tokens and loses {seen}\npolicies: {policies}"
    )


if __name__ == "__main__":
    sys.exit(main())
