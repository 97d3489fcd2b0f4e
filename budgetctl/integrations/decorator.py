"""``@budgeted``: a budget around a function that calls a model.

    @budgeted("quantile:0.9", route="support")
    def ask(question: str, **llm):
        return client.chat.completions.create(model=M, messages=to_messages(question), **llm)

The query is the argument that carries it; the budget is injected as keyword arguments that the function
accepts and the caller did not set. A budgeted client inside takes the decision over, because it can also
watch the stream. Works on functions, coroutine functions, generators and async generators.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from budgetctl.adapters import anthropic, google, openai_chat
from budgetctl.adapters.paths import without_auto
from budgetctl.callbacks import logger
from budgetctl.capabilities import ENDPOINTS
from budgetctl.controller import Controller, Render
from budgetctl.conversation import given_id
from budgetctl.errors import ConfigError, brief
from budgetctl.integrations._controller import apart, controller_of
from budgetctl.integrations._decorator_read import Listener, unread
from budgetctl.names import Alias
from budgetctl.outcomes import attach
from budgetctl.policy import Policy
from budgetctl.session import OuterCall, Session, outer_call
from budgetctl.types import Query, StopReason, Timing

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

UNREAD = "the function returned a stream that was not read yet: what came of it is unknown"
_RENDERERS: Mapping[str, Render] = {"anthropic": anthropic.render, "google": google.render}
QUERY_NAMES = ("question", "query", "prompt", "messages", "text", "input", "message", "user_input")


class BudgetedFunction(Protocol[P, R_co]):
    """What ``@budgeted`` returns: a function of the same kind, called as before.

    Attributes:
        controller: Decides and records; its sinks and callbacks see every outcome.
    """

    controller: Controller

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function under its budget."""
        ...

    def with_policy(self, policy: str | Policy) -> BudgetedFunction[P, R_co]:
        """Return the same function under another policy.

        Raises:
            ConfigError: The policy does not parse.
        """
        ...


