"""Samples of the LM evaluation harness, ``samples_TASK_TIME.jsonl``: a line per question and filter."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from budgetctl.evals.cube import CubeBudget, CubeRow
from budgetctl.evals.exchange.common import Defaults, chosen, make, records

from budgetctl.errors import EvalError

_NAME = re.compile(r"samples_(?P<task>.+?)(_(?P<time>\d{4}-\d\d-\d\dT[\d\-.]+))?$")
_QUESTIONS = ("question", "problem", "input", "query", "prompt")


def read(path: Path, defaults: Defaults, left_out: Counter[str]) -> Iterator[CubeRow]:
    """Yield the rows of one file. Tokens and times are not in it, so they stay unknown.

    The model is that of ``results_TIME.json`` in the same folder, unless one is given.

    Raises:
        EvalError: The model is not known, or several metrics or filters leave open which one counts.
    """
    name = _NAME.fullmatch(path.name.removesuffix(".gz").removesuffix(".jsonl"))
    task = name["task"] if name else path.name.partition(".")[0]
    model = defaults.model or _model(path, name["time"] if name else None)
    wanted = defaults.filter or _only_filter(path)
    for where, row in records(path):
        if row.get("filter", wanted) != wanted:
            left_out[f"lines of another filter than {wanted!r}"] += 1
            continue
        yield _row(row, where=where, dataset=defaults.dataset or task, model=model, defaults=defaults)


def _only_filter(path: Path) -> str | None:
    """Return the filter of all lines; they come by filter, so the first line of another one tells."""
    found: dict[str | None, None] = {}
    for where, row in records(path):
        found[row.get("filter")] = None
        if len(found) > 1:
            names = ", ".join(str(name) for name in found)
            raise EvalError(
                f"{where}: one answer filter is needed, and there is {names}; name it with --filter"
            )
    return next(iter(found), None)


def _model(path: Path, time: str | None) -> str:
    for results in sorted(path.parent.glob(f"results_{time or '*'}.json"), reverse=True):
        try:
            found = json.loads(results.read_text())
        except (OSError, ValueError) as error:
            raise EvalError(f"{results}: cannot be read ({error})") from None
        name = found.get("model_name") or (found.get("config") or {}).get("model_name")
        if name:
            return str(name)
    raise EvalError(f"{path}: the model is not known: no results_*.json beside it names one; give --model")


def _row(row: Mapping[str, Any], *, where: str, dataset: str, model: str, defaults: Defaults) -> CubeRow:
    doc = row.get("doc") if isinstance(row.get("doc"), Mapping) else {}
    names = row.get("metrics") or [
        k for k, v in row.items() if k in ("acc", "exact_match", "acc_norm", "pass@1")
    ]
    scores = {name: row[name] for name in names if name in row}
    score = scores[chosen(scores, defaults.metric, what="metric", where=where, flag="--metric")]
    if not isinstance(score, int | float):
        raise EvalError(f"{where}: metric: seen {score!r}, expected a number")
    answers = row.get("filtered_resps") or []
    answer = answers[0] if answers and isinstance(answers[0], str) else None
    return make(
        where,
        dataset=dataset,
        question_id=str(row.get("doc_id")),
        question=_question(doc or {}, row.get("arguments")),
        reference_answer=row.get("target"),
        model=model,
        budget=defaults.budget or CubeBudget(kind="natural"),
        answer=answer,
        correct=float(score) >= defaults.threshold,
    )


def _question(doc: Mapping[str, Any], arguments: Any) -> str | None:
    text = next((doc[name] for name in _QUESTIONS if isinstance(doc.get(name), str)), None)
    if text is not None:
        return str(text)
    while isinstance(arguments, Mapping | list) and arguments:
        arguments = next(iter(arguments.values())) if isinstance(arguments, Mapping) else arguments[0]
    return arguments if isinstance(arguments, str) else None
