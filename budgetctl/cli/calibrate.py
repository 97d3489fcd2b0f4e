"""``budgetctl calibrate``: certify the cheapest policy whose accuracy loss stays within epsilon.

PATH is a recording (a cube, JSON lines) or an outcome log with its feedback rows. The certificate says: the
expected loss against full thinking is at most EPSILON, and the probability that this is wrong at most DELTA.
It holds for one model at one kind of endpoint, and the policy ``certified:CERT`` steps aside elsewhere. Exit
code 1: nothing that saves tokens can be certified; it says how many questions that would take.

With --ladder PATH is the folder of a live run of all its rungs with --confidence; what is certified is the
threshold of confidence from which on drafts are accepted, and what is compared with is the last rung alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from budgetctl.cli import inputs
from budgetctl.config import Settings
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
        "--ladder", metavar="RUNG>RUNG..", help="certify a ladder, as 'off>full+stop:balanced>full'"
    )
    parser.add_argument(
        "--stop",
        default="none",
        help="stop presets; the order of several is learnt on half of the data (none)",
    )
    parser.add_argument(
        "--endpoint", help="kind of endpoint to bind (in-process, or that of the configuration for --model)"
    )
    parser.add_argument(
        "--sampling", default="{}", metavar="JSON", help="sampling parameters that calls set (none)"
    )
    parser.add_argument("--model", help="only rows of this model, or of what the configuration calls so")
    parser.add_argument("--dataset", help="only rows of this dataset")
    inputs.add_cluster_by(parser)
    parser.add_argument("--classifier", default="default", help="for the family utility, or none")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="configuration whose models, presets, prices and capabilities hold (default: budgetctl.toml of "
        "the working directory, where there is one)",
    )
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

    settings = Settings.load(args.config)
    alias = settings.names.models.get(args.model)
    if alias is not None:
        args.model, args.endpoint = alias.model, args.endpoint or alias.endpoint
    deployment = _deployment(args, settings)
    if args.ladder is not None:
        return _ladder(args, goal, deployment)
    paths = [inputs.recording(name) for name in args.paths]
    kinds = {is_cube(path) for path in paths}
    if len(kinds) > 1:
        raise ConfigError("recordings and outcome logs cannot be calibrated on together: give one kind")
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


def _ladder(args: argparse.Namespace, goal: Goal, deployment: Deployment) -> Certificate:
    from budgetctl.evals.risk import ladders

    folder = Path(args.paths[0])
    if len(args.paths) > 1 or not folder.is_dir():
        raise ConfigError(f"--ladder takes one folder of a live run, seen {', '.join(args.paths)}")
    for name in ("families", "model", "dataset"):
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name} does not go with --ladder")
    return ladders.calibrate(folder, chain=args.ladder, goal=goal, deployment=deployment)


def _deployment(args: argparse.Namespace, settings: Settings) -> Deployment:
    from budgetctl.capabilities import ENDPOINTS
    from budgetctl.evals.replay import SPEED_PROFILES
    from budgetctl.evals.risk.calibrate import Deployment
    from budgetctl.evals.suites import measuring

    endpoint = args.endpoint or "in-process"
    if endpoint not in ENDPOINTS:
        raise ConfigError(f"--endpoint {endpoint!r}: allowed are {', '.join(ENDPOINTS)}")
    base = measuring(settings, classifier=None if args.classifier == "none" else args.classifier)
    return Deployment(
        endpoint=endpoint,
        capabilities=base.capabilities.version,
        sampling=inputs.sampling(args.sampling),
        facts_of=lambda model: base.capabilities.lookup(model, endpoint).facts(),
        pace=SPEED_PROFILES["nominal"],
        base=base,
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
