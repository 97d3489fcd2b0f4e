"""Cubes from the logs of other tools, written here as those tools write them, and back."""

import csv
import json
import zipfile

import pytest
from budgetctl.evals import cube, exchange
from budgetctl.evals.exchange import Defaults, flat, inspect_export

from budgetctl import JsonlSink
from budgetctl.errors import EvalError
from budgetctl.outcomes import Outcome
from budgetctl.types import Budget, Decision, Expected, StopReason, Timing, Usage

from .worlds import curve, row


def lines(path, *objects):
    path.write_text("".join(json.dumps(one) + "\n" for one in objects))
    return path


def rows_of(*paths, source=None, **defaults):
    imported = exchange.read(paths, source=source, defaults=Defaults(**defaults))
    return list(imported.rows), dict(imported.left_out)


def sample(name, *, epoch=1, value="C", **more):
    return {
        "id": name,
        "epoch": epoch,
        "input": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"What is {name}?"},
        ],
        "target": ["4"],
        "output": {"model": "openai/m", "completion": "4", "time": 1.5},
        "scores": {"match": {"value": value, "answer": "4"}},
        "model_usage": {"openai/m": {"output_tokens": 20, "reasoning_tokens": 12, "total_cost": 0.25}},
        **more,
    }


def inspect_log(*samples, config=None):
    spec = {"task": "sums", "model": "openai/m", "dataset": {"name": "sums"}}
    return {
        "version": 2,
        "status": "success",
        "eval": spec,
        "plan": {"config": config or {}},
        "samples": samples,
    }


def test_inspect_samples_become_rows(tmp_path):
    path = tmp_path / "log.json"
    path.write_text(json.dumps(inspect_log(sample("2+2"), sample("2+2", epoch=2, value="I"))))
    (first, second), left_out = rows_of(path)
    assert (first.dataset, first.question_id, first.question) == ("sums", "2+2", "What is 2+2?")
    assert (first.reference_answer, first.answer, first.correct) == ("4", "4", True)
    assert (first.reasoning_tokens, first.output_tokens, first.e2e_s, first.cost_usd) == (12, 20, 1.5, 0.25)
    assert (first.sample, second.sample, second.correct) == (0, 1, False)
    assert first.budget == cube.CubeBudget(kind="natural")
    assert left_out == {}


@pytest.mark.parametrize(
    ("config", "budget"),
    [
        ({"reasoning_tokens": 1024}, {"kind": "tokens", "value": 1024}),
        ({"reasoning_effort": "low"}, {"kind": "effort", "value": "low"}),
        ({"reasoning_effort": "none"}, {"kind": "off"}),
        ({"temperature": 0.6}, {"kind": "natural"}),
    ],
)
def test_the_budget_of_inspect_logs_is_that_of_their_configuration(tmp_path, config, budget):
    path = tmp_path / "log.json"
    path.write_text(json.dumps(inspect_log(sample("a"), config=config)))
    assert rows_of(path)[0][0].budget == cube.CubeBudget(**budget)


def test_an_error_is_a_wrong_answer_and_a_sample_without_a_score_is_counted(tmp_path):
    failed = sample("a", error={"message": "timeout"})
    path = tmp_path / "log.json"
    path.write_text(json.dumps(inspect_log(failed, sample("b", scores=None), sample("c", value="P"))))
    (wrong, partial), left_out = rows_of(path)
    assert (wrong.correct, wrong.answer, wrong.signals) == (False, None, {"error": "timeout"})
    assert not partial.correct
    assert rows_of(path, threshold=0.5)[0][1].correct
    assert left_out == {"samples without a score": 1}


def test_which_of_several_scores_counts_has_to_be_said(tmp_path):
    path = tmp_path / "log.json"
    scores = {"match": {"value": "I"}, "judge": {"value": 1.0}}
    path.write_text(json.dumps(inspect_log(sample("a", scores=scores))))
    with pytest.raises(EvalError, match=r"there is match, judge; name it with --scorer"):
        rows_of(path)
    assert rows_of(path, scorer="judge")[0][0].correct


@pytest.mark.parametrize("compression", ["deflated", "zstandard"])
def test_eval_files_of_inspect_are_zips_of_samples(tmp_path, compression):
    path, log = tmp_path / "log.eval", inspect_log()
    members = {"header.json": {**log, "samples": None}}
    members |= {f"samples/{name}_epoch_1.json": sample(name) for name in ("a", "b")}
    if compression == "deflated":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, json.dumps(content))
    else:
        packed_by_hand(path, members)
    assert [r.question_id for r in rows_of(tmp_path)[0]] == ["a", "b"]


