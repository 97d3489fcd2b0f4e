"""What was found out about an endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from budgetctl.capabilities import Continuation
from budgetctl.types import Strength


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What an endpoint did with one control.

    Attributes:
        name: The control: ``off``, ``cap``, ``live_end``, ``abort_continue``, ``close``; ``call`` where a
            plain one failed.
        strength: Who keeps it, as far as was seen; ``none`` where nobody does.
        verified: It was seen to work (True) or not to (False); None where that could not be told.
        observed: What was seen, in a few words.
        sent: The parameters that were tried, by dotted path.
        way: How a thought was continued, as the capability table names it; None for other controls.
    """

    name: str
    strength: Strength
    verified: bool | None
    observed: str
    sent: Mapping[str, Any] = field(default_factory=dict)
    way: Continuation | None = None

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "name": self.name,
            "strength": self.strength,
            "verified": self.verified,
            "observed": self.observed,
            "sent": dict(self.sent),
            "way": self.way,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Everything that was found out.

    Attributes:
        model: Name of the model.
        endpoint: Kind of endpoint, as in the capability table.
        engine: Name and version, as far as the server told.
        reasoning: Where thinking was seen: ``field``, ``inline``, ``hidden`` (only counted), or ``none``.
        field: Name of the field that carried it.
        starts_in_think: Inline thinking came without its opening tag.
        natural_tokens: Tokens of thinking without any control.
        truncated: The output limit cut it, so there would have been more.
        reports_reasoning: Usage says how many of its tokens were thinking.
        stream_usage: How a stream reports usage: ``include_usage``, ``always``, ``never``.
        findings: One per control that was tried: what works, or else what says most.
        tried: All of them, in order.
        calls: Calls that were made.
        output_tokens: Tokens that they generated, as far as they were reported: at least so many.
    """

    model: str
    endpoint: str
    engine: str | None
    reasoning: str
    field: str | None
    starts_in_think: bool
    natural_tokens: int
    truncated: bool
    reports_reasoning: bool
    stream_usage: str
    findings: tuple[Finding, ...]
    tried: tuple[Finding, ...]
    calls: int
    output_tokens: int

    def finding(self, name: str) -> Finding | None:
        """Return what was found out about one control."""
        return next((finding for finding in self.findings if finding.name == name), None)

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "model": self.model,
            "endpoint": self.endpoint,
            "engine": self.engine,
            "reasoning": {
                "seen": self.reasoning,
                "field": self.field,
                "starts_in_think": self.starts_in_think,
                "natural_tokens": self.natural_tokens,
                "truncated": self.truncated,
                "reported_in_usage": self.reports_reasoning,
            },
            "stream_usage": self.stream_usage,
            "controls": [finding.as_json() for finding in self.findings],
            "tried": [finding.as_json() for finding in self.tried],
            "calls": self.calls,
            "output_tokens": self.output_tokens,
        }
