"""One call's account with a ledger: what it costs at most, the cheaper ways of making it, and its bill."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from budgetctl.adapters.base import ABORT_CONTINUE, DEADLINE, LIVE_END, STOP
from budgetctl.errors import ConfigError, LedgerUnavailable, LimitExceeded, brief
from budgetctl.ledger import Ledger, MemoryStore, Reservation, WorstCase
from budgetctl.policy import CAPS, Situation, at_most, expect
from budgetctl.stopping.criteria import with_grace
from budgetctl.types import Budget, Decision, Usage, tighter

if TYPE_CHECKING:
    from budgetctl.adapters import Rendered
    from budgetctl.pricing import Prices
    from budgetctl.session import Session

logger = logging.getLogger("budgetctl")

_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens", "max_new_tokens")
"""Names of the output limit in the dialects."""

_NO_CAPS = frozenset({DEADLINE, LIVE_END, STOP})
"""Controls that end a thought, and not at a number of tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payer:
    """Whose limits a call has to keep."""

    key: str | None = None
    route: str | None = None
    tenant: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way of making a call."""

    decision: Decision
    rendered: Rendered
    worst: WorstCase


class Charge:
    """What one call reserves and is charged. Its methods block where the ledger's store does.

    Args:
        ledger: Keeps the limits.
        payer: Whose.
        ways: The ways of making the call, the decided one first.
        prices: What models cost.
        enforce: A limit without room refuses the call; otherwise that is only noted.

    Attributes:
        note: What a limit would have done, where none is enforced.
        payer: Whose.
    """

    def __init__(
        self, ledger: Ledger, *, payer: Payer, ways: Sequence[Way], prices: Prices, enforce: bool
    ) -> None:
        self.ways = tuple(ways)
        self.note: str | None = None
        self._ledger = ledger
        self.payer = payer
        self._prices = prices
        self._enforce = enforce
        self._held: Reservation | None = None
        self._closed = False
        self._lock = threading.Lock()

    @property
    def waits(self) -> bool:
        """Whether the store is on the other side of a network."""
        return not isinstance(self._ledger.store, MemoryStore)

    def reserve(self) -> Way:
        """Reserve the first way that fits and return it.

        Raises:
            LimitExceeded: A limit has no room.
            LedgerUnavailable: The store did not answer.
            ConfigError: What the call may cost is not known.
        """
        held = self._asked() if self._enforce else self._observed()
        with self._lock:
            late = self._closed
            self._held = None if late else held
        if late and held is not None:  # whom it was for is gone
            _quietly(held.release)
        return self.ways[0 if held is None else held.rung]

    def _asked(self, *, enforce: bool = True) -> Reservation:
        try:
            return self._ledger.reserve(
                [way.worst for way in self.ways],
                enforce=enforce,
                prices=self._prices,
                key=self.payer.key,
                route=self.payer.route,
                tenant=self.payer.tenant,
            )
        except (LimitExceeded, ConfigError):
            raise
        except Exception as error:
            raise LedgerUnavailable(
                f"the spending limits could not be read ({brief(error)}: {error}), so the call was not made"
            ) from error

    def _observed(self) -> Reservation | None:
        """Reserve without refusing anything; what would have been refused is noted."""
        try:
            try:
                return self._asked()
            except LimitExceeded as error:
                self.note = f"{error}: it would have been refused"
                return self._asked(enforce=False)
        except (ConfigError, LedgerUnavailable) as error:
            self.note = f"not counted under any limit: {error}"
            return None

    def settle(self, usage: Usage | None, cost: float | None, *, error: BaseException | None = None) -> None:
        """Charge what was used; what is unknown of it is charged as it was reserved. Never fails.

        Args:
            usage: Tokens; None is unknown.
            cost: Dollars; None works them out from the usage.
            error: What ended the call, which is given back where it cannot have cost anything.
        """
        if error is not None and not _generated(usage) and not _was_made(error):
            self.release()
            return
        held = self._close()
        if held is None:
            return
        try:
            _quietly(lambda: held.settle(usage, cost))
        except ConfigError as failed:  # counts of a server's that cannot be
            logger.warning("a call is charged as it was reserved: %s", failed)
            _quietly(held.settle)

    def release(self) -> None:
        """Give everything back: nothing was used. Never fails."""
        held = self._close()
        if held is not None:
            _quietly(held.release)

    def _close(self) -> Reservation | None:
        with self._lock:
            self._closed = True
            return self._held


def _quietly(send: Callable[[], Any]) -> None:
    try:
        send()
    except ConfigError:
        raise
    except Exception as error:
        logger.warning("what a call has spent is not counted yet: %s", brief(error))


def _generated(usage: Usage | None) -> bool:
    return usage is not None and bool(usage.output_tokens or usage.reasoning_tokens or usage.answer_tokens)


def _was_made(error: BaseException) -> bool:
    """Whether a call that ended so may have cost something: not where the provider refused it or was away."""
    if isinstance(error, ConfigError | LedgerUnavailable | LimitExceeded):
        return False
    status = getattr(error, "status_code", getattr(error, "code", None))  # Google's calls it a code
    refused = isinstance(status, int) and status >= 400
    cause = error.__cause__ or error
    return not refused and type(cause).__name__ not in ("ConnectError", "ConnectTimeout", "PoolTimeout")


def charge(
    session: Session, *, payer: Payer, rendered: Rendered, write: Callable[[Budget], Rendered]
) -> Charge | None:
    """Return the account of a call with its controller's ledger; None where no limit is for it.

    Args:
        session: The call, as it was decided.
        payer: Whose limits.
        rendered: What was rendered of the decision, also where it is only observed.
        write: Renders another budget.
    """
    ledger = session.controller.ledger
    assert ledger is not None
    limits = ledger.limits(key=payer.key, route=payer.route, tenant=payer.tenant)
    if not limits:
        return None
    budget, sent = session.budget, rendered if session.enforcing else write(session.budget)
    worst = _worst(session, budget, sent, limited=True)
    ways = [Way(decision=session.decision, rendered=rendered, worst=worst)]
    cheaper = [limit.name for limit in limits if limit.exceeded == "cheaper"]
    if session.enforcing and cheaper:
        names = " or ".join(repr(name) for name in cheaper)
        ways += _cheaper(session, f"limit {names}", write, least=worst.output_tokens)
    prices = session.controller.prices
    return Charge(ledger, payer=payer, ways=ways, prices=prices, enforce=session.enforcing)


def _cheaper(
    session: Session, limit: str, write: Callable[[Budget], Rendered], *, least: int
) -> Iterator[Way]:
    """Yield the same call with less and less thinking, as far as the model can be held to it.

    Args:
        limit: Names what demands it.
        least: Output tokens of the call as it was decided.
    """
    decision = session.decision
    decided, situation = decision.budget, _situation(session)
    caps = [c for c in reversed(CAPS) if decided.reasoning_tokens is None or c < decided.reasoning_tokens]
    for cap in [*caps, 0]:
        why = f"{limit}: at most {cap:,} tokens of thinking" if cap else f"{limit}: no thinking"
        budget = tighter(decided, at_most(cap, why, stop=decided.stop, situation=situation))
        rendered = write(budget)
        if not _keeps(budget, rendered):
            continue
        worst = _worst(session, budget, rendered, limited=False)
        if worst.output_tokens < least:
            least = worst.output_tokens
            yield Way(decision=_changed(decision, budget, situation), rendered=rendered, worst=worst)


def _situation(session: Session) -> Situation:
    decision = session.decision
    return Situation(
        query=session.query,
        estimate=decision.estimate if decision.fallback is None else None,
        facts=session.capability.facts(),
    )


def _changed(decision: Decision, budget: Budget, situation: Situation) -> Decision:
    """Return the decision with another budget, which no certificate covers and no audit is of."""
    void = decision.certificate_void_reason
    if decision.certificate is not None:
        void = "a spending limit made the call a cheaper one"
    return replace(
        decision,
        budget=budget,
        reasons=(*decision.reasons, *(r for r in budget.reasons if r not in decision.reasons)),
        expected=expect(budget, situation),
        certificate=None,
        certificate_void_reason=void,
        audit=False,
    )


def _keeps(budget: Budget, rendered: Rendered) -> bool:
    """Whether a call is held to its cap, or its thinking is off, by more than a wish."""
    missing = {"cap", "off", f"cap:{budget.reasoning_tokens}"} & set(rendered.unsupported)
    acting = {"hard", "advisory"} if budget.off else {"hard"}
    carried = [c for c in rendered.controls if c.name not in _NO_CAPS and c.strength in acting]
    return not missing and bool(carried)


def _worst(session: Session, budget: Budget, rendered: Rendered, *, limited: bool) -> WorstCase:
    """Return the worst case of a rendered call.

    Args:
        limited: It is the decided one: where an output limit is sent, that is what it may use. A cheaper one
            is cheaper by its cap.
    """
    said, capability = _flat(rendered.params), session.capability
    limit = next((n for name in _LIMITS if type(n := said.get(name)) is int and n > 0), None)
    if budget.reasoning_tokens is not None and not _keeps(budget, rendered):
        budget = replace(budget, reasoning_tokens=None)  # nobody keeps it
    natural, certain = capability.natural_p99, limit if limited else None
    if certain is None and budget.reasoning_tokens is None and natural is None:
        assert session.controller.ledger is not None
        certain = session.controller.ledger.settings.worst_output_tokens
    of = WorstCase.of(
        session.query,
        budget,
        output_limit=certain,
        natural_tokens=natural,
        answer_tokens=capability.answer_tokens,
    )
    output = of.output_tokens if limit is None else min(of.output_tokens, limit)
    choices = said.get("n") or said.get("candidate_count") or 1
    prompt = of.prompt_tokens
    if any(control.name == ABORT_CONTINUE for control in rendered.controls):
        # The thought is cut here, and comes back as the prompt of a second request.
        # So does an answer that an output limit of ours cuts off.
        ours = any(control.name == capability.output_limit for control in rendered.controls)
        prompt = 2 * prompt + (output if ours else with_grace(budget.reasoning_tokens or 0))
    return replace(
        of,
        prompt_tokens=prompt,
        output_tokens=output * (choices if isinstance(choices, int) else 1),
        place=session.place,
    )


def _flat(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a call says, also in ``extra_body`` and in Google's ``config``."""
    inner = (params.get("config"), params.get("extra_body"))
    return {**params, **{k: v for table in inner if isinstance(table, Mapping) for k, v in table.items()}}
