"""Prices of models that no row names, out of the optional library ``genai-prices``.

It is asked for a price and not for a cost, because policies need rates before there are tokens to charge,
and because its own sums leave out what it has no rate for: a model that it lists without a price would cost
nothing. A row made of its rates gives the same sums as its own arithmetic, its tiers and hours included; a
model that it charges for something a row cannot hold has no price here. Nothing is fetched.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from budgetctl.errors import brief
from budgetctl.pricing.row import PriceRow
from budgetctl.types import Price

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice, PriceCalculation

logger = logging.getLogger("budgetctl")

_PROVIDERS = MappingProxyType(
    {
        "bedrock": "aws",
        "fireworks_ai": "fireworks",
        "gemini": "google",
        "google-gla": "google",
        "google-openai": "google",
        "google-vertex": "google",
        "together_ai": "together",
        "vertex_ai": "google",
        "xai": "x-ai",
    }
)
"""The library's names of providers that the capability table, LiteLLM or pydantic-ai call otherwise."""
_RATES = MappingProxyType(
    {
        "input_mtok": "input",
        "output_mtok": "output",
        "output_reasoning_mtok": "reasoning",
        "cache_read_mtok": "cached_input",
        "cache_write_mtok": "cache_write",
    }
)
_SOLE = frozenset({"anthropic", "google", "openai", "x-ai"})
"""Providers whose models have names that nobody else's have, so that a name alone tells who is paid."""
_APART = ("audio", "image", "video", "kpages", "searches", "_1h_")
"""Parts of the names of charges that a call of text without such tools does not have."""
_MINUTE_S = 60


def row(model: str, place: str | None) -> PriceRow | None:
    """Return the library's price of ``model`` at this minute; None where it has none, or is not installed.

    Args:
        place: Base URL, kind of endpoint or provider; None tells the provider by the model's name, or by
            what stands before it with a slash.
    """
    return _row(model, place, int(time.time() // _MINUTE_S))


@lru_cache(maxsize=1000)
def _row(model: str, place: str | None, minute: int) -> PriceRow | None:
    try:
        found = _find(model, place, datetime.fromtimestamp(minute * _MINUTE_S, UTC))
        # Weights that OpenAI gives away and does not serve are listed under its name.
        if found is None or (found.provider.id, found.model.id[:7]) == ("openai", "gpt-oss"):
            return None
        return _priced(found, model)
    except (ImportError, LookupError):
        return None
    except Exception as error:  # whatever its data may hold, the call goes on without a price
        logger.warning("no price from genai-prices: %s", brief(error))
        return None


def _find(model: str, place: str | None, now: datetime) -> PriceCalculation | None:
    from genai_prices import Usage, calc_price

    if place is not None and "://" in place:
        return calc_price(Usage(), model, provider_api_url=place, genai_request_timestamp=now)
    if place is None:
        place, slash, bare = model.partition("/")
        if not slash:
            found = calc_price(Usage(), model, genai_request_timestamp=now)
            return found if found.provider.id in _SOLE else None
        model = bare
    provider = _PROVIDERS.get(place, place)
    found = calc_price(Usage(), model, provider_id=provider, genai_request_timestamp=now)
    # It takes names that only contain a provider's: openai-compatible, the owner of some weights.
    return found if found.provider.id == provider else None


def _priced(found: PriceCalculation, model: str) -> PriceRow | None:
    from genai_prices import __version__

    listed = found.model_price
    rates = {name: rate for name, rate in vars(listed).items() if rate is not None}
    others = [name for name in rates if name not in _RATES and not any(part in name for part in _APART)]
    if others or "input_mtok" not in rates or "output_mtok" not in rates:
        return None
    starts = sorted({tier.start for rate in rates.values() for tier in getattr(rate, "tiers", ())})
    return PriceRow(
        match=(model,),
        price=_price(listed, 0),
        tiers=tuple((start, _price(listed, start + 1)) for start in starts),
        source=f"genai-prices {__version__}: {found.provider.id}/{found.model.id}",
    )


def _price(listed: ModelPrice, prompt_tokens: int) -> Price:
    rates = {ours: _rate(getattr(listed, theirs), prompt_tokens) for theirs, ours in _RATES.items()}
    return Price(**{name: rate for name, rate in rates.items() if rate is not None})


def _rate(listed: Any, prompt_tokens: int) -> float | None:
    """Return a rate of the library's, which is a number or one for each of several lengths of prompt."""
    if listed is None:
        return None
    reached = [tier.price for tier in getattr(listed, "tiers", ()) if prompt_tokens > tier.start]
    return float(reached[-1] if reached else getattr(listed, "base", listed))
