"""``budgetctl compare``: is the second run as right as the first, within a margin?

RUN_A (the reference) and RUN_B (the candidate) are run folders of `budgetctl eval live` or of `budgetctl eval
replay --out`. Calls are paired by question and sample. Exit code 0 only where the lower 95 % bound of the
accuracy difference lies above minus the margin; 1 for a loss; 3 where the evidence is not enough, and then it
says how many questions would settle it. Of several policies each has to pass.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from budgetctl.cli import inputs
from budgetctl.errors import ConfigError
from budgetctl.policy import parse

FULL = "full"


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("compare", help="compare two evaluations", description=__doc__)
    parser.add_argument("run_a", type=Path, metavar="RUN_A", help="run folder of the reference")
    parser.add_argument("run_b", type=Path, metavar="RUN_B", help="run folder of the candidate")
    parser.add_argument(
        "--policy",
        metavar="P[,Q]",
        help="the policy to compare; of P,Q the first is that of RUN_A, the other of RUN_B (default: every "
        "policy that both runs have, except full)",
    )
    parser.add_argument(
        "--margin", type=float, default=0.02, help="accuracy loss that passes (default: %(default)s)"
    )
    inputs.add_cluster_by(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of the resampling (default: 0)")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print JSON on stdout")
    shown.add_argument("--markdown", action="store_true", help="print a table for a pull request")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare two run folders; see the module for the exit codes."""
    import numpy as np

    from budgetctl.evals import calls
    from budgetctl.evals.compare import EXIT_CODES, compare, markdown, overall

    if not 0 < args.margin < 1:
        raise ConfigError(
            f"--margin {args.margin}: expected a share of questions between 0 and 1, such as 0.02"
        )
    if args.seed < 0:
        raise ConfigError(f"--seed {args.seed}: expected a whole number from 0")
    folders = args.run_a, args.run_b
    a, b = map(calls.load, folders)
    found = [
        compare(
            a[p],
            b[q],
            names=_names(folders, (p, q)),
            rng=np.random.default_rng(args.seed),
            margin=args.margin,
            cluster_by=args.cluster_by,
        )
        for p, q in _pairs(args, a, b)
    ]
    finding = overall(found)
    if args.json:
        content = {"finding": finding, "comparisons": [one.as_json() for one in found]}
        print(json.dumps(content, indent=2, allow_nan=False))
    else:
        print(markdown(found) if args.markdown else "\n".join(one.text for one in found))
    return EXIT_CODES[finding]


def _pairs(
    args: argparse.Namespace, a: Mapping[str, Sequence[Any]], b: Mapping[str, Sequence[Any]]
) -> list[tuple[str, str]]:
    if args.policy is None:
        shared = [name for name in a if name in b]
        if not shared:
            raise ConfigError(
                f"the runs have no policy in common: {args.run_a} has {', '.join(a)}, {args.run_b} has "
                f"{', '.join(b)}; name one of each with --policy P,Q"
            )
        return [(name, name) for name in shared if name != FULL] or [(FULL, FULL)]
    names = [str(parse(part.strip())) for part in args.policy.split(",")]
    if len(names) > 2:
        raise ConfigError(
            f"--policy {args.policy!r}: expected one policy, or one of each run as in full,auto"
        )
    for folder, run_, name in zip((args.run_a, args.run_b), (a, b), (names[0], names[-1]), strict=True):
        if name not in run_:
            raise ConfigError(
                f"--policy {args.policy!r}: {folder} has no policy {name}; it has {', '.join(run_)}"
            )
    return [(names[0], names[-1])]


def _names(folders: Sequence[Path], policies: tuple[str, str]) -> tuple[str, str]:
    """Name the two sides by what differs between them."""
    if folders[0].resolve() == folders[1].resolve():
        return policies
    a, b = (f"{policy} in {folder}" for policy, folder in zip(policies, folders, strict=True))
    return a, b
