"""Weights from recordings: ``python -m budgetctl.classifiers.train CUBE.. --calibration CUBE.. --out FILE``.

Training and calibration must be different questions: one that occurs in both is taken out of training.
Needs the ``train`` extra. Prints the metrics on the calibration questions (for which calibration is
in-sample) and on each ``--test`` recording as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from budgetctl.classifiers import calibrate, features, fit, metrics, targets
from budgetctl.classifiers.linear import Header, LinearClassifier, Source, digest
from budgetctl.classifiers.targets import Example
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
) -> LinearClassifier:
    """Fit a classifier on ``training`` and calibrate it on ``calibration``.

    Raises:
        ClassifierError: Too few questions are left on either side, or the ``train`` extra is missing.
    """
    recipe = recipe or fit.Recipe()
    kept_back = {e.question_id for e in calibration} | {e.text for e in calibration}
    training = [e for e in training if e.question_id not in kept_back and e.text not in kept_back]
    for side, examples in (("training", training), ("calibration", calibration)):
        if len({e.question_id for e in examples}) < MIN_QUESTIONS:
            raise ClassifierError(
                f"{side}: {len(examples)} examples; at least {MIN_QUESTIONS} questions are needed"
            )
    kinds = sorted({e.kind for e in training})
    encoded = fit.encode(training)
    known = fit.vocabulary(encoded, recipe)
    scaler = fit.Scaler.of(np.array([dense for _, dense in encoded]))
    params = fit.fit(_inputs(encoded, known, scaler), fit.labels(training, kinds), recipe)
    held = fit.encode(calibration)
    arrays = {
        "known": known,
        **{key: value.astype(np.float16 if key == "rows" else np.float32) for key, value in params.items()},
        **{key: getattr(scaler, key).astype(np.float32) for key in ("centre", "scale", "low", "high")},
        "familiar": np.float32(np.quantile([_share(hashes, known) for hashes, _ in held], 0.05)),
    }
    out = fit.forward({k: arrays[k].astype(np.float32) for k in params}, _inputs(held, known, scaler))
    labels = fit.labels(calibration, kinds)
    temperature, bias = calibrate.classes(out, labels.classes)
    arrays |= {"temperature": temperature.astype(np.float32), "class_bias": bias.astype(np.float32)}
    arrays["shift"] = calibrate.shifts(out, labels).astype(np.float32)
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    header = Header(
        name=name,
        features=features.VERSION,
        created=created,
        trained_on=_source(training),
        calibrated_on=_source(calibration),
        note=note,
        sha256=digest(arrays),
    )
    return LinearClassifier(header, arrays)


def _inputs(encoded: Any, known: NDArray[Any], scaler: fit.Scaler) -> fit.Inputs:
    try:
        return fit.inputs(encoded, known, scaler)
    except ImportError as error:
        raise ClassifierError(f"training needs the 'train' extra of this package: {error}") from error


def _share(hashes: NDArray[Any], known: NDArray[Any]) -> float:
    return float(np.isin(hashes, known).mean()) if len(hashes) else 0.0


def _source(examples: Sequence[Example]) -> Source:
    return Source(
        datasets=tuple(sorted({e.dataset for e in examples})),
        models=tuple(sorted({e.model for e in examples})),
        questions=len({e.question_id for e in examples}),
        rows=len(examples),
    )


def evaluate(classifier: LinearClassifier, examples: Sequence[Example]) -> dict[str, Any]:
    """Return the metrics of a classifier on examples."""
    estimates = [classifier.estimate(Query.from_text(e.text, model=e.model)) for e in examples]
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
