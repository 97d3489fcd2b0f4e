import io
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from budgetctl.evals import cube
from budgetctl.evals.backends import load_grader, read_questions
from budgetctl.evals.progress import Progress

from budgetctl.errors import ConfigError, EvalError

from .run_fake_suite import FakeBackend, live_run


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_every_policy_answers_every_question_in_the_same_order(tmp_path):
    backend = FakeBackend()
    runs = live_run(tmp_path, backend=backend).run()
    assert {name: len(results) for name, results in runs.items()} == {"full": 40, "off": 40, "cap:50": 40}
    assert backend.asked[:10] == backend.asked[10:20] == backend.asked[20:]
    assert runs["cap:50"][0].reasoning_tokens == 50
    assert runs["cap:50"][0].budget.reasoning_tokens == 50


def test_rows_are_cube_rows_that_can_be_read_again(tmp_path):
    live_run(tmp_path).run()
    rows = cube.load(tmp_path / "rows.jsonl")
    assert len(rows) == 120
    assert {row.budget.kind for row in rows} == {"natural", "off", "tokens"}
    assert rows[0].model_extra["policy"] == "full"
    assert rows[0].answer == "answer to question 0"


def test_full_thinking_always_runs_since_everything_is_compared_with_it(tmp_path):
    assert set(live_run(tmp_path, policies=["cap:50"]).run()) == {"full", "cap:50"}


def test_a_finished_run_asks_nothing_again(tmp_path):
    first = live_run(tmp_path).run()
    backend = FakeBackend()
    assert live_run(tmp_path, backend=backend).run() == first
    assert backend.asked == []


@pytest.mark.parametrize("kill_after_rows", [1, 30, 70])
def test_a_run_killed_with_sigkill_resumes_without_a_row_missing_or_doubled(tmp_path, kill_after_rows):
    out = tmp_path / "run"
    script = Path(__file__).with_name("run_fake_suite.py")
    process = subprocess.Popen([sys.executable, str(script), str(out), "0.05"], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (out / "rows.jsonl").exists() or len(rows_of_torn(out)) < kill_after_rows:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = len(rows_of_torn(out))
    assert before < 120
    live_run(out).run()
    counts = Counter((row["policy"], row["question_id"]) for row in rows_of(out))
    assert len(counts) == 120
    assert set(counts.values()) == {1}


def rows_of_torn(out: Path) -> list[str]:
    return (out / "rows.jsonl").read_text().split("\n")[:-1]


def test_a_line_torn_in_the_middle_is_asked_again(tmp_path):
    whole = live_run(tmp_path).run()
    path = tmp_path / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    backend = FakeBackend()
    assert live_run(tmp_path, backend=backend).run() == whole
    assert backend.asked == [["39"]]


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


def test_what_cannot_run_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="unknown part 'fast'"):
        live_run(tmp_path / "a", policies=["fast"])
    with pytest.raises(EvalError, match="has no questions"):
        live_run(tmp_path / "b", n=0)
    assert list(tmp_path.iterdir()) == []


class Failing(FakeBackend):
    def generate(self, questions, budgets):
        if len(self.asked) == 3:
            raise EvalError("the endpoint went away")
        return super().generate(questions, budgets)


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


def test_without_a_terminal_progress_is_a_line_now_and_then():
    stream, now = io.StringIO(), iter([0.0, 10.0, 40.0, 50.0, 60.0])
    with Progress(40, "fake", stream=stream, clock=lambda: next(now)) as bar:
        for _ in range(4):
            bar.advance(10, "full")
    assert stream.getvalue().splitlines() == [
        "fake: 20/40 questions (full), about 40 s left",
        "fake: 40/40 questions (full)",
    ]


def test_questions_of_an_earlier_run_do_not_make_the_forecast_rosy():
    stream, now = io.StringIO(), iter([0.0, 0.0, 40.0])
    bar = Progress(40, "fake", stream=stream, clock=lambda: next(now))
    bar.advance(20)
    bar.advance(10, "full")
    assert stream.getvalue().splitlines() == ["fake: 30/40 questions (full), about 40 s left"]


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
