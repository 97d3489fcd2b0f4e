"""Every snippet in the README and the docs runs, in the order of its page, against a server on loopback."""

from __future__ import annotations

import gc
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.integrations.families import FAMILIES
from tests.integrations.hosted import AnthropicServer, GeminiServer, running

pytest.importorskip("openai")

ROOT = Path(__file__).resolve().parents[2]
ALL = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
THEIRS = {page: family for family in FAMILIES.values() for page in family.pages}
PAGES = [page for page in ALL if (THEIRS[page.name].installed if page.name in THEIRS else find_spec("torch"))]
"""The pages whose packages are here; the others run in their family's environment, or in that of the rest."""
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
        answer = '{"text": "42"}' if "JSON" in str(body.get("messages")) else "Because of 42."
        message = {"role": "assistant", "reasoning_content": "Let me think.", "content": answer}
        if not body.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self._send(json.dumps({**head, "object": "chat.completion", "choices": [choice], "usage": usage}))
            return
        deltas = [{"reasoning_content": "Let me think."}, {"content": answer[:8]}, {"content": answer[8:]}]
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


@pytest.fixture(scope="module")
def hosted() -> Iterator[dict[str, str]]:
    """Servers that speak as those of Anthropic and Google do, by the names of what points to them."""
    with running(AnthropicServer()) as anthropic, running(GeminiServer()) as gemini:
        yield {"ANTHROPIC_BASE_URL": anthropic.url, "GOOGLE_GEMINI_BASE_URL": gemini.url}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, hosted: dict[str, str]) -> Path:
    """A folder with what the pages suppose, and an environment that points to the server."""
    (tmp_path / "my_grader.py").write_text(
        "def grade(answer, reference):\n    return str(reference) in (answer or '')\n"
    )
    rows = [{"question": f"Why is it {n}?", "answer": "42"} for n in range(3)]
    (tmp_path / "my-questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    for name, value in hosted.items():
        monkeypatch.setenv(name, value)
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    monkeypatch.setenv("BUDGETCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


# Snippets leave their clients open, as a script may until it ends; a collection in between would tell.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_page_runs(page: Path, desk: Path, url: str):
    for language, text in BLOCK.findall(page.read_text()):
        if language == "python":
            exec(compile(text.replace(DOCUMENTED_URL, url), str(page), "exec"), {"__name__": "snippet"})
        elif language == "toml":
            (desk / "budgetctl.toml").write_text(text)
        elif language == "yaml":
            (desk / "config.yaml").write_text(text)
        elif language == "bash":
            for line in text.splitlines():
                shell(line.partition("#")[0].strip().replace(DOCUMENTED_URL, url))
        else:
            pytest.fail(f"{page.name} has a block in {language!r}, which no test runs")
    gc.collect()


def test_every_page_of_a_family_exists():
    assert set(THEIRS) <= {page.name for page in ALL}


def shell(line: str) -> None:
    """Run a command of ours, check a proxy's configuration, look a make target up (tests run inside one)."""
    command, *arguments = shlex.split(line) or [""]
    if command == "budgetctl":
        done = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), f"{line}: {done.stderr}"
    elif command == "litellm":
        done = subprocess.run([command, *arguments, "--validate_config"], capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stderr}"
    elif command == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(arguments) <= set(targets), line
    else:
        assert not command, f"no test runs {line!r}"
