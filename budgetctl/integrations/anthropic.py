"""Budgets for the Anthropic SDK, and for its clients of Bedrock, Vertex and Foundry.

    client = budgetctl.wrap(Anthropic(), policy="cap:2000", caller_values="ceiling")

The wrapped client is a subclass of the client's own class that overrides ``request``, the one method through
which every call goes: ``create``, ``parse``, ``stream``, raw and streaming responses, the beta API, also of
copies made by ``with_options``. The SDK's own ``middleware=`` is not used, because it runs inside the SDK's
retries, once for each attempt, and sees neither what the caller gets nor when a stream ends.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Generic, TypeVar, cast

from anthropic import AsyncStream, BaseModel, Stream
from anthropic._base_client import AsyncAPIClient, SyncAPIClient

from budgetctl.adapters import anthropic as adapter
from budgetctl.channels_anthropic import AnthropicChannels
from budgetctl.controller import Controller
from budgetctl.engine import PassingCall, Send, SpendingCall
from budgetctl.errors import ConfigError
from budgetctl.integrations._controller import controller_of
from budgetctl.integrations._hosted import RAW_HEADER, Hosted, only_endpoint
from budgetctl.integrations._shell import AsyncShell, AsyncWatched, SyncShell, Watched
from budgetctl.outcomes import Sink
from budgetctl.policy import Policy
from budgetctl.types import CallerValues, Query

Client = TypeVar("Client")
_T = TypeVar("_T")

PATHS = ("/v1/messages", "/v1/messages?beta=true")


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
    if not isinstance(client, SyncAPIClient | AsyncAPIClient):
        raise ConfigError(f"wrap takes a client of the Anthropic SDK, seen {type(client).__name__}")
    only_endpoint(endpoint, "anthropic")
    setup = Hosted(
        controller=controller_of(
            controller, policy=policy, route=route, caller_values=caller_values, sink=sink, **settings
        ),
        endpoint="anthropic",
        render=adapter.render,
        channels=AnthropicChannels,
    )
    return cast("Client", _budgeted(client, setup))


class SyncBudgeted:
    """Mixed into the class of a wrapped client."""

    _budgetctl: Hosted

    def request(self, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None) -> Any:
        """Make one request under its budget."""
        plain = super().request  # type: ignore[misc]  # the client's own class comes next in the mro
        if not _is_message(options):
            return plain(cast_to, options, stream=stream, stream_cls=stream_cls)
        wire = _Wire(self, cast("Any", self)._copy_and_prepare(options), stream=stream)

        def post(send: Send) -> Any:
            return plain(cast_to, wire.options(send.params), stream=stream, stream_cls=stream_cls)

        if wire.call is None:
            return plain(cast_to, wire.options(wire.params), stream=stream, stream_cls=stream_cls)
        shell = SyncShell(wire.call, post).start()
        return BudgetedStream.of(shell) if stream and not wire.raw else shell.whole()

    def with_policy(self, policy: str | Policy) -> Any:
        """Return a copy of this client under another policy.

        Raises:
            ConfigError: The policy does not parse.
        """
        return _budgeted(self, self._budgetctl.with_policy(policy))


class AsyncBudgeted:
    """Mixed into the class of a wrapped asynchronous client."""

    _budgetctl: Hosted

    async def request(
        self, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None
    ) -> Any:
        """Make one request under its budget."""
        plain = super().request  # type: ignore[misc]  # the client's own class comes next in the mro
        if not _is_message(options):
            return await plain(cast_to, options, stream=stream, stream_cls=stream_cls)
        wire = _Wire(self, await cast("Any", self)._copy_and_prepare(options), stream=stream)

        async def post(send: Send) -> Any:
            return await plain(cast_to, wire.options(send.params), stream=stream, stream_cls=stream_cls)

        if wire.call is None:
            return await plain(cast_to, wire.options(wire.params), stream=stream, stream_cls=stream_cls)
        shell = await AsyncShell(wire.call, post).start()
        return AsyncBudgetedStream.of(shell) if stream and not wire.raw else await shell.whole()

    def with_policy(self, policy: str | Policy) -> Any:
        """Return a copy of this client under another policy.

        Raises:
            ConfigError: The policy does not parse.
        """
        return _budgeted(self, self._budgetctl.with_policy(policy))


class _Wire:
    """One request on its way: the machine, and the SDK's options for what the machine sends.

    Args:
        options: The caller's, prepared: as its body may hold what can be read only once, and we may send it
            twice.
    """

    def __init__(self, client: Any, options: Any, *, stream: bool) -> None:
        self.raw = isinstance(options.headers, Mapping) and RAW_HEADER in options.headers
        self.call: PassingCall | SpendingCall | None
        self._options = options
        self._sent = False
        self.params, self.call = client._budgetctl.begin(
            options.json_data,
            base_url=str(client.base_url),
            query=_query,
            dump=_dump_raw if self.raw else _dump,
            path=options.url,
            stream=stream and not self.raw,
            raw_stream=stream and self.raw,
        )

    def options(self, params: Mapping[str, Any]) -> Any:
        """Return the options of a request with these parameters."""
        update: dict[str, Any] = {"json_data": dict(params), "extra_json": None}
        if self._sent:
            update["idempotency_key"] = None  # another request: the first one's key would replay its answer
        self._sent = True
        return self._options.model_copy(update=update)


class BudgetedStream(Watched, Stream[_T], Generic[_T]):
    """A stream that is watched. Behaves as the SDK's own."""

    # The SDK's own would report each event to its tracer once more: the stream inside has done so.
    def __next__(self) -> _T:
        return cast("_T", next(self._shell))

    def __iter__(self) -> Iterator[_T]:
        yield from self._shell


