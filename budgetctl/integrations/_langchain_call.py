"""One call of a budgeted chat model: decided, sent, heard, charged to its turn, recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from budgetctl.adapters import openai_chat
from budgetctl.adapters.base import OURS, Rendered
from budgetctl.adapters.paths import without_auto
from budgetctl.callbacks import logger
from budgetctl.capabilities import Capability
from budgetctl.controller import Controller
from budgetctl.conversation import conversation_of, given_id
from budgetctl.engine.opening import REFUSED, status
from budgetctl.errors import brief
from budgetctl.integrations._controller import apart
from budgetctl.integrations._langchain_read import Listener, as_query, note
from budgetctl.integrations._langchain_turn import current_turn
from budgetctl.names import Alias
from budgetctl.outcomes import Outcome, attach
from budgetctl.policy import Situation
from budgetctl.session import OuterCall, Session, outer_call
from budgetctl.types import Budget, CallerValues, Query, StopReason

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import BaseMessage

_calling: ContextVar[object] = ContextVar("budgetctl_langchain_calling", default=None)
"""The budgeted chat model that is being called. Chat models make one call by another method of theirs
(``_generate`` by ``_stream``, say), and that is still one call."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a budgeted chat model knows besides what every chat model knows.

    Attributes:
        controller: Decides and records.
        endpoint: Kind of endpoint, as in the capability table.
        place: URL of the endpoint, where it is known.
        watched: The model's client is one of ours: it writes the parameters, watches and records.
        clients: The clients that ours took the place of, by field.
        broken: Controls that a model refused; they are not tried again.
    """

    controller: Controller
    endpoint: str
    place: str | None = None
    watched: bool = False
    clients: Mapping[str, Any] = field(default_factory=dict)
    broken: dict[str, frozenset[str]] = field(default_factory=dict)

    def begin(
        self, model: BaseChatModel, messages: list[BaseMessage], *, stop: Any, kwargs: Mapping[str, Any]
    ) -> Call | Untouched:
        """Decide for one call; a fault of ours means that it goes through unchanged."""
        if _calling.get() is model:
            return Untouched(kwargs)
        try:
            return Call(self, model, messages, stop=stop, kwargs=kwargs)
        except Exception as error:
            self.controller.unbudgeted("a chat model's call", error)
            return Untouched(kwargs)

    def decide(self, query: Query, *, alias: Alias | None, params: Mapping[str, Any]) -> OuterCall:
        """Return what the call is to be, within its turn: a decision around it stays in charge."""
        controller = self.controller
        endpoint = self.at(alias)
        capability = controller.capabilities.lookup(query.model, endpoint)
        place = self.place or endpoint
        facts, price = capability.facts(), controller.prices.lookup(query.model, place=place)
        pace = controller.speeds.pace(place, query.model or "")
        outer = outer_call.get()
        if outer is None or outer.claimed:
            policy = None if alias is None else alias.policy
            ongoing = conversation_of(query, capability, place=place, given=given_id(params))
            decision = controller.decide(
                query,
                facts=facts,
                pace=pace,
                price=price,
                endpoint=endpoint,
                policy=policy,
                conversation=ongoing,
            )
            outer = OuterCall(controller=controller, decision=decision, policy=policy, conversation=ongoing)
        turn = current_turn()
        if turn is not None:
            trusted = outer.decision.estimate if outer.decision.fallback is None else None
            situation = Situation(query=query, estimate=trusted, facts=facts, pace=pace, price=price)
            outer.decision = turn.tighten(outer.decision, situation)
        if outer.controller is controller:  # otherwise the session says it, to our callbacks
            controller.callbacks.emit("on_decision", outer.decision)
        return outer

    def at(self, alias: Alias | None) -> str:
        """Return the kind of endpoint of a call."""
        return self.endpoint if alias is None else alias.endpoint or self.endpoint

    def render(
        self,
        budget: Budget,
        capability: Capability,
        params: Mapping[str, Any],
        *,
        caller_values: CallerValues,
    ) -> Rendered:
        """Write the budget, leaving out what the model is known to refuse."""
        broken = self.broken.get(str(params.get("model")), frozenset())
        return openai_chat.render(budget, capability.without(broken), params, caller_values=caller_values)

    def mark(self, model: str | None, names: frozenset[str]) -> None:
        """Remember controls that a model does not take."""
        logger.warning("%s does not take: %s", model, ", ".join(sorted(names)))
        self.broken[str(model)] = self.broken.get(str(model), frozenset()) | names


class Untouched:
    """A call that goes through unchanged."""

    def __init__(self, kwargs: Mapping[str, Any]) -> None:
        self.kwargs = dict(kwargs)

    @contextmanager
    def sending(self) -> Iterator[None]:
        yield

    def reserve(self) -> None:
        pass

    async def areserve(self) -> None:
        pass

    async def asettle(self, error: BaseException | None = None) -> None:
        pass

    def settle(self, error: BaseException | None = None) -> None:
        pass

    def again(self, error: Exception) -> dict[str, Any]:
        raise error

    def hear(self, chunk: ChatGenerationChunk) -> None:
        pass

    def failed(self, error: BaseException) -> None:
        pass

    def whole(self, result: ChatResult) -> ChatResult:
        return result

    def ended(self) -> ChatGenerationChunk | None:
        return None


class Call:
    """One call under its budget.

    Attributes:
        kwargs: What the chat model is called with.
    """

    def __init__(
        self,
        setup: Setup,
        model: BaseChatModel,
        messages: list[BaseMessage],
        *,
        stop: Any,
        kwargs: Mapping[str, Any],
    ) -> None:
        self._setup = setup
        kwargs = without_auto(kwargs)
        params = model._get_invocation_params(stop=stop, **kwargs)
        name = params.get("model") or params.get("model_name") or getattr(model, "model_name", None)
        self._model = model
        self._name = name if isinstance(name, str) else None
        self._alias = setup.controller.alias(name)
        if self._alias is not None:
            self._name = self._alias.model
            if not setup.watched:  # our client does it, and looks at the URL
                kwargs = {**kwargs, "model": self._name}
        query = as_query(messages, model=self._name, params=params)
        self._turn = current_turn()
        self._outer = setup.decide(query, alias=self._alias, params=params)
        self._session: Session | None = None
        self._refused: str | None = None
        self._suspects: frozenset[str] = frozenset()
        self._own = dict(kwargs)
        self.kwargs = dict(kwargs)
        if not setup.watched:
            self._session = self._rendered(query, {**params, "model": self._name})
        controller = setup.controller
        started = self._session.started if self._session is not None else controller.clock()
        self._listener = Listener(clock=controller.clock, started=started)

    def _rendered(self, query: Query, params: Mapping[str, Any]) -> Session:
        """Write the decision into what the chat model is called with."""
        with self._visible():
            session = self._setup.controller.session(
                query,
                params=params,
                endpoint=self._setup.at(self._alias),
                base_url=self._setup.place,
                render=self._setup.render,
            )
        self._write(session)
        return session

    def _write(self, session: Session) -> None:
        before, after = session.caller_params, session.params
        # By identity: what is unchanged is the caller's own object, and arrays cannot be compared.
        changed = {k: v for k, v in after.items() if k not in before or before[k] is not v}
        self.kwargs = self._own | changed

    def reserve(self) -> None:
        """Reserve what the call may cost; our client does that itself."""
        if self._session is not None and self._session.reserve():
            self._write(self._session)

    def settle(self, error: BaseException | None = None) -> None:
        """Charge what it has."""
        if self._session is not None:
            self._session.settle(error)

    async def areserve(self) -> None:
        """Do as :meth:`reserve` does, without blocking the loop."""
        session = self._session
        if session is None or not self._waits:
            self.reserve()
            return
        try:
            await apart(self.reserve)
        except asyncio.CancelledError:
            await apart(session.release)
            raise

    async def asettle(self, error: BaseException | None = None) -> None:
        """Do as :meth:`settle` does, without blocking the loop."""
        if self._waits:
            await apart(lambda: self.settle(error))
        else:
            self.settle(error)

    @property
    def _waits(self) -> bool:
        charge = None if self._session is None else self._session.charge
        return charge is not None and charge.waits

    @contextmanager
    def _visible(self) -> Iterator[None]:
        token = outer_call.set(self._outer)
        try:
            yield
        finally:
            outer_call.reset(token)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Let our client see the decision, while the chat model sends or receives."""
        token = _calling.set(self._model)
        try:
            with self._visible():
                yield
        finally:
            _calling.reset(token)

    def again(self, error: Exception) -> dict[str, Any]:
        """Return what the caller asked for, to send that instead; raise ``error`` where it is not ours.

        Our client sends it again itself.
        """
        ours = [k for k, v in self.kwargs.items() if k not in self._own or self._own[k] is not v]
        # Where a chat model does not know the name of a parameter, nothing has been sent.
        unknown = isinstance(error, TypeError) and any(name in str(error) for name in ours)
        if self._session is None or not ours or not (unknown or status(error) in REFUSED):
            raise error
        self._suspects = frozenset(c.name for c in self._session.controls) - OURS
        seen = ", ".join(sorted(self._suspects))
        self._refused = f"{brief(error)} on {seen}: sent again with the caller's own parameters"
        return self._own

    def hear(self, chunk: ChatGeneration) -> None:
        """Take a chunk, or a whole generation, in; a fault of ours never harms the call."""
        try:
            if self._session is None:  # our client hears it
                self._listener.meter(chunk)
                return
            for event in self._listener.hear(chunk):
                self._setup.controller.callbacks.emit("on_delta", event)
        except Exception as error:
            logger.warning("a chat model's answer was not read: %s", brief(error))

    def failed(self, error: BaseException) -> None:
        """Record a call that ended in ``error``, or that nobody wanted to hear the end of."""
        outcome = self._close(StopReason.ERROR if isinstance(error, Exception) else StopReason.CALLER)
        if outcome is not None:
            attach(error, outcome)

    def whole(self, result: ChatResult) -> ChatResult:
        """Record a finished call and write its outcome into the messages."""
        for generation in result.generations[:1]:
            self.hear(generation)
        outcome = self._close()
        if outcome is not None:
            for generation in result.generations:
                note(generation.message, outcome)
        return result

    def ended(self) -> ChatGenerationChunk | None:
        """Record a finished stream and return the chunk that carries its outcome."""
        outcome = self._close()
        if outcome is None:
            return None
        last = ChatGenerationChunk(message=AIMessageChunk(content=""))
        note(last.message, outcome)
        return last

    def _close(self, stop: StopReason | None = None) -> Outcome | None:
        """Record what there is to record, and charge the turn."""
        try:
            outcome = self._outer.outcome if self._session is None else self._finish(self._session, stop)
            if self._turn is not None:
                self._turn.charge(outcome, output_tokens=self._listener.output_tokens)
        except Exception as error:
            logger.warning("the outcome could not be recorded: %s", brief(error))
            return None
        return outcome

    def _finish(self, session: Session, stop: StopReason | None) -> Outcome | None:
        if stop is None and self._suspects:  # only now is it known that the fault was in our parameters
            self._setup.mark(self._name, self._suspects)
        controls = () if self._refused is not None else session.controls
        ended = StopReason.LENGTH if self._listener.transcript.finish == "length" else StopReason.NATURAL
        if session.budget.off and any(c.strength != "none" for c in controls):
            ended = StopReason.OFF
        return session.finish(
            usage=self._listener.usage(),
            timing=self._listener.timing(),
            stop=stop or ended,
            answered=self._listener.answered,
            fallback=self._refused,
            controls=controls,
        )
