"""A server on loopback that answers as it is told to, per model, and keeps what it was sent."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from openai import AsyncOpenAI, OpenAI


@dataclass
class Says:
    """What a model answers.

    Attributes:
        logprob: Of each token of the answer, where log-probabilities are asked for; None leaves them out.
        delay_s: Before the head of the response.
        chunk_s: Before each chunk.
        status: Of the response.
        breaks: The stream breaks off after so many chunks.
        garbles: The log-probabilities of this chunk are none.
        calls: Id of a tool call that it makes instead of answering.
        redirects: URL that it points to instead of answering.
    """

    answer: str = "42"
    thought: str | None = None
    logprob: float | None = -0.01
    delay_s: float = 0.0
    chunk_s: float = 0.0
    status: int = 200
    finish: str | None = "stop"
    breaks: int | None = None
    garbles: int | None = None
    calls: str | None = None
    redirects: str | None = None


@dataclass
class Script:
    """What happens at a server: a model's answer by its name, or by a function of the request."""

    models: dict[str, Says] = field(default_factory=dict)
    choose: Callable[[dict[str, Any]], Says] | None = None

    def of(self, body: dict[str, Any]) -> Says:
        if self.choose is not None:
            return self.choose(body)
        return self.models.get(body["model"], Says())


class RungServer(ThreadingHTTPServer):
    """The server.

    Attributes:
        bodies: What it was sent, in order.
        closed: Streams that their client closed before the end.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, **models: Says) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = Script(models={name.replace("_", "-"): says for name, says in models.items()})
        self.bodies: list[dict[str, Any]] = []
        self.connections = 0
        self.closed = threading.Event()

    def get_request(self) -> Any:
        request = super().get_request()
        self.connections += 1
        return request

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is no news."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def asked(self) -> list[str]:
        """The models that were asked."""
        return [body["model"] for body in self.bodies]

    def sync(self, **options: Any) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="x", **{"max_retries": 0, **options})

    def asynchronous(self, **options: Any) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="x", **{"max_retries": 0, **options})


@contextmanager
def serving(**models: Says) -> Iterator[RungServer]:
    """Run a server for a while."""
    with RungServer(**models) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RungServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)
        says = self.server.script.of(body)
        time.sleep(says.delay_s)
        if says.redirects is not None:
            self.send_response(307)
            self.send_header("location", f"{says.redirects}{self.path}")
            self.send_header("content-length", "0")
            self.end_headers()
        elif says.status != 200:
            self._send({"error": {"message": "no"}}, status=says.status)
        elif body.get("stream"):
            self._stream(body, says)
        else:
            time.sleep(says.chunk_s)
            message: dict[str, Any] = {"role": "assistant", "content": says.answer}
            message |= {} if says.thought is None else {"reasoning_content": says.thought}
            message |= {} if says.calls is None else {"content": None, "tool_calls": [_tool(says)]}
            choice = {"index": 0, "message": message, "finish_reason": self._finish(says)}
            if body.get("logprobs") and says.logprob is not None:
                tokens = [*(says.thought or "").split(), says.answer]
                choice["logprobs"] = {"content": [_token(t, says.logprob) for t in tokens]}
            self._send({**_head(body), "object": "chat.completion", "choices": [choice], "usage": _usage()})

    def _stream(self, body: dict[str, Any], says: Says) -> None:
        deltas: list[dict[str, Any]] = [] if says.thought is None else [{"reasoning_content": says.thought}]
        half = len(says.answer) // 2
        deltas += [{"content": text} for text in (says.answer[:half], says.answer[half:]) if text]
        if says.calls is not None:
            deltas = [{"tool_calls": [{**_tool(says), "index": 0}]}]
        choices: list[dict[str, Any]] = [{"index": 0, "delta": d, "finish_reason": None} for d in deltas]
        for choice in choices:
            if body.get("logprobs") and says.logprob is not None and choice["delta"].get("content"):
                choice["logprobs"] = {"content": [_token(choice["delta"]["content"], says.logprob)]}
        if says.garbles is not None:
            choices[says.garbles]["logprobs"] = "none"
        choices.append({"index": 0, "delta": {}, "finish_reason": self._finish(says)})
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        head = {**_head(body), "object": "chat.completion.chunk"}
        chunks = [{**head, "choices": [choice]} for choice in choices]
        if (body.get("stream_options") or {}).get("include_usage"):
            chunks.append({**head, "choices": [], "usage": _usage()})
        try:
            for number, chunk in enumerate(chunks):
                time.sleep(says.chunk_s)
                if number == says.breaks:
                    self.wfile.write(b"data: {broken\n\n")
                    return
                self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                self.wfile.flush()
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.server.closed.set()

    @staticmethod
    def _finish(says: Says) -> str | None:
        return says.finish if says.calls is None else "tool_calls"

    def _send(self, body: dict[str, Any], *, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def _head(body: dict[str, Any]) -> dict[str, Any]:
    return {"id": "c1", "created": 1, "model": body["model"]}


def _usage() -> dict[str, Any]:
    details = {"reasoning_tokens": 3}
    return {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "completion_tokens_details": details,
    }


def _tool(says: Says) -> dict[str, Any]:
    return {"id": says.calls, "type": "function", "function": {"name": "look_up", "arguments": '{"id": 1}'}}


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}
