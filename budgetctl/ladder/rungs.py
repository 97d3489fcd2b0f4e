"""Rungs and ladders: (model, thinking) pairs, cheapest first, and what decides whether to climb."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Self

from budgetctl.errors import ConfigError
from budgetctl.policy import Cap, Effort, Full, Off, Policy, parse, policy_name
from budgetctl.stopping.presets import WITH_TRIALS
from budgetctl.types import EFFORTS, Timing, Usage

if TYPE_CHECKING:
    from budgetctl.ladder.acceptance import Acceptance
    from budgetctl.names import Alias
    from budgetctl.pricing import Prices
    from budgetctl.types import Price


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """A model and how much it may think.

    Attributes:
        model: The model's name.
        policy: The policy of its calls, as a string.
        local: Queries that are flagged private may go to it.

    Raises:
        ConfigError: The model has no name, or the policy does not parse.
    """

    model: str
    policy: str = "full"
    local: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise ConfigError(f"rung: seen the model {self.model!r}, allowed: its name")
        parse(self.policy)

    @classmethod
    def parse(cls, text: str, *, local: bool = False, names: Mapping[str, Policy] | None = None) -> Self:
        """Read ``MODEL@POLICY``; ``MODEL`` alone thinks as much as it likes.

        Args:
            local: Queries that are flagged private may go to it.
            names: Policies that a configuration has given names to.

        Raises:
            ConfigError: It is no rung.
        """
        if not isinstance(text, str):
            raise ConfigError(f"rung: seen {text!r}, allowed: a string such as 'qwen3-4b@cap:2000'")
        model, at, policy = text.rpartition("@")
        if not at:
            return cls(model=text, local=local)
        try:
            return cls(model=model, policy=policy_name(parse(policy, names=names)), local=local)
        except ConfigError as error:
            raise ConfigError(f"rung {text!r}: {error}") from None

    def __str__(self) -> str:
        return f"{self.model}@{self.policy}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a rung answered.

    Attributes:
        rung: Its place in the ladder, from 0.
        answer: The answer without the thinking; of tool calls, their names and arguments as JSON. None where
            there is none.
        finished: The model ended it by itself.
        confidence: A number in [0, 1] that somebody measured of the answer, such as the probability of its
            tokens or its share of votes; None is unknown.
        usage: Its tokens.
        cost_usd: What it cost; None is unknown.
        timing: Seconds from the start of its own call.
    """

    rung: int
    answer: str | None
    finished: bool
    confidence: float | None = None
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None
    timing: Timing | None = None

    @property
    def empty(self) -> bool:
        """Whether it says nothing."""
        return not (self.answer and self.answer.strip())

    @property
    def usable(self) -> bool:
        """Whether it is a whole answer."""
        return self.finished and not self.empty


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Rungs, cheapest first, and what says whether a draft is good enough. The last rung always is.

    Attributes:
        rungs: At least one. Of one model, the rung that thinks less comes first.
        accept: Judges the drafts of all rungs but the last.
        hedge_s: Seconds after which the next rung is started beside one whose draft has not come; None waits.

    Raises:
        ConfigError: There are no rungs, two are the same, or they are in the wrong order.
    """

    rungs: tuple[Rung, ...]
    accept: Acceptance
    hedge_s: float | None = None

    def __post_init__(self) -> None:
        if not self.rungs or not all(isinstance(rung, Rung) for rung in self.rungs):
            raise ConfigError(f"ladder: seen {self.rungs!r}, allowed: one rung or more")
        if isinstance(self.accept, type) or not callable(getattr(self.accept, "judge", None)):
            allowed = "Confident(0.9), Agreement(), Verified(function), or what has their judge()"
            raise ConfigError(f"accept: seen {self.accept!r}, allowed: {allowed}")
        maps = getattr(self.accept, "calibration", None)
        if isinstance(maps, tuple) and len(maps) != len(self.rungs) - 1:
            allowed = f"one for all, or {len(self.rungs) - 1}, one for each rung but the last"
            raise ConfigError(f"calibration: seen {len(maps)}, allowed: {allowed}")
        if self.hedge_s is not None and not (is_number(self.hedge_s) and 0 < self.hedge_s < math.inf):
            raise ConfigError(f"hedge_s: seen {self.hedge_s!r}, allowed: seconds above zero")
        for lower, upper in combinations(self.rungs, 2):
            if lower.model == upper.model and _contradicts(lower, upper):
                raise ConfigError(f"ladder: {lower} stands before {upper}, allowed: less thinking first")

    @classmethod
    def of(
        cls,
        rungs: Sequence[str | Rung],
        accept: Acceptance,
        *,
        local: Sequence[str] = (),
        hedge_s: float | None = None,
        names: Mapping[str, Policy] | None = None,
    ) -> Self:
        """Build a ladder from ``MODEL@POLICY`` strings.

        Args:
            local: The models that private queries may go to.
            names: Policies that a configuration has given names to.

        Raises:
            ConfigError: It is no ladder, or a local model is on none of its rungs.
        """
        for name, given, kind in (("rungs", rungs, Sequence), ("local", local, Collection)):
            if isinstance(given, str) or not isinstance(given, kind):
                raise ConfigError(f"{name}: seen {given!r}, allowed: a list, as in ['qwen3-4b']")
        made = tuple(
            r if isinstance(r, Rung) else Rung.parse(r, local=_model(r) in local, names=names) for r in rungs
        )
        missing = sorted(set(local) - {rung.model for rung in made})
        if missing:
            raise ConfigError(f"local: seen {missing}, allowed: models of the rungs {[*map(str, made)]}")
        return cls(rungs=made, accept=accept, hedge_s=hedge_s)

    def path(self, *, start: int = 0, private: bool = False) -> tuple[int, ...]:
        """Return the rungs that a query may climb, in order.

        Args:
            start: The first of them.
            private: Only local rungs, also where none is left from ``start`` on.

        Raises:
            ConfigError: The query is private and no rung is local, or there is no rung ``start``.
        """
        if not 0 <= start < len(self.rungs):
            raise ConfigError(f"start: seen {start!r}, allowed: 0 to {len(self.rungs) - 1}")
        if not private:
            return tuple(range(start, len(self.rungs)))
        local = tuple(i for i, rung in enumerate(self.rungs) if rung.local)
        if not local:
            raise ConfigError(
                "a private query needs a local rung, and no rung is one; name them, as in local=['qwen3-4b']"
            )
        return tuple(i for i in local if i >= start) or local[-1:]

    def check_prices(
        self,
        prices: Prices,
        *,
        places: Mapping[str, str] | None = None,
        aliases: Mapping[str, Alias] | None = None,
    ) -> None:
        """Refuse an order that known prices contradict.

        Args:
            places: Where each model is asked, as the prices know it.
            aliases: What stands behind names of models, where it is no model's own.

        Raises:
            ConfigError: A model costs less per token than one that stands before it.
        """

        def price(rung: Rung) -> Price | None:
            alias = (aliases or {}).get(rung.model)
            model, named = (rung.model, None) if alias is None else (alias.model, alias.base_url)
            return prices.lookup(model, place=(places or {}).get(rung.model, named))

        for lower, upper in combinations(self.rungs, 2):
            a, b = price(lower), price(upper)
            if a is None or b is None or lower.model == upper.model:
                continue
            if a.output > b.output and a.input >= b.input:
                raise ConfigError(
                    f"ladder: {lower} ({a.input:g} and {a.output:g} USD per million tokens of input and "
                    f"output) stands before {upper} ({b.input:g} and {b.output:g}), allowed: cheapest first"
                )

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides which answer comes back, for a certificate to bind."""
        bound = {
            "rungs": [[str(rung), rung.local] for rung in self.rungs],
            "accept": _name(self.accept),
            "hedge_s": self.hedge_s,
        }
        return hashlib.blake2b(json.dumps(bound).encode(), digest_size=8).hexdigest()


