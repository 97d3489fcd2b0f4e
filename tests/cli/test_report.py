"""``budgetctl report`` on logs: JSON or a table on stdout, a page on request, clear refusals."""

from __future__ import annotations

import argparse
import json
import tracemalloc
from pathlib import Path

import pytest

from budgetctl.cli import report
from budgetctl.errors import ConfigError


def run(*argv: object) -> int:
    parser = argparse.ArgumentParser()
    report.add(parser.add_subparsers())
    args = parser.parse_args(["report", *map(str, argv)])
    return args.run(args)


def completion(thinking: int, *, model: str = "my-model") -> str:
    usage = {
        "prompt_tokens": 1000,
        "completion_tokens": thinking + 100,
        "completion_tokens_details": {"reasoning_tokens": thinking},
    }
    message = {"role": "assistant", "content": "42"}
    row = {"object": "chat.completion", "model": model, "choices": [{"message": message}], "usage": usage}
    return json.dumps(row) + "\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    path.write_text(completion(3000) + completion(1000) + "nonsense\n")
    return path


def test_json_has_the_bill_and_the_path(log, capsys):
    assert run(log, "--json", "--price-in", 1, "--price-out", 10, "--speed", 50) == 0
    bill = json.loads(capsys.readouterr().out)
    assert bill["path"] is None
    assert bill["inputs"] == [str(log)]
    assert bill["tokens"]["thinking"] == 4000
    assert bill["dollars"]["thinking"] == pytest.approx(0.04)
    assert bill["seconds"]["thinking"] == pytest.approx(80.0)
    assert bill["modelled"] == ["seconds.thinking", "caps.seconds_cut"]
    assert bill["unknown_lines"] == {"count": 1, "first": [f"{log}:3: not JSON"]}


def test_without_json_a_table_is_printed(log, capsys):
    assert run(log) == 0
    out = capsys.readouterr().out
    assert "2 calls, 0 of them failed" in out
    assert f"{log}:3: not JSON" in out
    assert "no price is known for my-model" in out


def test_a_page_is_written_on_request_and_its_path_told(log, tmp_path, capsys):
    page = tmp_path / "bill.html"
    assert run(log, "--json", "--out", page) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(page)
    assert page.read_text().startswith("<!doctype html>")


def test_several_logs_are_one_bill(log, tmp_path, capsys):
    other = tmp_path / "other.jsonl"
    other.write_text(completion(500, model="gpt-5-mini"))
    run(log, other, "--json")
    bill = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in bill["models"]] == ["my-model", "gpt-5-mini"]
    assert bill["dollars"]["thinking"] == pytest.approx(500 * 2 / 1e6), "the one model with a list price"


def test_own_prices_come_from_a_file(log, tmp_path, capsys):
    prices = tmp_path / "prices.toml"
    prices.write_text('[[price]]\nmatch = "my-*"\ninput = 1\noutput = 2\n')
    run(log, "--json", "--prices", prices)
    assert json.loads(capsys.readouterr().out)["dollars"]["thinking"] == pytest.approx(0.008)


def test_an_empty_log_and_one_without_calls_are_refused(tmp_path):
    empty, other = tmp_path / "empty.jsonl", tmp_path / "other.jsonl"
    empty.touch()
    other.write_text('{"event": "start"}\n')
    with pytest.raises(ConfigError, match=rf"no call in {empty}, the file is empty"):
        run(empty)
    with pytest.raises(ConfigError, match=rf"no call in {other}; {other}:1: no response in it"):
        run(other)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--price-in", "1"], "--price-in and --price-out come together"),
        (["--price-in", "1", "--price-out", "-2"], r"output: seen -2.0, allowed: USD per million tokens"),
        (["--price-in", "1", "--price-out", "2", "--prices", "x.toml"], "exclude each other"),
        (["--speed", "0"], "--speed: seen 0.0, allowed: tokens per second above 0"),
        (["--prices", "none.toml"], "none.toml cannot be read"),
    ],
)
def test_options_that_cannot_work_are_refused(log, options, said):
    with pytest.raises(ConfigError, match=said):
        run(log, *options)


def test_missing_and_unwritable_paths_are_refused(log, tmp_path):
    with pytest.raises(ConfigError, match=r"no such file or folder: .*gone\.jsonl"):
        run(tmp_path / "gone.jsonl")
    with pytest.raises(ConfigError, match=r"--out: .* cannot be written"):
        run(log, "--out", tmp_path / "gone" / "bill.html")
    with pytest.raises(ConfigError, match="one run folder at a time"):
        run(tmp_path, log)


def test_memory_does_not_grow_with_the_log(tmp_path, capsys):
    def peak(lines: int) -> int:
        path = tmp_path / f"{lines}.jsonl"
        path.write_text(completion(700) * lines)
        tracemalloc.start()
        run(path, "--json")
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        capsys.readouterr()
        return most

    peak(10)  # imports and tables
    assert peak(3000) < 2 * peak(300) + 100_000


def test_a_run_folder_gives_its_html_report(tmp_path, monkeypatch, capsys):
    from budgetctl.evals import report as evals_report

    page = tmp_path / "report.html"
    page.write_text("<html>")
    monkeypatch.setattr(evals_report, "from_folder", lambda folder: page if folder == tmp_path else None)
    assert run(tmp_path, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(page)}
    copy = tmp_path / "copy.html"
    run(tmp_path, "--out", copy)
    assert capsys.readouterr().out == f"{copy}\n"
    assert copy.read_text() == "<html>"
