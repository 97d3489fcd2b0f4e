"""``budgetctl roi``: a measured run and a forecast of traffic, in dollars, seconds and wrong answers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from budgetctl.evals import calls, report, roi, verdict
from budgetctl.evals.metrics import evaluate
from scipy import stats

from budgetctl.cli import main
from budgetctl.types import Budget
from tests.evals.worlds import results

N = 400
MONTH = 365.25 / 12
ONE = roi.Traffic(low=1000, high=1000, months=1)


def folder(path, runs, *, asked=("full", "cap:50"), **settings):
    """Write what ``budgetctl eval --out`` writes, but for the pages."""
    found = evaluate(runs, rng=np.random.default_rng(0), asked=asked)
    content = report.Report(
        title="made up",
        evaluation=found,
        verdict=verdict.decide(found),
        settings={"kind": "live", "cluster_by": "question", **settings},
    )
    path.mkdir(exist_ok=True)
    (path / "summary.json").write_text(json.dumps(content.as_json()))
    calls.save(path, runs)
    return path


def runs(*, harm=0, full=None, cap=None, **more):
    """Full thinking with 100 tokens, a cap with 50; 20 wrong answers and ``harm`` more under the cap."""
    right = [i >= 20 for i in range(N)]
    capped = [*right[: N - harm], *([False] * harm)]
    both = {
        "full": results(right, **more),
        "cap:50": results(capped, [50] * N, budget=Budget(reasoning_tokens=50), **more),
    }
    for name, fields in (("full", full), ("cap:50", cap)):
        for field, values in (fields or {}).items():
            both[name] = [replace(r, **{field: v}) for r, v in zip(both[name], values, strict=True)]
    return both


def test_what_a_request_saves_times_the_requests(tmp_path):
    run = folder(tmp_path / "run", runs(full={"e2e_s": [3.0] * N}, cap={"e2e_s": [1.0] * N}))
    found = roi.returns(run, traffic=ONE, price_out=10.0)
    # 50 tokens at 10 dollars per million; every question saves the same, so the interval has no width.
    assert found["per_request"]["usd"] == pytest.approx({"low": 5e-4, "point": 5e-4, "high": 5e-4})
    assert found["per_day"]["usd"]["point"] == pytest.approx(0.5)
    assert found["in_period"]["usd"]["point"] == pytest.approx(0.5 * MONTH)
    assert found["per_day"]["seconds"]["point"] == pytest.approx(2000)
    assert found["per_day"]["tokens"]["point"] == pytest.approx(50_000)
    assert (found["policy"], found["recommended"]) == ("cap:50", "cap:50")


def test_growth_and_a_range_of_traffic(tmp_path):
    traffic = roi.Traffic(low=800, high=1500, growth=0.05, months=3)
    assert traffic.days == pytest.approx(MONTH * (1 + 1.05 + 1.1025))
    found = roi.returns(folder(tmp_path / "run", runs()), traffic=traffic, price_out=10.0)
    assert found["per_day"]["usd"] == pytest.approx({"low": 0.4, "point": 0.575, "high": 0.75})
    assert found["in_period"]["usd"]["high"] == pytest.approx(0.75 * traffic.days)


def test_the_interval_is_that_of_the_paired_differences(tmp_path):
    rng = np.random.default_rng(1)
    hard = rng.gamma(2, 5, N)  # what both runs share, and what pairing takes out
    full, cap = hard + 4 + rng.normal(0, 1, N), hard + rng.normal(0, 1, N)
    run = folder(tmp_path / "run", runs(full={"e2e_s": full.tolist()}, cap={"e2e_s": cap.tolist()}))
    found = roi.returns(run, traffic=ONE)["per_request"]["seconds"]
    saved = full - cap
    expected = stats.t.interval(0.95, N - 1, loc=saved.mean(), scale=stats.sem(saved))
    assert found["point"] == pytest.approx(saved.mean())
    assert (found["low"], found["high"]) == pytest.approx(expected, abs=0.02)


def test_recorded_costs_are_taken_as_they_are_and_the_run_is_paid_for(tmp_path):
    run = folder(tmp_path / "run", runs(full={"cost_usd": [0.03] * N}, cap={"cost_usd": [0.01] * N}))
    found = roi.returns(run, traffic=ONE)
    assert (found["cost_basis"], found["run_usd"]) == ("recorded", pytest.approx(N * 0.04))
    assert found["per_day"]["usd"]["point"] == pytest.approx(20)
    assert found["in_period"]["usd"]["point"] == pytest.approx(20 * MONTH - N * 0.04)


def test_audits_are_paid_for_at_full_thinking(tmp_path):
    run = folder(tmp_path / "run", runs(full={"cost_usd": [0.03] * N}, cap={"cost_usd": [0.01] * N}))
    found = roi.returns(run, traffic=ONE, audit_rate=0.1)
    assert found["per_request"]["usd"]["point"] == pytest.approx(0.03 - 0.01 - 0.003)


def test_a_policy_that_costs_more_saves_less_than_nothing(tmp_path):
    run = folder(tmp_path / "run", runs(full={"cost_usd": [0.01] * N}, cap={"cost_usd": [0.03] * N}))
    found = roi.returns(run, traffic=roi.Traffic(low=100, high=200))
    assert found["per_day"]["usd"] == pytest.approx({"low": -4.0, "point": -3.0, "high": -2.0})


def test_wrong_answers_and_what_one_may_cost(tmp_path):
    run = folder(tmp_path / "run", runs(harm=4))
    found = roi.returns(run, traffic=ONE, policy="cap:50", price_out=10.0)
    row = evaluate(runs(harm=4), rng=np.random.default_rng(0), asked=("full", "cap:50")).row("cap:50")
    wrong = found["per_day"]["wrong_answers"]
    assert wrong["point"] == pytest.approx(10)  # 4 of 400
    assert (wrong["low"], wrong["high"]) == pytest.approx((-1000 * row.delta_ci[1], -1000 * row.delta_ci[0]))
    value = found["usd_per_wrong_answer"]
    assert value["point"] == pytest.approx(5e-4 / 0.01)
    assert value["low"] == pytest.approx(5e-4 / -row.delta_ci[0])


def test_no_wrong_answer_seen_still_has_an_unfavourable_end(tmp_path):
    value = roi.returns(folder(tmp_path / "run", runs()), traffic=ONE, price_out=10.0)["usd_per_wrong_answer"]
    assert (value["point"], value["high"]) == (None, None)
    assert 0.03 < value["low"] < 0.06  # about 3.7 of 400 cannot be excluded


def test_without_a_price_there_are_tokens_and_the_name_of_the_model(tmp_path, capsys):
    run = folder(tmp_path / "run", runs(model="my-own"))
    assert main(["roi", str(run), "--requests-per-day", "1000"]) == 0
    out = capsys.readouterr().out
    assert "No dollars: the price of my-own is unknown. Give --price-out, or --prices." in out
    assert "dollars saved" not in out
    assert "thinking tokens saved  50 (50 to 50)" in out
    assert "picked this policy on the same questions" in out


def test_list_prices_where_no_cost_was_recorded(tmp_path, capsys):
    (tmp_path / "prices.toml").write_text('[[price]]\nmatch = "my-own"\ninput = 1\noutput = 20\n')
    run = folder(tmp_path / "run", runs(model="my-own"))
    argv = [
        "roi",
        str(run),
        "--requests-per-day",
        "1000",
        "--prices",
        str(tmp_path / "prices.toml"),
        "--json",
    ]
    assert main(argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["cost_basis"], found["missing"]) == ("list", [])
    assert found["per_request"]["usd"]["point"] == pytest.approx(1e-3)


def test_a_cascade_over_several_models_takes_recorded_costs(tmp_path):
    two = runs(full={"cost_usd": [0.03] * N}, cap={"cost_usd": [0.01] * N})
    name = "small@off>full?agree"
    run = folder(tmp_path / "run", {"full": two["full"], name: two["cap:50"]}, asked=("full", name))
    assert roi.returns(run, traffic=ONE, policy=name)["per_day"]["usd"]["point"] == pytest.approx(20)
    assert roi.returns(run, traffic=ONE, policy=name, price_out=10.0)["per_request"]["usd"] is None


def test_what_the_run_does_not_recommend_is_said_first(tmp_path, capsys):
    run = folder(tmp_path / "run", runs(harm=40))
    assert main(["roi", str(run), "--requests-per-day", "1000"]) == 1
    assert capsys.readouterr().out.startswith("The run recommends no policy. Do not use a budget here")
    assert main(["roi", str(run), "--requests-per-day", "1000", "--policy", "cap:50"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("The run does not recommend cap:50. Do not use a budget here")
    assert "more wrong answers" in out


def test_machines_by_measured_throughput(tmp_path, capsys):
    # One call after the other: 2 s each in full is 1,800 an hour, 0.5 s each under the cap 7,200.
    full = {"e2e_s": [2.0] * N, "started_s": [2.0 * i for i in range(N)]}
    cap = {"e2e_s": [0.5] * N, "started_s": [0.5 * i for i in range(N)]}
    run = folder(tmp_path / "run", runs(full=full, cap=cap))
    traffic = roi.Traffic(low=86_400, high=172_800)
    machines = roi.returns(run, traffic=traffic, usd_per_hour=2.0)["machines"]
    assert machines["hours_per_day"] == {"full": [48, 96], "policy": [12, 24]}
    assert machines["machines"] == {"full": [2, 4], "policy": [1, 1]}
    assert machines["usd_saved_per_day"] == [72, 144]
    assert main(["roi", str(run), "--requests-per-day", "86400-172800", "--usd-per-hour", "2"]) == 0
    assert "48 to 96 against 12 to 24 machine-hours a day" in capsys.readouterr().out


def test_modelled_times_are_marked(tmp_path, capsys):
    marked = {"modelled": [("e2e_s",)] * N, "e2e_s": [2.0] * N}
    run = folder(tmp_path / "run", runs(full=marked, cap=marked), kind="replay")
    assert main(["roi", str(run), "--requests-per-day", "10"]) == 0
    assert "waiting saved (modelled)" in capsys.readouterr().out


def test_a_replay_has_cost_nothing(tmp_path):
    costs = {"cost_usd": [0.01] * N}
    run = folder(tmp_path / "run", runs(full=costs, cap=costs), kind="replay")
    assert roi.returns(run, traffic=ONE)["run_usd"] is None


def test_the_summary_in_the_folder_names_the_run(tmp_path, capsys):
    run = folder(tmp_path / "run", runs())
    assert main(["roi", str(run / "summary.json"), "--requests-per-day", "10", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == str(run)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--requests-per-day", "many"], "--requests-per-day 'many': expected 1000, or 800-1500"),
        (["--requests-per-day", "1500-800"], "expected 1000, or 800-1500"),
        (["--requests-per-day", "9", "--growth", "5%"], "--growth '5%': expected a share a month"),
        (["--requests-per-day", "9", "--months", "0"], "--months 0: expected 1 to 120"),
        (["--requests-per-day", "9", "--audit-rate", "2"], "--audit-rate 2: expected a share"),
        (["--requests-per-day", "9", "--price-out", "-1"], "--price-out -1: expected dollars from 0"),
        (["--requests-per-day", "9", "--policy", "off"], "policy 'off': nothing to hold against full"),
        (["--requests-per-day", "9", "--policy", "full"], "allowed: cap:50"),
        (["--requests-per-day", "9", "--policy", "cap:x"], "cap:x"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(tmp_path, capsys, argv, said):
    assert main(["roi", str(folder(tmp_path / "run", runs())), *argv]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_without_an_evaluation_is_refused(tmp_path, capsys):
    assert main(["roi", str(tmp_path), "--requests-per-day", "9"]) == 2
    assert "holds no summary.json" in capsys.readouterr().err
