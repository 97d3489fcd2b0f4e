"""``budgetctl report``: of a run folder the HTML report, of logs the overthinking bill. No key, no call."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from budgetctl.errors import ConfigError


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "report",
        help="HTML report of an eval run; or of logs, what thinking cost",
        description="PATH is the folder of an eval run, or one or more logs: outcome files of budgetctl, or "
        "OpenAI-style responses, request/response pairs or batch outputs, one JSON object a line (.gz too).",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="write an HTML page")
    parser.add_argument("--price-in", type=float, metavar="USD", help="dollars per million input tokens")
    parser.add_argument("--price-out", type=float, metavar="USD", help="dollars per million output tokens")
    parser.add_argument(
        "--prices", type=Path, metavar="FILE.toml", help="prices that win over the built-in ones"
    )
    parser.add_argument("--speed", type=float, metavar="TOK_PER_S", help="for logs without times")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the report or print the bill.

    Raises:
        ConfigError: A path that cannot be read, a log without a call, or options that do not fit.
    """
    missing = [str(path) for path in args.paths if not path.exists()]
    if missing:
        raise ConfigError(f"no such file or folder: {', '.join(missing)}")
    if any(path.is_dir() for path in args.paths):
        return _run_folder(args)
    bill = _bill(args)
    if args.out is not None:
        from budgetctl.cli.billpage import as_html

        _write(args.out, as_html(bill))
    if args.json:
        page = None if args.out is None else str(args.out)
        print(json.dumps({"path": page, "inputs": [str(p) for p in args.paths], **bill}, allow_nan=False))
    else:
        from budgetctl.cli.billpage import as_text

        print(as_text(bill))
    return 0


def _run_folder(args: argparse.Namespace) -> int:
    if len(args.paths) != 1:
        raise ConfigError("one run folder at a time, or logs only")
    from budgetctl.evals import report

    page = report.from_folder(args.paths[0])
    if args.out is not None:
        _write(args.out, page.read_text(encoding="utf-8"))
        page = args.out
    print(json.dumps({"path": str(page)}) if args.json else page)
    return 0


def _bill(args: argparse.Namespace) -> dict[str, Any]:
    from budgetctl import logs
    from budgetctl.bill import Bill
    from budgetctl.pricing import Prices

    if args.speed is not None and not 0 < args.speed < math.inf:
        raise ConfigError(f"--speed: seen {args.speed}, allowed: tokens per second above 0")
    if (args.price_in is None) != (args.price_out is None):
        raise ConfigError("--price-in and --price-out come together: a call has both kinds of tokens")
    if args.price_in is not None and args.prices is not None:
        raise ConfigError("--prices and --price-in/--price-out exclude each other")
    given = args.prices
    if args.price_in is not None:
        given = {"*": {"input": args.price_in, "output": args.price_out}}
    bill = Bill(prices=Prices.load(given), speed=args.speed)
    try:
        bill.add_lines(logs.read(args.paths))
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read: {error.strerror or error}") from error
    if bill.calls == 0:
        names = ", ".join(map(str, args.paths))
        first = f"; {bill.unknown[0]}" if bill.unknown else ", the file is empty"
        raise ConfigError(f"no call in {names}{first}")
    return bill.summary()


def _write(path: Path, page: str) -> None:
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out: {path} cannot be written: {error.strerror}") from error
