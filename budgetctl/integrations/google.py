"""Budgets for the google-genai SDK, with the Gemini API and with Vertex AI.

    client = budgetctl.wrap(genai.Client(), policy="cap:2000")

The wrapped client is a copy whose ``models``, and ``aio.models``, override the methods that make one request:
so ``generate_content`` and ``generate_content_stream`` are budgeted, and with them chats and every step of
automatic function calling, each decided for itself.
"""

from __future__ import annotations

import copy
import os
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, TypeVar, cast

from google import genai

from budgetctl.adapters import google as adapter
from budgetctl.channels_google import GoogleChannels
from budgetctl.controller import Controller
from budgetctl.engine import PassingCall, Send, SpendingCall
from budgetctl.errors import ConfigError
from budgetctl.integrations._controller import controller_of
from budgetctl.integrations._google_io import (
    AsyncOpened,
    Keeping,
    Opened,
    dump,
    messages,
    plain_config,
    with_plain,
)
from budgetctl.integrations._hosted import Hosted, only_endpoint
from budgetctl.integrations._shell import AsyncShell, SyncShell
from budgetctl.outcomes import Sink, attach
from budgetctl.policy import Policy
from budgetctl.types import CallerValues, Query

Client = TypeVar("Client")


def wrap(
    client: Client,
    *,
    policy: str | Policy | None = None,
    controller: Controller | None = None,
    route: str | None = None,
    endpoint: str | None = None,
    caller_values: CallerValues | None = None,
    sink: str | os.PathLike[str] | Sink | None = None,
    **settings: Any,
) -> Client:
    """Return a client of the same class whose calls are budgeted; ``client`` itself is not touched.

    Wrapping a wrapped client replaces its budget. The result has ``with_policy(policy)``, which returns a
    copy under another policy. Arguments are those of :func:`budgetctl.wrap`.

    Raises:
        ConfigError: An argument does not fit.
    """
    if not isinstance(client, genai.Client):
        raise ConfigError(f"wrap takes a google.genai.Client, seen {type(client).__name__}")
    only_endpoint(endpoint, "google")
    setup = Hosted(
        controller=controller_of(
            controller, policy=policy, route=route, caller_values=caller_values, sink=sink, **settings
        ),
        endpoint="google",
        render=adapter.render,
        channels=GoogleChannels,
    )
    return cast("Client", _budgeted(client, setup))


class Budgeted:
    """Mixed into the class of a wrapped client."""

    _budgetctl: Hosted
    _budgetctl_original: Any

    def with_policy(self, policy: str | Policy) -> Any:
        """Return a copy of this client under another policy.

        Raises:
            ConfigError: The policy does not parse.
        """
        return _budgeted(self, self._budgetctl.with_policy(policy))

    def __del__(self) -> None:
        """Leave the connections open: they are the original's, which closes them."""


class SyncModels:
    """Mixed into the class of ``client.models``."""

    _budgetctl: Hosted
    _stream: Any = None

    def generate_content_stream(self, **arguments: Any) -> Iterator[Any]:
        """Stream a response; ``budgetctl.outcome`` of the stream tells what came of its last request."""
        mine = copy.copy(self)
        stream = super(SyncModels, mine).generate_content_stream(**arguments)  # type: ignore[misc]
        mine._stream = weakref.ref(stream)
        return cast("Iterator[Any]", stream)

    def _generate_content(self, **arguments: Any) -> Any:
        plain = super()._generate_content  # type: ignore[misc]  # the SDK's own class comes next in the mro
        request = _Request(self, arguments, stream=False)
        if request.call is None:
            return plain(**request.arguments)
        return SyncShell(request.call, lambda send: plain(**request.sent(send))).start().whole()

    def _generate_content_stream(self, **arguments: Any) -> Iterator[Any]:
        plain = super()._generate_content_stream  # type: ignore[misc]
        request = _Request(self, arguments, stream=True)
        if request.call is None:
            yield from plain(**request.arguments)
            return
        shell = SyncShell(request.call, lambda send: Opened(plain(**request.sent(send))))
        try:
            for chunk in shell.start():
                request.chunk = chunk
                yield chunk
        finally:
            shell.close()
            request.finish(self._stream)


