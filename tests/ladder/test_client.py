"""A ladder over real clients of the OpenAI SDK, against servers on loopback: answers, records, totals."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, OpenAI

import budgetctl
from budgetctl import budgeted
from budgetctl.errors import ConfigError, LimitExceeded
from budgetctl.integrations import _ladder_async
from budgetctl.ladder import (
    Agreement,
    Calibration,
    Confident,
    Draft,
    Ladder,
    Rates,
    Verdict,
    Verified,
    over,
)
from budgetctl.ledger import Ledger
from budgetctl.types import Query
from tests.ladder.rungserver import RungServer, Says, serving

HI = [{"role": "user", "content": "What is 6 times 7?"}]
THREE = ["small@off", "small@full", "large@full"]
PRICES = {"small": {"input": 1, "output": 2}, "large": {"input": 10, "output": 20}}


class Kept:
    """A sink that keeps rows."""

    def __init__(self) -> None:
        self.rows: list[budgetctl.Outcome] = []

    def write(self, outcome: budgetctl.Outcome, *, text: str | None = None) -> None:
        self.rows.append(outcome)


@pytest.fixture
def server() -> Iterator[RungServer]:
    with serving() as made:
        yield made


Ask = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, server: RungServer) -> Ask:
    """Makes a ladder over clients of one kind, asks it once, and reads a stream to its end."""

    def asked(rungs: Any = THREE, *, params: dict[str, Any] | None = None, **more: Any) -> tuple[Any, Any]:
        params = {"messages": HI, **(params or {})}
        if request.param == "sync":
            with server.sync() as client:
                ladder = over({"small": client, "large": client}, rungs, **more)
                reply = ladder.chat.completions.create(**params)
                return reply, list(reply) if params.get("stream") else None

        async def later() -> tuple[Any, Any]:
            async with server.asynchronous() as client:
                ladder = over({"small": client, "large": client}, rungs, **more)
                reply = await ladder.chat.completions.create(**params)
                return reply, [chunk async for chunk in reply] if params.get("stream") else None

        return asyncio.run(later())

    return asked


def text(chunks: Any) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def test_an_accepted_draft_is_the_answer_and_nothing_else_is_asked(server: RungServer, ask: Ask):
    reply, _ = ask(accept=Confident(0.9))
    assert reply.choices[0].message.content == "42"
    assert server.asked == ["small"]
    assert budgetctl.outcome(reply).ladder.rung == 0


def test_thinking_grows_before_the_model_does(server: RungServer, ask: Ask):
    ask(accept=Verified(lambda query, answer: False))
    assert server.asked == ["small", "small", "large"]


@pytest.mark.parametrize("stream", [False, True])
def test_every_rung_leaves_its_row_and_the_reply_the_sum(server: RungServer, ask: Ask, stream: bool):
    sink = Kept()
    usage = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    reply, chunks = ask(
        accept=Verified(lambda query, answer: False),
        sink=sink,
        prices=budgetctl.pricing.Prices.load(PRICES),
        params=usage,
    )
    total = budgetctl.outcome(reply)
    assert [(r.ladder.rung, r.ladder.of, r.ladder.accepted) for r in sink.rows] == [
        (0, 3, False),
        (1, 3, False),
        (2, 3, True),
    ]
    assert {r.ladder.id for r in sink.rows} == {total.ladder.id}
    assert [r.ladder.why for r in sink.rows] == [
        "the verifier says no",
        "the verifier says no",
        "the last rung",
    ]
    assert [r.ladder.calls for r in sink.rows] == [1, 1, 1]
    assert total.ladder.calls == 3
    assert total.cost_usd == pytest.approx(sum(r.cost_usd for r in sink.rows))
    assert total.cost_usd == pytest.approx((2 * 20 + 200) / 1e6)
    assert (total.usage.prompt_tokens, total.usage.reasoning_tokens) == (30, 9)
    assert total.id == sink.rows[2].id, "feedback on the reply goes to the row that answered"
    assert total.timing.e2e_s >= sum(r.timing.e2e_s for r in sink.rows) * 0.9
    if stream:
        assert text(chunks) == "42"


def test_a_draft_delays_the_answer(server: RungServer, ask: Ask):
    server.script.models = {"small": Says(delay_s=0.2), "large": Says(thought="hm", chunk_s=0.02)}
    reply, _ = ask(["small", "large"], accept=Verified(lambda q, a: False), params={"stream": True})
    timing = budgetctl.outcome(reply).timing
    assert timing.ttft_s > 0.2
    assert timing.ttft_s < timing.ttfo_s < timing.e2e_s < 1


def test_an_accepted_stream_is_handed_on_as_it_came_and_the_last_as_it_comes(server: RungServer, ask: Ask):
    reply, chunks = ask(accept=Confident(0.9), params={"stream": True})
    assert text(chunks) == "42"
    assert [c.choices[0].delta.content for c in chunks] == ["4", "2", None]
    outcome = budgetctl.outcome(reply)
    assert outcome.timing.ttfo_s == outcome.timing.e2e_s, "it came at once"
    assert outcome.ladder.accepted


def test_logprobs_are_asked_for_where_they_are_needed_and_the_caller_did_not(server: RungServer, ask: Ask):
    server.script.models = {"small": Says(logprob=-2.0)}
    ask(accept=Confident(0.9))
    assert [body.get("logprobs") for body in server.bodies] == [True, True, None]
    server.bodies.clear()
    ask(accept=Confident(0.9), params={"logprobs": False})
    assert [body["logprobs"] for body in server.bodies] == [False] * 3
    server.bodies.clear()
    ask(accept=Verified(lambda query, answer: False))
    assert all("logprobs" not in body for body in server.bodies)


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_without_logprobs_is_never_guessed_about(server: RungServer, ask: Ask, stream: bool):
    server.script.models = {"small": Says(logprob=None)}
    sink = Kept()
    ask(accept=Confident(0.1), sink=sink, params={"stream": stream})
    assert server.asked == ["small", "small", "large"]
    assert sink.rows[0].ladder.why.startswith("confidence unknown")


def test_a_calibration_may_turn_confidence_down(server: RungServer, ask: Ask):
    timid = Calibration(knots=((0.0, 0.1), (1.0, 0.6)), n=100)
    reply, _ = ask(accept=Confident(0.9, timid))
    assert budgetctl.outcome(reply).ladder.rung == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_rung_that_fails_is_climbed_past(server: RungServer, ask: Ask, stream: bool):
    server.script.models = {"small": Says(status=503)}
    sink = Kept()
    reply, chunks = ask(accept=Confident(0.9), sink=sink, params={"stream": stream})
    assert server.asked == ["small", "small", "large"]
    assert [r.ladder.why for r in sink.rows][:2] == ["failed: InternalServerError (HTTP 503)"] * 2
    assert budgetctl.outcome(reply).usage.prompt_tokens in (10, None)
    assert text(chunks) == "42" if stream else reply.choices[0].message.content == "42"


def test_where_the_last_rung_fails_a_draft_is_the_answer(server: RungServer, ask: Ask):
    server.script.models = {"small": Says(answer="41", logprob=-3), "large": Says(status=500)}
    sink = Kept()
    reply, _ = ask(accept=Confident(0.9), sink=sink)
    assert reply.choices[0].message.content == "41"
    assert [r.ladder.accepted for r in sink.rows] == [False, True, False]
    assert "no rung above brought an answer" in budgetctl.outcome(reply).ladder.why


def test_a_last_stream_that_breaks_before_it_spoke_gives_way_to_a_draft(server: RungServer, ask: Ask):
    server.script.models = {"small": Says(answer="41", logprob=-3), "large": Says(thought="hm", breaks=1)}
    reply, chunks = ask(accept=Confident(0.9), params={"stream": True})
    assert text(chunks) == "41"
    assert budgetctl.outcome(reply).ladder.rung == 1


def test_a_last_stream_that_breaks_later_is_the_callers(server: RungServer, ask: Ask):
    server.script.models = {"small": Says(logprob=-3), "large": Says(answer="1234", breaks=1)}
    sink = Kept()
    with pytest.raises(Exception, match="Expecting property name"):
        ask(accept=Confident(0.9), sink=sink, params={"stream": True})
    assert len(sink.rows) == 3


def test_without_any_draft_the_last_error_surfaces(server: RungServer, ask: Ask):
    server.script.models = {"small": Says(status=500), "large": Says(status=418)}
    sink = Kept()
    with pytest.raises(APIStatusError, match="418"):
        ask(accept=Confident(0.9), sink=sink)
    assert [r.ladder.accepted for r in sink.rows] == [False] * 3


def test_a_truncated_draft_is_not_accepted(server: RungServer, ask: Ask):
    server.script.models = {"small": Says(finish="length")}
    ask(accept=Confident(0.1))
    assert server.asked[-1] == "large"


def test_a_tool_loop_goes_on_at_the_rung_that_made_the_call(server: RungServer):
    server.script.models = {"small": Says(calls="a1"), "large": Says(calls="b2")}
    judge = Verified(lambda query, answer: "look_up" not in answer)
    with server.sync() as client:
        ladder = over({"small": client, "large": client}, ["small", "large"], accept=judge)
        message = ladder.chat.completions.create(messages=HI, tools=[]).choices[0].message
        assert message.tool_calls[0].id == "b2"
        server.bodies.clear()
        result = {"role": "tool", "tool_call_id": "b2", "content": "1 is one"}
        ladder.chat.completions.create(messages=[*HI, message, result], tools=[])
        assert server.asked == ["large"], "never down within a turn"
        server.bodies.clear()
        ladder.chat.completions.create(messages=[*HI, message, result, *HI])
        assert server.asked[0] == "small", "another turn begins below"


@pytest.mark.parametrize("stream", [False, True])
def test_at_the_deadline_the_next_rung_is_begun_beside_and_the_loser_is_closed(
    server: RungServer, ask: Ask, stream: bool
):
    server.script.models = {"small": Says(answer="a long draft", chunk_s=0.8)}
    sink = Kept()
    begun = time.perf_counter()
    ladder = Ladder.of(["small", "large"], Confident(0.9), hedge_s=0.2)
    reply, chunks = ask(ladder, sink=sink, params={"stream": stream})
    assert time.perf_counter() - begun < 2.2
    assert text(chunks) == "42" if stream else reply.choices[0].message.content == "42"
    assert {r.ladder.rung: (r.ladder.accepted, r.ladder.why) for r in sink.rows} == {
        0: (False, "another rung was first"),
        1: (True, "the last rung"),
    }
    assert server.closed.wait(4), "the server was told"
    assert budgetctl.outcome(reply).ladder.calls == 2


def test_a_draft_that_comes_in_time_needs_no_hedge(server: RungServer, ask: Ask):
    reply, _ = ask(Ladder.of(["small", "large"], Confident(0.9), hedge_s=5.0))
    assert server.asked == ["small"]
    assert reply.choices[0].message.content == "42"
    assert reply.choices[0].logprobs.content[0].logprob == -0.01
    assert budgetctl.outcome(reply).usage.prompt_tokens == 10


def test_a_left_call_is_charged_for_what_it_used(server: RungServer, ask: Ask):
    server.script.models = {
        "small": Says(thought="t" * 400, answer="a long draft", chunk_s=0.5),
        "large": Says(delay_s=0.6),
    }
    prices = budgetctl.pricing.Prices.load(PRICES)
    sink = Kept()
    ask(Ladder.of(["small", "large"], Confident(0.9), hedge_s=0.1), sink=sink, prices=prices)
    left = next(r for r in sink.rows if r.ladder.rung == 0)
    assert left.stop.reason == "caller"
    assert left.usage.provenance == "estimated"
    assert left.cost_usd is not None
    assert left.cost_usd > 0


async def test_fifty_calls_at_once_do_not_mix(server: RungServer):
    def echo(body: dict[str, Any]) -> Says:
        number = body["messages"][0]["content"]
        return Says(answer=f"{body['model']} {number}", delay_s=0.01)

    server.script.choose = echo
    sink = Kept()
    odd = Verified(lambda query, answer: int(query.text) % 2 == 1)
    async with server.asynchronous() as client:
        ladder = over({"small": client, "large": client}, ["small", "large"], accept=odd, sink=sink)

        async def one(number: int) -> None:
            reply = await ladder.chat.completions.create(messages=[{"role": "user", "content": str(number)}])
            model = "small" if number % 2 else "large"
            assert reply.choices[0].message.content == f"{model} {number}"
            total = budgetctl.outcome(reply)
            assert (total.model, total.ladder.calls) == (model, 1 if number % 2 else 2)

        await asyncio.gather(*(one(n) for n in range(50)))
    assert len(sink.rows) == 75
    assert len({r.ladder.id for r in sink.rows}) == 50


def test_threads_do_not_mix_either(server: RungServer):
    server.script.choose = lambda body: Says(answer=body["messages"][0]["content"])
    with server.sync() as client:
        ladder = over({"small": client}, ["small@off", "small"], accept=Verified(lambda q, a: q.text == a))
        with ThreadPoolExecutor(16) as pool:
            replies = list(
                pool.map(
                    lambda n: ladder.chat.completions.create(messages=[{"role": "user", "content": str(n)}]),
                    range(50),
                )
            )
    assert [r.choices[0].message.content for r in replies] == [str(n) for n in range(50)]
    assert all(budgetctl.outcome(r).ladder.calls == 1 for r in replies)


async def test_a_cancelled_turn_closes_what_is_open(server: RungServer):
    server.script.models = {"small": Says(answer="a long draft", chunk_s=0.3)}
    sink = Kept()
    async with server.asynchronous() as client:
        ladder = over(
            {"small": client, "large": client}, ["small", "large"], accept=Confident(0.9), sink=sink
        )
        task = asyncio.create_task(ladder.chat.completions.create(messages=HI, stream=True))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await asyncio.to_thread(server.closed.wait, 4)
    assert [(r.ladder.rung, r.ladder.accepted, r.stop.reason) for r in sink.rows] == [(0, False, "caller")]


async def test_a_turn_that_is_cancelled_twice_is_recorded_all_the_same(server: RungServer):
    server.script.models = {"small": Says(delay_s=0.5), "large": Says(delay_s=0.5)}
    sink = Kept()
    async with server.asynchronous() as client:
        clients = {"small": client, "large": client}
        ladder = over(clients, ["small", "large"], accept=Confident(0.9), sink=sink, hedge_s=0.05)
        task = asyncio.create_task(ladder.chat.completions.create(messages=HI))
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.1)
    assert sorted(row.ladder.rung for row in sink.rows if row.ladder) == [0, 1]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_turn_that_is_cancelled_when_it_has_its_answer_is_recorded(server: RungServer, stream: bool):
    """Another rung is just being left, which takes a moment."""

    class Accepts:
        def judge(self, query: Query, draft: Draft, earlier: Sequence[Draft]) -> Verdict:
            raise NotImplementedError

        async def ajudge(self, query: Query, draft: Draft, earlier: Sequence[Draft]) -> Verdict:
            asyncio.get_running_loop().call_soon(task.cancel)
            return Verdict(accepted=True, why="it will do")

    server.script.models["small"] = Says(thought="hm", chunk_s=0.4)
    sink = Kept()
    async with server.asynchronous() as client:
        clients = {"small": client, "middle": client, "large": client}
        ladder = over(clients, ["small", "middle", "large"], accept=Accepts(), hedge_s=0.05, sink=sink)
        task = asyncio.ensure_future(ladder.chat.completions.create(messages=HI, stream=stream))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [(row.model, row.ladder.accepted) for row in sink.rows] == [
            ("small", False),
            ("middle", False),
        ]
        assert await asyncio.to_thread(server.closed.wait, 5)


async def test_a_stream_that_nobody_gets_any_more_is_closed(
    server: RungServer, monkeypatch: pytest.MonkeyPatch
):
    """The last rung has begun to speak, and the turn is cancelled while another one is being left."""
    leave = _ladder_async._Climb._leave_others

    async def cancelled(climb: Any) -> None:
        monkeypatch.undo()
        asyncio.get_running_loop().call_soon(task.cancel)
        await leave(climb)

    monkeypatch.setattr(_ladder_async._Climb, "_leave_others", cancelled)
    server.script.models |= {"small": Says(thought="hm", chunk_s=0.4), "large": Says(chunk_s=0.2)}
    sink = Kept()
    async with server.asynchronous() as client:
        ladder = over(
            {"small": client, "large": client},
            ["small", "large"],
            accept=Confident(0.9),
            hedge_s=0.05,
            sink=sink,
        )
        task = asyncio.ensure_future(ladder.chat.completions.create(messages=HI, stream=True))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [row.model for row in sink.rows] == ["small", "large"]
        assert not any(row.ladder.accepted for row in sink.rows)


def test_a_draft_of_which_something_cannot_be_read_is_not_accepted(server: RungServer, ask: Ask):
    server.script.models["small"] = Says(answer="4 or 42", garbles=0)
    reply, _ = ask(["small", "large"], accept=Verified(lambda query, answer: True), hedge_s=5)
    assert server.asked == ["small", "large"]
    assert reply.choices[0].message.content == "42"


def test_what_cannot_be_read_of_the_last_rung_is_handed_on_all_the_same(server: RungServer, ask: Ask):
    server.script.models["large"] = Says(answer="4 or 42", garbles=0)
    no = Verified(lambda query, answer: False)
    reply, _ = ask(["small", "large"], accept=no, hedge_s=5)
    assert reply.choices[0].message.content == "4 or 42"


def test_closing_the_stream_closes_the_upstream_and_records_the_turn(server: RungServer):
    server.script.models = {"small": Says(answer="1234567890" * 5, chunk_s=0.2)}
    sink = Kept()
    with server.sync() as client:
        ladder = over({"small": client}, ["small"], accept=Confident(0.9), sink=sink)
        with ladder.chat.completions.create(messages=HI, stream=True) as stream:
            next(stream)
    assert server.closed.wait(4)
    assert [(r.ladder.accepted, r.stop.reason) for r in sink.rows] == [(True, "caller")]


def test_a_dropped_stream_is_closed_and_recorded(server: RungServer):
    server.script.models = {"small": Says(answer="1234567890" * 5, chunk_s=0.2)}
    sink = Kept()
    with server.sync() as client:
        ladder = over({"small": client}, ["small"], accept=Confident(0.9), sink=sink)
        next(ladder.chat.completions.create(messages=HI, stream=True))
        assert len(sink.rows) == 1
    assert server.closed.wait(4)


async def test_a_verifier_may_wait(server: RungServer):
    seen: list[str] = []

    async def check(query: Query, answer: str) -> bool:
        await asyncio.sleep(0.01)
        seen.append(answer)
        return len(seen) == 2

    async with server.asynchronous() as client:
        ladder = over({"small": client, "large": client}, THREE, accept=Verified(check))
        reply = await ladder.chat.completions.create(messages=HI)
    assert (seen, budgetctl.outcome(reply).ladder.rung) == (["42", "42"], 1)
    with server.sync() as client, pytest.raises(ConfigError, match="needs AsyncOpenAI"):
        over({"small": client, "large": client}, THREE, accept=Verified(check))


async def test_a_blocking_verifier_does_not_block_the_loop(server: RungServer):
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    async with server.asynchronous() as client:
        judge = Verified(lambda query, answer: time.sleep(0.3) or True)
        ladder = over({"small": client, "large": client}, ["small", "large"], accept=judge)
        ticking = asyncio.create_task(tick())
        await ladder.chat.completions.create(messages=HI)
        ticking.cancel()
    assert ticks > 10


class SaysYes:
    """Judges, but not with a verdict."""

    def judge(self, query: Query, draft: Draft, earlier: Sequence[Draft]) -> bool:
        return True


class SaysYesLater(SaysYes):
    async def ajudge(self, query: Query, draft: Draft, earlier: Sequence[Draft]) -> bool:
        return True


@pytest.mark.parametrize("accept", [SaysYes(), SaysYesLater()], ids=["at once", "later"])
def test_what_is_no_verdict_has_not_accepted(server: RungServer, ask: Ask, accept: Any):
    reply, _ = ask(["small", "large"], accept=accept)
    assert server.asked == ["small", "large"]
    assert budgetctl.outcome(reply).ladder is not None


def test_a_draft_is_judged_without_the_line_breaks_around_it(server: RungServer, ask: Ask):
    server.script.models = {"small": Says(answer="<think>six sevens</think>\n\n42\n")}
    ask(["small", "large"], accept=Verified(lambda query, answer: answer == "42"))
    assert server.asked == ["small"]


def test_a_hedge_needs_asyncio(server: RungServer):
    trio = pytest.importorskip("trio")

    async def asked() -> None:
        async with server.asynchronous() as client:
            ladder = over(
                {"small": client, "large": client}, ["small", "large"], accept=Agreement(), hedge_s=1
            )
            await ladder.chat.completions.create(messages=HI)

    with pytest.raises(ConfigError, match="allowed: that of asyncio"):
        trio.run(asked)
    assert server.bodies == []


TRUST = Calibration(knots=((0.0, 0.0), (1.0, 1.0)), n=50)


class Waits:
    """Is called like a coroutine function."""

    async def __call__(self, query: Query) -> bool:
        return False


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Confident("0.9"), "confident:0.9: a probability"),  # type: ignore[arg-type]
        (lambda: Confident(True), "confident:True"),
        (lambda: Confident(0.9, "drafts.json"), "calibration: seen"),  # type: ignore[arg-type]
        (lambda: Verified(lambda answer: True), "a function of a query and an answer"),  # type: ignore
        (lambda: Verified(lambda query, answer: True, threshold=2), "threshold: seen 2"),
        (lambda: Agreement(same=3), "a function of two answers"),  # type: ignore[arg-type]
        (lambda: Rates(accepted=5), "accepted: seen 5, allowed: a share"),
    ],
)
def test_what_judges_is_checked_when_it_is_made(make: Callable[[], Any], said: str):
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.mark.parametrize("stream", [False, True])
def test_rungs_decide_inside_a_budgeted_function_which_gets_their_records(server: RungServer, stream: bool):
    server.script.models = {"small": Says(answer="?")}
    seen, ledger = Kept(), Ledger({"limits": [{"name": "all", "tokens": 10**6, "window": "day"}]})
    with server.sync() as client:
        ladder = over(
            {"qwen3-4b": client, "large": client},
            ["qwen3-4b@off", "large@full"],
            accept=Verified(lambda query, answer: False),
            endpoints={"qwen3-4b": "vllm"},
            ledger=ledger,
        )

        @budgeted("effort:low", route="support", sink=seen, ledger=ledger)
        def answer(question: str, **llm: Any) -> Any:
            said = [{"role": "user", "content": question}]
            asked = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
            reply = ladder.chat.completions.create(messages=said, **asked, **llm)
            return list(reply) and reply if stream else reply

        total = budgetctl.outcome(answer("What is 6 times 7?"))
    assert [body.get("reasoning_effort") for body in server.bodies] == [None, None]
    assert server.bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}
    assert [(row.policy, row.route) for row in seen.rows] == [("off", "support"), ("full", "support")]
    assert total.ladder is not None
    assert (total.ladder.rung, total.ladder.calls, total.usage.prompt_tokens) == (1, 2, 20)
    if not stream:
        assert [(s.spent, s.held) for s in ledger.standing()] == [(30, 0)]


def test_what_is_wrong_is_said_before_any_call(server: RungServer):
    with server.sync() as client, server.sync() as other:
        clients = {"small": client, "large": other}
        for arguments, said in [
            ({"rungs": ["small"], "accept": Confident(0.9), "private": True}, "no rung is one"),
            ({"rungs": ["medium"], "accept": Confident(0.9)}, "no client for medium"),
            ({"rungs": THREE}, "say what judges drafts"),
            ({"rungs": THREE, "accept": Confident(0.9), "local": ["tiny"]}, "allowed: models of the rungs"),
            ({"rungs": Ladder.of(["small"], Confident(0.9)), "hedge_s": 3.0}, "say it to the Ladder"),
            ({"rungs": ["small"], "accept": Confident(0.9), "private": "yes"}, "a plain function of a query"),
            (
                {"rungs": ["small"], "accept": Confident(0.9), "private": lambda: True},
                "a plain function of a",
            ),
            (
                {"rungs": ["small"], "accept": Confident(0.9), "private": Waits()},
                "a plain function of a query",
            ),
            ({"rungs": "small@off", "accept": Confident(0.9)}, "rungs: seen 'small@off', allowed: a list"),
            ({"rungs": None, "accept": Confident(0.9)}, "rungs: seen None"),
            ({"rungs": ["small"], "accept": Confident(0.9), "local": "small"}, "local: seen 'small'"),
            ({"rungs": ["small"], "accept": Confident}, "accept: seen <class"),
            (
                {"rungs": THREE, "accept": Confident(0.9, [TRUST])},
                "calibration: seen 1, allowed: one for all",
            ),
            ({"rungs": ["small"], "accept": Confident(0.9), "hedge_s": "2"}, "hedge_s: seen '2'"),
            ({"rungs": ["small"], "accept": Confident(0.9), "hedge_s": True}, "hedge_s: seen True"),
            ({"rungs": ["small"], "accept": Confident(0.9), "policy": "off"}, "each rung has its own"),
            (
                {"rungs": ["small"], "accept": Confident(0.9), "usd_per_correct": -1},
                "usd_per_correct: seen -1",
            ),
            (
                {
                    "rungs": THREE,
                    "accept": Confident(0.9),
                    "usd_per_correct": 1,
                    "rates": [Rates(accepted=1)],
                },
                "allowed: 3 Rates",
            ),
            (
                {"rungs": ["small"], "accept": Confident(0.9), "endpoints": {"tiny": "vllm"}},
                "endpoints: seen",
            ),
        ]:
            with pytest.raises(ConfigError, match=said):
                over(clients, **arguments)
        with pytest.raises(ConfigError, match="clients: seen None"):
            over(None, ["small"], accept=Confident(0.9))  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="allowed: OpenAI clients"):
            over({"small": object()}, ["small"], accept=Confident(0.9))
        with pytest.raises(ConfigError, match="cheapest first"):
            over(
                clients,
                ["large", "small"],
                accept=Confident(0.9),
                prices=budgetctl.pricing.Prices.load(PRICES),
            )
        ladder = over(clients, THREE, accept=Confident(0.9))
        for params, said in [
            ({"model": "small"}, "the rungs of the ladder name the models"),
            ({"extra_body": {"model": "small"}}, "the rungs of the ladder name the models"),
            ({"extra_body": {"messages": []}}, "an argument of its own"),
            ({"n": 2}, "allowed: 1"),
            ({"messages": "What is 6 times 7?"}, "a list of messages"),
            ({"messages": ["What is 6 times 7?"]}, "a list of messages"),
        ]:
            with pytest.raises(ConfigError, match=said):
                ladder.chat.completions.create(**{"messages": HI, **params})
        for ask in (lambda: ladder.responses, lambda: ladder.chat.completions.parse):
            with pytest.raises(AttributeError, match=r"chat\.completions\.create\(\) alone"):
                ask()
        with pytest.raises(TypeError, match="unheard_of"):
            ladder.chat.completions.create(messages=HI, unheard_of=1)
    assert server.bodies == []


def test_the_callers_objects_stay_as_they_are(server: RungServer):
    params = {"messages": [dict(HI[0])], "extra_body": {"top_k": 5}}
    before = repr(params)
    with server.sync() as client:
        methods = vars(client).copy()
        over({"small": client}, ["small@off", "small"], accept=Confident(0.9)).chat.completions.create(
            **params
        )
        assert {k for k in vars(client) if vars(client)[k] is not methods.get(k)} <= {"chat", "completions"}
    assert repr(params) == before


def test_a_limit_refuses_before_the_call_and_the_ladder_goes_on(server: RungServer):
    refused = threading.Event()

    class Limited(OpenAI):
        def request(self, cast_to: Any, options: Any, **more: Any) -> Any:
            if options.json_data["model"] == "large":
                refused.set()
                raise LimitExceeded(
                    limit="d", window="day", unit="usd", amount=1, spent=1, held=0, asked=1, cheaper=True
                )
            return super().request(cast_to, options, **more)

    sink = Kept()
    with Limited(base_url=f"{server.url}/v1", api_key="x") as client:
        judge = Verified(lambda query, answer: False)
        ladder = over({"small": client, "large": client}, ["small", "large"], accept=judge, sink=sink)
        reply = ladder.chat.completions.create(messages=HI)
    assert refused.is_set()
    assert reply.choices[0].message.content == "42"
    assert budgetctl.outcome(reply).ladder.calls == 1, "what was not made is not counted"


class Sure:
    """A classifier that knows how good each model is."""

    hash = "sure"

    def __init__(self, **right: float) -> None:
        self.right = right

    def estimate(self, query: Query) -> budgetctl.Estimate:
        curve = budgetctl.types.Quantiles(p50=1, p80=2, p90=3, p95=4)
        p = self.right[str(query.model)]
        return budgetctl.Estimate(
            p_off=p, p_full=p, settled=curve, natural=curve, confidence=1.0, source="sure"
        )


async def test_the_start_rung_may_be_chosen(server: RungServer):
    async with server.asynchronous() as client:
        ladder = over(
            {"small": client, "large": client},
            ["small", "large"],
            accept=Confident(0.9),
            usd_per_correct=0.01,
            classifier=Sure(small=0.01, large=0.9),
            prices=budgetctl.pricing.Prices.load({**PRICES, "small": {"input": 1, "output": 19}}),
        )
        await ladder.chat.completions.create(messages=HI)
    assert server.asked == ["large"]


@pytest.mark.parametrize(("words", "first"), [(1, "small"), (4_000, "large")])
def test_the_start_rung_of_a_long_prompt_is_chosen_by_what_that_costs(
    server: RungServer, words: int, first: str
):
    tiers = [{"above": 1_000, "input": 100, "output": 100}]
    with server.sync() as client:
        ladder = over(
            {"small": client, "large": client},
            ["small", "large"],
            accept=Confident(0.9),
            usd_per_correct=1,
            classifier=Sure(small=0.5, large=0.9),
            prices=budgetctl.pricing.Prices.load(
                {**PRICES, "small": {"input": 1, "output": 2, "tiers": tiers}}
            ),
        )
        ladder.chat.completions.create(messages=[{"role": "user", "content": "why " * words}])
    assert server.asked == [first]


def test_feedback_on_a_reply_finds_the_row_that_answered(server: RungServer, ask: Ask, tmp_path: Path):
    reply, _ = ask(accept=Verified(lambda query, answer: False), sink=tmp_path / "outcomes.jsonl")
    budgetctl.feedback(budgetctl.outcome(reply).id, correct=True)
    rows = [json.loads(line) for line in (tmp_path / "outcomes.jsonl").read_text().splitlines()]
    assert [row["ladder"]["rung"] for row in rows[:3]] == [0, 1, 2]
    assert rows[3]["id"] == rows[2]["id"]


def test_a_blocking_call_that_has_not_begun_is_left_and_recorded_when_it_ends(server: RungServer):
    server.script.models = {"small": Says(delay_s=0.8)}
    sink = Kept()
    with server.sync() as client:
        ladder = over(
            {"small": client, "large": client},
            Ladder.of(["small", "large"], Confident(0.9), hedge_s=0.1),
            sink=sink,
        )
        begun = time.perf_counter()
        reply = ladder.chat.completions.create(messages=HI)
        assert time.perf_counter() - begun < 0.75
        total = budgetctl.outcome(reply)
        assert (total.ladder.rung, total.ladder.calls, total.cost_usd) == (1, 2, None), (
            "what it will cost is unknown"
        )
        for _ in range(100):
            if len(sink.rows) == 2:
                break
            time.sleep(0.02)
    assert [(r.ladder.rung, r.ladder.accepted) for r in sink.rows] == [(1, True), (0, False)]


def test_where_a_ledger_has_no_room_for_the_last_rung_a_draft_is_the_answer(server: RungServer, ask: Ask):
    limits = [{"name": "all", "tokens": 130, "window": "day"}]
    controller = budgetctl.Settings.load({"spend": {"limits": limits}}, env={}).controller()
    judge = Verified(lambda query, answer: False)
    reply, _ = ask(accept=judge, controller=controller, params={"max_completion_tokens": 100})
    outcome = budgetctl.outcome(reply)
    assert server.asked == ["small", "small"], "15 tokens each, and 100 more are too many"
    assert (outcome.ladder.rung, outcome.ladder.calls) == (1, 2)
