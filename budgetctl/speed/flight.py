"""One call as its endpoint's speed sees it: counted while it is in flight, and learned from at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from budgetctl.speed.place import Place
    from budgetctl.speed.speeds import Speeds


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request of a call that has ended.

    Attributes:
        ttft_s: Seconds from its sending to its first token; None where the response came whole.
        tokens: Tokens it generated, reasoning included.
        seconds: Seconds from its sending to its last token.
        concurrency: Calls in flight when it was sent, its own included; None is as many as at the start.
    """

    ttft_s: float | None
    tokens: int
    seconds: float
    concurrency: int | None = None


class Flight:
    """A call in flight. Made by :meth:`Speeds.enter`."""

    def __init__(
        self, speeds: Speeds, *, endpoint: str, model: str, requests: int, flying: dict[int, None]
    ) -> None:
        self._speeds = speeds
        self._key = (endpoint, model)
        self._requests = requests
        self._flying = flying
        # Additions to a dict and removals from it are atomic, and take no lock that a collection could be
        # waiting for: this object may be dropped at any time.
        flying[id(self)] = None
        self._began_with = self.concurrency
        self._pace = speeds.pace(*self._key, concurrency=self._began_with)
        self._cut: tuple[float, float] | None = None

    def __del__(self) -> None:
        self.land()

    def land(self) -> None:
        """Count the call as ended; doing so twice is allowed."""
        self._flying.pop(id(self), None)

    @property
    def concurrency(self) -> int:
        """Calls in flight at this endpoint now, this one included."""
        return max(1, len(self._flying))

    def tail_s(self, tokens: float, *, s_per_token: float | None, ttft_s: float | None) -> float:
        """Return the seconds to keep from the end of the thought to that of the call, margin included.

        Args:
            tokens: Tokens of the answer.
            s_per_token: Seconds per token of the call's own stream; None takes what is known of others.
            ttft_s: Seconds to its own first token, for the request that writes the answer where nothing is
                known of others.
        """
        margin = self._speeds.at(*self._key, lambda place: place.tail_margin)
        return margin * self._tail_s(tokens, s_per_token=s_per_token, ttft_s=ttft_s)

    def _tail_s(self, tokens: float, *, s_per_token: float | None, ttft_s: float | None) -> float:
        pace = self._speeds.pace(*self._key, concurrency=self.concurrency)
        if pace is not None:
            s_per_token = pace.s_per_token if s_per_token is None else s_per_token
            ttft_s = pace.ttft_s
        return (self._requests - 1) * (ttft_s or 0.0) + tokens * (s_per_token or 0.0)

    def cut(
        self, elapsed_s: float, tokens: float, *, s_per_token: float | None, ttft_s: float | None
    ) -> None:
        """Note that thinking is being ended now, to see at the end how long the rest took."""
        self._cut = (elapsed_s, self._tail_s(tokens, s_per_token=s_per_token, ttft_s=ttft_s))

    def learn(self, requests: Sequence[Request]) -> None:
        """Learn how fast the requests of the call were."""
        for r in requests:
            self._speeds.observe(
                *self._key,
                ttft_s=r.ttft_s,
                tokens=r.tokens,
                seconds=r.seconds,
                concurrency=self._began_with if r.concurrency is None else r.concurrency,
            )

    def ended(self, e2e_s: float, *, deadline_s: float | None) -> None:
        """Compare the call with what was foreseen; only for one that has ended by itself.

        Args:
            e2e_s: Seconds from its start to its end.
            deadline_s: Seconds that it was given; None is no deadline.
        """

        def compare(place: Place) -> None:
            if deadline_s is not None:
                margin = 1.0 if self._pace is None else self._pace.margin
                place.deadline(e2e_s, deadline_s, margin=margin)
            if self._cut is not None:
                at, forecast = self._cut
                place.tail(e2e_s - at, forecast)

        self._speeds.at(*self._key, compare)
