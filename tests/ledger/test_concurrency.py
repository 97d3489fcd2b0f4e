"""200 calls at the same time against a limit of 100 units: threads, tasks and processes, and killed ones."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from budgetctl.errors import LimitExceeded
from budgetctl.ledger import AsyncLedger, Ledger, MemoryStore, WorstCase
from budgetctl.types import Usage

from .conftest import Make

CALLS, LIMIT, MOST = 200, 100, 5
SETTINGS = {"limits": [{"name": "all", "tokens": LIMIT, "window": "1h"}], "hold_s": 60}


def worst(tokens: int) -> WorstCase:
    return WorstCase(prompt_tokens=0, output_tokens=tokens)


def used(tokens: int) -> Usage:
    return Usage(prompt_tokens=0, output_tokens=tokens)


def balanced(book: Ledger, spent: int) -> None:
    """The ledger says what was spent, no unit is lost, and none is there twice."""
    [standing] = book.standing()
    assert (standing.spent, standing.held) == (spent, 0)
    assert LIMIT / 2 < spent <= LIMIT
    book.reserve(worst(LIMIT - spent)).settle()
    with pytest.raises(LimitExceeded):
        book.reserve(worst(1))


class Meter:
    """What has really been used, next to the ledger and not through it: the sum and its peak.

    A running call counts as its worst case.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = self.peak = self.admitted = 0

    def begin(self, tokens: int) -> None:
        with self._lock:
            self.admitted += 1
            self.now += tokens
            self.peak = max(self.peak, self.now)

    def end(self, unused: int) -> None:
        with self._lock:
            self.now -= unused


def call(book: Ledger, meter: Meter, lot: random.Random) -> bool:
    """Make one call, which takes a moment and uses some of what it reserved, or fails."""
    asked = lot.randint(1, MOST)
    try:
        held = book.reserve(worst(asked))
    except LimitExceeded:
        return False
    meter.begin(asked)
    time.sleep(lot.random() / 50)
    spent = lot.choice([0, *range(asked + 1)])
    meter.end(asked - spent)  # before the ledger knows, so the ledger never lags behind
    held.release() if spent == 0 else held.settle(used(spent))
    return True


@pytest.fixture
def eager() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager")
def test_threads_never_spend_more_than_the_limit(make_store: Make):
    book, meter = Ledger(SETTINGS, store=make_store()), Meter()
    barrier = threading.Barrier(CALLS)

    def one(seed: int) -> None:
        lot = random.Random(seed)
        barrier.wait()
        for _ in range(3):
            call(book, meter, lot)

    with ThreadPoolExecutor(CALLS) as pool:
        list(pool.map(one, range(CALLS)))
    assert meter.peak <= LIMIT
    balanced(book, meter.now)


@pytest.mark.usefixtures("eager")
def test_of_200_calls_that_cost_one_unit_each_100_are_made(make_store: Make):
    book = Ledger(SETTINGS, store=make_store())
    barrier = threading.Barrier(CALLS)

    def one(_: int) -> bool:
        barrier.wait()
        try:
            return book.reserve(worst(1)).settle(used(1)) == "settled"
        except LimitExceeded:
            return False

    with ThreadPoolExecutor(CALLS) as pool:
        assert sum(pool.map(one, range(CALLS))) == LIMIT


def test_operations_in_memory_take_turns():
    inside, peak = 0, 0

    def clock() -> int:
        nonlocal inside, peak
        inside += 1
        peak = max(peak, inside)
        time.sleep(0.001)
        inside -= 1
        return time.time_ns() // 1_000_000

    book = Ledger(SETTINGS, store=MemoryStore(clock=clock))
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda _: book.reserve(worst(1)).settle(), range(20)))
    assert peak == 1


@contextmanager
def loop_of(make: Callable[[], Any]) -> Iterator[tuple[asyncio.Runner, Any]]:
    """Run coroutines on a store that is made and closed in their loop."""
    with asyncio.Runner() as runner:

        async def made() -> Any:
            return make()

        store = runner.run(made())
        yield runner, store
        if not isinstance(store, MemoryStore):
            runner.run(store.client.aclose())


