"""What the caller sees of one logical call: one response, however many it took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from budgetctl.engine.chunks import Assembler, Codec, Labels, usage_body
from budgetctl.engine.effects import Emit, Machine
from budgetctl.engine.ledger import Ledger

if TYPE_CHECKING:
    from budgetctl.session import Session

_OURS: Any = object()
"""In place of a chunk of the SDK's, which may be None: there is none."""


class Delivery:
    """Shows chunks to the caller, or puts them together for one who wants the response whole.

    Attributes:
        labels: What the chunks of the response share.
        assembled: The response so far, of a call that does not stream.
    """

    def __init__(self, session: Session, *, codec: Codec, stream: bool) -> None:
        self.labels = Labels()
        self.assembled = Assembler()
        self._session = session
        self._codec = codec
        self._stream = stream
        self._is_shut = False

    def show(self, body: Mapping[str, Any], chunk: Any = _OURS) -> Machine:
        """Show one chunk; ``chunk`` is the SDK's own object where it is as it came."""
        if self._stream:
            yield Emit(self._codec.chunk(body) if chunk is _OURS else chunk)
        else:
            self.assembled.add(body)

    def say(self, *, content: str | None = None, reasoning: str | None = None) -> Machine:
        """Show text of ours, or of another response, as a chunk of this one."""
        yield from self.show(self.labels.chunk(content=content, reasoning=reasoning))

    def shut(self, ledger: Ledger) -> Machine:
        """End the inline thought of the first response, where the caller has seen one that is open: once."""
        if ledger.first.in_thought and not self._is_shut:
            self._is_shut = True
            yield from self.say(content=self._session.capability.close_text)

    def end(self, ledger: Ledger) -> Machine:
        """Show the last chunks of a response that was changed: finish reason, and usage where it is due."""
        finish = ledger.current.finish or "stop"
        usage = usage_body(ledger.spent(), prompt=ledger.usages()[0].prompt_tokens)
        options = self._session.caller_params.get("stream_options")
        if self._session.capability.stream_usage == "always" or not self._stream:
            yield from self.show(self.labels.chunk(finish=finish, usage=usage))
            return
        yield from self.show(self.labels.chunk(finish=finish))
        if isinstance(options, Mapping) and options.get("include_usage"):
            yield from self.show(self.labels.usage_chunk(usage))
