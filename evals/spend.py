"""What a run has spent, and the limits at which it stops before the next call."""

from __future__ import annotations

from dataclasses import dataclass

from budgetctl.evals.results import Result

from budgetctl.errors import EvalError, NotEnoughEvidence


class LimitReached(NotEnoughEvidence):
    """A run has stopped at its limit; what was finished is kept, and the same command with more resumes.

    Attributes:
        spend: What was spent.
        done: Finished calls.
        total: All calls.
    """

    def __init__(self, spend: Spend, *, done: int, total: int) -> None:
        self.spend, self.done, self.total = spend, done, total
        super().__init__(
            f"stopped at the limit after {done} of {total} calls ({spend}); there is no verdict on a part, "
            "and the same command with a higher limit goes on where this one stopped"
        )


@dataclass(kw_only=True)
class Spend:
    """Dollars and tokens of the calls so far, those of earlier sessions included.

    Attributes:
        max_usd: Dollars at which no further call is made.
        max_tokens: Generated tokens, thinking included, at which no further call is made.
        usd: Dollars so far; None where a call's cost is unknown.
        tokens: Generated tokens so far, as far as they are known.
    """

    max_usd: float | None = None
    max_tokens: int | None = None
    usd: float | None = 0.0
    tokens: int = 0

    def add(self, result: Result) -> None:
        """Count a call.

        Raises:
            EvalError: There is a limit on what is not known of this call.
        """
        known = self.usd is not None and result.cost_usd is not None
        self.usd = self.usd + result.cost_usd if known else None  # type: ignore[operator]  # both are known
        tokens = result.output_tokens if result.output_tokens is not None else result.reasoning_tokens
        self.tokens += tokens or 0
        for limit, value in (("max_usd", result.cost_usd), ("max_tokens", tokens)):
            if getattr(self, limit) is not None and value is None:
                raise EvalError(
                    f"question {result.question_id!r}: what the call spent is unknown, so {limit} cannot "
                    "hold; what was finished is kept"
                )

    @property
    def exhausted(self) -> bool:
        """Whether a limit is reached."""
        over_usd = self.max_usd is not None and self.usd is not None and self.usd >= self.max_usd
        return over_usd or (self.max_tokens is not None and self.tokens >= self.max_tokens)

    def __str__(self) -> str:
        tokens = f"{self.tokens:,} tokens"
        return tokens if self.usd is None else f"${self.usd:.4g}, {tokens}"