@pytest.fixture(params=["memory", "redis"])
def make_async(request: pytest.FixtureRequest) -> Callable[[], Any]:
    if request.param == "memory":
        return MemoryStore
    url = request.getfixturevalue("redis_url")

    def make() -> Any:
        from budgetctl.ledger.redis import AsyncRedisStore

        return AsyncRedisStore.from_url(url, prefix=uuid.uuid4().hex)

    return make


def test_tasks_never_spend_more_than_the_limit_also_when_they_are_cancelled(make_async: Callable[[], Any]):
    async def one(book: AsyncLedger, meter: Meter, lot: random.Random) -> None:
        asked = lot.randint(1, MOST)
        try:
            held = await book.reserve(worst(asked))
        except LimitExceeded:
            return
        meter.begin(asked)
        async with held:
            try:
                await asyncio.sleep(lot.random() / 50)
            except asyncio.CancelledError:
                meter.end(asked)
                raise
            spent = lot.randint(0, asked)
            meter.end(asked - spent)
            await held.settle(used(spent))

    async def all_of(store: Any) -> tuple[Meter, Any]:
        book, meter, lot = AsyncLedger(SETTINGS, store=store), Meter(), random.Random(0)
        for _ in range(3):
            tasks = [asyncio.create_task(one(book, meter, random.Random(i))) for i in range(CALLS)]
            await asyncio.sleep(0.02)
            for task in lot.sample(tasks, 20):
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
        for _ in range(100):  # what was cancelled on its way arrives
            standing = (await book.standing())[0]
            if not standing.held:
                break
            await asyncio.sleep(0.05)
        return meter, standing

    with loop_of(make_async) as (runner, store):
        meter, standing = runner.run(all_of(store))
    assert meter.peak <= LIMIT
    assert (standing.spent, standing.held) == (meter.now, 0)
    assert LIMIT / 2 < meter.now <= LIMIT


def test_a_cancelled_task_gives_its_reservation_back_at_once(make_async: Callable[[], Any]):
    async def scenario(store: Any) -> Any:
        book = AsyncLedger(SETTINGS, store=store)
        running = asyncio.Event()

        async def one() -> None:
            async with await book.reserve(worst(60)):
                running.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(one())
        await running.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return (await book.standing())[0]

    with loop_of(make_async) as (runner, store):
        standing = runner.run(scenario(store))
    assert (standing.spent, standing.held) == (0, 0)


def test_a_reply_that_comes_as_the_task_is_cancelled_leaves_nothing_reserved():
    accounts = MemoryStore()

    class Elsewhere:
        """Cancels the task that waits, with the reply on its way to it."""

        async def reserve(self, *asked: Any, **more: Any) -> Any:
            asyncio.get_running_loop().call_soon(task.cancel)
            return accounts.reserve(*asked, **more)

        async def settle(self, *asked: Any) -> Any:
            return accounts.settle(*asked)

        async def read(self, *asked: Any) -> Any:
            return accounts.read(*asked)

    async def scenario() -> Any:
        nonlocal task
        book = AsyncLedger(SETTINGS, store=Elsewhere())
        task = asyncio.create_task(book.reserve(worst(60)))
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return (await book.standing())[0]

    task: Any = None
    standing = asyncio.run(scenario())
    assert (standing.spent, standing.held) == (0, 0)


@pytest.mark.parametrize("cancelled", ["reserve", "settle"])
def test_what_is_cancelled_on_its_way_leaves_nothing_reserved(
    redis_client: Any, redis_url: str, cancelled: str
):
    import redis.asyncio

    from budgetctl.ledger.redis import AsyncRedisStore

    async def scenario() -> Any:
        async with redis.asyncio.Redis.from_url(redis_url) as client:
            book = AsyncLedger(SETTINGS, store=AsyncRedisStore(client, prefix=uuid.uuid4().hex))
            held = await book.reserve(worst(60)) if cancelled == "settle" else None
            redis_client.client_pause(200)
            task = asyncio.create_task(book.reserve(worst(60)) if held is None else held.settle(used(25)))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.4)
            return (await book.standing())[0]

    standing = asyncio.run(scenario())
    assert (standing.spent, standing.held) == (25 if cancelled == "settle" else 0, 0)


