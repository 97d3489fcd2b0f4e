"""The pocket reasoner behind a real engine, as a process of its own on loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

START_S = 180
LOG = "serve.log"


class Served:
    """A running server, whose output goes to ``home``."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, model: str, home: Path) -> None:
        self.process = process
        self._log = home / LOG
        self.url = f"http://127.0.0.1:{port}/v1"
        self.model = model
        self._metrics = f"http://127.0.0.1:{port}/metrics"
        self._health = f"http://127.0.0.1:{port}/health"

    def cpu_s(self) -> float:
        """CPU seconds that the server and its children have used so far."""
        ticks = sum(_ticks(pid) for pid in _tree(self.process.pid))
        return ticks / os.sysconf("SC_CLK_TCK")

    def busy_s(self, seconds: float = 1.0) -> float:
        """CPU seconds that the server uses in the next ``seconds``."""
        before = self.cpu_s()
        time.sleep(seconds)
        return self.cpu_s() - before

    def metric(self, name: str) -> float:
        """Read a number off the server's Prometheus page, summed over its labels."""
        with urllib.request.urlopen(self._metrics, timeout=5) as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))

    def wait(self) -> None:
        """Return when the server answers."""
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}: {self._said()}")
            try:
                urllib.request.urlopen(self._health, timeout=2).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise RuntimeError(f"the server did not answer within {START_S} s: {self._said()}")

    def _said(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


@contextmanager
def serving(model: Path, *, home: Path) -> Iterator[Served]:
    """Serve ``model`` on a free port; ``home`` is an empty folder in place of the model cache."""
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model)]
    with _running([*command, "--device", "cpu", "--dtype", "float32"], home=home) as (process, port):
        server = Served(process, port, str(model), home)
        server.wait()
        yield server


@contextmanager
def serving_vllm(python: str, model: Path, *, home: Path, name: str) -> Iterator[Served]:
    """Serve ``model`` as ``name`` by the vLLM of another environment, whose interpreter is ``python``."""
    tags = {"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", name, "--dtype", "float32", "--enforce-eager"]
    command += ["--max-model-len", "2048", "--max-num-seqs", "8"]
    command += ["--reasoning-parser", "qwen3", "--reasoning-config", json.dumps(tags)]
    command += ["--trust-request-chat-template"]  # a test brings one that keeps the thought of a turn
    command += ["--logits-processors", "pace:Pace"]
    # With a thread on every core nothing is left for the part of the server that hears of a client's leaving.
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = str(Path(__file__).parent)
    with _running(command, home=home, env=env) as (process, port):
        server = Served(process, port, name, home)
        server.wait()
        yield server


@contextmanager
def _running(
    command: list[str], *, home: Path, env: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*command, "--host", "127.0.0.1", "--port", str(port)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HOME": str(home), **env}
    with (home / LOG).open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process, port
    finally:
        # The whole session: the server may have helpers.
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    for kind, patience_s in ((signal.SIGTERM, 5), (signal.SIGKILL, 30)):
        try:
            os.killpg(process.pid, kind)
            process.wait(patience_s)
            return
        except ProcessLookupError:
            process.wait()
            return
        except subprocess.TimeoutExpired:
            continue


def _tree(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue += children.get(pid, [])
    return found


def _ticks(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[11]) + int(fields[12]) if fields else 0


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat behind the name; empty when the process has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
