"""The real inspect_ai, in an environment of its own: it reads and shows what we export, and we read its logs.

``make test-inspect`` makes that environment and names its interpreter in BUDGETCTL_INSPECT.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from budgetctl.evals import cube, pocket

from budgetctl.cli import main
from tests.browsing import chromium, wait_for

INSPECT = os.environ.get("BUDGETCTL_INSPECT", "")
RECORDING = pocket.path().parent / "test.jsonl.gz"
pytestmark = pytest.mark.skipif(
    not INSPECT, reason="inspect_ai has an environment of its own: make test-inspect"
)

READ = """
import json, sys
from inspect_ai.log import list_eval_logs, read_eval_log
logs = [read_eval_log(info) for info in list_eval_logs(sys.argv[1])]
print(json.dumps([[l.status, l.eval.task, l.eval.model, len(l.samples),
    l.results.scores[0].metrics["accuracy"].value,
    sum(s.scores["correct"].value == "C" for s in l.samples),
    sum(s.output.usage.reasoning_tokens or 0 for s in l.samples)] for l in logs]))
"""
WRITE = """
import sys
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import match
from inspect_ai.solver import generate
asked = [Sample(input="What is 2+2?", target="4", id="a"), Sample(input="What is 3+3?", target="6", id="b")]
for form in ("json", "eval"):
    outputs = [ModelOutput.from_content("mockllm/model", text) for text in ("4", "7")]
    for output in outputs:
        output.usage = ModelUsage(input_tokens=5, output_tokens=12, total_tokens=17, reasoning_tokens=9)
    eval(Task(dataset=MemoryDataset(asked, name="sums"), solver=generate(), scorer=match()),
        model=get_model("mockllm/model", custom_outputs=outputs), log_dir=sys.argv[1], log_format=form,
        display="none", reasoning_tokens=1024, max_connections=1)
"""


def in_inspect(code: str, *argv: str | Path) -> str:
    done = subprocess.run([INSPECT, "-c", code, *map(str, argv)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped recording's natural and off rows, as logs."""
    folder = tmp_path_factory.mktemp("logs")
    for kind in ("natural", "off"):
        assert main(["cube", "export", str(RECORDING), "--only", kind, "--out", str(folder)]) == 0
    return folder


def test_inspect_reads_every_number_of_an_exported_run(exported: Path) -> None:
    logs = json.loads(in_inspect(READ, exported))
    assert sorted(log[1] for log in logs) == ["pocket (natural)", "pocket (off)"]
    for status, task, model, samples, accuracy, right, tokens in logs:
        kind = task.partition("(")[2].rstrip(")")
        rows = [r for r in cube.load(RECORDING) if r.budget and r.budget.kind == kind]
        assert (status, model, samples) == ("success", rows[0].model, len(rows))
        assert right == sum(r.correct for r in rows)
        assert accuracy == pytest.approx(right / samples)
        assert tokens == sum(r.reasoning_tokens or 0 for r in rows)


@contextmanager
def viewing(logs: Path) -> Iterator[str]:
    """The viewer of inspect_ai on a folder of logs, at the address that is yielded."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(INSPECT).with_name("inspect")), "view", "start", "--log-dir", str(logs)]
    viewer = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _get(f"http://127.0.0.1:{port}/api/logs", seconds=120)
        yield f"http://127.0.0.1:{port}"
    finally:
        viewer.terminate()
        viewer.wait(timeout=30)


def test_the_viewer_of_inspect_opens_an_exported_run(exported: Path) -> None:
    with viewing(exported) as url:
        names = [entry["name"] for entry in json.loads(_get(f"{url}/api/logs"))["files"]]
        assert len(names) == 2
        for name in names:
            shown = json.loads(_get(f"{url}/api/logs/{urllib.parse.quote(name, safe='')}"))
            assert shown["status"] == "success"
            assert shown["samples"][0]["scores"]["correct"]["value"] in ("C", "I")


def test_the_viewer_shows_an_exported_run_in_a_browser(exported: Path) -> None:
    [log] = exported.glob("*off*.json")
    rows = [r for r in cube.load(RECORDING) if r.budget and r.budget.kind == "off"]
    with viewing(exported) as url, chromium() as browser:

        def text() -> str:
            return str(browser.execute_script("return document.body.innerText"))

        browser.get(f"{url}/#/logs/{log.name}")
        wait_for(lambda: f"{len(rows)} samples" in text(), seconds=120)  # drawn from the whole log
        assert "pocket (off)" in text()
        assert f"{sum(r.correct for r in rows) / len(rows):.3f}" in text(), "the accuracy"
        wait_for(lambda: "The answer is " in text(), seconds=60)


def _get(url: str, *, seconds: float = 10) -> str:
    """Return a page; wait for a server that is still starting."""
    give_up = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=30) as reply:
                return str(reply.read().decode())
        except OSError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.5)


def test_logs_that_inspect_wrote_are_imported(tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    in_inspect(WRITE, tmp_path / "logs")
    assert len(list((tmp_path / "logs").iterdir())) == 2  # one .json, one .eval
    for ending in ("json", "eval"):
        [log] = (tmp_path / "logs").glob(f"*.{ending}")
        out = tmp_path / f"{ending}.jsonl"
        assert main(["cube", "import", str(log), "--out", str(out)]) == 0
        rows = {row.question_id: row for row in cube.load(out)}
        assert {name: row.correct for name, row in rows.items()} == {"a": True, "b": False}
        assert rows["a"].budget == cube.CubeBudget(kind="tokens", value=1024)
        assert (rows["a"].reasoning_tokens, rows["a"].output_tokens, rows["b"].answer) == (9, 12, "7")
