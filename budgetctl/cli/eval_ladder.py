"""``budgetctl eval ladder``: what choosing between two models by a score is worth, from recordings.

    budgetctl eval ladder gsm8k.jsonl.gz --rungs "Qwen2.5-32B-Instruct@off>QwQ-32B@full" --score need

The rungs are ``MODEL@POLICY``, the cheaper one first. A router's score is known before anything is asked
(``need``, ``doubt``, or a published rule); a cascade's is read off the first rung's draft (``confidence``,
``agreement``), which is charged. Exit code 1: the score does not beat the random mix of the two.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetctl.cli import inputs
from budgetctl.config import Settings
from budgetctl.errors import ConfigError, EvalError

if TYPE_CHECKING:
    from budgetctl.controller import Controller
    from budgetctl.evals.columns import Floats
    from budgetctl.evals.ladders.recorded import Recorded
    from budgetctl.evals.results import Result
    from budgetctl.ladder import Rung
    from budgetctl.types import Pace

FIT = "fit"


def add(kinds: Any) -> None:
    """Register this kind of ``eval``."""
    parser = kinds.add_parser(
        "ladder", help="judge a choice between two models", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("cubes", nargs="+", metavar="CUBE", help="cube files (.jsonl, .jsonl.gz)")
    parser.add_argument(
        "--rungs", required=True, metavar="SMALL>LARGE", help="two MODEL@POLICY, cheaper first"
    )
    parser.add_argument(
        "--score", default="need", help="what says that a call goes up (default: %(default)s)"
    )
    parser.add_argument(
        "--classifier",
        default=FIT,
        metavar="NAME",
        help="name or .npz of the classifier behind need and doubt; 'fit' (the default): fitted five times "
        "on these recordings, each time without the questions that it scores",
    )
    parser.add_argument(
        "--train",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="with 'fit': recordings, or a folder of published ones, to fit on as well",
    )
    parser.add_argument("--dataset", help="only rows of this dataset")
    parser.add_argument("--seed", type=int, default=0, help="seed of parts and resampling (default: 0)")
    inputs.add_cluster_by(parser)
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration whose prices hold")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the numbers and the picture here")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Judge and print; 1 when the score does not beat the random mix."""
    import numpy as np

    from budgetctl.evals import replay, suites
    from budgetctl.evals.ladders import choices, recorded, scores
    from budgetctl.evals.ladders.judge import judge
    from budgetctl.evals.report import ladder as report

    pair = _rungs(args.rungs)
    _check(args)
    settings = Settings.load(args.config)
    base = suites.measuring(settings, classifier=None)
    paths = [inputs.recording(name) for name in args.cubes]
    calls = recorded.read(paths, pair, pace=replay.speed_profile("nominal"), dataset=args.dataset, base=base)
    unit, costs, modelled = _costs(calls, base)
    drafts = args.score in choices.DRAFTED
    learned = "from nothing: it is read off each draft"
    held_out: bool | None = True
    if drafts:
        choice = choices.cascade(calls, args.score, costs, cluster_by=args.cluster_by)
    else:
        values, learned, held_out = _scores(args, calls)
        choice = choices.router(calls, values, costs, cluster_by=args.cluster_by)
    found = report.LadderReport(
        rungs=(str(pair[0]), str(pair[1])),
        score=args.score,
        learned=learned,
        drafts=drafts,
        judged=judge(
            choice,
            rng=np.random.default_rng(args.seed),
            crossfit=args.score in scores.ESTIMATED and args.classifier == FIT,
        ),
        unit=unit,
        modelled=modelled,
        held_out=held_out,
        left_out=calls.left_out,
        settings={
            "cubes": [str(name) for name in args.cubes],
            "dataset": args.dataset,
            "classifier": args.classifier,
            "train": [str(path) for path in args.train or ()],
            "cluster_by": args.cluster_by,
            "seed": args.seed,
        },
    )
    content = found.as_json()
    if args.out is not None:
        files = report.write(found, args.out)
        content["files"] = {kind: str(path) for kind, path in files.items()}
        print(f"picture: {files['png']}", file=sys.stderr)
    print(report.table(found), file=sys.stderr if args.json else sys.stdout)
    if args.json:
        print(json.dumps(content, indent=2, allow_nan=False))
    return 0 if found.judged.beats_mix else 1


