"""The error tree. Everything budgetctl raises on its own account derives from one base.

    BudgetctlError
    ├── ConfigError (ValueError)        a setting that cannot work; raised before any money is spent
    ├── ClassifierError                 weights that cannot be read, a classifier that cannot answer
    ├── AdapterError
    │   └── UnsupportedControl          strict mode: the model lacks the control a budget needs
    ├── StreamError                     a stream that is not what the dialect promises
    ├── AnswerTruncated                 no answer after every recovery; carries the partial reasoning
    ├── LimitExceeded                   a spending limit has no room for a call; raised before it is made
    ├── LedgerUnavailable               nobody knows whether it has: its store did not answer
    ├── CertificateError
    │   └── CertificateMismatch         strict mode: the certificate binds something else
    └── EvalError
        ├── PairingError                two runs that do not cover the same questions
        └── NotEnoughEvidence           a statistic that the data cannot support

On the hot path a fault of ours never reaches the caller unless ``strict=True``: the call goes through
with the caller's own parameters and the outcome records why.
"""

from __future__ import annotations

from functools import partial


class BudgetctlError(Exception):
    """Base of every error that budgetctl raises itself."""


class ConfigError(BudgetctlError, ValueError):
    """A setting, policy string or argument that cannot work.

    The message names where it was found, what was seen and what is allowed.
    """


class ClassifierError(BudgetctlError):
    """A classifier that cannot be loaded or cannot give an estimate."""


class AdapterError(BudgetctlError):
    """A budget that cannot be written into a provider's parameters."""


class UnsupportedControl(AdapterError):
    """Strict mode only: the model has no control that enforces the budget."""


class StreamError(BudgetctlError):
    """A stream whose events do not follow their dialect."""


class AnswerTruncated(BudgetctlError):
    """The model gave no answer, also after every recovery.

    Attributes:
        reasoning: The partial reasoning. Never part of the message, which may be logged.
    """

    def __init__(self, message: str, *, reasoning: str = "") -> None:
        super().__init__(message)
        self.reasoning = reasoning


class LimitExceeded(BudgetctlError):
    """A spending limit has no room for the worst case of a call, which was not made.

    Attributes:
        limit: The limit's name.
        window: Its window, as configured.
        unit: ``usd`` or ``tokens``, of all numbers here.
        amount: What may be spent in a window.
        spent: What has been spent in this one.
        held: What calls that are running now have reserved.
        asked: What the call would have reserved.
        cheaper: A cheaper rung may be tried instead, as the limit is configured.
    """

    def __init__(
        self,
        *,
        limit: str,
        window: str,
        unit: str,
        amount: float,
        spent: float,
        held: float,
        asked: float,
        cheaper: bool = False,
    ) -> None:
        super().__init__(
            f"limit {limit!r}: {asked:,} {unit} asked; of {amount:,} per {window}, {spent:,} are spent "
            f"and {held:,} reserved by running calls"
        )
        self.limit = limit
        self.window = window
        self.unit = unit
        self.amount = amount
        self.spent = spent
        self.held = held
        self.asked = asked
        self.cheaper = cheaper

    def __reduce__(self) -> tuple[partial[LimitExceeded], tuple[()]]:
        """Keep the attributes on the way to another process."""
        return partial(LimitExceeded, **vars(self)), ()


class LedgerUnavailable(BudgetctlError):
    """The store of a spending limit did not answer, so the call was not made; ``__cause__`` is its error."""


class CertificateError(BudgetctlError):
    """A certificate that cannot be read."""


class CertificateMismatch(CertificateError):
    """Strict mode only: the certificate binds another model, engine or classifier."""


class EvalError(BudgetctlError):
    """An evaluation that cannot be carried out as asked."""


class PairingError(EvalError):
    """Two runs that should be compared question by question cover different questions."""


class NotEnoughEvidence(EvalError):
    """A statistic was asked for that the data is too small to support."""


def brief(error: BaseException) -> str:
    """Name an error for records and logs. Not its message: those of servers quote the prompt."""
    code = getattr(error, "status_code", None)
    return f"{type(error).__name__} (HTTP {code})" if isinstance(code, int) else type(error).__name__
