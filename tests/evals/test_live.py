import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from budgetctl.evals import cube
from budgetctl.evals.live import call_seed, turns
from budgetctl.evals.metrics import evaluate
from budgetctl.evals.progress import Progress
from budgetctl.evals.recording import Recording
from budgetctl.evals.risk.calibrate import Deployment, Goal, calibrate
from budgetctl.evals.spend import LimitReached, Spend
from budgetctl.evals.suites import load_grader, read_questions

from budgetctl.capabilities import Table
from budgetctl.controller import Controller
from budgetctl.errors import ConfigError, EvalError
from budgetctl.types import Pace

from .run_fake_suite import FakeBackend, live_run
from .worlds import curve


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_every_policy_answers_every_question(tmp_path):
    backend = FakeBackend()
    runs = live_run(tmp_path, backend=backend).run()
    assert {name: len(results) for name, results in runs.items()} == {"full": 40, "off": 40, "cap:50": 40}
    assert runs["cap:50"][0].reasoning_tokens == 50
    assert runs["cap:50"][0].budget.reasoning_tokens == 50


def test_policies_take_turns_and_each_begins_equally_often():
    found = list(turns("abcdefghi", ["full", "off", "cap:9"], samples=1, size=1))
    assert [(t.policy, *t.questions) for t in found[:6]] == [
        *(("full", "a"), ("off", "a"), ("cap:9", "a")),
        *(("off", "b"), ("cap:9", "b"), ("full", "b")),
    ]
    assert Counter(t.policy for t in found[::3]) == {"full": 3, "off": 3, "cap:9": 3}


class Watching(FakeBackend):
    """Notes how many calls of which budgets are in flight at once."""

    def __init__(self, **more):
        super().__init__(**more)
        self.running, self.most, self.mixed, self.lock = [], 0, False, threading.Lock()

    def generate(self, questions, budgets, *, seeds):
        with self.lock:
            self.running.append(budgets[0].reasoning_tokens)
            self.most = max(self.most, len(self.running))
            self.mixed |= len(set(self.running)) > 1
        try:
            return super().generate(questions, budgets, seeds=seeds)
        finally:
            with self.lock:
                self.running.remove(budgets[0].reasoning_tokens)


def test_calls_in_flight_are_as_many_as_the_backend_takes_and_all_of_one_policy(tmp_path):
    backend = Watching(seconds=0.002, concurrency=3, batched=False)
    runs = live_run(tmp_path, backend=backend).run()
    assert (backend.most, backend.mixed) == (3, False)
    assert all(len(ids) == 1 for ids in backend.asked)
    serial = live_run(tmp_path / "serial", backend=FakeBackend()).run()
    assert runs == serial


def test_samples_have_seeds_of_their_own_that_all_policies_share(tmp_path):
    runs = live_run(tmp_path, n=6, samples=3, seed=5).run()
    seeds = {name: [r.answer.split()[-1] for r in results] for name, results in runs.items()}
    assert seeds["full"] == seeds["off"] == seeds["cap:50"]
    assert len(set(seeds["full"])) == 18
    assert seeds["full"][2] == str(call_seed(5, "0", 2))
    assert [r.sample for r in runs["full"][:4]] == [0, 1, 2, 0]


def test_a_limit_stops_the_run_before_the_next_call_and_a_higher_one_goes_on(tmp_path):
    def run(**limit):
        return live_run(tmp_path, backend=FakeBackend(usd=0.01, batched=False), spend=Spend(**limit))

    with pytest.raises(LimitReached, match=r"stopped at the limit after 25 of 120 calls \(\$0\.25, "):
        run(max_usd=0.25).run()
    assert len(rows_of(tmp_path)) == 25
    with pytest.raises(LimitReached) as stop:
        run(max_tokens=3000).run()
    # What earlier sessions spent counts: the limit is one on the whole run.
    assert 3000 <= stop.value.spend.tokens < 3105
    assert {name: len(results) for name, results in run().run().items()} == dict.fromkeys(
        ("full", "off", "cap:50"), 40
    )


class Unpriced(FakeBackend):
    def __init__(self):
        super().__init__(concurrency=4, batched=False)
        self.priced = True


def test_a_call_of_unknown_cost_ends_a_run_with_a_limit_in_dollars_and_those_in_flight_are_kept(tmp_path):
    with pytest.raises(EvalError, match="what the call spent is unknown, so max_usd cannot hold"):
        live_run(tmp_path, backend=Unpriced(), spend=Spend(max_usd=1.0)).run()
    assert len(rows_of(tmp_path)) == 4


def test_a_limit_in_dollars_needs_a_price(tmp_path):
    with pytest.raises(ConfigError, match="it is not known what 'fake' costs"):
        live_run(tmp_path, spend=Spend(max_usd=1.0))
    assert list(tmp_path.iterdir()) == []


