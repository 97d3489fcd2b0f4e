"""One call of the Responses API: budgeted parameters, a watched stream, an outcome. Nothing is cut yet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any

from budgetctl.channels import ResponsesChannels
from budgetctl.engine.chat import REFUSED, Machine
from budgetctl.engine.chunks import Codec
from budgetctl.engine.effects import CallerClosed, Close, Effect, Emit, Receive, Send
from budgetctl.engine.transcript import Counter, Transcript
from budgetctl.types import StopReason

if TYPE_CHECKING:
    from budgetctl.outcomes import Outcome
    from budgetctl.session import Session

logger = logging.getLogger("budgetctl")

RESPONSES = "/responses"


class ResponsesCall:
    """The machine of one Responses API call; arguments as for :class:`~budgetctl.engine.ChatCall`."""

    def __init__(
        self,
        session: Session,
        *,
        codec: Codec,
        stream: bool,
        counter: Counter | None = None,
        on_broken: Callable[[frozenset[str]], None] = lambda names: None,
    ) -> None:
        self.outcome: Outcome | None = None
        self._session = session
        self._codec = codec
        self._stream = stream
        self._on_broken = on_broken
        self._controls = session.controls
        self._notes: list[str] = []
        self._transcript = Transcript(
            ResponsesChannels(), clock=session.clock, started=session.started, counter=counter
        )

    def run(self) -> Machine:
        """Drive the call. Emits the stream's events, or the one response, all untouched."""
        try:
            yield from self._call()
        except GeneratorExit:
            raise
        except CallerClosed:
            self._finish(StopReason.CALLER)
            raise
        except BaseException as error:
            self._notes.append(f"{type(error).__name__}: {error}")
            self._finish(StopReason.ERROR)
            raise

    def _call(self) -> Machine:
        response = yield from self._open()
        if not self._stream:
            # A whole response carries what the last event of a stream carries.
            body = self._codec.dump(response)
            self._hear({"type": "response.completed", "response": body}, whole=body)
            self._finish()
            yield Emit(response)
            return
        try:
            while (event := (yield Receive(response))) is not None:
                self._hear(self._codec.dump(event))
                yield Emit(event)
        except GeneratorExit:
            raise
        except BaseException:
            yield Close(response)
            raise
        yield Close(response)
        self._finish()

    def _open(self) -> Generator[Effect, Any, Any]:
        session = self._session
        try:
            return (yield Send(path=RESPONSES, params=session.params, stream=self._stream))
        except Exception as error:
            status = getattr(error, "status_code", None)
            if status not in REFUSED or session.params == session.caller_params:
                raise
            self._notes.append(f"HTTP {status}; sent again with the caller's own parameters")
        response = yield Send(path=RESPONSES, params=session.caller_params, stream=self._stream)
        self._on_broken(frozenset(c.name for c in self._controls))
        self._controls = ()
        return response

    def _hear(self, event: Mapping[str, Any], *, whole: Mapping[str, Any] | None = None) -> None:
        try:
            if whole is not None:
                self._transcript.read_response(whole)
            for heard in self._transcript.feed(event):
                self._session.controller.callbacks.emit("on_delta", heard)
        except Exception as error:
            self._notes.append(f"watching ended: {type(error).__name__}: {error}")

    def _finish(self, stop: StopReason | None = None) -> None:
        ended = StopReason.LENGTH if self._transcript.finish == "length" else StopReason.NATURAL
        if self._session.budget.off and self._controls:
            ended = StopReason.OFF
        try:
            self.outcome = self._session.finish(
                usage=self._transcript.usage(visible=False),
                timing=self._transcript.timing(),
                stop=stop or ended,
                answered=not self._transcript.empty,
                fallback="; ".join(self._notes) or None,
                controls=self._controls,
            )
        except Exception:
            logger.warning("the outcome could not be recorded", exc_info=True)
