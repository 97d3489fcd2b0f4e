"""What a server tells of itself beside its API: the engine's name and version, how many requests it runs."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

from budgetctl.capabilities import EndpointKind

PATIENCE_S = 3.0
"""How long a server may take to answer, to notice that a stream was closed, and to count what it runs."""

_ABOUT: tuple[tuple[str, str, EndpointKind, str], ...] = (
    ("/version", "version", "vllm", "vLLM"),
    ("/get_server_info", "version", "sglang", "SGLang"),
    ("/props", "build_info", "llama.cpp", "llama.cpp"),
)
"""Where engines tell their version: path, key, kind of endpoint, name."""
MOST_BYTES = 1_000_000
_RUNNING = re.compile(
    r"^(?:vllm:num_requests_running|sglang:num_running_reqs|llamacpp:requests_processing)(?:\{[^}]*\})?\s+(\d+(?:\.\d+)?)\b",
    re.MULTILINE,
)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take the key along, to wherever it leads."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


class Server:
    """The pages of one server.

    Args:
        base_url: Root of its API.
        headers: Sent along with every request; they carry the key.
    """

    def __init__(self, base_url: str, headers: Mapping[str, str]) -> None:
        self._root = base_url.rstrip("/").removesuffix("/v1")
        self._headers = headers

    def engine(self) -> tuple[str | None, EndpointKind | None]:
        """Return name and version of the engine, and the kind of endpoint that it is; None where unknown."""
        for path, key, kind, name in _ABOUT:
            found = self._get(path)
            version = None if found is None else _parsed(found).get(key)
            if isinstance(version, str) and version and (kind != "vllm" or self._is_vllm()):
                return f"{name} {version}", kind
        return None, None

    def at_rest(self) -> float | None:
        """Return the number of running requests when our own last one has left the counter, which lags."""
        end = time.monotonic() + PATIENCE_S
        while (running := self.running()) and time.monotonic() < end:
            time.sleep(0.05)
        return running

    def running(self) -> float | None:
        """Return the number of running requests; None where it is not told."""
        found = self._get("/metrics")
        counts = _RUNNING.findall(found) if found is not None else []
        return sum(map(float, counts)) if counts else None

    def _is_vllm(self) -> bool:
        """Look for a second sign: all sorts of servers tell a version at ``/version``."""
        models = _parsed(self._get("/v1/models") or "").get("data")
        known = models if isinstance(models, list) else []
        owned = any(isinstance(model, dict) and model.get("owned_by") == "vllm" for model in known)
        return owned or "vllm:" in (self._get("/metrics") or "")

    def _get(self, path: str) -> str | None:
        try:
            request = urllib.request.Request(f"{self._root}{path}", headers=dict(self._headers))
            with _OPENER.open(request, timeout=PATIENCE_S) as response:
                return str(response.read(MOST_BYTES).decode("utf-8", "replace"))
        except (OSError, ValueError, HTTPException):  # refused, unreachable, not found, or no HTTP
            return None


def _parsed(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, Mapping) else {}
