"""budgetctl gives every LLM query the thinking it deserves, enforces it, and measures what it cost.

    client = budgetctl.wrap(OpenAI(), policy="auto", sink="outcomes.jsonl")
    reply = client.chat.completions.create(model=..., messages=...)
    print(budgetctl.outcome(reply).why)

Importing this package is cheap: everything but the value types and errors loads when it is first used.
:func:`warmup` does that loading at a moment of your choosing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import AnswerTruncated, BudgetctlError, ConfigError, UnsupportedControl
from .types import Budget, Decision, Estimate, Limits, Query

if TYPE_CHECKING:
    from .callbacks import Callbacks
    from .config import Settings
    from .controller import Controller
    from .integrations.decorator import budgeted
    from .integrations.wrapping import wrap
    from .outcomes import Outcome, outcome
    from .overrides import override
    from .records import JsonlSink, feedback

__version__ = "0.1.0"

__all__ = [
    "AnswerTruncated",
    "Budget",
    "BudgetctlError",
    "Callbacks",
    "ConfigError",
    "Controller",
    "Decision",
    "Estimate",
    "JsonlSink",
    "Limits",
    "Outcome",
    "Query",
    "Settings",
    "UnsupportedControl",
    "budgeted",
    "feedback",
    "outcome",
    "override",
    "warmup",
    "wrap",
]

_LAZY = {
    "Callbacks": "callbacks",
    "Controller": "controller",
    "JsonlSink": "records",
    "Outcome": "outcomes",
    "Settings": "config",
    "budgeted": "integrations.decorator",
    "feedback": "records",
    "outcome": "outcomes",
    "override": "overrides",
    "wrap": "integrations.wrapping",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def warmup() -> None:
    """Load the default classifier and the tables now, so that the first call does not pay for it.

    Raises:
        ClassifierError: The weights cannot be read.
    """
    from . import records  # noqa: F401  # only to have it loaded
    from .controller import Controller

    controller = Controller("quantile:0.9")
    _ = controller.capabilities, controller.prices.lookup("the library is loaded for what no row names")
    controller.classifier()
    controller.decide(Query.from_text("warm up"))
