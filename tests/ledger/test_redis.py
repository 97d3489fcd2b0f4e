"""What only a shared server has: round trips, its clock, lost replies, forgotten scripts."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from budgetctl.errors import ConfigError
from budgetctl.ledger import AsyncLedger, Ledger, WorstCase
from budgetctl.ledger.store import AGAIN, REFUSED, SETTLED, Account, Claim
from budgetctl.ledger.windows import Window
from budgetctl.types import Usage

from .conftest import Clock

redis = pytest.importorskip("redis")
LIMITS = [
    {"name": "hour", "tokens": 100, "window": "1h", "scope": {"key": "*"}},
    {"name": "month", "tokens": 1_000, "window": "month"},
]
ACCOUNT = Account(name="a", window=Window.parse("day"), limit=100)


def worst(tokens: int) -> WorstCase:
    return WorstCase(prompt_tokens=0, output_tokens=tokens)


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def store(redis_client: Any, prefix: str) -> Any:
    from budgetctl.ledger.redis import RedisStore

    return RedisStore(redis_client, prefix=prefix)


def test_each_operation_is_one_round_trip_however_many_limits_there_are(redis_url: str, prefix: str):
    from budgetctl.ledger.redis import RedisStore

    sent: list[str] = []

    class Counting(redis.Redis):  # type: ignore[misc, name-defined]
        def execute_command(self, *arguments: Any, **options: Any) -> Any:
            sent.append(arguments[0])
            return super().execute_command(*arguments, **options)

    with Counting.from_url(redis_url) as client:
        book = Ledger({"limits": LIMITS}, store=RedisStore(client, prefix=prefix))
        book.standing()  # loads the script, where the server does not have it yet
        sent.clear()
        held = book.reserve(worst(10), key="k")
        assert sent == ["EVALSHA"]
        held.settle()
        assert sent == ["EVALSHA", "EVALSHA"]
        held.settle()
        with Ledger({}, store=book.store).reserve(worst(10)):
            pass
        assert len(sent) == 2, "nothing to say, nothing sent"


def test_the_time_is_the_servers(redis_client: Any, store: Any, prefix: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    store.settle("id", [Claim(account=ACCOUNT, held=0)], [7])
    seconds, _ = redis_client.time()
    [day] = redis_client.hkeys(f"{{{prefix}}}:spent:a")
    assert int(day) in (seconds // 86_400 - 1, seconds // 86_400)


def test_a_command_that_is_sent_again_is_done_once(store: Any):
    claims = [Claim(account=ACCOUNT, held=60)]
    assert store.reserve("id", [ACCOUNT], [[200], [60]], hold_ms=9_000) == [REFUSED, 0, 0, 0, 200]
    cheaper = Account(name="a", window=ACCOUNT.window, limit=100, strict=False)
    for _ in range(2):
        assert store.reserve("id", [cheaper], [[200], [60]], hold_ms=9_000) == [1]
        assert store.read([ACCOUNT]) == [0, 60]
    assert store.settle("id", claims, [25]) == [SETTLED]
    assert store.settle("id", claims, [25]) == [AGAIN]
    assert store.read([ACCOUNT]) == [25, 0]


def test_a_server_that_has_forgotten_the_script_gets_it_again(redis_client: Any, store: Any):
    held = Ledger({"limits": LIMITS}, store=store).reserve(worst(10))
    redis_client.script_flush()
    assert held.settle() == "settled"


def test_everything_on_the_server_goes_away_by_itself(redis_client: Any, store: Any, prefix: str):
    book = Ledger({"limits": LIMITS}, store=store)
    book.reserve(worst(10), key="k").settle()
    book.reserve(worst(10), key="k", hold_s=7_200)
    names = list(redis_client.scan_iter(f"{{{prefix}}}*"))
    assert len(names) == 6
    assert all(redis_client.ttl(name) > 0 for name in names)
    assert min(redis_client.ttl(name) for name in names if b":hour:" in name) >= 7_200
    assert min(redis_client.ttl(name) for name in names if b":month:" in name) >= 62 * 86_400


def test_a_short_window_does_not_forget_a_long_reservation(redis_client: Any, store: Any, prefix: str):
    book = Ledger({"limits": [{"name": "burst", "tokens": 100, "window": "10s"}]}, store=store)
    book.reserve(worst(60), hold_s=7_200)
    book.reserve(worst(10)).settle()
    assert all(redis_client.ttl(name) >= 7_000 for name in redis_client.scan_iter(f"{{{prefix}}}:[sh]*"))


def test_where_the_server_is_away_nothing_is_reserved():
    from budgetctl.ledger.redis import RedisStore

    with redis.Redis(port=1, retry=None) as client:
        book = Ledger({"limits": LIMITS}, store=RedisStore(client))
        with pytest.raises(redis.exceptions.ConnectionError):
            book.reserve(worst(10))


@pytest.mark.parametrize("big", [10**14 + 1, 10**15])
def test_large_numbers_stay_exact(store: Any, big: int):
    account = Account(name="big", window=Window.parse("day"), limit=2 * 10**15)
    assert store.reserve("id", [account], [[big]], hold_ms=9_000) == [0]
    assert store.read([account]) == [0, big]
    assert store.settle("id", [Claim(account=account, held=big)], [big - 1]) == [SETTLED]
    assert store.read([account]) == [big - 1, 0]


MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MOMENTS)
@example(datetime(2000, 2, 29, 23, 59, 59, 999_000, UTC))
@example(datetime(2000, 3, 1, tzinfo=UTC))
@example(datetime(2100, 2, 28, 23, 59, 59, 999_000, UTC))
@example(datetime(2100, 3, 1, tzinfo=UTC))
def test_the_script_counts_months_as_the_calendar_does(redis_client: Any, moment: datetime):
    from budgetctl.ledger.redis import RedisStore

    prefix = uuid.uuid4().hex
    clock = Clock(int(moment.timestamp() * 1_000))
    month = Account(name="m", window=Window.parse("month"), limit=1)
    RedisStore(redis_client, prefix=prefix, clock=clock).settle("id", [Claim(account=month, held=0)], [1])
    [period] = redis_client.hkeys(f"{{{prefix}}}:spent:m")
    assert int(period) == month.window.period(clock.now) == moment.year * 12 + moment.month - 3


async def test_a_ledger_for_coroutines(redis_url: str, prefix: str):
    from budgetctl.ledger.redis import AsyncRedisStore

    store = AsyncRedisStore.from_url(redis_url, prefix=prefix)
    book = AsyncLedger({"limits": LIMITS}, store=store)
    async with await book.reserve(worst(60), key="k") as held:
        assert await held.settle(Usage(prompt_tokens=1, output_tokens=2)) == "settled"
    assert [(s.spent, s.held) for s in await book.standing(key="k")] == [(3, 0), (3, 0)]
    await store.client.aclose()


def test_what_is_no_address_is_named():
    from budgetctl.ledger.redis import RedisStore

    with pytest.raises(ConfigError, match="redis: seen http://"):
        RedisStore.from_url("http://user:secret@localhost")
    with pytest.raises(ConfigError, match="redis: seen NoneType"):
        RedisStore.from_url(None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"prefix: seen 'a\{b'"):
        RedisStore.from_url("redis://localhost", prefix="a{b")


def test_reservations_that_the_server_forgets_do_not_count_for_good(
    redis_client: Any, store: Any, prefix: str
):
    """A key that is emptied and made anew lives shorter than the sums beside it."""
    book = Ledger({"limits": [{"name": "burst", "tokens": 100, "window": "10s"}]}, store=store)
    book.reserve(worst(10), hold_s=7_200).release()
    book.reserve(worst(60), hold_s=900)  # and its client dies
    for name in redis_client.scan_iter(f"{{{prefix}}}:holds:*"):
        redis_client.delete(name)  # as its expiry does
    assert book.standing()[0].held == 0
    book.reserve(worst(100)).release()
