"""The shipped default weights: ``python -m budgetctl.classifiers.weights FOLDER --out FILE.npz``.

``FOLDER`` holds recorded outcomes of real models in the layout of :mod:`budgetctl.classifiers.sources`. A
fifth of the questions calibrates, drawn by a hash of their text. The same folder gives the same weights, on
one machine to the bit: sums in another order, as with another number of threads, round differently.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from budgetctl.classifiers import fit, sources, train

from budgetctl.errors import BudgetctlError

RECIPE = fit.Recipe(
    vocabulary=16384,
    width=16,
    hidden=144,
    epochs=24,
    copies=6,
    bag_drop=0.3,
    drop=0.1,
    decay=0.5,
    level=0.5,
    pinball=1.0,
    kind=0.1,
    ridge=0.9,
    ridge_penalty=100.0,
    teacher=0.5,
)
CALIBRATION = 0.2
CREATED = "2026-11-24"
"""Date of the recordings' collection; part of the header, so the same recordings give the same file."""
NOTE = (
    "Trained on recorded outcomes of real models on public questions: mathematics, generated puzzles, "
    "multiple choice, riddles, code. Tokens are those of a named model that is known, else of a generic "
    "reasoner."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 is success, 2 a usage error."""
    parser = argparse.ArgumentParser(prog="python -m budgetctl.classifiers.weights", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="recorded outcomes")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npz")
    args = parser.parse_args(argv)
    try:
        examples = sources.read(args.folder)
        held = [train.split(e.key) < CALIBRATION for e in examples]
        classifier = train.train(
            [e for e, out in zip(examples, held, strict=True) if not out],
            [e for e, out in zip(examples, held, strict=True) if out],
            name="default",
            note=NOTE,
            created=CREATED,
            recipe=RECIPE,
            progress=lambda done, total: print(f"epoch {done}/{total}", file=sys.stderr),
        )
    except BudgetctlError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    classifier.save(args.out)
    size = args.out.stat().st_size
    print(json.dumps({"out": str(args.out), "bytes": size, "sha256": classifier.hash}, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
