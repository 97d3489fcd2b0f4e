"""The optional price library stands below every row, and what it does not know stays unknown."""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime, time
from decimal import Decimal

import pytest

from budgetctl.pricing import Prices, library
from budgetctl.types import Price, Usage

genai_prices = pytest.importorskip("genai_prices")
from genai_prices.data_snapshot import DataSnapshot, set_custom_snapshot  # noqa: E402  # after the skip
from genai_prices.types import (  # noqa: E402
    ClauseEquals,
    ClauseStartsWith,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)

CALL = Usage(prompt_tokens=1000, reasoning_tokens=1000, answer_tokens=1000)
COMPARED = datetime(2026, 11, 27, 12, tzinfo=UTC)
"""When the shipped rows were last compared with the library: its prices begin on dates."""


@pytest.fixture(autouse=True)
def _forget():
    library._row.cache_clear()
    yield
    set_custom_snapshot(None)
    library._row.cache_clear()


def at(now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library.time, "time", now.timestamp)


def listed(**models: ModelPrice | list[ConditionalPrice]) -> None:
    """Let the library list these models of a provider called acme, and nothing else."""
    infos = [
        ModelInfo(id=name, match=ClauseEquals(equals=name), prices=prices) for name, prices in models.items()
    ]
    acme = Provider(
        id="acme",
        name="Acme",
        api_pattern=r"https://api\.acme\.test",
        model_match=ClauseStartsWith(starts_with="acme"),
        models=infos,
    )
    set_custom_snapshot(DataSnapshot(providers=[acme], from_auto_update=False))
    library._row.cache_clear()


def mtok(**rates: float | TieredPrices) -> ModelPrice:
    return ModelPrice(
        **{
            f"{name}_mtok": rate if isinstance(rate, TieredPrices) else Decimal(str(rate))
            for name, rate in rates.items()
        }
    )


def test_it_prices_what_no_row_names_and_says_so():
    row = Prices.load().row("gpt-4o")
    assert row.price == Price(input=2.5, output=10.0, cached_input=1.25)
    assert row.source == f"genai-prices {genai_prices.__version__}: openai/gpt-4o"


def test_own_rows_and_shipped_ones_win_over_it():
    mine = Price(input=1.0, output=2.0)
    assert Prices.load({"gpt-4*": mine}).lookup("gpt-4o") == mine
    assert Prices.load().row("gpt-5-mini").source.startswith("https://developers.openai.com")


@pytest.mark.parametrize(
    ("model", "place", "provider"),
    [
        ("gpt-4o-2024-08-06", None, "openai"),
        ("openai/gpt-4o", None, "openai"),
        ("groq/qwen/qwen3-32b", None, "groq"),
        ("together_ai/Qwen/Qwen3.5-9B", None, "together"),
        ("openrouter/deepseek/deepseek-r1", None, "openrouter"),
        ("qwen/qwen3-32b", "https://api.groq.com/openai/v1/", "groq"),
        ("qwen/qwen3-32b", "groq", "groq"),
        ("grok-4", "xai", "x-ai"),
        ("gpt-4o", "azure", "azure"),
        ("gpt-4o", "https://me.openai.azure.com/openai/v1/", "azure"),
    ],
)
def test_a_provider_is_known_by_its_url_its_kind_or_the_name(model, place, provider):
    row = Prices.load().row(model, place=place)
    assert row is not None
    assert f": {provider}/" in row.source


@pytest.mark.parametrize(
    ("model", "place"),
    [
        ("gpt-4o", "http://127.0.0.1:8000/v1"),
        ("gpt-4o", "https://llm.example.com/v1"),
        ("gpt-4o", "openai-compatible"),
        ("gpt-4o", "vllm"),
        ("deepseek-r1", "in-process"),
        ("deepseek-r1", None),
        ("DeepSeek-R1-Distill-Qwen-7B", None),
        ("Qwen/Qwen3-8B", None),
        ("mistralai/Magistral-Small-2506", None),
        ("gpt-oss-120b", None),
        ("openai/gpt-oss-120b", None),
        ("gpt-5-maxi", None),
        ("me/gpt-4o", None),
        ("text-embedding-3-small", "openai"),
        ("sonar", "perplexity"),
        ("gemma-3", "google"),
    ],
    ids=str,
)
def test_what_nobody_sells_there_or_it_does_not_price_in_full_has_no_price(model, place):
    """Weights that anybody may serve, other people's servers, a fee per request, a model without a price."""
    prices = Prices.load()
    assert prices.lookup(model, place=place) is None
    assert prices.cost(model, CALL, place=place) is None


