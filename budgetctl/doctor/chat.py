"""An OpenAI-compatible endpoint for the checks: the real SDK, streams read as live calls are read."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from http.client import HTTPException
from typing import Any

from budgetctl.capabilities import Capability, EndpointKind, guess_endpoint
from budgetctl.channels import REASONING_FIELDS, ChatChannels
from budgetctl.doctor.checkup import Reply
from budgetctl.engine import Continuation, Transcript

QUESTION = (
    "Three friends have 47 marbles together. Ann has twice as many as Ben, and Cleo has 7 more than Ben. "
    "How many has each of them?"
)
TIMEOUT_S = 120.0
WORDS = 80
"""So many characters of what a server says are shown."""
PATIENCE_S = 3.0
"""How long a server may take to notice that a stream was closed."""

_ABOUT: tuple[tuple[str, str, EndpointKind, str], ...] = (
    ("/version", "version", "vllm", "vLLM"),
    ("/get_server_info", "version", "sglang", "SGLang"),
    ("/props", "build_info", "llama.cpp", "llama.cpp"),
)
"""Where engines tell their version: path, key, kind of endpoint, name."""
REFUSALS = (400, 404, 405, 422, 501)
"""Statuses by which a server refuses what was asked; any other says nothing about the parameters."""
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


class ChatEndpoint:
    """One model behind one endpoint.

    Args:
        client: A client of the openai SDK that does not retry.
        model: Name of the model.
        kind: Kind of endpoint; None takes what the engine says of itself.
        question: What is asked; it should take the model a few hundred tokens of thought.
        max_tokens: Output limit of every call.
    """

    def __init__(
        self,
        client: Any,
        *,
        model: str,
        kind: EndpointKind | None = None,
        question: str = QUESTION,
        max_tokens: int,
    ) -> None:
        self._client = client
        self.model = model
        self._messages = [{"role": "user", "content": question}]
        self._max_tokens = max_tokens
        self._root = str(client.base_url).rstrip("/").removesuffix("/v1")
        self.calls = 0
        self._engine, found = self._about()
        self.kind: str = kind or found or guess_endpoint(str(client.base_url))

    def engine(self) -> str | None:
        """Return name and version of the engine, as far as it tells them."""
        return self._engine

    def ask(self, extra: Mapping[str, Any], *, with_usage: bool = True) -> Reply:
        """Ask the question with more parameters, by dotted path; what is refused is a reply too."""
        body: dict[str, Any] = {}
        for path, value in extra.items():
            *parents, leaf = path.split(".")
            inner = body
            for key in parents:
                inner = inner.setdefault(key, {})
            inner[leaf] = value
        options = self._limit() | ({"stream_options": {"include_usage": True}} if with_usage else {})
        return self._reply(
            lambda: self._client.chat.completions.create(
                model=self.model, messages=self._messages, stream=True, extra_body=body, **options
            )
        )

    def continue_from(self, thought: str, capability: Capability) -> Reply | None:
        """Let the model answer from a closed thought; None where no format of raw prompts is known."""
        if not Continuation.possible(capability, self._messages):
            return None
        continuation = Continuation(capability, self._messages)
        params = continuation.params(
            {"model": self.model, "max_tokens": self._max_tokens},
            continuation.prompt([thought]),
            used=0,
            reserve=None,
        )
        return self._reply(lambda: self._client.completions.create(**params, stream=True), read=_as_chat)

    def stops_when_closed(self) -> tuple[bool | None, str]:
        """Close a stream early and read from the server's counter whether it stopped generating."""
        before = self._running()
        if before is None:
            return None, "the server has no counter of running requests at /metrics to read it from"
        from openai import OpenAIError

        self.calls += 1
        try:
            stream = self._client.chat.completions.create(
                model=self.model, messages=self._messages, stream=True, **self._limit()
            )
            with stream:
                for n, _ in enumerate(stream):
                    if n >= 4:
                        break
                during = self._running() or 0
        except (OpenAIError, ValueError) as error:
            return None, f"failed: {self._clean(str(error))}"
        if during <= before:
            return None, "its counter of running requests did not rise during a call"
        closed, end = time.monotonic(), time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if (self._running() or 0) <= before:
                return True, f"its counter of running requests fell within {time.monotonic() - closed:.1f} s"
            time.sleep(0.05)
        return False, f"the request was still running {PATIENCE_S:g} s after the stream was closed"

    def _limit(self) -> dict[str, Any]:
        name = "max_completion_tokens" if self.kind == "openai" else "max_tokens"
        return {name: self._max_tokens}

    def _about(self) -> tuple[str | None, EndpointKind | None]:
        for path, key, kind, name in _ABOUT:
            found = self._get(path)
            version = None if found is None else _parsed(found).get(key)
            if isinstance(version, str) and version:
                return f"{name} {self._clean(version)}", kind
        return None, None

    def _running(self) -> float | None:
        found = self._get("/metrics")
        counts = _RUNNING.findall(found) if found is not None else []
        return sum(map(float, counts)) if counts else None

    def _get(self, path: str) -> str | None:
        try:
            request = urllib.request.Request(f"{self._root}{path}", headers=dict(self._client.auth_headers))
            with _OPENER.open(request, timeout=PATIENCE_S) as response:
                return str(response.read(MOST_BYTES).decode("utf-8", "replace"))
        except (OSError, ValueError, HTTPException):  # refused, unreachable, not found, or no HTTP
            return None

    def _reply(
        self,
        send: Callable[[], Any],
        *,
        read: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda body: body,
    ) -> Reply:
        """Send one call and read its stream; what the server refuses, and what fails, is a reply too."""
        from openai import APIStatusError, OpenAIError

        self.calls += 1
        try:
            with send() as stream:
                return _read(read(chunk.model_dump()) for chunk in stream)
        except APIStatusError as error:
            said = self._clean(f"{error.status_code} {_words(error)}")
            return Reply(refused=said) if error.status_code in REFUSALS else Reply(failed=said)
        except (OpenAIError, ValueError) as error:
            return Reply(failed=self._clean(f"{type(error).__name__}: {error}"))

    def _clean(self, text: str) -> str:
        """Return what a server said in one short line, without the key and without what moves a terminal."""
        text = text.replace(str(self._client.api_key), "***")
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:WORDS]


