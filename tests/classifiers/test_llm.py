"""A model asked for its opinion, over real HTTP: what it is sent, what is believed, what it may cost."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from budgetctl.classifiers import Classifier
from budgetctl.classifiers.account import Spent
from budgetctl.classifiers.llm import LlmClassifier
from budgetctl.classifiers.opinion import SYSTEM, prompt

import budgetctl
from budgetctl import Controller
from budgetctl.controller import MIN_CONFIDENCE
from budgetctl.errors import ClassifierError, ConfigError
from budgetctl.types import ModelFacts, Price, Query, Turn

openai = pytest.importorskip("openai")

SAID = {"p_off": 0.3, "p_full": 0.9, "tokens_p50": 800, "tokens_p90": 3200}
GOOD = json.dumps(SAID)
SECRET = "the launch code is 7391"
PRICE = Price(input=1.0, output=4.0)


class Rater(ThreadingHTTPServer):
    """Answers every chat request with ``content``; ``seen`` has the bodies in order of arrival."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.content: str | None = GOOD
        self.usage: dict[str, Any] | None = {
            "prompt_tokens": 400,
            "completion_tokens": 30,
            "total_tokens": 430,
        }
        self.status = 200
        self.body: bytes | None = None
        self.wait: Callable[[], object] = lambda: None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that give up waiting are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Rater

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert self.path == "/v1/chat/completions"
        self.server.seen.append(body)
        self.server.keys.append(self.headers["authorization"])
        self.server.wait()
        message = {"role": "assistant", "content": self.server.content}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"]}
        reply: dict[str, Any] = {**head, "choices": [choice], "usage": self.server.usage}
        if self.server.status != 200:
            reply = {"error": {"message": f"cannot read {body['messages'][-1]['content']}"}}
        data = self.server.body or json.dumps(reply).encode()
        self.send_response(self.server.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def rater() -> Iterator[Rater]:
    server = Rater()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def asking(rater: Rater) -> Iterator[Callable[..., LlmClassifier]]:
    """Make classifiers that ask the rater through the real SDK."""
    with openai.OpenAI(base_url=rater.url, api_key="k") as client:
        yield lambda **options: LlmClassifier(client, **{"model": "small", **options})


def query(text: str = "How many primes are below 100?", *recent: Turn) -> Query:
    return Query(text=text, recent=recent, total_chars=len(text))


# What it says


def test_it_is_a_classifier(asking: Callable[..., LlmClassifier]) -> None:
    classifier = asking()
    assert isinstance(classifier, Classifier)
    assert classifier.estimate(query()).source == f"llm:{classifier.hash[:12]}"


def test_an_opinion_becomes_an_estimate(asking: Callable[..., LlmClassifier]) -> None:
    e = asking(confidence=0.6).estimate(query())
    assert (e.p_off, e.p_full, e.natural.p50, e.natural.p90, e.confidence) == (0.3, 0.9, 800, 3200, 0.6)


@pytest.mark.parametrize("content", [None, "", " ", "no idea"])
def test_a_reply_without_an_opinion_is_an_error(
    rater: Rater, asking: Callable[..., LlmClassifier], content: str | None
) -> None:
    rater.content = content
    classifier = asking()
    with pytest.raises(ClassifierError, match="small: the reply"):
        classifier.estimate(query())
    assert classifier.spent == Spent(calls=1, failures=1, prompt_tokens=400, answer_tokens=30)


@pytest.mark.parametrize(
    "body", [b"<html>", b'"ok"', b"{}", b'{"choices": []}', b'{"choices": [{}]}', b"null"]
)
def test_a_server_that_speaks_something_else_is_an_error(
    rater: Rater, asking: Callable[..., LlmClassifier], body: bytes
) -> None:
    rater.body = body
    classifier = asking()
    with pytest.raises(ClassifierError, match="small: "):
        classifier.estimate(query())
    assert classifier.spent == Spent(calls=1, failures=1, unmetered=1)


# What it sends


def test_it_asks_briefly_and_without_chance(rater: Rater, asking: Callable[..., LlmClassifier]) -> None:
    extra = {"chat_template_kwargs": {"enable_thinking": False}}
    asked = query("Why?", Turn(role="assistant", text="x" * 500))
    asking(max_tokens=64, extra_body=extra, prompt_chars=1000).estimate(asked)
    body = rater.seen[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("small", 0, 64)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert body["messages"] == [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": prompt(asked, chars=1000)},
    ]
    assert not body.get("stream")


# What fails


def test_a_silent_server_is_given_up_once(rater: Rater, asking: Callable[..., LlmClassifier]) -> None:
    done = threading.Event()
    rater.wait = lambda: done.wait(5)
    classifier = asking(timeout_s=0.2, price=PRICE)
    started = time.perf_counter()
    with pytest.raises(ClassifierError, match="small: the call failed: APITimeoutError"):
        classifier.estimate(query())
    assert time.perf_counter() - started < 2
    done.set()
    assert len(rater.seen) == 1
    assert classifier.spent.unmetered == classifier.spent.failures == classifier.spent.calls == 1
    sent = len(SYSTEM) + len(prompt(query(), chars=classifier.prompt_chars))
    most = PRICE.cost(prompt=sent, reasoning=0, answer=classifier.max_tokens)
    assert (classifier.spent.cost_usd or 0) > most, "it may be billed"


@pytest.mark.parametrize("status", [400, 401, 429, 500, 503])
def test_a_refusal_costs_nothing_and_quotes_nothing(
    rater: Rater, asking: Callable[..., LlmClassifier], status: int
) -> None:
    rater.status = status
    classifier = asking(price=PRICE, max_usd=1)
    with pytest.raises(ClassifierError, match=rf"small: the call failed: .*\(HTTP {status}\)") as caught:
        classifier.estimate(query(SECRET))
    assert SECRET not in str(caught.value)
    assert len(rater.seen) == 1
    assert classifier.spent == Spent(calls=1, failures=1, cost_usd=0.0)


def test_an_endpoint_that_is_not_there_is_an_error(rater: Rater) -> None:
    port = rater.server_port
    rater.server_close()
    classifier = LlmClassifier(base_url=f"http://127.0.0.1:{port}/v1", model="small")
    with pytest.raises(ClassifierError, match="APIConnectionError"):
        classifier.estimate(query())


def test_a_reply_is_not_quoted_either(rater: Rater, asking: Callable[..., LlmClassifier]) -> None:
    rater.content = f"You said that {SECRET}."
    with pytest.raises(ClassifierError) as caught:
        asking().estimate(query(SECRET))
    assert SECRET not in str(caught.value)


# What it costs


def test_no_call_is_made_beyond_the_limit(rater: Rater, asking: Callable[..., LlmClassifier]) -> None:
    classifier = asking(price=PRICE, max_usd=0.0040)
    answered = [_answered(classifier, n) for n in range(20)]
    assert sum(answered) > 2, "what was set aside for a call is given back"
    assert False in answered
    assert answered == sorted(answered, reverse=True)
    assert len(rater.seen) == classifier.spent.calls == sum(answered)
    assert classifier.spent.failures == 0
    assert (classifier.spent.cost_usd or 0) <= 0.0040


def test_a_limit_of_nothing_allows_nothing(rater: Rater, asking: Callable[..., LlmClassifier]) -> None:
    with pytest.raises(ClassifierError, match="does not cover"):
        asking(price=PRICE, max_usd=0).estimate(query())
    assert rater.seen == []


def _answered(classifier: LlmClassifier, n: int) -> bool:
    """Ask about question ``n``; False where the limit forbids it."""
    try:
        classifier.estimate(query(f"question {n}"))
    except ClassifierError as error:
        if not re.search(r"small: max_usd=0\.00\d does not cover another call: 0(\.\d+)? spent", str(error)):
            raise
        return False
    return True


def test_threads_may_share_it(rater: Rater, asking: Callable[..., LlmClassifier]) -> None:
    classifier = asking(price=PRICE, max_usd=10)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda n: classifier.estimate(query(f"question {n}")), range(64)))
    assert len(set(found)) == 1
    assert classifier.spent == Spent(
        calls=64,
        prompt_tokens=64 * 400,
        answer_tokens=64 * 30,
        cost_usd=pytest.approx(64 * PRICE.cost(prompt=400, reasoning=0, answer=30)),
    )


