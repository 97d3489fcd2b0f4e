"""The sum of one logical call: every response that it took, recoveries included."""

from __future__ import annotations

from dataclasses import replace

from budgetctl.capabilities import Capability
from budgetctl.engine.transcript import Counter, Transcript
from budgetctl.types import Timing, Usage


class Ledger:
    """Adds up the transcripts of a call.

    Attributes:
        first: The transcript of the first response.
    """

    def __init__(self, first: Transcript, *, capability: Capability, counter: Counter | None) -> None:
        self.first = first
        self._transcripts = [first]
        self._continued: Transcript | None = None
        self._capability = capability
        self._counter = counter

    @property
    def answered(self) -> bool:
        """Whether any response brought an answer."""
        return not all(t.empty for t in self._transcripts)

    def add(self, transcript: Transcript, *, raw: bool) -> None:
        """Add another response; ``raw``: it continues the first one's thought."""
        self._transcripts.append(transcript)
        if raw and self._continued is None:
            self._continued = transcript

    def usages(self) -> list[Usage]:
        """Return the usage of every response that was heard, the first one's always first.

        A response that was cut has lost its prompt count. Where its continuation reported one, the count
        is that less the thought and its close.
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
            closing = Transcript.count(self._capability.close_text, self._counter)
            usages[0] = replace(usages[0], prompt_tokens=max(0, again.prompt_tokens - thought - closing))
        return usages

    def spent(self) -> Usage:
        """Return the tokens of the whole call; prompts that were prefilled again count again."""
        first, *others = self.usages()
        for usage in others:
            first += usage
        return first

    def timing(self) -> Timing:
        """Return the times at which the tokens of the responses came."""
        timings = [t.timing() for t in self._transcripts]
        answer = next((t.ttfo_s for t in timings if t.ttfo_s is not None), None)
        return Timing(ttft_s=timings[0].ttft_s, ttfo_s=answer, e2e_s=timings[-1].e2e_s)
