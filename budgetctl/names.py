"""What a configuration gives names to: policies, the models behind aliases, routes of traffic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

from budgetctl.errors import ConfigError
from budgetctl.policy import Policy
from budgetctl.types import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """The model behind a name of the user's own.

    Attributes:
        model: The name that the provider knows.
        endpoint: Kind of endpoint, as in the capability table; None leaves it to the client.
        base_url: The only URL at which the name stands for the model; None is any.
        policy: The policy of calls for which nobody names another.
    """

    model: str
    endpoint: str | None = None
    base_url: str | None = None
    policy: Policy | None = None

    def check(self, base_url: str) -> None:
        """Refuse a client of another endpoint: a configuration never sends a text elsewhere.

        Raises:
            ConfigError: The client's URL is not the alias's.
        """
        if self.base_url is not None and self.base_url.rstrip("/") != base_url.rstrip("/"):
            raise ConfigError(
                f"model {self.model!r} is configured for {self.base_url}, seen a client of {base_url}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What holds for the traffic of one name; None is what holds for all.

    Attributes:
        private: Its queries stay on the local rungs of a ladder.
    """

    policy: Policy | None = None
    limits: Limits | None = None
    private: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """All names of a configuration."""

    policies: Mapping[str, Policy] = field(default_factory=dict)
    models: Mapping[str, Alias] = field(default_factory=dict)
    routes: Mapping[str, Route] = field(default_factory=dict)

    def route(self, name: str) -> Route:
        """Return a route. Where none is configured, any name will do: it is a label for records.

        Raises:
            ConfigError: There are routes, and none of this name.
        """
        if self.routes and name not in self.routes:
            allowed = ", ".join(self.routes)
            raise ConfigError(f"route: seen {name!r}{close_to(name, self.routes)}; allowed: {allowed}")
        return self.routes.get(name, Route())

    def without_model_policies(self) -> Names:
        """Return the names for calls whose policy somebody has named."""
        return replace(self, models={name: replace(a, policy=None) for name, a in self.models.items()})


def close_to(name: str, known: Mapping[str, object]) -> str:
    """Ask whether the nearest of the ``known`` names was meant; nothing where none is near."""
    near = get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
