"""Graders: what counts as right, and that a program being graded cannot run away."""

import gzip
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from budgetctl.evals import graders
from budgetctl.evals.graders import formulas, programs, structured, text

from budgetctl.errors import EvalError


def right(name, answer, reference, **line):
    return graders.load(name)(answer, {"reference_answer": reference, **line})


@pytest.mark.parametrize("name", ["exact", "normalised", "choice", "maths", "stated", "regex:.*"])
@pytest.mark.parametrize("answer", ["", "  \n"])
def test_a_missing_answer_is_wrong(name, answer):
    assert not right(name, answer, "A")


def test_without_a_reference_nothing_is_graded_in_silence():
    for name in ("exact", "normalised", "choice", "maths", "json", "code"):
        with pytest.raises(EvalError):
            graders.load(name)("42", {"question": "?"})


def test_exact_and_normalised_text():
    assert right("exact", " Paris \n", "Paris")
    assert not right("exact", "paris", "Paris")
    assert right("normalised", "The Eiffel-Tower!", "eiffel tower")
    assert right("normalised", "I thought of Rome. The answer is: **Paris**.", "Paris")
    assert right("normalised", "yes", ["No", "Yes"])
    assert not right("normalised", "Paris, or Rome", "Paris")


def test_a_pattern_takes_its_last_match():
    assert right(r"regex:####\s*(\S+)", "#### 3\nno:\n#### 4", "4")
    assert not right(r"regex:####\s*(\S+)", "#### 4\nno:\n#### 3", "4")
    assert graders.load("regex:^OK$")("well\nOK", {})
    with pytest.raises(EvalError, match="no regular expression"):
        graders.load("regex:(")


LETTERS = [
    ("B", "B"),
    ("(B)", "B"),
    ("B.", "B"),
    ("**B**", "B"),
    ("B) 42", "B"),
    ("The answer is (B).", "B"),
    ("The answer is B", "B"),
    ("the correct answer is **B) a cat**", "B"),
    ("Answer: B\n", "B"),
    ("**Answer:** B", "B"),
    ("Final answer: $\\boxed{B}$", "B"),
    ("\\boxed{\\text{B}}", "B"),
    ("First I thought the answer is A. But no: the answer is B.", "B"),
    ("A is wrong since it is small.\nThe answer is (C)", "C"),
    ("I choose B", "B"),
    ("A cat sat on the mat.", None),
    ("I do not know", None),
    ("Option B is right, hence the answer: B", "B"),
]


@pytest.mark.parametrize(("answer", "letter"), LETTERS)
def test_letters_are_found_in_the_ways_models_give_them(answer, letter):
    assert text.letter(answer, among=4) == letter


def test_a_choice_may_be_given_in_the_options_own_words():
    options = ["a cat", "a dog"]
    assert right("choice", "The answer is: a dog", "B", options=options)
    assert not right("choice", "The answer is: a cow", "B", options=options)
    assert not right("choice", "The answer is (C)", "C", options=options)  # there is none
    with pytest.raises(EvalError, match="one capital letter"):
        right("choice", "B", "dog")


def test_stated_answers_are_letters_or_text():
    assert right("stated", "The answer is (A).", "(A)")
    assert right("stated", "So the answer is valid", "valid")
    assert not right("stated", "The answer is (B).", "(A)")


SAME = [
    ("18", "She makes \\boxed{18} dollars."),
    ("18", "She makes $9 \\cdot 2 = \\$18$. The answer is \\$18."),
    ("3000", "The therapy costs \\$3,000."),
    ("1234.5", "\\boxed{1,234.50}"),
    ("\\frac{1}{2}", "\\boxed{0.5}"),
    ("\\frac{1}{2}", "the answer is $\\dfrac12$"),
    ("\\left( 3, \\frac{\\pi}{2} \\right)", "\\boxed{(3, \\pi/2)}"),
    ("x^2+2x+1", "\\boxed{(x+1)^2}"),
    ("2\\sqrt{3}", "\\boxed{\\sqrt{12}}"),
    ("10\\%", "\\boxed{10}"),
]
DIFFERENT = [
    ("18", "\\boxed{19}"),
    ("18", "I do not know"),
    ("\\frac{1}{2}", "\\boxed{0.51}"),
    ("5", "\\boxed{4}, or was it 5"),
    ("x^2", "\\boxed{x^3}"),
]


