"""The doctor at a scripted server: what it finds is what the server does, whatever it accepts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from budgetctl.capabilities import Table
from budgetctl.cli import main

from .scripted import Scripted, serving

MODEL = "qwen3-8b"


@pytest.fixture
def server() -> Iterator[Scripted]:
    with serving(thought=400) as running:
        yield running


def examined(
    server: Scripted, capsys: pytest.CaptureFixture[str], *more: str, model: str = MODEL
) -> tuple[int, dict[str, Any]]:
    code = main(["doctor", "--base-url", server.url, "--model", model, "--json", *more])
    return code, json.loads(capsys.readouterr().out)


def found(report: dict[str, Any], name: str) -> dict[str, Any]:
    [control] = [c for c in report["controls"] if c["name"] == name]
    return dict(control)


def by_way(report: dict[str, Any]) -> dict[str, tuple[bool | None, str]]:
    """What came of each way of continuing a thought."""
    return {t["way"]: (t["verified"], t["observed"]) for t in report["tried"] if t["way"] is not None}


def test_what_a_server_keeps_is_verified_and_goes_into_a_row(
    server: Scripted, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server.version, server.owner = "0.99", "vllm"
    code, report = examined(server, capsys, model="home-made")
    assert code == 0
    assert (report["endpoint"], report["engine"]) == ("vllm", "vLLM 0.99")
    assert report["reasoning"] == {
        "seen": "field",
        "field": "reasoning_content",
        "starts_in_think": False,
        "natural_tokens": 400,
        "truncated": False,
        "reported_in_usage": False,
    }
    assert report["stream_usage"] == "include_usage"
    assert [c["name"] for c in report["controls"]] == ["off", "cap", "abort_continue", "close"]
    assert [c["verified"] for c in report["controls"]] == [True, True, True, None]
    (tmp_path / "own.toml").write_text(report["capability"])
    row = Table.load(tmp_path / "own.toml").lookup("home-made", "vllm")
    assert row.cap is not None
    assert row.off is not None
    assert (row.cap.parameters, row.cap.strength) == (("thinking_token_budget",), "hard")
    assert row.off.parameters == {"chat_template_kwargs.enable_thinking": False}
    assert (row.continuation, row.reasoning, row.output_limit) == (("chat",), "field", "max_tokens")
    assert row.source == "budgetctl doctor, vLLM 0.99"


def test_a_cap_that_is_accepted_and_ignored_is_called_broken(
    server: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    server.scenario = "ignored cap"
    code, report = examined(server, capsys, "--endpoint", "vllm")
    assert code == 1
    assert report["broken"] == ["cap"]
    cap = found(report, "cap")
    assert (cap["verified"], cap["strength"]) == (False, "none")
    assert cap["observed"] == "ignored: about 400 tokens of thinking under a cap of 100"
    assert "cap =" not in report["capability"]


def test_what_is_refused_is_said_in_the_servers_words(capsys: pytest.CaptureFixture[str]) -> None:
    refuses = ("thinking_token_budget", "chat_template_kwargs")
    with serving(thought=400, refuses=refuses) as server:
        _, report = examined(server, capsys, "--endpoint", "vllm")
    tried = {json.dumps(t["sent"]): t["observed"] for t in report["tried"]}
    assert tried['{"thinking_token_budget": 100}'].startswith("refused: 400 unknown field")
    assert report["broken"] == ["off", "cap"]


def test_a_thought_too_short_for_any_cap_proves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(thought=40) as server:
        code, report = examined(server, capsys, "--endpoint", "vllm")
    assert found(report, "cap")["verified"] is None
    assert (code, report["broken"]) == (0, [])


@pytest.mark.parametrize(("scenario", "untagged"), [("inline", False), ("missing open tag", True)])
def test_it_sees_where_thinking_travels(
    server: Scripted, capsys: pytest.CaptureFixture[str], scenario: str, untagged: bool
) -> None:
    server.scenario = scenario
    _, report = examined(server, capsys)
    assert (report["reasoning"]["seen"], report["reasoning"]["field"]) == ("inline", None)
    assert report["reasoning"]["starts_in_think"] is untagged
    assert ("starts_in_think = true" in report["capability"]) is untagged


@pytest.mark.parametrize(
    ("scenario", "counts", "verified"),
    [("normal", True, True), ("generates on", True, False), ("normal", False, None)],
)
def test_closing_a_stream_is_checked_at_the_servers_own_counter(
    capsys: pytest.CaptureFixture[str], scenario: str, counts: bool, verified: bool | None
) -> None:
    with serving(thought=400, delay_s=0.002) as server:
        server.scenario, server.counts = scenario, counts
        _, report = examined(server, capsys)
    assert found(report, "close")["verified"] is verified


def test_a_continuation_that_thinks_on_or_is_missing_is_no_continuation(
    server: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    server.continuation = [("<think>\n", "Let ", "me ", "see.", "</think>", "42")]
    code, report = examined(server, capsys, "--endpoint", "vllm")
    thought_on = "it thought on instead of answering"
    assert by_way(report) == {"raw_completions": (False, thought_on), "chat": (False, thought_on)}
    assert (code, report["broken"]) == (1, ["abort_continue"])
    server.scenario = "nothing continues"
    code, report = examined(server, capsys, "--endpoint", "vllm")
    refused = "refused: 400 Assistant response prefill is incompatible with enable_thinking"
    assert by_way(report) == {
        "raw_completions": (False, "refused: 404 no such route"),
        "chat": (False, refused),
    }
    assert (code, report["broken"]) == (1, ["abort_continue"])
    assert 'continuation = ["reask"]' in report["capability"], "which only needs thinking to be switched off"


def test_a_way_that_fails_leaves_the_others(server: Scripted, capsys: pytest.CaptureFixture[str]) -> None:
    server.scenario = "no completions"
    code, report = examined(server, capsys, "--endpoint", "vllm")
    assert by_way(report) == {
        "raw_completions": (False, "refused: 404 no such route"),
        "chat": (True, "an answer, and no new thought"),
    }
    assert found(report, "abort_continue")["way"] == "chat"
    assert (code, report["broken"]) == (0, [])
    assert 'continuation = ["chat", "reask"]' in report["capability"]


def test_an_answer_that_a_parser_takes_for_thinking_is_an_answer(
    server: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    server.scenario = "misfiled"
    _, report = examined(server, capsys, "--endpoint", "vllm")
    assert by_way(report)["chat"] == (True, "an answer, delivered as thinking")
    server.continuation = [("Wait, ", "let ", "me ", "check.")]
    _, report = examined(server, capsys, "--endpoint", "vllm")
    assert by_way(report)["chat"] == (False, "it thought on instead of answering")


def test_without_a_switch_nothing_is_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    refuses = ("chat_template_kwargs", "reasoning_effort", "reasoning_budget_tokens")
    with serving(thought=400, refuses=refuses) as server:
        _, report = examined(server, capsys, "--endpoint", "vllm")
    assert found(report, "off")["verified"] is False
    assert 'continuation = ["raw_completions", "chat"]' in report["capability"]


@pytest.mark.parametrize(
    ("control", "verified", "observed"),
    [
        ("ends", True, " tokens of thinking, its end was asked for after 100, and an answer"),
        ("is ignored", False, "ignored: 400 tokens of thinking, its end was asked for after 100"),
        ("is refused", False, "refused: 400 no such completion"),
        (None, False, "refused: 404 no such route"),
    ],
)
def test_a_running_thought_is_ended_where_the_server_does_that(
    capsys: pytest.CaptureFixture[str], control: Any, verified: bool, observed: str
) -> None:
    with serving(thought=400, delay_s=0.0005) as server:
        server.control, server.build = control, "b9999"
        code, report = examined(server, capsys)
    live = found(report, "live_end")
    assert (report["endpoint"], report["engine"]) == ("llama.cpp", "llama.cpp b9999")
    assert (live["verified"], live["sent"]) == (verified, {"reasoning_control": True})
    assert live["observed"].endswith(observed)
    assert (code, report["broken"]) == ((0, []) if verified else (1, ["live_end"]))
    assert ("live_end = true" in report["capability"]) is verified


def test_nobody_else_is_asked_to_end_a_running_thought(
    server: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    _, report = examined(server, capsys, "--endpoint", "vllm")
    assert "live_end" not in {t["name"] for t in report["tried"]}
    assert "/chat/completions/control" not in server.paths
    _, report = examined(server, capsys, "--endpoint", "transformers-serve")
    assert list(by_way(report)) == ["raw_completions"]


@pytest.mark.parametrize(
    ("owner", "counts", "kind"),
    [("vllm", False, "vllm"), (None, True, "vllm"), ("someone", False, "openai-compatible")],
)
def test_a_version_alone_does_not_make_a_server_vllm(
    server: Scripted, capsys: pytest.CaptureFixture[str], owner: str | None, counts: bool, kind: str
) -> None:
    server.version, server.owner, server.counts = "1.2", owner, counts
    _, report = examined(server, capsys)
    assert report["endpoint"] == kind
    assert report["engine"] == ("vLLM 1.2" if kind == "vllm" else None)


def test_a_row_of_the_table_is_corrected_and_not_replaced(
    server: Scripted, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server.scenario = "ignored cap"
    _, report = examined(server, capsys, "--endpoint", "vllm")
    (tmp_path / "own.toml").write_text(report["capability"])
    own, shipped = (Table.load(extra).lookup(MODEL, "vllm") for extra in (tmp_path / "own.toml", None))
    assert own.cap is None
    assert shipped.cap is not None
    kept = ("off", "continuation", "prompt_format", "leak_ratio", "output_limit", "close_text")
    assert [getattr(own, name) for name in kept] == [getattr(shipped, name) for name in kept]


@pytest.mark.parametrize("model", ["gpt[1]*", "qwen-\N{GRINNING FACE}", 'a"b\\c', "/models/qwen/"])
def test_the_row_matches_its_own_model_whatever_its_name(
    server: Scripted, capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    _, report = examined(server, capsys, "--endpoint", "vllm", model=model)
    (tmp_path / "own.toml").write_text(report["capability"])
    assert Table.load(tmp_path / "own.toml").lookup(model, "vllm").known


def test_a_busy_server_breaks_no_promise(server: Scripted, capsys: pytest.CaptureFixture[str]) -> None:
    server.busy_after = 2
    code, report = examined(server, capsys, "--endpoint", "vllm")
    assert (code, report["broken"]) == (0, [])
    assert found(report, "off")["observed"].startswith("failed: 429")
    assert {c["verified"] for c in report["controls"]} == {None}


def test_the_key_is_nowhere_in_what_is_printed(
    server: Scripted, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-SECRET")
    server.refuses, server.says = ("thinking_token_budget",), "bad key sk-SECRET\x1b[2J | given"
    main(["doctor", "--base-url", server.url, "--model", MODEL, "--endpoint", "vllm", "--markdown"])
    printed = "".join(capsys.readouterr())
    assert "bad key *** [2J \\| given" in printed
    assert "SECRET" not in printed
    assert "\x1b" not in printed


def test_what_brings_neither_thinking_nor_an_answer_is_no_model_that_does_not_think(
    server: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    server.thought, server.answer = 0, ()
    code, report = examined(server, capsys)
    assert code == 1
    assert found(report, "call")["observed"] == "neither thinking nor an answer came"
    assert report["capability"] is None


def test_a_model_that_does_not_think_has_nothing_to_control(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(thought=0) as server:
        code, report = examined(server, capsys)
    assert (code, report["controls"], report["reasoning"]["seen"]) == (0, [], "none")
    assert report["calls"] == 2


def test_an_endpoint_that_refuses_the_plain_call_is_reported_as_such(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(refuses=("max_tokens",)) as server:
        code, report = examined(server, capsys)
    assert code == 1
    assert found(report, "call")["observed"].startswith("refused: 400 unknown field")


def test_the_page_is_a_table_in_both_forms(server: Scripted, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["doctor", "--base-url", server.url, "--model", MODEL, "--endpoint", "vllm"]
    assert main(argv) == 0
    plain = capsys.readouterr().out
    assert "thinking_token_budget=100" in plain
    assert main([*argv, "--markdown"]) == 0
    page = capsys.readouterr().out
    assert "| cap | yes | about 100 tokens of thinking under a cap of 100, and an answer |" in page
    assert "```toml\n[[row]]\n" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base-url", "http://127.0.0.1:9/v1"], "--base-url needs --model"),
        (["--max-tokens", "0"], "--max-tokens 0"),
        (["--model", "gpt-x"], "--model needs --base-url"),
        (["--base-url", "somewhere", "--model", "m"], "begins with http"),
        (["--base-url", "http://127.0.0.1:9/v1", "--model", "m"], "APIConnectionError"),
    ],
)
def test_what_cannot_be_examined_is_said(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["doctor", *arguments]) == 2
    assert message in capsys.readouterr().err
