"""Audits of the wrapped client: what is made once more, when, at what price, and what comes of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI
from openai._models import FinalRequestOptions

import budgetctl
from budgetctl import budgeted
from budgetctl.audit import Audits
from budgetctl.callbacks import Callbacks
from budgetctl.controller import Controller
from budgetctl.integrations._openai_io import again
from budgetctl.integrations.openai import wrap
from budgetctl.outcomes import Outcome
from budgetctl.pricing import Prices
from budgetctl.types import Limits
from tests.test_certificate import certificate

from .scripted import Scripted, serving

MESSAGES: Any = [{"role": "user", "content": "What is it?"}]
QWEN = "Qwen3-8B"
PRICES = Prices.load({QWEN: {"input": 1.0, "output": 10.0}})
ROOT = Path(__file__).resolve().parents[2]


class Collect:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[Outcome] = []

    def write(self, outcome: Outcome, *, text: str | None = None) -> None:
        self.rows.append(outcome)


@pytest.fixture
def server() -> Iterator[Scripted]:
    with serving(thought=100) as running:
        yield running


@pytest.fixture
def sink() -> Collect:
    return Collect()


@pytest.fixture
def audits(tmp_path: Path) -> Callable[..., Audits]:
    def make(**options: Any) -> Audits:
        options = {"policy": "cap:50", "rate": 1.0, "usd_per_day": 100.0} | options
        return Audits(tmp_path / "audits.jsonl", **options)

    return make


Make = Callable[..., OpenAI]


@pytest.fixture
def client(server: Scripted, sink: Collect) -> Iterator[Make]:
    opened: list[OpenAI] = []

    def make(audits: Audits, policy: str = "cap:50", **settings: Any) -> OpenAI:
        sdk = OpenAI(base_url=server.url, api_key="x", max_retries=0)
        opened.append(sdk)
        settings = {"classifier": None, "prices": PRICES, "sink": sink} | settings
        return wrap(sdk, policy=policy, endpoint="vllm", audits=audits, **settings)

    yield make
    for one in opened:
        one.close()


def ask(client: Any, **params: Any) -> Any:
    return client.chat.completions.create(**{"model": QWEN, "messages": MESSAGES, **params})


def done(audits: Audits) -> Audits:
    assert audits.background.wait(10), "an audit is still running"
    return audits


def test_a_whole_answer_is_delivered_before_its_audit_begins(server, audits, client):
    made = audits()
    ask(client(made))
    assert len(server.seen) == 1
    done(made)
    assert server.paths == ["/chat/completions"] * 2
    assert made.evidence.n == 1


def test_a_stream_is_read_to_its_end_before_its_audit_begins(server, audits, client):
    made = audits()
    for _ in ask(client(made), stream=True):
        assert len(server.seen) == 1
        time.sleep(0.002)
    done(made)
    assert len(server.seen) == 2
    assert server.seen[1].body["stream"] is True


def test_who_leaves_a_stream_gets_no_audit(server, audits, client):
    made = audits()
    with ask(client(made), stream=True) as stream:
        next(iter(stream))
    done(made)
    time.sleep(0.1)
    assert len(server.seen) == 1


@pytest.fixture
async def asynchronous(server: Scripted, sink: Collect) -> AsyncIterator[Make]:
    opened: list[AsyncOpenAI] = []

    def make(audits: Audits) -> Any:
        sdk = AsyncOpenAI(base_url=server.url, api_key="x", max_retries=0)
        opened.append(sdk)
        settings: Any = {"classifier": None, "prices": PRICES, "sink": sink, "audits": audits}
        return wrap(sdk, policy="cap:50", endpoint="vllm", **settings)

    yield make
    for one in opened:
        await one.close()


async def test_an_async_call_is_audited_by_a_task_that_nothing_else_holds(server, audits, asynchronous):
    made = audits()
    await ask(asynchronous(made))
    assert len(server.seen) == 1
    assert await made.background.wait_tasks(10)
    async for _ in await ask(asynchronous(made), stream=True):
        assert len(server.seen) == 3
    assert await made.background.wait_tasks(10)
    assert len(server.seen) == 4
    assert made.evidence.n == 2


async def test_async_audits_are_made_a_few_at_a_time(server, audits, asynchronous):
    server.delay_s, made = 0.001, audits()
    one = asynchronous(made)
    await asyncio.gather(*(ask(one) for _ in range(6)))
    assert await made.background.wait_tasks(20)
    assert made.evidence.n == 6


def test_the_audit_is_the_call_as_its_caller_wrote_it(server, audits, client):
    made = audits()
    own: Any = {"temperature": 0.6, "max_tokens": 900, "extra_body": {"top_k": 20}}
    ask(client(made), **own)
    done(made)
    first, audit = (one.body for one in server.seen)
    assert first["thinking_token_budget"] == 50
    sent = {"model": QWEN, "messages": MESSAGES, "temperature": 0.6, "max_tokens": 900, "top_k": 20}
    assert audit == sent


def test_it_does_not_ask_for_the_first_answer_again():
    headers = {"Idempotency-Key": "mine", "X-Team": "a"}
    options = FinalRequestOptions.construct(method="post", url="/chat/completions", headers=headers)
    options.idempotency_key = "of the first"
    made = again(options)
    assert (made.headers, made.idempotency_key) == ({"X-Team": "a"}, None)
    assert options.headers == headers


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "function", "function": {"name": "pay", "parameters": {"type": "object"}}}]},
        {"functions": [{"name": "pay", "parameters": {"type": "object"}}]},
        {"web_search_options": {}},
        {"store": True},
        {"n": 2},
        {"extra_body": {"plugins": [{"id": "web"}]}},
        {"extra_body": {"nobody_knows": 1}},
    ],
)
def test_what_may_do_more_than_answer_is_never_made_again(server, audits, client, sink, more):
    made = audits()
    ask(client(made), **more)
    done(made)
    time.sleep(0.1)
    assert len(server.seen) == 1
    assert not sink.rows[0].decision.audit


@pytest.mark.parametrize("limits", [Limits(deadline_s=30), Limits(reasoning_tokens=60)])
def test_a_limit_of_the_callers_forbids_it(server, audits, client, limits):
    made = audits()
    ask(client(made, limits=limits))
    done(made)
    time.sleep(0.1)
    assert len(server.seen) == 1


def test_nothing_is_audited_under_another_policy_or_where_nothing_is_enforced(server, audits, client):
    made = audits()
    ask(client(made, "cap:60"))
    ask(client(made, mode="observe"))
    ask(client(audits(rate=0.0)))
    done(made)
    time.sleep(0.1)
    assert len(server.seen) == 3


def test_the_audit_is_a_record_of_its_own_and_never_the_callers(server, audits, client, sink):
    heard: list[Any] = []
    made = audits(rate=1.0)
    callbacks = Callbacks(on_delta=heard.append)
    reply = ask(
        client(made, route="support", callbacks=callbacks),
        stream=True,
        stream_options={"include_usage": True},
    )
    for _ in reply:
        pass
    assert callbacks.flush()
    seen = len(heard)
    done(made)
    assert callbacks.flush()
    assert len(heard) == seen
    own, audit = sink.rows
    assert budgetctl.outcome(reply).id == own.id
    assert own.decision.audit
    assert (own.parent_id, own.action_probability, own.reasoning_tokens) == (None, 1.0, 50)
    assert (audit.parent_id, audit.route, audit.policy) == (own.id, "support", "full")
    assert (audit.reasoning_tokens, audit.action_probability, audit.controls) == (100, 1.0, ())
    assert audit.cost_usd == pytest.approx((10 * 1 + 104 * 10) / 1e6)


def test_the_record_says_how_rare_an_audit_is(server, audits, client, sink):
    class Always:
        def random(self) -> float:
            return 0.0

    made = audits(rate=0.02, rng=Always())
    ask(client(made))
    done(made)
    assert [row.action_probability for row in sink.rows] == [1.0, 0.02]


def test_a_function_around_the_client_keeps_its_own_outcome_and_hears_of_the_audit(server, audits, client):
    sink, made = Collect(), audits()
    inner = client(audits(rate=0.0), "off")

    @budgeted(
        "cap:50", route="outer", sinks=[sink], audits=made, endpoint="vllm", classifier=None, model=QWEN
    )
    def question(question: str, **llm: Any) -> Any:
        return ask(inner, **llm)

    reply = question("What is it?")
    done(made)
    own, audit = sink.rows
    assert budgetctl.outcome(reply).id == own.id == audit.parent_id
    assert audit.route == "outer"


def journal(tmp_path: Path) -> list[dict[str, Any]]:
    lines = (tmp_path / "audits.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line]


def test_the_days_limit_holds_for_fifty_calls_at_once(server, audits, client, tmp_path):
    made = audits(usd_per_day=None, tokens_per_day=2500)
    one = client(made)
    with ThreadPoolExecutor(50) as pool:
        list(pool.map(lambda _: ask(one, max_tokens=1000), range(50)))
    done(made)
    spent = 0
    for row in journal(tmp_path):
        spent += row.get("tokens", 0)
        assert spent <= 2500
    audited = len(server.seen) - 50
    assert spent == audited * 114  # what they cost, no longer what was set aside
    assert 2 <= audited < 50
    assert 2500 - spent < 1010  # the next one might have cost too much


def test_another_day_is_another_limit(server, audits, client):
    days = iter(["2026-01-01", "2026-01-01", "2026-01-02"])
    made = audits(usd_per_day=0.011, today=lambda: next(days))
    one = client(made)
    for _ in range(3):
        ask(one, max_tokens=1000)
        done(made)
    assert made.evidence.n == 2


@pytest.mark.parametrize(("limit", "audited"), [({}, 0), ({"tokens_per_day": 10**6}, 1)])
def test_an_unknown_price_is_too_dear_unless_tokens_are_limited(server, audits, client, limit, audited):
    made = audits(**limit)
    ask(client(made, prices=Prices(())))
    assert done(made).evidence.n == audited


@pytest.mark.parametrize("failure", [(500, {}), (429, {"retry-after": "30"})])
def test_a_failing_audit_costs_the_audit(server, audits, client, failure, tmp_path):
    made = audits()
    reply = ask(client(made))
    server.failures = [failure]
    done(made)
    assert reply.choices[0].message.content == "The answer is 42."
    assert len(server.seen) == 2  # it is not tried again
    assert made.evidence.n == 0
    assert sum(row.get("usd", 0) for row in journal(tmp_path)) == pytest.approx(0)


def test_a_comparison_of_your_own_may_fail_too(server, audits, client):
    def agree(delivered: str, full: str) -> bool:
        raise RuntimeError(f"{delivered} or {full}")

    made = audits(agree=agree)
    ask(client(made))
    assert done(made).evidence.n == 0


def test_a_comparison_of_your_own_gets_the_delivered_answer_first(server, audits, client):
    server.scenario, seen = "wrong under a cap", []
    made = audits(agree=lambda delivered, full: seen.append((delivered, full)) is None)
    ask(client(made))
    assert done(made).evidence.e_above < 1
    assert seen == [("The answer is 41.", "The answer is 42.")]


def test_full_thinking_that_does_not_answer_has_lost_nothing(server, audits, client):
    made = audits()
    ask(client(made))
    server.scenario = "empty"
    assert done(made).evidence.e_above < 1


def test_a_call_that_was_made_at_full_thinking_is_its_own_audit(server, audits, client):
    made = audits(policy="exchange:0+stop:none")
    ask(client(made, "exchange:0+stop:none"))
    assert done(made).evidence.n == 1
    assert len(server.seen) == 1


SCRIPT = """
import sys
from openai import OpenAI
from budgetctl.audit import Audits
from budgetctl.integrations.openai import wrap
audits = Audits(sys.argv[2], policy="cap:50", rate=1.0, tokens_per_day=10**9)
client = wrap(OpenAI(base_url=sys.argv[1], api_key="x", max_retries=0), policy="cap:50", endpoint="vllm",
              classifier=None, audits=audits)
