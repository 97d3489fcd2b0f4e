"""``budgetctl eval``: measure policies live or from recordings, and compare classifiers.

``live`` asks a model and can be resumed; ``replay`` reads cubes and calls no model. Both print a table (or
JSON with ``--json``) and write ``summary.json``, pictures and an HTML report into ``--out``. Exit code 1:
none of the policies that were asked for is recommended. ``classifier`` judges estimates alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetctl.cli import eval_classifier
from budgetctl.errors import ConfigError, EvalError
from budgetctl.policy import parse

if TYPE_CHECKING:
    from budgetctl.evals.live import Suite
    from budgetctl.evals.replay import Recording
    from budgetctl.evals.results import Result

REPLAY_POLICIES = "full,off,quantile:0.9,auto"


def add(subparsers: Any) -> None:
    """Register the command with its two kinds."""
    parser = subparsers.add_parser(
        "eval", help="measure policies and classifiers, live or from recordings", description=__doc__
    )
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    _add_live(
        kinds.add_parser("live", help="ask a model", description="Ask a model, policy by policy; resumable.")
    )
    _add_replay(
        kinds.add_parser("replay", help="read recordings", description="Replay policies on recorded results.")
    )
    eval_classifier.add(kinds)


def _add_live(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "suite",
        metavar="SUITE",
        help="'pocket' (the embedded reasoner and its test questions), or a JSONL file of your own",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="run folder; an interrupted run resumes"
    )
    parser.add_argument(
        "--limit", type=int, help="number of questions (default: 200 of pocket, all of a file)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, help="questions per batch (default: %(default)s)"
    )
    parser.add_argument("--grader", metavar="MODULE:FUNCTION", help="tells right answers from wrong ones")
    parser.add_argument("--base-url", help="OpenAI-compatible endpoint for a suite of your own")
    parser.add_argument("--model", help="model name at that endpoint")
    parser.add_argument("--endpoint", help="kind of endpoint, as in the capability table")
    _add_common(parser, default="a grid of caps, full, off, quantile:0.9 and auto")
    parser.set_defaults(run=run_live)


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "cubes", nargs="+", metavar="CUBE", help="cube files (.jsonl, .jsonl.gz); 'pocket' is the shipped one"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the report here")
    parser.add_argument("--dataset", help="only rows of this dataset")
    parser.add_argument("--model", help="only rows of this model")
    parser.add_argument(
        "--caps", help="token caps of the baseline curve, as 64,128 (default: natural quantiles)"
    )
    parser.add_argument(
        "--speed-profile",
        default="nominal",
        metavar="NAME|TTFT,S_PER_TOKEN",
        help="speed where none was recorded: nominal (0.5,0.02; the default), fast, slow, or two numbers",
    )
    parser.add_argument(
        "--every",
        type=int,
        default=128,
        metavar="N",
        help="tokens of thinking from a trial answer in vain to the next, at first (default: %(default)s)",
    )
    _add_common(parser, default=REPLAY_POLICIES)
    parser.set_defaults(run=run_replay)


def _add_common(parser: argparse.ArgumentParser, *, default: str) -> None:
    parser.add_argument("--policies", metavar="A,B,..", help=f"policies to measure (default: {default})")
    parser.add_argument(
        "--classifier", default="default", help="name or .npz of the classifier; 'none' for none"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of questions and resampling (default: 0)")
    parser.add_argument(
        "--slo", type=float, metavar="S", help="seconds that count as in time (default: full's median)"
    )
    parser.add_argument(
        "--margin", type=float, default=0.02, help="accuracy loss that passes (default: %(default)s)"
    )
    parser.add_argument(
        "--cluster-by",
        choices=("question", "cluster"),
        default="question",
        help="what the bootstrap draws; 'cluster' for many questions from few sources (default: question)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")


def run_live(args: argparse.Namespace) -> int:
    """Run a suite live; 1 when no policy that was asked for is recommended."""
    from budgetctl.evals import live

    _check(args)
    policies = _policies(args.policies) or (
        _pocket_policies() if args.suite == "pocket" else ["full", "auto"]
    )
    suite = _suite(args)
    run = live.LiveRun(
        suite=suite,
        policies=policies,
        out=args.out,
        seed=args.seed,
        batch_size=args.batch_size,
        classifier=_classifier(args.classifier),
    )
    runs = run.run()
    settings = {"kind": "live", **run.settings}
    return _report(
        args, runs, asked=list(run.policies), title=f"{suite.name}, {suite.backend.model}", settings=settings
    )


def run_replay(args: argparse.Namespace) -> int:
    """Replay recordings; 1 when no policy that was asked for is recommended."""
    from budgetctl.capabilities import Table
    from budgetctl.evals import baselines, cube, replay

    _check(args)
    pace = replay.speed_profile(args.speed_profile)
    rows = cube.load(*(_cube(name) for name in args.cubes))
    chosen = [r for r in rows if args.dataset in (None, r.dataset) and args.model in (None, r.model)]
    if not chosen:
        raise EvalError(_nothing_chosen(rows, args))
    recording = replay.Recording.of(chosen)
    asked = _policies(args.policies) or _default_policies(recording)
    table = Table.load()
    runs: dict[str, Sequence[Result]] = dict(
        baselines.fixed_curve(recording, pace=pace, caps=_caps(args.caps))
    )
    for policy in asked:
        if policy not in runs:
            runs[policy] = replay.replay(
                recording,
                policy,
                pace=pace,
                classifier=_classifier(args.classifier),
                facts_of=lambda model: table.lookup(model, "in-process").facts(),
                every=args.every,
            )
    for policy in asked:
        if any(r.stop for r in runs[policy]):
            by_lot = baselines.random_stop(recording, runs[policy], pace=pace, seed=args.seed)
            runs[f"by lot as {policy}"] = by_lot
    for reason, count in recording.left_out.items():
        print(f"left out: {count} {reason}", file=sys.stderr)
    settings = {
        "kind": "replay",
        "cubes": [str(name) for name in args.cubes],
        "dataset": args.dataset,
        "model": args.model,
        "policies": asked,
        "classifier": args.classifier,
        "speed_profile": {"ttft_s": pace.ttft_s, "s_per_token": pace.s_per_token},
        "every": args.every,
        "left_out": dict(recording.left_out),
    }
    title = "Replay of " + ", ".join(Path(name).name for name in args.cubes)
    return _report(args, runs, asked=asked, title=title, settings=settings)


def _report(
    args: argparse.Namespace,
    runs: Mapping[str, Sequence[Result]],
    *,
    asked: Sequence[str],
    title: str,
    settings: Mapping[str, Any],
) -> int:
    import numpy as np

    from budgetctl.evals import metrics, report, verdict

    evaluation = metrics.evaluate(
        runs,
        rng=np.random.default_rng(args.seed),
        asked=asked,
        slo_s=args.slo,
        cluster_by=args.cluster_by,
    )
    decision = verdict.decide(evaluation, margin=args.margin)
    shared = {"seed": args.seed, "margin": args.margin, "cluster_by": args.cluster_by}
    result = report.Report(
        title=title, evaluation=evaluation, verdict=decision, settings={**settings, **shared}
    )
    content = result.as_json()
    if args.out is not None:
        paths = report.write(result, args.out)
        content["files"] = {kind: str(path) for kind, path in paths.items()}
        print(f"report: {paths['html']}", file=sys.stderr)
    if args.json:
        print(json.dumps(content, indent=2))
    else:
        print(report.table(evaluation))
        print(f"\n{decision.text}")
    return 1 if decision.negative else 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what would fail only after the work is done."""
    if args.seed < 0:
        raise ConfigError(f"--seed {args.seed}: expected a whole number from 0")
    if getattr(args, "every", 0) < 0:
        raise ConfigError(f"--every {args.every}: expected a whole number of tokens from 0")
    if not 0 <= args.margin <= 1:
        raise ConfigError(f"--margin {args.margin}: expected a share of questions from 0 to 1, such as 0.02")
    if args.out is not None and args.out.exists() and not args.out.is_dir():
        raise ConfigError(f"--out {args.out}: is a file; expected a folder")


