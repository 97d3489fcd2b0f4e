"""What pydantic-ai's model settings say about thinking, in the words of the adapters and back again."""

# pyright: reportMissingImports=false
# The package lives in an environment of its own.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic_ai.models import Model
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from budgetctl.adapters import Rendered, anthropic, google, openai_chat, openai_responses
from budgetctl.capabilities import ENDPOINTS, Capability, Switch, guess_endpoint
from budgetctl.controller import Render
from budgetctl.types import Budget, CallerValues

_KINDS = {"google-cloud": "google", "alibaba": "dashscope"}
"""Providers of pydantic-ai whose kind of endpoint goes by another name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How one class of models takes a budget.

    Attributes:
        render: The adapter.
        names: The setting for each of the adapter's parameters but the level.
        effort: The adapter's parameter that holds the level.
        level: The provider's own setting for it; None where there is only ``thinking``.
        off: The parameter and value that stand for ``thinking=False``.
    """

    render: Render
    names: Mapping[str, str]
    effort: str
    level: str | None
    off: tuple[str, Any]

    def params(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return what ``settings`` say in the words of the adapter."""
        found: dict[str, Any] = {}
        for path, name in self.names.items():
            if settings.get(name) is not None:
                _plant(found, path, settings[name])
        if self._own(settings):
            _plant(found, self.effort, settings[str(self.level)])
        elif settings.get("thinking") is False:
            _plant(found, *self.off)
        elif settings.get("thinking"):
            # True is the model's own level, which may be any.
            level = settings["thinking"]
            _plant(found, self.effort, "max" if level is True else level)
        return found

    def settings(
        self, settings: Mapping[str, Any], params: Mapping[str, Any], *, before: Mapping[str, Any]
    ) -> ModelSettings:
        """Return ``settings`` with what differs between ``before`` and ``params`` written into them."""
        names = {**self.names, self.effort: self.level or "thinking"}
        if settings.get("thinking") is not None and not self._own(settings):
            names[self.effort] = "thinking"
        changed = dict(settings)
        for path, name in names.items():
            old, new = _dig(before, path), _dig(params, path)
            if old == new:
                continue
            if new is None:
                changed.pop(name, None)
            else:
                changed[name] = False if name == "thinking" and new == "none" else new
        return cast("ModelSettings", changed)

    def _own(self, settings: Mapping[str, Any]) -> bool:
        """Whether the level is said in the provider's own setting, which wins over ``thinking``."""
        return self.level is not None and settings.get(self.level) is not None


def _unified(
    budget: Budget, capability: Capability, params: Mapping[str, Any], *, caller_values: CallerValues
) -> Rendered:
    """Write ``budget`` as far as a level or a switch carries it, for the setting that all models have."""
    off, effort = capability.off, capability.effort
    switch = None if off is None else Switch(parameters={"reasoning_effort": "none"}, strength=off.strength)
    level = None if effort is None else effort.model_copy(update={"parameter": None})
    plain = capability.model_copy(
        update={"cap": None, "off": switch, "effort": level, "default_output_tokens": None}
    )
    return openai_chat.render(budget, plain, params, caller_values=caller_values)


_CHAT = Form(
    render=openai_chat.render,
    names={
        "reasoning": "openrouter_reasoning",
        "max_completion_tokens": "max_tokens",
        "extra_body": "extra_body",
    },
    effort="reasoning_effort",
    level="openai_reasoning_effort",
    off=("reasoning_effort", "none"),
)
_RESPONSES = Form(
    render=openai_responses.render,
    names={
        "max_output_tokens": "max_tokens",
        "extra_body": "extra_body",
    },
    effort="reasoning.effort",
    level="openai_reasoning_effort",
    off=("reasoning.effort", "none"),
)
_ANTHROPIC = Form(
    render=anthropic.render,
    names={
        "thinking": "anthropic_thinking",
        "max_tokens": "max_tokens",
        "extra_body": "extra_body",
    },
    effort="output_config.effort",
    level="anthropic_effort",
    off=("thinking", {"type": "disabled"}),
)
_GOOGLE = Form(
    render=google.render,
    names={"config.thinking_config": "google_thinking_config", "config.max_output_tokens": "max_tokens"},
    effort="config.thinking_config.thinking_level",
    level=None,
    off=("config.thinking_config", {"thinking_budget": 0}),
)
_ANY = Form(
    render=_unified,
    names={"max_completion_tokens": "max_tokens"},
    effort="reasoning_effort",
    level=None,
    off=("reasoning_effort", "none"),
)
_FORMS = {
    "OpenAIChatModel": _CHAT,
    "OpenAIResponsesModel": _RESPONSES,
    "AnthropicModel": _ANTHROPIC,
    "GoogleModel": _GOOGLE,
}


def form_of(model: Model) -> Form:
    """Return how ``model`` takes a budget; by the names of its classes, whose modules need their SDKs."""
    while isinstance(model, WrapperModel):
        model = model.wrapped
    return next((_FORMS[kind.__name__] for kind in type(model).__mro__ if kind.__name__ in _FORMS), _ANY)


def endpoint_of(model: Model) -> str:
    """Return the kind of endpoint behind ``model``."""
    kind = _KINDS.get(model.system, model.system)
    return guess_endpoint(model.base_url) if kind == "openai" or kind not in ENDPOINTS else kind


def _dig(body: Any, path: str) -> Any:
    for key in path.split("."):
        body = body.get(key) if isinstance(body, Mapping) else None
    return body


def _plant(body: dict[str, Any], path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    for key in parents:
        body = body.setdefault(key, {})
    body[leaf] = value
