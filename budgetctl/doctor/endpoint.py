"""What the checks need of an endpoint: someone who asks it, and what came of one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from budgetctl.capabilities import Capability, Continuation


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What one call came to.

    Attributes:
        refused: The server's own words, where it refused the call.
        failed: What went wrong where that says nothing of the parameters: limits, faults, lost connections.
        reasoning: The thinking.
        answer: The answer.
        reasoning_tokens: Tokens of thinking, reported, else estimated.
        reported: They were reported.
        output_tokens: All output tokens, reported; None where they were not.
        usage: The stream reported usage at all.
        field: Name of the field that carried thinking; None where it came inline or not at all.
        untagged: Inline thinking came without its opening tag.
        finish: The finish reason.
    """

    refused: str | None = None
    failed: str | None = None
    reasoning: str = ""
    answer: str = ""
    reasoning_tokens: int = 0
    reported: bool = False
    output_tokens: int | None = None
    usage: bool = False
    field: str | None = None
    untagged: bool = False
    finish: str | None = None


class Endpoint(Protocol):
    """What the checks need of an endpoint and a model."""

    model: str
    kind: str
    calls: int

    def ask(self, extra: Mapping[str, Any], *, with_usage: bool = True) -> Reply:
        """Ask the question with more parameters, by dotted path; what is refused is a reply too."""
        ...

    def continue_from(self, thought: str, capability: Capability, *, way: Continuation) -> Reply | None:
        """Let the model answer from a closed thought; None where that way cannot be tried."""
        ...

    def end_live(self, *, after: int) -> Reply:
        """Ask the question and have the server end the running thought after so many tokens of it."""
        ...

    def stops_when_closed(self) -> tuple[bool | None, str]:
        """Close a stream early and say whether the server stopped generating, and how that was seen."""
        ...

    def engine(self) -> str | None:
        """Return name and version of the engine, as far as it tells them."""
        ...
