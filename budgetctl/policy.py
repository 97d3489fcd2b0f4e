"""Policies: from a query, its estimate and what the model can do to a budget.

A policy is named by a string, the same in code, config and on the command line::

    auto  full  off  cap:N  tiered  quantile:Q  deadline:SECONDS  effort:LEVEL

Two policies joined by ``&`` give the tighter budget of both. Each may carry ``+stop:PRESET``, as in
``cap:4096+stop:none``. Users write their own by implementing :class:`Policy`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Protocol, cast, runtime_checkable

from budgetctl.errors import ConfigError
from budgetctl.types import STOP_PRESETS, Budget, Estimate, Limits, ModelFacts, Pace, Price, Query, tighter

MAX_CAP = 10_000_000
MIN_NEED = 0.01
"""Below this gain in the probability of a right answer, thinking is not worth switching on."""
SMALLEST_TIER, TIER = 32, 4
ANSWER_RESERVE = 512
"""Tokens kept for the answer when the model's own answer lengths are unknown."""

ALLOWED = "auto, full, off, cap:N, tiered, quantile:Q, deadline:SECONDS, effort:LEVEL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything a policy may look at.

    Attributes:
        query: The call, as the classifier saw it.
        estimate: The success curve; None when there is none that can be trusted.
        facts: What the model can do.
        limits: What the caller can spend.
        pace: How fast the endpoint answers, if measured.
        price: What the model costs, if known.
    """

    query: Query
    estimate: Estimate | None = None
    facts: ModelFacts = field(default_factory=ModelFacts)
    limits: Limits = field(default_factory=Limits)
    pace: Pace | None = None
    price: Price | None = None


@runtime_checkable
class Policy(Protocol):
    """Maps a situation to a budget. Pure: the same situation gives the same budget.

    A policy that needs an estimate and gets none must leave the caller's own parameters alone.
    ``str(policy)`` is its name in records; without ``__str__`` and ``__repr__`` that is its class.
    """

    @property
    def needs_estimate(self) -> bool:
        """Whether :meth:`budget` wants an estimate."""
        ...

    def budget(self, situation: Situation) -> Budget:
        """Return the budget for one call."""
        ...


@dataclass(frozen=True, slots=True)
class _Named:
    """What the built-in policies share: ``&``, and no classifier unless they say so."""

    @property
    def needs_estimate(self) -> bool:
        return False

    def __and__(self, other: Policy) -> Both:
        return Both(cast(Policy, self), other)


@dataclass(frozen=True, slots=True)
class Full(_Named):
    """Leave thinking to the model: the caller's own parameters, watched and recorded."""

    stop: str = "none"

    def budget(self, situation: Situation) -> Budget:
        return Budget(stop=self.stop, reasons=("full: the caller's own parameters",))

    def __str__(self) -> str:
        return _name("full", self.stop, default="none")


@dataclass(frozen=True, slots=True)
class Off(_Named):
    """Switch thinking off where the model allows it."""

    stop: str = "none"

    def budget(self, situation: Situation) -> Budget:
        return Budget(reasoning_tokens=0, stop=self.stop, reasons=("off: no thinking",))

    def __str__(self) -> str:
        return _name("off", self.stop, default="none")


@dataclass(frozen=True, slots=True)
class Cap(_Named):
    """The same cap for every call, in tokens of thinking."""

    tokens: int
    stop: str = "safe"

    def __post_init__(self) -> None:
        if isinstance(self.tokens, bool) or not 1 <= self.tokens <= MAX_CAP:
            raise ConfigError(
                f"cap:{self.tokens}: the cap is a whole number of tokens from 1 to {MAX_CAP:,}; "
                "for no thinking at all use 'off'"
            )

    def budget(self, situation: Situation) -> Budget:
        return _capped(self.tokens, f"cap: {self.tokens} tokens", stop=self.stop, situation=situation)

    def __str__(self) -> str:
        return _name(f"cap:{self.tokens}", self.stop)


@dataclass(frozen=True, slots=True)
class Quantile(_Named):
    """Think until the answer has settled with probability ``q``; off where thinking does not help."""

    q: float
    stop: str = "safe"

    @property
    def needs_estimate(self) -> bool:
        return True

    def __post_init__(self) -> None:
        if not 0 < self.q < 1:
            raise ConfigError(f"quantile:{self.q}: the quantile is a number between 0 and 1, such as 0.9")

    def budget(self, situation: Situation) -> Budget:
        estimate = situation.estimate
        if estimate is None:
            return _no_estimate(self.stop)
        tokens = max(1, math.ceil(round(estimate.settled.at(self.q), 6)))
        return _worthwhile(tokens, f"settled p{100 * self.q:g}", stop=self.stop, situation=situation)

    def __str__(self) -> str:
        return _name(f"quantile:{_exact(self.q)}", self.stop)


