"""A Redis server on loopback. TEST_REDIS_SERVER is its command; where it is set nothing is skipped."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from budgetctl.ledger import MemoryStore, Store

WANTED = os.environ.get("TEST_REDIS_SERVER") or None
INSTALLED = Path(sys.executable).with_name("redis-server")
COMMAND = WANTED or (str(INSTALLED) if INSTALLED.exists() else "redis-server")
Make = Callable[..., Store]


class Clock:
    """Milliseconds that pass when a test says so; they begin in the middle of a month."""

    def __init__(self, now: int = 1_786_700_000_000) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a server, and stop it at the end."""
    missing = None
    if find_spec("redis") is None:
        missing = "the client library is not installed: pip install 'reasoning-budgetctl[redis]'"
    elif shutil.which(COMMAND) is None:
        missing = f"no {COMMAND} here: install a Redis server, or name its command in TEST_REDIS_SERVER"
    if missing is not None and WANTED is not None:
        pytest.fail(f"TEST_REDIS_SERVER={WANTED}: {missing}")
    if missing is not None:
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("redis")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with (folder / "log").open("wb") as log, subprocess.Popen([COMMAND, *options], stdout=log) as server:
        try:
            _await(port, folder / "log")
            yield f"redis://127.0.0.1:{port}"
        finally:
            server.terminate()


def _await(port: int, log: Path) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"{COMMAND} does not answer: {log.read_text()}")


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[Any]:
    import redis

    with redis.Redis.from_pool(redis.BlockingConnectionPool.from_url(redis_url)) as client:
        yield client


@pytest.fixture(params=["memory", "redis"])
def make_store(request: pytest.FixtureRequest) -> Make:
    """Make a store with nothing in it; of each kind, so that both are held to the same."""
    if request.param == "memory":
        return MemoryStore
    client = request.getfixturevalue("redis_client")

    def make(**options: Any) -> Store:
        from budgetctl.ledger.redis import RedisStore

        return RedisStore(client, prefix=uuid.uuid4().hex, **options)

    return make


@pytest.fixture
def store(make_store: Make, clock: Clock) -> Store:
    return make_store(clock=clock)
