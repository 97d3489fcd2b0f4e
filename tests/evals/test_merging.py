"""Merging and checking cubes."""

import json

import pytest
from budgetctl.evals import cube, merging

from budgetctl.errors import EvalError

from .worlds import curve, row


def test_merging_keeps_every_row_once_and_in_order(tmp_path):
    a, b = curve("a", settled=20, natural=40), curve("b", settled=20, natural=40)
    cube.write(tmp_path / "one.jsonl", a)
    cube.write(tmp_path / "two.jsonl.gz", [*a[:2], *b])
    tally = merging.Tally()
    rows = list(merging.merged([tmp_path / "one.jsonl", tmp_path / "two.jsonl.gz"], tally))
    assert rows == [*a, *b]
    assert (tally.rows, tally.repeated) == (len(a) + len(b), 2)


def test_rows_that_contradict_each_other_are_refused_with_both_places(tmp_path):
    cube.write(tmp_path / "one.jsonl", [row("a", "natural", tokens=40, correct=True)])
    cube.write(tmp_path / "two.jsonl", [row("a", "natural", tokens=41, correct=True)])
    with pytest.raises(EvalError, match=r"two\.jsonl:1: made-up/a, .*differs from .*one\.jsonl:1"):
        list(merging.merged([tmp_path / "one.jsonl", tmp_path / "two.jsonl"], merging.Tally()))


@pytest.mark.parametrize(
    "change", [{"sample": 1}, {"model": "other"}, {"dataset": "other"}, {"coupled": False}, {"kind": "off"}]
)
def test_other_calls_are_no_repetition(tmp_path, change):
    first = {"kind": "natural", "tokens": 40, "correct": True}
    cube.write(tmp_path / "one.jsonl", [row("a", **first), row("a", **{**first, "correct": False, **change})])
    assert len(list(merging.merged([tmp_path / "one.jsonl"], merging.Tally()))) == 2


def test_a_check_goes_on_after_a_fault_and_names_each(tmp_path):
    good = {"dataset": "d", "question_id": "q", "model": "m", "correct": True}
    bad = [{**good, "correct": "yes"}, {**good, "correct": False}]
    path = tmp_path / "cube.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in [good, *bad, {**good, "sample": 1}, good]))
    tally = merging.check([path, tmp_path / "none.jsonl"])
    assert (tally.rows, tally.repeated, tally.faulty) == (2, 1, 3)
    assert [fault.partition(": ")[0].rpartition("/")[2] for fault in tally.faults] == [
        "cube.jsonl:2",
        "cube.jsonl:3",
        "none.jsonl",
    ]
    assert tally.counts["model"] == {"m": 2}


def test_many_faults_are_counted_and_some_named(tmp_path):
    path = tmp_path / "cube.jsonl"
    path.write_text("{}\n" * 50)
    tally = merging.check([path])
    assert (tally.faulty, len(tally.faults)) == (50, merging.NAMED_FAULTS)
