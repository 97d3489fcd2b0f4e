"""What the integrations of hosted APIs share: one decision per request, whose response is only watched.

Thoughts of a hosted model are not cut on our side: its API has no way to go on from a thought.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from budgetctl.adapters import Rendered
from budgetctl.capabilities import Capability, EndpointKind
from budgetctl.controller import Controller, Render
from budgetctl.engine import PassingCall, SpendingCall, Transcript
from budgetctl.engine.spending import spending
from budgetctl.engine.transcript import Channels
from budgetctl.errors import ConfigError
from budgetctl.policy import Policy
from budgetctl.types import Budget, CallerValues, Query

logger = logging.getLogger("budgetctl")

RAW_HEADER = "X-Stainless-Raw-Response"
"""By which the SDKs that are generated with Stainless mark a call for the raw response."""


@dataclass(frozen=True, kw_only=True)
class Hosted:
    """What a budgeted client of a hosted API knows besides what every client knows.

    Attributes:
        endpoint: Its kind in the capability table.
        render: The adapter of its dialect.
        channels: Makes what reads its responses.
        broken: Controls that a model at a URL refused; they are not tried again.
    """

    controller: Controller
    endpoint: EndpointKind
    render: Render
    channels: Callable[[], Channels]
    broken: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)

    def with_policy(self, policy: str | Policy) -> Hosted:
        """Return the same under another policy."""
        return replace(self, controller=self.controller.with_policy(policy))

    def begin(
        self,
        params: Mapping[str, Any],
        *,
        base_url: str,
        query: Callable[[Mapping[str, Any]], Query],
        dump: Callable[[Any], Mapping[str, Any] | None],
        path: str = "",
        stream: bool = False,
        raw_stream: bool = False,
    ) -> tuple[dict[str, Any], PassingCall | SpendingCall | None]:
        """Decide for one request.

        Args:
            params: Its parameters, ``model`` among them.
            base_url: Where it goes.
            query: Reads the query out of the parameters.
            dump: Turns the SDK's objects into dicts, as for ``PassingCall``.
            path: Where below ``base_url`` it goes.
            stream: The response is a stream that is read here.
            raw_stream: It is one that the caller reads.

        Returns:
            The parameters with the model's own name in the place of an alias, and the machine; None when a
            fault of ours forbids one.

        Raises:
            ConfigError: The client is not that of the alias.
        """
        params = dict(params)
        alias = self.controller.alias(params.get("model"))
        if alias is not None:
            alias.check(base_url)
            params["model"] = alias.model
        try:
            place = (base_url, str(params.get("model") or ""))
            session = self.controller.session(
                query(params),
                params=params,
                endpoint=self.endpoint,
                base_url=base_url,
                render=self._renderer(place),
                policy=None if alias is None else alias.policy,
            )

            def machine() -> PassingCall:
                transcript = Transcript(self.channels(), clock=session.clock, started=session.started)
                return PassingCall(
                    session,
                    path=path,
                    transcript=transcript,
                    dump=dump,
                    stream=stream,
                    raw_stream=raw_stream,
                    on_broken=lambda names: self._mark(place, names),
                )

            return params, spending(session, machine)
        except Exception as error:
            self.controller.unbudgeted("the call", error)
        return params, None

    def _renderer(self, place: tuple[str, str]) -> Render:
        def render(
            budget: Budget,
            capability: Capability,
            params: Mapping[str, Any],
            *,
            caller_values: CallerValues,
        ) -> Rendered:
            capability = capability.without(self.broken.get(place, frozenset()))
            return self.render(budget, capability, params, caller_values=caller_values)

        return render

    def _mark(self, place: tuple[str, str], names: frozenset[str]) -> None:
        known = self.broken.get(place, frozenset())
        if names - known:
            logger.warning("%s at %s does not take: %s", place[1], place[0], ", ".join(sorted(names)))
        self.broken[place] = known | names


def only_endpoint(given: str | None, own: EndpointKind) -> None:
    """Refuse another kind of endpoint than the one that an SDK speaks to.

    Raises:
        ConfigError: It is another.
    """
    if given not in (None, own):
        raise ConfigError(f"endpoint: seen {given!r}, allowed for this client: {own}")
