"""What watches the first response of a call, and ends its thinking."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict

from budgetctl.adapters.base import DEADLINE, LIVE_END, OURS
from budgetctl.engine.effects import Effect, Send
from budgetctl.engine.opening import MISSING, OnBroken, brief, status
from budgetctl.engine.transcript import Counter, Transcript
from budgetctl.stopping import ANSWER_TOKENS, Criterion, Deadline
from budgetctl.types import AppliedControl, Evidence, StopReason

if TYPE_CHECKING:
    from budgetctl.session import Session

CONTROL = "/chat/completions/control"
CONTROL_TIMEOUT_S = 2.0
LIVE_TOKENS = 96
LIVE_S = 1.0
"""Thinking may still come for so many tokens, or seconds, after the server has said that it ends it: what is
under way, and the server's own words before the closing tag."""


class Seen(TypedDict):
    """What a stream tells of its own speed, in seconds."""

    s_per_token: float | None
    ttft_s: float | None


class Stopper:
    """Judges the thinking of one response, and acts on it.

    Args:
        session: The decision and what was rendered of it.
        transcript: The response as it comes.
        criterion: Watches the thinking; None when the budget names none.
        counter: Counts tokens; None estimates them.
        can_continue: A thought that is cut can be brought to its answer.
        note: Gets what went wrong.
        on_broken: Told the names of controls that the server refused or ignored.

    Attributes:
        controls: The controls that really act.
        evidence: Why thinking was ended; None while it was not.
        cut: The stream is to be closed, and the answer to be written from the thought.
        calls: Requests that were made.
    """

    def __init__(
        self,
        session: Session,
        *,
        transcript: Transcript,
        criterion: Criterion | None,
        counter: Counter | None,
        can_continue: bool,
        note: Callable[[str], None],
        on_broken: OnBroken,
    ) -> None:
        self.controls: tuple[AppliedControl, ...] = session.controls
        self.evidence: Evidence | None = None
        self.cut = False
        self.calls = 0
        self._session = session
        self._transcript = transcript
        self._criterion = criterion
        self._counted = counter is not None
        self._can_continue = can_continue
        self._note = note
        self._on_broken = on_broken
        self._due = False
        self._id: Any = None
        self._ended_at: tuple[int, float] | None = None

    @property
    def watching(self) -> bool:
        """Whether there is anything to judge by."""
        return self._criterion is not None

    @property
    def can_act(self) -> bool:
        """Whether there is a way to end the thinking."""
        return self._can_continue or self._live

    @property
    def ended_live(self) -> bool:
        """Whether the server was asked to end the thinking and said that it does."""
        return self._ended_at is not None

    @property
    def _live(self) -> bool:
        return any(c.name == LIVE_END and c.strength == "hard" for c in self.controls)

    def disarm(self) -> None:
        """Do without every control: the server has refused them."""
        self.controls, self._criterion = (), None

    def deafen(self) -> None:
        """Do without judging: something of ours is broken."""
        self._criterion = None

    def observe_only(self) -> None:
        """Say of the controls that act on a stream that they do not act: the response came whole."""
        self._criterion = None
        self.controls = tuple(replace(c, strength="none") if c.name in OURS else c for c in self.controls)

    def judge(self, body: Mapping[str, Any]) -> None:
        """Ask the criteria, and whether the server keeps what it was asked for.

        Args:
            body: The chunk that has just come; it carries the server's id of the response.
        """
        if not self._transcript.thinking:
            return
        if self.evidence is not None:
            self._ignored_end()
            return
        self._id = body.get("id")
        evidence = self.ignored_cap()
        if evidence is None and self._criterion is not None:
            evidence = self._criterion.observe(self._transcript.progress())
        if evidence is not None:
            self._found(evidence)

    def silent(self) -> None:
        """Cut the thought off: nothing came until the time that the deadline leaves for thinking was over."""
        if self.evidence is None:
            self._found(Evidence(criterion=Deadline.name, reason=StopReason.DEADLINE))
        self._note("the stream fell silent")
        self._ended_at, self.cut = None, True

    def act(self) -> Generator[Effect, Any, bool]:
        """End the thinking if that is due; true when the stream has to be closed for it."""
        if not self._due:
            return False
        self._due = False
        if self._live and (yield from self._end_live()):
            return False
        if not self._can_continue:
            self._give_up(self.evidence)
        self.cut = self._can_continue
        return self.cut

    def patience(self) -> float | None:
        """Return the seconds for which the stream may keep silent: until only the answer's time is left."""
        acting = any(c.name == DEADLINE and c.strength == "hard" for c in self.controls)
        if not acting or not self._can_continue or not self._transcript.thinking:
            return None
        budget = self._session.budget
        left = (budget.deadline_s or 0.0) - self._transcript.elapsed_s
        if self.ended_live:
            return max(left, LIVE_S)
        tail_s = self._session.flight.tail_s(self._answer_tokens, **self._seen)
        return max(left - tail_s, 0.0)

    @property
    def _answer_tokens(self) -> int:
        own = self._session.budget.answer_tokens
        return own or self._session.capability.answer_tokens or ANSWER_TOKENS

    @property
    def _seen(self) -> Seen:
        return {"s_per_token": self._transcript.pace, "ttft_s": self._transcript.ttft_s}

    def ignored_cap(self) -> Evidence | None:
        """The watchdog: thinking beyond 1.1 * cap + 32 although a hard cap of the engine was sent."""
        cap = self.engine_cap()
        if cap is None:
            return None
        # Estimated counts may be off by a third: do not call an engine broken for that.
        slack = 1.1 if self._counted else 1.5
        reported = self._transcript.reported
        spent = reported.reasoning_tokens if reported is not None else None
        if spent is not None:
            slack = 1.1
        else:
            spent = self._transcript.reasoning_tokens
        if spent <= slack * cap.value + 32:
            return None
        self._on_broken(frozenset({cap.name}))
        self._note(f"{cap.name}={cap.value} was sent and ignored")
        names = self._engine_parameters
        self.controls = tuple(replace(c, strength="none") if c.name in names else c for c in self.controls)
        return Evidence(criterion="watchdog", reason=StopReason.CAP)

    def engine_cap(self) -> AppliedControl | None:
        """Return the cap that the engine has to keep, if it was sent one and was not seen to ignore it."""
        names = self._engine_parameters
        return next((c for c in self.controls if c.name in names and c.strength == "hard"), None)

    def reason(self) -> StopReason:
        """Return why thinking ended."""
        if self.evidence is not None:
            return self.evidence.reason
        if self._session.budget.off and any(c.strength != "none" for c in self.controls):
            return StopReason.OFF
        if self.capped or (self.limited and self._transcript.empty):
            return StopReason.CAP
        return StopReason.LENGTH if self._transcript.finish == "length" else StopReason.NATURAL

    def actuator(self) -> str | None:
        """Name what ended the thinking within the first response; None where the model did itself."""
        if self.ended_live:
            return "live_end"
        return "engine_cap" if self.evidence is None and self.capped else None

    @property
    def capped(self) -> bool:
        """Whether thinking reached the engine's cap."""
        cap, spent = self.engine_cap(), self._transcript.usage(visible=True).reasoning_tokens
        return cap is not None and spent is not None and spent >= cap.value

    @property
    def limited(self) -> bool:
        """Whether the response was cut off by an output limit of ours."""
        name = self._session.capability.output_limit
        return self._transcript.finish == "length" and any(c.name == name for c in self.controls)

    @property
    def cap_sent(self) -> bool:
        """Whether the engine was sent a cap, kept or not."""
        return any(c.name in self._engine_parameters for c in self.controls)

    @property
    def _engine_parameters(self) -> tuple[str, ...]:
        engine = self._session.capability.cap
        return engine.parameters if engine is not None else ()

    def _found(self, evidence: Evidence) -> None:
        self._session.controller.callbacks.emit("on_stop", evidence)
        if self.can_act:
            self._session.flight.cut(self._transcript.elapsed_s, self._answer_tokens, **self._seen)
            self.evidence, self._due = evidence, True
        else:
            self._give_up(evidence)

    def _give_up(self, evidence: Evidence | None) -> None:
        if evidence is not None:
            self._note(f"{evidence.criterion} fired and nothing could act on it")
        self.evidence = self._criterion = None

    def _end_live(self) -> Generator[Effect, Any, bool]:
        """Ask the server to end the thinking of the running response; true when it says that it does."""
        if not self._id:
            return False
        self.calls += 1
        try:
            params = {"id": self._id, "action": "reasoning_end"}
            yield Send(path=CONTROL, params=params, stream=False)
        except Exception as error:
            self._note(f"not ended live: {brief(error)}")
            self._gone(broken=status(error) in MISSING)
            return False
        self._ended_at = (self._transcript.reasoning_tokens, self._transcript.elapsed_s)
        return True

    def _ignored_end(self) -> None:
        """Cut the thought off that the server said it would end, and did not."""
        if self._ended_at is None:
            return
        tokens, seconds = self._ended_at
        more = self._transcript.reasoning_tokens - tokens
        if more <= LIVE_TOKENS or self._transcript.elapsed_s - seconds <= LIVE_S:
            return
        self._note("the server said that it ended the thinking, and did not")
        self._ended_at, self._due = None, True
        self._gone(broken=True)

    def _gone(self, *, broken: bool) -> None:
        self.controls = tuple(replace(c, strength="none") if c.name == LIVE_END else c for c in self.controls)
        if broken:
            self._on_broken(frozenset({LIVE_END}))