def _policies(text: str | None) -> list[str]:
    """Return the canonical names of the policies in a comma-separated list."""
    if text is None:
        return []
    names = [part.strip() for part in text.split(",")]
    return list(dict.fromkeys(str(parse(name)) for name in names))


def _pocket_policies() -> list[str]:
    from budgetctl.evals.backends import POCKET_POLICIES

    return list(POCKET_POLICIES)


def _default_policies(recording: Recording) -> list[str]:
    return [name for name in REPLAY_POLICIES.split(",") if name != "off" or recording.has_off]


def _classifier(name: str) -> str | None:
    return None if name == "none" else name


def _caps(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        caps = [int(part) for part in text.split(",")]
    except ValueError:
        caps = [0]
    if min(caps) < 1:
        raise ConfigError(f"--caps {text!r}: expected whole numbers above 0, such as 64,128,256")
    return caps


def _cube(name: str) -> Path:
    if name != "pocket":
        return Path(name)
    from budgetctl.evals import pocket

    return pocket.path().parent / "test.jsonl.gz"


def _nothing_chosen(rows: Sequence[Any], args: argparse.Namespace) -> str:
    field, wanted = ("dataset", args.dataset) if args.dataset is not None else ("model", args.model)
    known = sorted({getattr(row, field) for row in rows})
    shown = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
    return f"no rows are left with --{field} {wanted!r}; the files hold: {shown}"


def _suite(args: argparse.Namespace) -> Suite:
    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"--limit {args.limit}: expected a number of questions above 0")
    from budgetctl.evals import backends
    from budgetctl.evals.live import Suite

    if args.suite == backends.POCKET:
        if args.grader or args.base_url:
            raise ConfigError(
                "the suite 'pocket' brings its own model and grader: leave out --grader and --base-url"
            )
        return backends.pocket_suite(limit=args.limit or 200, seed=args.seed)
    path = Path(args.suite)
    if not path.exists():
        raise ConfigError(f"suite {args.suite!r}: neither a built-in suite (pocket) nor a file")
    missing = [flag for flag in ("grader", "base_url", "model") if getattr(args, flag) is None]
    if missing:
        flags = ", ".join("--" + flag.replace("_", "-") for flag in missing)
        raise ConfigError(f"a suite file needs {flags} as well")
    questions = backends.read_questions(path, limit=args.limit)
    backend = backends.EndpointBackend(
        base_url=args.base_url,
        model=args.model,
        grader=backends.load_grader(args.grader),
        endpoint=args.endpoint,
    )
    return Suite(name=path.stem, questions=questions, backend=backend)
