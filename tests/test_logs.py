"""Logged calls are told apart by shape; what is no call is named with file and line."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from budgetctl import logs
from budgetctl.logs import Call, Line
from budgetctl.outcomes import Feedback, LadderRow, Outcome
from budgetctl.types import Budget, Decision, StopReason, Timing, Usage


def chat(*, message=None, usage=None, **fields):
    return {
        "id": "chatcmpl-9",
        "object": "chat.completion",
        "created": 1760000000,
        "model": "gpt-5-mini-2025-08-07",
        "choices": [
            {
                "index": 0,
                "message": message or {"role": "assistant", "content": "42"},
                "finish_reason": "stop",
            }
        ],
        "usage": usage
        or {
            "prompt_tokens": 30,
            "completion_tokens": 520,
            "total_tokens": 550,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 500},
        },
        **fields,
    }


def response(**fields):
    return {
        "id": "resp_9",
        "object": "response",
        "created_at": 1760000000,
        "completed_at": 1760000012,
        "status": "completed",
        "model": "gpt-5-mini",
        "output": [
            {"type": "reasoning", "summary": []},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "42"}]},
        ],
        "usage": {
            "input_tokens": 30,
            "output_tokens": 520,
            "output_tokens_details": {"reasoning_tokens": 500},
            "total_tokens": 550,
        },
        **fields,
    }


TOKENS = Usage(
    prompt_tokens=30, reasoning_tokens=500, answer_tokens=20, output_tokens=520, provenance="reported"
)
CHAT_TOKENS = replace(TOKENS, cached_tokens=0)


def test_a_chat_completion():
    assert logs.parse(chat()) == Call(model="gpt-5-mini-2025-08-07", usage=CHAT_TOKENS)


def test_a_responses_object_with_its_own_times():
    assert logs.parse(response()) == Call(model="gpt-5-mini", usage=TOKENS, e2e_s=12.0)


@pytest.mark.parametrize("body", [chat(), response()])
def test_a_batch_output_line(body):
    row = {
        "id": "batch_req_1",
        "custom_id": "q-1",
        "response": {"status_code": 200, "request_id": "r", "body": body},
        "error": None,
    }
    assert logs.parse(row) == logs.parse(body)


@pytest.mark.parametrize(
    "row",
    [
        {
            "custom_id": "q",
            "response": {"status_code": 500, "body": {"error": {"message": "no"}}},
            "error": None,
        },
        {"custom_id": "q", "response": None, "error": {"code": "batch_expired", "message": "late"}},
        {"request": {"model": "m"}, "error": "timeout"},
    ],
)
def test_a_failed_call_is_a_call_without_tokens(row):
    call = logs.parse(row)
    assert (call.failed, call.empty, call.usage) == (True, False, Usage())


def test_a_request_and_response_pair_gives_model_and_seconds():
    local = chat()
    del local["model"]
    row = {"request": {"model": "qwen3-8b", "messages": []}, "response": local, "latency_ms": 2500}
    assert logs.parse(row) == Call(model="qwen3-8b", usage=CHAT_TOKENS, e2e_s=2.5)


@pytest.mark.parametrize(
    ("field", "seconds"),
    [("latency_s", 2.0), ("duration_seconds", 2.0), ("elapsed_ms", 0.002), ("latency", None)],
)
def test_seconds_are_read_only_from_fields_that_name_their_unit(field, seconds):
    assert logs.parse({"response": chat(), field: 2}).e2e_s == seconds


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "reasoning_content": "x" * 300, "content": "y" * 100},
        {"role": "assistant", "content": "<think>" + "x" * 300 + "</think>" + "y" * 100},
    ],
)
def test_where_only_the_sum_is_reported_thinking_is_estimated_from_the_texts(message):
    call = logs.parse(chat(message=message, usage={"prompt_tokens": 1, "completion_tokens": 400}))
    assert call.usage == Usage(
        prompt_tokens=1, reasoning_tokens=300, answer_tokens=100, output_tokens=400, provenance="estimated"
    )


def test_a_reported_zero_beside_visible_thinking_is_not_believed():
    message = {"role": "assistant", "reasoning_content": "x" * 300, "content": "y" * 100}
    usage = {
        "prompt_tokens": 1,
        "completion_tokens": 400,
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert logs.parse(chat(message=message, usage=usage)).usage.reasoning_tokens == 300


def test_thinking_that_cannot_be_seen_is_unknown():
    call = logs.parse(chat(usage={"prompt_tokens": 1, "completion_tokens": 400}))
    assert (call.usage.reasoning_tokens, call.usage.output_tokens) == (None, 400)


def test_reasoning_that_is_counted_beside_the_completion_is_output_too():
    usage = {
        "prompt_tokens": 30,
        "completion_tokens": 20,
        "total_tokens": 550,
        "completion_tokens_details": {"reasoning_tokens": 500},
    }
    assert logs.parse(chat(usage=usage)).usage == TOKENS


@pytest.mark.parametrize(
    ("message", "empty"),
    [
        ({"role": "assistant", "content": ""}, True),
        ({"role": "assistant", "content": None}, True),
        ({"role": "assistant", "content": "<think>still thinking"}, True),
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "t"}]}, False),
        ({"role": "assistant", "content": None, "refusal": "I cannot"}, False),
    ],
)
def test_an_empty_answer_has_neither_text_nor_a_tool_call(message, empty):
    assert logs.parse(chat(message=message)).empty is empty


def test_an_incomplete_response_without_text_is_empty_and_a_tool_call_is_an_answer():
    thought = {"type": "reasoning", "summary": []}
    assert logs.parse(response(status="incomplete", output=[thought])).empty
    assert not logs.parse(response(output=[thought, {"type": "function_call", "name": "f"}])).empty
    assert not logs.parse(response(status="failed", output=[])).empty


def made(**changes) -> Outcome:
    fields = {
        "stop": StopReason.NATURAL,
        "answered": True,
        "usage": TOKENS,
        "timing": Timing(ttft_s=0.5, ttfo_s=4.5, e2e_s=5.0),
        "model": "m",
        "cost_usd": 0.01,
        **changes,
    }
    return Outcome.of(Decision(budget=Budget(), policy="auto", policy_hash="h"), **fields)


def as_row(row: Outcome):
    return json.loads(row.model_dump_json())


def test_an_outcome_row_has_measured_seconds_of_thinking():
    call = logs.parse(as_row(made()))
    assert call == Call(model="m", usage=TOKENS, thinking_s=4.0, e2e_s=5.0, cost_usd=0.01)


def test_how_long_hidden_thinking_took_is_unknown():
    """Nothing of it is delivered, so the first token is the answer's."""
    row = made(timing=Timing(ttft_s=4.5, ttfo_s=4.5, e2e_s=5.0))
    assert logs.parse(as_row(row)).thinking_s is None


