"""A small OpenAI-compatible server on loopback that thinks by script and notes what its clients do.

A thought is a list of words; one word is one token and one chunk. The model's name picks what goes wrong.
"""

from __future__ import annotations

import json
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWER = ("The ", "answer ", "is ", "42.")


@dataclass
class Seen:
    """One request as the server saw it."""

    path: str
    body: dict[str, Any]
    sent: int = 0
    """Chunks written."""
    closed_by_client: bool = False
    done: threading.Event = field(default_factory=threading.Event)


class Scripted(ThreadingHTTPServer):
    """The server; ``seen`` grows by one for every request."""

    daemon_threads = True

    def __init__(self, *, thought: int = 400, refuses: tuple[str, ...] = (), delay_s: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.thought = thought
        self.refuses = refuses
        self.delay_s = delay_s
        self.seen: list[Seen] = []
        self.scenario = "normal"
        self.answer = ANSWER
        self.version: str | None = None
        self.counts = False
        self.says: str | None = None
        self.busy_after: int | None = None
        self.continuation: list[tuple[str, ...]] = [ANSWER]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away in the middle are what is tested here."""


@contextmanager
def serving(**options: Any) -> Iterator[Scripted]:
    server = Scripted(**options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Scripted

    def do_GET(self) -> None:
        running = sum(not one.done.is_set() for one in self.server.seen)
        if self.path == "/version" and self.server.version is not None:
            self._json({"version": self.server.version})
        elif self.path == "/metrics" and self.server.counts:
            self._json({}, text=f'vllm:num_requests_running{{engine="0"}} {running}.0\n')
        else:
            self._json({"error": {"message": "no such route"}}, status=404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        seen = Seen(path=self.path.removeprefix("/v1"), body=body)
        self.server.seen.append(seen)
        try:
            self._answer(seen)
        except (BrokenPipeError, ConnectionResetError):
            seen.closed_by_client = True
            if self.server.scenario == "generates on":
                time.sleep(10)
        finally:
            seen.done.set()

    def _answer(self, seen: Seen) -> None:
        refused = sorted(set(self.server.refuses) & set(seen.body))
        busy = self.server.busy_after is not None and len(self.server.seen) > self.server.busy_after
        if busy:
            self._json({"error": {"message": "too many requests"}}, status=429)
        elif refused:
            said = self.server.says or f"unknown field {refused} in {seen.body}"
            self._json({"error": {"message": said}}, status=400)
        elif self.server.scenario == "error in disguise":
            self._json({"error": {"message": "no provider is free"}})
        elif seen.path == "/completions":
            if self.server.scenario == "no completions":
                self._json({"error": {"message": "no such route"}}, status=404)
            else:
                self._stream(seen, self._raw(seen))
        elif seen.body.get("stream") and self.server.scenario != "never streams":
            self._stream(seen, self._chat(seen))
        else:
            self._whole(seen)

    def _script(self, seen: Seen) -> tuple[list[str], tuple[str, ...], str]:
        """Return thought, answer and finish reason."""
        scenario, body = self.server.scenario, seen.body
        if body.get("chat_template_kwargs", {}).get("enable_thinking") is False:
            return [], self.server.answer, "stop"
        words = [f"step{n} " for n in range(self.server.thought)]
        cap = body.get("thinking_token_budget")
        if cap is not None and scenario != "ignored cap":
            words = words[:cap]
        if scenario == "loop":
            words = ["so ", "on ", "and "] * (self.server.thought // 3)
        if scenario == "empty" or (scenario == "empty under a cap" and cap is not None):
            return words, (), "length"
        return words, self.server.answer, "stop"

    def _chat(self, seen: Seen) -> Iterator[dict[str, Any]]:
        words, answer, finish = self._script(seen)
        inline = self.server.scenario in ("inline", "missing open tag")
        key = "content" if inline else "reasoning_content"
        yield self._chunk({"role": "assistant", "content": ""})
        if words and self.server.scenario == "inline":
            yield self._chunk({"content": "<think>\n"})
        for word in words:
            yield self._chunk({key: word})
        if words and inline:
            yield self._chunk({"content": "</think>\n\n"})
        for word in answer:
            yield self._chunk({"content": word})
        yield self._chunk({}, finish=finish)
        if (seen.body.get("stream_options") or {}).get("include_usage"):
            yield {**self._chunk({}), "choices": [], "usage": self._usage(len(words), len(answer))}

    def _raw(self, seen: Seen) -> Iterator[dict[str, Any]]:
        count = sum(one.path == "/completions" for one in self.server.seen)
        words = self.server.continuation[min(count, len(self.server.continuation)) - 1]
        head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
        for word in words:
            yield {**head, "choices": [{"index": 0, "text": word, "finish_reason": None, "logprobs": None}]}
        last = {"index": 0, "text": "", "finish_reason": "stop", "logprobs": None}
        yield {**head, "choices": [last], "usage": self._usage(0, len(words), prompt=60)}

    def _whole(self, seen: Seen) -> None:
        words, answer, finish = self._script(seen)
        message = {"role": "assistant", "content": "".join(answer), "reasoning_content": "".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m"}
        self._json({**head, "choices": [choice], "usage": self._usage(len(words), len(answer))})

    def _chunk(self, delta: dict[str, Any], *, finish: str | None = None) -> dict[str, Any]:
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        index = None if self.server.scenario == "no index" else 0
        return {**head, "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}

    def _usage(self, thought: int, answer: int, *, prompt: int = 10) -> dict[str, Any]:
        total = thought + answer
        return {"prompt_tokens": prompt, "completion_tokens": total, "total_tokens": prompt + total}

    def _stream(self, seen: Seen, chunks: Iterator[dict[str, Any]]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for chunk in chunks:
            if self.server.scenario == "broken" and seen.sent == 20:
                self.close_connection = True  # in the middle of a chunked body
                return
            if self._gone():
                raise ConnectionResetError
            self._write(f"data: {json.dumps(chunk)}\n\n")
            seen.sent += 1
            time.sleep(self.server.delay_s)
        self._write("data: [DONE]\n\n")
        self._write("")

    def _gone(self) -> bool:
        """Whether the client has hung up: it sends nothing during a stream, so readable means closed."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable)

    def _write(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _json(self, body: dict[str, Any], *, status: int = 200, text: str | None = None) -> None:
        data = (json.dumps(body) if text is None else text).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass
