"""What calls to a model cost, and a limit that they keep, those under way at the same time included."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from budgetctl.errors import ClassifierError
from budgetctl.types import Price

TEMPLATE_TOKENS = 64
"""Tokens that a chat template and the role names add to a prompt, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What the calls of a classifier have cost so far.

    Attributes:
        calls: Requests that were sent; answers from the cache are none.
        failures: Those of them that gave no estimate.
        unmetered: Those of them whose usage is unknown, such as after a timeout.
        prompt_tokens: Tokens sent, as reported by the server.
        answer_tokens: Tokens generated, thinking included, as reported by the server.
        cost_usd: Dollars, with unmetered requests at the most they can have cost, so never less than what
            was spent; None where no price is known.
    """

    calls: int = 0
    failures: int = 0
    unmetered: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    cost_usd: float | None = None


@dataclass(slots=True)
class Call:
    """One request on its way; ``usage`` as the server reports it."""

    usage: Any = None


class Account:
    """Counts calls and what they cost. Safe to share between threads.

    Args:
        price: What the model costs; None where that is unknown.
        max_usd: Dollars that all calls together may cost, which takes a price; None is no limit.
        max_tokens: Tokens that a call generates, at most.
    """

    def __init__(self, *, price: Price | None, max_usd: float | None, max_tokens: int) -> None:
        self._price = price
        self._max_usd = max_usd
        self._max_tokens = max_tokens
        self._spent = Spent(cost_usd=None if price is None else 0.0)
        self._reserved = 0.0
        self._lock = threading.Lock()

    @property
    def spent(self) -> Spent:
        """What the calls that are over have cost."""
        return self._spent

    @contextmanager
    def call(self, *, sent_bytes: int) -> Iterator[Call]:
        """Account for the request made inside the ``with`` block.

        Raises:
            ClassifierError: The limit does not cover the most that it can cost.
        """
        most = self._most(sent_bytes)
        self._reserve(most)
        call, failed, charged = Call(), True, True
        try:
            yield call
            failed = False
        except Exception as error:
            # A server that refuses does not charge; of one that fell silent nobody knows.
            charged = getattr(error, "status_code", None) is None
            raise
        finally:
            self._settle(most, usage=call.usage, failed=failed, charged=charged)

    def _most(self, sent_bytes: int) -> float:
        """Return the most that a call can cost: a tokenizer makes at most one token of a byte."""
        if self._price is None:
            return 0.0
        rate = max(self._price.output, self._price.reasoning or 0.0)
        sent = sent_bytes + TEMPLATE_TOKENS
        return replace(self._price, output=rate).cost(prompt=sent, reasoning=0, answer=self._max_tokens)

    def _reserve(self, most: float) -> None:
        with self._lock:
            spent = self._spent.cost_usd or 0.0
            if self._max_usd is not None and spent + self._reserved + most > self._max_usd:
                raise ClassifierError(
                    f"max_usd={self._max_usd:g} does not cover another call: {spent:g} spent"
                )
            self._reserved += most

    def _settle(self, most: float, *, usage: Any, failed: bool, charged: bool) -> None:
        """Put what a call cost in place of what was set aside for it."""
        sent, generated = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
        cost = most if charged else 0.0
        if sent is not None and generated is not None and self._price is not None:
            details = getattr(usage, "completion_tokens_details", None)
            thought = getattr(details, "reasoning_tokens", None) or 0
            cost = self._price.cost(prompt=sent, reasoning=thought, answer=generated - thought)
        with self._lock:
            self._reserved -= most
            spent = self._spent
            self._spent = Spent(
                calls=spent.calls + 1,
                failures=spent.failures + failed,
                unmetered=spent.unmetered + (charged and None in (sent, generated)),
                prompt_tokens=spent.prompt_tokens + (sent or 0),
                answer_tokens=spent.answer_tokens + (generated or 0),
                cost_usd=None if spent.cost_usd is None else spent.cost_usd + cost,
            )
