"""A price is known or it is None; what is unknown is never free."""

from __future__ import annotations

import tomllib
from datetime import date
from importlib.resources import files

import pytest

from budgetctl.errors import ConfigError
from budgetctl.pricing import Prices
from budgetctl.types import Price, Usage

GPT_5_MINI = Price(input=0.25, output=2.0, cached_input=0.025)


def test_every_shipped_row_says_where_and_when_it_was_read():
    for row in Prices.load().rows:
        assert row.source is not None
        assert row.source.startswith("https://")
        assert isinstance(row.verified_on, date)
        assert row.price.output >= row.price.input > 0
        assert row.price.cached_input is not None
        assert row.price.input > row.price.cached_input > 0


def test_no_shipped_row_hides_a_later_one():
    data = tomllib.loads(files("budgetctl").joinpath("prices.toml").read_text())
    for row in data["price"]:
        name = row["match"][0].replace("[5678]", "5").replace("[56]", "5")
        rates = {key: row[key] for key in ("input", "cached_input", "cache_write", "output") if key in row}
        assert Prices.load().lookup(name) == Price(**rates)


@pytest.mark.parametrize(
    ("model", "price"),
    [
        ("gpt-5-mini", GPT_5_MINI),
        ("gpt-5-mini-2025-08-07", GPT_5_MINI),
        ("openai/gpt-5-mini", GPT_5_MINI),
        ("claude-opus-4-7", Price(input=5.0, output=25.0, cached_input=0.5, cache_write=6.25)),
    ],
)
def test_aliases_dates_and_provider_prefixes_are_one_model(model, price):
    assert Prices.load().lookup(model) == price


@pytest.mark.parametrize(
    "model",
    [None, "pocket-1", "gpt-5-maxi", "gpt-5.9", "Qwen/Qwen3-8B", "deepseek-ai/DeepSeek-R1", "me/gpt-5-mini"],
)
def test_a_local_or_unlisted_model_has_no_price(model):
    assert Prices.load().lookup(model) is None
    assert Prices.load().cost(model, Usage(prompt_tokens=1, reasoning_tokens=1, answer_tokens=1)) is None


def test_cost_is_tokens_times_rates():
    prices = Prices.load({"m": {"input": 1.0, "output": 4.0}})
    usage = Usage(prompt_tokens=1_000_000, reasoning_tokens=500_000, answer_tokens=250_000)
    assert prices.cost("m", usage) == pytest.approx(1.0 + 2.0 + 1.0)


def test_reasoning_may_have_its_own_rate():
    prices = Prices.load({"m": {"input": 1, "output": 4, "reasoning": 10}})
    usage = Usage(prompt_tokens=0, reasoning_tokens=100_000, answer_tokens=100_000)
    assert prices.cost("m", usage) == pytest.approx(1.0 + 0.4)


def test_prompt_tokens_from_a_cache_and_into_one_may_have_their_own_rates():
    rates = {"input": 4, "output": 0, "cached_input": 1, "cache_write": 5}
    usage = Usage(
        prompt_tokens=1_000_000,
        cached_tokens=500_000,
        cache_write_tokens=200_000,
        reasoning_tokens=0,
        answer_tokens=0,
    )
    assert Prices.load({"m": rates}).cost("m", usage) == pytest.approx(0.3 * 4 + 0.5 * 1 + 0.2 * 5)
    assert Prices.load({"m": {"input": 4, "output": 0}}).cost("m", usage) == pytest.approx(4.0)


def test_a_lost_cache_costs_the_difference_or_nobody_knows():
    prices = Prices.load(
        {"m": {"input": 4, "output": 9, "cached_input": 1, "cache_write": 5}, "n": GPT_5_MINI}
    )
    usage = Usage(prompt_tokens=100, cache_write_tokens=100, reasoning_tokens=0, answer_tokens=10)
    assert prices.cache_lost("m", usage, 80) == pytest.approx(80 * (5 - 1) / 1e6)
    unwritten = Usage(prompt_tokens=100, cached_tokens=10, reasoning_tokens=0, answer_tokens=10)
    assert prices.cache_lost("n", unwritten, 80) == pytest.approx(80 * (0.25 - 0.025) / 1e6)
    assert Prices.load({"m": {"input": 4, "output": 9}}).cache_lost("m", usage, 80) is None
    assert prices.cache_lost("m", Usage(prompt_tokens=100), 80) is None


@pytest.mark.parametrize(
    "usage",
    [
        Usage(),
        Usage(prompt_tokens=1, reasoning_tokens=1),
        Usage(prompt_tokens=1, answer_tokens=1),
        Usage(reasoning_tokens=1, answer_tokens=1),
    ],
)
def test_an_unknown_count_makes_the_cost_unknown(usage):
    assert Prices.load({"m": {"input": 1, "output": 1}}).cost("m", usage) is None


def test_the_sum_of_reasoning_and_answer_is_enough_when_they_cost_the_same():
    usage = Usage(prompt_tokens=0, output_tokens=1_000_000)
    assert Prices.load({"m": {"input": 1, "output": 3}}).cost("m", usage) == 3.0
    assert Prices.load({"m": {"input": 1, "output": 3, "reasoning": 4}}).cost("m", usage) is None


