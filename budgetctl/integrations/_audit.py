"""The audit of one chat call: made once its answer was delivered, and compared with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from budgetctl.audit import ASSUMED_TOKENS, Audits, Reservation
from budgetctl.engine import ChatCall, Send, SpendingCall
from budgetctl.engine.opening import status
from budgetctl.engine.spending import spending
from budgetctl.errors import LedgerUnavailable, LimitExceeded, brief
from budgetctl.integrations._shell import AsyncShell, SyncShell
from budgetctl.monitor import Spent
from budgetctl.outcomes import Outcome, UsageRow
from budgetctl.policy import ANSWER_RESERVE
from budgetctl.session import Session
from budgetctl.types import Price, StopReason

logger = logging.getLogger("budgetctl")

_LIMITS = ("max_completion_tokens", "max_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """A call that was drawn.

    Attributes:
        session: Its session.
        call: Its machine.
        again: Makes the machine that makes it once more.
    """

    audits: Audits
    session: Session
    call: ChatCall | SpendingCall
    again: Callable[[Session], ChatCall]

    def later(self, post: Callable[[Send], Any]) -> None:
        """Have it made in a thread."""
        self._queue(lambda: self.audits.background.put(lambda: self._run(post)))

    def later_task(self, post: Callable[[Send], Awaitable[Any]]) -> None:
        """Have it made on the running loop."""
        self._queue(lambda: self.audits.background.put_task(lambda: self._arun(post)))

    def _queue(self, put: Callable[[], bool]) -> None:
        try:
            if self._is_due() and not put():
                logger.info("no audit: too many are waiting")
        except Exception as error:  # nothing of this is the caller's
            logger.warning("no audit: %s", brief(error))

    def _is_due(self) -> bool:
        """Whether the call came to its end under what is audited."""
        outcome = self.call.outcome
        return (
            outcome is not None
            and outcome.stop.reason not in (StopReason.CALLER, StopReason.ERROR)
            and self.audits.covers(policy=outcome.policy, certificate=outcome.certificate)
        )

    def _run(self, post: Callable[[Send], Any]) -> None:
        begun = self._begin()
        if begun is None:
            return
        call, reserved = begun
        try:
            for _ in SyncShell(call, post).start():
                pass
        except Exception as error:
            self._failed(reserved, error)
        else:
            self._end(call, reserved)

    async def _arun(self, post: Callable[[Send], Awaitable[Any]]) -> None:
        begun = await asyncio.to_thread(self._begin)  # the journal may be locked by another process
        if begun is None:
            return
        call, reserved = begun
        try:
            async for _ in await AsyncShell(call, post).start():
                pass
        except Exception as error:
            await asyncio.to_thread(self._failed, reserved, error)
        else:
            await asyncio.to_thread(self._end, call, reserved)

    def _begin(self) -> tuple[ChatCall | SpendingCall, Reservation] | None:
        """Return the call to make; None where none is needed, or today's limit is reached."""
        delivered = self._outcome
        if not delivered.controls:
            self.audits.same(of=delivered.id)
            return None
        reserved = self.audits.reserve(price=self._price, prompt=self._prompt, output=self._most_output)
        if reserved is None:
            return None
        session = self.session.again(self.audits)
        return spending(session, lambda: self.again(session)), reserved

    @property
    def _price(self) -> Price | None:
        return self.session.price

    @property
    def _prompt(self) -> float:
        """Tokens of the prompt, guessed where a stream was not asked for its usage."""
        known = self._outcome.usage.prompt_tokens
        return self.session.query.prompt_tokens if known is None else known

    @property
    def _most_output(self) -> float:
        own = output_limit(self.session.caller_params)
        natural, answer = self.session.capability.natural_p99, self.session.capability.answer_tokens
        if own is not None:
            return own
        return ASSUMED_TOKENS if natural is None else natural + (answer or ANSWER_RESERVE)

    def _end(self, call: ChatCall | SpendingCall, reserved: Reservation) -> None:
        if call.outcome is not None:
            reserved.settle(self._spent(call.outcome.usage))
        self.audits.compare(self.call.answer, call.answer, of=self._outcome.id)

    def _spent(self, usage: UsageRow) -> Spent:
        thought, said, price = usage.reasoning_tokens, usage.answer_tokens, self._price
        if thought is None or said is None:
            return Spent()
        prompt = self._prompt if usage.prompt_tokens is None else usage.prompt_tokens
        usd = None if price is None else price.cost(prompt=prompt, reasoning=thought, answer=said)
        return Spent(usd=usd, tokens=prompt + thought + said)

    def _failed(self, reserved: Reservation, error: Exception) -> None:
        logger.warning("an audit failed: %s", brief(error))
        if status(error) is not None or isinstance(error, LimitExceeded | LedgerUnavailable):
            # refused, before anything was generated
            reserved.settle(Spent(usd=0.0, tokens=0))

    @property
    def _outcome(self) -> Outcome:
        assert self.call.outcome is not None
        return self.call.outcome


def output_limit(params: Mapping[str, Any]) -> int | None:
    """Return the output limit that a call sets itself."""
    said = {**params, **(params.get("extra_body") or {})}
    return next((said[name] for name in _LIMITS if said.get(name) is not None), None)
