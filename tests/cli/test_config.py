"""``budgetctl config``: what a configuration does, before it meets traffic; commands that take one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from budgetctl import Settings
from budgetctl.cli import main

GOOD = """
policy = "auto"
sink = "new/outcomes.jsonl"

[policies]
careful = "quantile:0.95&deadline:20"

[models]
fast = { model = "Qwen/Qwen3-8B", endpoint = "vllm", policy = "careful" }
hidden = "gpt-5-nano"

[routes.support]
policy = "cap:1000"
owner = "support team"
target_p95_s = 10
limits = { deadline_s = 8, reasoning_tokens = 900 }
"""


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(capsys: pytest.CaptureFixture[str], text: str, *, code: int = 0) -> dict[str, Any]:
    Path("budgetctl.toml").write_text(text)
    assert main(["config", "check", "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert set(found) == {"ok", "errors", "warnings", "rows"}
    assert found["ok"] is (code == 0)
    return found


def test_a_row_says_what_a_model_gets_on_a_route(capsys: pytest.CaptureFixture[str], desk: Path):
    found = check(capsys, GOOD)
    rows = {(row["route"], row["alias"]): row for row in found["rows"]}
    assert set(rows) == {(r, m) for r in (None, "support") for m in ("fast", "hidden")}
    fast = rows[None, "fast"]
    assert (fast["model"], fast["endpoint"]) == ("Qwen/Qwen3-8B", "vllm")
    assert fast["policy"] == "quantile:0.95&deadline:20"
    strengths = {c["name"]: c["strength"] for c in fast["controls"]}
    assert strengths["thinking_token_budget"] == strengths["deadline"] == "hard"
    assert strengths["chat_template_kwargs.enable_thinking"] == "hard", "where thinking does not help"
    support = rows["support", "fast"]
    assert (support["policy"], support["owner"], support["target_p95_s"]) == ("cap:1000", "support team", 10)
    assert (support["deadline_s"], support["reasoning_tokens"]) == (8, 900)
    assert not (desk / "new").exists(), "looking makes nothing"


def test_it_warns_of_a_policy_that_the_model_cannot_keep(capsys: pytest.CaptureFixture[str]):
    found = check(capsys, GOOD)
    asked = "cap:1000 within 8 s, 900 tokens"
    assert f"model hidden on route support: nothing keeps cap, deadline of {asked}" in found["warnings"]
    assert not any("model fast" in text for text in found["warnings"])


def test_a_model_that_nothing_is_known_of_is_named(capsys: pytest.CaptureFixture[str]):
    [warning] = check(capsys, '[models]\nx = "who/knows"')["warnings"]
    assert (
        warning == "model x: 'who/knows' at 'openai' is not in the capability table: its calls pass through"
    )


def test_where_it_is_strict_a_budget_that_would_be_refused_is_an_error(capsys: pytest.CaptureFixture[str]):
    found = check(capsys, f"strict = true\n{GOOD}", code=1)
    assert any("nothing keeps cap" in text for text in found["errors"])


def test_without_aliases_there_is_a_row_for_each_route(capsys: pytest.CaptureFixture[str]):
    rows = check(capsys, 'route = "a"\n[routes.a]\n[routes.b]\npolicy = "off"')["rows"]
    assert [(row["route"], row["model"], row["policy"]) for row in rows] == [
        ("a", None, "auto"),
        ("b", None, "off"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('polcy = "off"\nmode = "x"', ["unknown key 'polcy'", "mode: seen 'x'"]),
        ("policy = off", ["not valid TOML"]),
        ('capabilities = "nothing.toml"', ["nothing.toml: cannot be read"]),
        ('prices = "nothing.toml"', ["nothing.toml cannot be read"]),
        ('classifier = "nobody"', ["nobody"]),
        ('policy = "certified:nothing.json"', ["policy: seen 'certified:nothing.json'", "nothing.json"]),
        ('sink = "."', ["sink: seen '.', a directory; allowed: a file"]),
        ('sink = "budgetctl.toml/rows.jsonl"', ["sink: budgetctl.toml/rows.jsonl: ", "cannot be written"]),
        ('[audit]\njournal = "."', ["audit.journal: seen '.', a directory; allowed: a file"]),
    ],
)
def test_what_cannot_be_used_is_a_verdict(capsys: pytest.CaptureFixture[str], text: str, said: list[str]):
    errors = "\n".join(check(capsys, text, code=1)["errors"])
    for part in said:
        assert part in errors


def test_a_journal_of_another_policy_cannot_be_used(capsys: pytest.CaptureFixture[str]):
    text = '[audit]\nrate = 0.1\nusd_per_day = 1\njournal = "journal.jsonl"'
    check(capsys, f'policy = "cap:100"\n{text}')
    assert not Path("journal.jsonl").exists(), "looking makes nothing"
    Settings.load({"policy": "cap:100", "audit": {"journal": "journal.jsonl"}}, env={}).audits()
    check(capsys, f'policy = "cap:100"\n{text}')
    [error] = check(capsys, f'policy = "cap:200"\n{text}', code=1)["errors"]
    assert "journal.jsonl: the journal is of" in error


def test_a_file_that_is_not_there_is_a_mistake_of_the_call(capsys: pytest.CaptureFixture[str]):
    assert main(["config", "check", "other.toml"]) == 2
    assert "other.toml: no such file" in capsys.readouterr().err


def test_the_table_for_people(capsys: pytest.CaptureFixture[str]):
    Path("budgetctl.toml").write_text(GOOD)
    assert main(["config", "check"]) == 0
    out, err = capsys.readouterr()
    head, *lines = out.splitlines()
    assert head.split() == ["route", "model", "is", "endpoint", "policy", "controls"]
    assert len(lines) == 4
    assert err.splitlines()[-1] == "budgetctl.toml: ok"


def test_the_schema_is_that_of_the_settings(capsys: pytest.CaptureFixture[str]):
    assert main(["config", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert schema["properties"] == Settings.model_json_schema()["properties"]


def test_decide_takes_names_and_limits_from_a_configuration(capsys: pytest.CaptureFixture[str]):
    Path("c.toml").write_text(GOOD.replace('"careful"', '"full"') + "[limits]\nreasoning_tokens = 50\n")
    for arguments, cap in (
        (["--model", "fast"], 50),
        (["--model", "fast", "--policy", "off"], 0),
    ):
        assert main(["decide", "Why is the sky blue?", "--json", "--config", "c.toml", *arguments]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["decision"]["reasoning_tokens"] == cap
        assert found["controls"], "the model behind the alias, at its endpoint"


def test_run_takes_the_url_of_an_alias(capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("openai")
    from tests.engines.scripted import serving

    with serving(thought=3) as server:
        url = f"http://127.0.0.1:{server.server_port}/v1"
        fast = f'model = "Qwen/Qwen3-8B"\nendpoint = "vllm"\nbase_url = "{url}"\n'
        Path("c.toml").write_text(f'policy = "cap:70"\n[models.fast]\n{fast}')
        assert main(["run", "Why?", "--json", "--config", "c.toml", "--model", "fast"]) == 0
        body = server.seen[0].body
    assert (body["model"], body["thinking_token_budget"]) == ("Qwen/Qwen3-8B", 70)
    assert json.loads(capsys.readouterr().out)["outcome"]["policy"] == "cap:70"


def test_it_warns_of_a_model_that_a_limit_in_dollars_refuses(capsys: pytest.CaptureFixture[str]):
    text = """
[models.own]
model = "Qwen/Qwen3-8B"
endpoint = "vllm"
[models.small]
model = "gpt-5-mini"
[routes.support]
usd_per_month = 5
[routes.free]
"""
    warnings = check(capsys, text)["warnings"]
    said = "its price is unknown: its calls are refused under 'route-support'"
    assert [warning for warning in warnings if "price" in warning] == [f"model own on route support: {said}"]
    assert not any(
        "price" in warning for warning in check(capsys, text.replace("usd_per_month = 5", ""))["warnings"]
    )