def test_no_thinking_took_no_time():
    row = made(usage=Usage(reasoning_tokens=0, answer_tokens=3), timing=Timing())
    assert logs.parse(as_row(row)).thinking_s == 0.0


@pytest.mark.parametrize(
    ("stop", "empty", "failed"),
    [(StopReason.CAP, True, False), (StopReason.CALLER, False, False), (StopReason.ERROR, False, True)],
)
def test_an_outcome_without_answer_is_empty_unless_it_failed_or_was_closed(stop, empty, failed):
    call = logs.parse(as_row(made(stop=stop, answered=False)))
    assert (call.empty, call.failed) == (empty, failed)


def test_a_rung_whose_answer_was_not_handed_on_is_a_draft_and_no_empty_answer():
    rung = {"id": "t", "rung": 0, "of": 2, "why": "unsure"}
    for accepted in (False, True):
        call = logs.parse(as_row(made(answered=False, ladder=LadderRow(**rung, accepted=accepted))))
        assert (call.draft, call.empty) == (not accepted, accepted)


# --- lines ------------------------------------------------------------------------------------------------


def lines(path: Path, *rows: object) -> list[Line]:
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(texts) + "\n")
    return list(logs.read([path]))


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("nonsense", "not JSON"),
        ([1], "a JSON list, not an object"),
        ({"event": "start"}, "no response in it, its keys are ['event']"),
        ({"object": "chat.completion.chunk", "choices": []}, "a streamed chunk; whole responses are needed"),
        ({"schema_version": "7.0"}, "outcome schema_version '7.0' cannot be read, this version reads 1.x"),
    ],
)
def test_what_is_no_call_is_named_with_file_and_line(row, why, tmp_path):
    path = tmp_path / "log.jsonl"
    [_, line] = lines(path, chat(), row)
    assert line == Line(kind="unknown", where=f"{path}:2", why=why)


