"""``budgetctl train``: a classifier from one's own recordings and outcome logs.

PATH is a recording (a cube, JSON lines) or an outcome log with its feedback rows; which one is told by its
rows. Questions are divided into training, calibration and test by a hash, never the same one on two sides.
With ``--from`` the network of given weights is kept, and only its calibration is fitted to the log's models.
Writes ``classifier.npz`` and ``report.json`` into DIR.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetctl.cli.trainingdata import Data, read
from budgetctl.errors import ConfigError

if TYPE_CHECKING:
    from budgetctl.classifiers.linear import LinearClassifier
    from budgetctl.classifiers.targets import Example

TEXT_NEEDED = (
    "{unread:,} examples without their text are left out: the network of {name} reads n-grams; record the "
    "text with JsonlSink(path, store_text=True)"
)
PARTS = ("training", "calibration", "test")


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("train", help="fit a classifier to your own outcomes", description=__doc__)
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="recordings and outcome logs; 'pocket' is the shipped recording",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of what is written")
    parser.add_argument(
        "--from", dest="base", metavar="NAME", help="only calibrate these weights: 'default', or an .npz file"
    )
    for part in PARTS[1:]:
        parser.add_argument(
            f"--{part}", nargs="+", default=[], metavar="PATH", help=f"{part} part (default: drawn from PATH)"
        )
    parser.add_argument(
        "--cluster-by",
        choices=("question", "cluster"),
        default="question",
        help="what stays on one side of the division: questions (default), or whole clusters of a recording",
    )
    parser.add_argument("--name", help="its name in records (default: that of DIR)")
    parser.add_argument("--note", default="", help="what a reader of the weights should know")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, judge on the test part, and write both files.

    Raises:
        ConfigError: A file is no recording and no log, or options do not fit.
        ClassifierError: There is too little to learn from, or the ``train`` extra is missing.
    """
    if args.base is not None and args.calibration:
        raise ConfigError("--from calibrates on PATH: leave --calibration out")
    if args.out.exists() and not args.out.is_dir():
        raise ConfigError(f"--out {args.out}: is a file; expected a folder")
    data = read(args.paths)
    parts = _parts(args, data)
    given: dict[str, Any] = {
        "name": args.name or args.out.absolute().name,
        "note": args.note,
        "created": datetime.now(UTC).date().isoformat(),
    }
    make = _fitted if args.base is None else _recalibrated
    classifier, more = make(args, parts, given)
    report = {
        **given,
        "inputs": list(args.paths),
        "data": data.summary(),
        "parts": {part: _size(parts[part]) for part in PARTS},
        **more,
        "sha256": classifier.hash,
    }
    path = _write(args.out, classifier, report)
    if args.json:
        content = {"metrics": report["metrics"], "sha256": classifier.hash, "out": str(path)}
        print(json.dumps(content, indent=2))
    else:
        from budgetctl.cli.trainingpage import as_text

        print(as_text(report, path))
    return 0


def _parts(args: argparse.Namespace, data: Data) -> dict[str, list[Example]]:
    """Return the examples by part; those of a test question are in no other part."""
    from budgetctl.classifiers import own

    training, calibration, test = own.divide(data.examples, by=args.cluster_by)
    if args.calibration:
        training, calibration = training + calibration, read(args.calibration).examples
    if args.test:
        training, test = training + test, read(args.test).examples
    tested = {e.key for e in test}
    return {
        "training": [e for e in training if e.key not in tested],
        "calibration": [e for e in calibration if e.key not in tested],
        "test": test,
    }


def _fitted(
    args: argparse.Namespace, parts: dict[str, list[Example]], given: dict[str, Any]
) -> tuple[LinearClassifier, dict[str, Any]]:
    from budgetctl.classifiers import own

    learnt = parts["training"] + parts["calibration"]
    drawn = not args.calibration and not args.test
    own.check(learnt + parts["test"], own.NEEDED, questions=own.QUESTIONS if drawn else 0)
    classifier = own.fitted(parts["training"], parts["calibration"], **given, progress=_progress())
    more = {
        "with_text": round(own.with_text(learnt), 4),
        "n_grams": len(classifier.arrays["known"]),
        "metrics": own.judge(classifier, parts["test"]),
    }
    return classifier, more


def _recalibrated(
    args: argparse.Namespace, parts: dict[str, list[Example]], given: dict[str, Any]
) -> tuple[LinearClassifier, dict[str, Any]]:
    """Calibrate on all but the test part, and judge before and after."""
    from budgetctl.classifiers import own, recalibrate

    weights = recalibrate.base(args.base)
    unread = sum(map(len, parts.values()))
    parts |= {part: recalibrate.readable(weights, examples) for part, examples in parts.items()}
    unread -= sum(map(len, parts.values()))
    if unread:
        print(TEXT_NEEDED.format(unread=unread, name=args.base), file=sys.stderr)
    learnt = parts["training"] + parts["calibration"]
    own.check(learnt + parts["test"], recalibrate.NEEDED, questions=recalibrate.QUESTIONS)
    parts |= {"training": [], "calibration": learnt}
    classifier = recalibrate.recalibrate(weights, learnt, **given)
    more = {
        "from": {"name": weights.name, "sha256": weights.hash},
        "metrics": own.judge(classifier, parts["test"]),
        "before": own.judge(weights, parts["test"]),
    }
    return classifier, more


def _size(examples: Sequence[Example]) -> dict[str, int]:
    return {"examples": len(examples), "questions": len({e.key for e in examples})}


def _progress() -> Callable[[int, int], None]:
    """Return what shows the epochs: a bar on a terminal where there is tqdm, else a line now and then."""
    if not sys.stderr.isatty() or find_spec("tqdm") is None:
        return lambda done, total: (
            print(f"training: epoch {done}/{total}", file=sys.stderr)
            if done % 20 == 0 or done == total
            else None
        )
    from tqdm import tqdm

    bar = tqdm(desc="training", unit="epoch", file=sys.stderr, dynamic_ncols=True)

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return show


def _write(folder: Path, classifier: LinearClassifier, report: dict[str, Any]) -> Path:
    """Write both files, each in one step, and return the path of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "classifier.npz"
    _replace(path, classifier.save)
    text = json.dumps(report, indent=2) + "\n"
    _replace(folder / "report.json", lambda partial: partial.write_text(text, encoding="utf-8"))
    return path


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
