"""Budgets for LiteLLM: around its functions, and as a callback of its proxy and its router.

    complete = wrap(litellm.acompletion, policy="cap:2000")     # completion or acompletion

    litellm_settings:                                           # config.yaml of the proxy
      callbacks: ["budgetctl.integrations.litellm.proxy_handler"]

The budget takes the form that LiteLLM hands on to the provider unchanged. Nothing is ended on our side.

Needs the extra ``litellm``.
"""

# pyright: reportMissingImports=false, reportGeneralTypeIssues=false
# The package lives in an environment of its own.

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

try:
    from litellm import CustomStreamWrapper
except ImportError as error:
    raise ImportError(
        "budgetctl.integrations.litellm needs LiteLLM 1.108 or newer: "
        "pip install 'reasoning-budgetctl[litellm]'"
    ) from error

from budgetctl.controller import Controller
from budgetctl.engine import Send
from budgetctl.errors import ConfigError
from budgetctl.integrations._controller import controller_of
from budgetctl.integrations._litellm_call import Calls
from budgetctl.integrations._litellm_handler import BudgetHandler
from budgetctl.integrations._shell import AsyncShell, SyncShell
from budgetctl.outcomes import Sink
from budgetctl.policy import Policy
from budgetctl.types import CallerValues

__all__ = ["BudgetHandler", "wrap"]

Function = TypeVar("Function", bound=Callable[..., Any])


def wrap(
    function: Function,
    *,
    policy: str | Policy | None = None,
    controller: Controller | None = None,
    route: str | None = None,
    endpoint: str | None = None,
    caller_values: CallerValues | None = None,
    sink: str | os.PathLike[str] | Sink | None = None,
    **settings: Any,
) -> Function:
    """Return ``litellm.completion`` or ``litellm.acompletion`` with a budget around each call.

    Streams are of LiteLLM's own class and pass their chunks on as they come; closing one, dropping it or
    cancelling its task ends the generation. ``budgetctl.outcome`` of a response, or of a stream after its
    last chunk, tells what happened.

    Args:
        function: One of the two. What it does is left alone: retries and fallbacks that a call asks for are
            part of the one call that is decided.
        policy: A policy or its string; the default is ``auto``, or the controller's own.
        controller: Decides and records, instead of a new one made from the other arguments.
        route: Name of this traffic in the records.
        endpoint: Kind of endpoint, as in the capability table; None takes LiteLLM's provider.
        caller_values: ``pin`` (the default) leaves values alone that a call sets; ``ceiling`` may go below
            them, never above.
        sink: Where outcomes go: a path of a JSONL file, or a sink.
        settings: Passed to :class:`~budgetctl.Controller`.

    Raises:
        ConfigError: An argument does not fit.
    """
    if getattr(function, "__name__", "") not in ("completion", "acompletion"):
        raise ConfigError(f"wrap takes litellm.completion or litellm.acompletion, seen {function!r}")
    controller = controller_of(
        controller, policy=policy, route=route, caller_values=caller_values, sink=sink, **settings
    )
    calls = Calls(controller=controller, endpoint=endpoint)
    make = _asynchronous if inspect.iscoroutinefunction(function) else _blocking
    return cast("Function", functools.wraps(function)(make(function, calls)))


def _blocking(function: Callable[..., Any], calls: Calls) -> Callable[..., Any]:
    def completion(*args: Any, **kwargs: Any) -> Any:
        params = _named(function, args, kwargs)
        stream = bool(params.get("stream"))
        call = calls.begin(params, stream=stream)
        if call is None:
            return function(**params)

        def post(send: Send) -> Any:
            response = function(**send.params)
            return _Opened(response) if stream else response

        shell = SyncShell(call, post).start()
        return BudgetedStream.of(shell) if stream else shell.whole()

    return completion


def _asynchronous(function: Callable[..., Any], calls: Calls) -> Callable[..., Any]:
    async def acompletion(*args: Any, **kwargs: Any) -> Any:
        params = _named(function, args, kwargs)
        stream = bool(params.get("stream"))
        call = calls.begin(params, stream=stream)
        if call is None:
            return await function(**params)

        async def post(send: Send) -> Any:
            response = await function(**send.params)
            return _AsyncOpened(response) if stream else response

        shell = await AsyncShell(call, post).start()
        return BudgetedStream.of(shell) if stream else await shell.whole()

    return acompletion


def _named(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments by their names."""
    names = list(inspect.signature(function).parameters)
    return {**dict(zip(names, args, strict=False)), **kwargs}


class _Opened:
    """A stream of LiteLLM's as a shell wants it."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __iter__(self) -> _Opened:
        return self

    def __next__(self) -> Any:
        return next(self.stream)

    def close(self) -> None:
        self.stream.close()


class _AsyncOpened:
    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __aiter__(self) -> _AsyncOpened:
        return self

    async def __anext__(self) -> Any:
        return await anext(self.stream)

    async def close(self) -> None:
        await self.stream.aclose()


class BudgetedStream(CustomStreamWrapper):
    """A stream whose calls go through the budget. Made by :func:`wrap`."""

    _shell: Any

    @classmethod
    def of(cls, shell: SyncShell | AsyncShell) -> BudgetedStream:
        """Hand out ``shell`` as a stream."""
        stream = object.__new__(cls)
        stream.__dict__.update(shell.handle.stream.__dict__)
        stream._shell = shell
        shell.own(stream)
        return stream

    def __next__(self) -> Any:
        return next(self._shell)

    async def __anext__(self) -> Any:
        return await anext(self._shell)

    def close(self) -> None:
        """End the generation."""
        self._shell.close()

    async def aclose(self) -> None:
        """End the generation."""
        await self._shell.close()


def __getattr__(name: str) -> Any:
    """Make ``proxy_handler`` when the proxy asks for it: its configuration is nobody else's."""
    if name != "proxy_handler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from budgetctl.config import Settings

    globals()[name] = handler = BudgetHandler(controller=Settings.load().controller())
    return handler
