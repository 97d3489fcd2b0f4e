"""What decides for an integration, from the arguments that all integrations share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from budgetctl.controller import Controller
from budgetctl.errors import ConfigError
from budgetctl.outcomes import Sink
from budgetctl.policy import Policy
from budgetctl.types import CallerValues


def controller_of(
    controller: Controller | None,
    *,
    policy: str | Policy | None = None,
    route: str | None = None,
    caller_values: CallerValues | None = None,
    sink: str | os.PathLike[str] | Sink | None = None,
    tenant: str | None = None,
    key: str | None = None,
    **settings: Any,
) -> Controller:
    """Return ``controller`` under ``policy`` and ``route``, or a new one from the other arguments.

    Args:
        policy: The default is ``auto``, or the controller's own.
        route: Name of the traffic. A controller from a configuration has policy and limits for it.
        caller_values: As for :class:`~budgetctl.Controller`.
        sink: Where outcomes go: a path of a JSONL file, or a sink.
        tenant: Whom the calls are for, in the eyes of spending limits.
        key: Who pays for them, likewise.
        settings: Passed to :class:`~budgetctl.Controller`.

    Raises:
        ConfigError: An argument does not fit, or is said beside a controller.
    """
    if controller is None:
        if isinstance(sink, str | os.PathLike):
            from budgetctl.records import JsonlSink

            sink = JsonlSink(sink)
        if sink is not None:
            settings["sinks"] = (*settings.get("sinks", ()), sink)
        return Controller(
            "auto" if policy is None else policy,
            caller_values="pin" if caller_values is None else caller_values,
            route=route,
            tenant=tenant,
            key=key,
            **settings,
        )
    if not isinstance(controller, Controller):
        allowed = "a Controller, such as budgetctl.Settings.load().controller()"
        raise ConfigError(f"controller: seen {type(controller).__name__}, allowed: {allowed}")
    given = {"caller_values": caller_values, "sink": sink, **settings}
    said = sorted(name for name, value in given.items() if value is not None)
    if said:
        raise ConfigError(f"say it to the controller that you pass: {', '.join(said)}")
    controller = controller if route is None else controller.with_route(route)
    if tenant is not None or key is not None:
        controller = controller.for_payer(tenant=tenant, key=key)
    return controller if policy is None else controller.with_policy(policy)


async def apart(work: Callable[[], Any]) -> Any:
    """Run what blocks in a thread, to its end also where the task is cancelled."""
    return await asyncio.shield(asyncio.to_thread(work))
