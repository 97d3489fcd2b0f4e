"""Budgets for pydantic-ai: a capability for agents, and a model around any model.

    agent = Agent("anthropic:claude-sonnet-4-5", capabilities=[BudgetCapability("cap:2000")])
    model = budgeted_model(OpenAIChatModel("gpt-5-mini"), "quantile:0.9")

The budget is written into the model settings of each request, in the form that the model takes: the
provider's own settings where there is an adapter, ``thinking`` otherwise. Nothing is ended on our side; a
wrapped OpenAI client underneath (``OpenAIProvider(openai_client=budgetctl.wrap(...))``) does that, too.

Needs the extra ``pydantic-ai``.
"""

# pyright: reportMissingImports=false
# The package lives in an environment of its own.

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Hashable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any, cast

try:
    from pydantic_ai.capabilities import AbstractCapability
    from pydantic_ai.messages import ModelMessage, ModelResponse
    from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
    from pydantic_ai.models.wrapper import WrapperModel
    from pydantic_ai.settings import ModelSettings
except ImportError as error:
    raise ImportError(
        "budgetctl.integrations.pydantic_ai needs pydantic-ai 2.68 or newer: "
        "pip install 'reasoning-budgetctl[pydantic-ai]'"
    ) from error

from budgetctl.callbacks import logger
from budgetctl.capabilities import ENDPOINTS, EndpointKind
from budgetctl.channels import ChatChannels
from budgetctl.controller import Controller
from budgetctl.engine import PassingCall, Send, SpendingCall
from budgetctl.errors import ConfigError, brief
from budgetctl.integrations._controller import controller_of
from budgetctl.integrations._hosted import Hosted
from budgetctl.integrations._pydantic_ai_read import as_query, event_body, response_body, usage_body
from budgetctl.integrations._pydantic_ai_settings import endpoint_of, form_of
from budgetctl.integrations._shell import AsyncShell
from budgetctl.outcomes import MESSAGE_KEY, Sink
from budgetctl.policy import Policy
from budgetctl.types import CallerValues

__all__ = ["BudgetCapability", "BudgetedModel", "budgeted_model"]

Broken = dict[tuple[str, str], frozenset[str]]
"""Controls that a model at a URL refused."""


class BudgetCapability(AbstractCapability[Any]):
    """Puts a budget around every model request of an agent.

    Each request is decided once, for the model that is about to serve it, also after a fallback. Its outcome
    is found with ``budgetctl.outcome(response)`` for the :class:`~pydantic_ai.messages.ModelResponse` in the
    run's messages, and in the sink.
    """

    def __init__(
        self,
        policy: str | Policy | None = None,
        *,
        controller: Controller | None = None,
        route: str | None = None,
        endpoint: str | None = None,
        caller_values: CallerValues | None = None,
        sink: str | os.PathLike[str] | Sink | None = None,
        **settings: Any,
    ) -> None:
        """Make a capability.

        Args:
            policy: A policy or its string; the default is ``auto``, or the controller's own.
            controller: Decides and records, instead of a new one made from the other arguments.
            route: Name of this traffic in the records.
            endpoint: Kind of endpoint, as in the capability table; None takes pydantic-ai's provider.
            caller_values: ``pin`` (the default) leaves values alone that the model's, the agent's or the
                run's settings set; ``ceiling`` may go below them, never above.
            sink: Where outcomes go: a path of a JSONL file, or a sink.
            settings: Passed to :class:`~budgetctl.Controller`.

        Raises:
            ConfigError: An argument does not fit.
        """
        self._controller = controller_of(
            controller, policy=policy, route=route, caller_values=caller_values, sink=sink, **settings
        )
        self._endpoint = _checked(endpoint)
        self._broken: Broken = {}

    def get_wrapper_model(self, model: Model) -> Model | None:
        """Return ``model`` with the budget around it; one that has a budget already keeps that."""
        if isinstance(model, BudgetedModel):
            return None
        return BudgetedModel(model, self._controller, endpoint=self._endpoint, broken=self._broken)


def budgeted_model(
    model: Model | str,
    policy: str | Policy | None = None,
    *,
    controller: Controller | None = None,
    route: str | None = None,
    endpoint: str | None = None,
    caller_values: CallerValues | None = None,
    sink: str | os.PathLike[str] | Sink | None = None,
    **settings: Any,
) -> BudgetedModel:
    """Return a model whose requests are budgeted, for use without an agent or inside a ``FallbackModel``.

    Args:
        model: A model or its name, as for an agent. Budgeting a budgeted model replaces its budget.

    The other arguments are those of :class:`BudgetCapability`.

    Raises:
        ConfigError: An argument does not fit.
    """
    controller = controller_of(
        controller, policy=policy, route=route, caller_values=caller_values, sink=sink, **settings
    )
    bare = model.wrapped if isinstance(model, BudgetedModel) else model
    return BudgetedModel(bare, controller, endpoint=_checked(endpoint), broken={})


def _checked(endpoint: str | None) -> str | None:
    if endpoint is not None and endpoint not in ENDPOINTS:
        raise ConfigError(f"endpoint: seen {endpoint!r}, allowed: {', '.join(ENDPOINTS)}")
    return endpoint


