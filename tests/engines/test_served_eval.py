"""``budgetctl eval live pocket --base-url``: the served pocket reasoner, full against budgeted."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec

import pytest
from budgetctl.evals import pocket

from budgetctl.cli import main

from .served import serving

pytestmark = [
    pytest.mark.skipif(find_spec("torch") is None, reason="needs torch and transformers"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the server's helper reads /proc"),
]


def test_throughput_and_goodput_of_a_served_model(tmp_path, capsys):
    with serving(pocket.path(), home=tmp_path) as server:
        command = ["eval", "live", "pocket", "--base-url", server.url, "--concurrency", "2", "--limit", "12"]
        main([*command, "--policies", "full,off,cap:32", "--out", str(tmp_path / "run"), "--json"])
    content = json.loads(capsys.readouterr().out)
    full, off, cap = content["policies"]
    assert full["accuracy"] > off["accuracy"]
    assert off["reasoning_tokens_mean"] <= 1 < cap["reasoning_tokens_mean"] < full["reasoning_tokens_mean"]
    assert full["requests_per_hour"] < cap["requests_per_hour"] < off["requests_per_hour"]
    assert full["accurate_goodput"] <= cap["goodput"]
    assert all(row["empty_answers"] == 0 and row["truncated"] == 0 for row in content["policies"])
    assert content["settings"]["concurrency"] == 2
    assert content["settings"]["seeded"] is True
