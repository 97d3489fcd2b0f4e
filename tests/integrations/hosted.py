"""Small servers on loopback that speak the wire formats of Anthropic and of Gemini, and note what is asked.

A thought is a number of words; one word is one token and one chunk. The answer comes in pieces.
"""

from __future__ import annotations

import json
import select
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from tests.engines.scripted import ANSWER, Seen

Json = dict[str, Any]
STALL: Json = {"stall": True}
"""In place of a chunk: the server sends nothing any more."""


class HostedServer(ThreadingHTTPServer):
    """The server; ``seen`` grows by one for every request.

    Attributes:
        thought: Words of thinking, where the call does not say less.
        answer: Pieces of the answer.
        refuses: Top-level parameters that it does not take.
        failures: Statuses with which the next requests fail, the first one first.
        scenario: ``normal``; ``stall``: nothing comes after the first words; ``tools``: a tool is called;
            ``broken``: the connection is lost in the answer; ``cut``: the output limit ends the answer.
        delay_s: Seconds between two chunks.
    """

    daemon_threads = True
    handler: ClassVar[type[BaseHTTPRequestHandler]]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), self.handler)
        self.thought = 20
        self.answer: tuple[str, ...] = ANSWER
        self.refuses: tuple[str, ...] = ()
        self.failures: list[int] = []
        self.scenario = "normal"
        self.delay_s = 0.0
        self.seen: list[Seen] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def bodies(self) -> list[Json]:
        return [one.body for one in self.seen]

    def left_open(self) -> list[str]:
        """Return the requests that are still running after a while."""
        end = time.monotonic() + 5
        return [one.path for one in self.seen if not one.done.wait(max(0.0, end - time.monotonic()))]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away in the middle are what is tested here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HostedServer

    def streams(self, body: Json) -> bool:
        """Whether a stream is asked for."""
        raise NotImplementedError

    def words(self, body: Json) -> int:
        """Return how many words the call may think."""
        raise NotImplementedError

    def chunks(self, body: Json) -> Iterator[Json]:
        """Return what a stream consists of."""
        raise NotImplementedError

    def whole(self, body: Json) -> Json:
        """Return what comes at once."""
        raise NotImplementedError

    def framed(self, chunk: Json) -> str:
        """Return a chunk as it is sent."""
        raise NotImplementedError

    def error(self, status: int, message: str) -> Json:
        """Return the body of an error."""
        raise NotImplementedError

    def do_POST(self) -> None:
        said = json.loads(self.rfile.read(int(self.headers["content-length"])))
        body = {name: value for name, value in said.items() if value != {}}  # as google-genai's chats send
        seen = Seen(path=self.path, body=body)
        self.server.seen.append(seen)
        try:
            self._answer(seen)
        except (BrokenPipeError, ConnectionResetError):
            seen.closed_by_client = True
        finally:
            seen.done.set()

    def _answer(self, seen: Seen) -> None:
        refused = sorted(set(self.server.refuses) & set(seen.body))
        if self.server.failures:
            status = self.server.failures.pop(0)
            self._json(self.error(status, "not now"), status=status)
        elif refused:
            self._json(self.error(400, f"unknown field {refused}"), status=400)
        elif self.streams(seen.body):
            self._stream(seen)
        else:
            if self.server.scenario == "stall":
                self._wait()
            self._json(self.whole(seen.body))

    def _stream(self, seen: Seen) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for chunk in self.chunks(seen.body):
            if chunk is STALL:
                self._wait()
            if self.server.scenario == "broken" and seen.sent == 22:
                self.close_connection = True  # in the middle of a chunked body
                return
            if self._gone():
                raise ConnectionResetError
            self._write(self.framed(chunk))
            seen.sent += 1
            time.sleep(self.server.delay_s)
        self._write("")

    def _wait(self) -> None:
        while not self._gone():
            time.sleep(0.01)
        raise ConnectionResetError

    def _gone(self) -> bool:
        """Whether the client has hung up: it sends nothing during a stream, so readable means closed."""
        return bool(select.select([self.connection], [], [], 0)[0])

    def _write(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _json(self, body: Json, *, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


class _Anthropic(_Handler):
    def streams(self, body: Json) -> bool:
        return bool(body.get("stream"))

    def words(self, body: Json) -> int:
        thinking = body.get("thinking") or {}
        if thinking.get("type") in ("disabled", "between_tools"):
            return 0
        return min(self.server.thought, thinking.get("budget_tokens", self.server.thought))

    def whole(self, body: Json) -> Json:
        content: list[Json] = []
        thought = [f"step{n} " for n in range(self.words(body))]
        if thought:
            content.append({"type": "thinking", "thinking": "".join(thought), "signature": "c2lnbmVk"})
        if self.server.scenario == "tools":
            call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}}
            content.append(call)
        else:
            content.append({"type": "text", "text": "".join(self.server.answer)})
        return {
            **self._head(body),
            "content": content,
            "stop_reason": self._stop(),
            "usage": self._usage(body),
        }

    def chunks(self, body: Json) -> Iterator[Json]:
        first = {"input_tokens": 7, "cache_read_input_tokens": 3, "output_tokens": 1}
        yield {"type": "message_start", "message": {**self._head(body), "content": [], "usage": first}}
        at = 0
        if self.words(body):
            yield from self._thought(body)
            at = 1
        yield from self._said(at)
        usage = {"output_tokens": self._usage(body)["output_tokens"]}
        usage["output_tokens_details"] = self._usage(body)["output_tokens_details"]
        yield {"type": "message_delta", "delta": {"stop_reason": self._stop()}, "usage": usage}
        yield {"type": "message_stop"}

    def _thought(self, body: Json) -> Iterator[Json]:
        start = {"type": "thinking", "thinking": "", "signature": ""}
        yield {"type": "content_block_start", "index": 0, "content_block": start}
        for n in range(self.words(body)):
            if n == 3 and self.server.scenario == "stall":
                yield STALL
            yield self._delta(0, {"type": "thinking_delta", "thinking": f"step{n} "})
        yield self._delta(0, {"type": "signature_delta", "signature": "c2lnbmVk"})
        yield {"type": "content_block_stop", "index": 0}

    def _said(self, at: int) -> Iterator[Json]:
        if self.server.scenario == "tools":
            block: Json = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
            pieces = [{"type": "input_json_delta", "partial_json": p} for p in ('{"city": ', '"Paris"}')]
        else:
            block = {"type": "text", "text": ""}
            pieces = [{"type": "text_delta", "text": piece} for piece in self.server.answer]
        yield {"type": "content_block_start", "index": at, "content_block": block}
        for piece in pieces:
            yield self._delta(at, piece)
        yield {"type": "content_block_stop", "index": at}

    def _delta(self, index: int, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": index, "delta": delta}

    def _head(self, body: Json) -> Json:
        head = {"id": "msg_1", "type": "message", "role": "assistant", "model": body.get("model", "?")}
        return {**head, "stop_reason": None, "stop_sequence": None}

    def _stop(self) -> str:
        return {"tools": "tool_use", "cut": "max_tokens"}.get(self.server.scenario, "end_turn")

    def _usage(self, body: Json) -> Json:
        words = self.words(body)
        total = words + len(self.server.answer)
        details = {"thinking_tokens": words}
        prompt = {"input_tokens": 7, "cache_read_input_tokens": 3}
        return {**prompt, "output_tokens": total, "output_tokens_details": details}

    def framed(self, chunk: Json) -> str:
        return f"event: {chunk['type']}\ndata: {json.dumps(chunk)}\n\n"

    def error(self, status: int, message: str) -> Json:
        return {"type": "error", "error": {"type": "invalid_request_error", "message": message}}


class _Gemini(_Handler):
    def streams(self, body: Json) -> bool:
        return ":streamGenerateContent" in self.path

    def words(self, body: Json) -> int:
        budget = self._thinking(body).get("thinking_budget", -1)
        return self.server.thought if budget < 0 else min(self.server.thought, budget)

    def whole(self, body: Json) -> Json:
        parts = [part for chunk in self.chunks(body) for part in chunk["candidates"][0]["content"]["parts"]]
        return self._chunk(body, parts, finish=self._finish())

    def chunks(self, body: Json) -> Iterator[Json]:
        if self.server.scenario == "stall":
            yield STALL
        if self._thinking(body).get("include_thoughts"):
            for n in range(self.words(body)):
                yield self._chunk(body, [{"text": f"step{n} ", "thought": True}])
        if self.server.scenario == "tools" and len(body["contents"]) == 1:
            call = {"functionCall": {"name": "weather", "args": {"city": "Paris"}}}
            yield self._chunk(body, [{**call, "thoughtSignature": "c2lnbmVk"}], finish=self._finish())
            return
        for piece in self.server.answer:
            yield self._chunk(body, [{"text": piece}])
        yield self._chunk(body, [{"text": "", "thoughtSignature": "c2lnbmVk"}], finish=self._finish())

    def _thinking(self, body: Json) -> Json:
        """Return the configuration, in the names that the SDK sends: the API takes both spellings."""
        found: Json = (body.get("generationConfig") or {}).get("thinkingConfig") or {}
        return found

    def _finish(self) -> str:
        return "MAX_TOKENS" if self.server.scenario == "cut" else "STOP"

    def _chunk(self, body: Json, parts: list[Json], *, finish: str | None = None) -> Json:
        candidate: Json = {"content": {"role": "model", "parts": parts}, "index": 0}
        if finish is not None:
            candidate["finishReason"] = finish
        words, said = self.words(body), len(self.server.answer)
        usage = {"promptTokenCount": 10, "candidatesTokenCount": said, "totalTokenCount": 10 + said + words}
        if words:
            usage["thoughtsTokenCount"] = words
        return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini"}

    def framed(self, chunk: Json) -> str:
        return f"data: {json.dumps(chunk)}\r\n\r\n"

    def error(self, status: int, message: str) -> Json:
        return {"error": {"code": status, "message": message, "status": "INVALID_ARGUMENT"}}


class AnthropicServer(HostedServer):
    handler = _Anthropic


class GeminiServer(HostedServer):
    handler = _Gemini


@contextmanager
def running(server: HostedServer) -> Iterator[HostedServer]:
    server.socket.listen(64)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def at(body: Mapping[str, Any], path: str) -> Any:
    """Return what a body says at a dotted path; None for nothing."""
    found: Any = body
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