def test_a_retry_does_not_pay_twice(rater: Rater, asking: Callable[..., LlmClassifier]) -> None:
    classifier = asking()
    assert classifier.estimate(query()) is classifier.estimate(query())
    assert classifier.spent.calls == len(rater.seen) == 1
    classifier.estimate(query("yes", Turn(role="user", text="a")))
    classifier.estimate(query("yes", Turn(role="user", text="b")))
    assert len(rater.seen) == 3, "the same words after other words are another query"


def test_the_least_recently_used_is_forgotten(rater: Rater, asking: Callable[..., LlmClassifier]) -> None:
    classifier = asking(cache_size=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        classifier.estimate(query(text))
    assert [body["messages"][-1]["content"].split("\n")[1] for body in rater.seen] == [
        *("user: a", "user: b", "user: c", "user: b")
    ]


def test_nothing_is_kept_where_nothing_may_be(rater: Rater, asking: Callable[..., LlmClassifier]) -> None:
    classifier = asking(cache_size=0)
    classifier.estimate(query())
    classifier.estimate(query())
    assert len(rater.seen) == 2


def test_a_failure_is_tried_again(rater: Rater, asking: Callable[..., LlmClassifier]) -> None:
    classifier = asking()
    rater.status = 503
    with pytest.raises(ClassifierError):
        classifier.estimate(query())
    rater.status = 200
    assert classifier.estimate(query()).p_off == 0.3


# How it is set up


def test_an_endpoint_can_be_named_by_url_and_no_key_of_another_is_sent(
    rater: Rater, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-endpoint")
    LlmClassifier(base_url=rater.url, model="small").estimate(query())
    LlmClassifier(base_url=rater.url, api_key="mine", model="small").estimate(query())
    assert rater.keys == ["Bearer none", "Bearer mine"]


def test_an_endpoint_named_by_url_has_the_same_patience(rater: Rater) -> None:
    done = threading.Event()
    rater.wait = lambda: done.wait(5)
    started = time.perf_counter()
    with pytest.raises(ClassifierError, match="APITimeoutError"):
        LlmClassifier(base_url=rater.url, model="small", timeout_s=0.2).estimate(query())
    assert 0.15 < time.perf_counter() - started < 2
    done.set()


def test_an_endpoint_named_by_url_is_asked_once_too(rater: Rater) -> None:
    rater.status = 503
    with pytest.raises(ClassifierError, match="HTTP 503"):
        LlmClassifier(base_url=rater.url, model="small").estimate(query())
    assert len(rater.seen) == 1


def test_there_is_no_default_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-there-is-one")
    with pytest.raises(ConfigError, match="no endpoint by default"):
        LlmClassifier(model="small")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"base_url": "http://localhost/v1"}, "one of them"),
        ({"api_key": "k"}, "api_key: a client has its own"),
        ({"model": ""}, "model: seen ''"),
        ({"timeout_s": 0}, "timeout_s: seen 0, allowed: seconds above 0"),
        ({"max_tokens": 1}, "max_tokens: seen 1"),
        ({"prompt_chars": 0}, "prompt_chars: seen 0"),
        ({"confidence": 1.5}, r"confidence: seen 1\.5"),
        ({"confidence": float("nan")}, "confidence: seen nan"),
        ({"cache_size": -1}, "cache_size: seen -1"),
        ({"max_usd": -1.0, "price": PRICE}, r"max_usd: seen -1\.0"),
        ({"max_usd": 1.0}, "price: seen None, allowed: a Price, because max_usd is set"),
    ],
)
def test_what_cannot_work_is_said_before_any_call(
    rater: Rater, asking: Callable[..., LlmClassifier], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        asking(**options)


def test_a_budgeted_client_is_refused(rater: Rater) -> None:
    """Its calls would ask for an estimate, which would be a call, and so on."""
    with openai.OpenAI(base_url=rater.url, api_key="k") as client:
        wrapped = budgetctl.wrap(client, policy="off", classifier=None)
        with pytest.raises(ConfigError, match="wrapped"):
            LlmClassifier(wrapped, model="small")


async def test_an_asynchronous_client_is_refused(rater: Rater) -> None:
    async with openai.AsyncOpenAI(base_url=rater.url, api_key="k") as client:
        with pytest.raises(ConfigError, match="seen AsyncOpenAI, allowed: a synchronous client"):
            LlmClassifier(client, model="small")


def test_its_hash_follows_its_settings_and_not_the_key(
    rater: Rater, asking: Callable[..., LlmClassifier]
) -> None:
    base = asking().hash
    others = [
        asking(**options).hash
        for options in (
            *({"model": "other"}, {"confidence": 0.6}, {"prompt_chars": 500}, {"max_tokens": 50}),
            {"extra_body": {"seed": 1}},
        )
    ]
    assert len({base, *others}) == 6
    assert LlmClassifier(base_url=rater.url, api_key="another", model="small").hash == base
    one, other = ({"seed": 1, "top_k": 1}, {"top_k": 1, "seed": 1})
    assert asking(extra_body=one).hash == asking(extra_body=other).hash


def test_it_is_made_without_importing_the_sdk() -> None:
    code = (
        "import sys; from budgetctl.classifiers.llm import LlmClassifier\n"
        "LlmClassifier(base_url='http://localhost:1/v1', model='m'); print('openai' in sys.modules)"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "False"


# In its place


FACTS = ModelFacts(can_cap=True, can_switch_off=True)


def test_it_decides_under_the_threshold_as_shipped(asking: Callable[..., LlmClassifier]) -> None:
    classifier = asking()
    decision = Controller("quantile:0.9", classifier=classifier).decide(query(), facts=FACTS)
    assert asking().confidence == MIN_CONFIDENCE
    assert decision.fallback is None
    assert decision.budget.reasoning_tokens == 3200

    stricter = Controller("quantile:0.9", classifier=classifier, min_confidence=0.6)
    assert stricter.decide(query(), facts=FACTS).budget.reasoning_tokens is None


def test_its_failure_leaves_the_call_alone(rater: Rater, asking: Callable[..., LlmClassifier]) -> None:
    rater.content = "no idea"
    decision = Controller("quantile:0.9", classifier=asking()).decide(query(SECRET), facts=FACTS)
    assert decision.budget.reasoning_tokens is None
    assert "classifier failed: ClassifierError: small: the reply is not the JSON" in (decision.fallback or "")
    assert SECRET not in (decision.fallback or "")


def test_a_budgeted_call_asks_it_once(rater: Rater, asking: Callable[..., LlmClassifier]) -> None:
    """The wrapped client talks to the same server here, yet its question alone is rated."""
    classifier = asking()
    with openai.OpenAI(base_url=rater.url, api_key="k") as client:
        wrapped = budgetctl.wrap(client, policy="quantile:0.9", classifier=classifier)
        wrapped.chat.completions.create(model="big", messages=[{"role": "user", "content": "Why?"}])
    assert [body["model"] for body in rater.seen] == ["small", "big"]


def test_records_can_keep_the_features(rater: Rater, asking: Callable[..., LlmClassifier]) -> None:
    assert asking().describe(query())["log_chars"] > 3
    assert rater.seen == []
