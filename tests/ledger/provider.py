"""A provider on loopback that takes its time, counts what it is asked, and streams word by word."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HEAD = {"id": "c1", "created": 1, "model": "m"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


class Provider(ThreadingHTTPServer):
    """The server.

    Attributes:
        bodies: What it was asked, in order.
        delay_s: What it takes for a whole answer, and for each word of a stream.
        status: What it answers; another one than 200 is an error.
    """

    daemon_threads = True
    request_queue_size = 512

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        self.delay_s = 0.0
        self.status = 200

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that have left."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


@contextmanager
def serving() -> Iterator[Provider]:
    """Run a provider for a while."""
    with Provider() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: Provider

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)
        if self.server.status != 200:
            self._send({"error": {"message": "no"}}, status=self.server.status)
        elif body.get("stream"):
            self._stream(usage=(body.get("stream_options") or {}).get("include_usage", False))
        else:
            time.sleep(self.server.delay_s)
            message = {"role": "assistant", "content": "42"}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            self._send({**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE})

    def _send(self, body: dict[str, Any], *, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, *, usage: bool) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        try:
            for _ in range(100):
                choice = {"index": 0, "finish_reason": None, "delta": {"content": "word "}}
                chunk = {**HEAD, "object": "chat.completion.chunk", "choices": [choice]}
                self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                self.wfile.flush()
                time.sleep(self.server.delay_s)
            if usage:
                last = {**HEAD, "object": "chat.completion.chunk", "choices": [], "usage": USAGE}
                self.wfile.write(f"data: {json.dumps(last)}\n\n".encode())
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:  # the client has left
            return
        finally:
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Say nothing."""
