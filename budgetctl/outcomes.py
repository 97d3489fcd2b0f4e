"""The record of one call: what was decided, what acted, what it cost, and where to find it again.

An :class:`Outcome` is one row of an outcome file (see :mod:`budgetctl.records`). Rows are built strictly:
unknown keys are refused. They are read generously: a row of the same major ``schema_version`` keeps fields
that this version does not know and writes them back unchanged; a row of another major version is refused.

    completion = client.chat.completions.create(...)
    o = budgetctl.outcome(completion)
    print(o.why, o.reasoning_tokens, o.ttfo_s, o.cost_usd)
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Protocol, Self
from uuid import uuid4

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from budgetctl.errors import ConfigError
from budgetctl.types import AppliedControl, Decision, Provenance, StopReason, Strength, Timing, Usage

SCHEMA_VERSION = "1.1"

_READING = {"reading": True}


class Row(BaseModel):
    """Base of every stored model: frozen, strict when built, generous when read."""

    # "allow" so that a reader can keep what a later minor version added; building refuses it below.
    model_config = ConfigDict(extra="allow", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, data: Any, info: ValidationInfo) -> Any:
        if isinstance(data, Mapping) and not (info.context and info.context.get("reading")):
            unknown = sorted(set(data) - set(cls.model_fields))
            if unknown:
                raise ValueError(
                    f"{cls.__name__} has no field {unknown}, allowed: {sorted(cls.model_fields)}"
                )
        return data


class QuantilesRow(Row):
    """Quantiles of a token count."""

    p50: float
    p80: float
    p90: float
    p95: float


class EstimateRow(Row):
    """The success curve that the decision was based on."""

    p_off: float
    p_full: float
    need: float
    settled: QuantilesRow
    natural: QuantilesRow
    confidence: float
    source: str


class ExpectedRow(Row):
    """What the decision was expected to bring."""

    p_correct: float | None = None
    ttfo_s: float | None = None
    e2e_s: float | None = None
    cost_usd: float | None = None


class DecisionRow(Row):
    """The budget that was decided and what led to it."""

    reasoning_tokens: int | None = None
    effort: str | None = None
    answer_tokens: int | None = None
    deadline_s: float | None = None
    stop: str = "safe"
    reasons: tuple[str, ...] = ()
    estimate: EstimateRow | None = None
    expected: ExpectedRow = Field(default_factory=ExpectedRow)
    audit: bool = False

    @classmethod
    def of(cls, decision: Decision) -> Self:
        """Return the stored form of ``decision``; policy and certificate have their own keys in the row."""
        budget, estimate = decision.budget, decision.estimate
        return cls(
            reasoning_tokens=budget.reasoning_tokens,
            effort=budget.effort,
            answer_tokens=budget.answer_tokens,
            deadline_s=budget.deadline_s,
            stop=budget.stop,
            reasons=decision.reasons or budget.reasons,
            estimate=None if estimate is None else EstimateRow(need=estimate.need, **asdict(estimate)),
            expected=ExpectedRow(**asdict(decision.expected)),
            audit=decision.audit,
        )


class ControlRow(Row):
    """One provider parameter that was set, and who keeps it."""

    name: str
    value: Any = None
    strength: Strength

    @classmethod
    def of(cls, control: AppliedControl) -> Self:
        """Return the stored form of ``control``."""
        return cls(name=control.name, value=control.value, strength=control.strength)


class UsageRow(Row):
    """Tokens of the call: ``prompt_tokens`` with what was cached, ``answer_tokens`` without reasoning."""

    prompt_tokens: int | None = None
    reasoning_tokens: int | None = None
    answer_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    provenance: Provenance = "estimated"

    @classmethod
    def of(cls, usage: Usage) -> Self:
        """Return the stored form of ``usage``."""
        return cls(
            prompt_tokens=usage.prompt_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            answer_tokens=usage.answer_tokens,
            cached_tokens=usage.cached_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            provenance=usage.provenance,
        )

    def usage(self) -> Usage:
        """Return the value that the rest of budgetctl computes with."""
        reasoning, answer = self.reasoning_tokens, self.answer_tokens
        return Usage(
            prompt_tokens=self.prompt_tokens,
            reasoning_tokens=reasoning,
            answer_tokens=answer,
            output_tokens=None if reasoning is None or answer is None else reasoning + answer,
            cached_tokens=self.cached_tokens,
            cache_write_tokens=self.cache_write_tokens,
            provenance=self.provenance,
        )


class TimingRow(Row):
    """Seconds from the start of the call; ``decide_us`` is our own overhead in microseconds."""

    ttft_s: float | None = None
    ttfo_s: float | None = None
    e2e_s: float | None = None
    decide_us: float | None = None

    @classmethod
    def of(cls, timing: Timing) -> Self:
        """Return the stored form of ``timing``."""
        return cls(**asdict(timing))


_ACTED = ("actuator", "degraded", "extra_calls", "prefill_tokens")


class StopRow(Row):
    """Why thinking ended, which criterion ended it, what its probes cost in tokens, and how it was ended.

    ``actuator`` is what really ended it, ``degraded`` says that the answer does not go on from the model's
    own thought, ``extra_calls`` and ``prefill_tokens`` (None: not reported) are what that cost. They are left
    out of the rows of calls in which nothing had to act.
    """

    reason: StopReason
    criterion: str | None = None
    probe_tokens: int = 0
    actuator: str | None = None
    degraded: bool = False
    extra_calls: int = 0
    prefill_tokens: int | None = 0

    @model_serializer(mode="wrap")
    def _short(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        row: dict[str, Any] = dump(self)
        idle = self.actuator is None and not self.extra_calls
        return {k: v for k, v in row.items() if k not in _ACTED} if idle else row


class BudgetState(Row):
    """The reasoning budget from request to effect: tokens, or an effort level.

    ``hit`` says whether thinking reached what was applied; None where nobody could see it.
    """

    requested: int | str | None = None
    applied: int | str | None = None
    strength: Strength = "none"
    hit: bool | None = None


class CacheLost(Row):
    """What a conversation lost of its prompt cache because thinking was asked for otherwise than before.

    ``tokens`` are those that the cache held after the last call, as reported, and that this call did not read
    from it; it may have expired as well. ``usd`` is what that cost, at list prices.
    """

    tokens: int
    usd: float | None = None


class LadderRow(Row):
    """What a call was in a turn on a ladder of rungs.

    ``id`` is that of the turn, ``rung`` the place of its rung, from 0, of ``of``. ``accepted`` says that its
    answer was handed on, ``why`` what it came to. ``calls`` is the number of calls that the row's usage,
    timing and cost are of: one in every stored row; all of the turn in ``budgetctl.outcome(reply)``.
    """

    id: str
    rung: int
    of: int
    accepted: bool
    why: str
    calls: int = 1


class Outcome(Row):
    """One call, as it is stored: one JSON object per line."""

    schema_version: str = SCHEMA_VERSION
    id: str = Field(default_factory=lambda: uuid4().hex)
    parent_id: str | None = None
    time: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    route: str | None = None
    query_hash: str | None = None
    features: dict[str, float] = Field(default_factory=dict)
    model: str | None = None
    policy: str
    policy_hash: str
    action_probability: float = 1.0
    decision: DecisionRow
    controls: tuple[ControlRow, ...] = ()
    usage: UsageRow = Field(default_factory=UsageRow)
    timing: TimingRow = Field(default_factory=TimingRow)
    stop: StopRow
    budget_state: BudgetState = Field(default_factory=BudgetState)
    pinned: tuple[str, ...] = ()
    answered: bool
    fallback: str | None = None
    cost_usd: float | None = None
    cache_lost: CacheLost | None = None
    ladder: LadderRow | None = None
    certificate: str | None = None
    certificate_void_reason: str | None = None

    @classmethod
    def of(
        cls,
        decision: Decision,
        *,
        stop: StopReason,
        answered: bool,
        usage: Usage | None = None,
        timing: Timing | None = None,
        controls: Iterable[AppliedControl] = (),
        criterion: str | None = None,
        probe_tokens: int = 0,
        acted: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Self:
        """Build the outcome of a decision from the values that travel along a call.

        Args:
            acted: How thinking was ended and what that cost: fields of the stop row, by name.
            decision: Gives policy, certificate, fallback and the decision itself; ``fields`` override it.
            fields: Any other field of the row, by name.

        Raises:
            pydantic.ValidationError: A field is unknown or of the wrong type.
        """
        given: dict[str, Any] = {
            "policy": decision.policy,
            "policy_hash": decision.policy_hash,
            "action_probability": decision.action_probability,
            "certificate": decision.certificate,
            "certificate_void_reason": decision.certificate_void_reason,
            "fallback": decision.fallback,
            "decision": DecisionRow.of(decision),
            "controls": tuple(ControlRow.of(control) for control in controls),
            "usage": UsageRow() if usage is None else UsageRow.of(usage),
            "timing": TimingRow(decide_us=decision.decide_us) if timing is None else TimingRow.of(timing),
            "stop": StopRow(reason=stop, criterion=criterion, probe_tokens=probe_tokens, **(acted or {})),
            "answered": answered,
        }
        return cls(**{**given, **fields})

    @classmethod
    def read(cls, data: str | bytes | Mapping[str, Any]) -> Self:
        """Read a stored row, keeping fields that a later minor version added.

        Raises:
            ConfigError: The row has another major schema version.
            ValueError: The row is not JSON or not an outcome (``pydantic.ValidationError`` is one).
        """
        from pydantic_core import from_json

        row = from_json(data) if isinstance(data, str | bytes) else data
        if not isinstance(row, Mapping):
            raise ValueError(f"an outcome row is a JSON object, seen {type(row).__name__}")
        seen = row.get("schema_version")
        major = SCHEMA_VERSION.partition(".")[0]
        if not isinstance(seen, str) or seen.partition(".")[0] != major:
            raise ConfigError(f"outcome schema_version {seen!r} cannot be read, this version reads {major}.x")
        return cls.model_validate(row, context=_READING)

    @property
    def prompt_tokens(self) -> int | None:
        """Tokens of the prompt."""
        return self.usage.prompt_tokens

    @property
    def reasoning_tokens(self) -> int | None:
        """Tokens spent thinking."""
        return self.usage.reasoning_tokens

    @property
    def answer_tokens(self) -> int | None:
        """Tokens of the visible answer, without thinking."""
        return self.usage.answer_tokens

    @property
    def ttft_s(self) -> float | None:
        """Seconds to the first token of any kind."""
        return self.timing.ttft_s

    @property
    def ttfo_s(self) -> float | None:
        """Seconds to the first token of the answer."""
        return self.timing.ttfo_s

    @property
    def e2e_s(self) -> float | None:
        """Seconds to the end of the call."""
        return self.timing.e2e_s

    @property
    def why(self) -> str:
        """One sentence: what was decided, what acted, why thinking stopped."""
        parts = [f"{self.policy} {_decided(self.decision)}", _acted(self), _ended(self)]
        if self.fallback:
            parts.append(f"fell back: {self.fallback}")
        if not self.answered and self.stop.reason is not StopReason.UNKNOWN:
            parts.append("no answer came back")
        return "; ".join(parts) + "."


class Feedback(Row):
    """What became known later about an outcome: right or wrong, or a score in [0, 1]."""

    id: str
    correct: bool | None = None
    score: float | None = Field(default=None, ge=0, le=1)
    source: str
    time: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if (self.correct is None) == (self.score is None):
            raise ValueError("feedback needs exactly one of correct and score")
        return self

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Self:
        """Read a stored row, keeping unknown fields.

        Raises:
            ValueError: The row is not a feedback row.
        """
        return cls.model_validate(data, context=_READING)


class Sink(Protocol):
    """Where outcomes go. A sink that fails must not raise: the call has already been made."""

    def write(self, outcome: Outcome, *, text: str | None = None) -> None:
        """Record ``outcome``; ``text`` is the query, kept only by a sink that was told to keep text."""


def _decided(decision: DecisionRow) -> str:
    if decision.reasoning_tokens == 0:
        what = "switched thinking off"
    elif decision.reasoning_tokens is not None:
        what = f"allowed {decision.reasoning_tokens:,} reasoning tokens"
    elif decision.effort is not None:
        what = f"asked for effort {decision.effort}"
    else:
        what = "left thinking free"
    if decision.deadline_s is not None:
        what += f" within {decision.deadline_s:g} s"
    return f"{what} ({'; '.join(decision.reasons)})" if decision.reasons else what


def _acted(outcome: Outcome) -> str:
    acted = [f"{c.name}={c.value} ({c.strength})" for c in outcome.controls]
    said = "set " + ", ".join(acted) if acted else "set no control"
    if outcome.pinned:
        said += f", left {', '.join(outcome.pinned)} as the caller pinned it"
    return said


_ENDINGS: dict[StopReason, str] = {
    StopReason.NATURAL: "the model ended its thinking itself",
    StopReason.CAP: "the cap ended thinking",
    StopReason.DEADLINE: "the deadline ended thinking",
    StopReason.LOOP: "thinking was ended because it repeated itself",
    StopReason.SETTLED: "thinking was ended because the answer had settled",
    StopReason.LENGTH: "the output limit cut the call",
    StopReason.OFF: "there was no thinking to end",
    StopReason.CALLER: "the caller closed the stream",
    StopReason.ERROR: "the call failed",
    StopReason.UNKNOWN: "how thinking ended is unknown",
}


def _ended(outcome: Outcome) -> str:
    said = _ENDINGS.get(outcome.stop.reason, f"thinking ended by {outcome.stop.reason}")
    if outcome.stop.criterion:
        said += f" [{outcome.stop.criterion}]"
    if outcome.stop.actuator:
        said += f" by {outcome.stop.actuator}"
    tokens = outcome.usage.reasoning_tokens
    if tokens is None:
        return f"{said}, reasoning tokens unknown"
    about = "" if outcome.usage.provenance == "reported" else f" ({outcome.usage.provenance})"
    return f"{said} after {tokens:,} reasoning tokens{about}"


_ATTRIBUTE = "_budgetctl_outcome"

MESSAGE_KEY = "budgetctl"
"""Key in the ``response_metadata`` of a LangChain message: its outcome, where no identity would outlive
checkpoints."""

# Found by identity, so that nothing is written into the objects of users; the finalizer removes an entry
# before its id is used again.
_by_id: dict[int, tuple[weakref.ref[Any], Outcome]] = {}


def attach(obj: object, outcome: Outcome) -> bool:
    """Make ``outcome(obj)`` find ``outcome``; return False where ``obj`` can carry nothing (str, dict)."""
    key, table = id(obj), _by_id
    try:
        table[key] = (weakref.ref(obj, lambda _: table.pop(key, None)), outcome)
    except TypeError:
        try:
            object.__setattr__(obj, _ATTRIBUTE, outcome)
        except (AttributeError, TypeError):
            return False
    return True


def outcome(obj: object) -> Outcome:
    """Return the outcome of the call that ``obj`` came from.

    Args:
        obj: A completion, a finished stream, a message or a generation from a budgeted call, or an Outcome.

    Raises:
        LookupError: ``obj`` carries no outcome.
    """
    if isinstance(obj, Outcome):
        return obj
    found = getattr(obj, "__dict__", {}).get(_ATTRIBUTE)
    if found is None and id(obj) in _by_id:
        reference, known = _by_id[id(obj)]
        found = known if reference() is obj else None
    if found is None:
        found = getattr(obj, "outcome", None)
    if found is None:
        kept = (getattr(obj, name, None) for name in ("response_metadata", "metadata"))
        noted = next(
            (data[MESSAGE_KEY] for data in kept if isinstance(data, Mapping) and MESSAGE_KEY in data), None
        )
        found = None if noted is None else Outcome.read(noted)
    if isinstance(found, Outcome):
        return found
    inner = getattr(obj, "_raw_stream", None)  # the SDKs' stream helpers are around one of ours
    if inner is not None:
        return outcome(inner)
    raise LookupError(
        f"{type(obj).__name__} carries no outcome. Ask for the object that the budgeted call returned "
        "(a completion, a stream after its last chunk, a message, a generation), not for its text or a dict "
        "made from it; on_outcome and sinks see every outcome."
    )


__all__ = [
    "SCHEMA_VERSION",
    "BudgetState",
    "CacheLost",
    "ControlRow",
    "DecisionRow",
    "EstimateRow",
    "ExpectedRow",
    "Feedback",
    "LadderRow",
    "Outcome",
    "QuantilesRow",
    "Row",
    "Sink",
    "StopRow",
    "TimingRow",
    "UsageRow",
    "attach",
    "outcome",
]
