"""A model behind an OpenAI-compatible endpoint as a backend of live runs."""

from __future__ import annotations

import copy
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

from budgetctl.adapters import Rendered
from budgetctl.capabilities import ENDPOINTS, Table, guess_endpoint
from budgetctl.channels import ChatChannels, join
from budgetctl.errors import AnswerTruncated, ConfigError, EvalError
from budgetctl.ladder import answer_confidence
from budgetctl.names import Alias
from budgetctl.policy import Situation
from budgetctl.pricing import Prices
from budgetctl.types import Budget, Usage

if TYPE_CHECKING:
    from budgetctl.evals.questions import LiveQuestion

    from budgetctl.outcomes import Outcome

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


class _Line:
    """The connection to a URL, with its pace: all models that are asked there share one.

    Args:
        keyed: Whether it may send ``OPENAI_API_KEY``.
        per_minute: Calls that may begin per minute; None is any number.

    Attributes:
        calls: How many may be in flight, of all its models: a copy in another process makes one at a time.
    """

    def __init__(self, base_url: str, *, keyed: bool, per_minute: float | None) -> None:
        self.base_url, self.calls = base_url, 0
        self._keyed, self._per_minute = keyed, per_minute
        self._others: dict[str, _Line] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the client and the pacer, which hold locks: a copy elsewhere makes its own."""
        kept = {k: v for k, v in self.__dict__.items() if k not in ("client", "pacer")}
        # The rate is that of all copies together.
        return {**kept, "_per_minute": self._per_minute and self._per_minute / self.calls}

    def to(self, base_url: str) -> _Line:
        """Return the connection to a URL, at the same pace; no other than this one gets the key."""
        url = base_url.rstrip("/")
        if url == self.base_url.rstrip("/"):
            return self
        if url not in self._others:
            self._others[url] = _Line(base_url, keyed=False, per_minute=self._per_minute)
        return self._others[url]

    @cached_property
    def client(self) -> Any:
        from openai import OpenAI

        key = os.environ.get("OPENAI_API_KEY", "none") if self._keyed else "none"
        return OpenAI(base_url=self.base_url, api_key=key, max_retries=0)

    @cached_property
    def pacer(self) -> Pacer:
        return Pacer(per_minute=self._per_minute)


class EndpointBackend:
    """A model behind an OpenAI-compatible endpoint, called through :func:`budgetctl.wrap`.

    The SDK's own retries are switched off: the pacer's are the only ones.

    Args:
        base_url: Where it is.
        model: Its name there, or one of the aliases.
        grader: Decides whether an answer is right.
        endpoint: Kind of endpoint, as in the capability table; None tells it from the URL.
        concurrency: Calls at once.
        per_minute: Calls that may begin per minute; None is any number.
        sampling: Parameters that every call sets, such as ``temperature``.
        prices: What tokens cost; None is the shipped table.
        capabilities: What models can do, likewise.
        confidence: Ask for log-probabilities, and keep :func:`budgetctl.ladder.answer_confidence`. It is
            unknown of a model whose server refuses them, as OpenAI's reasoning models do.
        aliases: What stands behind model names; :meth:`with_model` asks one that names another URL there,
            without the key of this one.

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
        confidence: bool = False,
        aliases: Mapping[str, Alias] | None = None,
    ) -> None:
        if concurrency < 1:
            raise ConfigError(f"concurrency {concurrency}: expected 1 or more calls at once")
        if endpoint is not None and endpoint not in ENDPOINTS:
            raise ConfigError(f"endpoint {endpoint!r}: allowed are {', '.join(ENDPOINTS)}")
        self.concurrency, self.confidence, self._grader = concurrency, confidence, grader
        self.sampling: Mapping[str, Any] = dict(sampling or {})
        self._prices, self._capabilities = prices or Prices.load(), capabilities or Table.load()
        self._aliases = aliases or {}
        alias = self._aliases.get(model, Alias(model=model))
        alias.check(base_url)
        line = _Line(base_url, keyed=True, per_minute=per_minute)
        self._stand(alias.model, endpoint=endpoint or alias.endpoint, line=line)

    def _stand(self, model: str, *, endpoint: str | None, line: _Line) -> None:
        """Take the place of a model at a URL."""
        self.model, self._line, self._unsure = model, line, False
        self.endpoint = endpoint or guess_endpoint(line.base_url)
        line.calls += self.concurrency
        capability = self._capabilities.lookup(model, self.endpoint)
        self.facts = capability.facts()
        self.priced = self._prices.lookup(model, place=line.base_url) is not None
        self._seeded = self.endpoint in SEEDED
        self._counted = capability.stream_usage == "include_usage"
        self.settings: Mapping[str, Any] = {
            "base_url": line.base_url,
            "endpoint": endpoint,
            "sampling": self.sampling,
            "seeded": self._seeded,
            **({"confidence": True} if self.confidence else {}),
        }

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the client, which holds locks: a copy makes its own."""
        return {k: v for k, v in self.__dict__.items() if k != "_client"}

    def with_model(self, model: str) -> EndpointBackend:
        """Return what asks another model, over the same connection where that is at the same URL.

        Args:
            model: Its name at the endpoint, or one of the aliases.
        """
        alias = self._aliases.get(model, Alias(model=model))
        line = self._line if alias.base_url is None else self._line.to(alias.base_url)
        said = self.settings["endpoint"] if line is self._line else None
        other = copy.copy(self)
        other._stand(alias.model, endpoint=alias.endpoint or said, line=line)
        return other

    @cached_property
    def _client(self) -> Any:
        import budgetctl

        return budgetctl.wrap(
            self._line.client,
            policy="full",
            classifier=None,
            endpoint=self.endpoint,
            prices=self._prices,
            capabilities=self._capabilities,
        )

    def generate(
        self, questions: Sequence[LiveQuestion], budgets: Sequence[Budget], *, seeds: Sequence[int]
    ) -> list[Result]:
        return [self._ask(*one) for one in zip(questions, budgets, seeds, strict=True)]

    def written(self, question: LiveQuestion, budget: Budget) -> Rendered:
        from budgetctl.integrations.openai import met  # the client knows by now what the server does not keep

        call = {"model": self.model, "messages": _messages(question), "stream": True, **self.sampling}
        return met(self._client, call).write(budget)

    def _ask(self, question: LiveQuestion, budget: Budget, seed: int) -> Result:
        from openai import OpenAIError

        failures: tuple[type[Exception], ...] = (OpenAIError, *_transport_errors())
        try:
            return self._line.pacer.call(lambda: self._sure(question, budget, seed), failures=failures)
        except failures as error:
            raise EvalError(
                f"question {question.id!r}: {type(error).__name__}: {error}; what was finished is kept, "
                "the same command resumes"
            ) from error

    def _sure(self, question: LiveQuestion, budget: Budget, seed: int) -> Result:
        """Ask for log-probabilities where they are wanted, until the server refuses them."""
        from openai import BadRequestError, UnprocessableEntityError

        if self.confidence and not self._unsure:
            try:
                return self._once(question, budget, seed, logprobs=True)
            except (BadRequestError, UnprocessableEntityError):
                result = self._once(question, budget, seed)
                self._unsure = True
                return result
        return self._once(question, budget, seed)

    def _once(self, question: LiveQuestion, budget: Budget, seed: int, *, logprobs: bool = False) -> Result:
        import budgetctl

        client = self._client.with_policy(_Given(budget))
        thinking, channels, started = "", ChatChannels(), time.time()
        chunks: list[Any] = []
        params: dict[str, Any] = {"seed": seed} if self._seeded else {}
        if logprobs:
            params["logprobs"] = True
        if self._counted:
            params["stream_options"] = {"include_usage": True}
        try:
            # Streamed, since only a stream shows when the answer begins and can be cut on the way.
            stream = client.chat.completions.create(
                model=self.model, messages=_messages(question), stream=True, **params, **self.sampling
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
            confidence=answer_confidence(_answer_tokens(chunks), answer),
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
            notes=_notes(outcome),
        )


def _notes(outcome: Outcome) -> tuple[str, ...]:
    """Return what went otherwise than decided, which no certificate covers."""
    if outcome.stop.degraded:
        return (f"the answer does not go on from the model's own thought ({outcome.stop.actuator})",)
    return () if outcome.fallback is None else (outcome.fallback,)


def _messages(question: LiveQuestion) -> list[dict[str, str]]:
    return [{"role": "user", "content": question.text}]


def _answer_tokens(chunks: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the tokens that came with log-probabilities, as far as the endpoint sends any."""
    return [
        token.model_dump()
        for chunk in chunks
        for choice in chunk.choices
        if choice.logprobs is not None
        for token in choice.logprobs.content or ()
    ]


def output_tokens(usage: Usage) -> int | None:
    """Return all generated tokens, thinking included."""
    if usage.answer_tokens is None or usage.reasoning_tokens is None:
        return None
    return usage.reasoning_tokens + usage.answer_tokens


def _transport_errors() -> tuple[type[Exception], ...]:
    """Return what a stream that breaks raises under SDKs that leave the transport's own error as it is."""
    names = [name for name in ("httpx", "httpx2") if importlib.util.find_spec(name) is not None]
    return tuple(importlib.import_module(name).HTTPError for name in names)
