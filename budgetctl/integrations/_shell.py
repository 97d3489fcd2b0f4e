"""The io of the integrations: shells that run a machine, and streams that hand its chunks on.

A shell knows no SDK: it is given a function that posts, and calls ``next`` and ``close`` on what comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Awaitable, Callable, Hashable
from functools import lru_cache
from typing import Any, Protocol, Self, cast

import anyio

from budgetctl.engine import ENDED, SILENT, CallerClosed, Close, Effect, Emit, Machine, Receive, Send, Wait
from budgetctl.integrations._alarm import Alarm
from budgetctl.outcomes import Outcome, attach


class Call(Protocol):
    """A machine and the outcome that it leaves."""

    @property
    def outcome(self) -> Outcome | None:
        """What became of the call."""
        ...

    def run(self) -> Machine:
        """Return the machine."""
        ...


class _Shell:
    """What both shells share: where the machine stands and who gets its outcome."""

    def __init__(self, call: Call, *, then: Callable[[], None] | None = None) -> None:
        self._call = call
        self._then = then
        self._machine = call.run()
        self._effect: Effect | None = None
        self._emitted = False
        self._handles: list[Any] = []
        self._owner: Callable[[], Any] = lambda: None
        self.done = False

    def own(self, owner: Any) -> None:
        """Attach the outcome to ``owner`` at the end, without keeping it alive."""
        self._owner = weakref.ref(owner)

    @property
    def handle(self) -> Any:
        """The first stream that was opened."""
        return self._handles[0]

    def _step(self, value: Any = None, *, error: BaseException | None = None) -> Effect | None:
        """Let the machine take a value or an error; None when it has ended."""
        try:
            return self._machine.send(value) if error is None else self._machine.throw(error)
        except StopIteration:
            self._end(self._owner())
            if self._then is not None:
                self._then()
            return None
        except BaseException as raised:
            self._end(self._owner(), raised)
            raise

    def _end(self, *carriers: Any) -> None:
        self.done = True
        for carrier in carriers:
            if carrier is not None and self._call.outcome is not None:
                attach(carrier, self._call.outcome)

    def _next(self) -> Effect | None:
        """Return the effect that is due, once the consumer wants to go on."""
        if self._emitted:
            self._emitted = False
            self._effect = self._step()
        return self._effect

    def _result(self, item: Any) -> Any:
        if self._call.outcome is not None:
            attach(item, self._call.outcome)
        return item


class SyncShell(_Shell):
    """Runs a machine on a blocking client. Iterate for chunks, or take the one :meth:`whole` result.

    Args:
        then: Called once all is said, if the machine ended well and nobody closed it before.
    """

    def __init__(
        self, call: Call, post: Callable[[Send], Any], *, then: Callable[[], None] | None = None
    ) -> None:
        super().__init__(call, then=then)
        self._post = post
        self._alarm = Alarm()

    def start(self) -> SyncShell:
        """Send the request, so that errors surface where the call was made."""
        self._effect = self._step()
        while isinstance(self._effect, Send | Close | Wait):
            self._effect = self._perform(self._effect)
        return self

    def whole(self) -> Any:
        """Return the one result of a call that does not stream."""
        item = next(self)
        next(self, None)
        return self._result(item)

    def __iter__(self) -> SyncShell:
        return self

    def __next__(self) -> Any:
        while (effect := self._next()) is not None:
            if isinstance(effect, Emit):
                self._emitted = True
                return effect.item
            self._effect = self._perform(effect)
        raise StopIteration

    def close(self) -> None:
        """End the call now: the machine closes what it has open and records the outcome."""
        if not self.done:
            with contextlib.suppress(CallerClosed, ValueError):  # ValueError: it runs in another thread
                effect = self._step(error=CallerClosed())
                while effect is not None:
                    effect = self._perform(effect)
        for handle in self._handles:
            handle.close()

    def _perform(self, effect: Effect) -> Effect | None:
        value = None
        try:
            if isinstance(effect, Send):
                value = self._post(effect)
                if effect.stream:
                    self._handles.append(value)
            elif isinstance(effect, Receive):
                value = self._receive(effect)
            elif isinstance(effect, Close):
                with contextlib.suppress(Exception):
                    effect.handle.close()
            elif isinstance(effect, Wait):
                value = effect.work()
        except BaseException as error:
            return self._step(error=error)
        return self._step(value)

    def _receive(self, effect: Receive) -> Any:
        if effect.within is None:
            return next(effect.handle, ENDED)
        self._alarm.set(effect.handle, seconds=effect.within)
        try:
            value = next(effect.handle, ENDED)
        except Exception:
            if self._alarm.rest():
                return SILENT
            raise
        # A chunk that came with the bell is given up: nothing can come after it.
        return SILENT if self._alarm.rest() else value

    def _end(self, *carriers: Any) -> None:
        self._alarm.close()
        super()._end(*carriers)


class AsyncShell(_Shell):
    """Runs a machine on an async client; ``then`` as for :class:`SyncShell`."""

    def __init__(
        self, call: Call, post: Callable[[Send], Awaitable[Any]], *, then: Callable[[], None] | None = None
    ) -> None:
        super().__init__(call, then=then)
        self._post = post

    async def start(self) -> AsyncShell:
        """Send the request, so that errors surface where the call was made."""
        self._effect = self._step()
        while isinstance(self._effect, Send | Close | Wait):
            self._effect = await self._perform(self._effect)
        return self

    async def whole(self) -> Any:
        """Return the one result of a call that does not stream."""
        item = await anext(self)
        await anext(self, None)
        return self._result(item)

    def __aiter__(self) -> AsyncShell:
        return self

    async def __anext__(self) -> Any:
        while (effect := self._next()) is not None:
            if isinstance(effect, Emit):
                self._emitted = True
                return effect.item
            self._effect = await self._perform(effect)
        raise StopAsyncIteration

    async def close(self) -> None:
        """End the call now, also inside a cancelled task."""
        with anyio.CancelScope(shield=True):
            if not self.done:
                with contextlib.suppress(CallerClosed, ValueError):
                    effect = self._step(error=CallerClosed())
                    while effect is not None:
                        effect = await self._perform(effect)
            for handle in self._handles:
                await handle.close()

    async def _perform(self, effect: Effect) -> Effect | None:
        value: Any = None
        try:
            if isinstance(effect, Send):
                value = await self._post(effect)
                if effect.stream:
                    self._handles.append(value)
            elif isinstance(effect, Receive):
                value = await self._receive(effect)
            elif isinstance(effect, Close):
                with anyio.CancelScope(shield=True), contextlib.suppress(Exception):
                    await effect.handle.close()
            elif isinstance(effect, Wait):
                with anyio.CancelScope(shield=True):
                    value = await anyio.to_thread.run_sync(effect.work)
        except BaseException as error:
            return self._step(error=error)
        return self._step(value)

    async def _receive(self, effect: Receive) -> Any:
        if effect.within is None:
            return await anext(effect.handle, ENDED)
        with anyio.move_on_after(effect.within):
            return await anext(effect.handle, ENDED)
        return SILENT


class Watched:
    """Mixed into an SDK's class of streams, before it.

    Dropping the stream closes it. After its last chunk ``budgetctl.outcome(stream)`` tells what happened.
    """

    _shell: SyncShell
    response: Any

    @classmethod
    def of(cls, shell: SyncShell) -> Self:
        """Hand out ``shell`` as a stream."""
        stream = object.__new__(cls)
        stream.__dict__.update(shell.handle.__dict__, _shell=shell, _iterator=shell)
        stream.response = _closing(stream.response, "close", shell.close)
        shell.own(stream)
        return stream

    def close(self) -> None:
        """Close the upstream, whichever it is by now."""
        self._shell.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._shell.close()


class AsyncWatched:
    """The asynchronous twin of :class:`Watched`."""

    _shell: AsyncShell
    _loop: Any
    response: Any

    @classmethod
    def of(cls, shell: AsyncShell) -> Self:
        """Hand out ``shell`` as a stream."""
        stream = object.__new__(cls)
        stream.__dict__.update(shell.handle.__dict__, _shell=shell, _iterator=shell)
        stream.response = _closing(stream.response, "aclose", shell.close)
        with contextlib.suppress(RuntimeError):  # not on asyncio: a dropped stream waits for its collection
            stream._loop = asyncio.get_running_loop()
        shell.own(stream)
        return stream

    async def close(self) -> None:
        """Close the upstream, whichever it is by now."""
        await self._shell.close()

    def __del__(self) -> None:
        loop = self.__dict__.get("_loop")
        shell = self.__dict__.get("_shell")
        if shell is None or shell.done or loop is None or loop.is_closed():
            return
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(_close_later, shell)


_closing_now: set[asyncio.Task[None]] = set()


def _close_later(shell: AsyncShell) -> None:
    task = asyncio.ensure_future(shell.close())
    _closing_now.add(task)  # the loop keeps only a weak reference
    task.add_done_callback(_closing_now.discard)


def _closing(response: Any, name: str, close: Callable[[], Any]) -> Any:
    """Return ``response`` under a class whose ``name`` method calls ``close``.

    The SDK's stream helpers close the response and not the stream.
    """
    twin: Any = object.__new__(_closing_class(cast("Hashable", type(response)), name))
    twin.__dict__.update(response.__dict__)
    twin.__dict__["_budgetctl_close"] = close
    return twin


@lru_cache
def _closing_class(base: Hashable, name: str) -> Any:
    def close(self: Any) -> Any:
        return self.__dict__["_budgetctl_close"]()

    kind = cast("type[Any]", base)
    return type(kind.__name__, (kind,), {name: close})
