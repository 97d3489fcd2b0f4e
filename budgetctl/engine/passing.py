"""One call whose response passes through untouched: budgeted parameters, an outcome, no cutting.

For the Responses API, and for raw responses, whose bytes belong to the caller.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from budgetctl.channels import response_id
from budgetctl.engine.effects import CallerClosed, Emit, Machine, read
from budgetctl.engine.opening import OnBroken, brief, open_call
from budgetctl.engine.transcript import Transcript, as_whole
from budgetctl.types import StopReason, Timing

if TYPE_CHECKING:
    from budgetctl.outcomes import Outcome
    from budgetctl.session import Session

logger = logging.getLogger("budgetctl")

RESPONSES = "/responses"


class PassingCall:
    """The machine of a call that is only observed.

    Args:
        session: The decision and what was rendered of it.
        path: Where the call goes.
        transcript: Listens to the stream, or to the whole response.
        dump: Turns the SDK's objects into dicts; None for one that cannot be read without changing it.
        stream: The response is a stream that this machine reads; otherwise it is handed on as it came.
        on_broken: Told the names of controls that the server refused.

    Attributes:
        timing: What is known of its times otherwise, where the machine hears only later what has come.
    """

    def __init__(
        self,
        session: Session,
        *,
        path: str,
        transcript: Transcript,
        dump: Callable[[Any], Mapping[str, Any] | None],
        stream: bool,
        raw_stream: bool = False,
        on_broken: OnBroken = lambda names: None,
    ) -> None:
        self.outcome: Outcome | None = None
        self.timing: Timing | None = None
        self._session = session
        self._path = path
        self._transcript = transcript
        self._dump = dump
        self._stream = stream
        self._raw_stream = raw_stream
        self._on_broken = on_broken
        self._controls = session.controls
        self._notes: list[str] = []
        self._deaf = False

    def run(self) -> Machine:
        """Drive the call. Emits the stream's events, or the one response, all untouched."""
        try:
            yield from self._call()
        except GeneratorExit:
            raise
        except CallerClosed:
            self._finish(self._left())
            raise
        except BaseException as error:
            self._notes.append(brief(error))
            # What is no Exception is a cancelled task or an interrupt: the caller wants no more.
            self._finish(StopReason.ERROR if isinstance(error, Exception) else self._left())
            raise

    def _call(self) -> Machine:
        opened = yield from open_call(
            self._session, self._path, stream=self._stream or self._raw_stream, on_broken=self._on_broken
        )
        if opened.refused is not None:
            self._notes.append(opened.refused)
            self._controls = ()
        if self._stream:
            yield from read(opened.response, self._pass)
            self._finish()
        else:
            self._hear(opened.response, whole=True)
            self._finish()
            yield Emit(opened.response)

    def _pass(self, event: Any) -> Machine:
        self._hear(event)
        yield Emit(event)

    def _hear(self, item: Any, *, whole: bool = False) -> None:
        """Take an event or a whole response in; a fault of ours ends the watching and not the call."""
        if self._deaf:
            return
        try:
            body = self._dump(item)
            if body is None:
                self._notes.append("the response was not read")
                return
            response = response_id(body)
            if response is not None:
                self._session.answered(response)
            events = self._transcript.read(body) if whole else self._transcript.feed(body)
            for event in events:
                self._session.controller.callbacks.emit("on_delta", event)
        except Exception as error:
            logger.warning("watching ended: %s", brief(error))
            self._notes.append(f"watching ended: {brief(error)}")
            self._deaf = True

    def _left(self) -> StopReason | None:
        """The caller wants no more; who leaves when all has been said has ended nothing."""
        return StopReason.CALLER if self._transcript.finish is None else None

    def _finish(self, stop: StopReason | None = None) -> None:
        ended = StopReason.LENGTH if self._transcript.finish == "length" else StopReason.NATURAL
        if self._session.budget.off and any(c.strength != "none" for c in self._controls):
            ended = StopReason.OFF
        heard = self._transcript.timing()
        unread = bool(self._notes) and self._notes[-1] == "the response was not read"
        answered = unread or not self._transcript.empty
        timing = heard if self._stream else as_whole(heard, answered=answered)
        try:
            self.outcome = self._session.finish(
                usage=self._transcript.usage(visible=False),
                timing=self.timing or timing,
                stop=stop or ended,
                answered=answered,
                fallback="; ".join(self._notes) or None,
                controls=self._controls,
            )
        except Exception as error:
            logger.warning("the outcome could not be recorded: %s", brief(error))
