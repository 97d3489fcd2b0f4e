"""The controller: one decision per logical call, and a session that records what became of it."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from budgetctl.callbacks import Callbacks
from budgetctl.errors import BudgetctlError, ClassifierError, ConfigError, UnsupportedControl, brief
from budgetctl.policy import Deadline, Policy, Situation, parse, policy_name
from budgetctl.session import Session, outer_call
from budgetctl.types import (
    Budget,
    CallerValues,
    Decision,
    Estimate,
    Expected,
    Limits,
    ModelFacts,
    Pace,
    Price,
    Query,
    tighter,
)

if TYPE_CHECKING:
    from budgetctl.adapters import Rendered
    from budgetctl.capabilities import Capability, Table
    from budgetctl.outcomes import Sink
    from budgetctl.pricing import Prices
    from budgetctl.speed import Speeds

logger = logging.getLogger("budgetctl")

Mode = Literal["enforce", "observe"]
MIN_CONFIDENCE = 0.5

_override: ContextVar[Policy | None] = ContextVar("budgetctl_override", default=None)


class Classifier(Protocol):
    """What the controller asks of a classifier (see ``budgetctl.classifiers``)."""

    @property
    def hash(self) -> str:
        """Hash of the weights."""
        ...

    def estimate(self, query: Query) -> Estimate:
        """Return the success curve of ``query``."""
        ...


class Render(Protocol):
    """Writes a budget into a provider's parameters; pure."""

    def __call__(
        self,
        budget: Budget,
        capability: Capability,
        params: Mapping[str, Any],
        *,
        caller_values: CallerValues,
    ) -> Rendered: ...


@contextmanager
def override(policy: str | Policy) -> Iterator[None]:
    """Use ``policy`` for every call made inside the ``with`` block, in this thread or task.

    Raises:
        ConfigError: The policy does not parse.
    """
    token = _override.set(parse(policy))
    try:
        yield
    finally:
        _override.reset(token)


