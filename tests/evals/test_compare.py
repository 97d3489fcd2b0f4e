import json
from dataclasses import replace

import numpy as np
import pytest
from budgetctl.evals import calls, compare, stats

from budgetctl.cli import main
from budgetctl.errors import EvalError, PairingError
from budgetctl.types import Budget

from .worlds import results

FOLDERS = ("before", "after")


def runs(n=400, *, harm=0, gain=0, wrong=20):
    """Two runs of n questions of which the first ``wrong`` are wrong; the second differs as it is told."""
    before = [i >= wrong for i in range(n)]
    after = [*([True] * gain), *before[gain : n - harm], *([False] * harm)]
    return results(before), results(after, [50] * n)


def compared(a, b, **more):
    return compare.compare(a, b, names=FOLDERS, rng=np.random.default_rng(0), **more)


def test_a_run_that_loses_nothing_passes_once_there_are_questions_enough():
    a, b = runs(400)
    found = compared(a, b, margin=0.01)
    assert (found.finding, found.n_needed) == ("pass", None)
    assert found.b.token_saving == pytest.approx(0.5)
    few = compared(a[:100], b[:100], margin=0.01)
    assert (few.finding, few.n_needed) == ("not_enough", stats.units_without_a_difference(0.01))
    assert "about 368 questions would settle it" in few.text


def test_a_loss_is_a_loss_and_a_small_one_passes_a_wide_margin():
    a, b = runs(400, harm=40)
    assert compared(a, b, margin=0.02).finding == "loss"
    assert "loses accuracy against before" in compared(a, b).text
    assert compared(a, b, margin=0.2).finding == "pass"


def test_one_lucky_question_does_not_hide_that_few_were_asked():
    # The percentile bootstrap would give an interval from 0: one question better, none worse.
    a, b = runs(50, gain=1)
    found = compared(a, b, margin=0.01)
    assert found.finding == "not_enough"
    assert found.b.delta_ci[0] < -0.02


