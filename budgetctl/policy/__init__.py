"""Policies: from a query, its estimate and what the model can do to a budget.

A policy is named by a string, the same in code, config and on the command line::

    auto  full  off  cap:N  tiered  quantile:Q  deadline:SECONDS  effort:LEVEL
    utility:USD_PER_CORRECT  exchange:RATE  certified:CERT

Two policies joined by ``&`` give the tighter budget of both. Each may carry ``+stop:PRESET``, as in
``cap:4096+stop:none``. Users write their own by implementing :class:`Policy`.
"""

from __future__ import annotations

from .auto import Auto, Footing
from .base import Both, Policy, Situation, policy_name
from .caps import ANSWER_RESERVE, CAPS, MAX_CAP, at_most
from .certified import Certified, aside, coverage, uniform
from .estimated import MIN_NEED, Quantile, Tiered
from .exchange import Exchange, Utility
from .expected import expect
from .fixed import Cap, Deadline, Effort, Full, Off
from .parsing import ALLOWED, BUILT_IN, parse

__all__ = [
    "ALLOWED",
    "ANSWER_RESERVE",
    "BUILT_IN",
    "CAPS",
    "MAX_CAP",
    "MIN_NEED",
    "Auto",
    "Both",
    "Cap",
    "Certified",
    "Deadline",
    "Effort",
    "Exchange",
    "Footing",
    "Full",
    "Off",
    "Policy",
    "Quantile",
    "Situation",
    "Tiered",
    "Utility",
    "aside",
    "at_most",
    "coverage",
    "expect",
    "parse",
    "policy_name",
    "uniform",
]