@dataclass(frozen=True, slots=True)
class Tiered(_Named):
    """A few classes of budget instead of a number for every query: settled p90, rounded up to a tier.

    Tiers are 32, 128, 512, 2,048 tokens and so on. So few keep prompts cacheable and results easy to read,
    and a query that is worded a little differently in its tier.
    """

    stop: str = "safe"

    @property
    def needs_estimate(self) -> bool:
        return True

    def budget(self, situation: Situation) -> Budget:
        estimate = situation.estimate
        if estimate is None:
            return _no_estimate(self.stop)
        tier = math.ceil(math.log(max(estimate.settled.p90 / SMALLEST_TIER, 1.0), TIER))
        tokens = SMALLEST_TIER * TIER**tier
        return _worthwhile(tokens, "tier of settled p90", stop=self.stop, situation=situation)

    def __str__(self) -> str:
        return _name("tiered", self.stop)


@dataclass(frozen=True, slots=True)
class Deadline(_Named):
    """Answer within ``seconds``: live speed turns what is left after the answer reserve into tokens.

    Without a measured speed no cap is set before the call; the deadline is still watched on the stream.
    """

    seconds: float
    stop: str = "safe"

    def __post_init__(self) -> None:
        if not (0 < self.seconds < math.inf):
            raise ConfigError(f"deadline:{self.seconds}: the deadline is a number of seconds above zero")

    def budget(self, situation: Situation) -> Budget:
        pace = situation.pace
        if pace is None or not pace.s_per_token > 0:
            return Budget(
                deadline_s=self.seconds,
                stop=self.stop,
                reasons=(f"deadline {self.seconds:g} s, speed not yet known: watched on the stream",),
            )
        reserve = situation.facts.answer_tokens or ANSWER_RESERVE
        tokens = int((self.seconds - pace.ttft_s) / pace.s_per_token) - reserve
        reason = f"deadline {self.seconds:g} s leaves {tokens} tokens"
        if tokens < 1:
            return Budget(reasoning_tokens=0, deadline_s=self.seconds, stop=self.stop, reasons=(reason,))
        budget = _capped(min(tokens, MAX_CAP), reason, stop=self.stop, situation=situation)
        return replace(budget, deadline_s=self.seconds)

    def __str__(self) -> str:
        return _name(f"deadline:{_exact(self.seconds)}", self.stop)


@dataclass(frozen=True, slots=True)
class Effort(_Named):
    """Name the provider's effort level; levels that a model lacks are refused or rounded by its adapter."""

    level: str
    stop: str = "safe"

    def budget(self, situation: Situation) -> Budget:
        return Budget(effort=self.level, stop=self.stop, reasons=(f"effort {self.level}",))

    def __str__(self) -> str:
        return _name(f"effort:{self.level}", self.stop)


@dataclass(frozen=True, slots=True)
class Auto(_Named):
    """The default. Without evidence from this deployment it cuts no quality (stage 0).

    The caller's effort stays, loops are stopped, the answer is guarded, and a runaway is capped at the 99th
    percentile of the model's natural thinking, where that is known.
    """

    stop: str = "safe"

    def budget(self, situation: Situation) -> Budget:
        p99 = situation.facts.natural_p99
        found = "natural length unknown, no cap" if p99 is None else f"runaway cap {p99}"
        return Budget(reasoning_tokens=p99, stop=self.stop, reasons=(f"auto stage 0: {found}",))

    def __str__(self) -> str:
        return _name("auto", self.stop)


@dataclass(frozen=True, slots=True)
class Both(_Named):
    """The tighter budget of two policies."""

    left: Policy
    right: Policy

    @property
    def needs_estimate(self) -> bool:
        return self.left.needs_estimate or self.right.needs_estimate

    def budget(self, situation: Situation) -> Budget:
        return tighter(self.left.budget(situation), self.right.budget(situation))

    def __str__(self) -> str:
        return f"{policy_name(self.left)}&{policy_name(self.right)}"


def policy_name(policy: Policy) -> str:
    """Return the name of ``policy`` in records; of one that does not name itself, its class: no addresses."""
    kind = type(policy)
    nameless = kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__
    return kind.__name__ if nameless else str(policy)