def test_a_missing_rate_is_unknown_and_a_zero_that_is_listed_is_zero():
    listed(
        empty=ModelPrice(),
        half=mtok(input=1),
        other=mtok(output=1),
        free=mtok(input=0, output=0),
        fee=ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1), requests_kcount=Decimal(5)),
        new=ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1), output_citation_mtok=Decimal(2)),
        heard=ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1), input_audio_mtok=Decimal(9)),
    )
    prices = Prices.load()
    costs = {
        name: prices.cost(name, CALL, place="acme")
        for name in ("empty", "half", "other", "free", "fee", "new", "heard")
    }
    assert costs == {
        **dict.fromkeys(("empty", "half", "other", "fee", "new")),
        "free": 0.0,
        "heard": pytest.approx(0.003),
    }
    nothing = genai_prices.calc_price(
        genai_prices.Usage(input_tokens=1000, output_tokens=2000), "empty", provider_id="acme"
    )
    assert nothing.total_price == 0, "what the library's own sum would have said"


def test_prices_of_a_date_and_of_an_hour_hold_when_they_hold(monkeypatch):
    listed(
        m=[
            ConditionalPrice(prices=mtok(input=1, output=1)),
            ConditionalPrice(StartDateConstraint(date(2026, 7, 1)), prices=mtok(input=2, output=2)),
            ConditionalPrice(TimeOfDateConstraint(time(22), time(6)), prices=mtok(input=3, output=3)),
        ]
    )
    seen = []
    for now in ("2026-06-30T12:00", "2026-07-01T12:00", "2026-07-01T23:00"):
        at(datetime.fromisoformat(now).replace(tzinfo=UTC), monkeypatch)
        seen.append(Prices.load().lookup("m", place="acme").input)
    assert seen == [1.0, 2.0, 3.0]


def test_tiers_of_several_rates_are_joined():
    listed(
        m=mtok(
            input=TieredPrices(base=Decimal(1), tiers=[Tier(start=100, price=Decimal(2))]),
            output=TieredPrices(base=Decimal(5), tiers=[Tier(start=200, price=Decimal(6))]),
        )
    )
    prices = Prices.load()
    seen = [prices.lookup("m", place="acme", prompt_tokens=n) for n in (100, 101, 201)]
    assert [(price.input, price.output) for price in seen] == [(1, 5), (2, 5), (2, 6)]


def test_every_price_gives_the_librarys_own_sums(monkeypatch):
    """All models of all providers, below and above each of their tiers."""
    from genai_prices.data import providers

    at(COMPARED, monkeypatch)
    checked = 0
    for provider in providers:
        for model in provider.models:
            row = library.row(model.id, provider.id)
            if row is None or not row.source.endswith(f"{provider.id}/{model.id}"):
                continue
            for prompt in (1000, *(above + extra for above, _ in row.tiers for extra in (0, 1))):
                theirs = model.calc_price(
                    genai_prices.Usage(
                        input_tokens=prompt,
                        cache_read_tokens=300,
                        cache_write_tokens=200,
                        output_tokens=900,
                        output_reasoning_tokens=500,
                    ),
                    provider,
                    genai_request_timestamp=COMPARED,
                )
                ours = row.at(prompt).cost(prompt=prompt, cached=300, written=200, reasoning=500, answer=400)
                assert ours == pytest.approx(float(theirs.total_price), rel=1e-9), (provider.id, model.id)
                checked += 1
    assert checked > 1500


DIFFERS: dict[str, str] = {}
"""Shipped rows that say something else than the library, and why."""


def test_shipped_rows_say_what_the_library_says(monkeypatch):
    at(COMPARED, monkeypatch)
    compared = 0
    for row in Prices.load().rows:
        name = row.match[0].replace("[5678]", "8")
        theirs = library.row(name, row.provider)
        if theirs is None:
            continue
        compared += 1
        same = (theirs.price, theirs.tiers) == (row.price, row.tiers)
        assert same != (name in DIFFERS), f"{name}: {row.price} {row.tiers}, {theirs.price} {theirs.tiers}"
    assert compared == len(Prices.load().rows), "the library has no price for a model that ships with one"


def test_without_the_library_only_rows_have_prices(monkeypatch):
    monkeypatch.setitem(sys.modules, "genai_prices", None)  # importing it fails
    assert Prices.load().lookup("gpt-4o") is None
    assert Prices.load().lookup("gpt-5-mini") is not None


def test_a_fault_of_the_library_costs_the_price_and_not_the_call(monkeypatch, caplog):
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("my diagnosis")

    monkeypatch.setattr(genai_prices, "calc_price", broken)
    assert Prices.load().cost("gpt-4o", CALL) is None
    assert caplog.messages == ["no price from genai-prices: RuntimeError"]


def test_nothing_is_fetched(monkeypatch):
    import socket

    def refused(*args: object, **kwargs: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    assert Prices.load().lookup("gpt-4o") is not None
