"""Chat models under a budget: subclasses of their own class, around the methods that make a call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableBinding

from budgetctl.capabilities import ENDPOINTS, guess_endpoint
from budgetctl.controller import Controller
from budgetctl.engine.continuation import RenderPrompt
from budgetctl.errors import ConfigError
from budgetctl.integrations._controller import controller_of
from budgetctl.integrations._langchain_call import Setup
from budgetctl.integrations._langchain_methods import BudgetedAsyncStreams, BudgetedCalls, BudgetedStreams
from budgetctl.outcomes import Sink
from budgetctl.policy import Policy
from budgetctl.types import CallerValues

Model = TypeVar("Model")


def budgeted_chat_model(
    model: Model,
    policy: str | Policy | None = None,
    *,
    controller: Controller | None = None,
    route: str | None = None,
    endpoint: str | None = None,
    caller_values: CallerValues | None = None,
    sink: str | os.PathLike[str] | Sink | None = None,
    tokenizer: Any = None,
    render_prompt: RenderPrompt | None = None,
    **settings: Any,
) -> Model:
    """Return a chat model of the same class whose calls are budgeted; ``model`` itself is not touched.

    Everything that a chat model can do works as before: ``invoke``, ``stream``, ``batch`` and their
    asynchronous twins, pipes, ``bind``, ``bind_tools``, ``with_structured_output``. Every message carries its
    outcome: ``budgetctl.outcome(message)``. Budgeting a budgeted model replaces its budget.

    A model of ``langchain-openai``, or of a package built on it, gets a budgeted OpenAI client underneath:
    its thinking is watched and ended in time, and its answer guarded. Other models get parameters only, as
    the OpenAI dialect has them, where the capability table knows the model behind ``endpoint``; a call that
    the provider refuses is made once more without them.

    Args:
        model: A chat model, or one with arguments bound (``model.bind(...)``).
        policy: A policy or its string; the default is ``auto``, or the controller's own.
        controller: Decides and records, instead of a new one made from the other arguments.
        route: Name of this traffic, as in :func:`budgetctl.wrap`.
        endpoint: Kind of endpoint, as in the capability table; None tells OpenAI by its host and calls
            everything else ``openai-compatible``.
        caller_values: ``pin`` (the default) leaves values alone that the model or a call sets itself;
            ``ceiling`` may go below them, never above.
        sink: Where outcomes go: a path of a JSONL file, or a sink.
        tokenizer: Counts tokens exactly, as in :func:`budgetctl.wrap`.
        render_prompt: Renders messages for a raw completion, as in :func:`budgetctl.wrap`.
        settings: Passed to :class:`~budgetctl.Controller`.

    Raises:
        ConfigError: An argument does not fit.
    """
    if endpoint is not None and endpoint not in ENDPOINTS:
        raise ConfigError(f"endpoint: seen {endpoint!r}, allowed: {', '.join(ENDPOINTS)}")
    controller = controller_of(
        controller, policy=policy, route=route, caller_values=caller_values, sink=sink, **settings
    )
    options = {"endpoint": endpoint, "tokenizer": tokenizer, "render_prompt": render_prompt}
    if isinstance(model, RunnableBinding) and isinstance(model.bound, BaseChatModel):
        bound = _budgeted(model.bound, controller, **options)
        return cast("Model", model.model_copy(update={"bound": bound}))
    if not isinstance(model, BaseChatModel):
        raise ConfigError(
            "budgeted_chat_model takes a chat model, or one with arguments bound, "
            f"seen {type(model).__name__}; budget the chat model first and build the rest around it"
        )
    return cast("Model", _budgeted(model, controller, **options))


def _budgeted(
    model: BaseChatModel,
    controller: Controller,
    *,
    endpoint: str | None,
    tokenizer: Any,
    render_prompt: RenderPrompt | None,
) -> BaseChatModel:
    base = type(model)
    known: Setup | None = getattr(base, "_budgetctl", None)
    if known is not None:
        base = base.__mro__[base.__mro__.index(BudgetedCalls) + 1]
    update: dict[str, Any] = {}
    setup = Setup(controller=controller, endpoint=endpoint or "openai-compatible")
    clients = _clients(model) if known is None else known.clients
    if clients:
        from budgetctl.integrations._langchain_openai import budgeted_clients

        place = str(next(iter(clients.values())).base_url)
        kind = endpoint or guess_endpoint(place)
        setup = Setup(controller=controller, endpoint=kind, place=place, watched=True, clients=clients)
        update = budgeted_clients(
            clients,
            controller=controller,
            endpoint=kind,
            tokenizer=tokenizer,
            render_prompt=render_prompt,
            headers=getattr(model, "include_response_headers", False)
            or getattr(model, "_uses_gateway", False),
        )
    copied = model.model_copy(update=update)
    object.__setattr__(copied, "__class__", _subclass(base, setup))
    return copied


def _clients(model: BaseChatModel) -> Mapping[str, Any]:
    """Return the OpenAI clients of a chat model, by field; empty where it is built on something else."""
    if not (getattr(model, "root_client", None) or getattr(model, "root_async_client", None)):
        return {}
    from budgetctl.integrations._langchain_openai import clients_of  # it needs the SDK, which not all have

    return clients_of(model)


def _subclass(base: type[BaseChatModel], setup: Setup) -> type[BaseChatModel]:
    """Return a subclass of ``base`` that budgets its calls.

    It streams only where ``base`` does: LangChain looks at the class to see whether a model can.
    """
    mixins: list[type] = [BudgetedStreams] if base._stream is not BaseChatModel._stream else []
    mixins += [BudgetedAsyncStreams] if base._astream is not BaseChatModel._astream else []
    names = {"__module__": base.__module__, "__doc__": base.__doc__}
    make: Any = type(base)  # pydantic's metaclass
    made: type[BaseChatModel] = make(base.__name__, (*mixins, BudgetedCalls, base), names)
    cast("Any", made)._budgetctl = setup
    return made
