import gzip
import json

import pytest
from budgetctl.evals import cube
from budgetctl.evals.append import AppendFile

from budgetctl.errors import EvalError
from budgetctl.types import Budget

from .worlds import curve, row

LINE = {"dataset": "d", "question_id": "q", "model": "m", "correct": True}


def test_what_is_written_is_read_back_plain_and_gzipped(tmp_path):
    rows = curve("a", settled=20, natural=40)
    for name in ("cube.jsonl", "cube.jsonl.gz"):
        assert cube.write(tmp_path / name, rows) == len(rows)
        assert cube.load(tmp_path / name) == rows
    assert (tmp_path / "cube.jsonl.gz").read_bytes()[:2] == b"\x1f\x8b"


def test_compression_is_seen_from_the_bytes_not_from_the_name(tmp_path):
    path = tmp_path / "cube.jsonl"
    path.write_bytes(gzip.compress(json.dumps(LINE).encode()))
    assert cube.load(path)[0].question_id == "q"


def test_the_same_rows_are_the_same_bytes(tmp_path):
    rows = curve("a", settled=20, natural=40)
    cube.write(tmp_path / "one.jsonl.gz", rows)
    cube.write(tmp_path / "two.jsonl.gz", rows)
    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "two.jsonl.gz").read_bytes()


def test_unknown_stays_none_and_unknown_fields_are_kept_when_reading(tmp_path):
    path = tmp_path / "cube.jsonl"
    path.write_text(json.dumps({**LINE, "budget": None, "temperature": 0.6}) + "\n\n")
    (read,) = cube.load(path)
    assert read.budget is None
    assert read.reasoning_tokens is None
    assert read.model_extra == {"temperature": 0.6}


def test_writing_refuses_unknown_fields_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "cube.jsonl"
    cube.write(path, [row("a", "natural", correct=True)])
    before = path.read_bytes()
    with pytest.raises(EvalError, match="unknown fields cannot be written: temperature"):
        cube.write(path, [row("a", "natural", correct=True, temperature=0.6)])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"dataset": "d", "quest', "not a JSON object: EOF while parsing"),
        ("[1, 2]", "row: "),
        (json.dumps({**LINE, "budget": {"kind": "tokens"}}), "budget: .* a whole number from 0"),
        (json.dumps({**LINE, "budget": {"kind": "tokens", "value": -3}}), "budget: .* a whole number from 0"),
        (json.dumps({**LINE, "budget": {"kind": "effort", "value": 3}}), "budget: .* the name of a level"),
        (json.dumps({**LINE, "correct": "yes"}), "correct: .*seen 'yes'"),
        (json.dumps({**LINE, "reasoning_tokens": -3}), "reasoning_tokens: .*seen -3"),
        (json.dumps({**LINE, "e2e_s": float("nan")}), "e2e_s: "),
        (json.dumps({**LINE, "budget": {"kind": "cap"}}), "budget.kind: .*seen 'cap'"),
        (json.dumps({"dataset": "d", "question_id": "q", "model": "m"}), "correct: Field required"),
        (json.dumps({**LINE, "schema_version": "2.0"}), "schema_version 2.0 cannot be read here"),
        (b"\xff\xfe bad".decode("latin-1"), "not a JSON object"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, line, message):
    path = tmp_path / "cube.jsonl"
    path.write_text(f"{json.dumps(LINE)}\n{line}\n", encoding="latin-1")
    with pytest.raises(EvalError, match=rf"cube\.jsonl:2: {message}"):
        cube.load(path)


def test_correct_may_be_written_as_zero_or_one_but_not_as_a_share(tmp_path):
    path = tmp_path / "cube.jsonl"
    path.write_text(json.dumps({**LINE, "correct": 1.0}) + "\n" + json.dumps({**LINE, "correct": 0.5}))
    with pytest.raises(EvalError, match=r"cube\.jsonl:2: correct: .*seen 0\.5"):
        cube.load(path)


def test_a_newer_minor_version_is_read(tmp_path):
    path = tmp_path / "cube.jsonl"
    path.write_text(json.dumps({**LINE, "schema_version": "1.7"}))
    assert len(cube.load(path)) == 1


def test_a_cut_off_gzip_is_named_with_the_line_reached(tmp_path):
    path = tmp_path / "cube.jsonl.gz"
    cube.write(path, curve("a", settled=20, natural=2000))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EvalError, match=r"cube\.jsonl\.gz:\d+: the gzip data is damaged or cut off"):
        cube.load(path)


def test_garbled_gzip_bytes_are_named(tmp_path):
    path = tmp_path / "cube.jsonl.gz"
    cube.write(path, curve("a", settled=20, natural=2000))
    whole = bytearray(path.read_bytes())
    whole[20:60] = bytes(40)
    path.write_bytes(whole)
    with pytest.raises(EvalError, match=r"cube\.jsonl\.gz:\d+: "):
        cube.load(path)


def test_a_missing_and_an_empty_file_say_so(tmp_path):
    with pytest.raises(EvalError, match="there is no such file"):
        cube.load(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(EvalError, match="holds no rows"):
        cube.load(tmp_path / "empty.jsonl")


@pytest.mark.parametrize(
    ("budget", "kind", "value"),
    [
        (Budget(), "natural", None),
        (Budget(reasoning_tokens=0), "off", None),
        (Budget(reasoning_tokens=64), "tokens", 64),
        (Budget(effort="low"), "effort", "low"),
    ],
)
def test_a_live_budget_has_one_recorded_form(budget, kind, value):
    assert cube.CubeBudget.of(budget) == cube.CubeBudget(kind=kind, value=value)


def test_a_torn_last_line_is_cut_off_before_more_is_appended(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": ')
    with AppendFile(path) as file:
        file.append(['{"a": 3}', '{"a": 4}'])
    assert [json.loads(line)["a"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


def test_two_runs_cannot_write_the_same_file(tmp_path):
    with AppendFile(tmp_path / "rows.jsonl"), pytest.raises(EvalError, match="another run is writing"):
        AppendFile(tmp_path / "rows.jsonl")
