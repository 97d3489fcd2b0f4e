"""One chat call, from its budgeted parameters to an answer and its outcome.

The machine passes chunks through untouched as long as nothing has to change. When a criterion fires it has
the server end the thought, or closes the upstream and goes on from the closed thought; when an answer is
missing although a budget of ours shaped the call, it does what the guard says. A fault of its own never
fails the call.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from budgetctl.adapters.base import ABORT_CONTINUE, DEADLINE, LIVE_END, STOP
from budgetctl.engine.answering import Answering
from budgetctl.engine.chunks import Codec, asked, delta_of
from budgetctl.engine.delivery import Delivery
from budgetctl.engine.effects import SILENT, CallerClosed, Effect, Emit, Machine, read
from budgetctl.engine.endings import CHAT, Ending
from budgetctl.engine.ledger import Ledger
from budgetctl.engine.opening import OnBroken, brief, open_call
from budgetctl.engine.passage import Passage
from budgetctl.engine.stopper import Stopper
from budgetctl.engine.transcript import Counter, as_whole
from budgetctl.errors import AnswerTruncated
from budgetctl.guard import Guard, Step
from budgetctl.session import Acted
from budgetctl.speed import Request
from budgetctl.stopping import Criterion
from budgetctl.types import Event, StopReason

if TYPE_CHECKING:
    from budgetctl.outcomes import Outcome
    from budgetctl.session import Session

logger = logging.getLogger("budgetctl")

_ANSWERED_OTHERWISE = ("content_filter", "tool_calls", "function_call")


class ChatCall:
    """The machine of one chat call.

    Args:
        session: The decision and what was rendered of it.
        codec: Turns the SDK's objects into dicts and back.
        stream: The caller wants a stream.
        criterion: Watches the thinking; None when the budget names none.
        endings: The ways of going on from a thought that was cut, in the order in which they are tried.
        counter: Counts tokens; None estimates them.
        on_broken: Told the names of controls that the server refused or ignored.
    """

    def __init__(
        self,
        session: Session,
        *,
        codec: Codec,
        stream: bool,
        criterion: Criterion | None = None,
        endings: Sequence[Ending] = (),
        counter: Counter | None = None,
        on_broken: OnBroken = lambda names: None,
    ) -> None:
        self.outcome: Outcome | None = None
        self._session = session
        self._codec = codec
        self._stream = stream
        self._on_broken = on_broken
        self._streamed = stream
        self._asks_usage = stream and _unreported(session)
        self._changed = False
        self._notes: list[str] = []
        self._ledger = Ledger(session, counter=counter)
        self._delivery = Delivery(session, codec=codec, stream=stream)
        carried = [c for c in session.controls if c.name not in (STOP, LIVE_END) and c.strength != "none"]
        # Of several choices, or with logprobs, nothing can be replaced without breaking the response.
        own = {**session.caller_params, **(session.caller_params.get("extra_body") or {})}
        whole = (own.get("n") or 1) == 1 and not own.get("logprobs")
        self._guard = Guard(ours=bool(carried) and whole, time_left=self._time_left)
        self._answering = Answering(
            session,
            codec=codec,
            stream=stream,
            delivery=self._delivery,
            ledger=self._ledger,
            guard=self._guard,
            endings=endings,
            tell=self._tell,
            note=self._notes.append,
            on_broken=on_broken,
        )
        self._stopper = Stopper(
            session,
            transcript=self._ledger.first,
            criterion=criterion,
            counter=counter,
            can_continue=bool(endings),
            note=self._notes.append,
            on_broken=on_broken,
        )
        self._passage = Passage(
            session, delivery=self._delivery, transcript=self._ledger.first, stopper=self._stopper
        )

    @property
    def answer(self) -> str:
        """The text of the answer, as far as it has come."""
        return self._ledger.answer

    def run(self) -> Machine:
        """Drive the call. Emits chunks, or one completion when the caller wants it whole."""
        try:
            yield from self._call()
        except GeneratorExit:  # the shell is gone and takes its streams with it
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
        acting = {c.name for c in self._session.controls if c.strength == "hard"}
        watched = not self._stream and self._stopper.can_act and acting & {ABORT_CONTINUE, DEADLINE}
        opened = yield from open_call(
            self._session,
            CHAT,
            stream=self._stream,
            on_broken=self._on_broken,
            edit=self._asked if watched or self._asks_usage else None,
        )
        response, self._streamed = opened.response, opened.stream
        if opened.refused is not None:
            self._notes.append(opened.refused)
            self._asks_usage = False
            self._stopper.disarm()
            self._guard.ours = False
        if opened.stream:
            yield from self._watch(response)
        else:  # nobody sees it before it is whole
            body = self._codec.dump(response)
            if self._is_fine(body):
                cleaned = self._passage.cleaned(body)
                self._finish()
                yield Emit(response if cleaned is None else self._codec.completion(cleaned))
                return
        yield from self._complete()

    def _asked(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Turn parameters into those of a stream that reports what it used."""
        return asked(params, self._session.capability)

    def _is_fine(self, body: Mapping[str, Any]) -> bool:
        """Take a whole response in, and say whether it can be handed on as it came."""
        self._stopper.observe_only()
        self._hear(body)
        self._stopper.ignored_cap()
        if not body.get("choices"):
            return True  # an error in disguise is the caller's to see
        self._passage.spoilt = self._passage.garbled(delta_of(body))
        self._delivery.assembled.seed(body, thoughts_only=self._passage.spoilt)
        return not self._passage.spoilt and not self._missing()

    def _watch(self, handle: Any) -> Machine:
        """Pass a stream through until it ends or has to be cut. An ending without answer is held back."""

        def take(chunk: Any) -> Generator[Effect, Any, bool]:
            if chunk is SILENT:
                self._stopper.silent()
                return True
            body = self._codec.dump(chunk)
            self._hear(body)
            if self._asks_usage and not body.get("choices") and body.get("usage"):
                return False  # asked for by us alone
            yield from self._passage.show(body, chunk, missing=self._missing() or self._cut_short())
            if self._passage.rethinking:
                if self._reclosed():
                    yield from self._passage.reclose()
                    return True
                yield from self._passage.let_through()
            return (yield from self._stopper.act())

        yield from read(handle, take, patience=self._stopper.patience)
        self._ledger.first.flush()
        if not self._stopper.cut:
            yield from self._passage.end()
            if not self._passage.spoilt and self._passage.garbled({"content": self._ledger.first.answer}):
                self._notes.append("what had to be JSON is none, and had been passed on when that was seen")

    def _reclosed(self) -> bool:
        """Whether thinking that began again after the engine had ended it may be closed again, by us."""
        if not self._answering.can_continue or not self._guard.reclose():
            return False
        self._notes.append("thinking began again after the close and was closed once more")
        self._answering.reclosed()
        self._stopper.cut = True
        return True

    def _hear(self, body: Mapping[str, Any]) -> None:
        """Take one chunk in; a fault of ours ends the watching and not the call."""
        try:
            events = self._ledger.first.feed(body)
            self._delivery.labels.learn(body, reasoning=any(e.kind == "reasoning" and e.text for e in events))
            self._tell(events)
            self._settle()
            self._stopper.judge(body)
        except Exception as error:
            if self._stopper.watching or self._guard.ours:
                logger.warning("watching ended: %s", brief(error))
                self._notes.append(f"watching ended: {brief(error)}")
            self._stopper.deafen()
            self._guard.ours = False

    def _settle(self) -> None:
        """Take a complete text without a closing tag for the answer, whatever the template may begin with."""
        transcript = self._ledger.first
        supposed = self._session.capability.starts_in_think and self._delivery.labels.inline
        if supposed and transcript.finish == "stop" and transcript.empty and transcript.in_thought:
            transcript.unthink()

    def _complete(self) -> Machine:
        """Bring an answer about if there is none yet, and end the call."""
        if self._stopper.cut:
            self._changed = True
            yield from self._answering.take(Step.CONTINUE)
        elif self._passage.spoilt:
            yield from self._own_again()
        elif self._cut_short():
            self._changed = True
            yield from self._answering.resume()
            yield from self._end(self._went_on())
            return
        first = self._ledger.first
        # Closing a thought that never began, or a response of nothing at all, would only switch thinking off.
        came = first.heard or first.finish is not None
        while self._missing() and self._answering.unread is None:
            step = self._guard.next(
                can_continue=self._answering.can_continue and first.heard,
                can_switch_off=self._answering.can_switch_off and came,
            )
            if step is Step.GIVE_UP:
                raise AnswerTruncated(
                    "the model gave no answer: " + "; ".join(self._notes or self._guard.steps),
                    reasoning="\n\n".join(self._answering.thoughts) or first.reasoning,
                )
            self._notes.append(str(step) if self._changed else f"no answer came: {step}")
            self._changed = True
            yield from self._answering.take(step)
        yield from self._end()

    def _end(self, stop: StopReason | None = None) -> Machine:
        if self._changed:
            yield from self._delivery.end(self._ledger)
        self._finish(stop)
        if self._answering.unread is not None:
            yield Emit(self._answering.unread)
        elif not self._stream:
            yield Emit(self._codec.completion(self._delivery.assembled.completion()))

    def _own_again(self) -> Machine:
        """Make the caller's own call in place of a response that the end of the thought has spoilt."""
        self._guard.steps.append(Step.OWN)
        self._notes.append(f"what had to be JSON was none: {Step.OWN}")
        self._changed = True
        yield from self._answering.take(Step.OWN)

    def _missing(self) -> bool:
        """Whether there is no answer although a budget of ours may be the reason."""
        transcript = self._ledger.current
        ours = self._guard.ours or self._stopper.evidence is not None
        return ours and transcript.empty and transcript.finish not in _ANSWERED_OTHERWISE

    def _cut_short(self) -> bool:
        """Whether an output limit of ours has cut the answer of the first response off."""
        first, default = self._ledger.first, self._session.capability.default_output_tokens
        if not self._stopper.limited or first.empty or first.called or self._ledger.resumed is not None:
            return False
        # Beyond its own default the server would have ended it, too.
        return self._answering.can_resume and (default or 0) > (self._ledger.spent().output_tokens or 0)

    def _went_on(self) -> StopReason | None:
        """Return why thinking ended where the model has ended an answer that our limit had cut off."""
        ledger = self._ledger
        complete = ledger.resumed is not None and ledger.current.finish not in (None, "length")
        return StopReason.NATURAL if complete and self._stopper.evidence is None else None

    def _tell(self, events: Sequence[Event]) -> None:
        if self._session.audited is None:
            for event in events:
                self._session.controller.callbacks.emit("on_delta", event)

    def _time_left(self) -> float | None:
        deadline = self._session.budget.deadline_s
        return None if deadline is None else deadline - (self._session.clock() - self._session.started)

    def _finish(self, stop: StopReason | None = None) -> None:
        """Record the outcome; a fault there is logged and costs the record, never the answer."""
        try:
            timing = self._ledger.timing()
            evidence = self._stopper.evidence
            self.outcome = self._session.finish(
                usage=self._ledger.spent(),
                timing=timing if self._stream else as_whole(timing, answered=self._ledger.answered),
                measured=self._measured(),
                stop=stop or self._stopper.reason(),
                criterion=evidence.criterion if evidence is not None else None,
                acted=self._acted(),
                answered=self._ledger.answered,
                fallback="; ".join(self._notes) or None,
                controls=self._stopper.controls,
            )
        except Exception as error:
            logger.warning("the outcome could not be recorded: %s", brief(error))

    def _measured(self) -> Sequence[Request] | None:
        """Return the requests whose speed was seen; None is the one response that came whole."""
        if self._streamed:
            return self._ledger.requests()
        return () if self._answering.calls else None

    def _acted(self) -> Acted:
        answering = self._answering
        return Acted(
            actuator=answering.actuator or self._stopper.actuator(),
            degraded=answering.degraded and self._ledger.answered,
            extra_calls=answering.calls + self._stopper.calls,
            prefill_tokens=self._ledger.prefilled(),
        )

    def _left(self) -> StopReason | None:
        """The caller wants no more; who leaves when all has been said has ended nothing."""
        if self._ledger.resumed is not None and self._ledger.current.finish is not None:
            return self._went_on()
        complete = self._ledger.current.finish is not None and not self._missing() and not self._cut_short()
        return None if complete else StopReason.CALLER


def _unreported(session: Session) -> bool:
    """Whether a stream has to be asked what it used, because that is charged and its caller has not asked."""
    own = {**session.caller_params, **(session.caller_params.get("extra_body") or {})}
    unasked = not (own.get("stream_options") or {}).get("include_usage")
    charged = session.charge is not None and session.enforcing
    return charged and unasked and session.capability.stream_usage == "include_usage"
