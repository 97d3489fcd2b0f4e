"""budgetctl's own client underneath ``ChatOpenAI`` and its relatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel
from openai import AsyncOpenAI, OpenAI
from openai._constants import RAW_RESPONSE_HEADER

from budgetctl.controller import Controller
from budgetctl.engine.continuation import RenderPrompt
from budgetctl.integrations._openai_io import is_raw
from budgetctl.integrations.openai import wrap

CLIENTS = {"root_client": "client", "root_async_client": "async_client"}
"""Fields of a chat model: a client, and the resource of it that makes chat completions."""


def clients_of(model: BaseChatModel) -> dict[str, Any]:
    """Return the OpenAI clients of a chat model, by field; empty where it is built on something else."""
    found = {name: getattr(model, name, None) for name in CLIENTS}
    return {name: client for name, client in found.items() if isinstance(client, OpenAI | AsyncOpenAI)}


def budgeted_clients(
    clients: Mapping[str, Any],
    *,
    controller: Controller,
    endpoint: str,
    tokenizer: Any,
    render_prompt: RenderPrompt | None,
    headers: bool,
) -> dict[str, Any]:
    """Return the fields of a chat model with budgeted clients in them.

    Args:
        headers: The headers of responses are wanted. The chat model asks for raw responses, which have them,
            at every call that does not stream; those get the parameters and are not watched. Without this,
            what it gets in their place is a response that was watched.
    """
    fields: dict[str, Any] = {}
    for name, client in clients.items():
        wrapped = wrap(
            client,
            controller=controller,
            endpoint=endpoint,
            tokenizer=tokenizer,
            render_prompt=render_prompt,
        )
        if not headers:
            base = type(wrapped)
            mixin = _AsyncWatched if issubclass(base, AsyncOpenAI) else _SyncWatched
            # Nobody else has it: wrap has just made it.
            wrapped.__class__ = type(base.__name__, (mixin, base), {"__module__": base.__module__})
        fields |= {name: wrapped, CLIENTS[name]: wrapped.chat.completions}
    return fields


class _Parsed:
    """Stands for a raw response of which nothing but ``parse()`` is asked."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def parse(self) -> Any:
        return self._result


class _SyncWatched:
    """Mixed into the class of a budgeted client: what asks for a raw response gets a watched one."""

    def request(self, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None) -> Any:
        plain = super().request  # type: ignore[misc]  # the client's own class comes next in the mro
        if stream or not is_raw(options):
            return plain(cast_to, options, stream=stream, stream_cls=stream_cls)
        return _Parsed(plain(cast_to, _not_raw(options)))


class _AsyncWatched:
    """The asynchronous twin of :class:`_SyncWatched`."""

    async def request(
        self, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None
    ) -> Any:
        plain = super().request  # type: ignore[misc]  # the client's own class comes next in the mro
        if stream or not is_raw(options):
            return await plain(cast_to, options, stream=stream, stream_cls=stream_cls)
        return _Parsed(await plain(cast_to, _not_raw(options)))


def _not_raw(options: Any) -> Any:
    headers = {name: value for name, value in options.headers.items() if name != RAW_RESPONSE_HEADER}
    return options.model_copy(update={"headers": headers})
