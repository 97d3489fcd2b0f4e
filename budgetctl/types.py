"""The values that travel along one call: query, estimate, budget, decision, usage, timing.

All are frozen, slotted and keyword-only. ``None`` means unknown, never zero; tokens are the model's own
tokens, seconds are wall-clock seconds, dollars are US dollars.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise
from typing import Any, Literal, TypeVar

from budgetctl.errors import ConfigError

Strength = Literal["hard", "advisory", "none"]
"""Who keeps a control: the engine (hard), the model if it cares to (advisory), nobody (none)."""

Provenance = Literal["reported", "counted", "estimated"]
"""Where a token count comes from: the provider, our tokenizer, or the length of the text."""

CallerValues = Literal["pin", "ceiling"]
"""Whose values win: the caller's stay as they are, or may be lowered."""

EventKind = Literal["reasoning", "answer", "tool", "usage", "finish", "reclassify"]
"""What a piece of a stream is. ``reclassify`` carries no text: all answer text so far was reasoning, because
a closing tag came whose opening tag the chat template had swallowed."""

RECENT_TURNS = 6

STOP_PRESETS = ("none", "safe", "balanced", "aggressive")
"""Stop presets, from the one that never stops to the one that stops soonest."""

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""Effort levels whose order is known, weakest first."""

_Number = TypeVar("_Number", int, float)


class StopReason(StrEnum):
    """Why thinking ended."""

    NATURAL = "natural"
    """The model closed its thinking itself."""
    CAP = "cap"
    """The reasoning cap (with its grace) was reached."""
    DEADLINE = "deadline"
    """Only the answer reserve was left of the deadline."""
    LOOP = "loop"
    """The model was repeating itself."""
    SETTLED = "settled"
    """The answer had settled, as far as a criterion could tell."""
    LENGTH = "length"
    """The provider's own output limit cut the call."""
    OFF = "off"
    """Thinking was switched off, so there was none to end."""
    CALLER = "caller"
    """The caller closed the stream."""
    ERROR = "error"
    """The call failed."""
    UNKNOWN = "unknown"
    """Nobody of ours saw the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One earlier message of the conversation, text only."""

    role: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What the classifier sees of a call.

    Attributes:
        text: The last user turn.
        model: The model the call names, if known.
        recent: Up to ``RECENT_TURNS`` turns before it, oldest first.
        has_tools: The call offers tools.
        structured: The call asks for JSON or a schema.
        system_chars: Length of the system prompts, in characters.
        total_chars: Length of all messages, in characters.
        opening: The turns up to and including the first one of the user's, by which a conversation is known
            again; empty where they are unknown.
        begins: Nothing has been said since.
    """

    text: str
    model: str | None = None
    recent: tuple[Turn, ...] = ()
    has_tools: bool = False
    structured: bool = False
    system_chars: int = 0
    total_chars: int = 0
    opening: tuple[Turn, ...] = ()
    begins: bool = True

    @property
    def prompt_tokens(self) -> float:
        """Tokens of the prompt, estimated: a quarter of its characters."""
        return self.total_chars / 4

    @classmethod
    def from_text(cls, text: str, *, model: str | None = None) -> Query:
        """Build the query of a call whose only message is ``text``."""
        opening = (Turn(role="user", text=text),)
        return cls(text=text, model=model, total_chars=len(text), opening=opening)

    @classmethod
    def from_messages(
        cls,
        messages: Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        has_tools: bool = False,
        structured: bool = False,
    ) -> Query:
        """Build the query of a chat call from its messages, which are only read.

        Content may be a string or a list of parts; parts without text count as empty.
        """
        turns = [Turn(role=str(m.get("role", "")), text=_content_text(m.get("content"))) for m in messages]
        last = max((i for i, t in enumerate(turns) if t.role == "user"), default=len(turns) - 1)
        earlier = [t for t in turns[: max(last, 0)] if t.role in ("user", "assistant")]
        first = next((i for i, t in enumerate(turns) if t.role == "user"), None)
        opening = () if first is None else tuple(turns[: first + 1])
        return cls(
            text=turns[last].text if turns else "",
            model=model,
            recent=tuple(earlier[-RECENT_TURNS:]),
            has_tools=has_tools,
            structured=structured,
            system_chars=sum(len(t.text) for t in turns if t.role in ("system", "developer")),
            total_chars=sum(len(t.text) for t in turns),
            opening=opening,
            begins=len(opening) == len(turns),
        )


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        parts = (p.get("text") for p in content if isinstance(p, Mapping))
        return "\n".join(p for p in parts if isinstance(p, str))
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """Quantiles of a token count, in tokens, non-decreasing."""

    p50: float
    p80: float
    p90: float
    p95: float

    def at(self, q: float) -> float:
        """Return the ``q`` quantile in tokens, log-linear between the four known ones.

        Below p50 the curve runs to zero tokens at q = 0; above p95 it goes on with the slope of the last
        segment.

        Raises:
            ValueError: ``q`` is not in (0, 1).
        """
        if not 0 < q < 1:
            raise ValueError(f"a quantile lies in (0, 1), seen {q!r}")
        knots = self._knots()
        for (q0, y0), (q1, y1) in pairwise(knots):
            if q <= q1:
                return math.expm1(y0 + (y1 - y0) * (q - q0) / (q1 - q0))
        (q0, y0), (q1, y1) = knots[-2:]
        return math.expm1(y1 + (y1 - y0) * (q - q1) / (q1 - q0))

    def cdf(self, tokens: float) -> float:
        """Return the share of cases that need at most ``tokens``: the inverse of :meth:`at`, in [0, 1]."""
        y = math.log1p(max(tokens, 0.0))
        knots = self._knots()
        share = 0.0
        for (q0, y0), (q1, y1) in pairwise(knots):
            if y < y1:
                return q0 + (q1 - q0) * (y - y0) / (y1 - y0)
            share = q1
        (q0, y0), (q1, y1) = knots[-2:]
        slope = (q1 - q0) / (y1 - y0) if y1 > y0 else math.inf
        return min(1.0, share + slope * (y - y1)) if y > y1 else share

    def _knots(self) -> list[tuple[float, float]]:
        points = ((0.5, self.p50), (0.8, self.p80), (0.9, self.p90), (0.95, self.p95))
        return [(0.0, 0.0), *((q, math.log1p(v)) for q, v in points)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A success curve: how likely a right answer is, as a function of thinking.

    ``p(correct at b tokens) = p_off + need * F_settled(b)`` with ``need = p_full - p_off``.

    Attributes:
        p_off: Probability of a right answer without thinking.
        p_full: Probability of a right answer with unlimited thinking.
        settled: Tokens of thinking after which the answer no longer changes.
        natural: Tokens after which the model would stop by itself.
        confidence: 0 (do not use) to 1; below the controller's threshold the estimate is set aside.
        source: Name and hash of what produced it.
    """

    p_off: float
    p_full: float
    settled: Quantiles
    natural: Quantiles
    confidence: float
    source: str

    @property
    def need(self) -> float:
        """How much thinking helps: ``p_full - p_off``."""
        return self.p_full - self.p_off

    def p_correct(self, tokens: float | None) -> float:
        """Return the probability of a right answer at ``tokens`` of thinking (None: unlimited)."""
        if tokens is None:
            return self.p_full
        return self.p_off if tokens <= 0 else self.p_off + self.need * self.settled.cdf(tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one call may spend on thinking.

    Attributes:
        reasoning_tokens: Cap on thinking; None is unlimited, 0 is thinking off.
        effort: Effort level by the provider's name; None leaves the caller's.
        answer_tokens: Tokens kept for the answer where an output limit is sent.
        deadline_s: Seconds from the start of the call to its end; None is no deadline.
        stop: Name of the stop preset, one of ``STOP_PRESETS``.
        reasons: Short sentences saying what shaped the budget, in order.
    """

    reasoning_tokens: int | None = None
    effort: str | None = None
    answer_tokens: int | None = None
    deadline_s: float | None = None
    stop: str = "safe"
    reasons: tuple[str, ...] = field(default=(), compare=False)

    @property
    def off(self) -> bool:
        """Whether thinking is switched off."""
        return self.reasoning_tokens == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the caller can spend on one call, whatever the policy; None is no limit.

    Attributes:
        deadline_s: Seconds from the start of the call to its end.
        reasoning_tokens: Tokens of thinking; 0 is none.
        usd_per_s: What a second of waiting costs the caller, which ``utility`` weighs; 0 is nothing.

    Raises:
        ConfigError: A limit is out of its range.
    """

    deadline_s: float | None = None
    reasoning_tokens: int | None = None
    usd_per_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.usd_per_s < math.inf:
            raise ConfigError(f"usd_per_s: seen {self.usd_per_s!r}, allowed: a number of dollars, 0 or more")
        if self.deadline_s is not None and not 0 < self.deadline_s < math.inf:
            raise ConfigError(f"deadline_s: seen {self.deadline_s!r}, allowed: seconds above zero")
        if self.reasoning_tokens is not None and self.reasoning_tokens < 0:
            raise ConfigError(f"reasoning_tokens: seen {self.reasoning_tokens!r}, allowed: a number from 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast an endpoint and model answer at the present load: seconds = ttft_s + tokens * s_per_token.

    Attributes:
        ttft_s: Seconds from the sending of a request to its first token, waiting for others included.
        s_per_token: Seconds from one token to the next.
        alone_s: Those of ``ttft_s`` that would be left without any others; None is all of them.
        crowd: How many calls each request waits for; 0 where all are served at once.
        margin: What a forecast of whole calls is multiplied with to hold for 95 % of them.
    """

    ttft_s: float
    s_per_token: float
    alone_s: float | None = None
    crowd: float = 0.0
    margin: float = 1.0

    def seconds(self, tokens: float) -> float:
        """Return the modelled seconds until ``tokens`` output tokens have arrived."""
        return self.ttft_s + tokens * self.s_per_token

    def tokens(self, seconds: float, *, requests: int = 1) -> int:
        """Return the output tokens that fit into ``seconds``; below zero where not even the requests do.

        ``seconds = margin * (1 + crowd) * (requests * alone_s + tokens * s_per_token)``: each call waits for
        ``crowd`` others, and it is planned as if these did what it does itself. A plan that took their
        present length for given would let all think when there is time and none a moment later.
        """
        own = seconds / (self.margin * (1 + self.crowd))
        alone_s = self.ttft_s if self.alone_s is None else self.alone_s
        return math.floor((own - requests * alone_s) / self.s_per_token)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Dollars per million tokens.

    Attributes:
        reasoning: Thinking; None means charged as output.
        cached_input: Prompt tokens that are read from the provider's cache; None means charged as input.
        cache_write: Prompt tokens that are written to it; None likewise.
    """

    input: float
    output: float
    reasoning: float | None = None
    cached_input: float | None = None
    cache_write: float | None = None

    @classmethod
    def hourly(cls, usd: float, *, tokens_per_s: float, prompt_tokens_per_s: float | None = None) -> Price:
        """Return what a token costs on a machine that is paid by the hour.

        ``usd / 3600 / tokens_per_s`` for each generated token, and likewise for each of the prompt.

        Args:
            usd: Dollars per hour of the whole machine.
            tokens_per_s: Tokens that it generates per second, all requests together, averaged over the hours
                that are paid: time for prompts and idle time then are in the price of the tokens.
            prompt_tokens_per_s: Tokens of prompts that it reads per second where their time is charged by
                itself. ``tokens_per_s`` is then measured without that time, and what comes from the server's
                prefix cache takes none.

        Raises:
            ValueError: A rate that is not above zero.
        """
        rates = [tokens_per_s] if prompt_tokens_per_s is None else [tokens_per_s, prompt_tokens_per_s]
        if not all(rate > 0 for rate in rates):
            raise ValueError(f"tokens per second: seen {rates}, allowed: numbers above 0")
        per_million = 1e6 / 3600 * usd
        if prompt_tokens_per_s is None:
            return cls(input=0.0, output=per_million / tokens_per_s)
        return cls(
            input=per_million / prompt_tokens_per_s, output=per_million / tokens_per_s, cached_input=0.0
        )

    def cost(
        self, *, prompt: float, reasoning: float, answer: float, cached: float = 0, written: float = 0
    ) -> float:
        """Return the dollars for these token counts.

        Args:
            cached: The part of the prompt that was read from the cache.
            written: The part of it that was written there.
        """
        thinking = self.output if self.reasoning is None else self.reasoning
        reading = self.input if self.cached_input is None else self.cached_input
        writing = self.input if self.cache_write is None else self.cache_write
        prompt_cost = (prompt - cached - written) * self.input + cached * reading + written * writing
        return (prompt_cost + reasoning * thinking + answer * self.output) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a policy may know of the model behind the call.

    Attributes:
        can_switch_off: Thinking can be switched off.
        can_cap: A cap on thinking tokens can be kept, by the engine or by us.
        efforts: Effort levels the model accepts, weakest first.
        natural_p99: The 99th percentile of its natural thinking, in tokens.
        answer_tokens: The 95th percentile of its answers, in tokens.
        leak_ratio: Below this share of its natural length a cap makes reasoning leak into the answer.
        recalls: A thought that is cut takes another request to write its answer.
    """

    can_switch_off: bool = False
    can_cap: bool = False
    efforts: tuple[str, ...] = ()
    natural_p99: int | None = None
    answer_tokens: int | None = None
    leak_ratio: float | None = None
    recalls: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a decision is expected to bring; None where nothing is known."""

    p_correct: float | None = None
    ttfo_s: float | None = None
    e2e_s: float | None = None
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A budget and everything that led to it.

    Attributes:
        estimate: What the classifier said, also where ``fallback`` says that it was set aside.
        policy: The policy string that was asked for.
        policy_hash: Hash of the policy and of all it depends on.
        reasons: Short sentences, in the order in which they shaped the budget.
        certificate: Id of the certificate under which the budget holds, if any.
        certificate_void_reason: Why no certificate covers this decision.
        action_probability: Probability with which this action was taken, given the query.
        audit: The call was drawn for an audit at full thinking.
        fallback: Why the estimate or the policy was set aside, if it was.
    """

    budget: Budget
    policy: str
    policy_hash: str
    estimate: Estimate | None = None
    expected: Expected = field(default_factory=Expected)
    reasons: tuple[str, ...] = ()
    certificate: str | None = None
    certificate_void_reason: str | None = None
    action_probability: float = 1.0
    audit: bool = False
    fallback: str | None = None
    decide_us: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedControl:
    """One provider parameter that was set, and who keeps it."""

    name: str
    value: Any
    strength: Strength


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one call. ``answer_tokens`` never includes reasoning, whatever the provider counts.

    ``output_tokens`` is all that was generated; it may be known where the split is not. ``cached_tokens`` and
    ``cache_write_tokens`` are parts of ``prompt_tokens``: what the provider read from its cache, and wrote.
    """

    prompt_tokens: int | None = None
    reasoning_tokens: int | None = None
    answer_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    provenance: Provenance = "estimated"

    def __add__(self, other: Usage) -> Usage:
        """Add two calls; unknown plus known is unknown, and the weaker provenance stays."""
        order: tuple[Provenance, ...] = ("reported", "counted", "estimated")
        weaker = max(order.index(self.provenance), order.index(other.provenance))
        return Usage(
            prompt_tokens=_add(self.prompt_tokens, other.prompt_tokens),
            reasoning_tokens=_add(self.reasoning_tokens, other.reasoning_tokens),
            answer_tokens=_add(self.answer_tokens, other.answer_tokens),
            output_tokens=_add(self.output_tokens, other.output_tokens),
            cached_tokens=_add(self.cached_tokens, other.cached_tokens),
            cache_write_tokens=_add(self.cache_write_tokens, other.cache_write_tokens),
            provenance=order[weaker],
        )


def _add(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds from the start of the call: first token, first answer token, end."""

    ttft_s: float | None = None
    ttfo_s: float | None = None
    e2e_s: float | None = None
    decide_us: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened on a stream, whatever the provider's dialect.

    Attributes:
        kind: ``reasoning``, ``answer`` and ``tool`` carry ``text``; ``usage`` and ``finish`` their own field.
        text: The text of the delta, verbatim.
        usage: Token counts as the provider reported them.
        finish: The provider's finish reason.
    """

    kind: EventKind
    text: str = ""
    usage: Usage | None = None
    finish: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a model answers when it is made to in the middle of its thinking.

    Attributes:
        confidence: Probability of the answer among the valid ones, in [0, 1]. Where nobody says which
            answers are valid: the geometric mean of its tokens' probabilities.
        mass: Probability that falls on any valid answer at all, in [0, 1]. Where nobody says which answers
            are valid: 1 for an answer that came to its end, 0 for one that did not.
        answer: Its text; None where it was not kept, or did not come to its end.
    """

    confidence: float
    mass: float
    answer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What is known of a running call when a criterion looks at it.

    Attributes:
        reasoning_tokens: Tokens of thinking so far.
        reasoning: The thinking text so far (the last 16,384 characters).
        elapsed_s: Seconds since the call was sent.
        s_per_token: Live seconds per token of this stream; None until measured.
        ttft_s: Seconds from its sending to the first token of this stream.
        at_boundary: The last delta ended a sentence or a line, outside code and formulas.
        trial: The trial answer that has just come; None where nobody asked for one at this point.
        close_margin: How much the model prefers its likeliest next token to the end of its thinking, in nats:
            ``logp(likeliest) - logp(end of thinking)``. None where the engine does not show it.
        token_confidence: Mean negative log-probability of the 20 likeliest next tokens, in nats; the higher,
            the surer. None likewise.
        entropy_after: Entropy of the token that would follow if the thought were closed here, in nats. None
            where nobody asked for it at this point.
    """

    reasoning_tokens: int
    reasoning: str
    elapsed_s: float
    s_per_token: float | None = None
    ttft_s: float | None = None
    at_boundary: bool = False
    trial: Trial | None = None
    close_margin: float | None = None
    token_confidence: float | None = None
    entropy_after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A criterion's reason to stop thinking.

    Attributes:
        criterion: Name of the criterion.
        reason: What the outcome will record.
        hard: One hard piece of evidence suffices; soft ones follow the composition rule.
        score: Strength in [0, 1].
    """

    criterion: str
    reason: StopReason
    hard: bool = True
    score: float = 1.0


def tighter(a: Budget, b: Budget) -> Budget:
    """Return the budget that satisfies both: smaller cap, weaker effort, earlier deadline, larger reserve.

    Of two efforts that are not both in ``EFFORTS`` it is the first one named: nobody knows their order.
    """
    efforts = [level for level in (a.effort, b.effort) if level is not None]
    if all(level in EFFORTS for level in efforts):
        efforts.sort(key=EFFORTS.index)
    return replace(
        a,
        reasoning_tokens=_smaller(a.reasoning_tokens, b.reasoning_tokens),
        effort=efforts[0] if efforts else None,
        answer_tokens=max((x for x in (a.answer_tokens, b.answer_tokens) if x is not None), default=None),
        deadline_s=_smaller(a.deadline_s, b.deadline_s),
        stop=max(a.stop, b.stop, key=STOP_PRESETS.index),
        reasons=a.reasons + b.reasons,
    )


def _smaller(a: _Number | None, b: _Number | None) -> _Number | None:
    return a if b is None else b if a is None else min(a, b)
