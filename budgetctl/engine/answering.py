"""How an answer is brought about where the first response has none: every call after the first."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from budgetctl.adapters import openai_chat
from budgetctl.adapters.base import steerable
from budgetctl.engine.chunks import Codec, asked, delta_of
from budgetctl.engine.continuation import CUE, Begun
from budgetctl.engine.delivery import Delivery
from budgetctl.engine.effects import Effect, Machine, Send, read
from budgetctl.engine.endings import CHAT, Ending
from budgetctl.engine.ledger import Ledger
from budgetctl.engine.opening import MISSING, REFUSED, OnBroken, brief, status
from budgetctl.guard import Guard, Opening, Step, rethinks
from budgetctl.types import Budget, Event

if TYPE_CHECKING:
    from budgetctl.session import Session


class Answering:
    """Goes on from a thought that was cut, or calls again.

    Args:
        session: The decision and what was rendered of it.
        codec: Turns the SDK's objects into dicts and back.
        stream: The caller wants a stream.
        delivery: Shows the caller what comes.
        ledger: Adds up what it takes.
        guard: Says whether thinking that began again may be closed again.
        endings: The ways of going on from a thought, in the order in which they are tried.
        tell: Gets the events of every response.
        note: Gets what went wrong, and what was done instead.
        on_broken: Told the names of endings that the server does not have.

    Attributes:
        thoughts: What was thought so far, piece by piece; empty before the first step.
        unread: What the caller's own call has brought, where it has no choices: that is the caller's to see.
        actuator: Name of the ending that wrote the answer; None before, and where a new call did.
        degraded: The answer does not go on from the model's own thought.
        can_switch_off: Calling again with thinking off could still bring something new.
        calls: Requests that were made.
    """

    def __init__(
        self,
        session: Session,
        *,
        codec: Codec,
        stream: bool,
        delivery: Delivery,
        ledger: Ledger,
        guard: Guard,
        endings: Sequence[Ending],
        tell: Callable[[Sequence[Event]], None],
        note: Callable[[str], None],
        on_broken: OnBroken,
    ) -> None:
        self.thoughts: list[str] = []
        self.unread: Any = None
        self.actuator: str | None = None
        self.degraded = False
        self.can_switch_off = session.capability.off is not None and steerable(session.caller_params)
        self.calls = 0
        self._session = session
        self._codec = codec
        self._stream = stream
        self._delivery = delivery
        self._ledger = ledger
        self._guard = guard
        self._endings = list(endings)
        self._tell = tell
        self._note = note
        self._on_broken = on_broken
        self._cue = ""

    @property
    def can_continue(self) -> bool:
        """Whether there is a way left of going on from a thought."""
        return bool(self._endings)

    @property
    def can_resume(self) -> bool:
        """Whether there is a way of going on with an answer, in the model's own text."""
        return any(not ending.degraded for ending in self._endings)

    def reclosed(self) -> None:
        """Note that closing the thought did not bring an answer: from now on it begins with a cue."""
        self._cue = CUE

    def take(self, step: Step) -> Machine:
        """Do one step towards an answer; what fails before it has shown any leaves room for the next."""
        self.thoughts = self.thoughts or [self._ledger.current.reasoning]
        if step is Step.CONTINUE:
            yield from self._continue()
            return
        off = step is Step.OFF
        params = self._switched_off() if off else self._session.caller_params
        try:
            yield from self._again(params, thinks=not off)
        except Exception as error:
            if step is Step.OWN or not self._ledger.current.empty:
                raise
            self._note(f"not {step}: {brief(error)}")
        self.actuator, self.degraded = None, off

    def _switched_off(self) -> Mapping[str, Any]:
        return openai_chat.render(
            Budget(reasoning_tokens=0, stop="none"),
            self._session.capability,
            self._session.caller_params,
            caller_values="ceiling",
        ).params

    def _continue(self) -> Machine:
        """Try one ending after the other until one has said something; each is tried once."""
        while self._endings:
            ending = self._endings[0]
            try:
                yield from self._end(ending)
            except Exception as error:
                if not self._ledger.current.empty:
                    raise
                self._note(f"not {Step.CONTINUE} ({ending.name}): {brief(error)}")
                if status(error) in MISSING:
                    self._on_broken(frozenset({ending.name}))
                self._endings.pop(0)
                continue
            self.actuator, self.degraded = ending.name, ending.degraded
            if ending.degraded:
                self._note("asked again with thinking off and the thought quoted")
                self._endings.pop(0)  # asked once more in the same words it would say the same
                self.can_switch_off = False
            if self._ledger.current.empty:
                self.reclosed()
            return

    def resume(self) -> Machine:
        """Go on with an answer that an output limit of ours has cut off; where that fails it stays cut."""
        for ending in self._endings:
            if ending.degraded:
                continue
            try:
                yield from self._resume(ending)
                if self._ledger.resumed or self._ledger.current.finish is not None:
                    return
                why = "the stream ended at once"
            except Exception as error:
                if self._ledger.resumed:
                    raise
                why = brief(error)
                if status(error) in MISSING and status(error) not in REFUSED:  # it may be too long for once
                    self._on_broken(frozenset({ending.name}))
            self._note(f"not gone on with the answer ({ending.name}): {why}")
            self._ledger.abandon()

    def _resume(self, ending: Ending) -> Machine:
        first, capability = self._ledger.first, self._session.capability
        begun = Begun(
            thoughts=[first.reasoning.rstrip("\n")],
            close=f"\n{capability.close_tag}\n\n",
            answer=first.answer.lstrip("\n"),
            used=self._ledger.spent().output_tokens or 0,
        )
        # Up to where the server would have ended it without a limit of ours.
        own = {**self._session.caller_params, capability.output_limit: capability.default_output_tokens}
        params = ending.request(own, begun)
        transcript = self._ledger.begin(raw=True, lead=begun.close + begun.answer)
        self._ledger.resumed = said = []

        def take(chunk: Any) -> Machine:
            body = ending.as_chat(self._codec.dump(chunk))
            events = transcript.feed(body)
            self._tell(events)
            # As it came: a tag in an answer is text, and parsers that wait for one take it all for thinking.
            text = delta_of(body).get("content") or "".join(e.text for e in events if e.kind == "reasoning")
            if text:
                said.append(text)
                yield from self._delivery.say(content=text)

        yield from read((yield self._send(ending.path, asked(params, capability))), take)
        if transcript.empty:
            transcript.unthink()

    def _end(self, ending: Ending) -> Machine:
        """Write the answer to the closed thought; close again, once, when it begins as a thought."""
        cue = self._cue
        begun = Begun(
            thoughts=self.thoughts,
            close=self._session.capability.close_text,
            answer=cue,
            used=self._ledger.spent().output_tokens or 0,
            reserve=self._session.budget.answer_tokens,
        )
        params = ending.request(self._session.caller_params, begun)
        transcript = self._ledger.begin(raw=not ending.degraded)
        yield from self._delivery.shut(self._ledger)
        opening, unsure = Opening(), ""

        def say(text: str) -> Machine:
            nonlocal cue
            if text:
                yield from self._delivery.say(content=cue + text)
                cue = ""

        def take(chunk: Any) -> Generator[Effect, Any, bool]:
            nonlocal unsure
            body = ending.as_chat(self._codec.dump(chunk))
            events = transcript.feed(body)
            self._tell(events)
            for event in events:
                if event.kind == "reasoning" and ending.path == CHAT:
                    unsure += event.text
                elif event.kind == "reasoning":  # in tags of the model's own
                    yield from self._delivery.say(reasoning=event.text)
                elif event.kind == "answer":
                    if unsure:
                        yield from self._delivery.say(reasoning=unsure)
                        unsure = ""
                    yield from say(opening.feed(event.text))
            if (rest := self._delivery.labels.relabel(body, said=False)) is not None:
                yield from self._delivery.show(rest)
            if opening.rethinking:
                if not ending.degraded and self._guard.reclose():
                    return True
                yield from say(opening.release())
            return False

        yield from read((yield self._send(ending.path, asked(params, self._session.capability))), take)
        if unsure:
            yield from self._place(unsure, cue=cue)
        elif opening.rethinking and transcript.finish is None:
            self._note("thinking began again after the close and was closed once more")
            transcript.reclassify()
            self.thoughts.append(opening.held)
            self.reclosed()
            yield from self._delivery.say(reasoning=opening.held)
            yield from self._end(ending)
        else:
            yield from say(opening.release())

    def _place(self, text: str, *, cue: str) -> Machine:
        """Show what came as thinking only, although thinking was closed: a complete one is the answer.

        Servers whose parsers look for the closing tag file answers so that follow a thought which was
        closed in the prompt.
        """
        transcript = self._ledger.current
        if transcript.finish == "stop" and not rethinks(text):
            transcript.unthink()
            yield from self._delivery.say(content=cue + text)
        else:
            yield from self._delivery.say(reasoning=text)

    def _again(self, params: Mapping[str, Any], *, thinks: bool) -> Machine:
        """Call the model once more and show its answer as part of the same response."""
        # A server that leaves the opening tag out does so again.
        transcript = self._ledger.begin(untagged=thinks and self._ledger.first.untagged)
        yield from self._delivery.shut(self._ledger)
        if not self._stream:  # as the caller called: a server may do what is asked of it only so
            response = yield self._send(CHAT, params, stream=False)
            body = self._codec.dump(response)
            if thinks and not body.get("choices"):
                self.unread = response
            yield from self._second(body, transcript.feed(body))
        else:
            handle = yield self._send(CHAT, asked(params, self._session.capability))

            def take(chunk: Any) -> Machine:
                body = self._codec.dump(chunk)
                yield from self._second(body, transcript.feed(body))

            yield from read(handle, take)
            yield from self._second({}, transcript.flush())
        if transcript.finish == "stop" and transcript.empty and transcript.in_thought:
            transcript.unthink()  # it was only supposed to be thinking, since it never closed
            yield from self._delivery.say(content=transcript.answer)

    def _send(self, path: str, params: Mapping[str, Any], *, stream: bool = True) -> Send:
        self.calls += 1
        return Send(path=path, params=params, stream=stream)

    def _second(self, body: Mapping[str, Any], events: Sequence[Event]) -> Machine:
        """Show what another response brings: its thinking as thinking, also where it came inline."""
        labels = self._delivery.labels
        labels.learn(body, reasoning=False)
        self._tell(events)
        refusal = delta_of(body).get("refusal")  # an answer too, which stays in its own place
        for event in events:
            if event.kind == "reasoning" and event.text:
                yield from self._delivery.say(reasoning=event.text)
            elif event.kind == "answer" and event.text and event.text != refusal:
                yield from self._delivery.say(content=event.text)
        if (rest := labels.relabel(body, said=False)) is not None:
            yield from self._delivery.show(rest)