class _Plan:
    """A function, its controller, and how to find the query among its arguments."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        controller: Controller,
        query: str | Callable[..., Any] | None,
        model: str | None,
        endpoint: str,
    ) -> None:
        self.function = function
        self.controller = controller
        self._signature = inspect.signature(function)
        self._query = _query_source(self._signature, query, function)
        self._model = model
        self._endpoint = endpoint

    def wrap(self) -> Any:
        """Return a function of the same kind with the budget around it."""
        wrapper: Any = functools.wraps(self.function)(_FLAVOURS[_flavour(self.function)](self))
        wrapper.controller = self.controller
        wrapper.with_policy = self._with_policy
        return _Method(wrapper) if next(iter(self._signature.parameters), None) == "self" else wrapper

    def _with_policy(self, policy: str | Policy) -> Any:
        other = copy.copy(self)
        other.controller = self.controller.with_policy(policy)
        return other.wrap()

    def begin(self, args: Any, kwargs: Any) -> _Call | _Unbudgeted:
        """Decide for one call; a fault of ours means that it goes through unchanged."""
        try:
            bound = self._signature.bind_partial(*args, **kwargs)
        except TypeError:  # the call itself does not fit the function: let Python say so
            return _Unbudgeted(args, kwargs)
        named = self._named(bound)
        alias = self.controller.alias(named or self._model)
        if alias is not None and named is not None:
            args, kwargs = self.inject(args, kwargs, {"model": alias.model})
            bound = self._signature.bind_partial(*args, **kwargs)
        try:
            return _Call(self, bound, args, kwargs, alias=alias)
        except Exception as error:
            self.controller.unbudgeted(_name(self.function), error)
            return _Unbudgeted(args, kwargs)

    def session(self, bound: inspect.BoundArguments, *, alias: Alias | None) -> Session:
        """Decide for a call with these arguments."""
        params = self._params(bound)
        model = self._named(bound) or self._model if alias is None else alias.model
        query = _as_query(self._query(bound.arguments), model=model, params=params)
        token = outer_call.set(None)  # a budgeted function inside another decides for itself
        try:
            endpoint = alias.endpoint or self._endpoint if alias is not None else self._endpoint
            return self.controller.session(
                query,
                params=params,
                endpoint=endpoint,
                render=_RENDERERS.get(endpoint, openai_chat.render),
                policy=None if alias is None else alias.policy,
                conversation=given_id(params),
            )
        finally:
            outer_call.reset(token)

    def _params(self, bound: inspect.BoundArguments) -> dict[str, Any]:
        """Return the arguments by name, also those that only the function's ``**`` takes."""
        params = dict(bound.arguments)
        for parameter in self._signature.parameters.values():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                params.update(params.pop(parameter.name, {}))
        return params

    def _named(self, bound: inspect.BoundArguments) -> str | None:
        """Return the model that the call names, or the function's own default; None where neither does."""
        parameter = self._signature.parameters.get("model")
        model = self._params(bound).get("model", parameter.default if parameter is not None else None)
        return model if isinstance(model, str) else None

    def inject(self, args: Any, kwargs: Any, values: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the arguments with ``values`` in them, each passed as the caller passed it."""
        by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = self._signature.parameters.values()
        places = [p.name for p in parameters if p.kind in by_place][: len(args)]
        placed = [values.get(name, arg) for name, arg in zip(places, args, strict=False)]
        named = {k: v for k, v in values.items() if k not in places}
        return (*placed, *args[len(places) :]), {**kwargs, **named}

    def accepts(self, name: str) -> bool:
        """Whether the function takes ``name`` as a keyword argument."""
        parameters = self._signature.parameters
        if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            return True
        found = parameters.get(name)
        return found is not None and found.kind in (
            inspect.Parameter.KEYWORD_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        )


@contextmanager
def _harmless() -> Iterator[None]:
    """Keep a fault of ours out of the function's call."""
    try:
        yield
    except Exception as error:
        logger.warning("a budgeted function is not watched: %s", brief(error))


class _Unbudgeted:
    """One call that goes through unchanged."""

    def __init__(self, args: Any, kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs

    def around(self) -> AbstractContextManager[None]:
        return nullcontext()

    def paid(self) -> AbstractContextManager[None]:
        return nullcontext()

    def apaid(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    def returned(self, result: Any) -> None:
        pass

    def item(self, item: Any) -> None:
        pass

    def ended(self, *, by_caller: bool) -> None:
        pass


class _Call:
    """One call of a budgeted function: what is injected, and what comes back."""

    def __init__(
        self, plan: _Plan, bound: inspect.BoundArguments, args: Any, kwargs: Any, *, alias: Alias | None
    ) -> None:
        self.session = plan.session(bound, alias=alias)
        self._plan = plan
        self._alias = alias
        self._own = (args, kwargs)
        self._heard = Listener(clock=self.session.clock, started=self.session.started)
        self._inject()

    def _inject(self) -> None:
        """Work out what the function is called with."""
        plan, (args, kwargs) = self._plan, self._own
        before, after = self.session.caller_params, self.session.params
        # By identity: what is unchanged is the caller's own object, and arrays cannot be compared.
        changed = {k: v for k, v in after.items() if k not in before or before[k] is not v}
        injected = {k: v for k, v in changed.items() if plan.accepts(k)}
        self.refused = sorted(set(changed) - set(injected))
        replaced = {k: before[k] for k in injected if k in before}
        self.outer = OuterCall(
            controller=plan.controller,
            decision=self.session.decision,
            policy=None if self._alias is None else self._alias.policy,
            injected=injected,
            replaced=replaced,
            alias=self._alias,
            conversation=self.session.conversation,
            ledger=None if self.session.charge is None else plan.controller.ledger,
        )
        self.args, self.kwargs = plan.inject(args, without_auto(kwargs), injected)
        self._given = {**kwargs, **injected}

    @contextmanager
    def paid(self) -> Iterator[None]:
        """Reserve what the call may cost, and settle what it has."""
        if self.session.charge is None:
            yield
            return
        if self.session.reserve():
            self._inject()
        try:
            yield
        except BaseException as error:
            self._settle(error)
            raise
        self._settle()

    @asynccontextmanager
    async def apaid(self) -> AsyncIterator[None]:
        """The same, without blocking the loop."""
        charge = self.session.charge
        if charge is None or not charge.waits:
            with self.paid():
                yield
            return
        try:
            changed = await apart(self.session.reserve)
        except asyncio.CancelledError:
            await apart(self.session.release)
            raise
        if changed:
            self._inject()
        try:
            yield
        except BaseException as error:
            failed = error
            await apart(lambda: self._settle(failed))
            raise
        await apart(self._settle)

    def _settle(self, error: BaseException | None = None) -> None:
        inside, charge = self.outer.outcome, self.session.charge
        if inside is not None and charge is not None:
            charge.settle(inside.usage.usage(), inside.cost_usd)
        else:
            self.session.settle(error)

    @contextmanager
    def around(self) -> Iterator[None]:
        """Let a budgeted client inside see this call; a failure is recorded and raised on."""
        token = outer_call.set(self.outer)
        try:
            yield
        except BaseException as error:
            if not isinstance(error, StopIteration | StopAsyncIteration | GeneratorExit):
                self.finish(StopReason.ERROR)
            raise
        finally:
            outer_call.reset(token)

    @_harmless()
    def returned(self, result: Any) -> None:
        """Record what a finished call returned and attach the outcome to it."""
        if unread(result):
            self.finish(StopReason.UNKNOWN, note=UNREAD)
        else:
            self._heard.whole(result)
            self.finish()
        if self.outer.outcome is None and self.session.outcome is not None:
            attach(result, self.session.outcome)

    @_harmless()
    def item(self, item: Any) -> None:
        """Look at one item of a stream."""
        for event in self._heard.item(item):
            self.session.controller.callbacks.emit("on_delta", event)

    @_harmless()
    def ended(self, *, by_caller: bool) -> None:
        """Record a stream that has ended or was closed."""
        self._heard.end()
        self.finish(StopReason.CALLER if by_caller else None)

    @_harmless()
    def finish(self, stop: StopReason | None = None, *, note: str | None = None) -> None:
        """Record the outcome, unless a budgeted client inside has already done so."""
        if self.outer.claimed:
            self.session.flight.land()  # the client's own is the one that counts
            return
        notes = [f"the function takes no {', '.join(self.refused)}"] if self.refused else []
        notes += [note] if note is not None else []
        applied = [c for c in self.session.controls if _mentions(self._given, c.name)]
        ended = StopReason.LENGTH if self._heard.finish == "length" else StopReason.NATURAL
        if self.session.budget.off and any(c.strength != "none" for c in applied):
            ended = StopReason.OFF
        if self._heard.response is not None:
            self.session.answered(self._heard.response)
        self.session.finish(
            usage=self._heard.usage(),
            timing=Timing() if stop is StopReason.UNKNOWN else self._heard.timing(),
            stop=stop or ended,
            answered=self._heard.answered,
            fallback="; ".join(notes) or None,
            controls=applied,
        )


def _plain(plan: _Plan) -> Callable[..., Any]:
    def budgeted_call(*args: Any, **kwargs: Any) -> Any:
        call = plan.begin(args, kwargs)
        with call.paid():
            with call.around():
                result = plan.function(*call.args, **call.kwargs)
            call.returned(result)
        return result

    return budgeted_call


def _coroutine(plan: _Plan) -> Callable[..., Any]:
    async def budgeted_call(*args: Any, **kwargs: Any) -> Any:
        call = plan.begin(args, kwargs)
        async with call.apaid():
            with call.around():
                result = await plan.function(*call.args, **call.kwargs)
            call.returned(result)
        return result

    return budgeted_call


def _generator(plan: _Plan) -> Callable[..., Any]:
    def budgeted_call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        call = plan.begin(args, kwargs)
        with call.paid():
            items = plan.function(*call.args, **call.kwargs)
            by_caller, sent = True, None
            try:
                while True:
                    try:
                        with call.around():
                            item = items.send(sent)
                    except StopIteration as end:
                        by_caller = False
                        return end.value
                    call.item(item)
                    sent = yield item
            finally:
                items.close()
                call.ended(by_caller=by_caller)

    return budgeted_call


def _async_generator(plan: _Plan) -> Callable[..., Any]:
    async def budgeted_call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        call = plan.begin(args, kwargs)
        async with call.apaid():
            items = plan.function(*call.args, **call.kwargs)
            by_caller, sent = True, None
            try:
                while True:
                    try:
                        with call.around():
                            item = await items.asend(sent)
                    except StopAsyncIteration:
                        by_caller = False
                        return
                    call.item(item)
                    sent = yield item
            finally:
                await items.aclose()
                call.ended(by_caller=by_caller)

    return budgeted_call


_FLAVOURS: dict[str, Callable[[_Plan], Callable[..., Any]]] = {
    "plain": _plain,
    "coroutine": _coroutine,
    "generator": _generator,
    "async generator": _async_generator,
}


class _Method(staticmethod):  # type: ignore[type-arg]  # what pydantic and others take for a method
    """A budgeted function that is called on an object, also by what ``with_policy`` makes of it."""

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        # inspect takes what has all of these for a function: decorators around it ask for its kind.
        for name in ("__code__", "__defaults__", "__kwdefaults__", "controller", "with_policy"):
            setattr(self, name, getattr(function, name))

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        function: Any = self.__func__
        if instance is None:
            return function
        bound: Any = functools.update_wrapper(functools.partial(function, instance), function, updated=())
        del bound.__wrapped__  # its signature has the object in it
        bound.controller = function.controller
        bound.with_policy = lambda policy: function.with_policy(policy).__get__(instance, owner)
        return bound


def _flavour(function: Callable[..., Any]) -> str:
    if inspect.isasyncgenfunction(function):
        return "async generator"
    if inspect.isgeneratorfunction(function):
        return "generator"
    return "coroutine" if inspect.iscoroutinefunction(function) else "plain"


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", type(function).__name__))


def _query_source(
    signature: inspect.Signature, query: str | Callable[..., Any] | None, function: Callable[..., Any]
) -> Callable[[Mapping[str, Any]], Any]:
    """Return what finds the query among the bound arguments."""
    if callable(query):
        return lambda arguments: query(**arguments)
    names = [query] if query is not None else list(QUERY_NAMES)
    found = next((n for n in names if n in signature.parameters), None)
    if found is None and query is not None:
        raise ConfigError(f"{_name(function)}{signature}: query: there is no parameter {query!r}")
    if found is None:
        raise ConfigError(
            f"{_name(function)}{signature}: no parameter carries the query; "
            f"name it with query=, or call it one of: {', '.join(QUERY_NAMES)}"
        )
    return lambda arguments: arguments.get(found)


def _as_query(value: Any, *, model: str | None, params: Mapping[str, Any]) -> Query:
    has_tools, structured = bool(params.get("tools")), params.get("response_format") is not None
    if (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(isinstance(m, Mapping) for m in value)
    ):
        return Query.from_messages(value, model=model, has_tools=has_tools, structured=structured)
    messages = [{"role": "user", "content": "" if value is None else str(value)}]
    return Query.from_messages(messages, model=model, has_tools=has_tools, structured=structured)


def _mentions(params: Mapping[str, Any], path: str) -> bool:
    """Whether ``path`` is set in the parameters or in their ``extra_body``."""
    found: Any = params
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    extra = params.get("extra_body")
    return found is not None or (isinstance(extra, Mapping) and _mentions(extra, path))


@overload
def budgeted(policy: Callable[P, R], /) -> BudgetedFunction[P, R]: ...


@overload
def budgeted(
    policy: str | Policy | None = None,
    *,
    controller: Controller | None = None,
    route: str | None = None,
    query: str | Callable[..., Any] | None = None,
    model: str | None = None,
    endpoint: str = "openai-compatible",
    **settings: Any,
) -> Callable[[Callable[P, R]], BudgetedFunction[P, R]]: ...


def budgeted(
    policy: Any = None,
    *,
    controller: Controller | None = None,
    route: str | None = None,
    query: str | Callable[..., Any] | None = None,
    model: str | None = None,
    endpoint: str = "openai-compatible",
    **settings: Any,
) -> Any:
    """Put a budget around a function; use as ``@budgeted`` or ``@budgeted("policy", ...)``.

    Args:
        policy: A policy or its string; the default is ``auto``.
        controller: Decides instead of a new controller made from ``policy``, ``route`` and ``settings``.
        route: Name of this traffic in the records. A controller from a configuration has policy and limits
            for it.
        query: Name of the parameter that carries the query, or a function of the arguments that returns it.
            The default looks for a parameter called question, query, prompt, messages, text, input, ...
        model: The model's name, where the function does not take it as ``model=``.
        endpoint: Kind of endpoint behind the function, as in the capability table.
        settings: Passed to :class:`~budgetctl.Controller`.

    Raises:
        ConfigError: The policy does not parse, there is no such kind of endpoint, no parameter carries the
            query, or both a controller and settings of one are given.
    """
    if callable(policy) and not isinstance(policy, Policy):
        return budgeted()(policy)
    if endpoint not in ENDPOINTS:
        raise ConfigError(f"endpoint: seen {endpoint!r}, allowed: {', '.join(ENDPOINTS)}")
    decider = controller_of(controller, policy=policy, route=route, **settings)

    def decorate(function: Callable[..., Any]) -> Any:
        plan = _Plan(function, controller=decider, query=query, model=model, endpoint=endpoint)
        return plan.wrap()

    return decorate
