"""The whole of a configuration, and the controller that it becomes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, model_validator

from budgetctl.config.evaluated import canonical
from budgetctl.config.reading import explain, from_env, merged, read
from budgetctl.config.resolving import Problems, resolve
from budgetctl.config.sections import (
    AuditSettings,
    EvalSettings,
    LadderSettings,
    LimitSettings,
    ModelSettings,
    PresetSettings,
    RouteSettings,
    Section,
    SpendSettings,
    spend_limits,
)
from budgetctl.controller import MIN_CONFIDENCE, Controller
from budgetctl.errors import ConfigError
from budgetctl.names import Names
from budgetctl.policy import Policy, parse
from budgetctl.types import Limits

if TYPE_CHECKING:
    from budgetctl.audit import Audits
    from budgetctl.ledger import Ledger


class Settings(Section):
    """Everything that can be configured; see :class:`~budgetctl.Controller` for the meanings."""

    policy: str = "auto"
    """The policy of calls for which nothing else names one."""

    classifier: str | None = "default"
    """Registered name of the classifier."""

    mode: Literal["enforce", "observe"] = "enforce"
    """Write budgets into calls, or only decide and record."""

    caller_values: Literal["pin", "ceiling"] = "pin"
    """Leave what a call sets itself alone, or go below it but never above."""

    strict: bool = False
    """Raise instead of falling back."""

    min_confidence: float = Field(default=MIN_CONFIDENCE, ge=0, le=1)
    """Estimates below this confidence are set aside."""

    route: str | None = None
    """Name of the traffic in the records; where there are routes, the one that holds."""

    sink: Path | None = None
    """JSONL file that outcomes are appended to."""

    store_text: bool = False
    """Keep the texts of queries in the sink."""

    capabilities: Path | None = None
    """TOML file whose rows win over the capability table that ships with the package."""

    prices: Path | None = None
    """TOML file whose rows win over the prices that ship with the package."""

    limits: LimitSettings = Field(default_factory=LimitSettings)
    """What one call may spend, whatever the policy."""

    policies: dict[str, str] = Field(default_factory=dict)
    """Names for policies, to be used wherever a policy is named; each may build on those above it."""

    models: dict[str, ModelSettings] = Field(default_factory=dict)
    """Model names of your own."""

    routes: dict[str, RouteSettings] = Field(default_factory=dict)
    """Kinds of traffic, each with what holds for it."""

    ladders: dict[str, LadderSettings] = Field(default_factory=dict)
    """Ladders, by names of your own."""

    spend: SpendSettings = Field(default_factory=SpendSettings)
    """What all calls may spend together."""

    presets: PresetSettings = Field(default_factory=PresetSettings)
    """Your own numbers for the stop presets."""

    audit: AuditSettings = Field(default_factory=AuditSettings)
    """Audits of what budgets cost."""

    eval: EvalSettings = Field(default_factory=EvalSettings)
    """What evaluations of your own suites ask."""

    @model_validator(mode="after")
    def _resolves(self) -> Settings:
        problems = self._resolved[1]
        if problems:
            raise Problems(problems)
        return self

    @cached_property
    def _resolved(self) -> Any:
        return resolve(self)

    @property
    def names(self) -> Names:
        """What this configuration gives names to."""
        names: Names = self._resolved[0]
        return names

    @classmethod
    def load(
        cls,
        source: str | Path | Mapping[str, Any] | None = None,
        *,
        env: Mapping[str, str] | None = None,
    ) -> Settings:
        """Read settings from a TOML file, a mapping, or nothing, and let the environment override them.

        Args:
            source: None reads ``budgetctl.toml`` of the working directory where there is one.
            env: The environment; None takes the process's.

        Raises:
            ConfigError: Names the file or variable, the key, the value seen and what is allowed.
        """
        values, where = read(source)
        overrides = from_env(os.environ if env is None else env)
        try:
            return cls.model_validate(merged(values, overrides))
        except ValidationError as error:
            lines = [line for e in error.errors() for line in explain(e, cls, where, overrides)]
            raise ConfigError("\n".join(lines)) from None

    def parse(self, policy: str | Policy) -> Policy:
        """Return the policy that a string names, which may use the names of this configuration.

        Raises:
            ConfigError: It does not parse.
        """
        return parse(policy, names=self.names.policies)

    def evaluated(self, text: str) -> str:
        """Return what a string of ``eval --policies`` names, in words that need no configuration.

        Raises:
            ConfigError: It does not parse, or names a ladder that no evaluation can climb.
        """
        return canonical(text, policies=self.names.policies, ladders=self.ladders)

    def audits(self, *, agree: Callable[[str, str], bool] | None = None) -> Audits | None:
        """Return the audits of this configuration; None where it names no journal.

        Args:
            agree: Whether two answers, the delivered one first, say the same; None compares choices, numbers
                and short texts.

        Raises:
            ConfigError: The journal cannot be written, or is of another policy.
        """
        from budgetctl.agreement import same_answer
        from budgetctl.audit import Audits

        said = self.audit
        if said.journal is None:
            return None
        return Audits(
            said.journal,
            certificate=said.certificate,
            policy=self.parse(self.policy) if said.certificate is None else None,
            agree=agree or same_answer,
            **said.model_dump(exclude={"journal", "certificate"}),
        )

    @cached_property
    def ledger(self) -> Ledger | None:
        """What keeps the limits of ``[spend]`` and of the routes, one for all controllers; None without any.

        Raises:
            ConfigError: The address of the Redis server cannot be one, or its client library is missing.
        """
        from budgetctl.ledger import Ledger
        from budgetctl.pricing import Prices

        limits = spend_limits(self.spend, self.routes)
        if not limits:
            return None
        store = None
        if self.spend.redis is not None:
            try:
                from budgetctl.ledger.redis import RedisStore
            except ImportError as error:
                raise ConfigError(
                    f"spend.redis: {error}; its client library: pip install 'reasoning-budgetctl[redis]'"
                ) from None
            store = RedisStore.from_url(self.spend.redis)
        settings = {**self.spend.model_dump(exclude={"redis", "limits"}), "limits": limits}
        return Ledger(settings, store=store, prices=Prices.load(self.prices))

    def ladder(
        self, name: str, clients: Mapping[str, Any], *, controller: Controller | None = None, **more: Any
    ) -> Any:
        """Return a ladder of this configuration over clients; see :func:`budgetctl.ladder.over`.

        Args:
            name: Its name in ``[ladders]``.
            clients: Clients by the models of its rungs.
            controller: Decides and records; None makes one from these settings.
            more: Other arguments of :func:`budgetctl.ladder.over`.

        Raises:
            ConfigError: There is none of this name, a file or a function of it cannot be used, or a client is
                missing.
        """
        from budgetctl.ladder import over
        from budgetctl.ladder.settings import made, private

        if name not in self.ladders:
            allowed = ", ".join(self.ladders) or "none is configured"
            raise ConfigError(f"ladder: seen {name!r}, allowed: {allowed}")
        said = self.ladders[name]
        ladder = made(said, names=self.names.policies)
        more = {"certificate": said.certificate, **more}
        return over(
            clients, ladder, private=private(said), controller=controller or self.controller(), **more
        )

    def controller(self, *, policy: str | Policy | None = None, **injected: Any) -> Controller:
        """Build the controller; arguments replace what the settings say.

        Args:
            policy: The policy of all calls, whatever model or route they name.
            injected: Arguments of :class:`~budgetctl.Controller`.

        Raises:
            ConfigError: A file that the settings name cannot be used, or an argument does not fit.
        """
        from budgetctl.capabilities import Table
        from budgetctl.pricing import Prices
        from budgetctl.records import JsonlSink

        route = injected.pop("route", self.route)
        arguments: dict[str, Any] = {
            "policy": self.policy,
            "classifier": self.classifier,
            "mode": self.mode,
            "caller_values": self.caller_values,
            "strict": self.strict,
            "min_confidence": self.min_confidence,
            "limits": Limits(**self.limits.model_dump()),
            "names": self.names,
            "presets": self.presets.model_dump(exclude_none=True),
            "capabilities": Table.load(self.capabilities),
            "prices": Prices.load(self.prices),
        }
        if "ledger" not in injected:
            arguments["ledger"] = self.ledger
        if "audits" not in injected:
            arguments["audits"] = self.audits()
        if self.sink is not None and "sinks" not in injected:
            arguments["sinks"] = (JsonlSink(self.sink, store_text=self.store_text),)
        controller = Controller(**(arguments | injected))
        controller = controller if route is None else controller.with_route(route)
        return controller if policy is None else controller.with_policy(policy)