@pytest.mark.parametrize(
    "row",
    [
        {"object": "chat.completion", "choices": []},
        {"object": "chat.completion", "choices": [{"message": None}]},
        {
            "object": "chat.completion",
            "choices": [{"message": {"content": "x"}}],
            "usage": {"prompt_tokens": "a"},
        },
        {"object": "response", "output": [None]},
        {"object": "response"},
        {"schema_version": "1.0"},
        {"id": "x", "source": "y", "correct": 3, "score": 9},
    ],
)
def test_a_malformed_object_is_unknown_and_stops_nothing(row, tmp_path):
    [broken, good] = lines(tmp_path / "log.jsonl", row, chat())
    assert broken.kind == "unknown"
    assert broken.why
    assert good.kind == "call"


def test_feedback_rows_are_no_calls_and_no_mistakes(tmp_path):
    said = json.loads(Feedback(id="a", correct=True, source="user").model_dump_json())
    assert [line.kind for line in lines(tmp_path / "log.jsonl", said, as_row(made()))] == ["feedback", "call"]


def test_a_torn_last_line_is_called_one(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(chat()) + "\n" + json.dumps(chat())[:50])
    assert [line.why for line in logs.read([path])] == ["", "a torn last line"]


def test_several_files_and_gzip_read_alike(tmp_path):
    plain, packed = tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"
    plain.write_text(json.dumps(chat()) + "\n\n")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert [line.where for line in logs.read([plain, packed])] == [f"{plain}:1", f"{packed}:1"]


@pytest.mark.parametrize(
    "line",
    [
        json.dumps(chat(usage={"prompt_tokens": math.inf, "completion_tokens": 3})),
        json.dumps(chat(usage={"prompt_tokens": 10**400, "completion_tokens": 3})),
        json.dumps(chat(usage={"prompt_tokens": 3, "completion_tokens": -3})),
        json.dumps(chat(latency_s=math.nan)),
        json.dumps(chat(latency_ms=math.inf)),
        json.dumps(chat(model=5)),
        json.dumps(chat(model=["a"])),
        "[" * 100_000 + "]" * 100_000,
        '{"response":' * 900 + json.dumps(chat()) + "}" * 900,
    ],
    ids=lambda line: line[:8] + line[-60:][:20],
)
def test_a_line_with_what_no_call_can_have_costs_that_line_only(tmp_path: Path, line: str):
    path = tmp_path / "log.jsonl"
    path.write_text(f"{line}\n{json.dumps(chat())}\n")
    bad, good = logs.read([path])
    assert (bad.kind, good.kind) == ("unknown", "call")
    assert bad.why


def test_a_torn_gzip_file_gives_what_is_whole_and_says_so(tmp_path: Path):
    path = tmp_path / "log.jsonl.gz"
    lines = "".join(json.dumps(chat(latency_s=n)) + "\n" for n in range(2000))
    path.write_bytes(gzip.compress(lines.encode())[:-100])
    *calls, last = logs.read([path])
    assert len(calls) > 100
    assert {line.kind for line in calls} <= {"call"}
    assert (last.kind, "cannot be read from here on" in last.why) == ("unknown", True)


def test_a_model_name_that_no_file_can_hold_is_made_one_that_it_can(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(chat(model="gpt\ud800")))
    [line] = logs.read([path])
    assert line.call.model == "gpt?"


def test_an_audit_is_no_call_of_its_own(tmp_path: Path):
    decision = Decision(budget=Budget(), policy="full", policy_hash="0", audit=True)
    own = Outcome.of(decision, stop=StopReason.NATURAL, answered=True)
    audit = Outcome.of(decision, stop=StopReason.NATURAL, answered=True, parent_id=own.id)
    path = tmp_path / "log.jsonl"
    path.write_text(f"{own.model_dump_json()}\n{audit.model_dump_json()}\n")
    first, second = logs.read([path])
    assert (first.kind, second.kind) == ("call", "unknown")
    assert "audit" in second.why