def packed_by_hand(path, members):
    """Write the zip that inspect_ai writes: Python's own module knows method 93 from 3.14 on only."""
    zstandard = pytest.importorskip("zstandard")
    content = {name: json.dumps(value).encode() for name, value in members.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in content.items():
            archive.writestr(name, zstandard.ZstdCompressor().compress(data))
    whole = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = whole.find(mark)
        while at >= 0:
            whole[at + offset : at + offset + 2] = (93).to_bytes(2, "little")
            at = whole.find(mark, at + 1)
    path.write_bytes(whole)


SAMPLE = {
    "doc_id": 3,
    "doc": {"question": "What is 2+2?", "answer": "#### 4"},
    "target": "4",
    "arguments": {"gen_args_0": {"arg_0": "Q: What is 2+2?\nA:", "arg_1": {"until": []}}},
    "resps": [["It is 4"]],
    "filtered_resps": ["4"],
    "filter": "strict-match",
    "metrics": ["exact_match"],
    "exact_match": 1.0,
}


def test_lm_eval_samples_become_rows(tmp_path):
    path = lines(tmp_path / "samples_gsm8k_2026-01-01T00-00-00.000001.jsonl", SAMPLE, {**SAMPLE, "doc_id": 4})
    (tmp_path / "results_2026-01-01T00-00-00.000001.json").write_text('{"model_name": "org/m"}')
    (first, _), _ = rows_of(path)
    assert (first.dataset, first.question_id, first.model) == ("gsm8k", "3", "org/m")
    assert (first.question, first.answer, first.reference_answer) == ("What is 2+2?", "4", "4")
    assert (first.correct, first.output_tokens) == (True, None)
    prompted, _ = rows_of(lines(tmp_path / "samples_x.jsonl", {**SAMPLE, "doc": {"text": ""}}), model="m")
    assert prompted[0].question == "Q: What is 2+2?\nA:"


def test_lm_eval_filters_metrics_and_models_are_named_where_they_are_not_clear(tmp_path):
    other = {**SAMPLE, "filter": "flexible-extract", "exact_match": 0.0}
    path = lines(tmp_path / "samples_gsm8k.jsonl", SAMPLE, other)
    with pytest.raises(EvalError, match=r"samples_gsm8k\.jsonl: the model is not known"):
        rows_of(path)
    with pytest.raises(EvalError, match=r":2: .*strict-match, flexible-extract; name it with --filter"):
        rows_of(path, model="m")
    found, left_out = rows_of(path, model="m", filter="flexible-extract")
    assert [r.correct for r in found] == [False]
    assert left_out == {"lines of another filter than 'flexible-extract'": 1}
    two = lines(tmp_path / "samples_y.jsonl", {**SAMPLE, "metrics": ["exact_match", "acc"], "acc": 0.0})
    with pytest.raises(EvalError, match="name it with --metric"):
        rows_of(two, model="m")


USAGE = {"prompt_tokens": 9, "completion_tokens": 30, "completion_tokens_details": {"reasoning_tokens": 20}}


def call(answer, /, *, request=None, **more):
    message = {"role": "assistant", "content": answer}
    response = {
        "object": "chat.completion",
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": USAGE,
    }
    body = {"model": "m", "messages": [{"role": "user", "content": "What is 2+2?"}], **(request or {})}
    return {"request": body, "response": response, "latency_s": 2.0, **more}


def test_logged_calls_become_rows(tmp_path):
    path = lines(tmp_path / "calls.jsonl", call("4", correct=True), call("5", correct=False))
    (first, second), _ = rows_of(path)
    assert (first.dataset, first.question, first.model) == ("calls", "What is 2+2?", "m")
    assert (first.reasoning_tokens, first.output_tokens, first.e2e_s) == (20, 30, 2.0)
    assert (first.answer, first.correct, second.correct) == ("4", True, False)
    assert first.question_id == second.question_id  # the same question, asked twice
    assert (first.sample, second.sample) == (0, 1)


def test_a_grader_judges_calls_that_do_not_say_whether_they_were_right(tmp_path):
    path = lines(tmp_path / "calls.jsonl", call("It is four: 4", reference_answer="4"), call("", answer="4"))
    with pytest.raises(EvalError, match=r"calls\.jsonl:1: no field 'correct'"):
        rows_of(path)
    found, _ = rows_of(path, grade=lambda answer, line: answer.endswith("4"))
    assert [r.correct for r in found] == [True, False]


@pytest.mark.parametrize(
    ("request_", "budget"),
    [
        ({}, {"kind": "natural"}),
        ({"reasoning_effort": "high"}, {"kind": "effort", "value": "high"}),
        ({"reasoning": {"max_tokens": 512}}, {"kind": "tokens", "value": 512}),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, {"kind": "tokens", "value": 2048}),
        ({"chat_template_kwargs": {"enable_thinking": False}}, {"kind": "off"}),
        ({"thinking_token_budget": 64}, {"kind": "tokens", "value": 64}),
    ],
)
def test_the_budget_of_a_call_is_what_its_request_says(tmp_path, request_, budget):
    path = lines(tmp_path / "calls.jsonl", call("4", request=request_, correct=True))
    assert rows_of(path)[0][0].budget == cube.CubeBudget(**budget)


