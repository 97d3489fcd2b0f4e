"""The bill, against numbers worked out by hand."""

from __future__ import annotations

import json

import pytest

from budgetctl.bill import Bill, histogram, quantiles
from budgetctl.cli.billpage import as_html, as_text
from budgetctl.logs import Call, Line
from budgetctl.pricing import Prices
from budgetctl.types import Usage

# $1 per million in, $10 per million out: 1,000 tokens of thinking cost one cent.
PRICES = Prices.load({"priced": {"input": 1.0, "output": 10.0}})


def call(thinking: int | None, answer: int | None = 100, *, model="priced", **fields) -> Call:
    output = fields.pop("output", None if thinking is None or answer is None else thinking + answer)
    usage = Usage(
        prompt_tokens=1000,
        reasoning_tokens=thinking,
        answer_tokens=answer,
        output_tokens=output,
        provenance=fields.pop("provenance", "reported"),
    )
    return Call(model=model, usage=usage, **fields)


def billed(*calls: Call, **options) -> dict:
    bill = Bill(prices=PRICES, **options)
    for one in calls:
        bill.add(one)
    return bill.summary()


def test_tokens_and_dollars_by_hand():
    bill = billed(call(3000), call(1000), call(0))
    assert bill["calls"] == 3
    assert bill["tokens"]["prompt"] == 3000
    assert bill["tokens"]["thinking"] == 4000
    assert bill["tokens"]["answer"] == 300
    assert bill["tokens"]["thinking_share"] == pytest.approx(4000 / 4300)
    assert bill["dollars"]["thinking"] == pytest.approx(0.04)
    assert bill["dollars"]["total"] == pytest.approx(0.003 + 0.043)


def test_what_caps_would_have_cut_by_hand():
    calls = [
        call(3000, thinking_s=30.0),
        call(1000, thinking_s=5.0),
        call(600, thinking_s=6.0),
        call(0, thinking_s=0.0),
    ]
    by_cap = {row["cap"]: row for row in billed(*calls, caps=(512, 2048, 4096))["caps"]}
    assert by_cap[512]["calls_hit"] == 3
    assert by_cap[512]["share_hit"] == 0.75
    assert by_cap[512]["tokens_cut"] == (3000 - 512) + (1000 - 512) + (600 - 512)
    assert by_cap[512]["dollars_cut"] == pytest.approx(0.00001 * 3064)
    assert by_cap[512]["seconds_cut"] == pytest.approx(30 * 2488 / 3000 + 5 * 488 / 1000 + 6 * 88 / 600)
    assert (by_cap[2048]["calls_hit"], by_cap[2048]["tokens_cut"]) == (1, 952)
    assert by_cap[4096] == {
        "cap": 4096,
        "calls_hit": 0,
        "share_hit": 0.0,
        "tokens_cut": 0,
        "dollars_cut": 0.0,
        "seconds_cut": 0.0,
        "calls_dollars_unknown": 0,
        "calls_seconds_unknown": 0,
    }


def test_a_bill_says_where_its_prices_are_from():
    bill = billed(call(1000), call(1000, model="unlisted"))
    assert [row["price_source"] for row in bill["models"]] == ["prices['priced']", None]
    assert "price of priced: prices['priced']" in as_text(bill)


def test_a_long_prompt_is_billed_at_its_tier():
    tiers = [{"above": 500, "input": 2, "output": 20}]
    bill = Bill(prices=Prices.load({"priced": {"input": 1, "output": 10, "tiers": tiers}}))
    bill.add(call(1000))
    summary = bill.summary()["dollars"]
    assert summary["thinking"] == pytest.approx(0.02)
    assert summary["total"] == pytest.approx((1000 * 2 + 1100 * 20) / 1e6)


def test_a_recorded_cost_wins_over_list_prices():
    bill = billed(call(1000, cost_usd=0.5))
    assert bill["dollars"]["total"] == 0.5
    assert bill["dollars"]["thinking"] == pytest.approx(0.01)


def test_a_model_without_a_price_is_unknown_and_never_free():
    alone = billed(call(1000, model="pocket-1"))
    assert (alone["dollars"]["total"], alone["dollars"]["thinking"]) == (None, None)
    assert alone["caps"][0]["dollars_cut"] is None
    mixed = billed(call(1000), call(1000, model="pocket-1"))
    assert mixed["dollars"]["thinking"] == pytest.approx(0.01)
    assert mixed["dollars"]["calls_thinking_unknown"] == 1
    assert mixed["caps"][0]["calls_dollars_unknown"] == 1


def test_unknown_thinking_is_left_out_and_counted():
    bill = billed(call(None, None, output=700), call(1000))
    assert bill["tokens"]["thinking"] == 1000
    assert bill["tokens"]["calls_unknown"] == 1
    assert bill["quantiles"]["mean"] == 1000
    assert bill["caps"][0]["share_hit"] == 1.0, "of the calls whose thinking is known"
    assert bill["dollars"]["total"] == pytest.approx(0.001 + 0.007 + 0.001 + 0.011), (
        "the sum is enough for the cost"
    )


