"""``budgetctl eval classifier``: compare classifiers on questions with known outcomes.

Without ``--split``, classifiers are judged as they are, on all examples. With it the recipe of the shipped
weights is fitted anew on one part of the examples, calibrated on another and judged on a third: ``random``
(unseen questions), ``tasks`` (unseen task types), ``models`` (unseen models). Prompt length and the published
rules whose packages are installed are judged beside them on the same questions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetctl.errors import ConfigError

if TYPE_CHECKING:
    from budgetctl.classifiers.targets import Example
    from budgetctl.evals.bench.compare import Table
    from budgetctl.evals.bench.predictors import Refit
    from budgetctl.evals.bench.resample import Bootstrap

FOLDS = 5


def add(kinds: Any) -> None:
    """Register this kind of ``eval``."""
    parser = kinds.add_parser("classifier", help="compare classifiers", description=__doc__)
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="recordings (.jsonl, .jsonl.gz), or folders with published collections of them",
    )
    parser.add_argument(
        "--classifier",
        action="append",
        metavar="NAME_OR_PATH",
        help="judge this one as it is; may be repeated (default: default)",
    )
    parser.add_argument(
        "--split",
        action="append",
        choices=("random", "tasks", "models", "all"),
        help="fit anew and judge on what was held out; may be repeated",
    )
    parser.add_argument(
        "--folds",
        type=int,
        default=FOLDS,
        help="parts that a split deals into, each tested once (default: %(default)s)",
    )
    parser.add_argument(
        "--parts", type=int, metavar="N", help="test only the first N parts (default: all of them)"
    )
    parser.add_argument(
        "--embedding", metavar="MODEL", help="also fit on the embeddings of this hub model or folder"
    )
    parser.add_argument("--encoder", action="store_true", help="also train a small encoder from scratch")
    parser.add_argument(
        "--learning-curve", action="store_true", help="also fit on 1/8, 1/4 and 1/2 of the random split"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of splits and resampling (default: 0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write table.md and table.json here")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare and print."""
    from budgetctl.evals.bench import resample, table
    from budgetctl.evals.bench.peers import PEERS, packages

    _check(args)
    left_out = packages(peer for peer in PEERS.values() if not peer.installed)
    if left_out:
        print(f"left out, as not installed in this version: {', '.join(left_out)}", file=sys.stderr)
    bootstrap = resample.Bootstrap(seed=args.seed, resamples=resample.RESAMPLES)
    in_sample: dict[str, list[str] | None] = {}
    found = _refitted(args, bootstrap) if args.split else _as_they_are(args, bootstrap, in_sample)
    tables: list[Table] = []
    text, content = "", {}
    for finished in found:  # written as they come: a run of all splits takes its time
        tables.append(finished)
        text = table.render(tables, in_sample=in_sample)
        content = {
            "schema_version": "1.0",
            "splits": [each.as_json() for each in tables],
            "in_sample": in_sample,
            "settings": _settings(args, bootstrap),
        }
        if args.out is not None:
            paths = table.write(text, content, args.out)
            content["files"] = {kind: str(path) for kind, path in paths.items()}
    if args.out is not None:
        print(f"table: {args.out / table.TEXT}", file=sys.stderr)
    print(json.dumps(content, indent=2) if args.json else text, end="\n" if args.json else "")
    return 0


def _as_they_are(
    args: argparse.Namespace, bootstrap: Bootstrap, in_sample: dict[str, list[str] | None]
) -> Iterator[Table]:
    """Yield the one table, and note in ``in_sample`` which datasets the weights were made from."""
    from budgetctl.evals.bench import compare, predictors

    found = predictors.as_they_are(args.classifier or ["default"])
    examples = read(args.paths)
    datasets = {e.dataset for e in examples}
    in_sample |= {p.name: predictors.trained_on(p, datasets) for p in found}
    for name, seen in in_sample.items():
        if seen:
            print(f"in-sample: {name} was made from {', '.join(seen)}; --split fits anew", file=sys.stderr)
    yield compare.as_they_are(examples, found, bootstrap)


def _refitted(args: argparse.Namespace, bootstrap: Bootstrap) -> Iterator[Table]:
    """Yield a table per split; what cannot be done is refused before the first fit."""
    from budgetctl.evals.bench import predictors
    from budgetctl.evals.bench.compare import Comparison
    from budgetctl.evals.bench.splits import SPLITS, Dealer
    from budgetctl.evals.progress import Progress

    refits = _refits(args)
    dealer = Dealer(read(args.paths), seed=args.seed, folds=args.folds)
    asked = [split for split in SPLITS if split in args.split or "all" in args.split]
    planned = [
        Comparison(
            dealer,
            split,
            refits=refits,
            parts=args.parts,
            curve=args.learning_curve and split == "random",
            seed=args.seed,
        )
        for split in asked
    ]
    with Progress(sum(comparison.work for comparison in planned), "fitting") as progress:
        for comparison in planned:
            yield comparison.run(predictors.rules(), bootstrap, advance=progress.advance)


def _refits(args: argparse.Namespace) -> dict[str, Refit]:
    """Return what is to be fitted; whatever could not be is refused here, before anything is."""
    import sklearn  # noqa: F401 - training needs it, so its absence is said at once

    from budgetctl.evals.bench import predictors

    found: dict[str, Refit] = {"linear": predictors.linear}
    if args.embedding is not None or args.encoder:
        import torch

        torch.set_num_threads(1)  # what one query costs is compared on one thread
    if args.embedding is not None:
        found["embedding"] = predictors.embedding(args.embedding)
    if args.encoder:
        found["encoder"] = predictors.encoder()
    return found


def read(paths: Sequence[Path]) -> list[Example]:
    """Return the examples of recordings, and of folders with published collections of them."""
    from budgetctl.classifiers import sources, targets

    print("reading ...", file=sys.stderr)
    return [e for path in paths for e in (sources.read(path) if path.is_dir() else targets.read([path]))]


def _settings(args: argparse.Namespace, bootstrap: Bootstrap) -> dict[str, Any]:
    """Return what the figures depend on besides the code."""
    return {
        "paths": [path.name for path in args.paths],
        "split": args.split,
        "folds": args.folds,
        "parts": args.parts,
        "seed": args.seed,
        "embedding": args.embedding,
        "encoder": args.encoder,
        "resamples": bootstrap.resamples,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def _check(args: argparse.Namespace) -> None:
    """Refuse what would fail only after the work is done, or would be left undone."""
    if args.seed < 0:
        raise ConfigError(f"--seed {args.seed}: expected a whole number from 0")
    if args.folds < 2:
        raise ConfigError(f"--folds {args.folds}: expected a whole number from 2")
    if args.parts is not None and not 1 <= args.parts <= args.folds:
        raise ConfigError(f"--parts {args.parts}: expected a whole number from 1 to --folds {args.folds}")
    if args.out is not None and args.out.exists() and not args.out.is_dir():
        raise ConfigError(f"--out {args.out}: is a file; expected a folder")
    if args.split and args.classifier:
        raise ConfigError(
            "--split fits classifiers anew: leave out --classifier, or judge it without --split"
        )
    if not args.split:
        for flag in ("parts", "embedding", "encoder", "learning_curve"):
            if getattr(args, flag):
                raise ConfigError(f"--{flag.replace('_', '-')} fits anew: it needs --split")
    if args.learning_curve and not {"random", "all"} & set(args.split):
        raise ConfigError("--learning-curve is of the random split: it needs --split random")
