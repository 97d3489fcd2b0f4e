"""The pocket reasoner behind ``transformers serve``, as a process of its own on loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_S = 120


class Served:
    """A running server."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, model: Path) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}/v1"
        self.model = str(model)
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

    def wait(self) -> None:
        """Return when the server answers."""
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}")
            try:
                urllib.request.urlopen(self._health, timeout=2).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise RuntimeError(f"the server did not answer within {START_S} s")


@contextmanager
def serving(model: Path, *, home: Path) -> Iterator[Served]:
    """Serve ``model`` on a free port; ``home`` is an empty folder in place of the model cache."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HOME": str(home)}
    log = (home / "serve.log").open("wb")
    process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        server = Served(process, port, model)
        server.wait()
        yield server
    finally:
        # The whole session: the server may have helpers.
        _end(process)
        log.close()


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
