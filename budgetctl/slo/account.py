"""What the traffic of one route comes to: p95 with its interval, burn, where the time went, what it costs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budgetctl.config.sections import RouteSettings
from budgetctl.slo.traffic import Traffic

Floats = NDArray[np.float64]

OBJECTIVE = 0.95
LEVEL = 0.95
DAY = 86400.0
WINDOWS = {"span": math.inf, "day": DAY, "hour": 3600.0}
DAYS_PER_MONTH = 365.25 / 12
_FAR = 12.0
"""Standard deviations from the mean beyond which the binomial distribution has nothing left to add."""


def order_interval(ordered: Floats, *, q: float = OBJECTIVE) -> tuple[float | None, float | None]:
    """Return a distribution-free 95 % interval of the q quantile from two order statistics.

    The r-th smallest of n values is a lower end where ``P(Bin(n, q) < r) <= 0.025`` and an upper end where
    ``P(Bin(n, q) >= r) <= 0.025``.

    Args:
        ordered: Shape (n,): the values from the smallest on.

    Returns:
        Both ends; None for one that n values are too few for.
    """
    n = len(ordered)
    if not n:
        return None, None
    reach = _FAR * math.sqrt(n * q * (1 - q)) + _FAR
    k = np.arange(max(0, math.floor(n * q - reach)), min(n, math.ceil(n * q + reach)) + 1)
    # P(k + 1) / P(k) = (n - k) / (k + 1) * q / (1 - q)
    steps = np.log((n - k[:-1]) / (k[:-1] + 1) * (q / (1 - q)))
    logs = np.concatenate([[0.0], np.cumsum(steps)])
    mass = np.exp(logs - logs.max())
    below = np.concatenate([[0.0], np.cumsum(mass)[:-1]]) / mass.sum()  # P(Bin < k)
    rank = k >= 1
    low, high = k[rank & (below <= (1 - LEVEL) / 2)], k[rank & (below >= (1 + LEVEL) / 2)]
    return (
        float(ordered[low[-1] - 1]) if len(low) else None,
        float(ordered[high[0] - 1]) if len(high) else None,
    )


def calls_needed(q: float = OBJECTIVE, *, tail: float = (1 - LEVEL) / 2) -> int:
    """Return how many calls bound the q quantile from above: the least n with ``q^n <= tail``."""
    return math.ceil(math.log(tail) / math.log(q))


POINT_NEEDS = calls_needed(tail=1 - LEVEL)
INTERVAL_NEEDS = calls_needed()


def route_row(
    name: str | None, settings: RouteSettings, traffic: Traffic, *, until: float | None
) -> dict[str, Any]:
    """Return everything about one route; ``until`` is when the newest call of any route ended."""
    target, limit = settings.target_p95_s, settings.usd_per_month
    seconds = np.asarray(traffic.seconds)
    timed = ~np.isnan(seconds)
    ordered = np.sort(seconds[timed])
    n = len(ordered)
    low, high = order_interval(ordered)
    cost = _cost(traffic, until=until)
    over_p95 = target is not None and low is not None and low > target
    over_usd = limit is not None and (cost["month_usd"] or 0.0) > limit
    return {
        "route": name,
        "owner": settings.owner,
        "target_p95_s": target,
        "usd_per_month": limit,
        "calls": len(seconds),
        "calls_untimed": len(seconds) - n,
        "answered_share": traffic.answered / traffic.answer_known if traffic.answer_known else None,
        "p95_s": _finite(_quantile(ordered)) if n >= POINT_NEEDS else None,
        "p95_ci": [_finite(low), _finite(high)],
        "calls_needed": INTERVAL_NEEDS if n < INTERVAL_NEEDS else None,
        "latency": _latency(low, high, target=target),
        "deadlines": _deadlines(traffic),
        "burn": None if target is None else _burn(traffic, target=target, until=until),
        "time": _split(traffic, over=0.0),
        "over": None if target is None else _split(traffic, over=target),
        **_lever(traffic, target=target),
        "cost": cost,
        "burns": [what for what, burns in (("latency", over_p95), ("spend", over_usd)) if burns],
    }


def _deadlines(traffic: Traffic) -> dict[str, Any] | None:
    """Say how calls with a deadline kept it; None without any."""
    ratios = np.sort(np.asarray(traffic.deadlines))
    if not len(ratios):
        return None
    return {
        "calls": len(ratios),
        "kept": float((ratios <= 1).mean()),
        "p95": _finite(_quantile(ratios)),
    }


def _latency(low: float | None, high: float | None, *, target: float | None) -> str | None:
    """Hold the interval of the p95 against the target; None without a target or calls."""
    if target is None or low is None:
        return None
    if low > target:
        return "over"
    return "within" if high is not None and high <= target else "unsure"


def _burn(traffic: Traffic, *, target: float, until: float | None) -> dict[str, Any]:
    """Return the burn rate over the span, the last day and the last hour."""
    when, seconds = np.asarray(traffic.when), np.asarray(traffic.seconds)
    found: dict[str, Any] = {}
    for name, window in WINDOWS.items():
        inside = ~np.isnan(seconds) & (when > (until or 0.0) - window)
        calls, over = int(inside.sum()), int((seconds[inside] > target).sum())
        share = over / calls if calls else None
        rate = None if share is None else share / (1 - OBJECTIVE)
        found[name] = {"calls": calls, "over": over, "share": share, "rate": rate}
    return found


def _split(traffic: Traffic, *, over: float) -> dict[str, Any]:
    """Say what the time of answered calls that took longer than ``over`` went into, as shares of it."""
    seconds, first, thinking = (
        np.asarray(a) for a in (traffic.seconds, traffic.first_token, traffic.thinking)
    )
    chosen = seconds > over
    known = chosen & np.isfinite(seconds) & ~np.isnan(first) & ~np.isnan(thinking)
    total, waited, thought = (float(part[known].sum()) for part in (seconds, first, thinking))
    parts = {"first_token": waited, "thinking": thought, "answer": total - waited - thought}
    return {
        "calls": int(chosen.sum()),
        "calls_split": int(known.sum()),
        **{name: part / total if total else None for name, part in parts.items()},
    }


def _lever(traffic: Traffic, *, target: float | None) -> dict[str, Any]:
    """Say whether shorter thinking would bring the route within its target, by arithmetic on each call.

    A call needs its thinking cut by ``(seconds - target) / thinking``. The route needs the cut that is enough
    for 95 % of its calls.
    """
    seconds, thinking = np.asarray(traffic.seconds), np.asarray(traffic.thinking)
    timed = ~np.isnan(seconds)
    seconds, thinking = seconds[timed], thinking[timed]
    if target is None or not len(seconds):
        return {"thinking_cut": None, "lever": None}
    cuts = np.full(len(seconds), math.inf)
    cuts[seconds <= target] = 0.0
    thought = (seconds > target) & np.isfinite(seconds) & (thinking > 0)
    cuts[thought] = (seconds[thought] - target) / thinking[thought]
    cut = _quantile(np.sort(cuts))
    if cut <= 1:
        return {"thinking_cut": cut, "lever": "thinking" if cut else None}
    if np.isinf(seconds).mean() > 1 - OBJECTIVE:
        return {"thinking_cut": None, "lever": "unanswered"}
    if np.mean((cuts > 1) & ~np.isnan(thinking) | np.isinf(seconds)) <= 1 - OBJECTIVE:
        return {"thinking_cut": None, "lever": "unknown"}
    parts = _split(traffic, over=target)
    return {"thinking_cut": None, "lever": max(("first_token", "answer"), key=lambda part: parts[part] or 0)}


def _cost(traffic: Traffic, *, until: float | None) -> dict[str, Any]:
    """Return what the route spent, and what that comes to in a month where there is a day of it or more."""
    usd = traffic.usd if traffic.costs_known else None
    days = None if until is None or until < traffic.first else (until - traffic.first) / DAY
    known = usd is not None and days is not None and days >= 1
    return {
        "usd": usd,
        "usd_extra": None if usd is None else traffic.usd_extra,
        "calls_unknown": traffic.costs_unknown,
        "days": days,
        "month_usd": traffic.usd / days * DAYS_PER_MONTH if known and days else None,
    }


def _quantile(ordered: Floats) -> float:
    # The tiny slack keeps 0.95 * 100 = 95.00000000000001 from becoming rank 96.
    return float(ordered[math.ceil(OBJECTIVE * len(ordered) - 1e-9) - 1])


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
