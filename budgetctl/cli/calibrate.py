"""``budgetctl calibrate``: certify the cheapest policy whose accuracy loss stays within epsilon.

PATH is a recording (a cube, JSON lines) or an outcome log with its feedback rows. The certificate says: the
expected loss against full thinking is at most EPSILON, and the probability that this is wrong at most DELTA.
It holds for one model at one kind of endpoint, and the policy ``certified:CERT`` steps aside elsewhere. Exit
code 1: nothing that saves tokens can be certified; it says how many questions that would take.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from budgetctl.cli import inputs
from budgetctl.errors import ConfigError
from budgetctl.types import STOP_PRESETS

if TYPE_CHECKING:
    from budgetctl.certificate import Certificate
    from budgetctl.evals.risk.calibrate import Deployment, Goal

EPSILON, DELTA = 0.03, 0.1


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("calibrate", help="certify a budget on recordings", description=__doc__)
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="recordings, or outcome logs; 'pocket' is the shipped recording",
    )
    parser.add_argument(
        "--epsilon", type=float, default=EPSILON, help="largest loss, as a share of questions (%(default)s)"
    )
    parser.add_argument(
        "--delta", type=float, default=DELTA, help="largest probability of being wrong (%(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="CERT", help="file of the certificate")
    parser.add_argument(
        "--loss",
        choices=("accuracy", "harm", "disagreement"),
        default="accuracy",
        help="accuracy (default): right at full thinking less right under the policy; harm: nothing is "
        "credited that only the policy gets right; disagreement: another answer than at full thinking (needs "
        "no labels)",
    )
    parser.add_argument(
        "--families", help="caps, utility or both (default: both where question texts were recorded)"
    )
    parser.add_argument(
        "--stop",
        default="none",
        help="stop presets; the order of several is learnt on half of the data (none)",
    )
    parser.add_argument("--endpoint", default="in-process", help="kind of endpoint to bind (%(default)s)")
    parser.add_argument(
        "--sampling", default="{}", metavar="JSON", help="sampling parameters that calls set (none)"
    )
    parser.add_argument("--model", help="only rows of this model")
    parser.add_argument("--dataset", help="only rows of this dataset")
    inputs.add_cluster_by(parser)
    parser.add_argument("--classifier", default="default", help="for the family utility, or none")
    parser.add_argument("--seed", type=int, default=0, help="of the order in which questions are tested")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Calibrate and write the certificate; 1 where there is none."""
    from budgetctl.evals.risk.calibrate import Goal, Insufficient

    if args.out.is_dir():
        raise ConfigError(f"--out {args.out}: is a folder; expected a file")
    if args.seed < 0:
        raise ConfigError(f"--seed {args.seed}: expected a whole number from 0")
    goal = Goal(
        epsilon=args.epsilon, delta=args.delta, loss=args.loss, cluster_by=args.cluster_by, seed=args.seed
    )
    try:
        certificate = _calibrate(args, goal)
    except Insufficient as error:
        if args.json:
            print(json.dumps(_refusal(error, goal), indent=2))
        print(f"budgetctl calibrate: {error}", file=sys.stderr)
        return 1
    certificate.save(args.out)
    print(
        json.dumps(_summary(certificate, args.out), indent=2) if args.json else _text(certificate, args.out)
    )
    return 0


def _calibrate(args: argparse.Namespace, goal: Goal) -> Certificate:
    from budgetctl.cli.trainingdata import is_cube
    from budgetctl.evals.recording import Recording
    from budgetctl.evals.risk import logs
    from budgetctl.evals.risk.calibrate import calibrate

    paths = [inputs.recording(name) for name in args.paths]
    kinds = {is_cube(path) for path in paths}
    if len(kinds) > 1:
        raise ConfigError("recordings and outcome logs cannot be calibrated on together: give one kind")
    deployment = _deployment(args)
    if kinds == {False}:
        return logs.calibrate(paths, goal=goal, model=args.model, deployment=deployment)
    recording = Recording.read(*paths, dataset=args.dataset, model=args.model)
    return calibrate(
        recording,
        goal=goal,
        families=_families(args, texts=recording.has_texts),
        stops=_stops(args.stop),
        deployment=deployment,
    )


def _deployment(args: argparse.Namespace) -> Deployment:
    from budgetctl.capabilities import ENDPOINTS, Table
    from budgetctl.classifiers.registry import load
    from budgetctl.evals.replay import SPEED_PROFILES
    from budgetctl.evals.risk.calibrate import Deployment

    if args.endpoint not in ENDPOINTS:
        raise ConfigError(f"--endpoint {args.endpoint!r}: allowed are {', '.join(ENDPOINTS)}")
    table = Table.load()
    return Deployment(
        endpoint=args.endpoint,
        capabilities=table.version,
        sampling=inputs.sampling(args.sampling),
        facts_of=lambda model: table.lookup(model, args.endpoint).facts(),
        pace=SPEED_PROFILES["nominal"],
        classifier=None if args.classifier == "none" else load(args.classifier),
    )


def _families(args: argparse.Namespace, *, texts: bool) -> list[Any]:
    from budgetctl.evals.risk.families import Family

    if args.families is None:
        return ["caps", "utility"] if texts and args.classifier != "none" else ["caps"]
    names = list(dict.fromkeys(part.strip() for part in args.families.split(",")))
    if not set(names) <= set(get_args(Family)):
        raise ConfigError(f"--families {args.families!r}: allowed are {', '.join(get_args(Family))}")
    if "utility" in names and (not texts or args.classifier == "none"):
        raise ConfigError("the family utility needs question texts in the recording, and a classifier")
    return names


def _stops(text: str) -> list[str]:
    names = list(dict.fromkeys(part.strip() for part in text.split(",")))
    if not set(names) <= set(STOP_PRESETS):
        raise ConfigError(f"--stop {text!r}: allowed are {', '.join(STOP_PRESETS)}")
    return names


def _summary(certificate: Certificate, path: Path) -> dict[str, Any]:
    content = certificate.model_dump(mode="json", by_alias=True)
    keys = (
        "lambda",
        "epsilon",
        "delta",
        "n",
        "p_values",
        "token_saving",
        "policy",
        "level",
        "loss",
        "test",
    )
    return {key: content[key] for key in (*keys, "id", "binds")} | {"certificate": str(path)}


def _refusal(error: Any, goal: Goal) -> dict[str, Any]:
    return {
        "lambda": None,
        "epsilon": goal.epsilon,
        "delta": goal.delta,
        "n": error.n,
        "p_values": error.p_values,
        "token_saving": None,
        "n_needed": error.needed,
        "reason": str(error),
    }


def _text(certificate: Certificate, path: Path) -> str:
    binds, tested = certificate.binds, len(certificate.p_values)
    unit = "loss of accuracy" if certificate.loss == "accuracy" else certificate.loss
    return (
        f"{certificate.policy}: with probability {1 - certificate.delta:g} its {unit} against full thinking "
        f"is at most {certificate.epsilon:g}; it saved {certificate.token_saving:.0%} of the tokens on "
        f"{certificate.n} units (seen: {certificate.mean_loss:+.4f}; {certificate.test} test, {tested} of "
        f"{len(certificate.members)} policies tested).\n"
        f"It holds for {binds.model} at {binds.endpoint}, for traffic like the recording. Use it as "
        f"certified:{path}"
    )
