"""``budgetctl.wrap``: finds the integration of a client's SDK, without loading any other."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar, cast

from budgetctl.errors import ConfigError

if TYPE_CHECKING:
    from budgetctl.controller import Controller
    from budgetctl.engine.continuation import RenderPrompt
    from budgetctl.outcomes import Sink
    from budgetctl.policy import Policy
    from budgetctl.types import CallerValues

Client = TypeVar("Client")

SDKS = {"openai": "openai", "anthropic": "anthropic", "google.genai": "google"}
"""The package that a client's class comes from, and the module here that is for it."""


def wrap(
    client: Client,
    *,
    policy: str | Policy | None = None,
    controller: Controller | None = None,
    route: str | None = None,
    endpoint: str | None = None,
    caller_values: CallerValues | None = None,
    sink: str | os.PathLike[str] | Sink | None = None,
    tokenizer: Any = None,
    render_prompt: RenderPrompt | None = None,
    **settings: Any,
) -> Client:
    """Return a client of the same class whose calls are budgeted; ``client`` itself is not touched.

    Wrapping a wrapped client replaces its budget. The result has ``with_policy(policy)``, which returns a
    copy under another policy.

    Args:
        client: An ``OpenAI`` or ``AsyncOpenAI`` client, a client of the Anthropic SDK (also one for Bedrock,
            Vertex or Foundry), a ``google.genai.Client``, or one of a subclass.
        policy: A policy or its string; the default is ``auto``, or the controller's own.
        controller: Decides and records, instead of a new one made from the other arguments.
        route: Name of this traffic in the records. A controller from a configuration has policy and limits
            for it.
        endpoint: Kind of endpoint behind an OpenAI client, as in the capability table; None tells providers
            by their hosts and calls everything else ``openai-compatible``.
        caller_values: ``pin`` (the default) leaves values alone that a call sets itself; ``ceiling`` may go
            below them, never above.
        sink: Where outcomes go: a path of a JSONL file, or a sink.
        tokenizer: OpenAI clients only. Counts tokens exactly: a tokenizer with ``encode``, or a function of a
            text.
        render_prompt: OpenAI clients only. Renders a list of messages, with the generation prompt, for models
            whose prompt format the capability table does not know; a thought that is cut can then be
            continued.
        settings: Passed to :class:`~budgetctl.Controller`, such as ``ledger=``. ``tenant=`` and ``key=`` may
            also stand beside a controller.

    Raises:
        ConfigError: An argument does not fit.
    """
    sdk = _sdk(client)
    given = {"tokenizer": tokenizer, "render_prompt": render_prompt}
    only_openai = {name: value for name, value in given.items() if value is not None}
    if sdk != "openai" and only_openai:
        raise ConfigError(f"only for a client of the OpenAI SDK: {', '.join(only_openai)}")
    integration = import_module(f"budgetctl.integrations.{sdk}")
    wrapped = integration.wrap(
        client,
        policy=policy,
        controller=controller,
        route=route,
        endpoint=endpoint,
        caller_values=caller_values,
        sink=sink,
        **only_openai,
        **settings,
    )
    return cast("Client", wrapped)


def _sdk(client: object) -> str:
    for cls in type(client).__mro__:
        for package, sdk in SDKS.items():
            if f"{cls.__module__}.".startswith(f"{package}."):
                return sdk
    raise ConfigError(
        "wrap takes an OpenAI or AsyncOpenAI client, a client of the Anthropic SDK or a google.genai.Client, "
        f"seen {type(client).__name__}"
    )
