"""What a measured run comes to at a forecast of traffic: dollars, seconds of waiting, and wrong answers.

What one request saves is the mean over questions of (full thinking - policy), with the 95 % interval of the
paired bootstrap of :mod:`~budgetctl.evals.stats`. Probes, continuations and trial answers are within the
run's own tokens, times and costs. The loss of accuracy and its interval are those of the run's summary.

A range over traffic takes the ends of the interval with the ends of the forecast, whichever is the least and
the most: wider than 95 %, never narrower. The middle is what was seen, at the middle of the forecast.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from budgetctl.evals import calls, report, stats
from budgetctl.evals.cascade import is_cascade
from budgetctl.evals.metrics import FULL, PolicyRow
from budgetctl.evals.report import Report
from budgetctl.evals.results import Floats, Paired, Result, column, pair
from budgetctl.evals.serving import known

from budgetctl.errors import EvalError
from budgetctl.policy import parse
from budgetctl.pricing import Prices
from budgetctl.types import Usage

DAYS_PER_MONTH = 365.25 / 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A number with what it may be at least and at most."""

    low: float
    point: float
    high: float

    def times(self, low: float, high: float) -> Range:
        """Multiply by a range of positive numbers, whose point is its middle."""
        ends = [a * b for a in (self.low, self.high) for b in (low, high)]
        return Range(low=min(ends), point=self.point * (low + high) / 2, high=max(ends))

    def minus(self, amount: float) -> Range:
        """Subtract the same amount from all three."""
        return Range(low=self.low - amount, point=self.point - amount, high=self.high - amount)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """A forecast.

    Attributes:
        low: Fewest requests per day in the first month.
        high: Most.
        growth: Share by which each month has more than the one before.
        months: How many months.
    """

    low: float
    high: float
    growth: float = 0.0
    months: int = 12

    @property
    def days(self) -> float:
        """What all months have of the requests of a day of the first one."""
        return DAYS_PER_MONTH * sum((1 + self.growth) ** month for month in range(self.months))


