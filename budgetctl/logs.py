"""Calls out of log files: outcome rows, and OpenAI-style responses as people log them, told apart by shape.

One JSON object per line:

* an outcome or feedback row of budgetctl;
* a response object, ``chat.completion`` or ``response``;
* a batch output line, ``{"custom_id": .., "response": {"status_code": 200, "body": {..}}, "error": null}``;
* a request and its response, ``{"request": {..}, "response": {..}, "latency_s": 3.2}``.

Every line becomes a :class:`Line`, also one that is none of these: nothing is dropped silently.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from budgetctl.channels import parse_usage, split_message, split_response
from budgetctl.outcomes import Feedback, Outcome
from budgetctl.types import StopReason, Usage

_WRAPPERS = ("response", "body", "completion", "result", "output")
_DURATIONS = {"_s": 1.0, "_sec": 1.0, "_seconds": 1.0, "_ms": 1e-3}
_MOST = 1e15
"""Above every count, time and cost that a call can have."""
_DURATION_NAMES = ("e2e", "latency", "duration", "elapsed", "response_time")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a log tells of one call; None where it does not tell.

    Attributes:
        usage: Tokens; provenance ``estimated`` where the split between thinking and answer was read off the
            lengths of the two texts.
        thinking_s: Measured seconds between the first token and the first token of the answer.
        e2e_s: Seconds of the whole call.
        draft: A rung of a ladder, whose answer was not handed on.
        empty: The call succeeded, and no answer and no tool call came back; of a draft nobody saw that.
        failed: The call ended in an error.
        cost_usd: Dollars as recorded.
    """

    model: str | None = None
    usage: Usage = field(default_factory=Usage)
    thinking_s: float | None = None
    e2e_s: float | None = None
    draft: bool = False
    empty: bool = False
    failed: bool = False
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a log: a call, a feedback row, or something else, and then why it is not counted."""

    kind: Literal["call", "feedback", "unknown"]
    where: str
    call: Call = Call()
    why: str = ""


def read(paths: Iterable[Path]) -> Iterator[Line]:
    """Read log files line by line, ``.gz`` too, whatever their size.

    Raises:
        OSError: A file cannot be read.
    """
    for path in paths:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            number = 0
            try:
                for number, text in enumerate(file, start=1):
                    if text.strip():
                        yield _line(text, where=f"{path}:{number}")
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                why = f"the file cannot be read from here on: {error}"
                yield Line(kind="unknown", where=f"{path}:{number + 1}", why=why)


def _line(text: bytes, *, where: str) -> Line:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        torn = not text.endswith(b"\n")
        return Line(kind="unknown", where=where, why="a torn last line" if torn else "not JSON")
    try:
        if _is_feedback(row):
            Feedback.read(row)
            return Line(kind="feedback", where=where)
        call = _checked(parse(row))
        if isinstance(row, Mapping) and "schema_version" in row and row.get("parent_id") is not None:
            return Line(kind="unknown", where=where, why="an audit, which is no call of its own")
        return Line(kind="call", where=where, call=call)
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
        return Line(
            kind="unknown", where=where, why=str(error).splitlines()[0] if str(error) else repr(error)
        )


def parse(row: Any) -> Call:
    """Read one logged object.

    Raises:
        ValueError: Its shape is not known, or it is malformed (also TypeError, AttributeError, KeyError).
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"a JSON {type(row).__name__}, not an object")
    if "schema_version" in row:
        return _outcome(Outcome.read(row))
    shape = str(row.get("object", ""))
    if shape.endswith(".chunk"):
        raise ValueError("a streamed chunk; whole responses are needed")
    if shape == "chat.completion" or "message" in _first_choice(row):
        return _chat(row)
    if shape == "response" or isinstance(row.get("output"), list):
        return _response(row)
    return _wrapped(row)


def _checked(call: Call) -> Call:
    """Refuse what no call can have: one such line would spoil the sums of all the others."""
    usage = call.usage
    counts = (usage.prompt_tokens, usage.reasoning_tokens, usage.answer_tokens, usage.output_tokens)
    for value in (*counts, call.thinking_s, call.e2e_s, call.cost_usd):
        if value is not None and not 0 <= value < _MOST:
            raise ValueError(f"a count, time or cost out of range: {str(value)[:40]}")
    if call.model is None:
        return call
    if not isinstance(call.model, str):
        raise ValueError(f"a model that is no name: {call.model!r:.40}")
    return replace(call, model=call.model.encode(errors="replace").decode())


