"""Collecting what outcomes say of routes: a few numbers per call, and sums."""

from __future__ import annotations

import math
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from budgetctl.config.sections import RouteSettings
from budgetctl.logs import thinking_s
from budgetctl.outcomes import Feedback, Outcome, UsageRow
from budgetctl.types import StopReason

_NAMED_UNKNOWN = 5
_OPEN_TURNS = 10_000
_MOST = 1e12
"""Dollars or seconds that no call has."""


def _floats() -> array[float]:
    return array("d")


@dataclass(slots=True)
class Traffic:
    """What was seen of one route; of its calls the seconds, infinite without an answer, NaN where unknown.

    Attributes:
        when: When each call ended, in seconds since 1970.
        seconds: From its start to its end.
        first_token: Of them those until the first token, the drafts of a ladder included.
        thinking: Those from there to the first token of the answer.
        deadlines: Of each call that had a deadline, the seconds that it took divided by those that it had.
        answered: Calls with an answer.
        answer_known: Calls of which it is known whether they had one.
        usd: Dollars of calls, audits and drafts.
        usd_extra: Of them those of audits and of drafts that were not accepted.
        first: When the route was first there.
    """

    when: array[float] = field(default_factory=_floats)
    seconds: array[float] = field(default_factory=_floats)
    first_token: array[float] = field(default_factory=_floats)
    thinking: array[float] = field(default_factory=_floats)
    deadlines: array[float] = field(default_factory=_floats)
    answered: int = 0
    answer_known: int = 0
    usd: float = 0.0
    usd_extra: float = 0.0
    costs_known: int = 0
    costs_unknown: int = 0
    first: float = math.inf

    @property
    def seen(self) -> bool:
        """Whether there was anything to count."""
        return bool(len(self.when) or self.costs_known or self.costs_unknown)

    def add_call(
        self, when: float, *, seconds: float | None, first_token: float | None, thinking: float | None
    ) -> None:
        """Add what a user waited for."""
        self.when.append(when)
        for times, value in (
            (self.seconds, seconds),
            (self.first_token, first_token),
            (self.thinking, thinking),
        ):
            times.append(math.nan if value is None else value)

    def add_cost(self, row: Outcome, *, extra: bool) -> None:
        """Add what a call, an audit or a draft cost."""
        if row.cost_usd is not None:
            self.costs_known += 1
            self.usd += row.cost_usd
            self.usd_extra += row.cost_usd if extra else 0.0
        elif row.stop.reason is not StopReason.ERROR or _used(row.usage):
            self.costs_unknown += 1  # what failed before it used a token is not billed


def _possible(row: Outcome) -> bool:
    """Whether a call can have cost and taken what its row says."""
    said = (row.cost_usd, row.e2e_s, row.ttft_s, row.timing.ttfo_s)
    return all(value is None or 0 <= value < _MOST for value in said)


def _used(usage: UsageRow) -> bool:
    """Whether any token was reported."""
    return any(usage.model_dump(exclude={"provenance"}).values())


@dataclass(slots=True)
class _Turn:
    """A turn on a ladder.

    Attributes:
        began: When its first call began, as far as is known; a call that a hedge has left behind is recorded
            when it has ended.
        ended: When its last one ended.
        whole: A call of it brought an answer, handed on or not.
        place: Where its accepted call is in the traffic; None before there is one.
    """

    traffic: Traffic
    began: float
    ended: float
    whole: bool = False
    place: int | None = None


class Collected:
    """Adds up outcomes by route.

    Args:
        routes: The configured routes. Where there are some, calls of other names, and of none, are put
            together; where there are none, every name is a route without a target.
        since: Outcomes before it are left out.
        now: What outcomes later than it are held to be: a wrong clock must not empty the last hour.

    Attributes:
        outcomes: How many were added.
        impossible: How many were not, for a time or a cost that no call can have.
    """

    def __init__(
        self, routes: Mapping[str, RouteSettings], *, since: datetime | None = None, now: datetime
    ) -> None:
        self.routes, self.since = routes, since
        self.traffic: dict[str | None, Traffic] = {name: Traffic() for name in routes}
        self.unknown_routes: dict[str, None] = {}
        self.outcomes = self.impossible = 0
        self._now = now
        self._turns: OrderedDict[str, _Turn] = OrderedDict()

    def add(self, rows: Iterable[Outcome | Feedback]) -> None:
        """Add the rows of an outcome file."""
        for row in rows:
            if not isinstance(row, Outcome):
                continue
            if not _possible(row):  # one such row would spoil the sums of all the others
                self.impossible += 1
                continue
            self.outcomes += 1
            self._add(row)

    def end(self) -> None:
        """Count the turns on ladders that no rung has answered."""
        while self._turns:
            self._forget_turn()

    def _add(self, row: Outcome) -> None:
        traffic = self._of(row.route)
        if self.since is not None and row.time < self.since:
            traffic.first = self.since.timestamp()  # the route was there: its spend is of the whole span
            return
        when = min(row.time, self._now).timestamp()
        traffic.first = min(traffic.first, when)
        draft = row.ladder is not None and not row.ladder.accepted
        traffic.add_cost(row, extra=draft or row.parent_id is not None)
        if row.parent_id is not None:
            return
        turn = None if row.ladder is None else self._turn(row, row.ladder.id, traffic, when)
        if draft:
            return
        earlier = 0.0
        if turn is not None:
            turn.place = len(traffic.when)
            earlier = max(0.0, when - turn.began - (row.e2e_s or 0.0))
        unseen = row.stop.reason in (StopReason.CALLER, StopReason.UNKNOWN)
        lost = not row.answered and not unseen
        traffic.answer_known += row.answered or lost
        traffic.answered += row.answered
        seconds = math.inf if lost else None if row.e2e_s is None else row.e2e_s + earlier
        deadline = row.decision.deadline_s
        if deadline and seconds is not None and not unseen:
            traffic.deadlines.append(seconds / deadline)
        traffic.add_call(
            when,
            seconds=seconds,
            first_token=None if row.ttft_s is None else row.ttft_s + earlier,
            thinking=thinking_s(row),
        )

    def _of(self, route: str | None) -> Traffic:
        if self.routes and route is not None and route not in self.routes:
            if len(self.unknown_routes) < _NAMED_UNKNOWN:
                self.unknown_routes[route] = None
            route = None
        return self.traffic.setdefault(route, Traffic())

    def _turn(self, row: Outcome, name: str, traffic: Traffic, when: float) -> _Turn:
        """Return the turn that a row is of, which may be found to have begun earlier than was known."""
        began = when - (row.e2e_s or 0.0)
        turn = self._turns.setdefault(name, _Turn(traffic=traffic, began=began, ended=when))
        if turn.place is not None and began < turn.began:
            for times in (turn.traffic.seconds, turn.traffic.first_token):
                times[turn.place] += turn.began - began
        turn.began, turn.ended = min(turn.began, began), max(turn.ended, when)
        turn.whole |= row.answered
        if len(self._turns) > _OPEN_TURNS:
            self._forget_turn()
        return turn

    def _forget_turn(self) -> None:
        _, turn = self._turns.popitem(last=False)
        if turn.place is None and not turn.whole:
            turn.traffic.answer_known += 1
            turn.traffic.add_call(turn.ended, seconds=math.inf, first_token=None, thinking=None)
