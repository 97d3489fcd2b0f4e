"""LiteLLM's real proxy in a process of its own, with the handler named in its configuration."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("litellm")

from openai import AsyncOpenAI, BadRequestError

from budgetctl.outcomes import Outcome
from budgetctl.types import StopReason
from tests.engines.scripted import Scripted, serving
from tests.integrations.contract import TEXT

KEY = f"sk-{secrets.token_hex(16)}"
NAMES = {  # of models: one for each test that has a parameter refused, since that is remembered
    "mine": "hosted_vllm/Qwen3-8B",
    "whole": "hosted_vllm/Qwen3-4B",
    "streamed": "hosted_vllm/Qwen3-14B",
    "bad": "hosted_vllm/Qwen3-32B",
}
OURS = "budgetctl.integrations.litellm.proxy_handler"
THEIRS = """
from budgetctl import Budget
from budgetctl.integrations.litellm import BudgetHandler

class NumberInTheQuestion:
    needs_estimate = False

    def budget(self, situation):
        return Budget(reasoning_tokens=int(situation.query.text.split()[-1]), stop="none")

settings = {"caller_values": "ceiling", "classifier": None, "sink": "outcomes.jsonl"}
handler = BudgetHandler(NumberInTheQuestion(), **settings)
"""


class Proxy:
    """A proxy before a server, and what its handler has recorded."""

    def __init__(self, folder: Path, server: Scripted, port: int) -> None:
        self.server = server
        self.url = f"http://127.0.0.1:{port}"
        self._records = folder / "outcomes.jsonl"
        self._read = 0

    async def ask(self, question: str = "What is it?", *, model: str = "mine", **own: Any) -> str:
        """Ask, and return the answer."""
        async with AsyncOpenAI(base_url=self.url, api_key=KEY, max_retries=0, timeout=30) as client:
            asked: Any = {"model": model, "messages": [{"role": "user", "content": question}], **own}
            response = await client.chat.completions.create(**asked)
            if not own.get("stream"):
                return response.choices[0].message.content
            return "".join([c.choices[0].delta.content or "" async for c in response if c.choices])

    async def rows(self, number: int = 1) -> list[Outcome]:
        """Return the new rows, of which ``number`` are waited for: the proxy may answer first."""
        for _ in range(200):
            lines = self._records.read_text().splitlines() if self._records.exists() else []
            if len(lines) - self._read >= number:
                break
            await asyncio.sleep(0.05)
        new, self._read = lines[self._read :], len(lines)
        return [Outcome.read(json.loads(line)) for line in new]


@contextmanager
def proxying(folder: Path, *, callback: str = OURS, settings: str = "") -> Iterator[Proxy]:
    with serving() as server, socket.socket() as free:
        server.socket.listen(50)
        models = [
            {
                "model_name": name,
                "litellm_params": {"model": model, "api_base": server.url, "api_key": "none"},
            }
            for name, model in NAMES.items()
        ]
        config = {
            "model_list": models,
            "litellm_settings": {"callbacks": [callback]},
            "general_settings": {"master_key": KEY},
        }
        (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
        (folder / "their_handler.py").write_text(THEIRS)
        (folder / "budgetctl.toml").write_text(f'policy = "cap:50"\nsink = "outcomes.jsonl"\n{settings}\n')
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [Path(sys.executable).parent / "litellm", "--config", "config.yaml", "--port", str(port)]
        env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "HOST": "127.0.0.1"}
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
        try:
            proxy = Proxy(folder, server, port)
            ready(proxy.url, process, folder / "log")
            yield proxy
        finally:
            process.terminate()
            process.wait(20)


def ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"{url}/health/liveliness", timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(log.read_text()[-3000:])


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with proxying(tmp_path_factory.mktemp("ours")) as proxy:
        yield proxy


@pytest.fixture
def proxy(ours: Proxy) -> Proxy:
    ours.server.seen.clear()
    ours.server.scenario, ours.server.thought, ours.server.delay_s = "normal", 400, 0.0
    ours.server.refuses, ours.server.failures = (), []
    return ours


@pytest.mark.parametrize("stream", [False, True])
async def test_the_budget_is_on_the_wire_and_the_outcome_is_recorded(proxy: Proxy, stream: bool):
    assert await proxy.ask(stream=stream) == TEXT
    assert proxy.server.seen[-1].body["thinking_token_budget"] == 50
    [row] = await proxy.rows()
    assert row.answered
    assert row.decision.reasoning_tokens == 50
    assert row.usage.reasoning_tokens
    assert row.timing.ttfo_s is not None
    assert row.model == "Qwen3-8B"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_value_of_the_callers_is_pinned(proxy: Proxy, stream: bool):
    assert await proxy.ask(stream=stream, extra_body={"thinking_token_budget": 300}) == TEXT
    assert proxy.server.seen[-1].body["thinking_token_budget"] == 300
    [row] = await proxy.rows()
    assert row.pinned == ("thinking_token_budget",)


@pytest.mark.parametrize(("stream", "model"), [(False, "whole"), (True, "streamed")])
async def test_a_refused_parameter_is_left_out_once_and_for_all(proxy: Proxy, stream: bool, model: str):
    proxy.server.refuses, proxy.server.thought = ("thinking_token_budget",), 20
    assert await proxy.ask(stream=stream, model=model) == TEXT
    assert ["thinking_token_budget" in one.body for one in proxy.server.seen] == [True, False]
    [row] = await proxy.rows()
    assert "HTTP 400" in (row.fallback or "")
    assert await proxy.ask(stream=stream, model=model) == TEXT
    assert len(proxy.server.seen) == 3
    [row] = await proxy.rows()
    assert row.fallback is None


async def test_a_request_that_is_refused_for_other_reasons_fails_as_it_would(proxy: Proxy):
    proxy.server.failures = [(400, {})] * 2
    with pytest.raises(BadRequestError):
        await proxy.ask(model="bad")
    [row] = await proxy.rows()
    assert row.stop.reason is StopReason.ERROR


async def test_pieces_are_passed_on_and_leaving_ends_the_generation(proxy: Proxy):
    proxy.server.delay_s, proxy.server.thought = 0.02, 20
    before, proxy.server.answer = proxy.server.answer, ("4",) * 400
    try:
        async with AsyncOpenAI(base_url=proxy.url, api_key=KEY, max_retries=0, timeout=30) as client:
            messages: Any = [{"role": "user", "content": "What is it?"}]
            async with await client.chat.completions.create(
                model="mine", messages=messages, stream=True
            ) as chunks:
                async for chunk in chunks:
                    if chunk.choices and chunk.choices[0].delta.content:
                        break
                assert proxy.server.seen[-1].sent < 150
        assert await asyncio.to_thread(proxy.server.left_open) == []
    finally:
        proxy.server.answer = before
    assert proxy.server.seen[-1].closed_by_client
    [row] = await proxy.rows()
    assert row.stop.reason is StopReason.CALLER


async def test_a_handler_of_ones_own(tmp_path: Path):
    with proxying(tmp_path, callback="their_handler.handler") as proxy:
        asked = [f"For at most {n}" for n in range(1, 51)]
        assert await asyncio.gather(*(proxy.ask(one) for one in asked)) == [TEXT] * 50
        for one in proxy.server.seen:
            assert one.body["messages"][-1]["content"] == f"For at most {one.body['thinking_token_budget']}"
        for own, sent in ((300, 50), (20, 20)):  # a ceiling is only gone below
            await proxy.ask("For at most 50", extra_body={"thinking_token_budget": own})
            assert proxy.server.seen[-1].body["thinking_token_budget"] == sent


async def test_observing_changes_nothing_and_records(tmp_path: Path):
    with proxying(tmp_path, settings='mode = "observe"') as proxy:
        proxy.server.thought = 20
        for stream in (False, True):
            assert await proxy.ask(stream=stream) == TEXT
            assert "thinking_token_budget" not in proxy.server.seen[-1].body
            [row] = await proxy.rows()
            assert row.controls == ()
            assert row.decision.reasoning_tokens == 50
