"""An OpenAI-compatible endpoint for the checks: the real SDK, streams read as live calls are read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from budgetctl.adapters.base import LIVE_END
from budgetctl.capabilities import Capability, Continuation, EndpointKind, guess_endpoint
from budgetctl.channels import REASONING_FIELDS, ChatChannels
from budgetctl.doctor.endpoint import Reply
from budgetctl.doctor.server import PATIENCE_S, Server
from budgetctl.engine import Transcript, endings
from budgetctl.engine.continuation import Begun
from budgetctl.engine.endings import CHAT
from budgetctl.engine.stopper import CONTROL

QUESTION = (
    "Three friends have 47 marbles together. Ann has twice as many as Ben, and Cleo has 7 more than Ben. "
    "How many has each of them?"
)
TIMEOUT_S = 120.0
WORDS = 120
"""So many characters of what a server says are shown."""
_GO_ON = ("vllm", "sglang", "llama.cpp")
"""Kinds that know ``ignore_eos``: a small model may else be done before its counter is read."""
REFUSALS = (400, 404, 405, 422, 501)
"""Statuses by which a server refuses what was asked; any other says nothing about the parameters."""
Watch = Callable[[Transcript, Mapping[str, Any]], None]
"""Is told of every chunk, and of the response so far."""


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
        self._server = Server(str(client.base_url), client.auth_headers)
        self.calls = 0
        engine, found = self._server.engine()
        self._engine = None if engine is None else self._clean(engine)
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

    def continue_from(self, thought: str, capability: Capability, *, way: Continuation) -> Reply | None:
        """Let the model answer from a closed thought; None where no format of raw prompts is known."""
        only = capability.model_copy(update={"continuation": (way,)})
        found = endings(only, self._messages)
        if not found:
            return None
        [ending] = found
        own = {"model": self.model, "messages": self._messages, **self._limit()}
        params = ending.request(own, Begun(thoughts=[thought], close=capability.close_text))
        calls = self._client.chat.completions if ending.path == CHAT else self._client.completions
        return self._reply(lambda: calls.create(**params, stream=True), read=ending.as_chat)

    def end_live(self, *, after: int) -> Reply:
        """Ask the question and have the server end the running thought after so many tokens of it."""
        asked = False

        def watch(transcript: Transcript, body: Mapping[str, Any]) -> None:
            nonlocal asked
            if not asked and transcript.thinking and transcript.reasoning_tokens >= after:
                asked = True
                control = {"id": body.get("id"), "action": "reasoning_end"}
                self._client.post(CONTROL, body=control, cast_to=object)

        return self._reply(
            lambda: self._client.chat.completions.create(
                model=self.model,
                messages=self._messages,
                stream=True,
                extra_body={LIVE_END: True},
                **self._limit(),
            ),
            watch=watch,
        )

    def stops_when_closed(self) -> tuple[bool | None, str]:
        """Close a stream early and read from the server's counter whether it stopped generating."""
        before = self._server.at_rest()
        if before is None:
            return None, "the server has no counter of running requests at /metrics to read it from"
        from openai import OpenAIError

        self.calls += 1
        try:
            stream = self._client.chat.completions.create(
                model=self.model,
                messages=self._messages,
                stream=True,
                extra_body={"ignore_eos": True} if self.kind in _GO_ON else {},
                **self._limit(),
            )
            with stream:
                seen = self._counted(stream, above=before)
        except (OpenAIError, ValueError) as error:
            return None, f"failed: {self._clean(str(error))}"
        if not seen:
            return None, "its counter of running requests did not rise during a call"
        closed, end = time.monotonic(), time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if (self._server.running() or 0) <= before:
                return True, f"its counter of running requests fell within {time.monotonic() - closed:.1f} s"
            time.sleep(0.05)
        return False, f"the request was still running {PATIENCE_S:g} s after the stream was closed"

    def _limit(self) -> dict[str, Any]:
        name = "max_completion_tokens" if self.kind == "openai" else "max_tokens"
        return {name: self._max_tokens}

    def _counted(self, stream: Iterable[Any], *, above: float) -> bool:
        """Read a stream until the counter of running requests, which lags, is seen to count it."""
        first: float | None = None
        for _ in stream:
            now = time.monotonic()
            first = now if first is None else first
            if (self._server.running() or 0) > above:
                return True
            if now - first > PATIENCE_S:
                break
        return False

    def _reply(
        self,
        send: Callable[[], Any],
        *,
        read: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda body: body,
        watch: Watch = lambda transcript, body: None,
    ) -> Reply:
        """Send one call and read its stream; what the server refuses, and what fails, is a reply too."""
        from openai import APIStatusError, OpenAIError

        self.calls += 1
        try:
            with send() as stream:
                return _read((read(chunk.model_dump()) for chunk in stream), watch)
        except APIStatusError as error:
            said = self._clean(f"{error.status_code} {_words(error)}")
            return Reply(refused=said) if error.status_code in REFUSALS else Reply(failed=said)
        except (OpenAIError, ValueError) as error:
            return Reply(failed=self._clean(f"{type(error).__name__}: {error}"))

    def _clean(self, text: str) -> str:
        """Return what a server said in one short line, without the key and without what moves a terminal."""
        text = text.replace(str(self._client.api_key), "***")
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:WORDS]


def _read(chunks: Iterable[Mapping[str, Any]], watch: Watch) -> Reply:
    transcript = Transcript(ChatChannels(), clock=time.monotonic, started=time.monotonic())
    seen, parts = None, False
    for body in chunks:
        transcript.feed(body)
        watch(transcript, body)
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


def _words(error: Any) -> str:
    """Return the server's message."""
    body = error.body if isinstance(error.body, Mapping) else {}
    return str(body.get("message") or body.get("detail") or error.response.text)
