"""``budgetctl cube``: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from budgetctl.evals import cube

from budgetctl.cli import main

ROW = {"dataset": "d", "question_id": "q", "model": "m", "correct": True, "budget": {"kind": "natural"}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "cube.jsonl"
    found.write_text("".join(json.dumps({**ROW, "sample": i}) + "\n" for i in range(3)))
    return found


def run(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, Any]:
    code = main(["cube", *map(str, argv), "--json"])
    out = capsys.readouterr().out
    return code, json.loads(out) if out else None


def test_a_sound_cube_checks_with_0_and_a_faulty_one_with_1(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = run(capsys, "check", path)
    assert (code, found["rows"], found["faults"], found["models"]) == (0, 3, [], {"m": 3})
    path.write_text(path.read_text() + "{}\n")
    code, found = run(capsys, "check", path)
    assert (code, found["faulty"]) == (1, 1)
    assert "cube.jsonl:4: " in found["faults"][0]
    assert main(["cube", "check", str(path)]) == 1
    assert "3 rows, 0 repeated, 1 faulty" in capsys.readouterr().out


def test_merging_writes_one_cube(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = path.with_name("merged.jsonl.gz")
    code, found = run(capsys, "merge", path, path, "--out", out)
    assert (code, found) == (0, {"path": str(out), "rows": 3, "repeated": 3})
    assert len(cube.load(out)) == 3


def test_a_contradiction_ends_a_merge_with_2_and_leaves_nothing(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, out = path.with_name("other.jsonl"), path.with_name("merged.jsonl")
    other.write_text(json.dumps({**ROW, "correct": False}))
    assert main(["cube", "merge", str(path), str(other), "--out", str(out)]) == 2
    assert "differs from" in capsys.readouterr().err
    assert not out.exists()


def test_importing_and_exporting(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs, back = path.with_name("logs"), path.with_name("back.jsonl")
    code, found = run(capsys, "export", path, "--out", logs)
    assert (code, len(found["paths"])) == (0, 1)
    code, found = run(capsys, "import", logs, "--out", back, "--budget", "cap:64", "--model", "n")
    assert (code, found["rows"]) == (0, 3)
    assert {(row.model, row.budget) for row in cube.load(back)} == {
        ("n", cube.CubeBudget(kind="tokens", value=64))
    }
    code, found = run(capsys, "export", back, "--out", path.with_name("back.csv"))
    assert (code, found["rows"]) == (0, 3)
    none = path.with_name("none")
    assert main(["cube", "export", str(back), "--only", "natural", "--to", "csv", "--out", str(none)]) == 2
    assert not none.exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["import", "CUBE", "--out", "x"], "is of no known source"),
        (["import", "CUBE", "--out", "x", "--budget", "cap:many"], "allowed are natural, off, cap:N"),
        (["import", "CUBE", "--out", "x", "--grader", "none"], "grader 'none'"),
        (["export", "CUBE", "--out", "x.txt"], "name a folder, a .csv or a .parquet file"),
    ],
)
def test_what_cannot_work_ends_with_2(
    path: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(path) if part == "CUBE" else part for part in argv]
    argv = [str(path.parent / part) if part.startswith("x") else part for part in argv]
    assert main(["cube", *argv]) == 2
    assert message in capsys.readouterr().err
    assert [p.name for p in path.parent.iterdir()] == ["cube.jsonl"]


def test_nothing_does_not_replace_what_is_there(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty, out = path.with_name("empty.jsonl"), path.with_name("merged.jsonl")
    empty.write_text("")
    out.write_text("mine")
    for command in (["merge", empty, "--out", out], ["export", empty, "--to", "csv", "--out", out]):
        assert main(["cube", *map(str, command)]) == 2
        assert f"{empty}: no rows" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_the_shipped_recording_goes_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run(capsys, "check", "pocket")
    assert code == 0
    assert found["rows"] > 1000
