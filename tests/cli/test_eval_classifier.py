"""``budgetctl eval classifier`` from outside."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from budgetctl.evals.bench import resample
from budgetctl.evals.bench.predictors import rules

from budgetctl.cli import main

from ..classifiers.traffic import rows, write  # noqa: TID252 - tests are no package: there is no absolute name

DATA = os.environ.get("BUDGETCTL_DATA")
RULES = [rule.name for rule in rules()]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write(tmp_path_factory.mktemp("cube") / "toy.jsonl.gz", rows(700, seed=7)))


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resample, "RESAMPLES", 20)


def test_classifiers_are_judged_as_they_are(recorded: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "classifier", recorded, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    [found] = content["splits"]
    assert [row["name"] for row in found["rows"]] == ["default", *RULES]
    assert (found["split"], found["learning_curve"]) == (None, [])
    assert found["rows"][0]["need_auc"]["n"] == found["questions"] > 690
    assert found["rows"][0]["us_per_query"]["value"] > 0
    assert content["in_sample"]["default"] == []
    assert content["settings"]["seed"] == 0


def test_a_classifier_that_was_trained_on_the_questions_is_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = [row | {"dataset": "gsm8k_test"} for row in rows(60, seed=1)]
    cube = write(tmp_path / "cube.jsonl.gz", known)
    assert main(["eval", "classifier", str(cube), "--classifier", "default"]) == 0
    printed = capsys.readouterr()
    assert "in-sample: default was made from gsm8k_test" in printed.err
    assert "default: IN-SAMPLE" in printed.out


def test_refits_are_judged_on_what_was_held_out(
    recorded: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = ["eval", "classifier", recorded, "--split", "random", "--folds", "2", "--out", str(out)]
    assert main(argv) == 0
    printed = capsys.readouterr()
    assert (out / "table.md").read_text() == printed.out
    assert "fitting: " in printed.err
    [found] = json.loads((out / "table.json").read_text())["splits"]
    assert [row["name"] for row in found["rows"]] == ["linear", *RULES]
    assert (found["split"], found["parts"]) == ("random", 2)
    assert found["questions"] > 690
    linear, heuristic = found["rows"][:2]
    assert linear["need_brier"]["value"] < heuristic["need_brier"]["value"]
    assert linear["need_auc"]["value"] > 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jsonl"], "none.jsonl: cannot be read"),
        (["CUBE", "--classifier", "clairvoyant"], "no classifier 'clairvoyant'"),
        (["CUBE", "--classifier", "gone.npz"], "gone.npz: No such file"),
        (["CUBE", "--split", "tasks"], "at least 50 are needed"),
        (["CUBE", "--split", "models"], "models: seen 1; at least 2 are needed"),
        (
            ["CUBE", "--split", "random", "--folds", "2", "--learning-curve"],
            "learning curve: a share of 0.125",
        ),
        (["CUBE", "--split", "tasks", "--learning-curve"], "needs --split random"),
        (["CUBE", "--split", "random", "--classifier", "default"], "leave out --classifier"),
        (["CUBE", "--encoder"], "--encoder fits anew: it needs --split"),
        (["CUBE", "--split", "random", "--folds", "1"], "--folds 1"),
        (["CUBE", "--split", "random", "--parts", "6"], "--parts 6: expected a whole number from 1 to"),
        (["CUBE", "--parts", "1"], "--parts fits anew: it needs --split"),
        (["CUBE", "--seed", "-1"], "--seed -1"),
        (["CUBE", "--out", "CUBE"], "is a file; expected a folder"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_fitted(
    recorded: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    from budgetctl.classifiers import train

    monkeypatch.setattr(train, "train", lambda *args, **more: pytest.fail("fitted"))
    argv = ["eval", "classifier", *(recorded if a == "CUBE" else a for a in arguments)]
    assert main(argv) == 2
    assert message in capsys.readouterr().err


def test_an_encoder_that_does_not_exist_is_said_before_anything_is_fitted(
    recorded: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    gone = str(tmp_path / "gone")
    assert main(["eval", "classifier", recorded, "--split", "random", "--embedding", gone]) == 2
    assert "cannot be loaded" in capsys.readouterr().err


@pytest.mark.skipif(DATA is None, reason="recordings of real models are not here (BUDGETCTL_DATA)")
def test_a_recording_of_real_models(capsys: pytest.CaptureFixture[str]) -> None:
    path = f"{DATA}/cubes/gemma4_truncation.jsonl.gz"
    assert main(["eval", "classifier", path, "--classifier", "heuristic", "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)["splits"]
    assert found["rows"][0]["coverage"]["named"]["p90"]["n"] == found["questions"] > 0
