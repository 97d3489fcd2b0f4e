"""A model behind an OpenAI-compatible endpoint as a backend of live runs."""

from __future__ import annotations

import importlib
import importlib.util
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from budgetctl.evals.results import Result
from budgetctl.evals.retry import Pacer

from budgetctl.capabilities import ENDPOINTS, Table, guess_endpoint
from budgetctl.channels import ChatChannels, join
from budgetctl.errors import AnswerTruncated, ConfigError, EvalError
from budgetctl.policy import Situation
from budgetctl.pricing import Prices
from budgetctl.types import Budget, Usage

if TYPE_CHECKING:
    from budgetctl.evals.questions import LiveQuestion

CONCURRENCY = 4
THINKING_KEPT = 2000
"""Characters of the end of every thought that are kept, for people who look at single questions."""
SEEDED = frozenset(
    {
        *("openai", "azure", "openrouter", "groq", "vllm", "sglang", "llama.cpp", "ollama"),
        *("tensorrt-llm", "transformers-serve"),
    }
)
"""Kinds of endpoint whose chat calls take ``seed``; the others are not sent what they may refuse."""

Grader = Callable[[str, Any], bool]
"""Takes the answer and the question's line of the suite file; returns whether the answer is right."""


@dataclass(frozen=True, slots=True)
class _Given:
    """A policy that gives the budget that was decided already."""

    decided: Budget
    needs_estimate: bool = False

    def budget(self, situation: Situation) -> Budget:
        return self.decided

    def __str__(self) -> str:
        return "given"


class EndpointBackend:
    """A model behind an OpenAI-compatible endpoint, called through :func:`budgetctl.wrap`.

    The SDK's own retries are switched off: the pacer's are the only ones.

    Args:
        base_url: Where it is.
        model: Its name there.
        grader: Decides whether an answer is right.
        endpoint: Kind of endpoint, as in the capability table; None tells it from the URL.
        concurrency: Calls at once.
        per_minute: Calls that may begin per minute; None is any number.
        sampling: Parameters that every call sets, such as ``temperature``.
        prices: What tokens cost; None is the shipped table.
        capabilities: What models can do, likewise.

    Raises:
        ConfigError: An argument does not fit.
    """

    batched = False

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        grader: Grader,
        endpoint: str | None = None,
        concurrency: int = CONCURRENCY,
        per_minute: float | None = None,
        sampling: Mapping[str, Any] | None = None,
        prices: Prices | None = None,
        capabilities: Table | None = None,
    ) -> None:
        if concurrency < 1:
            raise ConfigError(f"concurrency {concurrency}: expected 1 or more calls at once")
        if endpoint is not None and endpoint not in ENDPOINTS:
            raise ConfigError(f"endpoint {endpoint!r}: allowed are {', '.join(ENDPOINTS)}")
        self.model, self.concurrency = model, concurrency
        self.sampling: Mapping[str, Any] = dict(sampling or {})
        self.endpoint = endpoint or guess_endpoint(base_url)
        self._prices, self._capabilities = prices or Prices.load(), capabilities or Table.load()
        capability = self._capabilities.lookup(model, self.endpoint)
        self.facts = capability.facts()
        self.priced = self._prices.lookup(model) is not None
        self._seeded, self._grader = self.endpoint in SEEDED, grader
        self._counted = capability.stream_usage == "include_usage"
        self._base_url, self._per_minute = base_url, per_minute
        self.settings: Mapping[str, Any] = {
            "base_url": base_url,
            "endpoint": endpoint,
            "sampling": self.sampling,
            "seeded": self._seeded,
        }

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the client and the pacer, which hold locks: a copy elsewhere makes its own."""
        kept = {k: v for k, v in self.__dict__.items() if k not in ("_client", "_pacer")}
        # The rate is that of all copies together.
        return {**kept, "_per_minute": self._per_minute and self._per_minute / self.concurrency}

    @cached_property
    def _client(self) -> Any:
        from openai import OpenAI

        import budgetctl

        client = OpenAI(
            base_url=self._base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"), max_retries=0
        )
        return budgetctl.wrap(
            client,
            policy="full",
            classifier=None,
            endpoint=self.endpoint,
            prices=self._prices,
            capabilities=self._capabilities,
        )

    @cached_property
    def _pacer(self) -> Pacer:
        return Pacer(per_minute=self._per_minute)

    def generate(
        self, questions: Sequence[LiveQuestion], budgets: Sequence[Budget], *, seeds: Sequence[int]
    ) -> list[Result]:
        return [self._ask(*one) for one in zip(questions, budgets, seeds, strict=True)]

    def _ask(self, question: LiveQuestion, budget: Budget, seed: int) -> Result:
        from openai import OpenAIError

        failures: tuple[type[Exception], ...] = (OpenAIError, *_transport_errors())
        try:
            return self._pacer.call(lambda: self._once(question, budget, seed), failures=failures)
        except failures as error:
            raise EvalError(
                f"question {question.id!r}: {type(error).__name__}: {error}; what was finished is kept, "
                "the same command resumes"
            ) from error

    def _once(self, question: LiveQuestion, budget: Budget, seed: int) -> Result:
        import budgetctl

        client = self._client.with_policy(_Given(budget))
        thinking, channels, started = "", ChatChannels(), time.time()
        messages = [{"role": "user", "content": question.text}]
        params: dict[str, Any] = {"seed": seed} if self._seeded else {}
        if self._counted:
            params["stream_options"] = {"include_usage": True}
        try:
            # Streamed, since only a stream shows when the answer begins and can be cut on the way.
            stream = client.chat.completions.create(
                model=self.model, messages=messages, stream=True, **params, **self.sampling
            )
            chunks = list(stream)
            answer = "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices)
            thinking, _ = join(e for chunk in chunks for e in channels.feed(chunk.model_dump()))
            outcome = budgetctl.outcome(stream)
        except AnswerTruncated as error:
            answer, outcome = "", budgetctl.outcome(error)
        usage = Usage(
            reasoning_tokens=outcome.usage.reasoning_tokens, answer_tokens=outcome.usage.answer_tokens
        )
        return Result(
            question_id=question.id,
            correct=bool(answer.strip()) and bool(self._grader(answer, question.raw)),
            answered=bool(answer.strip()),
            answer=answer,
            thinking_tail=thinking[-THINKING_KEPT:] or None,
            stop=str(outcome.stop.reason),
            reasoning_tokens=usage.reasoning_tokens,
            probe_tokens=outcome.stop.probe_tokens,
            output_tokens=output_tokens(usage),
            ttft_s=outcome.timing.ttft_s,
            ttfo_s=outcome.timing.ttfo_s,
            e2e_s=outcome.timing.e2e_s,
            cost_usd=outcome.cost_usd,
            started_s=started,
            budget=budget,
        )


def output_tokens(usage: Usage) -> int | None:
    """Return all generated tokens, thinking included."""
    if usage.answer_tokens is None or usage.reasoning_tokens is None:
        return None
    return usage.reasoning_tokens + usage.answer_tokens


def _transport_errors() -> tuple[type[Exception], ...]:
    """Return what a stream that breaks raises under SDKs that leave the transport's own error as it is."""
    names = [name for name in ("httpx", "httpx2") if importlib.util.find_spec(name) is not None]
    return tuple(importlib.import_module(name).HTTPError for name in names)
