"""``budgetctl eval``: measure policies live or from recordings, and compare classifiers.

``live`` asks a model and can be resumed; ``replay`` reads cubes and calls no model. Both print a table (or
JSON with ``--json``) and write ``summary.json``, pictures and an HTML report into ``--out``. Exit code 1:
none of the policies that were asked for is recommended; 3: a limit on spending stopped the run.
``classifier`` judges estimates alone, ``ladder`` a choice between two models.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetctl.cli import eval_classifier, eval_ladder, eval_live, inputs
from budgetctl.config import Settings
from budgetctl.errors import ConfigError
from budgetctl.types import EFFORTS

if TYPE_CHECKING:
    from budgetctl.controller import Controller
    from budgetctl.evals.beside.contrasts import Beside
    from budgetctl.evals.cube import CubeRow
    from budgetctl.evals.replay import Recording
    from budgetctl.evals.results import Result
    from budgetctl.evals.spend import LimitReached
    from budgetctl.types import Pace

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
    eval_ladder.add(kinds)


def _add_live(parser: argparse.ArgumentParser) -> None:
    eval_live.arguments(parser)
    _add_common(parser, default="full, off and auto; of pocket a grid of caps too")
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
    inputs.add_cluster_by(parser)
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="configuration whose policy names, presets, prices and capabilities hold (default: "
        "budgetctl.toml of the working directory, where there is one)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")


def run_live(args: argparse.Namespace) -> int:
    """Run a suite live; 1 when no policy that was asked for is recommended, 3 when a limit stopped it."""
    from budgetctl.evals import runfolder
    from budgetctl.evals.beside import tables
    from budgetctl.evals.spend import LimitReached

    _check(args)
    settings = Settings.load(args.config)
    run = eval_live.run_of(args, settings=settings, policies=_policies(args.policies, settings))
    try:
        runs = run.run()
    except LimitReached as stop:
        if args.json:
            print(json.dumps(_stopped(stop, out=args.out), indent=2))
        print(f"budgetctl eval: {stop}", file=sys.stderr)
        return 3
    shown = {"kind": "live", **run.settings}
    rows = runfolder.read_rows(args.out / runfolder.ROWS)
    if run.suite.cluster_by == "cluster":  # its questions come in groups, whatever else is said
        args.cluster_by = "cluster"
    beside = tables.of(args.suite, runs, rows, seed=args.seed)
    title = f"{run.suite.name}, {run.suite.backend.model}"
    asked = list(run.policies)
    return _report(args, runs, asked=asked, questions=rows, title=title, settings=shown, beside=beside)


def _stopped(stop: LimitReached, *, out: Path) -> dict[str, Any]:
    spend = stop.spend
    return {
        "stopped": True,
        "done": stop.done,
        "total": stop.total,
        "usd": spend.usd,
        "tokens": spend.tokens,
        "out": str(out),
    }


def run_replay(args: argparse.Namespace) -> int:
    """Replay recordings; 1 when no policy that was asked for is recommended."""
    from budgetctl.evals import ablation, baselines, replay, suites
    from budgetctl.evals.cascade import is_cascade

    _check(args)
    settings = Settings.load(args.config)
    base = suites.measuring(settings, classifier=_classifier(args.classifier))
    pace = replay.speed_profile(args.speed_profile)
    paths = [inputs.recording(name) for name in args.cubes]
    named = _policies(args.policies, settings)
    if any(map(is_cascade, named)):
        return _replay_ladders(args, named, base=base, pace=pace, paths=paths)
    recording = replay.Recording.read(*paths, dataset=args.dataset, model=args.model)
    asked = named or _default_policies(recording)
    runs = baselines.fixed_curve(recording, pace=pace, caps=_caps(args.caps))

    def add(policy: str) -> None:
        if policy not in runs:
            runs[policy] = replay.replay(
                recording,
                policy,
                pace=pace,
                base=base,
                facts_of=lambda model: base.capabilities.lookup(model, "in-process").facts(),
                every=args.every,
            )

    for policy in (*asked, *_recorded_efforts(recording)):
        add(policy)
    for policy in asked:
        if runs[policy].stopped:
            add(ablation.without_stop(policy))
            runs[f"by lot as {policy}"] = baselines.random_stop(runs[policy], seed=args.seed)
    for reason, count in recording.left_out.items():
        print(f"left out: {count} {reason}", file=sys.stderr)
    shown = {
        **_shown(args, asked, pace=pace),
        "every": args.every,
        **({"presets": base.presets} if base.presets else {}),
        "left_out": dict(recording.left_out),
    }
    title = "Replay of " + ", ".join(Path(name).name for name in args.cubes)
    rows = _natural_rows(paths, args)
    return _report(args, runs, asked=asked, questions=rows, title=title, settings=shown)


def _replay_ladders(
    args: argparse.Namespace, named: Sequence[str], *, base: Controller, pace: Pace, paths: Sequence[Path]
) -> int:
    """Replay policies with ladders among them: calls are then those that all of their rungs recorded."""
    runs, asked = eval_ladder.replayed(args, named, base=base, pace=pace, paths=paths)
    shown = _shown(args, asked, pace=pace)
    title = "Replay of " + ", ".join(Path(name).name for name in args.cubes)
    rows = _natural_rows(paths, args)
    return _report(args, runs, asked=asked, questions=rows, title=title, settings=shown)


def _shown(args: argparse.Namespace, asked: Sequence[str], *, pace: Pace) -> dict[str, Any]:
    """Return the settings of a replay, as its report names them."""
    return {
        "kind": "replay",
        "cubes": [str(name) for name in args.cubes],
        "dataset": args.dataset,
        "model": args.model,
        "policies": asked,
        "classifier": args.classifier,
        "speed_profile": {"ttft_s": pace.ttft_s, "s_per_token": pace.s_per_token},
    }


def _report(
    args: argparse.Namespace,
    runs: Mapping[str, Sequence[Result]],
    *,
    asked: Sequence[str],
    questions: Iterable[CubeRow],
    title: str,
    settings: Mapping[str, Any],
    beside: Beside | None = None,
) -> int:
    import numpy as np

    from budgetctl.evals import calls, metrics, report, verdict

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
        title=title,
        evaluation=evaluation,
        verdict=decision,
        settings={**settings, **shared},
        beside=None if beside is None else beside.as_json(),
    )
    content = result.as_json()
    if args.out is not None:
        details = report.details(
            runs, evaluation, questions=questions, seed=args.seed, cluster_by=args.cluster_by
        )
        paths = report.write(replace(result, details=details), args.out)
        paths["calls"] = calls.save(args.out, runs)
        content["files"] = {kind: str(path) for kind, path in paths.items()}
        print(f"report: {paths['html']}", file=sys.stderr)
    if args.json:
        print(json.dumps(content, indent=2, allow_nan=False))
    else:
        print(report.table(evaluation))
        if beside is not None:
            print(f"\n{beside.title}\n{report.plain(beside.headings, beside.lines)}\n\n{beside.note}")
        print(f"\n{decision.text}")
    return 1 if decision.negative else 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what would fail only after the work is done."""
    if args.seed < 0:
        raise ConfigError(f"--seed {args.seed}: expected a whole number from 0")
    if getattr(args, "every", 0) < 0:
        raise ConfigError(f"--every {args.every}: expected a whole number of tokens from 0")
    if args.slo is not None and not 0 < args.slo < math.inf:
        raise ConfigError(f"--slo {args.slo:g}: expected seconds above 0")
    if not 0 <= args.margin <= 1:
        raise ConfigError(f"--margin {args.margin}: expected a share of questions from 0 to 1, such as 0.02")
    if args.out is not None and args.out.exists() and not args.out.is_dir():
        raise ConfigError(f"--out {args.out}: is a file; expected a folder")


