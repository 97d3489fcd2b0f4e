"""``budgetctl roi``: what a measured run comes to at a forecast of traffic: dollars, seconds, wrong answers.

RUN is the folder of a finished `budgetctl eval live` or `eval replay --out`, or the summary.json in it. Exit
code 1: the run does not recommend the policy; 2: the command cannot be carried out as asked.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetctl.errors import ConfigError

if TYPE_CHECKING:
    from budgetctl.evals.roi import Traffic

_PER_DAY = re.compile(r"(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?")
_GROWTH = re.compile(r"(-?\d*\.?\d+)(?:/month)?")
_BASES = {
    "recorded": "Dollars are those that the run recorded.",
    "given": "Dollars are those of generated tokens at --price-out.",
    "list": "Dollars are those of generated tokens at list prices.",
}


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "roi", help="what a measured run comes to at a forecast of traffic", description=__doc__
    )
    parser.add_argument("folder", type=Path, metavar="RUN", help="folder of a finished evaluation")
    parser.add_argument(
        "--requests-per-day", required=True, metavar="N|LOW-HIGH", help="traffic of the first month"
    )
    parser.add_argument(
        "--growth",
        default="0",
        metavar="SHARE/month",
        help="growth from month to month, such as 0.05/month (default: none)",
    )
    parser.add_argument("--months", type=int, default=12, help="length of the period (default: %(default)s)")
    parser.add_argument("--policy", metavar="P", help="the policy (default: what the run recommends)")
    parser.add_argument(
        "--price-out",
        type=float,
        metavar="USD",
        help="dollars per million generated tokens (default: recorded costs, else list prices)",
    )
    parser.add_argument(
        "--prices", type=Path, metavar="FILE.toml", help="prices that win over the built-in ones"
    )
    parser.add_argument(
        "--usd-per-hour", type=float, metavar="USD", help="dollars per hour of one machine like the run's"
    )
    parser.add_argument(
        "--audit-rate",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the calls that will be audited at full thinking, to be paid for (default: none)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the resampling (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what the policy brings; 1 where the run does not recommend it.

    Raises:
        ConfigError: Options that do not fit.
        EvalError: The run cannot be used.
    """
    from budgetctl.evals import roi
    from budgetctl.pricing import Prices

    _check(args)
    found = roi.returns(
        roi.folder_of(args.folder),
        traffic=_traffic(args),
        policy=args.policy,
        price_out=args.price_out,
        prices=None if args.prices is None else Prices.load(args.prices),
        usd_per_hour=args.usd_per_hour,
        audit_rate=args.audit_rate,
        seed=args.seed,
    )
    print(json.dumps(found, indent=2, allow_nan=False) if args.json else as_text(found))
    return 0 if found["policy"] is not None and found["policy"] == found["recommended"] else 1


def _check(args: argparse.Namespace) -> None:
    for name in ("price_out", "usd_per_hour"):
        value = getattr(args, name)
        if value is not None and not 0 <= value < math.inf:
            raise ConfigError(f"--{name.replace('_', '-')} {value:g}: expected dollars from 0")
    if args.price_out is not None and args.prices is not None:
        raise ConfigError("--prices and --price-out exclude each other")
    if not 0 <= args.audit_rate <= 1:
        raise ConfigError(f"--audit-rate {args.audit_rate:g}: expected a share of calls from 0 to 1")
    if not 1 <= args.months <= 120:
        raise ConfigError(f"--months {args.months}: expected 1 to 120")
    if args.seed < 0:
        raise ConfigError(f"--seed {args.seed}: expected a whole number from 0")


def _traffic(args: argparse.Namespace) -> Traffic:
    from budgetctl.evals.roi import Traffic

    said = _PER_DAY.fullmatch(args.requests_per_day)
    low, high = (float(said[1]), float(said[2] or said[1])) if said else (0.0, 0.0)
    if not 0 < low <= high:
        raise ConfigError(f"--requests-per-day {args.requests_per_day!r}: expected 1000, or 800-1500")
    grows = _GROWTH.fullmatch(args.growth)
    growth = float(grows[1]) if grows else -1.0
    if not -1 < growth <= 1:
        raise ConfigError(f"--growth {args.growth!r}: expected a share a month above -1, such as 0.05/month")
    return Traffic(low=low, high=high, growth=growth, months=args.months)


def as_text(found: Mapping[str, Any]) -> str:
    """Return the figures as a table for a terminal, what speaks against them first."""
    if found["policy"] is None:
        return f"The run recommends no policy. {found['verdict']}\nName one with --policy for its figures."
    parts = []
    if found["policy"] != found["recommended"]:
        parts.append(f"The run does not recommend {found['policy']}. {found['verdict']}")
    parts += [_headline(found), _table(found), "\n".join(_notes(found))]
    return "\n\n".join(parts)


