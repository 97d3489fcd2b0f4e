"""Kinds of endpoint, and which of them a URL names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args
from urllib.parse import urlsplit

EndpointKind = Literal[
    "openai",
    "azure",
    "anthropic",
    "google",
    "google-openai",
    "openrouter",
    "deepseek",
    "dashscope",
    "xai",
    "mistral",
    "groq",
    "vllm",
    "sglang",
    "llama.cpp",
    "ollama",
    "tensorrt-llm",
    "transformers-serve",
    "in-process",
    "openai-compatible",
]
ENDPOINTS: tuple[str, ...] = get_args(EndpointKind)
HOSTS: Mapping[str, EndpointKind] = {
    "openai.com": "openai",
    "openai.azure.com": "azure",
    "cognitiveservices.azure.com": "azure",
    "services.ai.azure.com": "azure",
    "openrouter.ai": "openrouter",
    "api.deepseek.com": "deepseek",
    "api.x.ai": "xai",
    "api.mistral.ai": "mistral",
    "api.groq.com": "groq",
    "generativelanguage.googleapis.com": "google-openai",
}
"""Domains that belong to a provider; those below them belong to it as well."""


def guess_endpoint(base_url: str | None) -> EndpointKind:
    """Return the kind of endpoint that ``base_url`` names; without a URL the SDK's own default, OpenAI.

    The URL is that of an OpenAI client. Only hosts that belong to a provider are told: a port is no proof,
    what listens on 8000 or 11434 may be any of several servers.
    """
    if base_url is None:
        return "openai"
    host = (urlsplit(base_url).hostname or "").lower()
    if host.startswith("dashscope") and host.endswith(".aliyuncs.com"):
        return "dashscope"
    for domain, kind in HOSTS.items():
        if host == domain or host.endswith(f".{domain}"):
            return kind
    return "openai-compatible"
