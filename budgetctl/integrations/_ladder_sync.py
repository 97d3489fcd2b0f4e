"""Climbs with blocking clients: rung after rung, or in threads side by side where the ladder hedges."""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
from collections.abc import Iterator
from typing import Any

from openai import Stream

from budgetctl.integrations._alarm import hang_up
from budgetctl.integrations.ladder import PASSED_ON, Begun, Call, OnlyCreate, Rungs
from budgetctl.ladder.climb import Climbed, Failed
from budgetctl.ladder.rungs import Draft
from budgetctl.ladder.turn import Attempt

Result = Draft | Failed | Begun | BaseException

LEFT_S = 0.5
"""The longest that an answer waits for the record of a call that was left for it."""


class Completions(OnlyCreate):
    """``ladder.chat.completions``."""

    def __init__(self, rungs: Rungs) -> None:
        self._rungs = rungs

    def create(self, *, private: bool = False, **params: Any) -> Any:
        """Return the completion, or the stream, of the first rung whose answer is accepted.

        Args:
            private: Only local rungs may see it.
            params: As for the SDK's method, without ``model``.

        Raises:
            ConfigError: A parameter does not fit, or the query is private and no rung is local.
            Exception: The last rung's error, if no rung has brought an answer.
        """
        return _Climb(Call(self._rungs, params, private=private)).run()


class _Job:
    """A rung that is being asked."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.handle: Any = None
        self.thread: threading.Thread | None = None

    def leave(self) -> None:
        """Close its upstream, now or as soon as it has been opened."""
        self.attempt.left = True
        if self.handle is None or self.thread is None:
            return
        if self.thread.is_alive():
            with contextlib.suppress(Exception):
                hang_up(self.handle)
            self.thread.join(LEFT_S)
        if not self.thread.is_alive():
            self.handle.close()  # it may have begun at the same time as another one was accepted


class _Climb:
    """One turn."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._jobs: dict[int, _Job] = {}
        self._results: queue.SimpleQueue[Result] = queue.SimpleQueue()

    def run(self) -> Any:
        """Climb until there is an answer, or the stream that brings it."""
        try:
            came = self._climb()
            self._leave_all_but(came.rung if isinstance(came, Begun) else came.draft.rung)
        except BaseException:
            self._leave_all_but(None)
            self._call.gave_up()
            raise
        if isinstance(came, Begun):
            return LadderStream.of(came.handle, self._call, begun=came)
        return self._answer(came)

    def _climb(self) -> Climbed | Begun:
        call = self._call
        try:
            wanted = next(call.steps)
            while True:
                if wanted not in self._jobs:
                    self._launch(wanted)
                got = self._next()
                if isinstance(got, BaseException):
                    raise got
                if isinstance(got, Begun):
                    return got
                if isinstance(got, Draft):
                    call.drafts.append(got)
                wanted = call.steps.send(got)
        except StopIteration as end:
            climbed: Climbed = end.value
            return climbed

    def _answer(self, climbed: Climbed) -> Any:
        rung = climbed.draft.rung
        if not self._call.stream:
            return self._call.answer(climbed)
        stream = LadderStream.of(self._jobs[rung].handle, self._call, rung=rung)
        self._call.carry(stream, self._call.end(climbed))
        return stream

    def _launch(self, rung: int) -> None:
        job = self._jobs[rung] = _Job(self._call.begin(rung))
        if not self._call.hedged:
            self._results.put(self._ask(job))
            return
        context = contextvars.copy_context()
        job.thread = threading.Thread(
            target=lambda: self._results.put(context.run(self._ask, job)), name="budgetctl-rung", daemon=True
        )
        job.thread.start()

    def _next(self) -> Result:
        """Wait for a rung; start the next one beside those that are late."""
        while True:
            above = [i for i in self._call.path if i > max(self._jobs)]
            try:
                return self._results.get(timeout=self._call.hedge_s if above else None)
            except queue.Empty:
                self._launch(above[0])

    def _ask(self, job: _Job) -> Result:
        call, rung = self._call, job.attempt.rung
        try:
            with call.attempting(job.attempt):
                response = call.client(rung).chat.completions.create(**call.params(rung))
            if not call.streams:
                call.hear(rung, response)
                return call.draft(job.attempt)
            job.handle = response
            if rung == call.top and call.stream and not call.hedged:
                return Begun(rung=rung, handle=response)
            return self._collect(job)
        except PASSED_ON as error:
            return error
        except Exception as error:
            return call.failed(job.attempt, error)
        except BaseException as error:
            return error

    def _collect(self, job: _Job) -> Draft | Begun:
        rung = job.attempt.rung
        try:
            for chunk in job.handle:
                if job.attempt.left:
                    break
                if self._call.hear(rung, chunk):
                    return Begun(rung=rung, handle=job.handle)
        except BaseException:
            job.handle.close()
            raise
        job.handle.close()
        return self._call.draft(job.attempt)

    def _leave_all_but(self, rung: int | None) -> None:
        for other, job in self._jobs.items():
            if other != rung:
                job.leave()


class LadderStream(Stream[Any]):
    """The chunks of the answer. ``budgetctl.outcome(stream)`` is there after the last one."""

    _upstream: Any

    @classmethod
    def of(cls, handle: Any, call: Call, *, begun: Begun | None = None, rung: int = 0) -> LadderStream:
        """Hand on what a rung has brought, and what it still brings if it has only begun."""
        stream = object.__new__(cls)
        stream.__dict__.update(handle.__dict__, _upstream=handle)
        if begun is None:
            stream._iterator = iter(call.items(rung))
        else:
            call.live(begun, stream)
            stream._iterator = _rest(call, begun)
        return stream

    def close(self) -> None:
        """Close the upstream."""
        self._upstream.close()


def _rest(call: Call, begun: Begun) -> Iterator[Any]:
    """Yield the chunks of the last rung; of an earlier draft where it breaks before it says anything."""
    yield from call.items(begun.rung)
    try:
        for chunk in begun.handle:
            call.hear(begun.rung, chunk)
            yield chunk
    except Exception as error:
        if not call.can_fall_back(begun.rung):
            raise
        climbed = call.instead(begun, error)
    else:
        return
    yield from call.items(climbed.draft.rung)
