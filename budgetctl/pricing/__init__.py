"""What models cost: rows of your own, the table that ships with the package, and below both a price library.

    Prices.load().lookup("gpt-5-mini")                              # Price(input=0.25, output=2.0, ...)
    Prices.load({"my-model*": {"input": 0.4, "output": 1.6}})
    Prices.load({"my-model": {"usd_per_hour": 2.1, "tokens_per_s": 40}})
    Prices.load("prices.toml")                                      # [[price]] tables as in prices.toml here

A model that none of them names has no price: its cost is None, never zero.
"""

from budgetctl.pricing.row import PriceRow
from budgetctl.pricing.table import Prices

__all__ = ["PriceRow", "Prices"]
