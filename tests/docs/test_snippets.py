"""Every snippet in the README and the docs runs, in the order of its page, against a server on loopback."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("openai")
pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
DOCUMENTED_URL = "http://127.0.0.1:8000/v1"


class Server(BaseHTTPRequestHandler):
    """Answers every chat call with a short thought and an answer, whole or streamed."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        head = {"id": "1", "created": 0, "model": body["model"]}
        usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
        usage["completion_tokens_details"] = {"reasoning_tokens": 3}  # type: ignore[assignment]
        message = {"role": "assistant", "reasoning_content": "Let me think.", "content": "Because of 42."}
        if not body.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self._send(json.dumps({**head, "object": "chat.completion", "choices": [choice], "usage": usage}))
            return
        deltas = [{"reasoning_content": "Let me think."}, {"content": "Because "}, {"content": "of 42."}]
        events = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
        events.append({"index": 0, "delta": {}, "finish_reason": "stop"})
        chunks = [{**head, "object": "chat.completion.chunk", "choices": [event]} for event in events]
        chunks.append({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        self._send("".join([*lines, "data: [DONE]\n\n"]), kind="text/event-stream")

    def _send(self, text: str, *, kind: str = "application/json") -> None:
        data = text.encode()
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> Path:
    """A folder with what the pages suppose, and an environment that points to the server."""
    (tmp_path / "my_grader.py").write_text(
        "def grade(answer, reference):\n    return str(reference) in (answer or '')\n"
    )
    rows = [{"question": f"Why is it {n}?", "answer": "42"} for n in range(3)]
    (tmp_path / "my-questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("BUDGETCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


# Snippets leave their clients open, as a script may until it ends; a collection in between would tell.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_page_runs(page: Path, desk: Path, url: str):
    for language, text in BLOCK.findall(page.read_text()):
        if language == "python":
            exec(compile(text, str(page), "exec"), {"__name__": "snippet"})
        elif language == "toml":
            (desk / "budgetctl.toml").write_text(text)
        elif language == "bash":
            for line in text.splitlines():
                shell(line.partition("#")[0].strip().replace(DOCUMENTED_URL, url))
        else:
            pytest.fail(f"{page.name} has a block in {language!r}, which no test runs")


def shell(line: str) -> None:
    """Run a command of ours; look a make target up (the tests themselves run inside one)."""
    command, *arguments = shlex.split(line) or [""]
    if command == "budgetctl":
        done = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), f"{line}: {done.stderr}"
    elif command == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(arguments) <= set(targets), line
    else:
        assert not command, f"no test runs {line!r}"
