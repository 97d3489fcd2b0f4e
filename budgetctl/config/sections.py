"""The tables of ``budgetctl.toml``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue

from budgetctl.capabilities import EndpointKind
from budgetctl.ledger.limits import MICRO, MOST, LedgerSettings, SpendLimit

NAME = re.compile(r"[A-Za-z][\w-]*")


class Section(BaseModel):
    """A table: no unknown keys; what stands below a key is its description in editors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class LimitSettings(Section):
    """What one call may spend, whatever the policy."""

    deadline_s: float | None = Field(default=None, gt=0)
    """Seconds from the start of a call to its end."""

    reasoning_tokens: int | None = Field(default=None, ge=0)
    """Tokens of thinking; 0 is none."""

    usd_per_s: float = Field(default=0.0, ge=0)
    """What a second of waiting costs you, in dollars; the policy `utility` weighs it."""


class ModelSettings(Section):
    """What stands behind a model name of your own. A string is the model alone."""

    model: str = Field(min_length=1)
    """The name that the provider knows."""

    endpoint: EndpointKind | None = None
    """Kind of endpoint, as in the capability table; without it the client says."""

    base_url: str | None = Field(default=None, pattern=r"^https?://")
    """The only URL at which the name stands for the model: a client of another one is refused."""

    policy: str | None = None
    """The policy of calls for which nobody names another."""

    @model_validator(mode="before")
    @classmethod
    def _model_alone(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string", "minLength": 1}, handler(core)]}


class RouteSettings(Section):
    """What holds for the traffic of one name, in the place of what holds for all."""

    policy: str | None = None
    """The policy of its calls."""

    limits: LimitSettings = Field(default_factory=LimitSettings)
    """Its own limits, key by key."""

    owner: str | None = None
    """Who answers for it."""

    target_p95_s: float | None = Field(default=None, gt=0)
    """Seconds within which 95 % of its calls should end."""

    private: bool = False
    """Keep its queries on the local rungs of a ladder, whatever fails."""

    usd_per_month: float | None = Field(default=None, ge=0, le=MOST / MICRO)
    """Dollars that its calls may cost in a month (UTC): a limit of `[spend]` named `route-NAME`."""


class SpendSettings(LedgerSettings):
    """Limits on what all calls spend together; see docs/limits.md."""

    redis: str | None = None
    """URL of a Redis server that keeps the accounts of all hosts; without it they are this process's own."""


def spend_limits(spend: SpendSettings, routes: Mapping[str, RouteSettings]) -> tuple[SpendLimit, ...]:
    """Return the limits that a configuration names, those of its routes included.

    Raises:
        ValueError: Two of them have one name.
    """
    monthly = [
        SpendLimit(
            name=re.sub(r"[^\w-]", "-", f"route-{name}"),
            window="month",
            usd=route.usd_per_month,
            scope={"route": name},
        )
        for name, route in routes.items()
        if route.usd_per_month is not None
    ]
    names = {limit.name for limit in spend.limits}
    twice = [limit.name for limit in monthly if limit.name in names]
    if twice:
        raise ValueError(f"{twice[0]!r} is the name of a route's own limit, by its usd_per_month")
    return (*spend.limits, *monthly)


class LadderSettings(Section):
    """Rungs that a query climbs until an answer is good enough; see docs/ladder.md."""

    rungs: tuple[str, ...] = Field(min_length=1)
    """`MODEL@POLICY`, cheapest first, such as `qwen3-4b@off`."""

    accept: str | None = None
    """What judges drafts: `confident:0.9`, `agreement`, `verified:MODULE:FUNCTION`."""

    certificate: Path | None = None
    """Certificate of the ladder, in the place of `accept`; where it does not hold the last rung answers."""

    calibration: tuple[Path, ...] = ()
    """Files that turn confidence into probabilities: one for all rungs, or one for each but the last."""

    local: tuple[str, ...] = ()
    """Models that private queries may go to."""

    private: bool | str = False
    """Which queries are private: all, none, or those that a function `MODULE:FUNCTION` says it of."""

    hedge_s: float | None = Field(default=None, gt=0)
    """Seconds after which the next rung is started beside one whose draft has not come."""


class AuditSettings(Section):
    """Making a share of the calls once more at full thinking, to see what budgets cost in answers."""

    rate: float = Field(default=0.0, ge=0, le=1)
    """The share of calls that is audited, drawn by lot."""

    journal: Path | None = None
    """File of the evidence, of one policy or certificate; no journal, no audits."""

    certificate: Path | None = None
    """What `auto` may stand on while audits raise no alarm: the certificate of a uniform cap."""

    usd_per_day: float | None = Field(default=None, ge=0)
    """Dollars that audits may cost in a day (UTC), all processes together."""

    tokens_per_day: int | None = Field(default=None, ge=0)
    """Tokens of prompt and output that they may cost in a day; needed where a price is not known."""

    epsilon: float | None = Field(default=None, gt=0, lt=1)
    """Share of answers that may differ before it is an alarm; without it the certificate's, or 0.05."""

    alpha: float = Field(default=0.1, gt=0, lt=1)
    """Probability of a false alarm, over the life of the journal."""

    @model_validator(mode="after")
    def _can_be_kept(self) -> Self:
        if self.journal is None and (self.rate or self.certificate):
            raise ValueError("rate and certificate need a journal, the file of the evidence")
        if self.rate and self.usd_per_day is None and self.tokens_per_day is None:
            raise ValueError("audits cost money: say usd_per_day or tokens_per_day")
        return self


class TrialSettings(Section):
    """How a model in this process is asked for trial answers; what is not named stays as the suite has it."""

    cue: str | None = None
    """Text behind the closing text that leads to the answer."""

    until: str | None = None
    """Text that ends a trial answer."""

    tokens: int | None = Field(default=None, ge=1)
    """Most tokens of a trial answer."""

    choices: tuple[str, ...] | None = None
    """The valid answers, if there are few of them."""

    every: int | None = Field(default=None, ge=1)
    """Tokens of thinking after a trial that ended nothing until the next one, the first time."""


class EvalSettings(Section):
    """What evaluations of your own suites ask, unless the command or the test says otherwise."""

    grader: str | None = None
    """Tells right answers from wrong ones, as `module:function`."""

    base_url: str | None = Field(default=None, pattern=r"^https?://")
    """An OpenAI-compatible endpoint; without it the model runs in this process."""

    model: str | None = None
    """The model's name at the endpoint, or what transformers loads."""

    endpoint: EndpointKind | None = None
    """Kind of endpoint, as in the capability table."""

    concurrency: int | None = Field(default=None, gt=0)
    """Calls at once."""

    trials: TrialSettings = Field(default_factory=TrialSettings)
    """Trial answers of a model in this process, those of built-in suites too."""


class PresetSettings(Section):
    """Your own criteria for the stop presets: names of criteria, each with its numbers."""

    balanced: dict[str, Any] | None = None
    """The preset `balanced`, such as `{ trial_answer = { confidence = 0.99, mass = 0.1 } }`."""

    aggressive: dict[str, Any] | None = None
    """The preset `aggressive`."""

    @field_validator("balanced", "aggressive", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        """Read the numbers that the environment gives as text."""
        if isinstance(value, dict):
            return {key: cls._numbers(inner) for key, inner in value.items()}
        if isinstance(value, str) and re.fullmatch(r"\d*\.?\d+", value):
            return float(value) if "." in value else int(value)
        return value