def _policies(text: str | None, settings: Settings) -> list[str]:
    """Return the canonical names of the policies in a comma-separated list."""
    if text is None:
        return []
    from budgetctl.evals.ways import certificate_of

    names = [part.strip() for part in text.split(",")]
    return list(dict.fromkeys(n if certificate_of(n) else settings.evaluated(n) for n in names))


def _default_policies(recording: Recording) -> list[str]:
    """Return those of the default policies that the recording can answer for."""
    cannot = {"off"} if not recording.has_off else set()
    if not recording.has_lengths:
        cannot.add("quantile:0.9")  # it gives caps, and nobody knows which traces they would cut
    return [name for name in REPLAY_POLICIES.split(",") if name not in cannot]


def _recorded_efforts(recording: Recording) -> list[str]:
    """Return the levels that can be replayed: what the model does with a level is its own adaptivity."""
    levels = [level for level in EFFORTS if (recording.effort(level) >= 0).all()]
    return [f"effort:{level}" for level in levels]


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


def _natural_rows(paths: Sequence[Path], args: argparse.Namespace) -> Iterator[CubeRow]:
    """Read the natural rows once more, for the pages that show questions."""
    from budgetctl.evals import cube

    for row in (row for path in paths for row in cube.iterate(path)):
        chosen = args.dataset in (None, row.dataset) and args.model in (None, row.model)
        if chosen and row.budget is not None and row.budget.kind == "natural":
            yield row
