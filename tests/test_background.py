"""Work that nobody waits for: bounded, a few jobs at a time, and a failing one hurts nobody."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import pytest

from budgetctl.background import Background


def test_jobs_run_in_threads_a_few_at_a_time():
    background, running, most = Background(at_once=2), 0, 0
    lock = threading.Lock()

    def job() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    assert all(background.put(job) for _ in range(6))
    assert background.wait(10)
    assert most == 2


def test_what_does_not_fit_is_not_taken():
    background, gate = Background(at_once=1, most=2), threading.Event()
    assert background.put(gate.wait)
    assert background.put(gate.wait)
    assert not background.put(gate.wait)
    assert not background.wait(0.01)
    gate.set()
    assert background.wait(10)
    assert background.put(gate.wait)
    assert background.wait(10)


def test_a_job_that_fails_is_logged_and_the_next_one_runs(caplog: pytest.LogCaptureFixture):
    background, done = Background(at_once=1), threading.Event()

    def fails() -> None:
        raise RuntimeError("with the text of a prompt")

    background.put(fails)
    background.put(done.set)
    assert background.wait(10)
    assert done.is_set()
    assert "RuntimeError" in caplog.text
    assert "prompt" not in caplog.text


async def test_tasks_take_turns_and_are_not_collected():
    background, running, most = Background(at_once=2), 0, 0

    async def job() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    assert all(background.put_task(job) for _ in range(6))
    gc.collect()
    assert await background.wait_tasks(10)
    assert most == 2


async def test_tasks_are_bounded_and_may_fail(caplog: pytest.LogCaptureFixture):
    async def fails() -> None:
        raise RuntimeError

    background = Background(most=1)
    assert background.put_task(fails)
    assert not background.put_task(fails)
    assert await background.wait_tasks(10)
    assert "RuntimeError" in caplog.text


def test_without_a_loop_there_are_no_tasks():
    async def job() -> None: ...

    with pytest.raises(RuntimeError):
        Background().put_task(job)
