"""``budgetctl train``: from a log or a recording to weights that load, or to a clear refusal."""

from __future__ import annotations

import argparse
import gzip
import json
import re
from pathlib import Path

import pytest
from budgetctl.classifiers import load
from budgetctl.classifiers.linear import LinearClassifier

from budgetctl.cli import train
from budgetctl.controller import Controller
from budgetctl.errors import BudgetctlError, ConfigError
from budgetctl.records import JsonlSink
from budgetctl.types import Query

from .invented import outcome, write_log
from .traffic import rows, write

TEXT = "Walker 321 goes from the lake past the hill to the mill. Where is she after 6 turns?"


def run(*argv: object) -> int:
    parser = argparse.ArgumentParser()
    train.add(parser.add_subparsers())
    args = parser.parse_args(["train", *map(str, argv)])
    return int(args.run(args))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("logs") / "log.jsonl", 500)


def test_a_log_becomes_a_classifier_that_a_controller_uses(log, tmp_path, capsys):
    assert run(log, "--out", tmp_path / "mine", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    path = tmp_path / "mine" / "classifier.npz"
    assert printed["out"] == str(path)
    assert printed["sha256"] == load(path).hash
    assert printed["metrics"]["p_off"]["auc"] > 0.95
    assert printed["metrics"]["against_constant"]["natural"]["gain_ci"][0] > 0
    controller = Controller("quantile:0.9", classifier=str(path))
    decision = controller.decide(Query.from_text(TEXT, model="toy-1"))
    assert decision.fallback is None
    assert decision.estimate is not None
    assert decision.estimate.need > 0.5
    assert sorted(p.name for p in path.parent.iterdir()) == ["classifier.npz", "report.json"]


def test_the_report_accounts_for_every_row(log, tmp_path, capsys):
    text = log.read_text() + outcome(TEXT, tokens=0).model_dump_json() + "\n"
    text += '{"id": "gone", "correct": true, "source": "x", "time": "2026-01-01T00:00:00Z"}\n{"schema_ver'
    damaged = tmp_path / "log.jsonl.gz"
    damaged.write_bytes(gzip.compress(text.encode()))
    assert run(damaged, "--out", tmp_path / "mine") == 0
    report = json.loads((tmp_path / "mine" / "report.json").read_text())
    data = report["data"]
    assert (data["log_rows"], data["log_used"]) == (501, 500)
    assert data["left_out"] == {"no thinking was seen": 1}
    assert (data["unreadable_lines"], data["feedback_without_its_call"]) == (1, 1)
    assert sum(part["examples"] for part in report["parts"].values()) == 500
    assert report["n_grams"] == 0
    said = capsys.readouterr()
    assert "logs: 500 of 501 calls used" in said.out
    assert "natural: better than a constant" in said.out
    assert f"{damaged}: passed over 1 lines that are no rows; line 1003" in said.err


def test_with_texts_n_grams_are_learnt_too(tmp_path):
    log = write_log(tmp_path / "log.jsonl", 400, store_text=True)
    run(log, "--out", tmp_path / "mine")
    assert json.loads((tmp_path / "mine" / "report.json").read_text())["n_grams"] > 50


def test_the_last_feedback_counts(tmp_path):
    sink = JsonlSink(tmp_path / "log.jsonl")
    found = outcome(TEXT, tokens=9)
    sink.write(found)
    for right in (True, False):
        sink.feedback(found.id, correct=right)
    [example] = train.read([str(sink.path)]).examples
    assert example.full == 0


def test_parts_may_be_given_and_what_is_tested_is_in_no_other(tmp_path):
    sizes = (200, 80, 60)
    cubes = [write(tmp_path / f"{i}.jsonl.gz", rows(n, seed=i)) for i, n in enumerate(sizes)]
    again = write(tmp_path / "again.jsonl.gz", rows(30, seed=0))
    given = ["--calibration", cubes[1], "--test", cubes[2], again]
    run(cubes[0], *given, "--out", tmp_path / "mine", "--name", "given")
    parts = json.loads((tmp_path / "mine" / "report.json").read_text())["parts"]
    assert {part: size["questions"] for part, size in parts.items()} == {
        "training": 170,
        "calibration": 80,
        "test": 90,
    }
    assert load(tmp_path / "mine" / "classifier.npz").name == "given"


def test_what_is_neither_recording_nor_log_is_refused_by_file_and_line(log, tmp_path):
    other, empty, cube = (tmp_path / name for name in ("other.jsonl", "empty.jsonl", "cube.jsonl"))
    other.write_text('{"event": "start"}\n{"event": "end"}\n')
    empty.touch()
    good = rows(1, seed=0)
    cube.write_text("\n".join([json.dumps(good[0]), '{"dataset": "toy"}']))
    for path, said in (
        (other, f"{other}: neither a recording nor an outcome log with its feedback rows; line 1: "),
        (empty, f"{empty}: neither a recording nor an outcome log with its feedback rows; the file holds no"),
        (cube, f"{cube}:2: not a row of a recording, it lacks question_id"),
        (tmp_path / "gone.jsonl", "gone.jsonl: cannot be read: No such file"),
    ):
        with pytest.raises(BudgetctlError, match=re.escape(said)):
            run(log, path, "--out", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_thin_data_is_refused_before_anything_is_written(tmp_path):
    thin = write_log(tmp_path / "thin.jsonl", 120)
    with pytest.raises(BudgetctlError, match=r"different questions: 120 questions, 300 needed\n.*p_off: "):
        run(thin, "--out", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_options_that_do_not_fit_are_refused(log, tmp_path):
    with pytest.raises(ConfigError, match="leave --calibration out"):
        run(log, "--from", "default", "--calibration", log, "--out", tmp_path / "mine")
    with pytest.raises(ConfigError, match="is a file; expected a folder"):
        run(log, "--out", log)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    log = write_log(folder / "log.jsonl", 400, store_text=True)
    run(log, "--out", folder)
    return folder / "classifier.npz"


def test_given_weights_are_calibrated_to_another_model(base, tmp_path, capsys):
    log = write_log(tmp_path / "log.jsonl", 400, seed=9, store_text=True, model="toy-2", slower=4)
    assert run(log, "--from", base, "--out", tmp_path / "mine") == 0
    report = json.loads((tmp_path / "mine" / "report.json").read_text())
    made, before = load(tmp_path / "mine" / "classifier.npz"), load(base)
    assert isinstance(made, LinearClassifier)
    assert made.models == ("toy-1", "toy-2")
    assert report["from"]["sha256"] == before.hash
    assert report["before"]["natural"]["coverage"]["p90"] < 0.5
    assert report["metrics"]["natural"]["coverage"]["p90"] > 0.75
    assert "calibration of " in capsys.readouterr().out


def test_without_texts_the_shipped_weights_cannot_be_calibrated(log, base, tmp_path, capsys):
    with pytest.raises(BudgetctlError, match=r"natural tokens.*: 0 questions, 100 needed"):
        run(log, "--from", base, "--out", tmp_path / "mine")
    assert "JsonlSink(path, store_text=True)" in capsys.readouterr().err
