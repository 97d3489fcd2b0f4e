"""Asks a small model how hard a query is, over the OpenAI-compatible chat API.

    rater = LlmClassifier(base_url="http://localhost:8000/v1", model="qwen2.5-1.5b-instruct")
    controller = budgetctl.Controller("quantile:0.9", classifier=rater)

The text of the query, and what was said before it, goes to the endpoint that is named here, so none is named
by default. Every call costs what the small model costs and delays the wrapped call until it has answered:
``spent`` counts it, ``max_usd`` limits it, ``timeout_s`` ends it. Whatever goes wrong is a
:class:`ClassifierError`, on which the controller leaves the caller's own parameters alone.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from budgetctl.classifiers import features, opinion
from budgetctl.classifiers.account import Account, Spent
from budgetctl.classifiers.opinion import SYSTEM

from budgetctl.errors import ClassifierError, ConfigError, brief
from budgetctl.types import Estimate, Price, Query

CONFIDENCE = 0.5
"""Default confidence: exactly the controller's threshold. Nobody has compared the model's opinions with
outcomes, so they deserve no more; at less, the calls would be paid for and never used, though whoever names
an endpoint wants them used. Any stricter ``min_confidence`` sets them aside."""


class LlmClassifier:
    """A model's opinion of how hard a query is.

    Safe to share between threads. It blocks the calling thread for as long as the model takes, so a program
    on an event loop should make its decisions in a thread. Estimates are kept by a hash of what was sent, so
    that a retry does not pay twice; no text is kept.

    Args:
        client: An ``openai.OpenAI`` client or one with the same interface. Not one of ``budgetctl.wrap``: its
            calls would ask this classifier again, which is an endless loop.
        model: The model to ask. It should be small and not think: a thought does not fit ``max_tokens``.
        base_url: Endpoint of a client that is made on first use, instead of ``client``.
        api_key: Key for ``base_url``; None is for servers that ask for none. Never read from the environment,
            whose key may belong to another endpoint.
        timeout_s: Seconds that the endpoint may be silent; nothing is retried.
        max_tokens: Tokens the model may generate.
        prompt_chars: Characters of the query that are sent; of a longer one its head and tail. Each earlier
            turn gets an eighth of that.
        confidence: Confidence of every estimate, 0 to 1.
        price: What the model costs.
        max_usd: Dollars after which no call is made any more, concurrent ones included; None is no limit.
        cache_size: Estimates that are kept, the most recently used ones; 0 keeps none.
        extra_body: Further fields of the request's body, such as
            ``{"chat_template_kwargs": {"enable_thinking": False}}``.

    Raises:
        ConfigError: An argument cannot work, or ``max_usd`` is set and ``price`` is not.
    """

    name = "llm"
    asks_endpoint = True
    """What it is asked leaves for another endpoint than the call's own."""

    def __init__(
        self,
        client: Any = None,
        *,
        model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 5.0,
        max_tokens: int = 96,
        prompt_chars: int = 4000,
        confidence: float = CONFIDENCE,
        price: Price | None = None,
        max_usd: float | None = None,
        cache_size: int = 256,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        _check_client(client, base_url=base_url, api_key=api_key)
        _check("model", model, "the name of a model", bool(model))
        _check("timeout_s", timeout_s, "seconds above 0", 0 < timeout_s < math.inf)
        _check("max_tokens", max_tokens, "at least 16 tokens", max_tokens >= 16)
        _check("prompt_chars", prompt_chars, "at least 100 characters", prompt_chars >= 100)
        _check("confidence", confidence, "a number from 0 to 1", 0 <= confidence <= 1)
        _check("cache_size", cache_size, "0 or more", cache_size >= 0)
        if max_usd is not None:
            _check("max_usd", max_usd, "dollars, 0 or more", 0 <= max_usd < math.inf)
            _check("price", price, "a Price, because max_usd is set", price is not None)
        self.model = model
        self.max_tokens = max_tokens
        self.prompt_chars = prompt_chars
        self.confidence = confidence
        self.cache_size = cache_size
        self.extra_body = dict(extra_body or {})
        self._client = None if client is None else client.with_options(timeout=timeout_s, max_retries=0)
        self._base_url = str(getattr(client, "base_url", base_url)).rstrip("/")
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._account = Account(price=price, max_usd=max_usd, max_tokens=max_tokens)
        self._cache: OrderedDict[bytes, Estimate] = OrderedDict()
        bound = (SYSTEM, self._base_url, model, max_tokens, prompt_chars, confidence, self.extra_body)
        self._hash = hashlib.sha256(json.dumps(bound, default=repr, sort_keys=True).encode()).hexdigest()

    @property
    def hash(self) -> str:
        """SHA-256 of endpoint, model, prompt and settings. What the server does to the model is not seen."""
        return self._hash

    @property
    def spent(self) -> Spent:
        """What its calls have cost so far."""
        return self._account.spent

    def estimate(self, query: Query) -> Estimate:
        """Return the model's opinion of ``query``, in tokens of a generic reasoning model.

        ``settled`` equals ``natural``: an opinion is too coarse to say how long a thought goes on after the
        answer has settled.

        Raises:
            ClassifierError: No usable opinion: the endpoint failed or was too slow, the reply is not what
                was asked for, or ``max_usd`` does not cover another call. Never carries text of the query.
        """
        prompt = opinion.prompt(query, chars=self.prompt_chars)
        key = hashlib.blake2b(prompt.encode(), digest_size=16).digest()
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        estimate = self._ask(prompt)
        with self._lock:
            self._cache[key] = estimate
            while len(self._cache) > self.cache_size:
                self._cache.popitem(last=False)
        return estimate

    def describe(self, query: Query) -> dict[str, float]:
        """Return what is kept of ``query`` in records: the features that weights can be trained from."""
        return features.describe(query)

    def _ask(self, prompt: str) -> Estimate:
        client = self._connected()
        try:
            with self._account.call(sent_bytes=len((SYSTEM + prompt).encode())) as call:
                reply = client.chat.completions.create(
                    model=self.model,
                    messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}],
                    temperature=0,
                    max_tokens=self.max_tokens,
                    extra_body=self.extra_body or None,
                )
                call.usage = getattr(reply, "usage", None)
                said = opinion.parse(_content(reply))
        except ClassifierError as error:
            raise ClassifierError(f"{self.model}: {error}") from error
        except Exception as error:  # clients raise what they like
            raise ClassifierError(f"{self.model}: the call failed: {brief(error)}") from error
        return said.estimate(confidence=self.confidence, source=f"{self.name}:{self.hash[:12]}")

    def _connected(self) -> Any:
        """Return the client, with our timeout and without retries; the first use of ``base_url`` makes it."""
        with self._lock:
            if self._client is None:
                try:
                    from openai import OpenAI
                except ImportError as error:
                    raise ClassifierError("base_url needs openai: install the extra openai") from error
                self._client = OpenAI(
                    base_url=self._base_url,
                    api_key=self._api_key or "none",
                    timeout=self._timeout_s,
                    max_retries=0,
                )
            return self._client


def _content(reply: Any) -> str:
    """Return the text of a reply.

    Raises:
        ClassifierError: There is none.
    """
    choices = getattr(reply, "choices", None)
    content = getattr(choices[0].message, "content", None) if choices else None
    if not isinstance(content, str) or not content.strip():
        raise ClassifierError("the reply has no text")
    return content


def _check_client(client: Any, *, base_url: str | None, api_key: str | None) -> None:
    if (client is None) == (base_url is None):
        raise ConfigError("give a client or a base_url, one of them: text goes to no endpoint by default")
    if client is None:
        return
    if api_key is not None:
        raise ConfigError("api_key: a client has its own; give it with base_url only")
    if hasattr(client, "with_policy"):
        raise ConfigError("client: seen one that is wrapped, allowed: one whose calls are not budgeted")
    if inspect.iscoroutinefunction(getattr(client, "close", None)):
        raise ConfigError(f"client: seen {type(client).__name__}, allowed: a synchronous client")


def _check(name: str, value: Any, allowed: str, holds: bool) -> None:
    if not holds:
        raise ConfigError(f"{name}: seen {value!r}, allowed: {allowed}")