def test_rows_are_cube_rows_that_can_be_read_again(tmp_path):
    live_run(tmp_path).run()
    rows = cube.load(tmp_path / "rows.jsonl")
    assert len(rows) == 120
    assert {row.budget.kind for row in rows} == {"natural", "off", "tokens"}
    assert rows[0].model_extra["policy"] == "full"
    assert rows[0].answer.startswith("answer to question 0 by ")


def test_full_thinking_always_runs_since_everything_is_compared_with_it(tmp_path):
    assert set(live_run(tmp_path, policies=["cap:50"]).run()) == {"full", "cap:50"}


def test_a_finished_run_asks_nothing_again(tmp_path):
    first = live_run(tmp_path).run()
    backend = FakeBackend()
    assert live_run(tmp_path, backend=backend).run() == first
    assert backend.asked == []


def test_a_run_killed_three_times_comes_to_the_same_as_one_that_was_not(tmp_path):
    out, script = tmp_path / "run", Path(__file__).with_name("run_fake_suite.py")
    for rows in (1, 80, 160):
        process = subprocess.Popen([sys.executable, str(script), str(out), "0.02"], stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 120
            while not (out / "rows.jsonl").exists() or len(rows_of_torn(out)) < rows:
                assert process.poll() is None, "the run ended before it could be killed"
                assert time.monotonic() < deadline
                time.sleep(0.005)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert len(rows_of_torn(out)) < 240

    def run(folder):
        return live_run(folder, backend=FakeBackend(concurrency=3, batched=False), samples=2)

    results = run(out).run()
    counts = Counter((row["policy"], row["question_id"], row["sample"]) for row in rows_of(out))
    assert len(counts) == 240
    assert set(counts.values()) == {1}
    assert results == run(tmp_path / "whole").run()
    evaluations = [evaluate(runs, rng=np.random.default_rng(0)) for runs in (results, run(out).run())]
    assert evaluations[0] == evaluations[1]


def rows_of_torn(out: Path) -> list[str]:
    return (out / "rows.jsonl").read_text().split("\n")[:-1]


def test_a_line_torn_in_the_middle_is_asked_again(tmp_path):
    whole = live_run(tmp_path).run()
    path = tmp_path / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    backend = FakeBackend()
    assert live_run(tmp_path, backend=backend).run() == whole
    # The whole batch, for draws repeat only in the same company; what is on disk stays.
    assert backend.asked == [["36", "37", "38", "39"]]
    assert len(rows_of(tmp_path)) == 120


def test_other_settings_are_refused_and_named(tmp_path):
    live_run(tmp_path).run()
    for other, message in (
        (live_run(tmp_path, n=20), "questions was 40, now 20"),
        (live_run(tmp_path, seed=1), "seed was 0, now 1"),
        (live_run(tmp_path, policies=["full"]), r"policies was \['full', 'off', 'cap:50'\], now \['full'\]"),
        (live_run(tmp_path, backend=FakeBackend(temperature=1.0)), "temperature was 0.0, now 1.0"),
    ):
        with pytest.raises(EvalError, match=f"other settings .*{message}"):
            other.run()
    assert len(rows_of(tmp_path)) == 120


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "rows.jsonl").write_text("mine\n")
    with pytest.raises(EvalError, match=r"holds rows\.jsonl but no run\.json"):
        live_run(tmp_path).run()
    assert (tmp_path / "rows.jsonl").read_text() == "mine\n"


def test_a_damaged_run_is_named(tmp_path):
    live_run(tmp_path).run()
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(EvalError, match=r"run\.json: cannot be read"):
        live_run(tmp_path).run()


def test_a_run_of_another_format_is_not_resumed(tmp_path):
    live_run(tmp_path).run()
    content = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**content, "schema_version": "2.0"}))
    with pytest.raises(EvalError, match=r"seen schema_version 2\.0, this version reads 1\.x"):
        live_run(tmp_path).run()


def test_what_cannot_run_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="unknown part 'fast'"):
        live_run(tmp_path / "a", policies=["fast"])
    with pytest.raises(EvalError, match="has no questions"):
        live_run(tmp_path / "b", n=0)
    assert list(tmp_path.iterdir()) == []


class Failing(FakeBackend):
    def generate(self, questions, budgets, *, seeds):
        if len(self.asked) == 3:
            raise EvalError("the endpoint went away")
        return super().generate(questions, budgets, seeds=seeds)


def test_what_was_finished_before_a_fault_is_kept(tmp_path):
    with pytest.raises(EvalError, match="went away"):
        live_run(tmp_path, backend=Failing()).run()
    assert len(rows_of(tmp_path)) == 12
    live_run(tmp_path).run()
    assert len(rows_of(tmp_path)) == 120


def test_a_classifier_that_fails_is_recorded_on_every_row(tmp_path):
    class Broken:
        name, hash = "broken", "0"

        def estimate(self, query):
            raise RuntimeError("no weights")

    live_run(tmp_path, n=4, policies=["quantile:0.9"], classifier=Broken()).run()
    notes = {row["policy"]: row["notes"] for row in rows_of(tmp_path)}
    assert notes["full"] == []
    assert notes["quantile:0.9"] == ["classifier failed: RuntimeError"]