@pytest.mark.parametrize(("reference", "answer"), SAME)
def test_the_same_mathematics_in_another_form_is_right(reference, answer):
    pytest.importorskip("math_verify")
    assert right("maths", answer, reference)


@pytest.mark.parametrize(("reference", "answer"), DIFFERENT)
def test_other_mathematics_is_wrong(reference, answer):
    pytest.importorskip("math_verify")
    assert not right("maths", answer, reference)


def test_a_comparison_that_takes_too_long_is_ended_and_wrong_also_in_threads(monkeypatch):
    pytest.importorskip("math_verify")
    assert right("maths", "\\boxed{\\sqrt{4}}", "x - x + 2")  # the process is there
    monkeypatch.setattr(formulas, "SECONDS", 0.0)
    found = []
    thread = threading.Thread(target=lambda: found.append(right("maths", "\\boxed{\\sqrt{9}}", "x - x + 3")))
    thread.start()
    thread.join()
    assert found == [False]
    monkeypatch.undo()
    assert right("maths", "\\boxed{\\sqrt{9}}", "x - x + 3")  # by a new one


def test_json_is_compared_by_value_and_by_schema():
    assert right("json", 'Here:\n```json\n{"b": [1.0, 2], "a": "x"}\n```', {"a": "x", "b": [1, 2]})
    assert right("json", 'It is {"a": 1} as asked.', '{"a": 1}')
    assert not right("json", '{"a": true}', {"a": 1})
    assert not right("json", "no json here", {"a": 1})
    assert not right("json", '{"a": 1, "b": 2}', {"a": 1})


def test_a_schema_alone_can_be_asked_for():
    pytest.importorskip("jsonschema")
    grade = graders.load("json")
    line = {"schema": {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}}
    assert grade('{"a": 3}', line)
    assert not grade('{"a": "3"}', line)
    with pytest.raises(EvalError, match="no JSON schema"):
        grade("{}", {"schema": {"type": "thing"}})


ADD = "Here it is:\n```python\ndef add(a, b):\n    return a + b\n```\nDone."


def program(source):
    return f"```python\n{source}\n```"


def test_programs_are_run_against_tests_in_the_published_forms():
    grade = graders.load("code")
    assert grade(ADD, {"test_list": ["assert add(1, 2) == 3"]})
    assert not grade(ADD, {"test_list": ["assert add(1, 2) == 4"]})
    humaneval = {"test": "def check(f):\n    assert f(1, 2) == 3", "entry_point": "add"}
    assert grade(ADD, humaneval)
    assert grade("    return a + b", {**humaneval, "prompt": "def add(a, b):\n"})
    reads = program("print(sum(map(int, input().split())))")
    cases = [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]
    assert grade(reads, {"public_test_cases": json.dumps(cases)})
    assert not grade(reads, {"public_test_cases": [{**cases[0], "output": "4"}]})
    solution = program("class Solution:\n    def add(self, a: List[int], b):\n        return a + [b]")
    calls = [{"input": "[1, 2]\n3", "output": "[1, 2, 3]", "testtype": "functional"}]
    assert grade(solution, {"public_test_cases": calls, "metadata": '{"func_name": "add"}'})


def test_packed_private_tests_are_unpacked_but_never_run_as_a_pickle():
    import base64
    import pickle
    import zlib

    def packed(value):
        return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()

    cases = [{"input": "2", "output": "4", "testtype": "stdin"}]
    doubles = program("print(2 * int(input()))")
    assert graders.load("code")(doubles, {"private_test_cases": packed(json.dumps(cases))})
    with pytest.raises(EvalError, match="only text is expected"):
        graders.load("code")(doubles, {"private_test_cases": packed(Path("x"))})


QUICK = programs.Limits(seconds=5, cpu_s=1, memory_mb=512, file_mb=1)
RUNAWAYS = {
    "an endless loop": "while True: pass",
    "a sleep": "import time; time.sleep(60)",
    "too much memory": "x = bytearray(2 << 30)",
    "too large a file": "open('f', 'wb').write(bytes(2 << 20))",
    "an exit with an error": "raise SystemExit(3)",
    "a crash": "import os; os.abort()",
    "no program": "def (",
}


@pytest.mark.parametrize("source", RUNAWAYS.values(), ids=RUNAWAYS)
def test_a_program_that_runs_away_is_ended_and_wrong(source):
    started = time.monotonic()
    assert not programs.code(program(source), {"tests": "pass"}, limits=QUICK)
    assert time.monotonic() - started < 30


