"""``budgetctl slo``: do the routes of ``budgetctl.toml`` keep their latency targets and their monthly spend?

OUTCOMES are outcome files. Exit code 1: a route burns: the interval of its p95 lies above the target, or a
month at this rate costs more than its limit; 2: the command cannot be carried out as asked.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from budgetctl.errors import ConfigError

_HEAD = (
    *("route", "owner", "calls", "target", "p95 (95 % interval)", "over", "burn: all, day, hour"),
    *("thinking", "answered", "spent", "a month", "limit"),
)
_AGO = re.compile(r"(\d{1,6})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_LEVERS = {
    "unanswered": "more than 5 % of the calls had no answer",
    "first_token": "thinking is not what makes it late: the wait for the first token is",
    "answer": "thinking is not what makes it late: writing the answer is",
    "unknown": "whether shorter thinking would help is unknown: too few of the late calls were streamed",
}


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "slo", help="routes against their latency targets and monthly spend", description=__doc__
    )
    parser.add_argument("outcomes", nargs="+", type=Path, metavar="OUTCOMES", help="outcome files")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="configuration with the routes (default: budgetctl.toml of the working directory, where there "
        "is one)",
    )
    parser.add_argument(
        "--since",
        metavar="7d|DATE",
        help="leave earlier calls out: so many minutes (m), hours (h) or days (d) ago, or an ISO date or "
        "time (UTC where it names no zone)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what the routes come to; 1 where one of them burns.

    Raises:
        ConfigError: A file or option that cannot be used, or files that hold no outcome.
    """
    from budgetctl.config import Settings
    from budgetctl.records import read
    from budgetctl.slo import Collected, summary

    now = datetime.now(UTC)
    seen = Collected(Settings.load(args.config).routes, since=since(args.since, now=now), now=now)
    unreadable = 0
    for path in args.outcomes:
        try:
            rows = read(path)
            seen.add(rows)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        unreadable += rows.unreadable
    unreadable += seen.impossible
    if unreadable and not seen.outcomes:
        raise ConfigError(
            f"no outcome in {', '.join(map(str, args.outcomes))}: {unreadable:,} lines are no rows of an "
            "outcome file"
        )
    found = {**summary(seen), "unreadable_lines": unreadable}
    print(json.dumps(found, allow_nan=False) if args.json else as_text(found))
    return 1 if found["burning"] else 0


def since(text: str | None, *, now: datetime) -> datetime | None:
    """Return the moment that ``--since`` names.

    Raises:
        ConfigError: It names none.
    """
    if text is None:
        return None
    try:
        if ago := _AGO.fullmatch(text):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ConfigError(f"--since {text!r}: expected 90m, 24h, 7d, or a date such as 2026-01-31") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def as_text(found: Mapping[str, Any]) -> str:
    """Return the routes as a table for a terminal, and below it what burns and what would help."""
    lines = [_cells(row) for row in found["routes"]]
    widths = [max(len(line[i]) for line in [_HEAD, *lines]) for i in range(len(_HEAD))]
    table = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in [_HEAD, *lines]]
    span = f"{_minute(found['from'])} to {_minute(found['until'])} UTC" if found["until"] else "no calls"
    said = [line for row in found["routes"] for line in _said(row)]
    if found["unknown_routes"]:
        names = ", ".join(found["unknown_routes"])
        said.append(f"(no route): also of routes that the configuration does not have, such as {names}.")
    return "\n".join([span, "", *(line.rstrip() for line in table), *([""] if said else []), *said])


def _cells(row: Mapping[str, Any]) -> Sequence[str]:
    burn, cost = row["burn"], row["cost"]
    rates = [_number(burn[name]["rate"], ".1f") for name in ("span", "day", "hour")] if burn else ["n/a"]
    at_least = ">= " if cost["calls_unknown"] else ""
    return (
        _name(row),
        row["owner"] or "",
        f"{row['calls']:,}",
        _seconds(row["target_p95_s"]),
        _p95(row),
        _share(burn["span"]["share"] if burn else None),
        ", ".join(rates),
        _share(row["time"]["thinking"]),
        _share(row["answered_share"]),
        _usd(cost["usd"], at_least),
        _usd(cost["month_usd"], at_least),
        _usd(row["usd_per_month"]),
    )


def _p95(row: Mapping[str, Any]) -> str:
    low, high = row["p95_ci"]
    needed = row["calls_needed"]
    if needed is None:
        return f"{_seconds(row['p95_s'], 'never')} ({_seconds(low, 'never')} to {_seconds(high, 'never')})"
    return f"n/a, of {needed} calls" if low is None else f"at least {_seconds(low)}; more of {needed} calls"


def _said(row: Mapping[str, Any]) -> list[str]:
    """Say of a route that burns, or may, whose it is, why, and what would help."""
    lines = []
    who = f"{_name(row)}" + (f" ({row['owner']})" if row["owner"] else "")
    over = row["over"]
    if row["latency"] == "over":
        lines.append(f"{who} burns: its p95 is above the target.")
    elif row["latency"] == "unsure" and over["calls"] and row["thinking_cut"] != 0:
        lines.append(f"{who} may burn: its p95 is above the target, and its interval is not.")
    if lines:
        lines[0] += f" {_helps(row)}"
    if kept := row["deadlines"]:
        p95 = kept["p95"]
        most = "more than 5 % had no answer" if p95 is None else f"95 % took no more than {p95:.2f} of it"
        lines.append(f"{who}: {_share(kept['kept'])} of {kept['calls']:,} calls kept their deadline; {most}.")
    if "spend" in row["burns"]:
        month, limit = _usd(row["cost"]["month_usd"]), _usd(row["usd_per_month"])
        lines.append(f"{who} burns: a month at this rate costs {month}, its limit is {limit}.")
    if unknown := row["cost"]["calls_unknown"]:
        lines.append(f"{who}: the cost of {unknown:,} calls is unknown and in no sum.")
    return lines


def _helps(row: Mapping[str, Any]) -> str:
    over, cut = row["over"], row["thinking_cut"]
    went = ""
    if over["calls_split"]:
        went = f"Of the time of {over['calls_split']:,} late calls {_share(over['thinking'])} is thinking. "
    if row["lever"] == "thinking":
        return (
            f"{went}Thinking {_share(cut)} shorter would bring 95 % of the calls within it; what that costs "
            "in answers takes an evaluation."
        )
    return f"{went}{_LEVERS[row['lever']].capitalize()}."


def _name(row: Mapping[str, Any]) -> str:
    return row["route"] or "(no route)"


def _minute(iso: str) -> str:
    return datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M")


def _number(value: float | None, form: str) -> str:
    return "n/a" if value is None else format(value, form)


def _seconds(value: float | None, without: str = "") -> str:
    return without if value is None else f"{value:.3g} s"


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f} %"


def _usd(value: float | None, at_least: str = "") -> str:
    if value is None:
        return "n/a"
    return f"{at_least}${value:,.2f}" if value >= 1 or value == 0 else f"{at_least}${value:.2g}"
