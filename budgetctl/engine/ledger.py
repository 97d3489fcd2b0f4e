"""The sum of one logical call: every response that it took, recoveries included."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from budgetctl.channels import ChatChannels
from budgetctl.engine.transcript import Counter, Transcript
from budgetctl.speed import Request
from budgetctl.types import Timing, Usage

if TYPE_CHECKING:
    from budgetctl.session import Session


class Ledger:
    """Keeps and adds up the transcripts of a call.

    Attributes:
        first: The transcript of the first response.
        current: That of the one that is being heard.
        resumed: What was said by one that goes on with the first one's answer; None where none does.
    """

    def __init__(self, session: Session, *, counter: Counter | None) -> None:
        self._session = session
        self._capability = session.capability
        self._counter = counter
        self._continued: Transcript | None = None
        self._lead = ""
        self.resumed: list[str] | None = None
        self.first = self.current = self._listen()
        self._transcripts = [self.first]
        self._crowds = [session.flight.concurrency]

    @property
    def answered(self) -> bool:
        """Whether any response brought an answer."""
        return not all(t.empty for t in self._transcripts)

    @property
    def answer(self) -> str:
        """The text of the answer, as far as it has come."""
        return self.current.answer if self.resumed is None else self.first.answer + "".join(self.resumed)

    def begin(self, *, raw: bool = False, untagged: bool = False, lead: str | None = None) -> Transcript:
        """Begin another response and return its transcript.

        Args:
            raw: It goes on from the first one's thought, which is closed.
            untagged: It begins in a thought, without the opening tag.
            lead: What it goes on from after the thought; None is what closes a thought that was cut.
        """
        self.current = self._listen(raw=raw, untagged=untagged)
        self._transcripts.append(self.current)
        self._crowds.append(self._session.flight.concurrency)
        if raw and self._continued is None:
            self._continued = self.current
            self._lead = self._capability.close_text if lead is None else lead
        return self.current

    def abandon(self) -> None:
        """Take the first response for all there is, since going on with it failed."""
        del self._transcripts[1:], self._crowds[1:]
        self.current, self._continued, self.resumed = self.first, None, None

    def _listen(self, *, raw: bool = False, untagged: bool = False) -> Transcript:
        capability = self._capability
        channels = ChatChannels(
            open_tag=capability.open_tag,
            close_tag=capability.close_tag,
            starts_in_think=untagged or (capability.starts_in_think and not raw),
        )
        return Transcript(
            channels,
            clock=self._session.clock,
            started=self._session.started,
            counter=self._counter,
            closed=raw,
        )

    def usages(self) -> list[Usage]:
        """Return the usage of every response that was heard, the first one's always first.

        A response that was cut has lost its prompt count. Where its continuation reported one, the count
        is that less the thought and what follows it there.
        """
        visible = self._capability.known and self._capability.reasoning != "hidden"
        heard = [t for t in self._transcripts if t is self.first or t.heard or t.reported is not None]
        usages = [t.usage(visible=visible) for t in heard]
        again = self._continued.reported if self._continued is not None else None
        thought = usages[0].reasoning_tokens
        if (
            usages[0].prompt_tokens is None
            and again is not None
            and again.prompt_tokens
            and thought is not None
        ):
            closing = self.first.count(self._lead)
            usages[0] = replace(usages[0], prompt_tokens=max(0, again.prompt_tokens - thought - closing))
        return usages

    def spent(self) -> Usage:
        """Return the tokens of the whole call; prompts that were prefilled again count again."""
        first, *others = self.usages()
        for usage in others:
            first += usage
        return first

    def prefilled(self) -> int | None:
        """Return the prompt tokens of all responses but the first; None where one was not reported."""
        counts = [usage.prompt_tokens for usage in self.usages()[1:]]
        return None if None in counts else sum(count or 0 for count in counts)

    def requests(self) -> list[Request]:
        """Return how fast each response came, as far as it was heard token by token."""
        found = []
        for transcript, crowd in zip(self._transcripts, self._crowds, strict=True):
            usage, ttft_s, took_s = transcript.usage(visible=True), transcript.ttft_s, transcript.took_s
            tokens = (usage.reasoning_tokens or 0) + (usage.answer_tokens or 0)
            if ttft_s is not None and took_s is not None:
                found.append(Request(ttft_s=ttft_s, tokens=tokens, seconds=took_s, concurrency=crowd))
        return found

    def timing(self) -> Timing:
        """Return the times at which the tokens of the responses came."""
        timings = [t.timing() for t in self._transcripts]
        answer = next((t.ttfo_s for t in timings if t.ttfo_s is not None), None)
        return Timing(ttft_s=timings[0].ttft_s, ttfo_s=answer, e2e_s=timings[-1].e2e_s)
