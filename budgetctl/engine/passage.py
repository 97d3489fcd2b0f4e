"""How the first response of a call reaches the caller: untouched, unless the end of its thinking spoilt it.

An engine that forces the end of a thought has been seen to write a second closing tag, to let the model think
on in the answer, and to write into a tool's arguments. So where it was asked to, the first characters of the
answer are held back, and tool calls until they are whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from budgetctl.adapters.base import LIVE_END, OURS
from budgetctl.engine.chunks import Assembler, delta_of, with_content
from budgetctl.engine.delivery import Delivery
from budgetctl.engine.effects import Machine
from budgetctl.engine.stopper import Stopper
from budgetctl.engine.transcript import Transcript
from budgetctl.guard import Opening, garbled

if TYPE_CHECKING:
    from budgetctl.session import Session

NEAR = 0.75
"""From this share of its cap on, a thought counts as perhaps ended by the engine: counts are estimates."""


class Passage:
    """Shows the chunks of the first response.

    Args:
        session: The decision and what was rendered of it.
        delivery: Shows the caller what comes.
        transcript: The response as it comes; it has taken a chunk in before that is shown.
        stopper: Knows which controls act.

    Attributes:
        spoilt: What had to be JSON is none, so it was not shown.
    """

    def __init__(
        self, session: Session, *, delivery: Delivery, transcript: Transcript, stopper: Stopper
    ) -> None:
        self.spoilt = False
        self._session = session
        self._delivery = delivery
        self._transcript = transcript
        self._stopper = stopper
        self._opening: Opening | None = None
        self._ending = False
        self._withheld: list[tuple[Mapping[str, Any], Any]] = []

    def show(self, body: Mapping[str, Any], chunk: Any, *, missing: bool) -> Machine:
        """Show a chunk, or hold it back; the end of a response is, for good, whose answer is ``missing``."""
        self._ending = self._ending or (self._transcript.finish is not None and missing)
        if self._ending:
            if not self._transcript.empty:
                yield from self.let_through()
            if (rest := self._delivery.labels.relabel(body)) is not None:
                yield from self._delivery.show(rest)
        elif self._transcript.called and self._stopper.cap_sent:
            yield from self.let_through()
            self._withheld.append((body, chunk))
        else:
            yield from self._filtered(body, chunk)

    @property
    def rethinking(self) -> bool:
        """Whether the answer, still held back, begins as thinking does, and goes on."""
        return self._opening is not None and self._opening.rethinking and self._transcript.finish is None

    def reclose(self) -> Machine:
        """Show what was held back as the thinking that it is."""
        assert self._opening is not None
        self._transcript.reclassify()
        yield from self._delivery.say(reasoning=self._opening.release())

    def let_through(self) -> Machine:
        """Show what was held back as the answer."""
        if self._opening is not None and (text := self._opening.release()):
            yield from self._delivery.say(content=text)

    def end(self) -> Machine:
        """Show what is still held back: the stream has ended."""
        yield from self.let_through()
        if self._withheld:
            calls = Assembler()
            for body, _ in self._withheld:
                calls.add(body)
            self.spoilt = self.garbled(delta_of(calls.completion()))
        if not self.spoilt:
            for body, chunk in self._withheld:
                yield from self._delivery.show(body, chunk)

    def garbled(self, message: Mapping[str, Any]) -> bool:
        """Whether a message holds no JSON where it had to, and a cap of the engine may be the reason."""
        if not self._stopper.cap_sent or self._transcript.finish == "length":
            return False
        own = self._session.caller_params
        form = {**own, **(own.get("extra_body") or {})}.get("response_format")
        structured = isinstance(form, Mapping) and form.get("type") in ("json_object", "json_schema")
        return garbled(message, structured=structured and self._stopper.capped)

    def cleaned(self, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return a whole response without the closing tag that a server left in its answer; None has none."""
        content, labels = delta_of(body).get("content"), self._delivery.labels
        tagged = isinstance(content, str) and self._session.capability.close_tag in content
        if not tagged or labels.inline or not self._sent or self._transcript.answer == content:
            return None
        reasoning = {labels.reasoning: self._transcript.reasoning} if self._transcript.reasoning else {}
        return with_content(body, self._transcript.answer.lstrip("\n"), **reasoning)

    @property
    def _sent(self) -> bool:
        """Whether the engine was told anything about thinking."""
        others = {*OURS, LIVE_END, self._session.capability.output_limit}
        told = (c for c in self._stopper.controls if c.name not in others)
        return any(c.strength != "none" for c in told)

    def _filtered(self, body: Mapping[str, Any], chunk: Any) -> Machine:
        content = delta_of(body).get("content")
        if self._opening is None and isinstance(content, str) and content:
            self._opening = self._begun()
        opening = self._opening
        if opening is None or self._delivery.labels.inline:
            yield from self.let_through()
            yield from self._delivery.show(body, chunk)
            return
        said = content if isinstance(content, str) else ""
        shown = opening.feed(said) if said else ""
        if opening.thought:
            yield from self._delivery.say(reasoning=opening.thought)
            opening.thought = ""
        if self._transcript.finish is not None:
            shown += opening.release()
        if shown == said:
            yield from self._delivery.show(body, chunk)
        else:
            yield from self._delivery.show(with_content(body, shown))

    def _begun(self) -> Opening | None:
        """Return what looks at the beginning of the answer; None where nothing of ours came before it."""
        cap, tag = self._stopper.engine_cap(), self._session.capability.close_tag
        capped = cap is not None and self._transcript.reasoning_tokens >= NEAR * cap.value
        if self._stopper.ended_live or capped:
            return Opening(close_tag=tag)
        return Opening(close_tag=tag, judged=False) if self._sent else None