def _read(chunks: Iterable[Mapping[str, Any]]) -> Reply:
    transcript = Transcript(ChatChannels(), clock=time.monotonic, started=time.monotonic())
    seen, parts = None, False
    for body in chunks:
        transcript.feed(body)
        for choice in body.get("choices") or ():
            delta = choice.get("delta") or {}
            seen = seen or next((name for name in REASONING_FIELDS if delta.get(name)), None)
            parts = parts or isinstance(delta.get("content"), list)
    transcript.flush()
    reported = transcript.reported
    counted = None if reported is None else reported.reasoning_tokens
    # Where thinking is off, the empty line between its tags may still come as thinking.
    heard = transcript.reasoning_tokens if transcript.reasoning.strip() else 0
    return Reply(
        reasoning=transcript.reasoning,
        answer=transcript.answer,
        reasoning_tokens=heard if counted is None else counted,
        reported=counted is not None,
        output_tokens=None if reported is None else reported.output_tokens,
        usage=reported is not None,
        field=seen or ("content (parts)" if parts and transcript.reasoning else None),
        untagged=transcript.untagged,
        finish=transcript.finish,
    )


def _as_chat(body: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = [
        {
            "index": c.get("index"),
            "delta": {"content": c.get("text")},
            "finish_reason": c.get("finish_reason"),
        }
        for c in body.get("choices") or ()
    ]
    return {**body, "choices": choices}


def _parsed(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, Mapping) else {}


def _words(error: Any) -> str:
    """Return the server's message."""
    body = error.body if isinstance(error.body, Mapping) else {}
    return str(body.get("message") or body.get("detail") or error.response.text)
