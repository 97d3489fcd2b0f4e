"""The form in which LiteLLM takes a budget, so that what was meant is what reaches the provider.

LiteLLM translates ``reasoning_effort`` and ``thinking`` itself, and not without loss: to Mistral ``low`` goes
as ``high``, to DeepSeek every level but ``none`` goes as thinking on (1.108). So levels and caps of ours
travel in ``extra_body``, which it merges into the body as it is, except where it passes its own parameters
on unchanged. What a call says in LiteLLM's parameters is the caller's.
"""

# pyright: reportMissingImports=false
# The package lives in an environment of its own.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import litellm

from budgetctl.adapters import Rendered, anthropic, google, openai_chat
from budgetctl.adapters.base import Dialect
from budgetctl.adapters.rules import render as _render
from budgetctl.capabilities import Cap, Capability, guess_endpoint
from budgetctl.controller import Render
from budgetctl.types import Budget, CallerValues

PROVIDERS = {
    "azure": "azure",
    "hosted_vllm": "vllm",
    "anthropic": "anthropic",
    "gemini": "google",
    "openrouter": "openrouter",
    "deepseek": "deepseek",
    "dashscope": "dashscope",
    "xai": "xai",
    "mistral": "mistral",
    "groq": "groq",
    "ollama_chat": "ollama",
}
"""Kind of endpoint behind each of LiteLLM's providers whose parameters were seen on the wire."""

_LIMITS = ("max_completion_tokens", "max_tokens")
_RAW = Dialect(effort="reasoning_effort", limits=_LIMITS, standard=frozenset({*_LIMITS, "extra_body"}))
_OWN = Dialect(
    effort="reasoning_effort",
    limits=_LIMITS,
    standard=frozenset({*_LIMITS, "extra_body", "reasoning_effort", "thinking"}),
)
_CAMEL = {
    "thinking_budget": "thinkingBudget",
    "thinking_level": "thinkingLevel",
    "include_thoughts": "includeThoughts",
}


def target(params: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the model behind a call, its kind of endpoint and its place."""
    url = params.get("api_base") or params.get("base_url")
    model, provider, _, found = litellm.get_llm_provider(
        model=params["model"], custom_llm_provider=params.get("custom_llm_provider"), api_base=url
    )
    if provider == "openai":
        kind: str = guess_endpoint(found)
    else:
        kind = PROVIDERS.get(provider, "openai-compatible")
    return model, kind, found or provider


def render_for(kind: str) -> Render:
    """Return what writes budgets for a kind of endpoint into the parameters of ``litellm.completion``."""
    return _RENDERERS.get(kind, _raw)


def _raw(
    budget: Budget, capability: Capability, params: Mapping[str, Any], *, caller_values: CallerValues
) -> Rendered:
    """Write ``budget`` past LiteLLM's translation."""
    rendered = _render(_RAW, budget, capability, params, caller_values=caller_values)
    changed = {
        name: rendered.params[name]
        for name in ("reasoning_effort", "thinking")
        if rendered.params.get(name) != params.get(name)
    }
    if not changed:
        return rendered
    extra = {**(rendered.params.get("extra_body") or {}), **changed}
    return replace(
        rendered, params={**rendered.params, **{k: params[k] for k in changed}, "extra_body": extra}
    )


def _ollama(
    budget: Budget, capability: Capability, params: Mapping[str, Any], *, caller_values: CallerValues
) -> Rendered:
    """The same for Ollama's own API, whose ``think`` is a switch or a level."""
    rendered = _raw(budget, capability, params, caller_values=caller_values)
    extra = dict(rendered.params.get("extra_body") or {})
    if "reasoning_effort" not in extra or extra == params.get("extra_body"):
        return rendered
    level = extra.pop("reasoning_effort")
    return replace(
        rendered, params={**rendered.params, "extra_body": {**extra, "think": level != "none" and level}}
    )


def _anthropic(
    budget: Budget, capability: Capability, params: Mapping[str, Any], *, caller_values: CallerValues
) -> Rendered:
    """LiteLLM passes Anthropic's own ``thinking`` and ``output_config`` on."""
    if params.get("reasoning_effort") is not None:
        return _callers(budget, capability, params, caller_values=caller_values)
    seen = {**params, "max_tokens": _limit(params)}
    rendered = anthropic.render(budget, capability, seen, caller_values=caller_values)
    return replace(rendered, params=_with_limits(rendered.params, params))


def _google(
    budget: Budget, capability: Capability, params: Mapping[str, Any], *, caller_values: CallerValues
) -> Rendered:
    """LiteLLM passes the API's own ``thinkingConfig`` on."""
    if params.get("reasoning_effort") is not None or params.get("thinking") is not None:
        return _callers(budget, capability, params, caller_values=caller_values)
    own = params.get("thinkingConfig") or {}
    config = {"thinking_config": {snake: own[camel] for snake, camel in _CAMEL.items() if camel in own}}
    seen = {"config": {**config, "max_output_tokens": _limit(params)}}
    rendered = google.render(budget, capability, seen, caller_values=caller_values)
    written = rendered.params["config"]["thinking_config"]
    if written == config["thinking_config"]:
        return replace(rendered, params=dict(params))
    camel = {_CAMEL[snake]: value for snake, value in written.items()}
    return replace(rendered, params={**params, "thinkingConfig": camel})


def _callers(
    budget: Budget, capability: Capability, params: Mapping[str, Any], *, caller_values: CallerValues
) -> Rendered:
    """Lower what the caller says in LiteLLM's own parameters, in those parameters."""
    thinking = params.get("thinking")
    counted = isinstance(thinking, Mapping) and "budget_tokens" in thinking and capability.cap is not None
    cap = Cap(parameters=("thinking.budget_tokens",), strength="advisory", minimum=1024) if counted else None
    levelled = params.get("reasoning_effort") is not None and capability.effort is not None
    effort = (
        capability.effort.model_copy(update={"parameter": None}) if levelled and capability.effort else None
    )
    own = capability.model_copy(update={"cap": cap, "effort": effort, "off": None})
    return _render(_OWN, budget, own, params, caller_values=caller_values)


def _limit(params: Mapping[str, Any]) -> Any:
    return next((params[name] for name in _LIMITS if params.get(name) is not None), None)


def _with_limits(rendered: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``rendered`` with the output limits as the call names them."""
    kept = {name: value for name, value in rendered.items() if name not in _LIMITS}
    return kept | {name: params[name] for name in _LIMITS if name in params}


_RENDERERS: Mapping[str, Render] = {
    "openai": openai_chat.render,
    "azure": openai_chat.render,
    "anthropic": _anthropic,
    "google": _google,
    "ollama": _ollama,
}
