"""Climbs with asynchronous clients: rung after rung, or in tasks side by side where the ladder hedges."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anyio
from openai import AsyncStream

from budgetctl.errors import ConfigError
from budgetctl.integrations.ladder import PASSED_ON, Begun, Call, OnlyCreate, Rungs
from budgetctl.ladder.acceptance import Verdict
from budgetctl.ladder.climb import Climbed, Failed, Judged, said, unjudged
from budgetctl.ladder.rungs import Draft
from budgetctl.ladder.turn import Attempt

Result = Draft | Failed | Begun


class AsyncCompletions(OnlyCreate):
    """``ladder.chat.completions`` of asynchronous clients."""

    def __init__(self, rungs: Rungs) -> None:
        self._rungs = rungs

    async def create(self, *, private: bool = False, **params: Any) -> Any:
        """Return the completion, or the stream, of the first rung whose answer is accepted.

        Args:
            private: Only local rungs may see it.
            params: As for the SDK's method, without ``model``.

        Raises:
            ConfigError: A parameter does not fit, or the query is private and no rung is local.
            Exception: The last rung's error, if no rung has brought an answer.
        """
        call = Call(self._rungs, params, private=private)
        if call.hedged:
            _needs_asyncio()
        return await _Climb(call).run()


def _needs_asyncio() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigError("hedge_s: seen another event loop, allowed: that of asyncio") from None


class _Climb:
    """One turn."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._handles: dict[int, Any] = {}
        self._begun: list[int] = []
        self._tasks: dict[int, asyncio.Task[Result]] = {}

    async def run(self) -> Any:
        """Climb until there is an answer, or the stream that brings it."""
        try:
            came = await self._climb()
            await self._leave_others()
        except BaseException:
            try:
                await self._leave_all()
            finally:  # a task may be cancelled once more
                self._call.gave_up()
            raise
        if isinstance(came, Begun):
            return AsyncLadderStream.of(came.handle, self._call, begun=came)
        return self._answer(came)

    async def _climb(self) -> Climbed | Begun:
        call = self._call
        try:
            wanted = next(call.steps)
            while True:
                got = await (self._first(wanted) if call.hedged else self._ask(call.begin(wanted)))
                if isinstance(got, Begun):
                    return got
                if isinstance(got, Failed):
                    wanted = call.steps.send(got)
                    continue
                verdict = await self._verdict(got)
                call.drafts.append(got)
                wanted = call.steps.send(got if verdict is None else Judged(draft=got, verdict=verdict))
        except StopIteration as end:
            climbed: Climbed = end.value
            return climbed

    def _answer(self, climbed: Climbed) -> Any:
        rung = climbed.draft.rung
        if not self._call.stream:
            return self._call.answer(climbed)
        stream = AsyncLadderStream.of(self._handles[rung], self._call, rung=rung)
        self._call.carry(stream, self._call.end(climbed))
        return stream

    async def _verdict(self, draft: Draft) -> Verdict | None:
        """Wait for the verdict of what can be waited for; None leaves it to the climb."""
        ajudge = getattr(self._call.setup.ladder.accept, "ajudge", None)
        if ajudge is None or draft.rung == self._call.top or not draft.usable:
            return None
        try:
            return said(await ajudge(self._call.query, draft, tuple(self._call.drafts)))
        except Exception as error:  # what judges may be the user's own
            return unjudged(error)

    async def _first(self, wanted: int) -> Result:
        """Wait for a rung; start the next one beside those that are late."""
        if wanted not in self._begun:
            self._launch(wanted)
        while True:
            above = [i for i in self._call.path if i > max(self._begun)]
            done, _ = await asyncio.wait(
                self._tasks.values(),
                timeout=self._call.hedge_s if above else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if done:
                rung = min(rung for rung, task in self._tasks.items() if task in done)
                return self._tasks.pop(rung).result()
            self._launch(above[0])

    def _launch(self, rung: int) -> None:
        self._begun.append(rung)
        self._tasks[rung] = asyncio.create_task(self._ask(self._call.begin(rung)))

    async def _ask(self, attempt: Attempt) -> Result:
        call, rung = self._call, attempt.rung
        try:
            with call.attempting(attempt):
                response = await call.client(rung).chat.completions.create(**call.params(rung))
            if not call.streams:
                call.hear(rung, response)
                return call.draft(attempt)
            self._handles[rung] = response
            if rung == call.top and call.stream and not call.hedged:
                return Begun(rung=rung, handle=response)
            return await self._collect(attempt)
        except PASSED_ON:
            raise
        except Exception as error:
            return call.failed(attempt, error)

    async def _collect(self, attempt: Attempt) -> Draft | Begun:
        handle = self._handles[attempt.rung]
        try:
            async for chunk in handle:
                if self._call.hear(attempt.rung, chunk):
                    return Begun(rung=attempt.rung, handle=handle)
        except BaseException:
            await handle.close()
            raise
        await handle.close()
        return self._call.draft(attempt)

    async def _leave_others(self) -> None:
        """Cancel what still runs, and wait until its upstream is closed and recorded."""
        if not self._tasks:
            return
        for rung, task in self._tasks.items():
            attempt = self._call.turn.attempts[rung]
            if not attempt.left:  # a second time would disturb its closing
                attempt.left = True
                task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait(self._tasks.values())
            for task in self._tasks.values():
                came = None if task.cancelled() or task.exception() is not None else task.result()
                if isinstance(came, Begun):  # it began at the same time as another one was accepted
                    await came.handle.close()

    async def _leave_all(self) -> None:
        """Close the stream that was to be handed on, too."""
        await self._leave_others()
        with anyio.CancelScope(shield=True):
            for handle in self._handles.values():
                await handle.close()


class AsyncLadderStream(AsyncStream[Any]):
    """The chunks of the answer. ``budgetctl.outcome(stream)`` is there after the last one."""

    _upstream: Any

    @classmethod
    def of(cls, handle: Any, call: Call, *, begun: Begun | None = None, rung: int = 0) -> AsyncLadderStream:
        """Hand on what a rung has brought, and what it still brings if it has only begun."""
        stream = object.__new__(cls)
        stream.__dict__.update(handle.__dict__, _upstream=handle)
        if begun is not None:
            call.live(begun, stream)
        stream._iterator = _chunks(call, begun, rung)
        return stream

    async def close(self) -> None:
        """Close the upstream."""
        await self._upstream.close()


async def _chunks(call: Call, begun: Begun | None, rung: int) -> AsyncIterator[Any]:
    """Yield the chunks of a rung; those of an earlier draft where it breaks before it has said anything."""
    for item in call.items(rung if begun is None else begun.rung):
        yield item
    if begun is None:
        return
    try:
        async for chunk in begun.handle:
            call.hear(begun.rung, chunk)
            yield chunk
    except Exception as error:
        if not call.can_fall_back(begun.rung):
            raise
        climbed = call.instead(begun, error)
    else:
        return
    for item in call.items(climbed.draft.rung):
        yield item
