"""Reserve, settle, release: what a ledger promises, in memory and on Redis alike."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from budgetctl.errors import BudgetctlError, ConfigError, LimitExceeded
from budgetctl.ledger import AsyncLedger, Ledger, LedgerSettings, MemoryStore, Store, WorstCase
from budgetctl.pricing import Prices
from budgetctl.types import Budget, Price, Query, Usage

from .conftest import Clock

PRICES = Prices.load({"dear": {"input": 1, "output": 10}, "cheap": {"input": 0.1, "output": 1}})
MINUTE = 60_000


def limit(**given: Any) -> dict[str, Any]:
    amount = {} if given.keys() & {"usd", "tokens"} else {"tokens": 100}
    return {"name": "team", "window": "day", **amount, **given}


def ledger(store: Store, *limits: dict[str, Any], **settings: Any) -> Ledger:
    return Ledger({"limits": limits or [limit()], **settings}, store=store, prices=PRICES)


def worst(tokens: int, model: str | None = None) -> WorstCase:
    return WorstCase(model=model, prompt_tokens=0, output_tokens=tokens)


def used(tokens: int) -> Usage:
    return Usage(prompt_tokens=0, output_tokens=tokens)


def stands(book: Ledger, **subject: str) -> list[tuple[float, float]]:
    return [(standing.spent, standing.held) for standing in book.standing(**subject)]


# What is held, spent and given back


def test_the_worst_case_is_held_and_what_was_used_is_charged(store: Store):
    book = ledger(store)
    held = book.reserve(worst(60))
    assert stands(book) == [(0, 60)]
    assert held.settle(Usage(prompt_tokens=5, reasoning_tokens=10, answer_tokens=2)) == "settled"
    assert stands(book) == [(17, 0)]


def test_what_runs_counts_against_the_limit(store: Store):
    book = ledger(store)
    book.reserve(worst(40)).settle(used(30))
    book.reserve(worst(50))
    with pytest.raises(LimitExceeded) as refused:
        book.reserve(worst(21))
    error = refused.value
    assert (error.limit, error.window, error.unit) == ("team", "day", "tokens")
    assert (error.amount, error.spent, error.held, error.asked) == (100, 30, 50, 21)
    assert str(error) == (
        "limit 'team': 21 tokens asked; of 100 per day, 30 are spent and 50 reserved by running calls"
    )
    book.reserve(worst(20))


def test_a_limit_can_be_used_up_to_its_last_unit_and_then_only_what_is_free_goes_on(store: Store):
    book = ledger(store)
    book.reserve(worst(100)).settle()
    book.reserve(worst(0)).settle()
    with pytest.raises(LimitExceeded):
        book.reserve(worst(1))


def test_a_released_reservation_has_cost_nothing(store: Store):
    book = ledger(store)
    assert book.reserve(worst(60)).release() == "settled"
    assert stands(book) == [(0, 0)]


@pytest.mark.parametrize("second", ["settle", "release"])
@pytest.mark.parametrize("first", ["settle", "release"])
def test_only_the_first_word_counts(store: Store, first: str, second: str):
    book = ledger(store)
    held = book.reserve(worst(60))
    getattr(held, first)()
    before = stands(book)
    assert getattr(held, second)() == "again"
    assert stands(book) == before


def test_what_nobody_knows_of_the_usage_is_charged_as_it_was_reserved(store: Store):
    book = ledger(store)
    book.reserve(worst(60)).settle(Usage(prompt_tokens=3, answer_tokens=4))
    assert stands(book) == [(60, 0)]


def test_a_prompt_that_nobody_counted_is_charged_as_it_was_reserved_and_the_output_as_it_was(store: Store):
    book = ledger(store, limit(tokens=100))
    held = book.reserve(WorstCase(prompt_tokens=30, output_tokens=50))
    held.settle(Usage(reasoning_tokens=3, answer_tokens=4))
    assert stands(book) == [(37, 0)]


def test_without_enforcement_everything_is_counted_and_nothing_refused(store: Store):
    book = ledger(store, limit(tokens=10))
    book.reserve(worst(30), enforce=False).settle(used(25))
    assert stands(book) == [(25, 0)]
    with pytest.raises(LimitExceeded):
        book.reserve(worst(1))


def test_what_could_not_be_charged_is_charged_before_anything_else_is_reserved(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    book = ledger(store, limit(tokens=100))
    held = book.reserve(worst(60))
    with monkeypatch.context() as away:
        away.setattr(book.store, "settle", lambda *_: 1 / 0)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                held.settle(used(50))
        with pytest.raises(ZeroDivisionError):
            book.reserve(worst(1))
    book.reserve(worst(1)).release()
    assert stands(book) == [(50, 0)]
    assert held.settle(used(50)) == "again"


def test_a_call_that_used_more_than_it_reserved_is_charged_in_full(store: Store):
    book = ledger(store)
    book.reserve(worst(60)).settle(used(140))
    assert stands(book) == [(140, 0)]
    with pytest.raises(LimitExceeded):
        book.reserve(worst(1))


# Blocks


def test_a_block_that_raises_gives_everything_back(store: Store):
    book = ledger(store)
    with pytest.raises(KeyError), book.reserve(worst(60)):
        raise KeyError
    assert stands(book) == [(0, 0)]


def test_a_block_that_says_nothing_is_charged_the_worst_case(store: Store):
    book = ledger(store)
    with book.reserve(worst(60)):
        pass
    assert stands(book) == [(60, 0)]


def test_a_call_that_was_cut_short_is_settled_inside(store: Store):
    book = ledger(store)

    def call() -> None:
        with book.reserve(worst(60)) as held:
            held.settle(used(25))
            raise TimeoutError

    with pytest.raises(TimeoutError):
        call()
    assert stands(book) == [(25, 0)]


class Unsteady(MemoryStore):
    """A store whose connection breaks at the first settlement: before it is sent, or before the reply."""

    def __init__(self, *, delivered: bool) -> None:
        super().__init__()
        self.delivered = delivered
        self.broken = True

    def settle(self, *arguments: Any) -> Sequence[int]:
        reply = super().settle(*arguments) if self.delivered or not self.broken else ()
        if self.broken:
            self.broken = False
            raise ConnectionError
        return reply


@pytest.mark.parametrize("delivered", [True, False])
def test_a_settlement_that_failed_is_not_taken_back_by_the_end_of_the_block(delivered: bool):
    book = ledger(Unsteady(delivered=delivered))
    with pytest.raises(ConnectionError), book.reserve(worst(60)) as held:
        held.settle(used(25))
    assert stands(book) == [(25, 0)]


# Expiry


def test_a_reservation_that_nobody_settles_comes_back(store: Store, clock: Clock):
    book = ledger(store, hold_s=30)
    book.reserve(worst(60))
    book.reserve(worst(40), hold_s=90)
    clock.now += 29_999
    assert stands(book) == [(0, 100)]
    clock.now += 1
    assert stands(book) == [(0, 40)]


def test_what_is_settled_after_its_expiry_is_charged_once(store: Store, clock: Clock):
    book = ledger(store, hold_s=30)
    held = book.reserve(worst(60))
    clock.now += MINUTE
    book.reserve(worst(90))
    assert held.settle(used(50)) == "late"
    assert held.settle(used(50)) == "again"
    assert stands(book) == [(50, 90)]  # more than the limit: it has been spent


# Windows


def at(clock: Clock, text: str) -> None:
    clock.now = int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000)


@pytest.mark.parametrize(
    ("window", "last", "first"),
    [
        ("day", "2026-11-27 23:59:59.999", "2026-11-28 00:00:00"),
        ("month", "2026-11-30 23:59:59.999", "2026-12-01 00:00:00"),
        ("month", "2028-02-29 23:59:59.999", "2028-03-01 00:00:00"),
        ("month", "2026-12-31 23:59:59.999", "2027-01-01 00:00:00"),
    ],
)
def test_a_calendar_window_begins_anew_in_utc(store: Store, clock: Clock, window: str, last: str, first: str):
    book = ledger(store, limit(window=window))
    at(clock, last)
    book.reserve(worst(100)).settle()
    with pytest.raises(LimitExceeded):
        book.reserve(worst(1))
    at(clock, first)
    assert stands(book) == [(0, 0)]
    book.reserve(worst(100))


def test_what_runs_over_the_end_of_a_window_is_charged_in_the_next(store: Store, clock: Clock):
    book = ledger(store)
    at(clock, "2026-11-27 23:59:59")
    held = book.reserve(worst(60))
    at(clock, "2026-11-28 00:00:01")
    assert stands(book) == [(0, 60)]
    held.settle(used(50))
    assert stands(book) == [(50, 0)]


def test_a_sliding_window_keeps_the_limit_in_every_stretch_of_its_length(store: Store, clock: Clock):
    book = ledger(store, limit(window="1h"))
    book.reserve(worst(100)).settle()
    clock.now += 60 * MINUTE - 1
    assert stands(book) == [(100, 0)]
    clock.now += MINUTE + 1  # the grain is a sixtieth
    assert stands(book) == [(0, 0)]


@pytest.mark.parametrize("window", ["1h", "day"])
def test_a_clock_that_steps_back_finds_what_was_spent(store: Store, clock: Clock, window: str):
    book = ledger(store, limit(window=window))
    at(clock, "2026-11-27 23:59:50")
    book.reserve(worst(70)).settle()
    at(clock, "2026-11-28 00:00:20")
    book.reserve(worst(20)).settle()
    at(clock, "2026-11-27 23:59:00")
    assert stands(book) == [(90, 0)]
    with pytest.raises(LimitExceeded):
        book.reserve(worst(11))
    at(clock, "2026-11-28 00:00:20")
    assert stands(book) == [(90 if window == "1h" else 20, 0)]


# Whom limits are for


def test_each_tenant_has_an_account_and_the_nameless_share_one(store: Store):
    book = ledger(store, limit(scope={"tenant": "*"}))
    book.reserve(worst(90), tenant="a")
    book.reserve(worst(80), tenant="b")
    book.reserve(worst(70))
    assert [stands(book, tenant="a"), stands(book, tenant="b"), stands(book)] == [
        [(0, 90)],
        [(0, 80)],
        [(0, 70)],
    ]


def test_a_limit_of_one_route_leaves_the_others_alone(store: Store):
    book = ledger(store, limit(scope={"route": "support", "key": "*"}))
    book.reserve(worst(90), route="support", key="k1")
    book.reserve(worst(90), route="support", key="k2")
    book.reserve(worst(10**9), route="batch", key="k1").settle()
    book.reserve(worst(10**9), key="k1").settle()
    with pytest.raises(LimitExceeded):
        book.reserve(worst(90), route="support", key="k1")


def test_a_call_keeps_all_its_limits_or_holds_nothing(store: Store):
    book = ledger(store, limit(name="wide", tokens=1_000), limit(name="narrow", scope={"key": "*"}))
    with pytest.raises(LimitExceeded, match="narrow"):
        book.reserve(worst(500), key="k")
    assert stands(book, key="k") == [(0, 0), (0, 0)]
    book.reserve(worst(80), key="k").settle(used(10))
    assert stands(book, key="k") == [(10, 0), (10, 0)]


def test_keys_are_not_kept_and_are_not_named(redis_url: str, redis_client: Any):
    from budgetctl.ledger.redis import RedisStore

    book = ledger(RedisStore(redis_client, prefix="secrets"), limit(scope={"key": "*"}))
    book.reserve(worst(90), key="sk-secret")
    with pytest.raises(LimitExceeded) as refused:
        book.reserve(worst(90), key="sk-secret")
    assert "sk-secret" not in str(refused.value)
    names = list(redis_client.scan_iter("{secrets}*"))
    assert len(names) == 3
    assert not any(b"sk-secret" in name for name in names)


# Money


def test_dollars_are_whole_millionths_so_nothing_drifts(store: Store):
    book = ledger(store, limit(usd=0.3))
    for _ in range(300):
        book.reserve(worst(100, "dear")).settle(cost=0.001)
    assert stands(book) == [(0.3, 0)]
    with pytest.raises(LimitExceeded, match=r"1e-05 usd asked; of 0\.3 per day, 0\.3 are spent"):
        book.reserve(worst(1, "dear"))


def test_a_call_is_rounded_up_to_a_millionth(store: Store):
    book = ledger(store, limit(usd=1))
    book.reserve(worst(1, "cheap")).settle(cost=1e-9)
    assert stands(book) == [(1e-06, 0)]
    book.reserve(worst(1, "cheap")).settle(cost=0.1 * 3 / 1e5)  # 3.0000000000000004e-06
    assert stands(book) == [(4e-06, 0)]


def test_without_a_cost_it_is_worked_out_from_the_usage(store: Store):
    book = ledger(store, limit(usd=1))
    book.reserve(worst(1_000, "dear")).settle(Usage(prompt_tokens=100, reasoning_tokens=20, answer_tokens=10))
    assert stands(book) == [(0.0004, 0)]


def test_the_worst_case_has_the_dearest_rates():
    price = Price(input=1, output=10, reasoning=20, cached_input=0.1, cache_write=1.25)
    most = WorstCase(prompt_tokens=1_000, output_tokens=1_000).usd(price)
    assert most == pytest.approx((1_000 * 1.25 + 1_000 * 20) / 1e6)


def test_an_unknown_price_is_never_free(store: Store):
    money, tokens = limit(name="money", usd=1), limit(name="tokens", tokens=100)
    with pytest.raises(ConfigError, match="'new' is unknown, and a limit is in dollars"):
        ledger(store, money, tokens).reserve(worst(60, "new"))
    book = ledger(store, money, tokens, unknown_price="tokens")
    book.reserve(worst(60, "new")).settle(used(50))
    assert stands(book) == [(0, 0), (50, 0)]
    with pytest.raises(LimitExceeded, match="tokens"):
        book.reserve(worst(60, "new"))
    with pytest.raises(ConfigError, match="no limit in tokens is for the call"):
        ledger(store, money, unknown_price="tokens").reserve(worst(60, "new"))


def test_limits_in_tokens_need_no_price(store: Store):
    ledger(store).reserve(worst(60, "new"))


@pytest.mark.parametrize("cost", [-0.01, float("nan"), float("inf"), "1"])
def test_what_is_no_amount_of_money_is_not_charged(store: Store, cost: Any):
    book = ledger(store, limit(usd=1))
    held = book.reserve(worst(100, "dear"))
    with pytest.raises(ConfigError, match="cost: seen"):
        held.settle(cost=cost)
    assert held.settle(cost=0.0005) == "settled"


# Cheaper rungs


def test_the_first_rung_that_fits_is_taken(store: Store):
    book = ledger(store, limit(usd=0.002, exceeded="cheaper"))
    rungs = [worst(100, "dear"), worst(100, "cheap")]
    first, second = book.reserve(rungs), book.reserve(rungs)
    assert (first.rung, second.rung) == (0, 0)
    second.release()
    book.reserve(worst(90, "dear"))
    third = book.reserve(rungs)
    assert (third.rung, third.worst.model) == (1, "cheap")
    third.settle(Usage(prompt_tokens=0, reasoning_tokens=0, answer_tokens=50))
    assert stands(book) == [(0.00005, 0.0019)]
    with pytest.raises(LimitExceeded) as refused:
        book.reserve(rungs)
    assert refused.value.asked == 0.0001  # of the last rung


def test_a_limit_that_refuses_does_so_whatever_rungs_there_are(store: Store):
    soft, hard = limit(name="soft", usd=0.002, exceeded="cheaper"), limit(name="hard", tokens=150)
    book = ledger(store, soft, hard)
    with pytest.raises(LimitExceeded, match="hard"):
        book.reserve([worst(500, "dear"), worst(50, "cheap")])


# Limits that change while calls run


def test_a_lowered_limit_lets_running_calls_end_and_admits_no_more(store: Store):
    before, after = ledger(store), ledger(store, limit(tokens=50))
    running = [before.reserve(worst(40)), before.reserve(worst(40))]
    with pytest.raises(LimitExceeded, match="80 reserved"):
        after.reserve(worst(1))
    running[0].settle(used(5))
    running[1].settle(used(5))
    assert stands(after) == [(10, 0)]
    after.reserve(worst(40))


def test_a_raised_limit_counts_at_once(store: Store):
    ledger(store).reserve(worst(100))
    ledger(store, limit(tokens=150)).reserve(worst(50))


def test_another_window_is_another_account(store: Store):
    day, month = ledger(store), ledger(store, limit(window="month"))
    held = day.reserve(worst(100))
    assert stands(month) == [(0, 0)]
    held.settle(used(70))
    assert (stands(day), stands(month)) == ([(70, 0)], [(0, 0)])


def test_a_removed_limit_holds_nobody(store: Store):
    held = ledger(store).reserve(worst(100))
    Ledger({}, store=store).reserve(worst(10**9))
    assert held.settle(used(7)) == "settled"
    assert stands(ledger(store)) == [(7, 0)]


# For coroutines


async def test_a_ledger_for_coroutines_shares_accounts_in_memory():
    store = MemoryStore()
    book, blocking = AsyncLedger({"limits": [limit()]}, store=store), ledger(store)
    async with await book.reserve(worst(60)) as held:
        assert stands(blocking) == [(0, 60)]
        with pytest.raises(LimitExceeded):
            await book.reserve(worst(60))
        assert await held.settle(used(20)) == "settled"
    [standing] = await book.standing()
    assert (standing.spent, standing.held) == (20, 0)
    with pytest.raises(KeyError):
        async with await book.reserve(worst(60)):
            raise KeyError
    async with await book.reserve(worst(60)):
        pass
    assert stands(blocking) == [(80, 0)]
    assert await (await book.reserve(worst(5))).release() == "settled"


@pytest.mark.parametrize("cancelled", [False, True])
async def test_coroutines_are_charged_later_too_for_what_the_store_did_not_take(cancelled: bool):
    class Away:
        """A store over a network, which is down for a while."""

        def __init__(self) -> None:
            self.inner, self.down = MemoryStore(), False

        async def reserve(self, *given: Any, **named: Any) -> Any:
            return self.inner.reserve(*given, **named)

        async def settle(self, *given: Any) -> Any:
            await asyncio.sleep(0.01)
            if self.down:
                raise ConnectionError
            return self.inner.settle(*given)

        async def read(self, *given: Any) -> Any:
            return self.inner.read(*given)

    store = Away()
    book = AsyncLedger({"limits": [limit(tokens=100)]}, store=store)
    held = await book.reserve(worst(60))
    store.down = True
    settling = asyncio.ensure_future(held.settle(used(50)))
    await asyncio.sleep(0)
    if cancelled:
        settling.cancel()
    with pytest.raises(asyncio.CancelledError if cancelled else ConnectionError):
        await settling
    await asyncio.sleep(0.02)
    with pytest.raises(ConnectionError):
        await book.reserve(worst(1))
    store.down = False
    await (await book.reserve(worst(1))).release()
    [standing] = await book.standing()
    assert (standing.spent, standing.held) == (50, 0)
    assert await held.settle(used(50)) == "again"


# The worst case of a call


def test_the_worst_case_of_a_budget_is_its_cap_with_grace_and_the_answer():
    query = Query.from_text("x" * 301, model="dear")
    case = WorstCase.of(query, Budget(reasoning_tokens=1_000, answer_tokens=300))
    assert case == WorstCase(model="dear", prompt_tokens=101, output_tokens=1_400)
    assert WorstCase.of(query, Budget(reasoning_tokens=0, answer_tokens=300)).output_tokens == 300
    assert WorstCase.of(query, Budget(reasoning_tokens=1_000), output_limit=9_000).output_tokens == 9_000
    assert WorstCase.of(query, Budget(), natural_tokens=5_000, answer_tokens=100).output_tokens == 5_100
    assert WorstCase.of(query, Budget(), output_limit=700).output_tokens == 700
    with pytest.raises(ConfigError, match="output_limit"):
        WorstCase.of(query, Budget())


def test_a_chinese_character_is_a_token():
    assert WorstCase.of(Query.from_text("\u6c34" * 30), Budget(), output_limit=1).prompt_tokens == 30


@pytest.mark.parametrize("tokens", [-1, 1.5, True, 10**16])
def test_a_worst_case_is_a_number_of_tokens(tokens: Any):
    with pytest.raises(ConfigError, match="output_tokens: seen"):
        worst(tokens)


# Settings


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"window": "week"}, "allowed: day, month, or up to 400 days such as 90s, 15m, 5h, 7d, seen 'week'"),
        ({"window": "401d"}, "up to 400 days"),
        ({"usd": 1, "tokens": 1}, "say either usd or tokens"),
        ({"usd": float("nan")}, "limits.0.usd"),
        ({"tokens": -1}, "greater than or equal to 0, seen -1"),
        ({"tokens": True}, "limits.0.tokens"),
        ({"usd": True}, "limits.0.usd"),
        ({"scope": {"user": "*"}}, "'key', 'route' or 'tenant'"),
        ({"exceeded": "ignore"}, "'refuse' or 'cheaper'"),
        ({"name": "a b"}, "limits.0.name"),
        ({"per": "key"}, "limits.0.per: Extra inputs are not permitted"),
    ],
)
def test_a_limit_that_cannot_work_is_named(given: dict[str, Any], said: str):
    with pytest.raises(ConfigError) as refused:
        Ledger({"limits": [limit(**given)]})
    assert said in str(refused.value)


def test_a_store_is_one():
    with pytest.raises(ConfigError, match="store: seen str, allowed: RedisStore"):
        Ledger({"limits": [limit()]}, store="redis://localhost")  # type: ignore[arg-type]


def test_names_of_limits_differ():
    with pytest.raises(ConfigError, match="several limits are named team"):
        Ledger({"limits": [limit(), limit(tokens=5)]})


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), 10**6, "9"])
def test_a_reservation_has_an_end(seconds: Any):
    with pytest.raises(ConfigError, match="hold_s: seen"):
        ledger(MemoryStore()).reserve(worst(1), hold_s=seconds)


def test_a_call_has_a_rung():
    for wrong in ("x", None, [1]):
        with pytest.raises(ConfigError, match="allowed: one WorstCase or more"):
            ledger(MemoryStore()).reserve(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="seen \\[\\], allowed: one WorstCase"):
        ledger(MemoryStore()).reserve([])


def test_settings_are_a_value():
    settings = LedgerSettings.of({"limits": [limit()]})
    assert LedgerSettings.of(settings) is settings
    assert LedgerSettings.model_validate_json(settings.model_dump_json()) == settings


def test_the_error_is_one_of_ours_and_crosses_processes():
    with pytest.raises(BudgetctlError) as refused:
        ledger(MemoryStore()).reserve(worst(101))
    copy = pickle.loads(pickle.dumps(refused.value))
    assert (type(copy), str(copy), vars(copy)) == (LimitExceeded, str(refused.value), vars(refused.value))


def test_accounts_that_only_refuse_are_forgotten(clock: Clock):
    """Whoever asks under ever new names does not fill the memory."""
    store = MemoryStore(clock=clock)
    book = ledger(store, limit(tokens=0, scope={"tenant": "*"}))
    for i in range(5_000):
        with pytest.raises(LimitExceeded):
            book.reserve(worst(1), tenant=str(i))
    assert len(store._kept) <= 1_000


def test_a_clock_that_was_far_ahead_does_not_fill_the_memory(clock: Clock):
    store = MemoryStore(clock=clock)
    book = ledger(store, limit(tokens=10_000))
    before, clock.now = clock.now, clock.now + 365 * 86_400_000
    for _ in range(100):
        book.reserve(worst(1)).settle()
    clock.now = before
    for _ in range(10):
        for _ in range(100):
            book.reserve(worst(1)).settle()
        clock.now += 7_300_000
    assert len(store._done) <= 201


def test_who_pays_has_a_name_and_what_is_charged_is_a_usage():
    book = ledger(MemoryStore())
    with pytest.raises(ConfigError, match="tenant: seen 5, allowed: a string"):
        book.reserve(worst(1), tenant=5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="usage: seen dict"):
        book.reserve(worst(1), key="k", tenant="t").settle({"prompt_tokens": 1})  # type: ignore[arg-type]
