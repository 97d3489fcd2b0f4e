"""One chat call, from its budgeted parameters to an answer and its outcome.

The machine passes chunks through untouched as long as nothing has to change. When a criterion fires it
closes the upstream and continues from the closed thought; when an answer is missing although a budget of
ours shaped the call, it does what the guard says. A fault of its own never fails the call.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from budgetctl.adapters import openai_chat
from budgetctl.adapters.base import ABORT_CONTINUE, DEADLINE, OURS, STOP, steerable
from budgetctl.channels import ChatChannels
from budgetctl.engine.chunks import Assembler, Codec, Labels, as_chat, delta_of, usage_body
from budgetctl.engine.continuation import COMPLETIONS, CUE, Continuation
from budgetctl.engine.effects import CallerClosed, Effect, Emit, Machine, Send, read
from budgetctl.engine.ledger import Ledger
from budgetctl.engine.opening import OnBroken, brief, open_call, status
from budgetctl.engine.transcript import Counter, Transcript, as_whole
from budgetctl.errors import AnswerTruncated
from budgetctl.guard import Guard, Opening, Step
from budgetctl.stopping.criteria import Criterion
from budgetctl.types import AppliedControl, Budget, Event, Evidence, StopReason

if TYPE_CHECKING:
    from budgetctl.outcomes import Outcome
    from budgetctl.session import Session

logger = logging.getLogger("budgetctl")

CHAT = "/chat/completions"
MISSING = (400, 404, 405, 422, 501)
"""Statuses by which a server says that it has no raw completions for us."""
_ANSWERED_OTHERWISE = ("content_filter", "tool_calls", "function_call")


class ChatCall:
    """The machine of one chat call.

    Args:
        session: The decision and what was rendered of it.
        codec: Turns the SDK's objects into dicts and back.
        stream: The caller wants a stream.
        criterion: Watches the thinking; None when the budget names none.
        continuation: Ends a thought and writes the answer; None when this call allows none.
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
        continuation: Continuation | None = None,
        counter: Counter | None = None,
        on_broken: OnBroken = lambda names: None,
    ) -> None:
        self.outcome: Outcome | None = None
        self._session = session
        self._codec = codec
        self._stream = stream
        self._criterion = criterion
        self._continuation = continuation
        self._counter = counter
        self._on_broken = on_broken
        self._controls: tuple[AppliedControl, ...] = session.controls
        self._labels = Labels()
        self._assembled = Assembler()
        self._evidence: Evidence | None = None
        self._streamed = stream
        self._changed = False
        self._closes = 0
        self._is_shut = False
        self._notes: list[str] = []
        self._transcript = self._listen()
        self._ledger = Ledger(self._transcript, capability=session.capability, counter=counter)
        self._thoughts: list[str] = []
        carried = [c for c in session.controls if c.name != STOP and c.strength != "none"]
        self._steerable = steerable(session.caller_params)
        # Of several choices, or with logprobs, nothing can be replaced without breaking the response.
        own = {**session.caller_params, **(session.caller_params.get("extra_body") or {})}
        whole = (own.get("n") or 1) == 1 and not own.get("logprobs")
        self._guard = Guard(ours=bool(carried) and whole, time_left=self._time_left)

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
            self._note(brief(error))
            # What is no Exception is a cancelled task or an interrupt: the caller wants no more.
            self._finish(StopReason.ERROR if isinstance(error, Exception) else self._left())
            raise

    def _call(self) -> Machine:
        acts = {
            c.name for c in self._controls if c.name in (ABORT_CONTINUE, DEADLINE) and c.strength == "hard"
        }
        watched = not self._stream and acts and self._continuation is not None
        opened = yield from open_call(
            self._session,
            CHAT,
            stream=self._stream,
            on_broken=self._on_broken,
            edit=self._asked_whole if watched else None,
        )
        response, self._streamed = opened.response, opened.stream
        if opened.refused is not None:
            self._note(opened.refused)
            self._controls, self._criterion, self._guard.ours = (), None, False
        if opened.stream:
            yield from self._watch(response)
        else:  # nobody sees it before it is whole
            self._controls = tuple(
                replace(c, strength="none") if c.name in OURS else c for c in self._controls
            )
            body = self._codec.dump(response)
            self._hear(body)
            self._ignored_cap()
            if not self._missing() or not body.get("choices"):  # an error in disguise is the caller's to see
                self._finish()
                yield Emit(response)
                return
            self._assembled.seed(body)
        yield from self._complete()

    def _complete(self) -> Machine:
        """Bring an answer about if there is none yet, and end the call."""
        if self._evidence is not None:
            yield from self._try(Step.CONTINUE)
        first = self._ledger.first
        # Closing a thought that never began, or a response of nothing at all, would only switch thinking off.
        came = first.heard or first.finish is not None
        while self._missing():
            step = self._guard.next(
                can_continue=self._continuation is not None and first.heard,
                can_switch_off=self._session.capability.off is not None and self._steerable and came,
            )
            if step is Step.GIVE_UP:
                raise AnswerTruncated(
                    "the model gave no answer: " + "; ".join(self._notes or self._guard.steps),
                    reasoning="\n\n".join(self._thoughts) or self._ledger.first.reasoning,
                )
            yield from self._try(step)
        if self._changed:
            for body in self._ending():
                yield from self._show(body)
        self._finish()
        if not self._stream:
            yield Emit(self._codec.completion(self._assembled.completion()))

    def _asked_whole(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Turn parameters of a whole call into those of the stream that we read for it."""
        body = {**params, "stream": True}
        if self._session.capability.stream_usage == "include_usage":
            body["stream_options"] = {"include_usage": True}
        return body

    def _watch(self, handle: Any) -> Machine:
        """Pass a stream through until it ends or a criterion fires. An ending without answer is held back."""
        holding = False

        def take(chunk: Any) -> Generator[Effect, Any, bool]:
            nonlocal holding
            body = self._codec.dump(chunk)
            self._hear(body)
            holding = holding or (self._transcript.finish is not None and self._missing())
            if not holding:
                yield from self._show(body, chunk)
            elif (rest := self._labels.relabel(body)) is not None:
                yield from self._show(rest)
            return self._evidence is not None

        yield from read(handle, take)
        self._transcript.flush()

    def _hear(self, body: Mapping[str, Any]) -> None:
        """Take one chunk in; a fault of ours ends the watching and not the call."""
        try:
            events = self._transcript.feed(body)
            self._labels.learn(body, reasoning=any(e.kind == "reasoning" and e.text for e in events))
            self._tell(events)
            self._settle()
            if self._evidence is None and self._transcript.thinking:
                self._judge()
        except Exception as error:
            if self._criterion is not None or self._guard.ours:
                logger.warning("watching ended: %s: %s", type(error).__name__, error)
                self._note(f"watching ended: {brief(error)}")
            self._criterion, self._guard.ours = None, False

    def _settle(self) -> None:
        """Take a complete text without a closing tag for the answer, whatever the template may begin with."""
        transcript = self._transcript
        supposed = self._session.capability.starts_in_think and self._labels.inline
        if supposed and transcript.finish == "stop" and transcript.empty and transcript.in_thought:
            transcript.unthink()

    def _judge(self) -> None:
        """Ask the criteria, and whether the engine keeps the cap that it was given."""
        evidence = self._ignored_cap()
        if evidence is None and self._criterion is not None:
            evidence = self._criterion.observe(self._transcript.progress())
        if evidence is None:
            return
        self._session.controller.callbacks.emit("on_stop", evidence)
        if self._continuation is not None:
            self._evidence = evidence
        else:
            self._note(f"{evidence.criterion} fired and nothing could act on it")
            self._criterion = None

    def _ignored_cap(self) -> Evidence | None:
        """The watchdog: thinking beyond 1.1 * cap + 32 although a hard cap of the engine was sent."""
        cap = self._engine_cap()
        # Estimated counts may be off by a third: do not call an engine broken for that.
        slack = 1.1 if self._counter is not None else 1.5
        reported = self._transcript.reported
        spent = reported.reasoning_tokens if reported is not None else None
        if spent is not None:
            slack = 1.1
        else:
            spent = self._transcript.reasoning_tokens
        if cap is None or spent <= slack * cap.value + 32:
            return None
        self._on_broken(frozenset({cap.name}))
        self._note(f"{cap.name}={cap.value} was sent and ignored")
        engine = self._session.capability.cap
        names = engine.parameters if engine is not None else ()
        self._controls = tuple(replace(c, strength="none") if c.name in names else c for c in self._controls)
        return Evidence(criterion="watchdog", reason=StopReason.CAP)

    def _engine_cap(self) -> AppliedControl | None:
        engine = self._session.capability.cap
        names = engine.parameters if engine is not None else ()
        return next((c for c in self._controls if c.name in names and c.strength == "hard"), None)

    def _try(self, step: Step) -> Machine:
        """Do one step towards an answer; what fails before it has shown any leaves room for the next."""
        if not self._changed:
            self._changed = True
            self._thoughts = [self._transcript.reasoning]
            if self._evidence is None:
                self._note(f"no answer came: {step}")
        else:
            self._note(str(step))
        if step is Step.CONTINUE and self._continuation is not None:
            work = self._continue(self._continuation)
        elif step is Step.OFF:
            off = openai_chat.render(
                Budget(reasoning_tokens=0, stop="none"),
                self._session.capability,
                self._session.caller_params,
                caller_values="ceiling",
            )
            work = self._again(off.params, thinks=False)
        else:
            work = self._again(self._session.caller_params, thinks=True)
        try:
            yield from work
        except Exception as error:
            if step is Step.OWN or not self._transcript.empty:
                raise
            self._note(f"not {step}: {brief(error)}")
            if step is Step.CONTINUE:
                self._continuation = None
                if status(error) in MISSING:
                    self._on_broken(frozenset({ABORT_CONTINUE}))

    def _continue(self, continuation: Continuation) -> Machine:
        """Write the answer from the closed thought; close again, once, when it begins as a thought."""
        cue = CUE if self._closes else ""
        self._closes += 1
        params = continuation.params(
            self._session.caller_params,
            continuation.prompt(self._thoughts, cue=cue),
            used=self._ledger.spent().output_tokens or 0,
            reserve=self._session.budget.answer_tokens,
        )
        transcript = self._begin(raw=True)
        yield from self._shut()
        handle = yield Send(path=COMPLETIONS, params={**params, "stream": True}, stream=True)
        opening = Opening()

        def take(chunk: Any) -> Generator[Effect, Any, bool]:
            nonlocal cue
            for event in self._listen_raw(chunk):
                if event.kind == "reasoning":
                    yield from self._show(self._labels.chunk(reasoning=event.text))
                elif event.kind == "answer" and (text := opening.feed(event.text)):
                    yield from self._show(self._labels.chunk(content=cue + text))
                    cue = ""
            if opening.rethinking:
                if self._guard.reclose():
                    return True
                yield from self._show(self._labels.chunk(content=cue + opening.release()))
                cue = ""
            return False

        yield from read(handle, take)
        if opening.rethinking and transcript.finish is None:
            self._note("thinking began again after the close and was closed once more")
            transcript.reclassify()
            self._thoughts.append(opening.held)
            yield from self._show(self._labels.chunk(reasoning=opening.held))
            yield from self._continue(continuation)
        elif rest := opening.release():
            yield from self._show(self._labels.chunk(content=cue + rest))

    def _again(self, params: Mapping[str, Any], *, thinks: bool) -> Machine:
        """Call the model once more and show its answer as part of the same response."""
        # A server that leaves the opening tag out does so again.
        self._begin(untagged=thinks and self._ledger.first.untagged)
        yield from self._shut()
        if not self._stream:  # as the caller called: a server may do what is asked of it only so
            body = self._codec.dump((yield Send(path=CHAT, params=params, stream=False)))
            yield from self._second(body, self._transcript.feed(body))
            yield from self._settle_second()
            return
        handle = yield Send(path=CHAT, params=self._asked_whole(params), stream=True)

        def take(chunk: Any) -> Machine:
            body = self._codec.dump(chunk)
            yield from self._second(body, self._transcript.feed(body))

        yield from read(handle, take)
        yield from self._second({}, self._transcript.flush())
        yield from self._settle_second()

    def _settle_second(self) -> Machine:
        """Show as the answer what was only supposed to be thinking, since it never closed."""
        transcript = self._transcript
        if transcript.finish == "stop" and transcript.empty and transcript.in_thought:
            transcript.unthink()
            yield from self._show(self._labels.chunk(content=transcript.answer))

    def _second(self, body: Mapping[str, Any], events: list[Event]) -> Machine:
        """Show what another response brings: its thinking as thinking, also where it came inline."""
        self._labels.learn(body, reasoning=False)
        self._tell(events)
        refusal = delta_of(body).get("refusal")  # an answer too, which stays in its own place
        for event in events:
            if event.kind == "reasoning" and event.text:
                yield from self._show(self._labels.chunk(reasoning=event.text))
            elif event.kind == "answer" and event.text and event.text != refusal:
                yield from self._show(self._labels.chunk(content=event.text))
        if (rest := self._labels.relabel(body, said=False)) is not None:
            yield from self._show(rest)

    def _shut(self) -> Machine:
        """End the inline thought of the first response, where the caller has seen one that is open: once."""
        if self._ledger.first.in_thought and not self._is_shut:
            self._is_shut = True
            yield from self._show(self._labels.chunk(content=self._session.capability.close_text))

    def _show(self, body: Mapping[str, Any], chunk: Any = None) -> Machine:
        if self._stream:
            yield Emit(self._codec.chunk(body) if chunk is None else chunk)
        else:
            self._assembled.add(body)

    def _ending(self) -> list[dict[str, Any]]:
        """Return the last chunks of a response that was changed: finish reason, and usage where it is due."""
        finish = self._transcript.finish or "stop"
        usage = usage_body(self._ledger.spent(), prompt=self._ledger.usages()[0].prompt_tokens)
        options = self._session.caller_params.get("stream_options")
        asked = isinstance(options, Mapping) and options.get("include_usage")
        if self._session.capability.stream_usage == "always" or not self._stream:
            return [self._labels.chunk(finish=finish, usage=usage)]
        last = self._labels.chunk(finish=finish)
        return [last, self._labels.usage_chunk(usage)] if asked else [last]

    def _missing(self) -> bool:
        """Whether there is no answer although a budget of ours may be the reason."""
        transcript = self._transcript
        ours = self._guard.ours or self._evidence is not None
        return ours and transcript.empty and transcript.finish not in _ANSWERED_OTHERWISE

    def _begin(self, *, raw: bool = False, untagged: bool = False) -> Transcript:
        self._transcript = self._listen(raw=raw, untagged=untagged)
        self._ledger.add(self._transcript, raw=raw)
        return self._transcript

    def _listen(self, *, raw: bool = False, untagged: bool = False) -> Transcript:
        capability = self._session.capability
        channels = ChatChannels(
            open_tag=capability.open_tag,
            close_tag=capability.close_tag,
            starts_in_think=untagged or (capability.starts_in_think and not raw),
        )
        return Transcript(
            channels, clock=self._session.clock, started=self._session.started, counter=self._counter
        )

    def _listen_raw(self, chunk: Any) -> list[Event]:
        events = self._transcript.feed(as_chat(self._codec.dump(chunk)))
        self._tell(events)
        return events

    def _tell(self, events: list[Event]) -> None:
        for event in events:
            self._session.controller.callbacks.emit("on_delta", event)

    def _time_left(self) -> float | None:
        deadline = self._session.budget.deadline_s
        return None if deadline is None else deadline - (self._session.clock() - self._session.started)

    def _note(self, text: str) -> None:
        self._notes.append(text)

    def _finish(self, stop: StopReason | None = None) -> None:
        """Record the outcome; a fault there is logged and costs the record, never the answer."""
        try:
            timing = self._ledger.timing()
            self.outcome = self._session.finish(
                usage=self._ledger.spent(),
                timing=timing if self._stream else as_whole(timing, answered=self._ledger.answered),
                measured=timing if self._streamed else None,
                stop=stop or self._reason(),
                criterion=self._evidence.criterion if self._evidence is not None else None,
                answered=self._ledger.answered,
                fallback="; ".join(self._notes) or None,
                controls=self._controls,
            )
        except Exception:
            logger.warning("the outcome could not be recorded", exc_info=True)

    def _left(self) -> StopReason | None:
        """The caller wants no more; who leaves when all has been said has ended nothing."""
        complete = self._transcript.finish is not None and not self._missing()
        return None if complete else StopReason.CALLER

    def _reason(self) -> StopReason:
        """Why thinking ended."""
        if self._evidence is not None:
            return self._evidence.reason
        if self._session.budget.off and any(c.strength != "none" for c in self._controls):
            return StopReason.OFF
        cap, first = self._engine_cap(), self._ledger.first
        spent = first.usage(visible=True).reasoning_tokens
        if cap is not None and spent is not None and spent >= cap.value:
            return StopReason.CAP
        return StopReason.LENGTH if first.finish == "length" else StopReason.NATURAL