class BudgetedModel(WrapperModel):
    """A model whose requests are budgeted. Made by :func:`budgeted_model`."""

    def __init__(
        self, wrapped: Model | str, controller: Controller, *, endpoint: str | None, broken: Broken
    ) -> None:
        super().__init__(wrapped)
        self._form = form_of(self.wrapped)
        self._hosted = Hosted(
            controller=controller,
            endpoint=cast("EndpointKind", endpoint or endpoint_of(self.wrapped)),
            render=self._form.render,
            channels=ChatChannels,
            broken=broken,
        )

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Make one request under its budget."""
        request = _Request(self, messages, model_settings, model_request_parameters)
        if request.call is None:
            return await super().request(messages, model_settings, model_request_parameters)

        async def post(send: Send) -> ModelResponse:
            return await self.wrapped.request(messages, request.settings(send), model_request_parameters)

        shell = await AsyncShell(request.call, post).start()
        response: ModelResponse = await shell.whole()
        return replace(response, metadata=_noted(response.metadata, request.call))

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: Any = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Make one request under its budget; the response is passed on event by event."""
        request = _Request(self, messages, model_settings, model_request_parameters, stream=True)
        wrapped = self.wrapped.request_stream
        if request.call is None:
            async with wrapped(messages, model_settings, model_request_parameters, run_context) as response:
                yield response
            return

        async def post(send: Send) -> _Opened:
            settings = request.settings(send)
            return await _Opened.open(wrapped(messages, settings, model_request_parameters, run_context))

        shell = await AsyncShell(request.call, post).start()
        try:
            yield _watched(shell, request.call)
        finally:
            await shell.close()


class _Request:
    """One request: its settings, its machine and what is made of what the machine sends."""

    def __init__(
        self,
        model: BudgetedModel,
        messages: list[ModelMessage],
        settings: ModelSettings | None,
        parameters: ModelRequestParameters,
        *,
        stream: bool = False,
    ) -> None:
        self._model = model
        self._own = settings
        self._all = {**(model.wrapped.settings or {}), **(settings or {})}
        self._params = {**model._form.params(self._all), "model": model.model_name}
        _, self.call = model._hosted.begin(
            self._params,
            base_url=model.base_url or model.system,
            query=lambda params: as_query(messages, parameters, model=model.model_name),
            dump=_event_dump if stream else response_body,
            stream=stream,
        )

    def settings(self, send: Send) -> ModelSettings | None:
        """Return the settings to send: the caller's very own where nothing differs from them."""
        if send.params == self._params:
            return self._own
        return self._model._form.settings(self._all, send.params, before=self._params)


class _Opened:
    """A stream that has begun, as the shell wants it: its events, and at the end what it adds up to."""

    def __init__(
        self, manager: AbstractAsyncContextManager[StreamedResponse], response: StreamedResponse
    ) -> None:
        self.response = response
        self._manager = manager
        self._events: AsyncIterator[Any] = response._get_event_iterator()
        self._ended = self._closed = False

    @classmethod
    async def open(cls, manager: AbstractAsyncContextManager[StreamedResponse]) -> _Opened:
        return cls(manager, await manager.__aenter__())

    def __aiter__(self) -> _Opened:
        return self

    async def __anext__(self) -> Any:
        if self._ended:
            raise StopAsyncIteration
        try:
            return await anext(self._events)
        except StopAsyncIteration:
            self._ended = True
            return self.response

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._manager.__aexit__(None, None, None)


def _event_dump(event: Any) -> dict[str, Any]:
    if not isinstance(event, StreamedResponse):
        return event_body(event)
    choice: dict[str, Any] = {"delta": {}, "finish_reason": event.finish_reason or "stop"}
    return {"choices": [choice], "usage": usage_body(event.usage)}


def _watched(shell: AsyncShell, call: PassingCall | SpendingCall) -> StreamedResponse:
    """Return the response, whose events come through the machine from now on."""
    response: Any = shell.handle.response
    response.__class__ = _watching(cast("Hashable", type(response)))
    response._budgetctl_shell, response._budgetctl_call = shell, call
    return cast("StreamedResponse", response)


@lru_cache
def _watching(base: Hashable) -> Any:
    kind = cast("type[Any]", base)

    class Watched(kind):  # type: ignore[misc, valid-type]  # whichever the model's responses have
        metadata: Any

        async def _get_event_iterator(self) -> AsyncIterator[Any]:
            async for event in self._budgetctl_shell:
                if event is not self:
                    yield event
            self.metadata = _noted(self.metadata, self._budgetctl_call)

        async def close_stream(self) -> None:
            await self._budgetctl_shell.close()

    Watched.__name__, Watched.__qualname__ = kind.__name__, kind.__qualname__
    return Watched


def _noted(metadata: dict[str, Any] | None, call: PassingCall | SpendingCall) -> dict[str, Any] | None:
    """Return a response's metadata with the outcome in it, where it outlives copies and stored messages."""
    if call.outcome is None:
        return metadata
    try:
        return {**(metadata or {}), MESSAGE_KEY: call.outcome.model_dump(mode="json")}
    except ValueError as error:  # a control's value, of any type, that JSON has no form for
        logger.warning("a response goes without its outcome: %s", brief(error))
        return metadata