def test_what_a_program_leaves_running_is_killed(tmp_path):
    mark = tmp_path / "alive"
    child = f"import time, pathlib; time.sleep(3); pathlib.Path({str(mark)!r}).touch()"
    source = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {child!r}])"
    assert programs.code(program(source), {"tests": "pass"})
    time.sleep(4)
    assert not mark.exists()


def test_a_program_sees_no_secret_and_no_network(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert programs.code(program("import os\nassert 'OPENAI_API_KEY' not in os.environ"), {"tests": "pass"})
    if not programs._without_network():
        pytest.skip("this system does not let us take the network away")
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        calls = f"import socket; socket.create_connection(('127.0.0.1', {server.server_port}), timeout=2)"
        subprocess.run([sys.executable, "-c", calls], check=True)  # from here it can be reached
        assert not programs.code(program(calls), {"tests": "pass"})


class Judge(BaseHTTPRequestHandler):
    asked: list = []  # noqa: RUF012  # one per test run
    verdict = "VERDICT: RIGHT"

    def do_POST(self):
        Judge.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        message = {"role": "assistant", "content": f"Let me see.\n{Judge.verdict}"}
        reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "j"}
        data = json.dumps(
            {**reply, "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
        ).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def test_a_judge_is_asked_at_the_endpoint_that_is_named(monkeypatch):
    pytest.importorskip("openai")
    with HTTPServer(("127.0.0.1", 0), Judge) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        grade = graders.load(f"judge:small/judge@http://127.0.0.1:{server.server_port}/v1")
        line = {"question": "Why?", "reference_answer": "Because."}
        assert grade("Since it is so.", line)
        assert Judge.asked[0]["model"] == "small/judge"
        sent = Judge.asked[0]["messages"][0]["content"]
        assert all(part in sent for part in ("Why?", "Because.", "Since it is so."))
        monkeypatch.setattr(Judge, "verdict", "VERDICT: WRONG")
        assert not grade("Since it is so.", line)
        monkeypatch.setattr(Judge, "verdict", "hm")
        with pytest.raises(EvalError, match="gave no verdict"):
            grade("Since it is so.", line)
        assert not grade(" ", line)
        assert len(Judge.asked) == 3  # an empty answer needs no judge
        server.shutdown()


@pytest.mark.parametrize("name", ["judge:m", "judge:m@localhost", "judge:@http://x"])
def test_a_judge_without_an_endpoint_is_refused(name):
    with pytest.raises(EvalError, match="expected judge:MODEL@URL"):
        graders.load(name)


def test_the_last_value_of_an_answer_is_its_json():
    assert structured.extract("3") == 3
    assert structured.extract('a {b} {"c": 1}') == {"c": 1}


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("maths", {"question": "?"}, "no 'reference_answer'"),
        ("choice", {"answer": "dog"}, "one capital letter"),
        ("json", {}, "neither a 'schema' nor"),
        ("code", {}, "has no tests"),
        ("judge:m@http://127.0.0.1:1/v1", {}, "no 'reference_answer'"),
    ],
)
def test_a_question_that_cannot_be_graded_is_refused_before_anyone_is_asked(name, line, message):
    with pytest.raises(EvalError, match=f"^suite.jsonl:3: .*{message}"):
        graders.check_line(name, line, where="suite.jsonl:3")
    graders.check_line("operator:eq", line, where="")


DATA = Path(os.environ.get("BUDGETCTL_DATA", "/nonexistent"))


@pytest.mark.skipif(not DATA.exists(), reason="recordings of real models are not here (BUDGETCTL_DATA)")
def test_agreement_with_the_verdicts_of_recorded_answers():
    pytest.importorskip("math_verify")
    with gzip.open(DATA / "traces/mip_gsm8k_math.jsonl.gz") as file:
        rows = [json.loads(line) for line in file]
    grade, agree = graders.load("maths"), Counter()
    for row in rows:
        answer = row["output_text"].split("</think>")[-1]
        agree[grade(answer, row) == row["correct"]] += 1
    assert agree.total() == 1293
    assert agree[True] / agree.total() >= 0.99
    with gzip.open(DATA / "cubes/gemma4_truncation.jsonl.gz") as file:
        letters = [json.loads(line) for line in file]
    grade = graders.load("choice")
    assert all(grade(f"The answer is ({row['answer']}).", row) == row["correct"] for row in letters)