# Other processes, which only Redis can bind

CLIENT = """
import random, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from tests.ledger.test_concurrency import SETTINGS, Meter, call
from budgetctl.ledger import Ledger
from budgetctl.ledger.redis import RedisStore

url, prefix, threads, seed = sys.argv[1:]
book, meter = Ledger(SETTINGS, store=RedisStore.from_url(url, prefix=prefix)), Meter()
print("ready", flush=True)
sys.stdin.readline()
with ThreadPoolExecutor(int(threads)) as pool:
    list(pool.map(lambda i: call(book, meter, random.Random(int(seed) + i)), range(int(threads))))
print(meter.now, flush=True)
"""

KILLED = """
import sys, time
from tests.ledger.test_concurrency import SETTINGS, worst
from budgetctl.ledger import Ledger
from budgetctl.ledger.redis import RedisStore

store = RedisStore.from_url(sys.argv[1], prefix=sys.argv[2])
held = Ledger(SETTINGS, store=store).reserve(worst(60), hold_s=3)
print("ready", flush=True)
time.sleep(60)
"""


def client(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def run_together(processes: list[subprocess.Popen[str]]) -> list[int]:
    """Let the calls of all processes begin, and return what each has used."""
    for process in processes:
        ready(process)
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [int(process.communicate(timeout=60)[0]) for process in processes]


def clients(url: str, prefix: str) -> list[subprocess.Popen[str]]:
    return [client(CLIENT, url, prefix, str(CALLS // 4), str(1_000 * i)) for i in range(4)]


def test_processes_never_spend_more_than_the_limit(redis_client: Any, redis_url: str):
    from budgetctl.ledger.redis import RedisStore

    prefix = uuid.uuid4().hex
    spent = run_together(clients(redis_url, prefix))
    balanced(Ledger(SETTINGS, store=RedisStore(redis_client, prefix=prefix)), sum(spent))


def test_what_a_killed_client_had_reserved_stays_reserved_and_then_comes_back(
    redis_client: Any, redis_url: str
):
    from budgetctl.ledger.redis import RedisStore

    prefix = uuid.uuid4().hex
    book = Ledger(SETTINGS, store=RedisStore(redis_client, prefix=prefix))
    processes = clients(redis_url, prefix)
    dying = client(KILLED, redis_url, prefix)
    ready(dying)
    dying.send_signal(signal.SIGKILL)
    dying.communicate()
    [standing] = book.standing()
    assert (standing.spent, standing.held) == (0, 60)
    with pytest.raises(LimitExceeded):
        book.reserve(worst(41))
    come_back(book)
    balanced(book, sum(run_together(processes)))


def test_a_client_that_is_killed_among_200_calls_leaves_nothing_for_good(redis_client: Any, redis_url: str):
    from budgetctl.ledger.redis import RedisStore

    prefix = uuid.uuid4().hex
    book = Ledger(SETTINGS, store=RedisStore(redis_client, prefix=prefix))
    processes, dying = clients(redis_url, prefix), client(KILLED, redis_url, prefix)
    ready(dying)
    running = threading.Timer(0.01, dying.send_signal, [signal.SIGKILL])
    running.start()
    spent = sum(run_together(processes))
    running.join()
    dying.communicate()
    assert spent <= LIMIT
    come_back(book)
    book.reserve(worst(LIMIT - spent)).settle()
    with pytest.raises(LimitExceeded):
        book.reserve(worst(1))


def come_back(book: Ledger) -> None:
    """Wait for reservations to expire."""
    end = time.monotonic() + 10
    while book.standing()[0].held and time.monotonic() < end:
        time.sleep(0.05)
    assert book.standing()[0].held == 0
