"""The account: what calls cost as the server reports it, and a limit that none passes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from budgetctl.classifiers.account import Account, Spent

from budgetctl.errors import ClassifierError
from budgetctl.types import Price

PRICE = Price(input=1.0, output=4.0)
AT_MOST = (1000 + 64) * 1e-6 + 100 * 4e-6
"""Dollars of a call that sends 1000 bytes and generates 100 tokens."""


def account(*, price: Price | None = PRICE, max_usd: float | None = None) -> Account:
    return Account(price=price, max_usd=max_usd, max_tokens=100)


def usage(sent: int, generated: int, *, thought: int | None = None) -> Any:
    details = None if thought is None else SimpleNamespace(reasoning_tokens=thought)
    return SimpleNamespace(prompt_tokens=sent, completion_tokens=generated, completion_tokens_details=details)


def call(account: Account, used: Any) -> None:
    with account.call(sent_bytes=1000) as call:
        call.usage = used


def test_calls_are_counted_and_priced() -> None:
    a = account(price=Price(input=1.0, output=4.0, reasoning=8.0))
    call(a, usage(400, 30))
    call(a, usage(500, 50, thought=20))
    expected = (400 + 500) * 1e-6 + 30 * 4e-6 + 20 * 8e-6 + 30 * 4e-6
    assert a.spent == Spent(calls=2, prompt_tokens=900, answer_tokens=80, cost_usd=pytest.approx(expected))


def test_without_a_price_the_cost_is_unknown() -> None:
    a = account(price=None)
    assert a.spent == Spent(cost_usd=None)
    call(a, usage(400, 30))
    assert a.spent == Spent(calls=1, prompt_tokens=400, answer_tokens=30, cost_usd=None)


def test_a_call_of_unknown_usage_counts_at_its_most() -> None:
    a = account()
    call(a, None)
    assert a.spent == Spent(calls=1, unmetered=1, cost_usd=pytest.approx(AT_MOST))


def test_a_thought_may_be_what_costs_most() -> None:
    a = account(price=Price(input=1.0, output=4.0, reasoning=8.0))
    call(a, None)
    assert a.spent.cost_usd == pytest.approx((1000 + 64) * 1e-6 + 100 * 8e-6)


def test_who_falls_silent_may_bill_and_who_refuses_does_not() -> None:
    class Refusal(Exception):
        status_code = 429

    a = account()
    for error in (TimeoutError(), Refusal()):
        with pytest.raises(type(error)), a.call(sent_bytes=1000):
            raise error
    assert a.spent == Spent(calls=2, failures=2, unmetered=1, cost_usd=pytest.approx(AT_MOST))


def test_a_reply_that_is_of_no_use_is_paid_all_the_same() -> None:
    a = account()
    with suppress(ClassifierError), a.call(sent_bytes=1000) as call:
        call.usage = usage(400, 30)
        raise ClassifierError("nonsense")
    paid = PRICE.cost(prompt=400, reasoning=0, answer=30)
    expected = Spent(calls=1, failures=1, prompt_tokens=400, answer_tokens=30, cost_usd=pytest.approx(paid))
    assert a.spent == expected


def test_what_was_set_aside_for_a_call_is_given_back() -> None:
    a = account(max_usd=1.5 * AT_MOST)
    for _ in range(9):
        call(a, usage(10, 1))
    assert a.spent.calls == 9


def test_a_call_that_could_pass_the_limit_is_not_made() -> None:
    a = account(max_usd=1.5 * AT_MOST)
    call(a, None)
    with pytest.raises(
        ClassifierError, match=r"max_usd=0\.002\d* does not cover another call: 0\.001\d* spent"
    ):
        call(a, None)
    assert a.spent.calls == 1
    with pytest.raises(ClassifierError, match="does not cover"):
        call(account(max_usd=0), None)


def test_calls_at_the_same_time_cannot_pass_the_limit_together() -> None:
    """Each is within the limit by itself; only what is set aside for the others stops it."""
    a = account(max_usd=2.5 * AT_MOST)
    with ExitStack() as under_way:
        for _ in range(2):
            under_way.enter_context(a.call(sent_bytes=1000))
        with pytest.raises(ClassifierError, match="does not cover another call: 0 spent"):
            call(a, usage(1, 1))
    assert a.spent.calls == 2


def test_threads_may_share_it() -> None:
    a = account(max_usd=10)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: call(a, usage(400, 30)), range(500)))
    total = 500 * PRICE.cost(prompt=400, reasoning=0, answer=30)
    assert a.spent == Spent(
        calls=500, prompt_tokens=500 * 400, answer_tokens=500 * 30, cost_usd=pytest.approx(total)
    )