def outcome(name, *, answered=True, stop=StopReason.NATURAL, **more):
    decision = Decision(budget=Budget(), policy="full", policy_hash="0", expected=Expected())
    return Outcome.of(
        decision,
        stop=stop,
        answered=answered,
        usage=Usage(reasoning_tokens=12, answer_tokens=8, provenance="reported"),
        timing=Timing(ttft_s=0.1, ttfo_s=1.0, e2e_s=2.0),
        **{"id": name, "model": "m", "query_hash": "q1", "route": "support", **more},
    )


def test_outcomes_with_feedback_become_rows(tmp_path):
    sink = JsonlSink(tmp_path / "outcomes.jsonl", store_text=True)
    capped = {"requested": 64, "applied": 64, "strength": "hard", "hit": True}
    sink.write(outcome("a"), text="Why?")
    sink.write(outcome("b", stop=StopReason.CAP, budget_state=capped))
    sink.write(outcome("c"))
    sink.feedback("a", correct=False)
    sink.feedback("a", correct=True)  # the last word counts
    sink.feedback("b", score=0.4)
    (a, b), left_out = rows_of(tmp_path / "outcomes.jsonl")
    assert (a.dataset, a.question_id, a.question, a.model) == ("support", "q1", "Why?", "m")
    assert (a.reasoning_tokens, a.output_tokens, a.ttfo_s, a.e2e_s) == (12, 20, 1.0, 2.0)
    assert (a.correct, a.budget) == (True, cube.CubeBudget(kind="natural"))
    assert (b.correct, b.budget, b.question) == (False, cube.CubeBudget(kind="tokens", value=64), None)
    assert left_out == {"calls without feedback": 1}
    assert rows_of(tmp_path / "outcomes.jsonl", threshold=0.4)[0][1].correct


def test_what_is_of_no_known_source_says_so(tmp_path):
    with pytest.raises(
        EvalError, match=r"x\.jsonl: its first line, with the fields a, is of no known source"
    ):
        rows_of(lines(tmp_path / "x.jsonl", {"a": 1}))
    with pytest.raises(EvalError, match="allowed are inspect, lm-eval, calls, outcomes"):
        exchange.read([], source="helm")
    (tmp_path / "log.json").write_text("{}")
    with pytest.raises(EvalError, match="no part 'eval'"):
        rows_of(tmp_path / "log.json")


def test_a_cube_goes_to_inspect_and_comes_back(tmp_path):
    rows = [
        row("a", "natural", tokens=40, output=50, correct=True, coupled=False, answer="7", e2e_s=2.5),
        row("a", "natural", tokens=30, output=35, correct=False, coupled=False, sample=1, answer="8"),
        row("b", "natural", tokens=20, output=25, correct=True, coupled=False, answer="9"),
        row("a", "tokens", value=16, tokens=16, output=20, correct=False, coupled=False),
    ]
    paths = inspect_export.write(tmp_path / "logs", rows)
    assert len(paths) == 2
    back, _ = rows_of(tmp_path / "logs")
    key = lambda r: (r.budget.kind, r.question_id, r.sample)  # noqa: E731  # of a sort only
    for one, other in zip(sorted(rows, key=key), sorted(back, key=key), strict=True):
        for name in ("dataset", "question_id", "question", "model", "sample", "budget", "correct", "answer"):
            assert getattr(one, name) == getattr(other, name)
        for name in ("reasoning_tokens", "output_tokens", "e2e_s"):
            assert getattr(one, name) == getattr(other, name)
    natural = next(log for p in paths if (log := json.loads(p.read_text()))["eval"]["config"]["epochs"] == 2)
    [score] = natural["results"]["scores"]
    assert score["metrics"]["accuracy"]["value"] == 0.75  # a is half right, b is right


def test_rows_that_a_log_cannot_hold_are_refused(tmp_path):
    same = row("a", "natural", tokens=40, correct=True)
    with pytest.raises(EvalError, match="two rows of toy under natural have the sample 0"):
        inspect_export.write(tmp_path, [same, same])
    with pytest.raises(EvalError, match="would make 600 logs"):
        inspect_export.write(tmp_path, [row("a", "tokens", value=i, correct=True) for i in range(600)])
    with pytest.raises(EvalError, match="no rows"):
        inspect_export.write(tmp_path, [])


def test_tables_have_a_column_per_field(tmp_path):
    rows = curve("a", settled=20, natural=40, signals={"p_top": 0.5})
    assert flat.write_csv(tmp_path / "cube.csv", rows) == len(rows)
    with (tmp_path / "cube.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    assert (first["budget.kind"], first["reasoning_tokens"], first["e2e_s"]) == ("natural", "40", "")
    assert json.loads(first["signals"]) == {"p_top": 0.5}
    parquet = pytest.importorskip("pyarrow.parquet")
    assert flat.write_parquet(tmp_path / "cube.parquet", iter(rows)) == len(rows)
    table = parquet.read_table(tmp_path / "cube.parquet").to_pylist()
    assert [(r["budget.value"], r["reasoning_tokens"], r["correct"], r["e2e_s"]) for r in table] == [
        (None if r.budget.value is None else str(r.budget.value), r.reasoning_tokens, r.correct, None)
        for r in rows
    ]