class AsyncBudgetedStream(AsyncWatched, AsyncStream[_T], Generic[_T]):
    """The asynchronous twin of :class:`BudgetedStream`."""

    async def __anext__(self) -> _T:
        return cast("_T", await anext(self._shell))

    async def __aiter__(self) -> AsyncIterator[_T]:
        async for event in self._shell:
            yield event


def _is_message(options: Any) -> bool:
    """Whether a request is a call of a model."""
    posts = options.method.lower() == "post" and options.url in PATHS
    return posts and isinstance(options.json_data, Mapping)


def _budgeted(client: Any, setup: Hosted) -> Any:
    base = type(client)
    if issubclass(base, SyncBudgeted | AsyncBudgeted):
        base = base.__mro__[2]
    mixin = SyncBudgeted if isinstance(client, SyncAPIClient) else AsyncBudgeted
    cls = type(base.__name__, (mixin, base), {"_budgetctl": setup, "__module__": base.__module__})
    copied: Any = object.__new__(cls)
    for name, value in vars(client).items():
        if getattr(value, "_client", None) is not client and not name.startswith("with_"):
            copied.__dict__[name] = value
        elif not hasattr(base, name):
            # Resources point to the client that made them. Most are made when they are asked for; the clients
            # of the clouds make theirs at once.
            copied.__dict__[name] = type(value)(copied)
    return copied


def _query(params: Mapping[str, Any]) -> Query:
    messages = [_turn(m) for m in params.get("messages") or () if isinstance(m, Mapping)]
    if params.get("system"):
        messages.insert(0, {"role": "system", "content": params["system"]})
    return Query.from_messages(
        messages,
        model=str(params.get("model") or "") or None,
        has_tools=bool(params.get("tools")),
        structured=bool((params.get("output_config") or {}).get("format")),
    )


def _turn(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a message under the role of who wrote it: results of tools are sent as the user's."""
    content = message.get("content")
    results = isinstance(content, list) and any(
        isinstance(block, Mapping) and block.get("type") == "tool_result" for block in content
    )
    return {**message, "role": "tool"} if results else message


def _dump(item: Any) -> Mapping[str, Any] | None:
    return item.model_dump(exclude_unset=True, warnings=False) if isinstance(item, BaseModel) else None


def _dump_raw(response: Any) -> Mapping[str, Any] | None:
    """Read a raw response that has arrived anyway; None for one that is still on its way."""
    http = getattr(response, "http_response", None)
    if http is None or not http.is_closed or not hasattr(http, "_content"):
        return None
    body = http.json()
    return body if isinstance(body, Mapping) else None