class Controller:
    """Turns queries into decisions and calls into outcomes.

    Args:
        policy: A policy or its string.
        classifier: A classifier, its registered name, or None for none; loaded when first needed.
        mode: ``enforce`` writes budgets into calls; ``observe`` decides and records, and changes nothing.
        caller_values: ``pin`` leaves what the caller set alone; ``ceiling`` may go below it, never above.
        strict: Raise instead of falling back.
        limits: What one call may spend, unless the call says otherwise.
        min_confidence: Estimates below this confidence are set aside.
        route: Name of the traffic, written into the records.
        capabilities: What models can do; None loads the table that ships with the package.
        prices: What models cost; None loads the table that ships with the package.
        speeds: Live speeds; give several controllers the same object to share what they learn.
        sinks: Where outcomes go.
        callbacks: What to call on the way.
        clock: Seconds, monotonic.

    Raises:
        ConfigError: An argument cannot work; nothing is half built.
    """

    def __init__(
        self,
        policy: str | Policy = "auto",
        *,
        classifier: Classifier | str | None = "default",
        mode: Mode = "enforce",
        caller_values: CallerValues = "pin",
        strict: bool = False,
        limits: Limits | None = None,
        min_confidence: float = MIN_CONFIDENCE,
        route: str | None = None,
        capabilities: Table | None = None,
        prices: Prices | None = None,
        speeds: Speeds | None = None,
        sinks: Sequence[Sink] = (),
        callbacks: Callbacks | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.policy = parse(policy)
        self.mode: Mode = _one_of("mode", mode, Mode)
        self.caller_values: CallerValues = _one_of("caller_values", caller_values, CallerValues)
        if not 0 <= min_confidence <= 1:
            raise ConfigError(f"min_confidence lies between 0 and 1, seen {min_confidence!r}")
        self.strict = strict
        self.limits = limits or Limits()
        self.min_confidence = min_confidence
        self.route = route
        self.sinks = tuple(sinks)
        self.callbacks = callbacks or Callbacks()
        self.clock = clock
        self._classifier = classifier
        self._capabilities = capabilities
        self._prices = prices
        self._speeds = speeds

    @property
    def capabilities(self) -> Table:
        """The capability table, loaded on first use."""
        if self._capabilities is None:
            from budgetctl.capabilities import Table

            self._capabilities = Table.load()
        return self._capabilities

    @property
    def prices(self) -> Prices:
        """The price table, loaded on first use."""
        if self._prices is None:
            from budgetctl.pricing import Prices

            self._prices = Prices.load()
        return self._prices

    @property
    def speeds(self) -> Speeds:
        """What has been measured of each endpoint and model."""
        if self._speeds is None:
            from budgetctl.speed import Speeds

            self._speeds = Speeds()
        return self._speeds

    def classifier(self) -> Classifier | None:
        """Return the classifier, loading it when this is the first time it is needed.

        Raises:
            ClassifierError: The weights cannot be read.
        """
        found = self._classifier
        if isinstance(found, str):
            from budgetctl.classifiers.registry import load

            found = self._classifier = load(found)
        return found

    def features(self, query: Query) -> dict[str, float]:
        """Return what the classifier keeps of ``query`` in records; nothing where it keeps nothing."""
        try:
            describe = getattr(self.classifier(), "describe", None)
            return {} if describe is None else dict(describe(query))
        except Exception as error:  # third-party classifiers raise what they like; the record stands without
            logger.warning("no features recorded: %s", _why(error))
            return {}

    def with_policy(self, policy: str | Policy) -> Controller:
        """Return a controller that differs in its policy only and shares everything else."""
        _ = self.capabilities, self.prices, self.speeds  # loaded now, they are loaded once
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.policy = parse(policy)
        return other

    def decide(
        self,
        query: Query,
        *,
        facts: ModelFacts | None = None,
        limits: Limits | None = None,
        pace: Pace | None = None,
        price: Price | None = None,
    ) -> Decision:
        """Return the decision for one call. Reads no network and changes nothing.

        Args:
            query: The call, as the classifier sees it.
            facts: What the model can do; None is a model that nothing is known of.
            limits: What this call may spend; None takes the controller's.
            pace: How fast the endpoint answers, if measured.
            price: What the model costs, if known.

        Raises:
            BudgetctlError: Strict mode only; otherwise a fault of ours gives the caller's own parameters
                and ``Decision.fallback`` says why.
        """
        started = self.clock()
        policy = _override.get() or self.policy
        estimate, fallback = self._estimate(query) if policy.needs_estimate else (None, None)
        situation = Situation(
            query=query,
            estimate=estimate if fallback is None else None,
            facts=facts or ModelFacts(),
            limits=limits or self.limits,
            pace=pace,
            price=price,
        )
        try:
            name = policy_name(policy)
            budget = policy.budget(situation)
            limit = situation.limits.deadline_s
            if limit is not None and (budget.deadline_s is None or budget.deadline_s > limit):
                budget = tighter(budget, Deadline(limit, stop=budget.stop).budget(situation))
            expected = expect(budget, situation)
        except Exception as error:
            if self.strict:
                raise
            fallback = f"policy failed: {_why(error)}"
            logger.warning("%s; the call goes through unchanged", fallback)
            name, expected = type(policy).__name__, Expected()
            budget = Budget(stop="none", reasons=(fallback,))
        return Decision(
            budget=budget,
            policy=name,
            policy_hash=_hash(name, estimate),
            estimate=estimate,
            expected=expected,
            reasons=budget.reasons,
            certificate_void_reason="no certificate configured",
            fallback=fallback,
            decide_us=1e6 * (self.clock() - started),
        )

    def session(
        self,
        query: Query,
        *,
        params: Mapping[str, Any],
        endpoint: str,
        render: Render,
        base_url: str | None = None,
        limits: Limits | None = None,
    ) -> Session:
        """Decide for one logical call and write the budget into its parameters.

        Args:
            query: The call, as the classifier sees it; its ``model`` picks the capability.
            params: The call's own parameters; only read.
            endpoint: Kind of endpoint, one of the capability table's.
            render: The adapter of the call's dialect.
            base_url: Where the call goes, to tell speeds of different endpoints apart.
            limits: What this call may spend; None takes the controller's.

        Raises:
            UnsupportedControl: Strict mode only: the model lacks a control that the budget needs.
        """
        capability = self.capabilities.lookup(query.model, endpoint)
        place = base_url or endpoint
        outer = outer_call.get()
        if outer is not None:
            params = outer.restore(params)
        if outer is not None and not outer.claimed:
            outer.claimed = True
            decision = outer.decision
        else:
            outer = None
            decision = self.decide(
                query,
                facts=capability.facts(),
                limits=limits,
                pace=self.speeds.pace(place, query.model or ""),
                price=self.prices.lookup(query.model),
            )
        if outer is None or outer.controller.callbacks is not self.callbacks:
            self.callbacks.emit("on_decision", decision)
        rendered = render(decision.budget, capability, params, caller_values=self.caller_values)
        if self.strict and self.mode == "enforce" and rendered.unsupported:
            missing = ", ".join(rendered.unsupported)
            raise UnsupportedControl(f"{query.model!r} at {endpoint!r} has no control for: {missing}")
        return Session(
            controller=self,
            query=query,
            decision=decision,
            capability=capability,
            rendered=rendered,
            caller_params=params,
            place=place,
            outer=outer,
        )

    def _estimate(self, query: Query) -> tuple[Estimate | None, str | None]:
        """Return the estimate and why it is not to be relied on, if it is not."""
        try:
            classifier = self.classifier()
            if classifier is None:
                return None, "no classifier configured"
            estimate = classifier.estimate(query)
            if not estimate.confidence >= self.min_confidence:  # as is a confidence that is not a number
                return estimate, f"estimate confidence is below {self.min_confidence:g}"
        except Exception as error:  # third-party classifiers raise what they like
            if self.strict:
                if isinstance(error, BudgetctlError):
                    raise
                raise ClassifierError(f"{type(error).__name__}: {error}") from error
            logger.warning("classifier failed: %s", _why(error))
            return None, f"classifier failed: {_why(error)}"
        return estimate, None


def _hash(policy: str, estimate: Estimate | None) -> str:
    bound = f"{policy}|{estimate.source if estimate is not None else ''}"
    return hashlib.blake2b(bound.encode(), digest_size=8).hexdigest()


def _why(error: Exception) -> str:
    """Say what failed; in words only where they are ours."""
    return f"{brief(error)}: {error}" if isinstance(error, BudgetctlError) else brief(error)


def expect(budget: Budget, situation: Situation) -> Expected:
    """Forecast what ``budget`` brings: thinking ends at the cap or at its median natural length.

    Latency is ``ttft + tokens * s_per_token``; each number is None where a part of it is unknown.
    """
    estimate, cap = situation.estimate, budget.reasoning_tokens
    thinking = cap if cap == 0 else None
    if estimate is not None and thinking is None:
        natural = estimate.natural.p50
        thinking = round(natural if cap is None else min(natural, cap))
    answer = situation.facts.answer_tokens
    pace, price = situation.pace, situation.price
    total = None if thinking is None or answer is None else thinking + answer
    return Expected(
        p_correct=None if estimate is None else estimate.p_correct(cap),
        ttfo_s=None if pace is None or thinking is None else pace.seconds(thinking),
        e2e_s=None if pace is None or total is None else pace.seconds(total),
        cost_usd=None
        if price is None or thinking is None or answer is None
        else price.cost(prompt=situation.query.total_chars / 4, reasoning=thinking, answer=answer),
    )


def _one_of(name: str, value: Any, allowed: Any) -> Any:
    if value not in get_args(allowed):
        raise ConfigError(f"{name}: seen {value!r}, allowed: {', '.join(get_args(allowed))}")
    return value
