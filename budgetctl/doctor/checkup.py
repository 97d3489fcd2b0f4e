"""The checks: what is asked of an endpoint, and what its replies mean.

Nothing here does io: an :class:`Endpoint` answers. A control counts as kept when the reply shows it: no
thinking where it was switched off, no more than ``1.1 * cap + 32`` tokens of it under a cap (half as much
again where tokens are only estimated). What an endpoint accepts and does not keep is worse than what it
refuses, and both are said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from budgetctl.capabilities import Capability
from budgetctl.doctor.endings import has_live_end, live_end, ways
from budgetctl.doctor.endpoint import Endpoint, Reply
from budgetctl.doctor.findings import Diagnosis, Finding

MIN_CAP = 16
CAP_SHARE = 4
"""The cap that is tried is one part in so many of the natural thinking."""

SWITCHES: tuple[Mapping[str, Any], ...] = (
    {"chat_template_kwargs.enable_thinking": False},
    {"chat_template_kwargs.thinking": False},
    {"reasoning_effort": "none"},
    {"reasoning_budget_tokens": 0, "thinking_budget_tokens": 0},
)
"""How thinking is switched off here and there."""
CAPS: tuple[tuple[str, ...], ...] = (
    ("thinking_token_budget",),
    ("reasoning_budget_tokens", "thinking_budget_tokens"),
    ("custom_params.thinking_budget",),
    ("thinking_budget",),
)
"""What a cap on thinking is called here and there."""


@dataclass(slots=True)
class Checkup:
    """One visit.

    Args:
        endpoint: Who is asked.
        capability: What the table says of it; its own parameters are tried first.
    """

    endpoint: Endpoint
    capability: Capability
    output_tokens: int = 0
    tried: list[Finding] = field(default_factory=list)

    def run(self) -> Iterator[str | Diagnosis]:
        """Yield what is being done, and the diagnosis at the end."""
        yield "thinking without any control"
        plain = self._ask({})
        if plain.refused is not None:  # what it refuses may be our asking for usage
            plain = self._ask({}, with_usage=False)
        if (wrong := _wrong(plain)) is not None:
            call = Finding(name="call", strength="none", verified=False, observed=wrong)
            yield self._diagnosis(plain, findings=[call], stream_usage="never")
            return
        yield "usage of a stream"
        stream_usage = self._stream_usage(plain)
        findings: list[Finding] = []
        if plain.reasoning_tokens:
            yield "switching thinking off"
            findings.append(self._first(self._off()))
            yield "capping it"
            findings.append(self._first(self._cap(plain)))
            if has_live_end(self.endpoint, self.capability):
                yield "ending a running thought"
                findings.append(self._live_end(plain))
            yield "continuing from a closed thought"
            findings.append(self._continuation(plain))
            yield "closing a stream"
            findings.append(self._close())
        yield self._diagnosis(plain, findings=findings, stream_usage=stream_usage)

    def _ask(self, extra: Mapping[str, Any], *, with_usage: bool = True) -> Reply:
        return self._count(self.endpoint.ask(extra, with_usage=with_usage))

    def _count(self, reply: Reply) -> Reply:
        self.output_tokens += reply.output_tokens or 0
        return reply

    def _stream_usage(self, plain: Reply) -> str:
        if not plain.usage:
            return "never"
        return "always" if self._ask({}, with_usage=False).usage else "include_usage"

    def _first(self, found: Iterator[Finding]) -> Finding:
        """Try until something works; return it, else what was learnt most of."""
        tried: list[Finding] = []
        for finding in found:
            tried.append(finding)
            if finding.verified:
                break
        self.tried += tried
        return _telling(tried)

    def _off(self) -> Iterator[Finding]:
        own = [self.capability.off.parameters] if self.capability.off is not None else []
        for sent in _distinct([*own, *SWITCHES]):
            reply = self._ask(sent)
            kept: bool | None
            if reply.failed is not None:
                seen, kept = f"failed: {reply.failed}", None
            elif reply.refused is not None:
                seen, kept = f"refused: {reply.refused}", False
            elif reply.reasoning_tokens:
                seen, kept = f"ignored: {_thought(reply)}", False
            elif not reply.answer.strip():
                seen, kept = "no thinking, but no answer either", False
            else:
                seen, kept = "no thinking, and an answer", True
            yield Finding(
                name="off", strength="hard" if kept else "none", verified=kept, observed=seen, sent=sent
            )

    def _cap(self, plain: Reply) -> Iterator[Finding]:
        own = [self.capability.cap.parameters] if self.capability.cap is not None else []
        cap = _tried_cap(plain)
        for names in dict.fromkeys([*(names for names in own if names), *CAPS]):
            sent = dict.fromkeys(names, cap)
            reply = self._ask(sent)
            verified: bool | None = False
            if reply.failed is not None:
                verified, seen = None, f"failed: {reply.failed}"
            elif reply.refused is not None:
                seen = f"refused: {reply.refused}"
            elif plain.reasoning_tokens <= _most(cap, reported=plain.reported):
                verified, seen = None, f"its natural thinking is too short to tell: {_thought(plain)}"
            elif reply.reasoning_tokens > _most(cap, reported=reply.reported):
                seen = f"ignored: {_thought(reply)} under a cap of {cap}"
            elif not reply.answer.strip():
                seen = f"{_thought(reply)} under a cap of {cap}, and then no answer"
            else:
                verified, seen = True, f"{_thought(reply)} under a cap of {cap}, and an answer"
            yield Finding(
                name="cap",
                strength="hard" if verified else "none",
                verified=verified,
                observed=seen,
                sent=sent,
            )

    def _live_end(self, plain: Reply) -> Finding:
        finding = live_end(self.endpoint, self._count, plain, after=_tried_cap(plain))
        self.tried.append(finding)
        return finding

    def _continuation(self, plain: Reply) -> Finding:
        """Try every way of going on from a thought: a server may have some of them."""
        found = list(ways(self.endpoint, self._count, plain, self.capability))
        self.tried += found
        return _telling(found)

    def _close(self) -> Finding:
        stopped, seen = self.endpoint.stops_when_closed()
        finding = Finding(
            name="close", strength="hard" if stopped else "none", verified=stopped, observed=seen
        )
        self.tried.append(finding)
        return finding

    def _diagnosis(self, plain: Reply, *, findings: list[Finding], stream_usage: str) -> Diagnosis:
        where = "field" if plain.field else "inline" if plain.reasoning else "none"
        if where == "none" and plain.reasoning_tokens:
            where = "hidden"
        return Diagnosis(
            model=self.endpoint.model,
            endpoint=self.endpoint.kind,
            engine=self.endpoint.engine(),
            reasoning=where,
            field=plain.field,
            starts_in_think=plain.untagged,
            natural_tokens=plain.reasoning_tokens,
            truncated=plain.finish == "length",
            reports_reasoning=plain.reported,
            stream_usage=stream_usage,
            findings=tuple(findings),
            tried=tuple(self.tried),
            calls=self.endpoint.calls,
            output_tokens=self.output_tokens,
        )


def _wrong(plain: Reply) -> str | None:
    """Return what is wrong with a plain call; None where it brought thinking or an answer."""
    if plain.failed is not None:
        return f"failed: {plain.failed}"
    if plain.refused is not None:
        return f"refused: {plain.refused}"
    if not plain.reasoning_tokens and not plain.answer.strip():
        return "neither thinking nor an answer came"
    return None


def _telling(tried: Sequence[Finding]) -> Finding:
    """Return what works, else what was learnt most of: what was not kept says more than a refusal."""
    for finding in tried:
        if finding.verified:
            return finding
    ignored = (f for f in tried if f.verified is False and not f.observed.startswith("refused"))
    return next(ignored, next((f for f in tried if f.verified is False), tried[0]))


def _tried_cap(plain: Reply) -> int:
    return max(MIN_CAP, plain.reasoning_tokens // CAP_SHARE)


def _most(cap: int, *, reported: bool) -> float:
    """Return the most tokens of thinking under a cap that counts as kept: the watchdog's own rule."""
    return (1.1 if reported else 1.5) * cap + 32


def _thought(reply: Reply) -> str:
    about = "" if reply.reported else "about "
    return f"{about}{reply.reasoning_tokens} tokens of thinking"


def _distinct(options: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [option for i, option in enumerate(options) if option not in options[:i]]
