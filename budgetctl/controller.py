"""The controller: one decision per logical call, and a session that records what became of it."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from budgetctl.callbacks import Callbacks
from budgetctl.conversation import KEPT, Conversation, Conversations, conversation_of
from budgetctl.errors import (
    BudgetctlError,
    CertificateMismatch,
    ClassifierError,
    ConfigError,
    LedgerUnavailable,
    UnsupportedControl,
    brief,
)
from budgetctl.names import Alias, Names
from budgetctl.overrides import check_name, paying, policy_override
from budgetctl.policy import (
    Auto,
    Certified,
    Deadline,
    Policy,
    Situation,
    aside,
    at_most,
    coverage,
    expect,
    parse,
    policy_name,
)
from budgetctl.session import Session, outer_call
from budgetctl.speed import Speeds
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
    from budgetctl.audit import Audits
    from budgetctl.capabilities import Capability, Table
    from budgetctl.certificate import Circumstances
    from budgetctl.ledger import Ledger
    from budgetctl.outcomes import Sink
    from budgetctl.pricing import Prices
    from budgetctl.stopping import Preset

logger = logging.getLogger("budgetctl")

Mode = Literal["enforce", "observe"]
MIN_CONFIDENCE = 0.5
TOLD = 100
"""How many faults of ours, each of another kind or place, are logged."""


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
        names: What a configuration gives names to.
        presets: Other soft criteria for the stop presets, as for :func:`budgetctl.stopping.soft`.
        capabilities: What models can do; None loads the table that ships with the package.
        prices: What models cost; None loads the table that ships with the package.
        speeds: Live speeds; give several controllers the same object to share what they learn.
        audits: Makes a share of the calls once more at full thinking, and tells ``auto`` what that showed.
        ledger: Keeps what calls spend together within limits.
        tenant: Whom the calls are for, in the eyes of those limits, unless :func:`override` says otherwise.
        key: Who pays for them, likewise.
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
        names: Names | None = None,
        presets: Mapping[str, Preset] | None = None,
        capabilities: Table | None = None,
        prices: Prices | None = None,
        speeds: Speeds | None = None,
        audits: Audits | None = None,
        ledger: Ledger | None = None,
        tenant: str | None = None,
        key: str | None = None,
        sinks: Sequence[Sink] = (),
        callbacks: Callbacks | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.names = names or Names()
        self.policy = parse(policy, names=self.names.policies)
        self.mode: Mode = _one_of("mode", mode, Mode)
        self.caller_values: CallerValues = _one_of("caller_values", caller_values, CallerValues)
        if not _is_share(min_confidence):
            raise ConfigError(
                f"min_confidence: seen {min_confidence!r}, allowed: a number that lies between 0 and 1"
            )
        if not isinstance(strict, bool):
            raise ConfigError(f"strict: seen {strict!r}, allowed: True, False")
        _check_classifier(classifier)
        _has("limits", limits, "deadline_s", "Limits(...)")
        _has("capabilities", capabilities, "lookup", "budgetctl.capabilities.Table.load(path)")
        _has("prices", prices, "lookup", "budgetctl.pricing.Prices.load(path)")
        _has("callbacks", callbacks, "emit", "Callbacks(...)")
        _has("ledger", ledger, "limits", "budgetctl.ledger.Ledger(...), also for asynchronous clients")
        check_name("tenant", tenant)
        check_name("key", key)
        for sink in sinks:
            _has("sinks", sink, "write", "JsonlSink(path), or what has its write()")
        self.strict = strict
        self.limits = limits or Limits()
        self.min_confidence = min_confidence
        self.route = route
        self.presets = presets
        self.audits = audits
        self.speeds = speeds or Speeds()
        self.ledger = ledger
        self.tenant = tenant
        self.key = key
        self.sinks = tuple(sinks)
        self.callbacks = callbacks or Callbacks()
        self.clock = clock
        self._classifier = classifier
        self._capabilities = capabilities
        self._prices = prices
        self._told: set[str] = set()
        self.conversations = Conversations()

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
        """Return a controller that differs in its policy only and shares everything else.

        Raises:
            ConfigError: The policy does not parse.
        """
        other = self._copy()
        other.policy = parse(policy, names=self.names.policies)
        other.names = self.names.without_model_policies()
        return other

    def without_classifier(self) -> Controller:
        """Return a controller that estimates nothing and shares everything else."""
        other = self._copy()
        other._classifier = None
        return other

    def with_presets(self, presets: Mapping[str, Preset]) -> Controller:
        """Return a controller with other soft criteria for the stop presets, which shares everything else."""
        other = self._copy()
        other.presets = presets
        return other

    def with_route(self, route: str) -> Controller:
        """Return a controller for the traffic of one name, with the policy and the limits of that route.

        Raises:
            ConfigError: Routes are configured, and none of this name.
        """
        found = self.names.route(route)
        other = self._copy() if found.policy is None else self.with_policy(found.policy)
        other.route = route
        other.limits = found.limits or self.limits
        return other

    def for_payer(self, *, tenant: str | None = None, key: str | None = None) -> Controller:
        """Return a controller whose calls are charged to these, and which shares everything else.

        Raises:
            ConfigError: A name is no string.
        """
        check_name("tenant", tenant)
        check_name("key", key)
        other = self._copy()
        other.tenant, other.key = tenant or self.tenant, key or self.key
        return other

    def _copy(self) -> Controller:
        _ = self.capabilities, self.prices  # loaded now, they are loaded once
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def alias(self, model: Any) -> Alias | None:
        """Return what stands behind a model name, or stood behind it for a budgeted function around the call.

        None where the name is the model's own.
        """
        if not isinstance(model, str):
            return None
        if model in self.names.models:
            return self.names.models[model]
        outer = outer_call.get()
        known = None if outer is None else outer.alias
        return known if known is not None and known.model == model else None

    def decide(
        self,
        query: Query,
        *,
        facts: ModelFacts | None = None,
        limits: Limits | None = None,
        pace: Pace | None = None,
        price: Price | None = None,
        endpoint: str | None = None,
        params: Mapping[str, Any] | None = None,
        policy: Policy | None = None,
        conversation: Conversation | None = None,
    ) -> Decision:
        """Return the decision for one call. Reads no network and changes nothing.

        Args:
            query: The call, as the classifier sees it.
            facts: What the model can do; None is a model that nothing is known of.
            limits: What this call may spend; None takes the controller's.
            pace: How fast the endpoint answers, if measured.
            price: What the model costs, if known.
            endpoint: Kind of endpoint that the call goes to; no certificate holds where it is unknown.
            params: The call's own parameters, likewise; None is none set.
            policy: The policy of this call, unless it is overridden; None takes the controller's.
            conversation: The conversation whose calls are decided alike; None decides the call by itself.

        Raises:
            BudgetctlError: Strict mode only; otherwise a fault of ours gives the caller's own parameters
                and ``Decision.fallback`` says why.
        """
        started = self.clock()
        policy = policy_override.get() or policy or self.policy
        estimate, fallback = self._estimate(query) if policy.needs_estimate else (None, None)
        situation = Situation(
            query=query,
            estimate=estimate if fallback is None else None,
            facts=facts or ModelFacts(),
            limits=limits or self.limits,
            pace=pace,
            price=price,
            footing=self.audits.footing() if self.audits is not None and isinstance(policy, Auto) else None,
        )
        asked = isinstance(policy, Certified) or situation.footing is not None
        if asked and endpoint is not None:
            seen = self._circumstances(query, endpoint=endpoint, params=params or {}, estimate=estimate)
            situation = replace(situation, circumstances=seen)
        elif isinstance(self.policy, Certified) and policy is not self.policy:
            situation = replace(situation, void="overridden by another policy")
        try:
            name = policy_name(policy)
            certificate, void = coverage(policy, situation, strict=self.strict)
            kept = self.conversations.recall(conversation, name) if certificate is None else None
            budget = _limited(kept or policy.budget(situation), situation)
            expected = expect(budget, situation)
            if kept is not None:
                budget = replace(budget, reasons=(KEPT, *budget.reasons))
            elif certificate is None:
                self.conversations.keep(conversation, name, budget)
        except Exception as error:
            if self.strict:
                raise
            fallback = f"policy failed: {_why(error)}"
            logger.warning("%s; the call goes through unchanged", fallback)
            name, expected, certificate, void = type(policy).__name__, Expected(), None, fallback
            budget = Budget(stop="none", reasons=(fallback,))
        return Decision(
            budget=budget,
            policy=name,
            policy_hash=self.policy_hash(name, estimate, certificate=certificate),
            estimate=estimate,
            expected=expected,
            reasons=budget.reasons,
            certificate=certificate,
            certificate_void_reason=void,
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
        policy: Policy | None = None,
        conversation: str | None = None,
        repeatable: bool = False,
    ) -> Session:
        """Decide for one logical call and write the budget into its parameters.

        Args:
            query: The call, as the classifier sees it; its ``model`` picks the capability.
            params: The call's own parameters; only read.
            endpoint: Kind of endpoint, one of the capability table's.
            render: The adapter of the call's dialect.
            base_url: Where the call goes, to tell speeds of different endpoints apart.
            limits: What this call may spend; None takes the controller's.
            policy: The policy of this call, unless it is overridden; None takes the controller's.
            conversation: Id of the call's conversation, where it has one.
            repeatable: The call can be made once more, and costs nothing but tokens: it may be audited.

        Raises:
            UnsupportedControl: Strict mode only: the model lacks a control that the budget needs.
        """
        from budgetctl.adapters.paths import said, without_auto

        capability = self.capabilities.lookup(query.model, endpoint)
        place = base_url or endpoint
        outer = outer_call.get()
        params = without_auto(params if outer is None else outer.restore(params))
        outer = None if outer is None else outer.claim()
        if outer is not None and outer.decides:
            decider, policy, ongoing = outer.controller, outer.policy, outer.conversation
        else:
            decider = self
            ongoing = conversation_of(query, capability, place=place, given=conversation)
        decision = None if outer is None or not outer.decides else outer.decision
        if decision is None or decision.certificate is not None:  # which may not hold for the call inside
            decision = decider.decide(
                query,
                facts=capability.facts(),
                limits=limits,
                pace=self.speeds.pace(place, query.model or ""),
                price=self.prices.lookup(query.model, place=place, prompt_tokens=query.prompt_tokens),
                endpoint=endpoint,
                params=params,
                policy=policy,
                conversation=ongoing,
            )

        def written(budget: Budget) -> Rendered:
            return render(budget, capability, params, caller_values=self.caller_values)

        situation = Situation(query=query, facts=capability.facts())
        decision, rendered = decider._written(decision, written, policy=policy, situation=situation)
        last = decider.conversations.last(ongoing)
        lost = None if last is None else last.gives_up(said(rendered.params))
        if lost is not None and self.mode == "enforce" and lost not in decision.reasons:
            decision = replace(decision, reasons=(*decision.reasons, lost))
        if repeatable and self.mode == "enforce" and decider.audits is not None:
            audit = decider.audits.draw(decision, limits=limits or decider.limits)
            decision = replace(decision, audit=audit)
        if outer is None or not outer.decides or outer.controller.callbacks is not self.callbacks:
            self.callbacks.emit("on_decision", decision)
        if self.strict and self.mode == "enforce" and rendered.unsupported:
            missing = ", ".join(rendered.unsupported)
            raise UnsupportedControl(f"{query.model!r} at {endpoint!r} has no control for: {missing}")
        session = Session(
            controller=self,
            query=query,
            decision=decision,
            capability=capability,
            rendered=rendered,
            caller_params=params,
            place=place,
            outer=outer,
            conversation=ongoing,
            last=last,
        )
        if self.ledger is not None and (outer is None or outer.ledger is not self.ledger):
            from budgetctl.charging import Payer, charge

            key, tenant = paying.get()
            payer = Payer(key=key or self.key, route=session.route, tenant=tenant or self.tenant)
            session.charge = charge(session, payer=payer, rendered=rendered, write=written)
        return session

    def unbudgeted(self, what: str, error: Exception) -> None:
        """Let a call that a fault of ours leaves without a budget go through unchanged, and log why, once.

        Raises:
            BudgetctlError: Strict mode only.
            LedgerUnavailable: A call that cannot be counted is not made where there are spending limits.
        """
        if self.strict and isinstance(error, BudgetctlError):
            raise error
        if self.ledger is not None and self.mode == "enforce":
            raise LedgerUnavailable(
                f"{what} could not be counted ({brief(error)}) and was not made"
            ) from error
        cause = f"{what} goes through unchanged: {brief(error)}{_where(error)}"
        if cause not in self._told and len(self._told) < TOLD:
            self._told.add(cause)
            logger.warning("%s (said once)", cause)

    def policy_hash(
        self, policy: str, estimate: Estimate | None = None, *, certificate: str | None = None
    ) -> str:
        """Return the hash of a policy and of what it depends on here."""
        bound = f"{policy}|{estimate.source if estimate is not None else ''}"
        if self.presets:
            bound += f"|{json.dumps(self.presets, sort_keys=True, default=repr)}"
        if certificate is not None:
            bound += f"|{certificate}"
        return hashlib.blake2b(bound.encode(), digest_size=8).hexdigest()

    def _circumstances(
        self, query: Query, *, endpoint: str, params: Mapping[str, Any], estimate: Estimate | None
    ) -> Circumstances:
        from budgetctl.certificate import Circumstances

        classifier = None if estimate is None else self.classifier()
        return Circumstances(
            model=query.model,
            endpoint=endpoint,
            params=params,
            classifier=None if classifier is None else classifier.hash,
            min_confidence=self.min_confidence,
            capabilities=self.capabilities.version,
            presets=self.presets,
        )

    def kept(
        self, decision: Decision, write: Callable[[Budget], Rendered], *, query: Query, facts: ModelFacts
    ) -> Decision:
        """Return a decision as it stands once written: aside where the call cannot keep its certificate.

        Sessions do this themselves; it is for those who decide without one, as evaluations do.

        Args:
            decision: What :meth:`decide` returned.
            write: Writes a budget into the call's parameters.
            query: The call, as given to :meth:`decide`.
            facts: What the model can do, likewise.

        Raises:
            CertificateMismatch: Strict mode only.
        """
        return self._written(decision, write, policy=None, situation=Situation(query=query, facts=facts))[0]

    def _written(
        self,
        decision: Decision,
        write: Callable[[Budget], Rendered],
        *,
        policy: Policy | None,
        situation: Situation,
    ) -> tuple[Decision, Rendered]:
        """Write the budget into a call; without its certificate, where the call cannot keep that.

        Raises:
            CertificateMismatch: Strict mode only, and not for ``auto``, which goes on at its stage 0.
        """
        rendered = write(decision.budget)
        policy = policy_override.get() or policy or self.policy
        own = isinstance(policy, Certified)
        certified = policy if own or self.audits is None else self.audits.certified
        if decision.certificate is None or not isinstance(certified, Certified):
            return decision, rendered
        why = certified.certificate.unkept(
            rendered.controls, unsupported=rendered.unsupported, pinned=rendered.pinned
        )
        if why is None:
            return decision, rendered
        if own and self.strict:
            raise CertificateMismatch(f"{decision.policy}: {why}")
        budget = aside(situation, why)
        decision = replace(
            decision,
            budget=budget,
            reasons=budget.reasons,
            expected=expect(budget, situation),
            certificate=None,
            certificate_void_reason=why,
        )
        return decision, write(budget)

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


def _limited(budget: Budget, situation: Situation) -> Budget:
    """Return the budget within the caller's limits, which hold over every policy."""
    seconds, tokens = situation.limits.deadline_s, situation.limits.reasoning_tokens
    if seconds is not None and (budget.deadline_s is None or budget.deadline_s > seconds):
        budget = tighter(budget, Deadline(seconds, stop=budget.stop).budget(situation))
    if tokens is not None and (budget.reasoning_tokens is None or budget.reasoning_tokens > tokens):
        within = at_most(tokens, f"limit: {tokens} tokens", stop=budget.stop, situation=situation)
        budget = tighter(budget, within)
    return budget


def _where(error: Exception) -> str:
    """Return the line of code that raised ``error``, whose message may quote the call."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f" at {trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}"


def _why(error: Exception) -> str:
    """Say what failed; in words only where they are ours."""
    return f"{brief(error)}: {error}" if isinstance(error, BudgetctlError) else brief(error)


def _one_of(name: str, value: Any, allowed: Any) -> Any:
    if value not in get_args(allowed):
        raise ConfigError(f"{name}: seen {value!r}, allowed: {', '.join(get_args(allowed))}")
    return value


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _check_classifier(classifier: object) -> None:
    """Refuse what is no classifier and a name that nobody has; weights are read when they are needed."""
    if not isinstance(classifier, str):
        _has("classifier", classifier, "estimate", "a registered name, what has estimate(), or None")
    elif classifier != "default":
        from budgetctl.classifiers.registry import check

        try:
            check(classifier)
        except ClassifierError as error:
            raise ConfigError(f"classifier: {error}") from None


def _has(name: str, value: object, attribute: str, allowed: str) -> None:
    if value is not None and not hasattr(value, attribute):
        raise ConfigError(f"{name}: seen {value!r}, allowed: {allowed}")
