"""Threads, tasks and processes: budgets do not mix, outcomes are not lost, and nothing outside is touched."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import budgetctl
from budgetctl import Budget, Outcome
from budgetctl.records import read

openai = pytest.importorskip("openai")

CALLS, EACH = 200, 40
CAP = "thinking_token_budget"


class Echo(BaseHTTPRequestHandler):
    """Answers with the cap that came with the question."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.arrived.append((body["messages"][-1]["content"], body.get(CAP)))
        head = {"id": "1", "created": 0, "model": body["model"]}
        usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
        message = {"role": "assistant", "reasoning_content": "Hm.", "content": str(body.get(CAP))}
        choice = {"index": 0, "finish_reason": "stop"}
        if body.get("stream"):
            chunks = [
                {**head, "object": "chat.completion.chunk", "choices": [{**choice, "delta": message}]},
                {**head, "object": "chat.completion.chunk", "choices": [], "usage": usage},
            ]
            text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
            kind = "text/event-stream"
        else:
            whole = {**head, "object": "chat.completion", "usage": usage}
            text, kind = (
                json.dumps({**whole, "choices": [{**choice, "message": message}]}),
                "application/json",
            )
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 2 * CALLS

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Echo)
        self.arrived: list[tuple[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


class Collect:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.rows: list[Outcome] = []

    def write(self, outcome: Outcome, *, text: str | None = None) -> None:
        self.rows.append(outcome)


class NumberInTheQuestion:
    """The question is the number of tokens that it may cost."""

    needs_estimate = False

    def budget(self, situation: Any) -> Budget:
        return Budget(reasoning_tokens=int(situation.query.text), stop="none")


@contextmanager
def named_by(n: int) -> Iterator[None]:
    """Every other call has its budget from a block around it; the question then names another one."""
    if n % 2:
        with budgetctl.override(f"cap:{n}"):
            yield
    else:
        yield


def call(n: int) -> dict[str, Any]:
    question = str(n + 10_000 if n % 2 else n)
    messages = [{"role": "user", "content": question}]
    return {"model": "Qwen/Qwen3-8B", "messages": messages, "stream": n % 3 == 0}


def check(server: Server, sink: Collect, answers: list[tuple[int, str, Outcome]]) -> None:
    for n, text, outcome in answers:
        assert text == str(n), "the budget of another call"
        assert outcome.budget_state.applied == n
    numbers = list(range(1, CALLS + 1))
    assert sorted(cap for _, cap in server.arrived) == numbers
    assert sorted(row.budget_state.applied for row in sink.rows) == numbers
    assert len({row.id for row in sink.rows}) == CALLS


def options(sink: Collect) -> dict[str, Any]:
    return {"policy": NumberInTheQuestion(), "endpoint": "vllm", "sink": sink, "classifier": None}


def test_two_hundred_threads_on_one_client_keep_their_budgets_apart(server: Server):
    sink, gate = Collect(), threading.Barrier(CALLS)
    client = budgetctl.wrap(openai.OpenAI(base_url=server.url, api_key="x", max_retries=0), **options(sink))

    def ask(n: int) -> tuple[int, str, Outcome]:
        gate.wait()
        with named_by(n):
            reply = client.chat.completions.create(**call(n))
            if n % 3 == 0:
                text = "".join(c.choices[0].delta.content for c in reply if c.choices)
            else:
                text = reply.choices[0].message.content
        return n, text, budgetctl.outcome(reply)

    with client, ThreadPoolExecutor(CALLS) as pool:
        answers = list(pool.map(ask, range(1, CALLS + 1)))
    check(server, sink, answers)


async def test_two_hundred_tasks_on_one_client_keep_their_budgets_apart(server: Server):
    sink = Collect()
    sdk = openai.AsyncOpenAI(base_url=server.url, api_key="x", max_retries=0)
    client = budgetctl.wrap(sdk, **options(sink))

    async def ask(n: int) -> tuple[int, str, Outcome]:
        with named_by(n):
            await asyncio.sleep(0)
            reply = await client.chat.completions.create(**call(n))
            if n % 3 == 0:
                text = "".join([c.choices[0].delta.content async for c in reply if c.choices])
            else:
                text = reply.choices[0].message.content
        return n, text, budgetctl.outcome(reply)

    async with client:
        answers = await asyncio.gather(*(ask(n) for n in range(1, CALLS + 1)))
    check(server, sink, list(answers))


# --- processes ---------------------------------------------------------------------------------------------

WORKER = """
    import sys
    import budgetctl
    from openai import OpenAI

    url, path, calls = sys.argv[1], sys.argv[2], int(sys.argv[3])
    client = budgetctl.wrap(
        OpenAI(base_url=url, api_key="x"), policy="cap:100", endpoint="vllm", sink=path, classifier=None
    )
    for _ in range(calls):
        reply = client.chat.completions.create(
            model="Qwen/Qwen3-8B", messages=[{"role": "user", "content": "Why?"}]
        )
        print(budgetctl.outcome(reply).id, flush=True)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_four_workers_append_to_one_file_and_one_that_is_killed_tears_no_row(server: Server, tmp_path: Path):
    path = tmp_path / "outcomes.jsonl"
    workers = [start(WORKER, server.url, path, EACH) for _ in range(3)]
    killed = start(WORKER, server.url, path, 100_000)
    assert killed.stdout is not None
    told = [killed.stdout.readline().strip() for _ in range(20)]
    killed.kill()
    told += killed.communicate()[0].split()
    finished = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0], [err for _, err in finished]

    rows = read(path)
    recorded = [row.id for row in rows if isinstance(row, Outcome)]
    assert rows.unreadable == 0
    assert all(line.endswith("\n") for line in path.read_text().splitlines(keepends=True))
    assert len(set(recorded)) == len(recorded)
    told += [name for out, _ in finished for name in out.split()]
    assert len(told) >= 3 * EACH + 20
    assert set(told) <= set(recorded), "what a caller has got is in the file, whatever happens then"


# --- what is outside ---------------------------------------------------------------------------------------

UNPATCHED = """
    import importlib, sys

    OTHERS = ["asyncio", "builtins", "http.client", "json", "logging", "signal", "socket", "ssl", "sys",
              "threading", "warnings", "httpx", "openai", "openai._base_client", "openai._client",
              "openai.resources.chat.completions"]
    modules = [importlib.import_module(name) for name in OTHERS]

    def look():
        seen = {}
        for module in modules:
            for name, value in list(vars(module).items()):
                seen[module.__name__, name] = value
                if issubclass(type(value), type):  # isinstance would load what stands in for a module
                    seen.update({(module.__name__, name, k): v for k, v in vars(value).items()})
        return seen

    def changed(before, after):
        # What the interpreter and the modules themselves keep up to date.
        own = {"_abc_impl", "__annotations__", "__warningregistry__"}
        keys = {key for key in before | after if before.get(key, own) is not after.get(key, own)}
        # A module that is imported becomes an attribute of the one above it.
        return sorted(".".join(k) for k in keys if not own & set(k) and type(after.get(k)) is not type(sys))

    before = look()
    assert len(before) > 5000
    import budgetctl
    for name in budgetctl.__all__:
        getattr(budgetctl, name)
    import budgetctl.integrations.openai
    budgetctl.warmup()
    budgetctl.wrap(sys.modules["openai"].OpenAI(base_url="http://127.0.0.1:1", api_key="x"))
    print(changed(before, look()))
"""


def test_nothing_of_other_packages_is_patched():
    worker = start(UNPATCHED)
    out, err = worker.communicate(timeout=120)
    assert (worker.returncode, out.strip()) == (0, "[]"), err


AUDITED = """
    import asyncio, sys

    seen = []
    WHERE = {"socket.connect": 1, "socket.sendto": 1, "socket.getaddrinfo": 0, "socket.gethostbyname": 0}

    def hook(event, arguments):
        if event in WHERE:
            seen.append((event, arguments[WHERE[event]]))

    sys.addaudithook(hook)

    import budgetctl
    from openai import AsyncOpenAI, OpenAI

    budgetctl.warmup()
    assert not seen, seen

    url, path = sys.argv[1:]
    settings = budgetctl.Settings.load({
        "policy": "quantile:0.9",
        "sink": path,
        "store_text": True,
        "models": {"fast": {"model": "Qwen/Qwen3-8B", "endpoint": "vllm", "base_url": url}},
    }, env={})
    controller = settings.controller(callbacks=budgetctl.Callbacks(on_outcome=lambda outcome: None))
    call = {"model": "fast", "messages": [{"role": "user", "content": "How many ways are there to tile it?"}]}

    with budgetctl.wrap(OpenAI(base_url=url, api_key="x"), controller=controller) as client:
        reply = client.chat.completions.create(**call)
        for chunk in client.chat.completions.create(**call, stream=True):
            pass
        budgetctl.feedback(budgetctl.outcome(reply).id, correct=True)

    async def main():
        async with budgetctl.wrap(AsyncOpenAI(base_url=url, api_key="x"), controller=controller) as client:
            await client.chat.completions.create(**call)

    asyncio.run(main())
    controller.callbacks.flush()
    for event, where in seen:
        print(event, where)
"""


def test_no_text_goes_anywhere_but_to_the_calls_own_endpoint(server: Server, tmp_path: Path):
    worker = start(AUDITED, server.url, tmp_path / "outcomes.jsonl")
    out, err = worker.communicate(timeout=120)
    assert worker.returncode == 0, err
    own = f"('127.0.0.1', {server.server_port})"
    connected = [
        line.removeprefix("socket.connect ") for line in out.splitlines() if "socket.connect" in line
    ]
    others = [line for line in out.splitlines() if "socket.connect" not in line]
    assert connected == [own] * 2, "one connection for each of the two clients"
    assert set(others) <= {"socket.getaddrinfo 127.0.0.1"}
    assert len(server.arrived) == 3
