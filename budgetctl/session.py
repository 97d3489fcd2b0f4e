"""One logical call, from its rendered parameters to its outcome."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from budgetctl.errors import BudgetctlError, brief
from budgetctl.types import AppliedControl, Budget, Decision, Price, Query, StopReason, Timing, Usage

if TYPE_CHECKING:
    from budgetctl.adapters import Rendered
    from budgetctl.audit import Audits
    from budgetctl.callbacks import Callbacks
    from budgetctl.capabilities import Capability
    from budgetctl.charging import Charge, Way
    from budgetctl.controller import Controller
    from budgetctl.conversation import Conversation, Conversations, LastCall
    from budgetctl.names import Alias
    from budgetctl.outcomes import Outcome, Sink
    from budgetctl.policy import Policy
    from budgetctl.speed import Request

logger = logging.getLogger("budgetctl")


@dataclass(kw_only=True)
class OuterCall:
    """A budgeted function around a call: the first budgeted client inside takes its decision over.

    Attributes:
        controller: The function's controller; its route, sinks and callbacks get what the client records.
        decision: What the function's controller decided.
        policy: The policy that decided, where it is not the controller's own: an alias may have one.
        injected: The parameters that the function was given because of it.
        replaced: What the caller had set for those of them that were set at all.
        alias: What stands behind the model that the caller named, where it is an alias; the parameters name
            the model itself.
        conversation: What the call belongs to, where that matters.
        claimed: A client inside has taken the decision over, with whatever better means it has.
        outcome: The outcome that this client recorded.
        ledger: Where what the function spends is charged already.
        decides: The decision is for the client inside; where a ladder has taken it over, its rungs decide.
    """

    controller: Controller
    decision: Decision
    policy: Policy | None = None
    injected: Mapping[str, Any] = field(default_factory=dict)
    replaced: Mapping[str, Any] = field(default_factory=dict)
    alias: Alias | None = None
    conversation: Conversation | None = None
    claimed: bool = False
    outcome: Outcome | None = None
    ledger: object = None
    decides: bool = True

    def claim(self) -> OuterCall | None:
        """Take the decision over; None for all but the first client inside."""
        if self.claimed:
            return None
        self.claimed = True
        return self

    def restore(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``params`` as the caller meant them: without what was injected."""
        ours = {k for k, v in params.items() if k in self.injected and _same(self.injected[k], v)}
        kept = {k: v for k, v in params.items() if k not in ours}
        return kept | {k: self.replaced[k] for k in ours if k in self.replaced}


@dataclass(frozen=True, slots=True, kw_only=True)
class Acted:
    """How thinking was really ended, and what that cost.

    Attributes:
        actuator: ``engine_cap``, ``live_end``, or the ending of the capability table that wrote the answer;
            None where the model ended its thinking itself, or nothing of ours did.
        degraded: The answer does not go on from the model's own thought, so it comes from another
            distribution than the one that was asked.
        extra_calls: Requests beyond the first.
        prefill_tokens: Prompt tokens of those; None where one was not reported.
    """

    actuator: str | None = None
    degraded: bool = False
    extra_calls: int = 0
    prefill_tokens: int | None = 0


def _probes(*, generated: int, read: int) -> Usage:
    return Usage(
        prompt_tokens=read,
        reasoning_tokens=generated,
        answer_tokens=0,
        output_tokens=generated,
        cached_tokens=0,
        cache_write_tokens=0,
    )


def _same(a: Any, b: Any) -> bool:
    """Whether two values are the same. Clients copy what they are given, and arrays cannot be compared."""
    try:
        return a is b or bool(a == b)
    except Exception:
        return False


outer_call: ContextVar[OuterCall | None] = ContextVar("budgetctl_outer_call", default=None)

Keep = Callable[["Outcome", Callable[["Outcome"], None]], None]
"""Gets the outcome of a call in the place of sinks and callbacks, and what shows it to them in time."""

keep: ContextVar[Keep | None] = ContextVar("budgetctl_keep", default=None)
"""For the calls that begin in this context: a draft is recorded when it is known whether it is the answer."""