def test_a_deadline_learns_the_speed_of_the_run(tmp_path):
    rows = live_run(tmp_path, policies=["full", "deadline:10"]).run()
    # Full thinking took 0.01 s a token, so 10 s leave 1,000 tokens less the answer reserve of 512.
    assert 400 < rows["deadline:10"][-1].budget.reasoning_tokens < 500


@pytest.fixture
def certificate(tmp_path):
    """A certificate of a cap of 50 or less tokens, for the fake model at vLLM."""
    table = Table.load()
    rows = [r for i in range(400) for r in curve(f"q{i}", settled=20, natural=100, model="fake")]
    found = calibrate(
        Recording.of(rows),
        goal=Goal(epsilon=0.05, delta=0.1, loss="accuracy", cluster_by="question", seed=0),
        families=["caps"],
        stops=["none"],
        deployment=Deployment(
            endpoint="vllm", capabilities=table.version, pace=Pace(ttft_s=1, s_per_token=0.01)
        ),
    )
    found.save(tmp_path / "cert.json")
    return f"certified:{tmp_path / 'cert.json'}"


def test_a_certificate_that_holds_is_measured(certificate, tmp_path):
    results = live_run(tmp_path / "run", policies=[certificate]).run()[certificate]
    assert {r.budget.reasoning_tokens for r in results} == {32}
    assert {r.notes for r in results} == {()}


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"endpoint": "openai"}, "endpoint: bound to 'vllm', seen 'openai'"),
        ({"sampling": {"temperature": 1.0}}, "temperature: bound to None, seen 1.0"),
        ({"strength": "advisory"}, "cap is advisory, bound to hard controls"),
    ],
)
def test_a_certificate_that_does_not_hold_steps_aside_as_it_would_outside_and_says_so(
    certificate, tmp_path, other, why
):
    backend = FakeBackend()
    vars(backend).update(other)
    results = live_run(tmp_path / "run", policies=[certificate], backend=backend).run()[certificate]
    assert {r.budget.reasoning_tokens for r in results} == {None}
    assert {r.notes for r in results} == {(f"certificate void: {why}",)}


def test_a_base_decides_and_is_part_of_the_settings(tmp_path):
    base = Controller(classifier=None, presets={"balanced": {"trial_answer": {"confidence": 0.9}}})
    live_run(tmp_path, base=base).run()
    with pytest.raises(EvalError, match=r"presets was .*trial_answer.*, now None"):
        live_run(tmp_path).run()


def test_without_a_terminal_progress_is_a_line_now_and_then():
    stream, now = io.StringIO(), iter([0.0, 10.0, 40.0, 50.0, 60.0])
    with Progress(40, "fake", stream=stream, clock=lambda: next(now)) as bar:
        for i in range(4):
            bar.advance(10, "full", spent=Spend(usd=i / 10, tokens=1000 * i))
    assert stream.getvalue().splitlines() == [
        "fake: 20/40 calls (full, $0.1, 1,000 tokens), about 40 s left",
        "fake: 40/40 calls (full, $0.3, 3,000 tokens)",
    ]


def test_questions_of_an_earlier_run_do_not_make_the_forecast_rosy():
    stream, now = io.StringIO(), iter([0.0, 0.0, 40.0])
    bar = Progress(40, "fake", stream=stream, clock=lambda: next(now))
    bar.advance(20)
    bar.advance(10, "full")
    assert stream.getvalue().splitlines() == ["fake: 30/40 calls (full), about 40 s left"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar():
    pytest.importorskip("tqdm")
    stream = Terminal()
    with Progress(40, "fake", stream=stream) as bar:
        bar.advance(20)
        bar.advance(20, "full")
    assert "40/40" in stream.getvalue()


def test_a_suite_file_is_read_and_its_faults_are_named(tmp_path):
    path = tmp_path / "suite.jsonl"
    path.write_text('{"id": 7, "question": "1+1?", "answer": "2", "cluster": 3}\n\n{"question": "2+2?"}\n')
    first, second = read_questions(path)
    assert (first.id, first.text, first.reference, first.cluster) == ("7", "1+1?", "2", "3")
    assert second.id == "3"
    assert len(read_questions(path, limit=1)) == 1
    path.write_text('{"question": "1+1?"}\n{"prompt": "2+2?"}\n')
    with pytest.raises(
        EvalError, match=r"suite\.jsonl:2: expected a JSON object with the text field 'question'"
    ):
        read_questions(path)


def test_graders_are_found_by_name():
    assert load_grader("operator:eq")(1, 1)
    for bad, message in (
        ("operator", "expected module:function"),
        ("operator:none", "none"),
        ("math:pi", "is no"),
    ):
        with pytest.raises(EvalError, match=message):
            load_grader(bad)