def _exact(number: float) -> str:
    """Write a number short where that loses nothing."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def _name(base: str, stop: str, *, default: str = "safe") -> str:
    return base if stop == default else f"{base}+stop:{stop}"


def _no_estimate(stop: str) -> Budget:
    return Budget(stop=stop, reasons=("no estimate to rely on: the caller's own parameters",))


def _capped(tokens: int, reason: str, *, stop: str, situation: Situation) -> Budget:
    """Cap, unless this model is known to leak reasoning into the answer when cut so short."""
    facts, estimate = situation.facts, situation.estimate
    if facts.leak_ratio is not None and estimate is not None and facts.can_switch_off:
        floor = facts.leak_ratio * estimate.natural.p50
        if tokens < floor:
            note = f"{tokens} is below the {floor:.0f} tokens under which this model leaks: off"
            return Budget(reasoning_tokens=0, stop=stop, reasons=(reason, note))
    return Budget(reasoning_tokens=tokens, stop=stop, reasons=(reason,))


def _worthwhile(tokens: int, reason: str, *, stop: str, situation: Situation) -> Budget:
    """Cap where thinking helps, off where it is expected not to."""
    estimate = situation.estimate
    assert estimate is not None
    if situation.facts.can_switch_off and estimate.p_correct(tokens) - estimate.p_off < MIN_NEED:
        note = f"thinking adds {estimate.need:+.3f} to p(correct): off"
        return Budget(reasoning_tokens=0, stop=stop, reasons=(note,))
    return _capped(tokens, f"{reason}: {tokens} tokens", stop=stop, situation=situation)


def _no_argument(make: Callable[..., Policy]) -> Callable[[str | None, dict[str, str]], Policy]:
    def build(argument: str | None, stop: dict[str, str]) -> Policy:
        if argument is not None:
            raise ConfigError(f"takes no argument, seen {argument!r}")
        return make(**stop)

    return build


def _with_argument(
    make: Callable[..., Policy], kind: Callable[[str], object], example: str
) -> Callable[[str | None, dict[str, str]], Policy]:
    def build(argument: str | None, stop: dict[str, str]) -> Policy:
        if not argument:
            raise ConfigError(f"needs an argument, for example {example!r}")
        try:
            value = kind(argument)
        except ValueError:
            raise ConfigError(f"{argument!r} does not fit, for example {example!r}") from None
        return make(value, **stop)

    return build


_BUILDERS: dict[str, Callable[[str | None, dict[str, str]], Policy]] = {
    "auto": _no_argument(Auto),
    "full": _no_argument(Full),
    "off": _no_argument(Off),
    "tiered": _no_argument(Tiered),
    "cap": _with_argument(Cap, int, "cap:4096"),
    "quantile": _with_argument(Quantile, float, "quantile:0.9"),
    "deadline": _with_argument(Deadline, float, "deadline:2.5"),
    "effort": _with_argument(Effort, str, "effort:low"),
}


def parse(text: str | Policy) -> Policy:
    """Return the policy that ``text`` names; a policy object passes through.

    Raises:
        ConfigError: A part does not parse. The message names the part and what is allowed.
    """
    if not isinstance(text, str):
        if not isinstance(text, Policy):
            raise ConfigError(f"a policy is a string or has a budget() method, seen {type(text).__name__}")
        return text
    policies = [_parse_term(part.strip(), whole=text) for part in text.split("&")]
    return reduce(Both, policies)


def _parse_term(part: str, *, whole: str) -> Policy:
    base, *options = part.split("+")
    name, colon, argument = base.partition(":")
    if name not in _BUILDERS:
        raise ConfigError(f"policy {whole!r}: unknown part {part!r}; allowed: {ALLOWED}")
    try:
        return _BUILDERS[name](argument if colon else None, _parse_stop(options))
    except ConfigError as error:
        raise ConfigError(f"policy {whole!r}: part {part!r}: {error}") from None


def _parse_stop(options: list[str]) -> dict[str, str]:
    if not options:
        return {}
    allowed = ", ".join(f"+stop:{preset}" for preset in STOP_PRESETS)
    if len(options) > 1:
        raise ConfigError(f"one stop preset at most; allowed: {allowed}")
    key, _, preset = options[0].partition(":")
    if key != "stop" or preset not in STOP_PRESETS:
        raise ConfigError(f"unknown option '+{options[0]}'; allowed: {allowed}")
    return {"stop": preset}