def test_the_questions_needed_do_settle_it():
    a, b = runs(200, harm=2, gain=2)
    found = compared(a, b, margin=0.02)
    assert found.finding == "not_enough"
    times = -(-found.n_needed // 200)
    grown = [
        [replace(r, question_id=f"{r.question_id}-{k}") for r in run for k in range(times)] for run in (a, b)
    ]
    assert compared(*grown, margin=0.02).finding == "pass"


def test_a_difference_at_the_margin_is_settled_by_no_number_of_questions():
    a, b = runs(400, harm=8)
    found = compared(a, b, margin=0.02)
    assert found.finding in ("not_enough", "loss")
    needed = stats.units_needed(se=0.007, n=400, point=0.0, margin=0.0)
    assert needed == stats.MOST_NEEDED
    assert "no practical number" in compare.needed_text(needed)


def test_other_questions_are_refused():
    a, b = runs(20)
    with pytest.raises(PairingError, match="question '019', sample 0 is missing from 'after'"):
        compared(a, b[:-1])
    with pytest.raises(PairingError, match="sample 0 is missing from 'after'"):
        compared(a, [replace(r, sample=1) for r in b])


def test_two_versions_of_a_model_can_be_compared_but_not_a_mix_of_models():
    a, b = runs(400)
    old, new = [replace(r, model="m-1") for r in a], [replace(r, model="m-2") for r in b]
    assert compared(old, new).finding == "pass"
    with pytest.raises(PairingError, match="model 'm-1'"):
        compared([*old[:200], *new[200:]], new)


def test_samples_are_averaged_before_questions_are_counted():
    a, b = runs(100, harm=1)
    often = [[replace(r, sample=k) for r in run for k in range(8)] for run in (a, b)]
    found = compared(*often)
    assert (found.b.n, found.b.runs) == (100, 800)
    assert found.b.delta_ci[0] < -0.02


def test_a_run_compared_with_itself_is_nothing_to_compare():
    a, _ = runs(20)
    with pytest.raises(PairingError, match="nothing to compare"):
        compare.compare(a, a, names=("auto", "auto"), rng=np.random.default_rng(0))


@pytest.fixture
def folders(tmp_path):
    """Folders of two finished runs with the policies full and auto."""

    def make(**difference):
        a, b = runs(**difference)
        for name, auto in zip(FOLDERS, (a, b), strict=True):
            (tmp_path / name).mkdir(exist_ok=True)
            priced = [
                replace(r, cost_usd=0.01, e2e_s=1.0, ttfo_s=0.5, cluster=r.question_id[0]) for r in auto
            ]
            calls.save(tmp_path / name, {"full": a, "auto": priced})
        return [str(tmp_path / name) for name in FOLDERS]

    return make


def test_calls_are_read_as_they_were_written(tmp_path):
    (row,) = results([True], [7])
    rows = [
        replace(row, model="m", sample=2, cluster="c", ttfo_s=1.5, cost_usd=0.25),
        replace(row, question_id="x", reasoning_tokens=None, output_tokens=None, answered=False),
        replace(row, question_id="y", budget=Budget(reasoning_tokens=0, stop="balanced")),
        replace(row, question_id="z", budget=Budget(effort="low", stop="none")),
    ]
    calls.save(tmp_path, {"full": rows})
    assert calls.load(tmp_path) == {"full": rows}


@pytest.mark.parametrize(
    ("difference", "code", "finding"),
    [({}, 0, "pass"), ({"harm": 40}, 1, "loss"), ({"n": 60}, 3, "not_enough")],
)
def test_exit_codes(folders, capsys, difference, code, finding):
    assert main(["compare", *folders(**difference), "--json"]) == code
    content = json.loads(capsys.readouterr().out)
    assert content["finding"] == finding
    (one,) = content["comparisons"]
    assert (one["n_needed"] is None) is (code != 3)
    assert one["b"]["cost_usd_mean"] == pytest.approx(0.01)
    assert one["b"]["e2e_p95_s"] == 1.0


def test_policies_of_one_run_can_be_compared(folders, capsys):
    folder, _ = folders(harm=40)
    assert main(["compare", folder, folder, "--policy", "full,auto"]) == 0
    assert capsys.readouterr().out.startswith("auto loses less than 2 points of accuracy against full")


def test_a_budget_that_changed_no_answer_is_no_certainty_but_one_that_was_none_is(tmp_path, capsys):
    full = results([True] * 30)
    capped = [replace(r, budget=Budget(reasoning_tokens=500)) for r in full]
    calls.save(tmp_path, {"full": full, "auto": full, "cap:500": capped})
    assert main(["compare", str(tmp_path), str(tmp_path), "--policy", "full,auto"]) == 0
    assert main(["compare", str(tmp_path), str(tmp_path), "--policy", "full,cap:500"]) == 3
    assert "about 183 questions" in capsys.readouterr().out


def test_a_table_for_a_pull_request(folders, capsys):
    main(["compare", *folders(harm=40), "--markdown"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| policy | finding |")
    assert "| **loss** | 95.0 % → 85.0 % | -10.0 (" in lines[2]
    assert len({line.count("|") for line in lines[:3]}) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["A", "B", "--policy", "cap:9"], "has no policy cap:9; it has full, auto"),
        (["A", "B", "--policy", "fast"], "unknown part 'fast'"),
        (["A", "B", "--policy", "a,b,c"], "unknown part 'a'"),
        (["A", "B", "--policy", "full,full,full"], "one of each run"),
        (["A", "B", "--margin", "2"], "--margin 2.0"),
        (["A", "nowhere"], "nowhere: holds no calls.npz, so no finished evaluation"),
        (["A", "A", "--policy", "auto"], "nothing to compare"),
    ],
)
def test_what_cannot_be_compared_is_said_with_exit_code_two(folders, capsys, arguments, message):
    a, b = folders()
    assert main(["compare", *({"A": a, "B": b}.get(x, x) for x in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_file_is_named(folders):
    folder, _ = folders()
    with open(f"{folder}/{calls.CALLS}", "r+b") as file:
        file.truncate(100)
    with pytest.raises(EvalError, match=r"calls\.npz: cannot be read"):
        calls.load(folder)
