"""A call under spending limits: reserved before anything is sent, settled when all is over.

It stands around the call's own machine, so that calls without limits go their way as before.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from budgetctl.engine.effects import Effect, Machine, Wait

if TYPE_CHECKING:
    from budgetctl.outcomes import Outcome
    from budgetctl.session import Session


class Inner(Protocol):
    """A machine and the outcome that it leaves."""

    @property
    def outcome(self) -> Outcome | None:
        """What became of the call."""
        ...

    def run(self) -> Machine:
        """Return the machine."""
        ...


_Call = TypeVar("_Call", bound=Inner)


def spending(session: Session, make: Callable[[], _Call]) -> _Call | SpendingCall:
    """Return the machine of a call: the one that ``make`` makes, in another one where limits are for it."""
    return make() if session.charge is None else SpendingCall(session, make(), again=make)


class SpendingCall:
    """The machine of a call that has to keep spending limits.

    Args:
        session: The decision and what was rendered of it.
        inner: The machine of the call.
        again: Makes that machine once more, where a limit has made the call a cheaper one.
    """

    def __init__(self, session: Session, inner: Inner, *, again: Callable[[], Inner]) -> None:
        self.inner: Any = inner
        self._session = session
        self._again = again

    @property
    def outcome(self) -> Outcome | None:
        """What became of the call, also where it was refused."""
        return self._session.outcome

    @property
    def answer(self) -> str:
        """The text of the answer, as far as it has come."""
        return str(self.inner.answer)

    def run(self) -> Machine:
        """Drive the call.

        Raises:
            LimitExceeded: A limit has no room for it.
            LedgerUnavailable: Nobody knows whether it has.
            ConfigError: What it may cost is not known.
        """
        session = self._session
        try:
            changed = yield from self._wait(session.reserve)
        except GeneratorExit:
            raise
        except BaseException:  # a task that is cancelled does not wait for what it has reserved
            yield from self._wait(session.release)
            raise
        if changed:
            self.inner = self._again()
        try:
            yield from self.inner.run()
        except GeneratorExit:  # the shell is gone: the reservation expires
            raise
        except BaseException as error:
            failed = error
            yield from self._wait(lambda: session.settle(failed))
            raise
        yield from self._wait(session.settle)

    def _wait(self, work: Callable[[], Any]) -> Generator[Effect, Any, Any]:
        charge = self._session.charge
        if charge is not None and charge.waits:
            return (yield Wait(work))
        return work()