def _rungs(text: str) -> tuple[Rung, Rung]:
    from budgetctl.ladder import Rung

    parts = [part.strip() for part in text.split(">")]
    if len(parts) != 2 or not all("@" in part for part in parts):
        raise ConfigError(
            f"--rungs {text!r}: expected two rungs, cheaper first, such as 'small@off>large@full'; of "
            "more, measure single cascades with eval replay"
        )
    return Rung.parse(parts[0]), Rung.parse(parts[1])


def _check(args: argparse.Namespace) -> None:
    """Refuse what would fail only after the work is done, or would be left undone."""
    from budgetctl.evals.ladders import scores

    scores.check(args.score)
    if args.seed < 0:
        raise ConfigError(f"--seed {args.seed}: expected a whole number from 0")
    if args.out is not None and args.out.exists() and not args.out.is_dir():
        raise ConfigError(f"--out {args.out}: is a file; expected a folder")
    if args.train and args.classifier != FIT:
        raise ConfigError(f"--train {args.train[0]}: it needs --classifier {FIT}")


def _costs(calls: Recorded, base: Controller) -> tuple[str | None, Sequence[Floats] | None, bool]:
    """Return dollars where both rungs have them, else tokens or nothing, and whether they are modelled.

    Raises:
        EvalError: The first rung costs no less than the second.
    """
    dollars = calls.dollars(base.prices)
    tokens = calls.tokens() if dollars is None else None
    unit, costs = ("usd", dollars[0]) if dollars is not None else ("tokens", tokens)
    if costs is None:
        return None, None, False
    first, second = (float(values.mean()) for values in costs)
    if first >= second:
        form = ",.0f" if unit == "tokens" else ".2g"
        shown = (
            f"{calls.rungs[0]} costs {first:{form}} {unit} on average and {calls.rungs[1]} {second:{form}}"
        )
        raise EvalError(f"{shown}: rungs stand cheapest first")
    return unit, costs, dollars is not None and dollars[1]


def _scores(args: argparse.Namespace, calls: Recorded) -> tuple[Floats, str, bool | None]:
    """Return the scores, where they are from, and whether these questions were held out of that."""
    from budgetctl.evals.bench.predictors import trained_on
    from budgetctl.evals.ladders import scores
    from budgetctl.evals.progress import Progress

    if args.score not in scores.ESTIMATED:
        return scores.by_rule(calls, args.score), "from nothing: it is a rule", True
    if args.classifier == FIT:
        from budgetctl.cli.eval_classifier import read

        more = read(args.train) if args.train else []
        with Progress(scores.FOLDS, "fitting") as progress:
            found = scores.by_fit(
                calls, args.score, more=more, seed=args.seed, fitted=lambda: progress.advance(1, "parts")
            )
        others = f" and {len(more):,} other examples" if more else ""
        return found, f"on the other four fifths of these questions{others}", True
    from budgetctl.classifiers import load

    classifier = load(args.classifier)
    datasets = {name.partition("/")[0] for name in (calls.names[q] for q in calls.question.tolist())}
    # The same questions may be known to the weights by another name, so that no name in common says nothing.
    held_out = False if trained_on(classifier, datasets) else None
    return (
        scores.by_estimate(calls, args.score, classifier),
        f"by the classifier {args.classifier!r} as it is",
        held_out,
    )


def replayed(
    args: argparse.Namespace, texts: Sequence[str], *, base: Controller, pace: Pace, paths: Sequence[Path]
) -> tuple[dict[str, list[Result]], list[str]]:
    """Return the results of policies with ladders among them, and the names of those that were asked for."""
    from budgetctl.evals import columns
    from budgetctl.evals.ladders import policies
    from budgetctl.ladder import Rung

    rows = columns.read(paths, dataset=args.dataset, model=args.model)
    ways = policies.ways(
        texts,
        # No model is called that; a rung that names none is then refused by this name.
        own=rows.models[0] if len(rows.models) == 1 else "MODEL",
        canonical=str,
    )
    asked = [name for name, way in ways.items() if not isinstance(way, Rung)]
    asked += [name for name in ways if name in texts and name not in asked]
    runs, left_out = policies.replay_ladders(
        rows,
        ways,
        pace=pace,
        base=base,
        facts_of=lambda model: base.capabilities.lookup(model, "in-process").facts(),
    )
    if left_out:
        print(f"left out: {left_out} calls that not every rung recorded", file=sys.stderr)
    return runs, asked
