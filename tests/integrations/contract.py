"""What every integration keeps, whatever its framework: one class of tests that each of them fills in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

import pytest

from budgetctl import Budget
from budgetctl.outcomes import Outcome
from budgetctl.types import StopReason
from tests.engines.scripted import ANSWER, Scripted, serving

TEXT = "".join(ANSWER)
LEVELS = ("minimal", "low", "medium", "high")


class Collect:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.rows: list[Outcome] = []

    def write(self, outcome: Outcome, *, text: str | None = None) -> None:
        self.rows.append(outcome)


class NumberInTheQuestion:
    """A policy of a user's own: the last word of the question is the number of tokens it may cost."""

    needs_estimate = False

    def budget(self, situation: Any) -> Budget:
        return Budget(reasoning_tokens=int(situation.query.text.split()[-1]), stop="none")


class LevelInTheQuestion:
    """The same for models that have levels only: ``LEVELS``, one after the other."""

    needs_estimate = False

    def budget(self, situation: Any) -> Budget:
        return Budget(effort=LEVELS[int(situation.query.text.split()[-1]) % 4], stop="none")


class Contract:
    """The tests. A subclass makes its framework's object and asks it.

    Attributes:
        ways: How it can be called; those that end in ``stream`` bring their answer in pieces.
        pieces: What the server answers.
        long: The same, in many pieces.
        answer: What :meth:`ask` returns for it.
        pinned: Parameters that the caller sets, and the value that arrives.
        pinned_as: What the record calls it, where that is not the parameter's own name.
        ceiling: The same under ``caller_values="ceiling"``.
    """

    ways: ClassVar[tuple[str, ...]]
    policy: ClassVar[Any] = "cap:50"
    by_question: ClassVar[Any] = NumberInTheQuestion()
    budget: ClassVar[tuple[str, Any]] = ("thinking_token_budget", 50)
    pinned: ClassVar[tuple[Any, Any]] = ({"extra_body": {"thinking_token_budget": 300}}, 300)
    pinned_as: ClassVar[str] = ""
    ceiling: ClassVar[tuple[Any, Any]] = pinned[0], 50
    pieces: ClassVar[tuple[str, ...]] = ANSWER
    long: ClassVar[tuple[str, ...]] = ("4",) * 400
    answer: ClassVar[Any] = TEXT

    def made(self, server: Scripted, policy: Any, *, own: dict[str, Any], **settings: Any) -> Any:
        """Return what is asked, under ``policy``; ``own`` are parameters that the caller sets."""
        raise NotImplementedError

    def bare(self, server: Scripted) -> Any:
        """Return the same without us."""
        raise NotImplementedError

    async def ask(self, made: Any, way: str, question: str) -> Any:
        """Ask in one way and return the answer."""
        raise NotImplementedError

    def stream(self, made: Any, way: str, question: str) -> Any:
        """Return an async iterator over the pieces; closing it is how callers leave."""
        raise NotImplementedError

    async def settle(self, sink: Collect, rows: int = 1) -> None:
        """Wait for frameworks that tell later how a call ended."""

    async def close(self) -> None:
        """Close what was opened."""

    # --- what is shared ---

    @pytest.fixture
    async def server(self) -> AsyncIterator[Scripted]:
        with serving() as running:
            running.answer = self.pieces
            running.socket.listen(50)
            yield running
            await self.close()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test in every way that the framework has and the test is about."""
        kinds = {"way": "", "streamed": "stream", "cancelled": "async"}
        for name in kinds.keys() & set(metafunc.fixturenames):
            metafunc.parametrize(name, [way for way in self.ways if kinds[name] in way])

    def sent(self, server: Scripted) -> Any:
        """Return the budget of the latest request."""
        return server.seen[-1].body.get(self.budget[0])

    # --- the contract ---

    async def test_the_budget_is_on_the_wire_and_the_outcome_is_recorded(self, server: Scripted, way: str):
        sink = Collect()
        made = self.made(server, self.policy, own={}, sink=sink)
        assert await self.ask(made, way, "What is it?") == self.answer
        assert self.sent(server) == self.budget[1]
        await self.settle(sink)
        [row] = sink.rows
        assert row.answered
        assert row.fallback is None
        assert row.usage.reasoning_tokens

    async def test_a_value_of_the_callers_is_pinned(self, server: Scripted, way: str):
        sink = Collect()
        made = self.made(server, self.policy, own=self.pinned[0], sink=sink)
        assert await self.ask(made, way, "What is it?") == self.answer
        assert self.sent(server) == self.pinned[1]
        await self.settle(sink)
        assert [row.pinned for row in sink.rows] == [(self.pinned_as or self.budget[0],)]

    async def test_as_a_ceiling_it_is_only_gone_below(self, server: Scripted, way: str):
        made = self.made(server, self.policy, own=self.ceiling[0], caller_values="ceiling")
        assert await self.ask(made, way, "What is it?") == self.answer
        assert self.sent(server) == self.ceiling[1]

    async def test_observing_changes_nothing_and_records(self, server: Scripted, way: str):
        server.thought, sink = 80, Collect()
        assert await self.ask(self.bare(server), way, "What is it?") == self.answer
        made = self.made(server, self.policy, own={}, mode="observe", sink=sink)
        assert await self.ask(made, way, "What is it?") == self.answer
        plain, observed = (one.body for one in server.seen)
        assert observed == plain
        await self.settle(sink)
        assert [row.controls for row in sink.rows] == [()]

    async def test_a_refused_parameter_is_left_out_once_and_for_all(self, server: Scripted, way: str):
        server.refuses, server.thought, sink = (self.budget[0],), 20, Collect()
        made = self.made(server, self.policy, own={}, sink=sink)
        assert await self.ask(made, way, "What is it?") == self.answer
        assert [self.budget[0] in one.body for one in server.seen] == [True, False]
        await self.settle(sink)
        assert await self.ask(made, way, "And now?") == self.answer
        await self.settle(sink, 2)
        assert len(server.seen) == 3
        assert ["HTTP 400" in (row.fallback or "") for row in sink.rows] == [True, False]

    async def test_pieces_are_passed_on_as_they_come(self, server: Scripted, streamed: str):
        server.delay_s, server.thought, server.answer = 0.01, 20, self.long
        made = self.made(server, self.policy, own={})
        pieces = self.stream(made, streamed, "What is it?")
        async for _ in pieces:
            break
        assert server.seen[-1].sent < 100
        await pieces.aclose()

    async def test_leaving_a_stream_ends_the_generation(self, server: Scripted, streamed: str):
        server.delay_s, server.thought, server.answer = 0.01, 20, self.long
        sink = Collect()
        pieces = self.stream(self.made(server, self.policy, own={}, sink=sink), streamed, "What is it?")
        async for _ in pieces:
            break
        await pieces.aclose()
        assert await asyncio.to_thread(server.left_open) == []
        assert server.seen[-1].closed_by_client
        await self.settle(sink)
        assert [row.stop.reason for row in sink.rows] == [StopReason.CALLER]

    async def test_a_cancelled_task_ends_the_generation(self, server: Scripted, cancelled: str):
        server.scenario, sink = "stall", Collect()
        task = asyncio.create_task(
            self.ask(self.made(server, self.policy, own={}, sink=sink), cancelled, "What is it?")
        )
        async with asyncio.timeout(5):
            while not server.seen:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.left_open) == []
        await self.settle(sink)
        assert [row.stop.reason for row in sink.rows] == [StopReason.CALLER]

    async def test_fifty_calls_at_once_do_not_mix_their_budgets(self, server: Scripted, way: str):
        made = self.made(server, self.by_question, own={})
        asked = [f"For at most {n}" for n in range(1, 51)]
        if way.startswith("async"):
            answers = await asyncio.gather(*(self.ask(made, way, one) for one in asked))
        else:
            answers = await asyncio.gather(*(asyncio.to_thread(self._alone, made, way, one) for one in asked))
        assert answers == [self.answer] * 50
        for one in server.seen:
            n = int(self.question(one.body).split()[-1])
            assert one.body[self.budget[0]] == self.number(n)

    def _alone(self, made: Any, way: str, question: str) -> Any:
        return asyncio.run(self.ask(made, way, question))

    def question(self, body: dict[str, Any]) -> str:
        """Return the question that a request asks."""
        return str(next(m["content"] for m in body["messages"] if m["role"] == "user"))

    def number(self, n: int) -> Any:
        """Return what ``by_question`` sends for a question that ends in ``n``."""
        return n if isinstance(self.by_question, NumberInTheQuestion) else LEVELS[n % 4]


async def aiter_of(pieces: Iterator[Any]) -> AsyncIterator[Any]:
    """Turn a blocking iterator into an async one; what closes it closes that."""
    try:
        for piece in pieces:
            yield piece
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()
