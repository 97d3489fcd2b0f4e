"""Where a call says how much to think, and how to read and write there in copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

EFFORT_PATHS = ("reasoning_effort", "reasoning.effort", "output_config.effort")
"""Where the dialects have the level."""

THINKING = (
    *EFFORT_PATHS,
    "reasoning.max_tokens",
    "reasoning.enabled",
    "prompt_mode",
    "think",
    "thinking",
    "thinking_budget",
    "thinking_token_budget",
    "thinking_budget_tokens",
    "reasoning_budget_tokens",
    "custom_params.thinking_budget",
    "enable_thinking",
    "chat_template_kwargs.enable_thinking",
    "chat_template_kwargs.thinking",
    "chat_template_kwargs.thinking_budget",
    "chat_template_kwargs.reasoning_effort",
    "config.thinking_config.thinking_budget",
    "config.thinking_config.thinking_level",
)
"""Every parameter by which a caller may have set the amount of thinking."""

SWITCHES = (
    "enable_thinking",
    "think",
    "reasoning.enabled",
    "chat_template_kwargs.enable_thinking",
    "chat_template_kwargs.thinking",
)
"""Parameters by which False switches thinking off."""

GRAMMARS = (
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "json_schema",
    "regex",
    "ebnf",
    "grammar",
    "structural_tag",
)
"""Parameters that give the answer a form: OpenAI's own and those of vLLM, SGLang and llama.cpp."""


def without_auto(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call's parameters without a level of ``auto``: with it the caller leaves the level to us."""
    body = dict(params)
    for path in EFFORT_PATHS:
        for place in (path, f"extra_body.{path}"):
            if dig(body, place) == "auto":
                uproot(body, place.split("."))
    return body


def said(params: Mapping[str, Any]) -> str:
    """Return all that a call says about thinking, in a form that can be compared."""
    paths = [place for path in THINKING for place in (path, f"extra_body.{path}")]
    return repr([(path, value) for path in paths if (value := dig(params, path)) is not None])


def dig(body: Any, path: str) -> Any:
    """Return the value at a dotted path, or None."""
    for key in path.split("."):
        if not isinstance(body, Mapping):
            return None
        body = body.get(key)
    return body


def blocked(body: Mapping[str, Any], path: str) -> str | None:
    """Return the first path above ``path`` that holds anything but a mapping; None where none does."""
    *parents, _ = path.split(".")
    above = (".".join(parents[: n + 1]) for n in range(len(parents)))
    return next((p for p in above if not isinstance(dig(body, p), Mapping | None)), None)


def uproot(body: dict[str, Any], path: Sequence[str]) -> None:
    """Take out a value, and the mappings that it leaves empty."""
    head, *rest = path
    if rest:
        body[head] = dict(body[head])
        uproot(body[head], rest)
    if not rest or not body[head]:
        del body[head]


def plant(body: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a dotted path; mappings on the way are replaced by copies."""
    *parents, leaf = path.split(".")
    for key in parents:
        inner = body.get(key)
        body[key] = dict(inner) if isinstance(inner, Mapping) else {}
        body = body[key]
    body[leaf] = value