def is_number(value: object) -> bool:
    """Whether it is a number, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _model(text: object) -> str:
    model, at, _ = str(text).rpartition("@")
    return model if at else str(text)


def _name(accept: object) -> str:
    """Return the name of what judges; of one that does not name itself, its class: no addresses."""
    kind = type(accept)
    nameless = kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__
    return f"{kind.__module__}.{kind.__qualname__}" if nameless else str(accept)


def _contradicts(lower: Rung, upper: Rung) -> bool:
    """Whether ``upper`` is known to think no more than ``lower``, which is of the same model."""
    if lower.policy == upper.policy:
        return True
    (scale, less), (other, more) = _thinks(lower), _thinks(upper)
    return (scale == other or not scale or not other) and less >= more


def _thinks(rung: Rung) -> tuple[str, float]:
    """Return on which scale the thinking of a rung is known, and how much; NaN compares to nothing."""
    policy = parse(rung.policy)
    if getattr(policy, "stop", None) in WITH_TRIALS:
        return "", math.nan
    if isinstance(policy, Cap):
        return "tokens", float(policy.tokens)
    if isinstance(policy, Effort) and policy.level in EFFORTS:
        return "effort", EFFORTS.index(policy.level) + 1.0
    return "", 0.0 if isinstance(policy, Off) else math.inf if isinstance(policy, Full) else math.nan
