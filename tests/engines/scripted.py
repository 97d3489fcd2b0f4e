"""A small OpenAI-compatible server on loopback that thinks by script and notes what its clients do.

A thought is a list of words; one word is one token and one chunk. ``scenario`` picks what goes wrong.
"""

from __future__ import annotations

import json
import select
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

ANSWER = ("The ", "answer ", "is ", "42.")
WRONG = ("The ", "answer ", "is ", "41.")
RETHINKS = ("Wait, ", "let ", "me ", "check ", "that ", "once ", "more, ", "step ", "by ", "step. ", "No.")
PHRASE = "\n\nTime to answer based on the reasoning so far.\n</think>\n\n"
"""What an engine writes when it forces the end of a thought, wherever it takes that to be."""
ARGUMENTS = ('{"city": ', '"Paris", ', '"note": ', '"</think> is only text"}')
"""Of a tool call, in the pieces in which they are sent."""
STALL: dict[str, Any] = {"stall": True}
"""In place of a chunk: the server sends nothing any more."""
BREAK: dict[str, Any] = {"break": True}
"""In place of a chunk: the connection is lost, in the middle of the body."""


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
    """The server; ``seen`` grows by one for every request.

    Attributes:
        thought: Words of thinking.
        refuses: Top-level parameters that it does not take.
        scenario: What goes wrong.
        answer: Pieces of the answer.
        continuation: Pieces of the answers to continued thoughts; the last one for all further ones.
        carrier: Field in which thinking travels.
        cut: Characters per chunk of an inline stream; None is one word.
        finish: Finish reason of answers.
        keeps_limit: It ends a response at the output limit.
        control: What a request to end the running thought does; None: there is no such route.
        version: What it says at ``/version``, as vLLM does; None: there is no such route.
        owner: Who owns its models, at ``/v1/models``; None: there is no such route.
        build: What it says at ``/props``, as llama.cpp does; None: there is no such route.
        failures: Status and headers with which the next requests fail, the first one first.
    """

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
        self.owner: str | None = None
        self.build: str | None = None
        self.counts = False
        self.says: str | None = None
        self.busy_after: int | None = None
        self.continuation: list[tuple[str, ...]] = [ANSWER]
        self.carrier = "reasoning_content"
        self.cut: int | None = None
        self.finish = "stop"
        self.keeps_limit = False
        self.control: Literal["ends", "is ignored", "is refused", "hangs"] | None = None
        self.failures: list[tuple[int, dict[str, str]]] = []
        self.ended = threading.Event()
        """Somebody has asked for the end of the thought."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def paths(self) -> list[str]:
        return [one.path for one in self.seen]

    def left_open(self) -> list[str]:
        """Return the requests that are still running after a while."""
        end = time.monotonic() + 5
        return [one.path for one in self.seen if not one.done.wait(max(0.0, end - time.monotonic()))]

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
        elif self.path == "/props" and self.server.build is not None:
            self._json({"build_info": self.server.build})
        elif self.path == "/v1/models" and self.server.owner is not None:
            self._json({"object": "list", "data": [{"id": "m", "owned_by": self.server.owner}]})
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
        if self.server.failures:
            status, headers = self.server.failures.pop(0)
            self._json({"error": {"message": "not now"}}, status=status, headers=headers)
        elif busy:
            self._json({"error": {"message": "too many requests"}}, status=429)
        elif refused:
            said = self.server.says or f"unknown field {refused} in {seen.body}"
            self._json({"error": {"message": said}}, status=400)
        elif self.server.scenario == "null choice" and not seen.body.get("stream"):
            self._json({"object": "chat.completion", "choices": [None]})
        elif self.server.scenario == "error in disguise":
            self._json({"error": {"message": "no provider is free"}})
        elif seen.path == "/chat/completions/control":
            self._control()
        elif seen.path == "/completions":
            if self.server.scenario in ("no completions", "nothing continues", "misfiled"):
                self._json({"error": {"message": "no such route"}}, status=404)
            else:
                self._stream(seen, self._raw(seen))
        elif seen.body.get("continue_final_message") and self.server.scenario == "nothing continues":
            said = "Assistant response prefill is incompatible with enable_thinking"
            self._json({"error": {"message": said}}, status=400)
        elif seen.body.get("stream") and self.server.scenario != "never streams":
            self._stream(seen, self._chat(seen))
        else:
            self._whole(seen)

    def _control(self) -> None:
        control = self.server.control
        if control is None:
            self._json({"error": {"message": "no such route"}}, status=404)
        elif control == "is refused":
            self._json({"error": {"message": "no such completion"}}, status=400)
        elif control == "hangs":
            while not self._gone():
                time.sleep(0.01)
            raise ConnectionResetError
        else:
            if control == "ends":
                self.server.ended.set()
            self._json({"success": True})

    def _script(self, seen: Seen) -> tuple[list[str], tuple[str, ...], str]:
        """Return thought, answer and finish reason."""
        scenario, body = self.server.scenario, seen.body
        if body.get("chat_template_kwargs", {}).get("enable_thinking") is False:
            return [], self.server.answer, "stop"
        words = [f"step{n} " for n in range(self.server.thought)]
        cap = _cap(body)
        if cap is not None and scenario != "ignored cap":
            words = words[:cap]
        if scenario == "loop":
            words = ["so ", "on ", "and "] * (self.server.thought // 3)
        if scenario == "empty" or (scenario == "empty under a cap" and cap is not None):
            return words, (), "length" if self.server.finish == "stop" else self.server.finish
        if scenario == "wrong under a cap" and cap is not None:
            return words, WRONG, self.server.finish
        if scenario == "empty with stop" and cap is not None:
            return words, (), "stop"
        if scenario == "rethinks" and cap is not None:
            return words, RETHINKS, "stop"
        answer, limit = self.server.answer, body.get("max_completion_tokens")
        if self.server.keeps_limit and limit is not None and limit < len(words) + len(answer):
            return words[:limit], answer[: max(0, limit - len(words))], "length"
        return words, answer, self.server.finish

    def _chat(self, seen: Seen) -> Iterator[dict[str, Any]]:
        if seen.body.get("continue_final_message"):
            yield from self._continued(seen)
            return
        words, answer, finish = self._script(seen)
        self.server.ended.clear()
        yield self._chunk({"role": "assistant", "content": ""})
        if self.server.scenario == "null event":
            yield None  # type: ignore[misc]  # no chunk at all
        if self.server.scenario == "null choice":
            yield {**self._chunk({}), "choices": [None], "usage": "none yet"}
        if self.server.scenario in ("inline", "missing open tag"):
            yield from self._inline(words, answer)
        else:
            yield from self._thought(words)
            yield from self._after(seen, answer)
        finish = "tool_calls" if self.server.scenario.startswith("tools") else finish
        yield self._chunk({}, finish=finish)
        if (seen.body.get("stream_options") or {}).get("include_usage"):
            yield {**self._chunk({}), "choices": [], "usage": self._usage(len(words), len(answer))}

    def _inline(self, words: list[str], answer: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        begin = ["<think>\n"] if words and self.server.scenario == "inline" else []
        pieces = [*begin, *words, *(["</think>\n\n"] if words else []), *answer]
        if self.server.cut is not None:
            text, size = "".join(pieces), self.server.cut
            pieces = [text[at : at + size] for at in range(0, len(text), size)]
        for piece in pieces:
            yield self._chunk({"content": piece})

    def _thought(self, words: list[str]) -> Iterator[dict[str, Any]]:
        for n, word in enumerate(words):
            if self.server.ended.is_set():
                return
            if n == 6 and self.server.scenario == "stall":  # too early to have measured the pace
                yield STALL
            if n == 20 and self.server.scenario == "disconnect in the thought":
                yield BREAK
            listed = self.server.carrier == "reasoning_details"
            said = [{"type": "reasoning.text", "text": word}] if listed else word
            yield self._chunk({self.server.carrier: said})

    def _after(self, seen: Seen, answer: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        """What follows the thought."""
        scenario, capped = self.server.scenario, _cap(seen.body) is not None
        if scenario == "disconnect at the close":
            yield BREAK
        if scenario.startswith("tools"):
            yield from self._call(spoilt=scenario == "tools spoilt" and capped)
            if scenario == "tools and more thoughts":
                yield from self._thought([f"more{n} " for n in range(100)])
            return
        if scenario == "stray close tag":
            yield self._chunk({"content": "</thi"})
            yield self._chunk({"content": "nk>\n\n"})
        if scenario == "leftover and close tag":
            yield self._chunk({"content": "so it is 42."})
            yield self._chunk({"content": "</think>\n\n"})
        if scenario == "json spoilt" and capped:
            yield self._chunk({"content": "{"})
        for n, word in enumerate(answer):
            if n == 1 and scenario == "disconnect in the answer":
                yield BREAK
            if n == 1 and scenario == "reasoning after the close":
                yield self._chunk({self.server.carrier: "afterthought "})
            yield self._chunk({"content": word})

    def _call(self, *, spoilt: bool) -> Iterator[dict[str, Any]]:
        head = {"index": 0, "id": "call-1", "type": "function"}
        yield self._chunk({"tool_calls": [{**head, "function": {"name": "weather", "arguments": ""}}]})
        for n, piece in enumerate(ARGUMENTS):
            said = PHRASE + piece if spoilt and n == 2 else piece
            yield self._chunk({"tool_calls": [{"index": 0, "function": {"arguments": said}}]})

    def _continued(self, seen: Seen) -> Iterator[dict[str, Any]]:
        """The answer to a chat whose last turn is the assistant's own and goes on.

        Usage counts it as thinking, as vLLM's does: its parser waits for the tag that is in the prompt.
        """
        carrier = self.server.carrier if self.server.scenario == "misfiled" else "content"
        for word in self.server.continuation[-1]:
            yield self._chunk({carrier: word})
        usage = {**self._usage(0, 4, prompt=70), "completion_tokens_details": {"reasoning_tokens": 3}}
        yield {**self._chunk({}, finish="stop"), "usage": usage}

    def _raw(self, seen: Seen) -> Iterator[dict[str, Any]]:
        count = self.server.paths.count("/completions")
        words = self.server.continuation[min(count, len(self.server.continuation)) - 1]
        head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
        for n, word in enumerate(words):
            if self.server.scenario == f"disconnect in the continuation at {n}":
                yield BREAK
            yield {**head, "choices": [{"index": 0, "text": word, "finish_reason": None, "logprobs": None}]}
        last = {"index": 0, "text": "", "finish_reason": "stop", "logprobs": None}
        yield {**head, "choices": [last], "usage": self._usage(0, len(words), prompt=60)}

    def _whole(self, seen: Seen) -> None:
        """All that a stream would have said, at once."""
        message: dict[str, Any] = {"role": "assistant", "content": ""}
        finish = None
        for chunk in self._chat(seen):
            while chunk is STALL:
                if self._gone():
                    raise ConnectionResetError
                time.sleep(0.01)
            if chunk is BREAK:
                self.close_connection = True
                return
            for choice in chunk["choices"]:
                finish = choice["finish_reason"] or finish
                for key, value in choice["delta"].items():
                    _merge(message, key, value)
        choice = {"index": 0, "message": message, "finish_reason": finish}
        head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m"}
        words, answer, _ = self._script(seen)
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
            if chunk is BREAK or (self.server.scenario == "broken" and seen.sent == 20):
                self.close_connection = True  # in the middle of a chunked body
                return
            while chunk is STALL and not self._gone():
                self._write(": still here\n\n")
                time.sleep(0.01)
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

    def _json(
        self,
        body: dict[str, Any],
        *,
        status: int = 200,
        text: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        data = (json.dumps(body) if text is None else text).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


def _cap(body: Mapping[str, Any]) -> int | None:
    """Return the cap by the name that vLLM or llama.cpp has for it."""
    cap: int | None = body.get("thinking_token_budget", body.get("reasoning_budget_tokens"))
    return cap


def _merge(message: dict[str, Any], key: str, value: Any) -> None:
    if key == "tool_calls":
        for part in value:
            calls = message.setdefault(key, [])
            if part["index"] == len(calls):
                calls.append({**part, "function": dict(part["function"])})
            else:
                calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
    elif key != "role":
        message[key] = message.get(key, type(value)()) + value