def test_own_rows_win_from_a_mapping_and_from_a_file(tmp_path):
    mine = Price(input=0.1, output=0.2)
    assert Prices.load({"gpt-5*": mine}).lookup("gpt-5-mini") == mine
    path = tmp_path / "prices.toml"
    path.write_text('[[price]]\nmatch = "gpt-5*"\ninput = 0.1\noutput = 0.2\n')
    assert Prices.load(path).lookup("gpt-5-mini") == mine
    assert Prices.load(path).lookup("o3") == Prices.load().lookup("o3")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[[price]]\nmatch = "m"\ninput = -1\noutput = 1',
            r"price\[0\]\.input: seen -1, allowed: .* number >= 0",
        ),
        ('[[price]]\nmatch = "m"\ninput = nan\noutput = 1', r"price\[0\]\.input: seen nan"),
        ('[[price]]\nmatch = "m"\ninput = 1', r"price\[0\]\.output: seen None"),
        ('[[price]]\nmatch = "m"\ninput = true\noutput = 1', r"price\[0\]\.input: seen True"),
        ("[[price]]\nmatch = []\ninput = 1\noutput = 1", r"price\[0\]\.match: seen \[\]"),
        (
            '[[price]]\nmatch = "m"\ninput = 1\nouput = 1',
            r"price\[0\]\.ouput: unknown key, allowed: match, provider",
        ),
        ("[prices]\nm = 1", r"seen \['prices'\], allowed: \[\[price\]\] tables only"),
        ("price = 3", "seen price that is no list of tables, allowed: .* tables only"),
        ("= 3", "not TOML"),
    ],
)
def test_a_bad_file_is_refused_by_file_key_value_and_what_is_allowed(text, said, tmp_path):
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"{path}: {said}"):
        Prices.load(path)


def test_a_missing_file_and_a_bad_mapping_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read: No such file"):
        Prices.load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"prices\['m'\]: seen 3"):
        Prices.load({"m": 3})  # type: ignore[dict-item]


TIERED = {"m": {"input": 1, "output": 10, "tiers": [{"above": 1000, "input": 2, "output": 20}]}}


def test_a_longer_prompt_is_charged_at_its_tier_from_the_first_token_on():
    prices = Prices.load(TIERED)
    short = Usage(prompt_tokens=1000, reasoning_tokens=0, answer_tokens=100)
    long = Usage(prompt_tokens=1001, reasoning_tokens=0, answer_tokens=100)
    assert prices.cost("m", short) == pytest.approx((1000 * 1 + 100 * 10) / 1e6)
    assert prices.cost("m", long) == pytest.approx((1001 * 2 + 100 * 20) / 1e6)
    assert prices.lookup("m") == Price(input=1, output=10)
    assert prices.lookup("m", prompt_tokens=2000) == Price(input=2, output=20)


def test_a_prompt_that_was_sent_again_does_not_make_it_a_long_one():
    twice = Usage(prompt_tokens=1600, reasoning_tokens=0, answer_tokens=100)
    assert Prices.load(TIERED).cost("m", twice, again=800) == pytest.approx((1600 * 1 + 100 * 10) / 1e6)


def test_a_machine_by_the_hour_is_charged_by_what_it_generates():
    price = Prices.load({"m": {"usd_per_hour": 2.10, "tokens_per_s": 40}}).lookup("m")
    assert price == Price(input=0.0, output=pytest.approx(2.10 / 3600 / 40 * 1e6))
    assert price.cost(prompt=500, reasoning=40 * 3600, answer=0) == pytest.approx(2.10), "an hour of tokens"


def test_the_time_of_prompts_may_be_charged_by_itself():
    price = Price.hourly(3.6, tokens_per_s=100, prompt_tokens_per_s=10_000)
    assert price == Price(input=pytest.approx(0.1), output=pytest.approx(10.0), cached_input=0.0)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"usd_per_hour": 2.1}, r"tokens_per_s: seen None, allowed: tokens per second, a number > 0"),
        ({"usd_per_hour": 2.1, "tokens_per_s": 0}, r"tokens_per_s: seen 0, allowed: .* > 0"),
        ({"tokens_per_s": 40}, r"usd_per_hour: seen None, allowed: USD, a number >= 0"),
        ({"usd_per_hour": -1, "tokens_per_s": 40}, r"usd_per_hour: seen -1"),
        (
            {"usd_per_hour": 2, "tokens_per_s": 40, "prompt_tokens_per_s": "9"},
            r"prompt_tokens_per_s: seen '9'",
        ),
        (
            {"usd_per_hour": 2.1, "tokens_per_s": 40, "input": 1},
            r"input: not beside a price per hour, allowed: usd_per_hour, tokens_per_s, prompt_tokens_per_s",
        ),
        ({"input": 1, "output": 1, "tiers": 3}, r"tiers: seen 3, allowed: a list of tables with above"),
        (
            {"input": 1, "output": 1, "tiers": [{"above": 0, "input": 1, "output": 1}]},
            r"tiers\[0\].above: seen 0, allowed: tokens of the prompt, 1 or more",
        ),
        (
            {"input": 1, "output": 1, "tiers": [{"above": 9, "input": 1, "outptu": 1}]},
            r"tiers\[0\].outptu: unknown key, allowed: above, input, output",
        ),
        ({"input": 1, "output": 1, "provider": 3}, r"provider: seen 3, allowed: a name"),
    ],
)
def test_a_row_that_cannot_be_a_price_is_refused_by_key_and_what_is_allowed(row, said):
    with pytest.raises(ConfigError, match=rf"prices\['m'\]\.{said}"):
        Prices.load({"m": row})


def test_a_machine_that_generates_nothing_has_no_price():
    with pytest.raises(ValueError, match=r"tokens per second: seen \[0\]"):
        Price.hourly(2.1, tokens_per_s=0)


def test_a_price_says_where_it_comes_from(tmp_path):
    path = tmp_path / "prices.toml"
    path.write_text('[[price]]\nmatch = "mine"\ninput = 1\noutput = 2\n')
    assert Prices.load(path).row("mine").source == f"{path}: price[0]"
    assert Prices.load({"mine": GPT_5_MINI}).row("mine").source == "prices['mine']"
    assert Prices.load().row("o3").source.startswith("https://")
    assert Prices.load().row("pocket-1") is None
