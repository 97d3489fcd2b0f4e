"""Logged requests and responses of OpenAI-style endpoints, one JSON object per line.

A line says in the field ``correct`` whether its answer was right, or a grader judges it by
``reference_answer`` (or ``answer``). Shapes are those of :mod:`budgetctl.logs`; the request has the question.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from budgetctl.evals.cube import CubeBudget, CubeRow
from budgetctl.evals.exchange.common import Defaults, budget_of, make, records

from budgetctl import logs
from budgetctl.channels import split_message, split_response
from budgetctl.errors import EvalError
from budgetctl.types import Query


def read(path: Path, defaults: Defaults, left_out: Counter[str]) -> Iterator[CubeRow]:
    """Yield the rows of one file. A call that failed has no answer, so it is wrong.

    Raises:
        EvalError: A line is no call, lacks its request, or leaves open whether its answer was right.
    """
    samples: Counter[tuple[str, str, str]] = Counter()
    for where, line in records(path):
        try:
            call = logs.parse(line)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise EvalError(f"{where}: no call: {str(error).splitlines()[0]}") from None
        request = _request(line)
        if request is None:
            left_out["calls without their request"] += 1
            continue
        row = _row(line, call, request, where=where, defaults=defaults, name=path.name.partition(".")[0])
        key = (row.question_key, row.model, str(row.budget))
        yield row.model_copy(update={"sample": line.get("sample", samples[key])})
        samples[key] += 1


def _row(
    line: Mapping[str, Any],
    call: logs.Call,
    request: Mapping[str, Any],
    *,
    where: str,
    defaults: Defaults,
    name: str,
) -> CubeRow:
    messages = request.get("messages", request.get("input"))
    turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    question = Query.from_messages(turns or []).text
    answer, usage = _answer(line), call.usage
    reference = line.get("reference_answer", line.get("answer"))
    output = usage.output_tokens
    if output is None and usage.reasoning_tokens is not None and usage.answer_tokens is not None:
        output = usage.reasoning_tokens + usage.answer_tokens
    return make(
        where,
        dataset=defaults.dataset or line.get("dataset") or name,
        question_id=str(line.get("question_id") or line.get("custom_id") or _digest(question)),
        question=question,
        reference_answer=reference,
        model=defaults.model or call.model or request.get("model"),
        budget=defaults.budget or _budget(request),
        reasoning_tokens=usage.reasoning_tokens,
        output_tokens=output,
        answer=answer or None,
        correct=_correct(line, answer, where=where, defaults=defaults),
        e2e_s=call.e2e_s,
        cost_usd=call.cost_usd,
    )


def _request(line: Mapping[str, Any]) -> Mapping[str, Any] | None:
    request = line.get("request", line)
    body = request.get("body", request) if isinstance(request, Mapping) else None
    known = isinstance(body, Mapping) and isinstance(body.get("messages", body.get("input")), list | str)
    return body if known else None


def _answer(line: Mapping[str, Any]) -> str:
    """Return the answer's text out of a response in one of its wrappers."""
    if isinstance(line.get("choices"), list):
        return "".join(split_message(choice["message"])[1] for choice in line["choices"][:1])
    if isinstance(line.get("output"), list):
        return split_response(line)[1]
    inner = next((line[key] for key in ("response", "body", "completion", "result") if key in line), None)
    return _answer(inner) if isinstance(inner, Mapping) else ""


def _budget(request: Mapping[str, Any]) -> CubeBudget:
    reasoning, thinking = (_mapping(request.get(key)) for key in ("reasoning", "thinking"))
    extra = _mapping(request.get("extra_body"))
    template = _mapping(request.get("chat_template_kwargs") or extra.get("chat_template_kwargs"))
    if template.get("enable_thinking") is False or thinking.get("type") == "disabled":
        return CubeBudget(kind="off")
    effort = request.get("reasoning_effort", reasoning.get("effort"))
    tokens = (
        thinking.get("budget_tokens"),
        reasoning.get("max_tokens"),
        request.get("thinking_token_budget", extra.get("thinking_token_budget")),
    )
    return budget_of(effort, next((value for value in tokens if value is not None), None))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _correct(line: Mapping[str, Any], answer: str, *, where: str, defaults: Defaults) -> bool:
    if isinstance(line.get("correct"), bool):
        return bool(line["correct"])
    if defaults.grade is None:
        raise EvalError(f"{where}: no field 'correct' says whether the answer was right; name a grader")
    return bool(answer.strip()) and defaults.grade(answer, line)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
