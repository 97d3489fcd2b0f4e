"""Question sets in their published formats: small files written as the published ones are."""

import csv
import gzip
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from budgetctl.evals import datasets, graders, suites
from budgetctl.evals.datasets import sources

from budgetctl.errors import ConfigError, EvalError

GSM8K = {
    "question": "A pen costs $1,000 and a cap twice as much. What do both cost?",
    "answer": "A cap costs 1000*2=$<<1000*2=2000>>2000.\nBoth 2000+1000=$<<2000+1000=3000>>3000.\n#### 3,000",
}
MATH = {
    "problem": "What is $\\frac{1}{2} + \\frac{1}{3}$?",
    "level": "Level 2",
    "type": "Prealgebra",
    "solution": "We get $\\frac{3}{6}+\\frac{2}{6}=\\boxed{\\frac{5}{6}}$.",
}
MATH500 = {
    "problem": "Add $1$ and $2$.",
    "solution": "It is $\\boxed{3}$.",
    "answer": "3",
    "subject": "Algebra",
    "level": 1,
    "unique_id": "test/algebra/1.json",
}
AIME24 = {
    "id": 60,
    "problem": "Find $m+n$.",
    "solution": "...",
    "answer": "033",
    "url": "https://x",
    "year": "2024",
}
AIME83 = {
    "ID": "1983-1",
    "Year": 1983,
    "Problem Number": 1,
    "Question": "Find $x$.",
    "Answer": "60",
    "Part": None,
}
MMLU_PRO = {
    "question_id": 70,
    "question": "Which is a fruit?",
    "options": ["stone", "apple", "glass", "iron", "air"],
    "answer": "B",
    "answer_index": 1,
    "cot_content": "",
    "category": "biology",
    "src": "made-up",
}
GPQA = {
    "Record ID": "rec1",
    "Question": "What is heaviest?",
    "Correct Answer": "lead\n",
    "Incorrect Answer 1": "wood",
    "Incorrect Answer 2": "air",
    "Incorrect Answer 3": "ice",
    "High-level domain": "Physics",
    "Subdomain": "Mechanics",
}
BBH = {"canary": "...", "examples": [{"input": "not True is", "target": "False"}]}
BBH_LETTER = {"input": "Which?\nOptions:\n(A) this\n(B) that", "target": "(A)"}
LIVE_CODE = {
    "question_title": "Double",
    "question_content": "Print twice the number.",
    "platform": "atcoder",
    "question_id": "abc301_a",
    "contest_id": "abc301",
    "contest_date": "2024-01-01T00:00:00",
    "starter_code": "",
    "difficulty": "easy",
    "public_test_cases": '[{"input": "2\\n", "output": "4\\n", "testtype": "stdin"}]',
    "private_test_cases": '[{"input": "3\\n", "output": "6\\n", "testtype": "stdin"}]',
    "metadata": "{}",
}

SETS = [
    ("gsm8k", GSM8K, "Both cost \\boxed{3000}.", "It costs \\boxed{2000}."),
    ("math", MATH, "\\boxed{5/6}", "\\boxed{4/6}"),
    ("math500", MATH500, "The answer is 3.", "The answer is 4."),
    ("aime", AIME24, "\\boxed{33}", "\\boxed{34}"),
    ("aime", AIME83, "\\boxed{60}", "\\boxed{061}"),
    ("mmlu-pro", MMLU_PRO, "The answer is (B)", "The answer is (A)"),
    ("bbh", BBH, "So the answer is False.", "So the answer is True."),
    ("bbh", BBH_LETTER, "The answer is (A)", "The answer is (B)"),
    ("livecodebench", LIVE_CODE, "```python\nprint(2 * int(input()))\n```", "```python\nprint(4)\n```"),
]