class AsyncModels:
    """Mixed into the class of ``client.aio.models``."""

    _api_client: Any
    _budgetctl: Hosted
    _stream: Any = None

    async def generate_content_stream(self, **arguments: Any) -> AsyncIterator[Any]:
        """Stream a response; ``budgetctl.outcome`` of the stream tells what came of its last request."""
        mine = copy.copy(self)
        stream = await super(AsyncModels, mine).generate_content_stream(**arguments)  # type: ignore[misc]
        mine._stream = weakref.ref(stream)
        return cast("AsyncIterator[Any]", stream)

    async def _generate_content(self, **arguments: Any) -> Any:
        plain = super()._generate_content  # type: ignore[misc]
        request = _Request(self, arguments, stream=False)
        if request.call is None:
            return await plain(**request.arguments)

        async def post(send: Send) -> Any:
            return await plain(**request.sent(send))

        shell = await AsyncShell(request.call, post).start()
        return await shell.whole()

    async def _generate_content_stream(self, **arguments: Any) -> AsyncIterator[Any]:
        mine: Any = copy.copy(self)
        mine._api_client = client = Keeping(self._api_client)
        plain = super(AsyncModels, mine)._generate_content_stream  # type: ignore[misc]
        request = _Request(self, arguments, stream=True)
        if request.call is None:
            return cast("AsyncIterator[Any]", await plain(**request.arguments))

        async def post(send: Send) -> Any:
            return AsyncOpened(await plain(**request.sent(send)), client=client)

        shell = await AsyncShell(request.call, post).start()

        async def chunks() -> AsyncIterator[Any]:
            try:
                async for chunk in shell:
                    request.chunk = chunk
                    yield chunk
            finally:
                await shell.close()
                request.finish(self._stream)

        return chunks()


class _Request:
    """One request on its way: the machine, and the SDK's arguments for what the machine sends.

    Attributes:
        chunk: The last one that was handed on; it carries the outcome, for who keeps no stream.
    """

    def __init__(self, models: Any, arguments: dict[str, Any], *, stream: bool) -> None:
        self.arguments = arguments
        self.chunk: Any = None
        self.call: PassingCall | SpendingCall | None
        setup: Hosted = models._budgetctl
        config = arguments.get("config")
        params = {k: v for k, v in arguments.items() if k != "config"}
        if config is not None:
            try:
                params["config"] = plain_config(config)
            except ValueError:  # the SDK will say what is wrong with it
                params["config"] = config
        params, self.call = setup.begin(
            params,
            base_url=str(models._api_client._http_options.base_url or ""),
            query=_query,
            dump=dump,
            stream=stream,
        )
        self.arguments = {**arguments, "model": params["model"]}

    def sent(self, send: Send) -> dict[str, Any]:
        """Return the arguments for what the machine sends."""
        config = with_plain(self.arguments.get("config"), send.params.get("config") or {})
        return {**self.arguments, "config": config}

    def finish(self, stream: Any) -> None:
        """Let the last chunk, and the stream that the caller has, tell the outcome."""
        outcome = None if self.call is None else self.call.outcome
        for carrier in (self.chunk, None if stream is None else stream()):
            if carrier is not None and outcome is not None:
                attach(carrier, outcome)


def _query(params: Mapping[str, Any]) -> Query:
    config = params.get("config") or {}
    turns = list(messages(params.get("contents")))
    if config.get("system_instruction"):
        turns = [
            {"role": "system", "content": m["content"]} for m in messages(config["system_instruction"])
        ] + turns
    structured = config.get("response_schema") or config.get("response_json_schema")
    return Query.from_messages(
        turns,
        model=str(params.get("model") or "") or None,
        has_tools=bool(config.get("tools")),
        structured=structured is not None or config.get("response_mime_type") == "application/json",
    )


def _budgeted(client: Any, setup: Hosted) -> Any:
    original = getattr(client, "_budgetctl_original", client)
    copied: Any = object.__new__(_mixed(type(original), Budgeted, setup))
    copied.__dict__.update(vars(original))
    copied._budgetctl_original = original  # which closes the connections when it is dropped
    copied._models = _models(original._models, SyncModels, setup)
    copied._aio = copy.copy(original._aio)
    copied._aio._models = _models(original._aio._models, AsyncModels, setup)
    return copied


def _models(models: Any, mixin: type, setup: Hosted) -> Any:
    mixed: Any = object.__new__(_mixed(type(models), mixin, setup))
    mixed.__dict__.update(vars(models))
    return mixed


def _mixed(base: type, mixin: type, setup: Hosted) -> type:
    return type(base.__name__, (mixin, base), {"_budgetctl": setup, "__module__": base.__module__})
