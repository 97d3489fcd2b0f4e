"""``budgetctl cube``: check and merge recordings, make them of the logs of other tools, and export them.

A recording (cube) is JSON lines, plain or gzipped. ``check`` exits with 1 when something is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from budgetctl.cli import inputs
from budgetctl.errors import ConfigError

if TYPE_CHECKING:
    from budgetctl.evals.cube import CubeBudget
    from budgetctl.evals.exchange import Defaults

Row = TypeVar("Row")
EXPORTS = ("inspect", "csv", "parquet")
CUBES = "cubes, or rows.jsonl of a run folder; 'pocket' is the shipped one"


def add(subparsers: Any) -> None:
    """Register the command with its kinds."""
    parser = subparsers.add_parser(
        "cube", help="check, merge, import and export recordings", description=__doc__
    )
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    _add_check(kinds)
    _add_merge(kinds)
    _add_import(kinds)
    _add_export(kinds)


def _kind(
    kinds: Any, name: str, run: Callable[[argparse.Namespace], int], what: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = kinds.add_parser(
        name, help=what, description=what[0].upper() + what[1:] + "."
    )
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    parser.set_defaults(run=run)
    return parser


def _add_check(kinds: Any) -> None:
    parser = _kind(kinds, "check", run_check, "read cubes and tell what is wrong with them")
    parser.add_argument("cubes", nargs="+", type=inputs.recording, metavar="CUBE", help=CUBES)


def _add_merge(kinds: Any) -> None:
    parser = _kind(kinds, "merge", run_merge, "write the rows of several cubes into one, each once")
    parser.add_argument("cubes", nargs="+", type=inputs.recording, metavar="CUBE", help=CUBES)
    parser.add_argument("--out", type=Path, required=True, metavar="CUBE", help=".gz is compressed")


def _add_import(kinds: Any) -> None:
    parser = _kind(kinds, "import", run_import, "make a cube of logs")
    parser.add_argument("logs", nargs="+", type=Path, metavar="LOG")
    parser.add_argument("--out", type=Path, required=True, metavar="CUBE", help=".gz is compressed")
    parser.add_argument(
        "--from",
        dest="source",
        choices=("inspect", "lm-eval", "calls", "outcomes"),
        help="what wrote the logs (default: told from each file)",
    )
    parser.add_argument("--dataset", help="name of the dataset (default: the log's own)")
    parser.add_argument("--model", help="name of the model (default: the log's own)")
    parser.add_argument(
        "--budget",
        metavar="natural|off|cap:N|effort:LEVEL",
        help="what the calls could think (default: by the log)",
    )
    parser.add_argument("--scorer", help="which of several scores of inspect_ai counts")
    parser.add_argument("--metric", help="which of several metrics of lm-eval counts")
    parser.add_argument("--filter", help="which of several answer filters of lm-eval counts")
    parser.add_argument(
        "--threshold", type=float, default=1.0, help="score from which on an answer is right (default: 1)"
    )
    parser.add_argument("--grader", metavar="NAME|MODULE:FUNCTION", help="judges logged calls")


def _add_export(kinds: Any) -> None:
    parser = _kind(kinds, "export", run_export, "write a cube in the format of other tools")
    parser.add_argument("cubes", nargs="+", type=inputs.recording, metavar="CUBE", help=CUBES)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="PATH",
        help="a folder for inspect, else a .csv or .parquet file",
    )
    parser.add_argument(
        "--only", choices=("natural", "off", "tokens", "effort"), help="only rows of this kind of budget"
    )
    parser.add_argument("--to", choices=EXPORTS, help="format (default: by the ending of --out)")


def run_check(args: argparse.Namespace) -> int:
    """Check cubes; 1 when something is wrong with them."""
    from budgetctl.evals import merging

    tally = merging.check(args.cubes)
    content = {
        "rows": tally.rows,
        "repeated": tally.repeated,
        **{f"{name}s": dict(counts) for name, counts in tally.counts.items()},
        "faults": tally.faults,
        "faulty": tally.faulty,
    }
    if args.json:
        print(json.dumps(content, indent=2))
    else:
        for fault in tally.faults:
            print(fault)
        if tally.faulty > len(tally.faults):
            print(f"and {tally.faulty - len(tally.faults)} more")
        print(f"{tally.rows} rows, {tally.repeated} repeated, {tally.faulty} faulty")
        for name, counts in tally.counts.items():
            print(f"{name}: " + ", ".join(f"{value} {n}" for value, n in counts.most_common(10)))
    return 1 if tally.faulty or not tally.rows else 0


def run_merge(args: argparse.Namespace) -> int:
    """Merge cubes."""
    from budgetctl.evals import cube, merging

    tally = merging.Tally()
    count = cube.write(args.out, _some(merging.merged(args.cubes, tally), args.cubes))
    return _wrote(args, count, {"repeated": tally.repeated})


def run_import(args: argparse.Namespace) -> int:
    """Make a cube of logs."""
    from budgetctl.evals import cube, exchange

    imported = exchange.read(args.logs, source=args.source, defaults=_defaults(args))
    try:
        count = cube.write(args.out, _some(imported.rows, args.logs))
    finally:
        for reason, n in imported.left_out.items():
            print(f"left out: {n} {reason}", file=sys.stderr)
    return _wrote(args, count, {"left_out": dict(imported.left_out)})


def run_export(args: argparse.Namespace) -> int:
    """Write cubes in another format."""
    from budgetctl.evals import cube
    from budgetctl.evals.exchange import flat, inspect_export

    rows = _some((row for path in args.cubes for row in cube.iterate(path)), args.cubes)
    if args.only is not None:
        rows = _some((row for row in rows if row.budget and row.budget.kind == args.only), args.cubes)
    if _format(args) == "inspect":
        paths = inspect_export.write(args.out, rows)
        print(f"{len(paths)} logs: inspect view --log-dir {args.out}", file=sys.stderr)
        if args.json:
            print(json.dumps({"paths": [str(path) for path in paths]}, indent=2))
        return 0
    return _wrote(args, flat.WRITERS[f".{_format(args)}"](args.out, rows), {})


def _some(rows: Iterable[Row], sources: Sequence[Path]) -> Iterator[Row]:
    """Return rows of which there is at least one; what is there already is not replaced by nothing.

    Raises:
        ConfigError: There is none.
    """
    rest = iter(rows)
    for first in rest:
        return chain([first], rest)
    raise ConfigError(f"{', '.join(map(str, sources))}: no rows")


def _format(args: argparse.Namespace) -> str:
    if args.to is not None:
        return str(args.to)
    if args.out.suffix in (".csv", ".parquet"):
        return str(args.out.suffix[1:])
    if not args.out.suffix:
        return "inspect"
    raise ConfigError(f"--out {args.out}: name a folder, a .csv or a .parquet file, or the format with --to")


def _wrote(args: argparse.Namespace, count: int, more: Mapping[str, Any]) -> int:
    if args.json:
        print(json.dumps({"path": str(args.out), "rows": count, **more}, indent=2))
    else:
        print(f"{args.out}: {count} rows" + "".join(f", {n} {name}" for name, n in more.items() if n))
    return 0


def _defaults(args: argparse.Namespace) -> Defaults:
    from budgetctl.evals import graders
    from budgetctl.evals.exchange import Defaults

    return Defaults(
        dataset=args.dataset,
        model=args.model,
        budget=_budget(args.budget),
        scorer=args.scorer,
        metric=args.metric,
        filter=args.filter,
        threshold=args.threshold,
        grade=None if args.grader is None else graders.load(args.grader),
    )


def _budget(text: str | None) -> CubeBudget | None:
    from budgetctl.evals.cube import CubeBudget

    kind, _, value = (text or "").partition(":")
    if text is None:
        return None
    if text in ("natural", "off"):
        return CubeBudget.model_validate({"kind": text})
    if kind == "cap" and value.isdecimal():
        return CubeBudget(kind="tokens", value=int(value))
    if kind == "effort" and value:
        return CubeBudget(kind="effort", value=value)
    raise ConfigError(f"--budget {text!r}: allowed are natural, off, cap:N and effort:LEVEL")