def written(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize(("name", "record", "right", "wrong"), SETS)
def test_a_published_record_becomes_a_question_with_a_grader_that_tells_right_from_wrong(
    tmp_path, name, record, right, wrong
):
    pytest.importorskip("math_verify")
    ending = "json" if "examples" in record else "jsonl"
    path = written(tmp_path / f"set.{ending}", record)
    [(key, item)], grader = datasets.open_dataset(f"{name}:{path}")
    assert key
    assert item.line["question"] in item.prompt
    grade = graders.load(grader)
    assert grade(right, item.line)
    assert not grade(wrong, item.line)
    assert not grade("", item.line)


def test_what_a_set_says_of_difficulty_and_subject_is_kept(tmp_path):
    [(_, gsm8k)], _ = datasets.open_dataset(f"gsm8k:{written(tmp_path / 'a.jsonl', GSM8K)}")
    assert (gsm8k.level, gsm8k.line["reference_answer"]) == (2, "3000")
    [(_, math)], _ = datasets.open_dataset(f"math:{written(tmp_path / 'b.jsonl', MATH)}")
    assert (math.level, math.cluster) == (2, "Prealgebra")
    [(key, math500)], _ = datasets.open_dataset(f"math500:{written(tmp_path / 'c.jsonl', MATH500)}")
    assert (key, math500.level, math500.cluster) == ("test/algebra/1.json", 1, "Algebra")


def test_gpqa_comes_as_csv_and_its_options_are_shuffled_alike_every_time(tmp_path):
    path = tmp_path / "gpqa_diamond.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, GPQA)
        writer.writeheader()
        writer.writerow(GPQA)
        writer.writerow({**GPQA, "Record ID": "rec2", "Question": "What, then, is\nheaviest?"})
    items, grader = datasets.open_dataset(f"gpqa:{path}")
    assert [key for key, _ in items] == ["rec1", "rec2"]
    for _, item in items:
        letter = item.line["reference_answer"]
        assert item.line["options"][ord(letter) - 65] == "lead"
        assert f"({letter}) lead" in item.prompt
        assert graders.load(grader)(f"The answer is ({letter})", item.line)
    assert datasets.open_dataset(f"gpqa:{path}")[0] == items
    many = [{**GPQA, "Record ID": str(i), "Question": f"{i}?"} for i in range(40)]
    shuffled, _ = datasets.open_dataset(f"gpqa:{written(tmp_path / 'many.jsonl', *many)}")
    assert {item.line["reference_answer"] for _, item in shuffled} == set("ABCD")


def test_parquet_and_folders_are_read(tmp_path):
    pyarrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    parquet.write_table(pyarrow.Table.from_pylist([MMLU_PRO]), tmp_path / "mmlu.parquet")
    [(key, item)], _ = datasets.open_dataset(f"mmlu-pro:{tmp_path / 'mmlu.parquet'}")
    assert (key, item.cluster, item.line["options"]) == ("70", "biology", MMLU_PRO["options"])
    folder = tmp_path / "bbh"
    folder.mkdir()
    written(folder / "boolean_expressions.json", BBH)
    written(folder / "choices.jsonl", BBH_LETTER)
    items, _ = datasets.open_dataset(f"bbh:{folder}")
    assert [item.cluster for _, item in items] == ["boolean_expressions", "choices"]


BAD = [
    ("gsm8k", {"question": "Q", "answer": "18"}, "does not begin with '####'"),
    ("gsm8k", {"problem": "Q"}, "no field 'question'; it has problem"),
    ("math", {"problem": "Q", "solution": "3"}, r"no \\boxed\{\} in it"),
    ("aime", {"problem": "Q", "answer": "x"}, "whole number from 0 to 999"),
    ("mmlu-pro", {**MMLU_PRO, "answer": "F"}, "the letter of one of 5 options"),
    ("mmlu-pro", {**MMLU_PRO, "options": "A, B"}, "expected a list"),
    ("livecodebench", {"question_content": "Q"}, "no field 'public_test_cases'"),
]


@pytest.mark.parametrize(("name", "record", "message"), BAD)
def test_a_record_of_another_format_is_named_by_file_and_line(tmp_path, name, record, message):
    good = next(good for known, good, *_ in SETS if known == name)
    path = written(tmp_path / "set.jsonl", good, record)
    with pytest.raises(EvalError, match=rf"set\.jsonl:2: not of the format '{name}': .*{message}"):
        datasets.open_dataset(f"{name}:{path}")


def test_doubles_empty_files_and_unknown_endings_are_refused(tmp_path):
    twice = written(tmp_path / "twice.jsonl", MATH500, MATH500)
    with pytest.raises(
        EvalError, match=r"twice\.jsonl:2: a second question is called 'test/algebra/1\.json'"
    ):
        datasets.open_dataset(f"math500:{twice}")
    with pytest.raises(EvalError, match="holds no questions"):
        datasets.open_dataset(f"math500:{written(tmp_path / 'empty.jsonl')}")
    with pytest.raises(EvalError, match="the ending says no format"):
        datasets.open_dataset(f"math500:{written(tmp_path / 'set.txt', MATH500)}")
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(EvalError, match=r"bad\.jsonl:1: not JSON"):
        datasets.open_dataset(f"math500:{tmp_path / 'bad.jsonl'}")
    with pytest.raises(ConfigError, match="there is no such file"):
        datasets.open_dataset("math500:none.jsonl")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A server with one gzipped set, and an empty cache."""
    monkeypatch.setenv("BUDGETCTL_CACHE", str(tmp_path / "cache"))
    content = gzip.compress(json.dumps(GSM8K).encode(), mtime=0)

    class Site(BaseHTTPRequestHandler):
        hits = 0
        served = content

        def do_GET(self):
            Site.hits += 1
            self.send_response(200 if self.path == "/test.jsonl.gz" else 404)
            self.send_header("content-length", str(len(Site.served)))
            self.end_headers()
            self.wfile.write(Site.served)

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/test.jsonl.gz"
        yield Site, url, hashlib.sha256(content).hexdigest()
        server.shutdown()


def test_a_url_is_fetched_once_and_only_with_its_checksum(site):
    server, url, digest = site
    with pytest.raises(ConfigError, match=f"needs a checksum; what is there has #sha256={digest}"):
        datasets.fetch(url)
    name = f"gsm8k:{url}#sha256={digest}"
    assert len(datasets.open_dataset(name)[0]) == 1
    hits = server.hits
    assert len(datasets.open_dataset(name)[0]) == 1
    assert server.hits == hits  # it is in the cache
    [kept] = (sources.cache_folder() / "datasets").iterdir()
    kept.write_bytes(b"spoilt")
    assert len(datasets.open_dataset(name)[0]) == 1
    assert server.hits == hits + 1


def test_what_is_not_what_the_checksum_says_is_refused_and_not_kept(site):
    server, url, digest = site
    server.served = b"something else"
    with pytest.raises(EvalError, match="is not what the checksum says: seen sha256"):
        datasets.fetch(f"{url}#sha256={digest}")
    assert list((sources.cache_folder() / "datasets").iterdir()) == []
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        datasets.fetch(f"{url}#sha256=abc")
    with pytest.raises(EvalError, match="cannot be fetched"):
        datasets.fetch(f"{url}.none#sha256={digest}")


def test_a_set_is_a_suite_of_live_runs(tmp_path):
    pytest.importorskip("openai")
    path = written(tmp_path / "test.jsonl", GSM8K, {**GSM8K, "question": "Another?"})
    suite = suites.open_suite(f"gsm8k:{path}", base_url="http://127.0.0.1:1/v1", model="m", limit=1)
    assert suite.name == "gsm8k"
    [question] = suite.questions
    assert (question.reference, question.level) == ("3000", 2)
    assert question.text.startswith(GSM8K["question"])