for _ in range(int(sys.argv[3])):
    client.chat.completions.create(model="Qwen3-8B", messages=[{"role": "user", "content": "What is it?"}])
    print("delivered", flush=True)
"""


def script(server: Scripted, path: Path, calls: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, server.url, str(path), str(calls)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_the_end_of_the_process_waits_for_audits_a_little(server, tmp_path, audits):
    with script(server, tmp_path / "audits.jsonl", 3) as process:
        assert process.wait(30) == 0
    assert audits(usd_per_day=None, tokens_per_day=1).evidence.n == 3


def test_but_not_for_one_that_hangs(server, tmp_path):
    with script(server, tmp_path / "audits.jsonl", 1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        server.scenario = "stall"
        began = time.monotonic()
        assert process.wait(30) == 0
        assert time.monotonic() - began < 10
    assert len(server.seen) == 2


def test_kill_9_loses_no_evidence(server, tmp_path, audits):
    with script(server, tmp_path / "audits.jsonl", 1000) as process:
        while len([row for row in _rows(tmp_path) if "loss" in row]) < 5:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    kept = journal(tmp_path)
    made = audits(usd_per_day=None, tokens_per_day=1)
    assert made.evidence.n == len([row for row in kept if "loss" in row]) >= 5
    set_aside = sum(row.get("tokens", 0) for row in kept)
    assert set_aside >= 114 * made.evidence.n  # what was running when it was killed is paid for


def _rows(tmp_path: Path) -> list[dict[str, Any]]:
    return journal(tmp_path) if (tmp_path / "audits.jsonl").exists() else []


@pytest.fixture
def certified(tmp_path: Path) -> Path:
    path = tmp_path / "cert.json"
    certificate("cap:50+stop:none", model=QWEN).save(path)
    return path


def test_auto_stands_on_a_certificate_until_its_audits_say_that_answers_got_worse(
    server, audits, client, certified, caplog
):
    made = audits(policy=None, certificate=certified)
    one = client(made, "auto")
    first = budgetctl.outcome(ask(one))
    done(made)
    assert first.certificate == certificate("cap:50+stop:none", model=QWEN).id
    assert first.decision.reasons[0].startswith("auto stage 1: certificate")
    assert server.seen[0].body["thinking_token_budget"] == 50

    server.scenario, last = "wrong under a cap", first
    for _ in range(20):
        last = budgetctl.outcome(ask(one))
        done(made)
    assert last.certificate is None
    assert "auto stage 0" in last.decision.reasons[0]
    assert "audits raised the alarm" in (last.certificate_void_reason or "")
    assert "was stage 1" in (last.certificate_void_reason or "")
    assert "thinking_token_budget" not in server.seen[-1].body
    assert [r.levelname for r in caplog.records if "auto stands on stage 0" in r.message] == ["WARNING"]
    assert made.evidence.n < 10

    anew = audits(policy=None, certificate=certified)  # as another process would
    assert budgetctl.outcome(ask(client(anew, "auto"))).certificate is None


def test_auto_without_a_certificate_is_what_it_was(server, audits, client):
    bare = Controller("auto", classifier=None)
    query = budgetctl.Query.from_text("x", model=QWEN)
    facts = bare.capabilities.lookup(QWEN, "vllm").facts()
    with_audits = Controller("auto", classifier=None, audits=audits(policy="auto"))
    for controller in (bare, with_audits):
        decision = controller.decide(query, facts=facts, endpoint="vllm")
        assert decision.reasons == ("auto stage 0: natural length unknown, no cap",)
        assert decision.certificate_void_reason == "no certificate configured"