def _is_feedback(row: Any) -> bool:
    return isinstance(row, Mapping) and {"id", "source"} <= set(row) and ("correct" in row or "score" in row)


def _first_choice(row: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = row.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, Mapping) else {}


def thinking_s(row: Outcome) -> float | None:
    """Return the seconds between a call's first token and the first token of its answer; None is unknown."""
    if row.reasoning_tokens == 0:
        return 0.0
    if row.ttft_s is not None and row.ttfo_s is not None and row.ttfo_s > row.ttft_s:
        return row.ttfo_s - row.ttft_s
    return None  # no difference: it was not delivered, and nobody saw how long


def _outcome(row: Outcome) -> Call:
    failed = row.stop.reason is StopReason.ERROR
    draft = row.ladder is not None and not row.ladder.accepted and not failed
    unseen = failed or draft or row.stop.reason is StopReason.CALLER
    return Call(
        model=row.model,
        usage=row.usage.usage(),
        thinking_s=thinking_s(row),
        e2e_s=row.e2e_s,
        draft=draft,
        empty=not row.answered and not unseen,
        failed=failed,
        cost_usd=row.cost_usd,
    )


def _chat(row: Mapping[str, Any]) -> Call:
    messages = [choice["message"] for choice in row["choices"]]
    texts = [split_message(message) for message in messages]
    acted = any(message.get("tool_calls") or message.get("function_call") for message in messages)
    reasoning, answer = ("".join(parts) for parts in zip(*texts, strict=True))
    return Call(
        model=row.get("model"),
        usage=_usage(row.get("usage"), reasoning=reasoning, answer=answer),
        e2e_s=_duration(row),
        empty=not answer.strip() and not acted,
    )


def _response(row: Mapping[str, Any]) -> Call:
    reasoning, answer = split_response(row)
    kinds = {item.get("type") for item in row["output"]}
    start, end = row.get("created_at"), row.get("completed_at")
    failed = row.get("status") == "failed"
    return Call(
        model=row.get("model"),
        usage=_usage(row.get("usage"), reasoning=reasoning, answer=answer),
        e2e_s=float(end - start) if start is not None and end is not None else _duration(row),
        empty=not failed and not answer.strip() and not any(str(k).endswith("_call") for k in kinds),
        failed=failed,
    )


def _wrapped(row: Mapping[str, Any]) -> Call:
    """Read the response inside a batch line or a request/response pair."""
    if _failed(row):
        return Call(model=_requested_model(row), failed=True)
    inner = next((row[key] for key in _WRAPPERS if isinstance(row.get(key), Mapping)), None)
    if inner is None:
        raise ValueError(f"no response in it, its keys are {sorted(map(str, row))[:8]}")
    call = parse(inner)
    duration = _duration(row)
    return replace(
        call,
        model=call.model if call.model is not None else _requested_model(row),
        e2e_s=duration if duration is not None else call.e2e_s,
    )


def _failed(row: Mapping[str, Any]) -> bool:
    status = row.get("status_code")
    return bool(row.get("error")) or (isinstance(status, int) and status >= 400)


def _requested_model(row: Mapping[str, Any]) -> str | None:
    request = row.get("request")
    body = request.get("body", request) if isinstance(request, Mapping) else row
    model = body.get("model") if isinstance(body, Mapping) else None
    return model if isinstance(model, str) else None


def _duration(row: Mapping[str, Any]) -> float | None:
    """Return logged seconds from a field that names its unit, such as ``latency_ms``."""
    for name in _DURATION_NAMES:
        for unit, scale in _DURATIONS.items():
            value = row.get(name + unit)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return value * scale
    return None


def _usage(reported: Any, *, reasoning: str, answer: str) -> Usage:
    """Return the reported tokens; where only their sum is reported, split it by the lengths of the texts."""
    if not isinstance(reported, Mapping):
        return Usage()
    usage = parse_usage(reported, saw_reasoning=bool(reasoning))
    total = usage.output_tokens
    if usage.reasoning_tokens is not None or total is None or not reasoning:
        return usage
    thought = round(total * len(reasoning) / (len(reasoning) + len(answer)))
    return replace(usage, reasoning_tokens=thought, answer_tokens=total - thought, provenance="estimated")
