"""Ladders as policies of live runs, and their certificates."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from budgetctl.evals import metrics, pocket
from budgetctl.evals.backends import PocketBackend
from budgetctl.evals.cascade import Cascade, charge, is_cascade
from budgetctl.evals.live import LiveRun
from budgetctl.evals.questions import LiveQuestion, Suite
from budgetctl.evals.results import Result
from budgetctl.evals.risk import halvings, ladders
from budgetctl.evals.runfolder import collect, read_rows
from budgetctl.evals.spend import LimitReached, Spend

from budgetctl.certificate import Certificate, LadderBinding
from budgetctl.cli import main
from budgetctl.errors import ConfigError
from budgetctl.policy import Certified

from .run_fake_suite import LADDER, FakeBackend, Thinker, live_run


class Sure(FakeBackend):
    """Sure of every third question at once and of every other after 50 tokens; right where it is sure."""

    confidence = True

    def _answer(self, question, budget, seed):
        n, cap = int(question.id), budget.reasoning_tokens
        sure = cap is None or n % 3 == 0 or (cap == 50 and n % 2 == 0)
        result = super()._answer(question, budget, seed)
        return replace(result, confidence=0.95 if sure else 0.4, correct=sure, ttft_s=0.01)


def by_number(results):
    return {int(r.question_id.rpartition("/")[2]): r for r in results}


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("off > cap:48 > full?confident:0.90", "off>cap:48>full?confident:0.9"),
        ("off>cap:48>full?confident:0.99/0.9", "off>cap:48>full?confident:0.99/0.9"),
        ("off>full+stop:balanced>full?agree", "off>full+stop:balanced>full?agree"),
        ("small@off>own@full?confident:1", "small@off>full?confident:1"),
    ],
)
def test_a_ladder_is_named_as_it_is_read(text, canonical):
    assert is_cascade(text)
    assert str(Cascade.parse(text, model="own")) == canonical
    assert str(Cascade.parse(canonical, model="own")) == canonical


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("off>full", "says not when a draft is accepted"),
        ("off?confident:0.9", "two rungs or more"),
        ("off>full?confident:2", "numbers from 0 to 1"),
        ("off>cap:9>full?confident:0.9/0.9/0.9", "there are 2 rungs before the last"),
        ("off>fulll?agree", "unknown part 'fulll'"),
        ("full>off?agree", "less thinking first"),
        ("off>full?confidant:0.9", "allowed are confident:P"),
    ],
)
def test_what_is_no_ladder_is_refused_by_name(text, said):
    with pytest.raises(ConfigError, match=r"cascade .*") as error:
        Cascade.parse(text, model="own")
    assert said in str(error.value)


def test_every_question_climbs_until_a_draft_is_sure(tmp_path):
    backend = Sure()
    runs = live_run(tmp_path, backend=backend, policies=("full", LADDER)).run()
    found = by_number(runs[LADDER])
    assert {n: r.rung for n, r in found.items() if n < 6} == {0: 0, 1: 2, 2: 1, 3: 0, 4: 1, 5: 2}
    assert all(r.correct for r in found.values())
    assert found[1].confidence == 0.95
    # 40 questions: those of the first rung that were not sure go on, and of these again.
    asked = [len(ids) for ids in backend.asked]
    assert (
        sum(asked)
        == 40
        + 40
        + Counter(r.rung > 0 for r in found.values())[True]
        + Counter(r.rung > 1 for r in found.values())[True]
    )


def test_drafts_that_were_thrown_away_are_charged(tmp_path):
    runs = live_run(tmp_path, backend=Sure(usd=0.01), policies=("full", LADDER)).run()
    last = by_number(runs[LADDER])[1]
    assert (last.output_tokens, last.probe_tokens) == (5 + 55 + 105, 5 + 55)
    assert last.reasoning_tokens == 100 + last.probe_tokens
    assert last.cost_usd == pytest.approx(0.03)
    assert last.e2e_s == pytest.approx(0.05 + 0.55 + 1.05)
    assert last.ttfo_s == pytest.approx(0.05 + 0.55 + 1.0)
    first = by_number(runs[LADDER])[0]
    assert (first.output_tokens, first.probe_tokens, first.cost_usd) == (5, 0, 0.01)


def test_a_sum_with_an_unknown_part_is_unknown():
    drafts = [
        Result(question_id="q", correct=False, output_tokens=5, e2e_s=None, rung=0),
        Result(question_id="q", correct=True, output_tokens=9, reasoning_tokens=4, e2e_s=1.0, rung=1),
    ]
    assert charge(drafts).e2e_s is None
    assert charge(drafts).output_tokens == 14


def test_a_stopped_ladder_resumes_without_asking_again_what_is_on_disk(tmp_path):
    whole = live_run(tmp_path / "whole", backend=Sure(), policies=("full", LADDER)).run()
    with pytest.raises(LimitReached):
        live_run(
            tmp_path / "torn", backend=Sure(), policies=("full", LADDER), spend=Spend(max_tokens=2500)
        ).run()
    before = len(read_rows(tmp_path / "torn" / "rows.jsonl"))
    assert 0 < before < 80
    backend = Sure()
    assert live_run(tmp_path / "torn", backend=backend, policies=("full", LADDER)).run() == whole
    assert sum(map(len, backend.asked)) < 150


def test_a_rung_goes_on_from_the_thought_of_the_one_below_it(tmp_path):
    backend = Thinker()
    found = by_number(live_run(tmp_path, backend=backend, policies=("full", LADDER)).run()[LADDER])
    assert all(r.correct for r in found.values())
    # 5 tokens without thinking, 50 and an answer of 5, then only the 50 that are missing.
    last = found[1]
    assert (last.rung, last.reasoning_tokens, last.output_tokens) == (2, 50 + 5 + 55, 55 + 5 + 55)
    assert last.probe_tokens == 5 + 5  # the kept thought is none
    assert last.e2e_s == pytest.approx(0.05 + 0.55 + 0.55)
    # A thought that ended by itself is nowhere longer: the last rung is not asked for what it has.
    ended = found[25]
    assert (ended.rung, ended.reasoning_tokens, ended.output_tokens) == (2, 40 + 5, 45 + 5)
    assert sum("25" in ids for ids in backend.asked) == 3  # full, off, cap:50


def test_recorded_rungs_cost_what_they_cost_live(tmp_path):
    live = live_run(tmp_path / "live", backend=Thinker(), policies=("full", LADDER)).run()[LADDER]
    rungs = ("off", "cap:50", "full")
    runs = live_run(tmp_path / "rungs", backend=Thinker(), policies=rungs).run()
    again = ladders.climbed(Cascade.parse(LADDER, model="fake"), runs)
    told = [(r.question_id, r.rung, r.reasoning_tokens, r.probe_tokens, r.output_tokens) for r in again]
    assert told == [
        (r.question_id, r.rung, r.reasoning_tokens, r.probe_tokens, r.output_tokens) for r in live
    ]


def test_a_rung_that_may_stop_earlier_begins_anew_and_so_does_another_model():
    ladder = Cascade.parse("off>cap:50>full+stop:balanced>full>big@full?agree", model="own")
    goes_on = [ladder.goes_on(i, i + 1) for i in range(4)]
    assert goes_on == [True, False, True, False]


def test_a_ladder_that_was_killed_comes_to_the_same_json(tmp_path, capsys):
    out, script = tmp_path / "run", Path(__file__).with_name("run_fake_suite.py")
    for rows in (1, 30, 60):
        command = [sys.executable, str(script), str(out), "0.03", "ladder"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 120
            while not (out / "rows.jsonl").exists() or lines_of(out) < rows:
                assert process.poll() is None, "the run ended before it could be killed"
                assert time.monotonic() < deadline
                time.sleep(0.005)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert lines_of(out) < 80
    told = []
    for folder in (out, tmp_path / "whole"):
        runs = live_run(folder, backend=Thinker(), policies=("full", LADDER)).run()
        evaluation = metrics.evaluate(runs, rng=np.random.default_rng(0))
        rows = [row.as_json() for row in (*evaluation.policies, *evaluation.baselines)]
        told.append((runs, json.dumps(rows, sort_keys=True)))
    assert told[0] == told[1]


def lines_of(folder):
    return (folder / "rows.jsonl").read_bytes().count(b"\n")


def test_agreement_needs_no_confidence_and_confidence_is_asked_for_before_the_run(tmp_path):
    agreed = "off>cap:50>full?agree"
    runs = live_run(tmp_path / "a", policies=("full", agreed)).run()
    assert {r.rung for r in runs[agreed]} == {1}  # the fake model always says the same
    with pytest.raises(ConfigError, match="confidence=True"):
        live_run(tmp_path / "b", policies=(LADDER,))


def test_other_models_need_an_endpoint(tmp_path):
    with pytest.raises(ConfigError, match=r"rung 'large@full': .*--base-url"):
        live_run(tmp_path, backend=Sure(), policies=("off>large@full?confident:0.9",))


def recorded(folder, n=300):
    """All rungs of the fake model: 'off' is wrong for two of three, and knows it."""
    live_run(folder, n=n, backend=Sure(), policies=("off", "cap:50", "full")).run()
    return folder


def test_a_certificate_binds_the_ladder_and_its_thresholds(tmp_path, capsys):
    rungs, cert = recorded(tmp_path / "rungs"), tmp_path / "ladder.json"
    arguments = [str(rungs), "--ladder", "off>cap:50>full", "--epsilon", "0.05", "--endpoint", "vllm"]
    assert main(["calibrate", *arguments, "--out", str(cert), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    certificate = Certificate.load(cert)
    assert said["policy"] == certificate.policy
    assert isinstance(certificate.binds, LadderBinding)
    assert certificate.binds.ladder == Cascade.parse(certificate.policy, model="fake").ladder.fingerprint
    assert certificate.mean_loss == 0.0
    assert certificate.token_saving > 0.25
    # Drafts that are wrong have a confidence of 0.4, so no threshold at or below that is certified.
    assert 0.4 < float(certificate.policy.rpartition(":")[2]) <= 0.95
    with pytest.raises(ConfigError, match="certificate of a ladder"):
        Certified.load(cert)


def test_a_certified_ladder_runs_where_it_holds_and_asks_only_its_last_rung_elsewhere(tmp_path):
    rungs, cert = recorded(tmp_path / "rungs"), tmp_path / "ladder.json"
    arguments = [str(rungs), "--ladder", "off>cap:50>full", "--epsilon", "0.05", "--endpoint", "vllm"]
    assert main(["calibrate", *arguments, "--out", str(cert)]) == 0
    name = f"certified:{cert}"
    held = live_run(tmp_path / "held", backend=Sure(), policies=(name,)).run()[name]
    assert Counter(r.rung for r in held)[0] == 14
    assert all(not r.notes for r in held)
    other = Sure()
    other.endpoint = "sglang"
    void = live_run(tmp_path / "void", backend=other, policies=(name,)).run()[name]
    assert {r.rung for r in void} == {2}
    assert void[0].notes == ("certificate void: endpoint: bound to 'vllm', seen 'sglang'",)


def test_a_certificate_binds_how_trial_answers_are_asked_for(tmp_path):
    asked = Sure()
    asked.settings = {"trials": {"every": 4, "tokens": 3}}
    live_run(tmp_path / "rungs", n=300, backend=asked, policies=("off", "cap:50", "full")).run()
    cert = tmp_path / "ladder.json"
    arguments = [str(tmp_path / "rungs"), "--ladder", "off>cap:50>full", "--epsilon", "0.05"]
    assert main(["calibrate", *arguments, "--endpoint", "vllm", "--out", str(cert)]) == 0
    assert Certificate.load(cert).binds.trials == asked.settings["trials"]
    name = f"certified:{cert}"
    held = live_run(tmp_path / "held", backend=asked, policies=(name,)).run()[name]
    assert {r.notes for r in held} == {()}
    void = live_run(tmp_path / "void", backend=Sure(), policies=(name,)).run()[name]
    assert {r.rung for r in void} == {2}
    assert void[0].notes == (
        "certificate void: trial answers: bound to {'every': 4, 'tokens': 3}, seen None",
    )


def test_a_rung_that_was_not_run_is_named(tmp_path, capsys):
    rungs = recorded(tmp_path / "rungs", n=20)
    arguments = ["calibrate", str(rungs), "--out", str(tmp_path / "c.json"), "--ladder"]
    assert main([*arguments, "off>cap:60>full"]) == 2
    assert "the rung 'cap:60' was not run" in capsys.readouterr().err
    assert main([*arguments, "off>full?confident:0.9"]) == 2
    assert "the threshold is what is calibrated" in capsys.readouterr().err
    assert main([*arguments, "off>full", "--families", "caps"]) == 2


def test_certificates_of_half_of_the_drafts_hold_on_the_other(tmp_path, capsys):
    code = halvings.main(
        [str(recorded(tmp_path)), "--ladder", "off>cap:50>full", "--epsilon", "0.05", "--json"]
    )
    found = json.loads(capsys.readouterr().out)
    assert code == 0
    assert (found["certified"], found["pool"], found["above"]) == (200, 0, 0)


def test_the_pocket_reasoner_climbs_and_knows_how_sure_it_is(tmp_path):
    questions = tuple(
        LiveQuestion(id=q.id, text=q.text, reference=q.answer, cluster=q.family, raw=q)
        for q in pocket.questions("test", 24, seed=3)
    )
    ladder = "off>full+stop:balanced>full?confident:0.9"
    suite = Suite(name="pocket", questions=questions, backend=PocketBackend(confidence=True))
    policies = ("off", "full", "full+stop:balanced", ladder)
    runs = LiveRun(suite=suite, policies=policies, out=tmp_path, batch_size=24).run()
    assert all(0 <= r.confidence <= 1 for results in runs.values() for r in results)
    assert {0, 1} <= {r.rung for r in runs[ladder]}
    accepted = [r for r in runs[ladder] if r.rung == 0]
    assert sum(r.correct for r in accepted) >= 0.9 * len(accepted)
    assert sum(r.output_tokens for r in runs[ladder]) < sum(r.output_tokens for r in runs["full"])
    # Recorded rungs climb to the same end as live ones.
    rows = collect(read_rows(tmp_path / "rows.jsonl"), policies=("off", "full+stop:balanced", "full"))
    again = ladders.climbed(Cascade.parse(ladder, model=pocket.NAME), rows)
    same = {r.question_id: (r.rung, r.output_tokens, r.correct) for r in again}
    assert same == {r.question_id: (r.rung, r.output_tokens, r.correct) for r in runs[ladder]}


def test_the_command_line_takes_a_ladder(tmp_path, capsys):
    ladder, out = "off>cap:32>full?confident:0.95", tmp_path / "run"
    arguments = ["eval", "live", "pocket", "--limit", "16", "--policies", f"full,{ladder}", "--json"]
    assert main([*arguments, "--out", str(out)]) in (0, 1)
    rows = json.loads(capsys.readouterr().out)["policies"]
    assert [row["policy"] for row in rows] == ["full", ladder]
    assert (out / "report.html").exists()