def _headline(found: Mapping[str, Any]) -> str:
    traffic = found["traffic"]
    low, high = f"{traffic['low']:,.0f}", f"{traffic['high']:,.0f}"
    grows = f", {100 * traffic['growth']:+g} % a month" if traffic["growth"] else ""
    return (
        f"{found['policy']} against full thinking, measured on {found['n']:,} questions, at "
        f"{low if low == high else f'{low} to {high}'} requests a day{grows} (95 % intervals)"
    )


def _table(found: Mapping[str, Any]) -> str:
    kinds = {
        "dollars saved": ("usd", _usd, _usd),
        "waiting saved": ("seconds", _waiting, _hours),
        f"{_basis(found)} saved": ("tokens", _count, _count),
        "more wrong answers": ("wrong_answers", _share, _count),
    }
    columns = ("per_request", "per_day", "in_period")
    lines = [["", "per request", "a day, at first", f"in {found['traffic']['months']} months"]]
    for title, (kind, of_one, of_many) in kinds.items():
        if found["per_request"][kind] is None:
            continue
        marked = f"{title} (modelled)" if kind in found["modelled"] else title
        forms = (of_one, of_many, of_many)
        cells = [_range(found[column][kind], form) for column, form in zip(columns, forms, strict=True)]
        lines.append([marked, *cells])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _basis(found: Mapping[str, Any]) -> str:
    return "thinking tokens" if found["token_basis"] == "reasoning_tokens" else "tokens"


def _notes(found: Mapping[str, Any]) -> list[str]:
    lines = [*_worth(found), *_machines(found)]
    if found["cost_basis"]:
        lines.append(_BASES[found["cost_basis"]])
    if found["missing"]:
        lines.append(f"No dollars: {', '.join(found['missing'])} is unknown. Give --price-out, or --prices.")
    if found["audit_rate"]:
        lines.append(f"Audits of {_share(found['audit_rate'])} of the calls are paid for.")
    if found["run_usd"] is not None:
        lines.append(f"The evaluation itself cost {_usd(found['run_usd'])}, which the period pays for.")
    if found["modelled"]:
        lines.append("Waiting is modelled from a speed profile, not measured.")
    if found["policy"] == found["recommended"]:
        lines.append(
            "The run picked this policy on the same questions, which flatters it: confirm on fresh ones."
        )
    return lines


def _worth(found: Mapping[str, Any]) -> list[str]:
    """Say what a wrong answer may cost before the budget stops paying."""
    value = found["usd_per_wrong_answer"]
    if value is None:
        return []
    lines = []
    if value["point"] is not None:
        lines.append(f"It saves {_usd(value['point'])} per additional wrong answer, as seen.")
    if value["low"] is not None:
        lines.append(
            f"At the unfavourable ends of both intervals it saves {_usd(value['low'])} per additional wrong "
            "answer: where one costs you less than that, the budget pays."
        )
    return lines


def _machines(found: Mapping[str, Any]) -> list[str]:
    machines = found["machines"]
    if machines is None:
        return []
    rates, hours = machines["requests_per_hour"], machines["hours_per_day"]
    counts = machines["machines"]
    lines = [
        f"Machines like the run's, at its concurrency: {rates['full']:,.0f} requests an hour in full, "
        f"{rates['policy']:,.0f} with the budget; {_both(hours['full'], ',.3g')} against "
        f"{_both(hours['policy'], ',.3g')} machine-hours a day, {_both(counts['full'])} against "
        f"{_both(counts['policy'])} machines if the day were even."
    ]
    if machines["usd_saved_per_day"] is not None:
        low, high = sorted(machines["usd_saved_per_day"])
        saved = _usd(low) if low == high else f"{_usd(low)} to {_usd(high)}"
        lines.append(f"At --usd-per-hour that saves {saved} a day, in the place of the dollars above.")
    return lines


def _both(values: list[float], form: str = "") -> str:
    low, high = (format(value, form) for value in values)
    return low if low == high else f"{low} to {high}"


def _range(values: Mapping[str, float], form: Any) -> str:
    return f"{form(values['point'])} ({form(values['low'])} to {form(values['high'])})"


def _usd(value: float) -> str:
    sign, size = "-" if value < 0 else "", abs(value)
    return f"{sign}${size:,.2f}" if size >= 1 or size == 0 else f"{sign}${size:.2g}"


def _waiting(seconds: float) -> str:
    return f"{seconds:.3g} s"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h"


def _count(value: float) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:,.1f} million"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
