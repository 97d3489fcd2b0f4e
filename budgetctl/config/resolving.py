"""From what a configuration says to what it means: every policy parsed, every name looked up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from budgetctl.config.sections import NAME, LimitSettings, spend_limits
from budgetctl.errors import ConfigError
from budgetctl.ladder.settings import check as check_ladder
from budgetctl.names import Alias, Names, Route, close_to
from budgetctl.policy import BUILT_IN, Policy, parse, uniform
from budgetctl.stopping import soft
from budgetctl.types import Limits

if TYPE_CHECKING:
    from budgetctl.config.settings import Settings

Problem = tuple[tuple[str, ...], object, str]
"""Path of a key, the value seen there, and what is wrong with it."""


class Problems(ConfigError):
    """All that does not resolve."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(f"{'.'.join(path)}: {text}" for path, _, text in problems))
        self.problems = problems


def resolve(settings: Settings) -> tuple[Names, list[Problem]]:
    """Return the names of a configuration, and what is wrong with them."""
    found: list[Problem] = []
    policies: dict[str, Policy] = {}

    def policy(text: str | None, *path: str) -> Policy | None:
        try:
            return None if text is None else parse(text, names=policies)
        except ConfigError as error:
            found.append((path, text, str(error)))
            return None

    for name, text in settings.policies.items():
        if not NAME.fullmatch(name) or name in BUILT_IN:
            allowed = f"letters, digits, - and _, and none of {', '.join(sorted(BUILT_IN))}"
            found.append((("policies", name), text, f"{name!r} cannot name a policy; allowed: {allowed}"))
        elif (parsed := policy(text, "policies", name)) is not None:
            policies[name] = parsed
    policy(settings.policy, "policy")
    models = {
        name: Alias(
            model=model.model,
            endpoint=model.endpoint,
            base_url=model.base_url,
            policy=policy(model.policy, "models", name, "policy"),
        )
        for name, model in settings.models.items()
    }
    routes = {
        name: Route(
            policy=policy(route.policy, "routes", name, "policy"),
            limits=_limits(settings.limits, route.limits),
            private=route.private,
        )
        for name, route in settings.routes.items()
    }
    if settings.route is not None and routes and settings.route not in routes:
        near = close_to(settings.route, routes)
        found.append((("route",), settings.route, f"no such route{near}; allowed: {', '.join(routes)}"))
    for name, ladder in settings.ladders.items():
        if not NAME.fullmatch(name) or name in BUILT_IN or name in settings.policies:
            allowed = "letters, digits, - and _, and no name of a policy"
            found.append((("ladders", name), list(ladder.rungs), f"cannot name a ladder; allowed: {allowed}"))
        try:
            check_ladder(ladder, names=policies)
        except ConfigError as error:
            found.append((("ladders", name), list(ladder.rungs), str(error)))
    try:
        spend_limits(settings.spend, settings.routes)
    except ValueError as error:
        found.append((("spend", "limits"), [limit.name for limit in settings.spend.limits], str(error)))
    if settings.audit.certificate is not None:
        try:
            uniform(settings.audit.certificate)
        except ConfigError as error:
            found.append((("audit", "certificate"), str(settings.audit.certificate), str(error)))
    for name, table in settings.presets.model_dump(exclude_none=True).items():
        try:
            soft(name, presets={name: table})
        except ConfigError as error:
            found.append((("presets", name), table, str(error)))
    return Names(policies=policies, models=models, routes=routes), found


def _limits(general: LimitSettings, own: LimitSettings) -> Limits:
    """Return the limits of a route: its own where it names them, else those of all."""
    return Limits(**general.model_dump() | own.model_dump(exclude_unset=True))
