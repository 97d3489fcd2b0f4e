"""Whether routes keep their latency targets and spending limits, from outcome files.

Time is that to the end of the answer, as ``target_p95_s`` means it. A call that failed, or came back without
an answer, has taken for ever: failing fast must not look fast. A stream that its caller closed ended for them
there. An audit is no call of a user: it costs, and nobody waits for it. The drafts of a turn on a ladder are
one call, from the beginning of the first to the end of the accepted one; where none brought an answer at all
the turn has failed.

The p95 is an order statistic, and its interval needs no distribution: it takes two order statistics whose
ranks come from the binomial distribution (David and Nagaraja 2003, Order Statistics, section 7.1). It takes
calls to be independent, which those of one outage are not. Its lower end lies above the target exactly where
a one-sided binomial test (at 2.5 %) says that more than 5 % of the calls are over.

The burn rate is the share of calls over target divided by the 5 % that may be: at 1 the error budget is used
up exactly, at 20 every call is over. A burn over a long window says that it matters, the same over a short
one that it still goes on (Beyer et al. 2018, The Site Reliability Workbook, chapter 5, "Alerting on SLOs",
which alerts on both together).

Memory: 32 bytes per call, 8 more for one with a deadline, and nothing else that grows with their number.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from budgetctl.config.sections import RouteSettings
from budgetctl.slo.account import OBJECTIVE, route_row
from budgetctl.slo.traffic import Collected

__all__ = ["OBJECTIVE", "Collected", "summary"]


def summary(collected: Collected) -> dict[str, Any]:
    """Return what was found as plain JSON values; docs/slo.md has the keys."""
    collected.end()
    seen = [traffic.when for traffic in collected.traffic.values() if len(traffic.when)]
    until = max((max(when) for when in seen), default=None)
    rows = [
        route_row(name, collected.routes.get(name or "", RouteSettings()), traffic, until=until)
        for name, traffic in collected.traffic.items()
        if name in collected.routes or traffic.seen
    ]
    return {
        "since": None if collected.since is None else collected.since.isoformat(),
        "from": _iso(min((min(when) for when in seen), default=None)),
        "until": _iso(until),
        "objective": OBJECTIVE,
        "routes": rows,
        "unknown_routes": list(collected.unknown_routes),
        "burning": [row["route"] for row in rows if row["burns"]],
    }


def _iso(when: float | None) -> str | None:
    return None if when is None else datetime.fromtimestamp(when, UTC).isoformat()