def test_seconds_are_measured_then_shared_then_by_speed_then_unknown():
    measured, shared, by_speed = call(900, thinking_s=9.0, e2e_s=99.0), call(900, e2e_s=10.0), call(900)
    assert billed(measured)["seconds"] | {"thinking": 9.0} == billed(measured)["seconds"]
    assert billed(measured)["modelled"] == ["caps.seconds_cut"]
    assert billed(shared)["seconds"]["thinking"] == pytest.approx(9.0)
    assert billed(shared)["modelled"] == ["seconds.thinking", "caps.seconds_cut"]
    assert billed(by_speed, speed=50.0)["seconds"]["thinking"] == pytest.approx(18.0)
    assert billed(by_speed)["seconds"] == {
        "thinking": None,
        "calls_measured": 0,
        "calls_modelled": 0,
        "calls_unknown": 1,
    }
    assert billed(by_speed)["modelled"] == []
    assert billed(measured, shared, by_speed)["seconds"] == {
        "thinking": pytest.approx(18.0),
        "calls_measured": 1,
        "calls_modelled": 1,
        "calls_unknown": 1,
    }


def test_empty_answers_are_billed():
    bill = billed(call(4096, 0, empty=True), call(100))
    assert bill["empty_answers"] == {"count": 1, "tokens": 4096, "dollars": pytest.approx(0.001 + 0.04096)}


def test_drafts_of_ladders_are_billed_and_told_apart():
    bill = billed(call(500, draft=True), call(3000))
    assert (bill["calls"], bill["drafts"], bill["tokens"]["thinking"]) == (2, 1, 3500)
    assert "2 calls, 0 of them failed, 1 of them drafts of ladders that were not handed on" in as_text(bill)
    assert "draft" not in as_text(billed(call(3000))).splitlines()[0]


def test_failed_calls_are_counted_and_their_missing_tokens_are_no_gap():
    bill = billed(Call(failed=True), call(1000))
    assert (bill["calls"], bill["failed"]) == (2, 1)
    assert bill["tokens"]["calls_unknown"] == bill["dollars"]["calls_total_unknown"] == 0
    assert bill["seconds"]["calls_unknown"] == 1


def test_models_are_told_apart_most_calls_first():
    models = billed(call(10, model="b"), call(30, model="a"), call(50, model="a"), call(1, model=None))[
        "models"
    ]
    assert [(row["model"], row["calls"], row["tokens"]["thinking"]) for row in models] == [
        ("a", 2, 80),
        ("b", 1, 10),
        (None, 1, 1),
    ]


def test_quantiles_are_the_smallest_length_that_covers_the_share():
    lengths = dict.fromkeys(range(1, 101), 1)
    assert quantiles(lengths) == {
        "mean": 50.5,
        "p50": 50,
        "p80": 80,
        "p90": 90,
        "p95": 95,
        "p99": 99,
        "max": 100,
    }
    assert quantiles({7: 3}) == {"mean": 7, "p50": 7, "p80": 7, "p90": 7, "p95": 7, "p99": 7, "max": 7}
    assert set(quantiles({}).values()) == {None}


def test_the_histogram_doubles_and_loses_no_call():
    assert histogram({0: 2, 1: 1, 63: 1, 64: 1, 300: 4}) == [
        {"from": 0, "to": 0, "calls": 2},
        {"from": 1, "to": 63, "calls": 2},
        {"from": 64, "to": 127, "calls": 1},
        {"from": 128, "to": 255, "calls": 0},
        {"from": 256, "to": 511, "calls": 4},
    ]
    assert histogram({}) == []


def test_lines_that_are_no_calls_are_counted_and_the_first_named():
    bill = Bill(prices=PRICES)
    bill.add_lines([Line(kind="unknown", where=f"f:{n}", why="not JSON") for n in range(1, 31)])
    bill.add_lines([Line(kind="feedback", where="f:31"), Line(kind="call", where="f:32", call=call(1))])
    summary = bill.summary()
    assert summary["unknown_lines"]["count"] == 30
    assert len(summary["unknown_lines"]["first"]) == 20
    assert summary["unknown_lines"]["first"][0] == "f:1: not JSON"
    assert (summary["calls"], summary["feedback_rows"]) == (1, 1)
    assert "and 10 more" in as_text(summary)


def test_the_bill_is_plain_json():
    bill = billed(call(1000), call(None, None), call(5, model=None, empty=True))
    assert json.loads(json.dumps(bill, allow_nan=False)) == bill


# --- pages ------------------------------------------------------------------------------------------------


def test_the_text_tells_the_bill_and_what_it_does_not_know():
    text = as_text(
        billed(call(3000), call(1000, model="pocket-1", provenance="estimated"), call(0, 0, empty=True))
    )
    assert "tokens: 4,000 thinking, 200 answer (95.2% of the output was thinking)" in text
    assert "empty answers: 1, billed 0 output tokens, $0.001" in text
    assert "left out of the sums: dollars of 1 call, dollars of thinking of 1 call, seconds of" in text
    assert "thinking tokens of 1 call are estimated from the length of the text" in text
    assert "no price is known for pocket-1: give --price-in" in text
    assert ">= $0.02488" in text, "the cut dollars of the priced call only"
    assert "accuracy cannot be seen in a log" in text


def test_modelled_seconds_say_so():
    assert "seconds spent thinking: 9.0 s (modelled)" in as_text(billed(call(900, e2e_s=10.0)))
    assert "seconds spent thinking: 9.0 s (measured)" in as_text(billed(call(900, thinking_s=9.0)))
    assert "seconds spent thinking: unknown\n" in as_text(billed(call(900)))


def test_the_page_stands_alone_and_escapes_names():
    page = as_html(billed(call(900, model="<script>alert(1)</script>"), call(70)))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<svg" in page
    assert "http" not in page, "nothing is loaded from anywhere"