def returns(
    folder: str | os.PathLike[str],
    *,
    traffic: Traffic,
    policy: str | None = None,
    price_out: float | None = None,
    prices: Prices | None = None,
    usd_per_hour: float | None = None,
    audit_rate: float = 0.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Return what a policy brings against full thinking, as plain JSON values; docs/slo.md has the keys.

    Args:
        folder: The folder of a finished evaluation.
        traffic: The forecast.
        policy: The policy; None takes what the run recommends, and where that is nothing, gives no figures.
        price_out: Dollars per million generated tokens, in the place of what was recorded.
        prices: List prices for runs that recorded no cost.
        usd_per_hour: What one machine like the run's costs.
        audit_rate: Share of the calls that is audited: each is a call at full thinking more.
        seed: Seed of the resampling.

    Raises:
        EvalError: The folder holds no finished evaluation, or none of that policy.
        ConfigError: The policy does not parse.
    """
    run, found = report.read(folder), calls.load(folder)
    name = run.verdict.recommended if policy is None else policy if policy in found else str(parse(policy))
    head = {
        "run": str(folder),
        "policy": name,
        "recommended": run.verdict.recommended,
        "choice": run.verdict.choice,
        "verdict": run.verdict.text,
        "n": run.evaluation.n,
        "traffic": asdict(traffic),
    }
    if name is None:
        return head
    row, full = _rows(run, found, name)
    paired = pair(
        {FULL: found[FULL], name: found[name]}, cluster_by=run.settings.get("cluster_by", "question")
    )
    costs, basis, missing = _costs(paired.runs, price_out=price_out, prices=prices)
    per_request = _saved(paired, costs=costs, tokens=row.token_basis, audit_rate=audit_rate, seed=seed)
    per_request["wrong_answers"] = _wrong(row)
    per_day = {kind: one.times(traffic.low, traffic.high) for kind, one in per_request.items()}
    in_period = {kind: one.times(traffic.days, traffic.days) for kind, one in per_day.items()}
    run_usd = _run_usd(run, found)
    if "usd" in in_period and run_usd is not None:
        in_period["usd"] = in_period["usd"].minus(run_usd)
    return head | {
        "per_request": _shown(per_request),
        "per_day": _shown(per_day),
        "in_period": _shown(in_period),
        "usd_per_wrong_answer": _break_even(per_request.get("usd"), per_request["wrong_answers"]),
        "audit_rate": audit_rate,
        "run_usd": run_usd,
        "machines": _machines(row, full, traffic, usd_per_hour=usd_per_hour),
        "token_basis": row.token_basis,
        "cost_basis": basis,
        "missing": missing,
        "modelled": ["seconds"] if any(field.startswith("e2e") for field in row.modelled) else [],
    }


def folder_of(path: str | os.PathLike[str]) -> Path:
    """Return the run folder that a path names: the folder, or one of the files in it."""
    given = Path(path)
    return given.parent if given.is_file() else given


def _rows(run: Report, found: Mapping[str, Sequence[Result]], name: str) -> tuple[PolicyRow, PolicyRow]:
    row, full = run.evaluation.row(name), run.evaluation.row(FULL)
    if name == FULL or row is None or full is None or name not in found or FULL not in found:
        others = ", ".join(one for one in found if one != FULL)
        raise EvalError(f"policy {name!r}: nothing to hold against full thinking here; allowed: {others}")
    return row, full


def _costs(
    runs: Mapping[str, Sequence[Result]], *, price_out: float | None, prices: Prices | None
) -> tuple[Mapping[str, Floats] | None, str | None, list[str]]:
    """Return the dollars of every call, where they are from, and what is missing to know them.

    A prompt costs the same under both policies: where no cost was recorded, generated tokens are charged.
    """
    if price_out is None:
        recorded = {name: column(results, "cost_usd") for name, results in runs.items()}
        if all(known(costs) is not None for costs in recorded.values()):
            return recorded, "recorded", []
    if any(is_cascade(name) and "@" in name for name in runs):
        return None, None, ["the recorded cost of each call, which a cascade over several models takes,"]
    given = None if price_out is None else {"*": {"input": 0.0, "output": price_out}}
    table = Prices.load(given) if given or prices is None else prices
    costs = {name: np.array([_generated(r, table) for r in results]) for name, results in runs.items()}
    if all(known(one) is not None for one in costs.values()):
        return costs, "list" if given is None else "given", []
    models = sorted({r.model for results in runs.values() for r in results if table.lookup(r.model) is None})
    lacking = [f"the price of {model or 'a model without a name'}" for model in models]
    return None, None, lacking or ["the generated tokens of some calls"]


def _generated(call: Result, prices: Prices) -> float:
    total, thinking = call.output_tokens, call.reasoning_tokens
    answer = None if total is None or thinking is None else total - thinking
    usage = Usage(prompt_tokens=0, reasoning_tokens=thinking, answer_tokens=answer, output_tokens=total)
    cost = prices.cost(call.model, usage)
    return math.nan if cost is None else cost


def _saved(
    paired: Paired, *, costs: Mapping[str, Floats] | None, tokens: str | None, audit_rate: float, seed: int
) -> dict[str, Range]:
    """Return what one request saves, by kind; what is not known of every call is left out."""
    columns = {
        "usd": costs,
        "seconds": {name: column(results, "e2e_s") for name, results in paired.runs.items()},
        "tokens": tokens and {name: column(results, tokens) for name, results in paired.runs.items()},
    }
    differences: dict[str, Floats] = {}
    for kind, values in columns.items():
        full, policy = [paired.by_question(of_run) for of_run in values.values()] if values else (None, None)
        if full is not None and policy is not None:
            differences[kind] = full - policy - (audit_rate * full if kind != "seconds" else 0.0)
    if not differences:
        return {}
    rng = np.random.default_rng(seed)
    draws = stats.bootstrap_columns(list(differences.values()), rng=rng, groups=paired.groups)
    found = {}
    for i, (kind, difference) in enumerate(differences.items()):
        low, high = stats.interval(draws[:, i])
        found[kind] = Range(low=low, point=float(difference.mean()), high=high)
    return found


def _wrong(row: PolicyRow) -> Range:
    """Return how many more answers per request are wrong than at full thinking."""
    assert row.delta_accuracy is not None
    assert row.delta_ci is not None
    low, high = row.delta_ci
    return Range(low=0.0 - high, point=0.0 - row.delta_accuracy, high=0.0 - low)


def _break_even(usd: Range | None, wrong: Range) -> dict[str, float | None] | None:
    """Return the dollars saved per additional wrong answer: the budget pays where one costs less than that.

    ``low`` holds the least saving against the most wrong answers, ``high`` the most against the fewest; None
    where no wrong answer more was seen, or need be assumed.
    """
    if usd is None:
        return None
    pairs = {"low": (usd.low, wrong.high), "point": (usd.point, wrong.point), "high": (usd.high, wrong.low)}
    return {end: max(0.0, saved / more) if more > 0 else None for end, (saved, more) in pairs.items()}


def _run_usd(run: Report, found: Mapping[str, Sequence[Result]]) -> float | None:
    """Return what the evaluation itself cost; None where it is unknown, or a replay."""
    costs = known(np.concatenate([column(results, "cost_usd") for results in found.values()]))
    return None if costs is None or run.settings.get("kind") != "live" else float(costs.sum())


def _machines(
    row: PolicyRow, full: PolicyRow, traffic: Traffic, *, usd_per_hour: float | None
) -> dict[str, Any] | None:
    """Return machine-hours per day; None where throughput was not measured."""
    if row.requests_per_hour is None or full.requests_per_hour is None:
        return None
    rates = {"full": full.requests_per_hour, "policy": row.requests_per_hour}
    hours = {name: [n / rate for n in (traffic.low, traffic.high)] for name, rate in rates.items()}
    saved = [a - b for a, b in zip(hours["full"], hours["policy"], strict=True)]
    return {
        "requests_per_hour": rates,
        "hours_per_day": hours,
        "machines": {name: [math.ceil(one / 24) for one in both] for name, both in hours.items()},
        "usd_saved_per_day": None if usd_per_hour is None else [one * usd_per_hour for one in saved],
    }


def _shown(ranges: Mapping[str, Range]) -> dict[str, dict[str, float] | None]:
    kinds = ("usd", "seconds", "tokens", "wrong_answers")
    return {kind: asdict(ranges[kind]) if kind in ranges else None for kind in kinds}
