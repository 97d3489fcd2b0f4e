"""Cubes in columns: read fast, and still row for row what the reader of single rows makes of them."""

import json

import numpy as np
import pytest
from budgetctl.evals import columns, cube
from budgetctl.evals.recording import Recording
from budgetctl.evals.replay import replay

from budgetctl.errors import EvalError
from budgetctl.types import Pace

from .worlds import curve, world

PACE = Pace(ttft_s=1.0, s_per_token=0.1)
LINE = {"dataset": "d", "question_id": "q", "model": "m", "correct": True}


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def same(one, other):
    for name in columns.Columns.__slots__:
        a, b = getattr(one, name), getattr(other, name)
        if isinstance(a, dict):
            assert a.keys() == b.keys()
            for key in a:
                np.testing.assert_array_equal(a[key], b[key])
        else:
            np.testing.assert_array_equal(a, b)


def test_a_file_read_in_batches_is_what_its_single_rows_are(tmp_path):
    rows = [*world(300), *curve("signals", settled=20, natural=60, signals={"p_top": 0.5, "decile": 3})]
    path = tmp_path / "cube.jsonl.gz"
    cube.write(path, rows)
    same(columns.read([path]), columns.of(cube.load(path)))


ODD = [
    {**LINE, "question_id": 7, "cluster": 3},
    {**LINE, "correct": 1.0},
    {**LINE, "correct": 0},
    {**LINE, "reasoning_tokens": "12", "output_tokens": 12.0},
    {**LINE, "budget": {"kind": "effort", "value": "low"}, "temperature": 0.6},
    {**LINE, "budget": {"kind": "tokens", "value": 0}, "schema_version": "1.7"},
    {**LINE, "answer": ["a", 1], "signals": {"p_top": 1, "trial_answer": 5}},
]


@pytest.mark.parametrize("odd", ODD, ids=map(str, range(len(ODD))))
def test_what_one_row_may_look_like_a_batch_may_too(tmp_path, odd):
    path = written(tmp_path / "cube.jsonl", [LINE, odd, {**LINE, "sample": 1}])
    same(columns.read([path]), columns.of(cube.load(path)))


BAD = [
    {**LINE, "correct": 0.5},
    {**LINE, "correct": "yes"},
    {**LINE, "question_id": True},
    {**LINE, "sample": None},
    {**LINE, "sample": -1},
    {**LINE, "reasoning_tokens": -1},
    {**LINE, "coupled": 1},
    {**LINE, "e2e_s": float("inf")},
    {**LINE, "budget": {"kind": "tokens", "value": "9"}},
    {**LINE, "budget": {"kind": "tokens"}},
    {**LINE, "budget": {"value": 3}},
    {**LINE, "signals": [1]},
    {**LINE, "level": []},
    {**LINE, "schema_version": "2.0"},
    {"dataset": "d", "question_id": "q", "model": "m"},
    [LINE],
    3,
]


@pytest.mark.parametrize("bad", BAD, ids=map(str, range(len(BAD))))
def test_a_bad_row_far_into_a_file_is_named_as_when_it_is_read_alone(tmp_path, bad):
    rows = [{**LINE, "sample": i} for i in range(columns.BATCH + 5)]
    path = written(tmp_path / "cube.jsonl", [*rows, bad, LINE])
    with pytest.raises(EvalError) as alone:
        cube.load(path)
    with pytest.raises(EvalError, match=rf"cube\.jsonl:{columns.BATCH + 6}: ") as batched:
        columns.read([path])
    assert str(batched.value) == str(alone.value)


@pytest.mark.parametrize(
    "torn", ['{"dataset": "d"\n"correct": true}', '{"a": 1}],[{"b": 2}', '{"a": 1},{"b": 2}']
)
def test_rows_torn_or_joined_are_no_rows(tmp_path, torn):
    path = tmp_path / "cube.jsonl"
    path.write_text(f"{json.dumps(LINE)}\n{torn}\n")
    with pytest.raises(EvalError, match=r"cube\.jsonl:2: not a JSON object"):
        columns.read([path])


def test_only_one_dataset_or_model_is_read_where_one_is_named(tmp_path):
    path = written(tmp_path / "cube.jsonl", [LINE, {**LINE, "dataset": "e"}, {**LINE, "model": "n"}])
    assert columns.read([path], dataset="e").questions == ["e/q"]
    assert len(columns.read([path], dataset="d", model="n")) == 1
    with pytest.raises(EvalError, match=r"no rows are left with --model 'x'; the files hold: m, n"):
        columns.read([path], model="x")


def test_a_table_of_results_is_a_sequence_of_them(tmp_path):
    table = replay(Recording.of(world(30)), "cap:50", pace=PACE)
    results = list(table)
    assert len(table) == len(results) == 30
    assert [table[i] for i in range(30)] == results
    assert table[-1] == results[-1]
    assert table[3:5] == results[3:5]
    assert table == results
    for name in ("correct", "reasoning_tokens", "ttfo_s", "e2e_s"):
        assert table.column(name).tolist() == [float(getattr(r, name)) for r in results]
    with pytest.raises(IndexError):
        table[30]
