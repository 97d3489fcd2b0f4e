"""Weights from recordings: ``python -m budgetctl.classifiers.train CUBE.. --calibration CUBE.. --out FILE``.

Training and calibration are different questions: one that occurs in both is taken out of training. What is
learnt from training questions alone is the network and the habits of models; calibration questions give the
probabilities and quantiles their meaning. Needs the ``train`` extra. Prints the metrics on the calibration
questions (for which calibration is in-sample) and on each ``--test`` recording as JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from budgetctl.classifiers import calibrate, features, fit, habits, metrics, targets
from budgetctl.classifiers.linear import Header, LinearClassifier, Source, digest
from budgetctl.classifiers.targets import Example, Question, pool
from numpy.typing import NDArray

from budgetctl.errors import BudgetctlError, ClassifierError
from budgetctl.types import Query

MIN_QUESTIONS = 50


def train(
    training: Sequence[Example],
    calibration: Sequence[Example],
    *,
    name: str,
    note: str,
    created: str,
    recipe: fit.Recipe | None = None,
    progress: fit.Progress = fit.quiet,
) -> LinearClassifier:
    """Fit a classifier on ``training`` and calibrate it on ``calibration``.

    Raises:
        ClassifierError: Too few questions are left on either side, or the ``train`` extra is missing.
    """
    recipe = recipe or fit.Recipe()
    asked, held = apart(training, calibration)
    kinds = sorted({q.kind for q in asked})
    encoded = fit.encode(asked)
    known = fit.vocabulary(encoded, recipe)
    scaler = fit.Scaler.of(np.array([dense for _, dense in encoded]))
    learnt = habits.fit(asked)
    x = _inputs(encoded, known, scaler)
    labels = fit.labels(asked, learnt, kinds)
    params = fit.fit(x, labels, recipe, progress=progress)
    arrays: dict[str, NDArray[Any]] = {
        "known": known,
        **{key: value.astype(np.float16 if key == "rows" else np.float32) for key, value in params.items()},
        **{key: getattr(scaler, key).astype(np.float32) for key in ("centre", "scale", "low", "high")},
    }
    rounded = {k: arrays[k].astype(np.float32) for k in params}
    encoded_held = fit.encode(held)
    out = fit.forward(rounded, _inputs(encoded_held, known, scaler))
    familiar = np.quantile([_share(hashes, known) for hashes, _ in encoded_held], 0.05)
    arrays["familiar"] = np.asarray(familiar, dtype=np.float32)
    calibrated, models = calibrate.readout(out, held, learnt, kinds, labels.centres)
    arrays |= calibrated
    header = Header(
        name=name,
        features=features.VERSION,
        created=created,
        trained_on=source(asked),
        calibrated_on=source(held),
        models=models,
        note=note,
        sha256=digest(arrays),
    )
    return LinearClassifier(header, arrays)


def apart(
    training: Sequence[Example], calibration: Sequence[Example]
) -> tuple[list[Question], list[Question]]:
    """Return the pooled questions of both sides; one that occurs in both is taken out of training.

    Raises:
        ClassifierError: Too few are left on either side.
    """
    held, asked = pool(calibration), pool(training)
    kept_back = {q.question_id for q in held} | {" ".join(q.text.split()) for q in held}
    asked = [q for q in asked if q.question_id not in kept_back and " ".join(q.text.split()) not in kept_back]
    for side, questions in (("training", asked), ("calibration", held)):
        if len(questions) < MIN_QUESTIONS:
            raise ClassifierError(f"{side}: {len(questions)} questions; at least {MIN_QUESTIONS} are needed")
    return asked, held


def _inputs(encoded: Any, known: NDArray[Any], scaler: fit.Scaler) -> fit.Inputs:
    try:
        return fit.inputs(encoded, known, scaler)
    except ImportError as error:
        raise ClassifierError(f"training needs the 'train' extra of this package: {error}") from error


def _share(hashes: NDArray[Any], known: NDArray[Any]) -> float:
    return float(np.isin(hashes, known).mean()) if len(hashes) else 0.0


def source(questions: Sequence[Question]) -> Source:
    """Return what a set of questions was, for the header of weights."""
    return Source(
        datasets=tuple(sorted({q.dataset for q in questions})),
        models=tuple(sorted({m for q in questions for m, _ in q.natural})),
        questions=len(questions),
    )


def split(question: str, *, seed: int = 0) -> float:
    """Return a number in [0, 1) for a question, the same on every machine: what a split is drawn by."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{question}".encode(), digest_size=8).digest()) / 2**64


def evaluate(classifier: LinearClassifier, examples: Sequence[Example]) -> dict[str, Any]:
    """Return the metrics of a classifier on examples."""
    estimates = [classifier.estimate(Query.from_text(e.text, model=e.model or None)) for e in examples]
    return metrics.evaluate(estimates, examples)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 is success, 2 a usage error."""
    args = _parser().parse_args(argv)
    try:
        training, calibration = targets.read(args.cubes), targets.read(args.calibration)
        created = datetime.now(UTC).date().isoformat()
        print(f"{len(training)} training, {len(calibration)} calibration examples", file=sys.stderr)
        classifier = train(training, calibration, name=args.name, note=args.note, created=created)
        classifier.save(args.out)
        report = {"calibration": evaluate(classifier, calibration)}
        report |= {str(path): evaluate(classifier, targets.read([path])) for path in args.test}
    except BudgetctlError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = Path(args.out).stat().st_size
    print(
        json.dumps(
            {"out": str(args.out), "bytes": size, "sha256": classifier.hash, "metrics": report}, indent=2
        )
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m budgetctl.classifiers.train", description="Weights from recordings."
    )
    parser.add_argument("cubes", nargs="+", type=Path, metavar="CUBE", help="recordings to train on")
    parser.add_argument(
        "--calibration", nargs="+", type=Path, required=True, metavar="CUBE", help="other questions"
    )
    parser.add_argument(
        "--test", nargs="*", type=Path, default=[], metavar="CUBE", help="report metrics on these too"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npz")
    parser.add_argument("--name", default="linear", help="its name in records")
    parser.add_argument("--note", default="", help="what a reader of the weights should know")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
