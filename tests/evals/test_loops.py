"""How the loop criterion is measured: false stops on recorded texts, and loops that are made of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from budgetctl.evals import loops

from budgetctl.errors import EvalError

HEALTHY = " ".join(
    f"Step {i}: {i} times {i + 1} gives {i * (i + 1)}, as case {i * 7 % 31} shows." for i in range(300)
)


OTHER = "one two three four five six seven eight nine ten: the other field"


def test_a_healthy_text_is_not_stopped_and_a_loop_is():
    assert loops.stopped_at(HEALTHY) is None
    looped = HEALTHY + " and again the same thing as before" * 80
    at = loops.stopped_at(looped)
    assert at is not None
    assert len(HEALTHY) < at < len(looped)


def test_loops_made_of_healthy_texts_are_caught():
    found = loops.measure([HEALTHY] * 3, loops=40)
    assert (found.traces, found.false_stops) == (3, 0)
    assert found.caught == 1.0
    assert found.in_time <= found.in_time_or_256
    assert found.in_time_or_256 > 0.9
    assert found == loops.measure([HEALTHY] * 3, loops=40)


def test_the_interval_of_a_share_holds_it():
    low, high = loops.wilson(2, 4191)
    assert low < 2 / 4191 < high < 0.002
    assert loops.wilson(0, 0) == (0.0, 1.0)


def test_only_texts_with_a_right_answer_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [
        {"thinking_text": HEALTHY, "correct": True},
        {"thinking_text": "wrong", "correct": False},
        {"output_text": OTHER, "correct": True},
        {"output_text": "Thinking... " * 300, "correct": True},
        {"correct": True},
    ]
    path = tmp_path / "traces.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    assert list(loops.read(path)) == [HEALTHY, OTHER]
    assert loops.main([str(path), "--loops", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["traces"] == 2


@pytest.mark.parametrize(
    ("content", "said"), [("[1]", "an object expected, seen list"), ("{", "not JSON lines")]
)
def test_what_is_no_recording_is_named(tmp_path: Path, content: str, said: str):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(EvalError, match=said):
        list(loops.read(path))
    assert loops.main([str(tmp_path / "missing.jsonl")]) == 2


def test_texts_too_short_to_loop_are_refused():
    with pytest.raises(EvalError, match="no text of more than"):
        loops.measure(["short"], loops=1)