class Session:
    """What an integration needs while one call runs. Made by :meth:`Controller.session`.

    Attributes:
        params: The parameters to send: rendered, or the caller's own when only observing.
        budget: What the engine should keep; unlimited when only observing.
        controls: The controls in ``params``, each with its strength.
        unsupported: Parts of the budget that no control of the model carries.
        pinned: Parameters that the caller had set and that were left alone.
        started: Time on ``clock`` at which the call began.
        place: Where it goes: a base URL, or a kind of endpoint.
        flight: The call in the eyes of its endpoint's speed.
        audited: The outcome of the call that this one audits, and nobody waits for it; None for every other.
        charge: The call's account with a ledger; None where no spending limit is for it.
    """

    def __init__(
        self,
        *,
        controller: Controller,
        query: Query,
        decision: Decision,
        capability: Capability,
        rendered: Rendered,
        caller_params: Mapping[str, Any],
        place: str,
        outer: OuterCall | None = None,
        conversation: Conversation | None = None,
        last: LastCall | None = None,
        audited: Outcome | None = None,
    ) -> None:
        enforce = controller.mode == "enforce"
        self.controller = controller
        self.query = query
        self.decision = decision
        self.capability = capability
        self.caller_params = dict(caller_params)
        self.params = rendered.params if enforce else dict(caller_params)
        self.controls: tuple[AppliedControl, ...] = rendered.controls if enforce else ()
        self.unsupported = rendered.unsupported
        self.pinned = rendered.pinned if enforce else ()
        self.budget = decision.budget if enforce else Budget(stop="none")
        self.clock = controller.clock
        self.started = controller.clock()
        self.flight = controller.speeds.enter(
            place, query.model or "", requests=2 if capability.recalls else 1
        )
        self.outcome: Outcome | None = None
        self.audited = audited
        self.charge: Charge | None = None
        self._usage: Usage | None = None
        self.conversation = conversation
        self._last = last
        self.place = place
        self._outer = outer
        self._keep = keep.get() if audited is None else None

    @property
    def enforcing(self) -> bool:
        """Whether budgets are written into calls, or only recorded."""
        return self.controller.mode == "enforce"

    @property
    def route(self) -> str | None:
        """Name of the traffic: a function around the call knows it best."""
        return next((c.route for c in reversed(self._controllers) if c.route is not None), None)

    @property
    def price(self) -> Price | None:
        """What the call's tokens cost where it goes."""
        return self.controller.prices.lookup(self.query.model, place=self.place)

    def finish(
        self,
        *,
        usage: Usage,
        timing: Timing,
        stop: StopReason,
        answered: bool,
        criterion: str | None = None,
        probe_tokens: int = 0,
        probe_prefill: int = 0,
        acted: Acted | None = None,
        fallback: str | None = None,
        controls: Sequence[AppliedControl] | None = None,
        measured: Sequence[Request] | None = None,
    ) -> Outcome | None:
        """Record what happened and return it; a second call returns the first outcome.

        None where it could not be recorded: that costs the record and never the call.

        Args:
            usage: Tokens of the whole logical call, recoveries included.
            timing: Seconds from ``started``.
            stop: Why thinking ended.
            answered: The caller got an answer.
            criterion: Name of the criterion that ended thinking, if one did.
            probe_tokens: Tokens that were generated to see whether to stop; they are charged, and no part
                of ``usage``.
            probe_prefill: Tokens that were read for that.
            acted: How thinking was ended, where that is known.
            fallback: What went wrong on the way and what was done instead.
            controls: The controls that really acted, if they differ from those that were sent.
            measured: The requests that it took, from which the speed is learned; None is the one that
                ``usage`` and ``timing`` tell of.
        """
        if self.outcome is not None:
            return self.outcome
        self._usage = usage
        if probe_tokens or probe_prefill:
            self._usage += _probes(generated=probe_tokens, read=probe_prefill)
        self.flight.land()
        try:
            self.outcome = self._build(
                usage=usage,
                timing=timing,
                stop=stop,
                answered=answered,
                criterion=criterion,
                probe_tokens=probe_tokens,
                probe_prefill=probe_prefill,
                acted=acted or Acted(),
                fallback=fallback,
                controls=self.controls if controls is None else tuple(controls),
            )
            self._learn_speed(usage, timing, measured=measured, stop=stop, answered=answered)
            if self._keep is None:
                self._publish(self.outcome)
            else:
                self._keep(self.outcome, self._publish)
        except Exception as error:
            logger.warning("the outcome could not be recorded: %s", brief(error))
        return self.outcome

    def reserve(self) -> bool:
        """Reserve what the call costs at most, before it is made; true where that made it a cheaper one.

        It blocks where ``charge.waits``.

        Raises:
            LimitExceeded: A limit has no room for the call.
            LedgerUnavailable: Nobody knows whether it has.
            ConfigError: What the call may cost is not known.
        """
        if self.charge is None:
            return False
        try:
            way = self.charge.reserve()
        except BudgetctlError as error:
            if self.audited is None:
                self._refused(error)
            self.flight.land()
            raise
        if self.charge.note is not None:
            self.decision = replace(self.decision, reasons=(*self.decision.reasons, self.charge.note))
        return way is not self.charge.ways[0] and self._take(way)

    def settle(self, error: BaseException | None = None) -> None:
        """Charge what the finished call has used; what is not known of it, as it was reserved. Never fails.

        Args:
            error: What ended the call.
        """
        if self.charge is not None:
            cost = None if self.outcome is None else self.outcome.cost_usd
            self.charge.settle(self._usage, cost, error=error)

    def release(self) -> None:
        """Give back what was reserved: the call is not made. Never fails."""
        self.flight.land()
        if self.charge is not None:
            self.charge.release()

    def _take(self, way: Way) -> bool:
        """Make the call a cheaper one."""
        self.decision, self.budget = way.decision, way.decision.budget
        self.params, self.controls = way.rendered.params, way.rendered.controls
        self.unsupported, self.pinned = way.rendered.unsupported, way.rendered.pinned
        if self._outer is not None:
            self._outer.decision = self.decision
        self.controller.callbacks.emit("on_decision", self.decision)
        return True

    def _refused(self, error: BudgetctlError) -> None:
        """Record a call that was not made."""
        self.controls = ()
        nothing = Usage(prompt_tokens=0, reasoning_tokens=0, answer_tokens=0, output_tokens=0)
        self.finish(
            usage=nothing,
            timing=Timing(),
            stop=StopReason.ERROR,
            answered=False,
            fallback=f"{type(error).__name__}: {error}",
        )

    @property
    def audits(self) -> Audits | None:
        """Whose audit this call was drawn for."""
        return self._decider.audits if self.decision.audit else None

    def again(self, audits: Audits) -> Session:
        """Return the session of the same call as its caller wrote it, which audits this one.

        It is charged likewise. Its outcome goes where this one's went, and is nobody's
        ``budgetctl.outcome(...)``.
        """
        from budgetctl.adapters import Rendered

        assert self.outcome is not None
        budget = Budget(
            stop="none", reasons=(f"audit of {self.outcome.policy}: the caller's own parameters",)
        )
        decision = Decision(
            budget=budget,
            policy="full",
            policy_hash=self.controller.policy_hash("full"),
            reasons=budget.reasons,
            certificate_void_reason="an audit",
            action_probability=audits.rate,
            audit=True,
        )
        own = Rendered(params=dict(self.caller_params))
        second = Session(
            controller=self.controller,
            query=self.query,
            decision=decision,
            capability=self.capability,
            rendered=own,
            caller_params=self.caller_params,
            place=self.place,
            outer=self._outer,
            audited=self.outcome,
        )
        if self.charge is not None:
            from budgetctl.charging import charge

            second.charge = charge(second, payer=self.charge.payer, rendered=own, write=lambda budget: own)
        return second

    def answered(self, response: str) -> None:
        """Know the call's conversation by the id of its response as well."""
        self._memory.answered(self.conversation, response)

    def _publish(self, outcome: Outcome) -> None:
        """Show the outcome to our sinks and callbacks, and to those of a function around this call."""
        if self._outer is not None and self.audited is None:
            self._outer.outcome = outcome
        for sink in self._sinks:
            try:
                sink.write(outcome, text=self.query.text)
            except Exception as error:  # a sink never fails the call
                logger.warning("sink %s failed: %s", type(sink).__name__, brief(error))
        for callbacks in self._callbacks:
            callbacks.emit("on_outcome", outcome)

    @property
    def _memory(self) -> Conversations:
        return self._decider.conversations

    @property
    def _decider(self) -> Controller:
        outer = self._outer
        return self.controller if outer is None or not outer.decides else outer.controller

    @property
    def _controllers(self) -> list[Controller]:
        return [self.controller] if self._outer is None else [self.controller, self._outer.controller]

    @property
    def _sinks(self) -> list[Sink]:
        return list({id(sink): sink for c in self._controllers for sink in c.sinks}.values())

    @property
    def _callbacks(self) -> list[Callbacks]:
        return list({id(c.callbacks): c.callbacks for c in self._controllers}.values())

    def _learn_speed(
        self,
        usage: Usage,
        timing: Timing,
        *,
        measured: Sequence[Request] | None,
        stop: StopReason,
        answered: bool,
    ) -> None:
        from budgetctl.speed import Request

        requests = list(measured or ())
        tokens = usage.output_tokens or (usage.reasoning_tokens or 0) + (usage.answer_tokens or 0)
        if measured is None and timing.e2e_s is not None and tokens > 1:
            requests.append(Request(ttft_s=timing.ttft_s, tokens=tokens, seconds=timing.e2e_s))
        if self.capability.reasoning == "hidden":
            requests = []  # the thinking came before the first token that anybody saw
        self.flight.learn(requests)
        if answered and timing.e2e_s is not None and stop not in (StopReason.ERROR, StopReason.CALLER):
            self.flight.ended(timing.e2e_s, deadline_s=self.budget.deadline_s)

    def _build(
        self,
        *,
        usage: Usage,
        timing: Timing,
        stop: StopReason,
        answered: bool,
        criterion: str | None,
        probe_tokens: int,
        probe_prefill: int,
        acted: Acted,
        fallback: str | None,
        controls: tuple[AppliedControl, ...],
    ) -> Outcome:
        from budgetctl.hashing import query_hash
        from budgetctl.outcomes import Outcome

        # Features are for records: where nobody keeps any, the classifier need not be loaded.
        kept = self._sinks or any(callbacks.on_outcome for callbacks in self._callbacks)
        notes = [note for note in (self.decision.fallback, fallback) if note]
        void = self.decision.certificate_void_reason
        if self.decision.certificate is not None:
            void = self._voided(acted, fallback)
        return Outcome.of(
            self.decision,
            parent_id=None if self.audited is None else self.audited.id,
            stop=stop,
            answered=answered,
            usage=usage,
            timing=replace(timing, decide_us=self.decision.decide_us),
            controls=controls,
            criterion=criterion,
            probe_tokens=probe_tokens,
            acted=asdict(acted),
            route=self.route,
            query_hash=query_hash(self.query.text),
            features=self.controller.features(self.query) if kept else {},
            model=self.query.model,
            budget_state=self._budget_state(controls, usage),
            pinned=self.pinned,
            fallback="; ".join(notes) or None,
            cost_usd=self.controller.prices.cost(
                self.query.model,
                usage + _probes(generated=probe_tokens, read=probe_prefill),
                place=self.place,
                again=(acted.prefill_tokens or 0) + probe_prefill,
            ),
            cache_lost=self._cache_lost(controls, usage),
            certificate=None if void else self.decision.certificate,
            certificate_void_reason=void,
        )

    def _cache_lost(self, controls: tuple[AppliedControl, ...], usage: Usage) -> dict[str, Any] | None:
        """Return what a change of thinking cost the conversation of its prompt cache, as reported."""
        from budgetctl.adapters.paths import said

        if self.conversation is None:
            return None
        sent = said(self.params if controls else self.caller_params)
        self._memory.note(self.conversation, said=sent, usage=usage)
        if self._last is None or self._last.gives_up(sent) is None:
            return None
        if self._last.cached is None or usage.cached_tokens is None:
            return None
        tokens = min(self._last.cached, usage.prompt_tokens or 0) - usage.cached_tokens
        usd = self.controller.prices.cache_lost(self.query.model, usage, tokens, place=self.place)
        return {"tokens": tokens, "usd": usd} if tokens > 0 else None

    def _voided(self, acted: Acted, fallback: str | None) -> str | None:
        """Return why what happened on the way is not what was certified."""
        if not self.enforcing:
            return "observe mode: nothing was enforced"
        if acted.degraded:
            return f"the answer does not go on from the model's own thought ({acted.actuator})"
        return fallback

    def _budget_state(self, controls: tuple[AppliedControl, ...], usage: Usage) -> dict[str, Any]:
        budget, spent = self.decision.budget, usage.reasoning_tokens
        acting = {control.name: control for control in controls}
        carrier = next((acting[name] for name in self._carriers() if name in acting), None)
        applied = None if carrier is None else carrier.value
        if isinstance(applied, bool) or applied in ("none", "disabled"):  # a switch
            applied = 0
        return {
            "requested": budget.effort if budget.reasoning_tokens is None else budget.reasoning_tokens,
            "applied": applied,
            "strength": "none" if carrier is None else carrier.strength,
            "hit": spent >= applied if isinstance(applied, int) and applied and spent is not None else None,
        }

    def _carriers(self) -> tuple[str, ...]:
        """Name the controls that may carry a reasoning budget, the one in charge first."""
        from budgetctl.adapters.base import ABORT_CONTINUE

        cap, off = self.capability.cap, self.capability.off
        caps = (ABORT_CONTINUE, "logits", *(() if cap is None else cap.parameters))
        switches = (*(() if off is None else off.parameters), "enable_thinking")
        effort = self.capability.effort
        level = () if effort is None or effort.parameter is None else (effort.parameter,)
        return (*caps, *switches, *level, "reasoning_effort", "reasoning.effort")
