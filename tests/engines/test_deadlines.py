"""Deadlines on a real server under concurrent calls: ``transformers serve`` with the pocket reasoner.

The server generates one answer after the other, first come, first served. So a call waits for all that came
before it, twice when its thought is cut and the answer takes a request of its own. Each deadline is a
multiple of what full thinking takes, measured just before at the same concurrency. The test's own clock
decides, for that is the contract: other work on the machine may make a cell fail, where its load changes
faster than it can be learned.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from typing import Any

import pytest
from openai import OpenAI

import budgetctl
from budgetctl.integrations.openai import wrap
from budgetctl.outcomes import Outcome

from .served import Served, serving

pytestmark = [
    pytest.mark.skipif("TEST_DEADLINES" not in os.environ, reason="by the clock: make test-engines"),
    pytest.mark.skipif(find_spec("torch") is None, reason="needs torch and transformers"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the server's helper reads /proc"),
    pytest.mark.timeout(1800),
]
CALLS = 120
LATE = 1.1
"""The 95th percentile of a cell may be so much of its deadline."""


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One call on the caller's clock."""

    seconds: float
    answer: str
    outcome: Outcome


class Load:
    """Makes calls to one server, so many at a time, each with another question."""

    def __init__(self, server: Served, client: Any) -> None:
        from budgetctl.evals import pocket

        self.client = client
        self._model = server.model
        self._questions = [q.text for q in pocket.questions("test", 400)]
        self._asked = count()

    def calls(self, policy: str, n: int, *, concurrency: int, stream: bool) -> list[Timed]:
        """Make ``n`` calls under ``policy``."""
        client = self.client.with_policy(policy)
        with ThreadPoolExecutor(concurrency) as pool:
            return list(pool.map(lambda _: self._call(client, stream=stream), range(n)))

    def _call(self, client: Any, *, stream: bool) -> Timed:
        text = self._questions[next(self._asked) % len(self._questions)]
        started = time.perf_counter()
        messages = [{"role": "user", "content": text}]
        reply = client.chat.completions.create(model=self._model, messages=messages, stream=stream)
        if stream:
            answer = "".join(c.choices[0].delta.content or "" for c in reply if c.choices)
        else:
            answer = reply.choices[0].message.content or ""
        seconds = time.perf_counter() - started
        return Timed(seconds=seconds, answer=answer, outcome=budgetctl.outcome(reply))


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    from budgetctl.evals import pocket

    with (
        serving(pocket.path(), home=tmp_path_factory.mktemp("home")) as server,
        OpenAI(base_url=server.url, api_key="x", max_retries=0, timeout=120) as sdk,
    ):
        load = Load(server, wrap(sdk, endpoint="transformers-serve", classifier=None))
        load.calls("full", 8, concurrency=2, stream=True)
        yield load


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("concurrency", [1, 4, 8])
def test_the_95th_percentile_keeps_the_deadline_and_every_call_is_answered(
    load: Load, concurrency: int, stream: bool
) -> None:
    missed = []
    full = load.calls("full", max(20, 3 * concurrency), concurrency=concurrency, stream=stream)
    median = statistics.median(timed.seconds for timed in full)
    for multiple in (0.5, 1.0, 2.0):
        deadline, policy = multiple * median, f"deadline:{multiple * median:.4f}"
        load.calls(policy, max(10, 2 * concurrency), concurrency=concurrency, stream=stream)
        cell = load.calls(policy, CALLS, concurrency=concurrency, stream=stream)
        p50, p95 = (percentile([timed.seconds / deadline for timed in cell], q) for q in (0.5, 0.95))
        empty = sum(not timed.answer.strip() or not timed.outcome.answered for timed in cell)
        ends = Counter(str(timed.outcome.stop.reason) for timed in cell)
        thinking = statistics.mean(timed.outcome.reasoning_tokens or 0 for timed in cell)
        print(
            f"\n| {concurrency} | {'stream' if stream else 'whole'} | {multiple:g} x {median:.2f} s "
            f"| {p50:.2f} | {p95:.2f} | {empty} | {thinking:.0f} "
            f"| {', '.join(f'{n} {end}' for end, n in ends.most_common())} | {os.getloadavg()[0]:.1f} |",
            end="",
        )
        assert empty == 0
        assert all(t.outcome.decision.deadline_s == pytest.approx(deadline, abs=1e-4) for t in cell)
        if p95 > LATE:
            missed.append((multiple, p95))
    assert missed == []


def test_adherence_is_reported_of_all_these_calls(load: Load) -> None:
    """Runs last: the client knows how well it has kept the deadlines so far."""
    [found] = load.client._budgetctl.controller.speeds.adherence()
    assert found.calls >= CALLS
    assert found.kept > 0.9
    assert found.p95 <= LATE


def percentile(values: list[float], q: float) -> float:
    """Return the nearest-rank percentile."""
    return sorted(values)[math.ceil(q * len(values)) - 1]
