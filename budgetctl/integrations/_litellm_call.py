"""Calls of LiteLLM on their way into a machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from budgetctl.callbacks import logger
from budgetctl.capabilities import ENDPOINTS, EndpointKind
from budgetctl.channels import ChatChannels
from budgetctl.controller import Controller
from budgetctl.engine import PassingCall, SpendingCall
from budgetctl.errors import ConfigError, brief
from budgetctl.integrations._hosted import Hosted
from budgetctl.integrations._litellm_form import render_for, target
from budgetctl.types import Query


@dataclass(frozen=True, kw_only=True)
class Calls:
    """What decides for calls of LiteLLM.

    Attributes:
        endpoint: Kind of endpoint of all calls; None takes that of each call's provider.
        broken: Controls that a model at a place refused.

    Raises:
        ConfigError: There is no such kind of endpoint.
    """

    controller: Controller
    endpoint: str | None = None
    broken: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.endpoint is not None and self.endpoint not in ENDPOINTS:
            raise ConfigError(f"endpoint: seen {self.endpoint!r}, allowed: {', '.join(ENDPOINTS)}")

    def begin(
        self, params: Mapping[str, Any], *, stream: bool, endpoint: str | None = None
    ) -> PassingCall | SpendingCall | None:
        """Decide for one call; None where LiteLLM does not know the provider, or a fault of ours forbids it.

        Args:
            params: The arguments of ``litellm.completion``, by name.
            stream: Its chunks are read here.
            endpoint: Kind of endpoint of this call.
        """
        try:
            model, kind, place = target(params)
        except Exception as error:  # LiteLLM is about to say so itself
            logger.warning("a call of LiteLLM's goes through unchanged: %s", brief(error))
            return None
        kind = endpoint or self.endpoint or kind
        hosted = Hosted(
            controller=self.controller,
            endpoint=cast("EndpointKind", kind),
            render=render_for(kind),
            channels=ChatChannels,
            broken=self.broken,
        )
        _, call = hosted.begin(
            params,
            base_url=place,
            query=lambda asked: _query(asked, model=model),
            dump=dump,
            stream=stream,
        )
        return call


def _query(params: Mapping[str, Any], *, model: str) -> Query:
    return Query.from_messages(
        [m if isinstance(m, Mapping) else m.model_dump() for m in params.get("messages") or ()],
        model=model,
        has_tools=bool(params.get("tools")),
        structured=params.get("response_format") is not None,
    )


def dump(item: Any) -> dict[str, Any] | None:
    """Return a chunk or a whole response as a plain dict."""
    if isinstance(item, dict):
        return item
    found = getattr(item, "model_dump", None)
    return None if found is None else cast("dict[str, Any]", found())
