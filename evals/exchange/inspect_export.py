"""Cubes as logs of inspect_ai (``.json``, log format 2), so that its viewer and analysis tools open them.

One log holds one dataset, one model and one budget (of live runs one policy): what inspect_ai calls a task.
Samples of a question are its epochs. The logs were read back with inspect_ai 0.3.285.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from budgetctl.evals.cube import CubeBudget, CubeRow

import budgetctl
from budgetctl.errors import EvalError

SCORER = "correct"
MOST_LOGS = 500


def write(folder: Path, rows: Iterable[CubeRow], *, created: datetime | None = None) -> list[Path]:
    """Write one log per dataset, model and budget.

    Args:
        folder: Where to; it is made.
        rows: All rows, in memory at once, as the format wants them in one file.
        created: Time of the logs; None is now.

    Returns:
        The files.

    Raises:
        EvalError: There are no rows, or two of them would be the same sample of a log.
    """
    groups: dict[tuple[str, str, str], list[CubeRow]] = {}
    for row in rows:
        groups.setdefault((row.dataset, row.model, _label(row)), []).append(row)
    if not groups:
        raise EvalError("there are no rows to export")
    if len(groups) > MOST_LOGS:
        raise EvalError(
            f"these rows would make {len(groups)} logs, one per dataset, model and budget, and at most "
            f"{MOST_LOGS} are written: take those of one kind of budget"
        )
    folder.mkdir(parents=True, exist_ok=True)
    time = (created or datetime.now(UTC)).replace(microsecond=0)
    return [_write_log(folder, key, rows, time=time) for key, rows in groups.items()]


def _label(row: CubeRow) -> str:
    policy = (row.model_extra or {}).get("policy")
    return str(policy) if policy else _budget_name(row.budget)


def _budget_name(budget: CubeBudget | None) -> str:
    if budget is None:
        return "unknown"
    return {"tokens": f"cap:{budget.value}", "effort": f"effort:{budget.value}"}.get(budget.kind, budget.kind)


def _write_log(folder: Path, key: tuple[str, str, str], rows: Sequence[CubeRow], *, time: datetime) -> Path:
    _, model, label = key
    seen: set[tuple[str, int]] = set()
    for row in rows:
        if (row.question_id, row.sample) in seen:
            raise EvalError(
                f"{row.question_key}: two rows of {model} under {label} have the sample {row.sample}; "
                "a log takes one (budgetctl cube check tells which rows repeat)"
            )
        seen.add((row.question_id, row.sample))
    log = _log(key, rows, time=time)
    stamp, task = time.strftime("%Y-%m-%dT%H-%M-%S+00-00"), _slug("_".join(key))
    path = folder / f"{stamp}_{task}_{log['eval']['task_id']}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(log, ensure_ascii=False))
    os.replace(temporary, path)
    return path


def _log(key: tuple[str, str, str], rows: Sequence[CubeRow], *, time: datetime) -> dict[str, Any]:
    dataset, model, label = key
    name, when = hashlib.sha256("\0".join(key).encode()).hexdigest()[:22], time.isoformat()
    ids = list(dict.fromkeys(row.question_id for row in rows))
    samples = [_sample(row, label=label) for row in rows]
    usage = _sum([sample["model_usage"].get(model) for sample in samples])
    spec = {
        "run_id": name,
        "created": when,
        "task": f"{dataset} ({label})",
        "task_id": name,
        "dataset": {"name": dataset, "samples": len(ids), "sample_ids": ids, "shuffled": False},
        "model": model,
        "model_generate_config": _config(rows[0].budget),
        "config": {"epochs": max(row.sample for row in rows) + 1},
        "packages": {"budgetctl": budgetctl.__version__},
        "scorers": [{"name": SCORER, "metrics": [{"name": "inspect_ai/accuracy"}], "metadata": {}}],
        "metadata": {"policy": label},
    }
    score = {
        "name": SCORER,
        "scorer": SCORER,
        "scored_samples": len(ids),
        "unscored_samples": 0,
        "metrics": {"accuracy": {"name": "accuracy", "value": _accuracy(rows)}},
    }
    results = {"total_samples": len(rows), "completed_samples": len(rows), "scores": [score]}
    stats = {"started_at": when, "completed_at": when, "model_usage": {model: usage} if usage else {}}
    return {
        "version": 2,
        "status": "success",
        "eval": spec,
        "plan": {"name": "plan", "steps": [{"solver": "budgetctl", "params": {"policy": label}}]},
        "results": results,
        "stats": stats,
        "samples": samples,
    }


def _accuracy(rows: Sequence[CubeRow]) -> float:
    """Return the mean over questions of the mean over their samples."""
    by_question: dict[str, list[bool]] = {}
    for row in rows:
        by_question.setdefault(row.question_id, []).append(row.correct)
    return sum(sum(right) / len(right) for right in by_question.values()) / len(by_question)


def _config(budget: CubeBudget | None) -> dict[str, Any]:
    if budget is None or budget.kind == "natural":
        return {}
    if budget.kind == "effort":
        levels = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
        return {"reasoning_effort": budget.value} if budget.value in levels else {}
    return {"reasoning_tokens": 0 if budget.kind == "off" else budget.value}


def _sample(row: CubeRow, *, label: str) -> dict[str, Any]:
    question, answer = row.question or "", "" if row.answer is None else str(row.answer)
    message = {"role": "assistant", "content": answer, "source": "generate", "model": row.model}
    usage = _usage(row)
    output = {
        "model": row.model,
        "choices": [{"message": message, "stop_reason": "stop" if answer else "unknown"}],
        "completion": answer,
        **({"usage": usage} if usage else {}),
        **({} if row.e2e_s is None else {"time": row.e2e_s}),
    }
    reference = "" if row.reference_answer is None else row.reference_answer
    extra = {
        k: v for k, v in row.model_dump(exclude_none=True).items() if k in _METADATA and v not in ({}, [])
    }
    return {
        "id": row.question_id,
        "epoch": row.sample + 1,
        "input": question,
        "target": reference if isinstance(reference, str) else json.dumps(reference),
        "messages": [{"role": "user", "content": question, "source": "input"}, message],
        "output": output,
        "scores": {SCORER: {"value": "C" if row.correct else "I", "answer": answer}},
        "metadata": {"policy": label, **extra},
        "model_usage": {row.model: usage} if usage else {},
        **({} if row.e2e_s is None else {"total_time": row.e2e_s, "working_time": row.e2e_s}),
    }


_METADATA = (
    "subject",
    "level",
    "cluster",
    "coupled",
    "budget",
    "ttfo_s",
    "signals",
    "stop",
    "thinking_tail",
    "notes",
)


def _usage(row: CubeRow) -> dict[str, Any]:
    output = row.reasoning_tokens if row.output_tokens is None else row.output_tokens
    if output is None:
        return {}
    cost = {} if row.cost_usd is None else {"total_cost": row.cost_usd}
    reasoning = {} if row.reasoning_tokens is None else {"reasoning_tokens": row.reasoning_tokens}
    return {"input_tokens": 0, "output_tokens": output, "total_tokens": output, **reasoning, **cost}


def _sum(usages: Iterable[Mapping[str, Any] | None]) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for usage in usages:
        for name, value in (usage or {}).items():
            total[name] = total.get(name, 0) + value
    return total


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")[:80]
