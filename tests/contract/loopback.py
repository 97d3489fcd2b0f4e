"""A provider on loopback that answers everything with one word and keeps what it was sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from openai import AzureOpenAI, OpenAI

USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
CHAT = {"id": "c1", "created": 1, "model": "m"}
RESPONSE: dict[str, Any] = {
    "id": "r1",
    "object": "response",
    "created_at": 1,
    "model": "m",
    "status": "completed",
    "output": [
        {
            "id": "m1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "42", "annotations": []}],
        }
    ],
    "usage": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
}


MESSAGE: dict[str, Any] = {
    "id": "m1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "42"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 4},
}
CONTENT = {
    "candidates": [{"content": {"role": "model", "parts": [{"text": "42"}]}, "finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4, "totalTokenCount": 7},
}


class Provider(ThreadingHTTPServer):
    """The server.

    Attributes:
        bodies: What it was sent, in order.
        paths: Where to.
        refuses: Dotted paths and their values that it answers with a 400.
        usage: What it counts besides, in each answer's own usage.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.refuses: dict[str, Any] = {}
        self.usage: dict[str, Any] = {}
        self._clients: dict[str, Any] = {}

    def client(self, sdk: str = "openai") -> Any:
        """Return a client of this server: ``openai``, ``azure``, ``anthropic`` or ``google``."""
        if sdk not in self._clients:
            self._clients[sdk] = self._make(sdk)
        return self._clients[sdk]

    def _make(self, sdk: str) -> Any:
        if sdk == "azure":
            return AzureOpenAI(azure_endpoint=self.url, api_version="2025-04-01-preview", api_key="x")
        if sdk == "anthropic":
            from anthropic import Anthropic

            return Anthropic(base_url=self.url, api_key="x", max_retries=0)
        if sdk == "google":
            from google.genai import Client

            return Client(api_key="x", http_options={"base_url": self.url})
        return OpenAI(base_url=f"{self.url}/v1", api_key="x", max_retries=0)

    def server_close(self) -> None:
        """Close the clients, too."""
        for client in self._clients.values():
            client.close()
        super().server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving() -> Iterator[Provider]:
    """Run a provider for a while."""
    with Provider() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def flat(body: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return a body's values by their dotted paths; a list counts as one value."""
    found: dict[str, Any] = {}
    for key, value in body.items():
        inner = isinstance(value, Mapping)
        found |= flat(value, f"{above}{key}.") if inner else {f"{above}{key}": _hashable(value)}
    return found


def _hashable(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: the second would wait for the first one's receipt
    server: Provider

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)
        self.server.paths.append(self.path)
        if self.server.refuses.items() & flat(body).items():
            self._send(json.dumps({"error": {"message": "unknown field"}}), status=400)
        elif self.path.endswith(":generateContent"):
            self._send(json.dumps(CONTENT))
        elif self.path.endswith("/messages"):
            self._send(json.dumps({**MESSAGE, "usage": {**MESSAGE["usage"], **self.server.usage}}))
        elif self.path.partition("?")[0].endswith("/responses"):
            usage = {**RESPONSE["usage"], **self.server.usage}
            whole = {**RESPONSE, "id": f"r{len(self.server.bodies)}", "usage": usage}
            last = {"type": "response.completed", "sequence_number": 1, "response": whole}
            self._reply(body, whole=whole, events=[last])
        else:
            message = {"role": "assistant", "content": "42"}
            choice = {"index": 0, "finish_reason": "stop"}
            whole = {**CHAT, "object": "chat.completion", "choices": [{**choice, "message": message}]}
            piece = {**CHAT, "object": "chat.completion.chunk", "choices": [{**choice, "delta": message}]}
            usage = {**USAGE, **self.server.usage}
            self._reply(body, whole={**whole, "usage": usage}, events=[{**piece, "usage": usage}])

    def _reply(self, body: dict[str, Any], *, whole: dict[str, Any], events: list[dict[str, Any]]) -> None:
        if not body.get("stream"):
            self._send(json.dumps(whole))
            return
        lines = [f"event: {e.get('type', 'message')}\ndata: {json.dumps(e)}\n\n" for e in events]
        self._send("".join([*lines, "data: [DONE]\n\n"]), kind="text/event-stream")

    def _send(self, text: str, *, kind: str = "application/json", status: int = 200) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Say nothing."""
