"""Adapters: one small pure module per wire dialect writes a budget into the provider's own parameters."""

from budgetctl.adapters.base import Rendered

__all__ = ["Rendered"]
