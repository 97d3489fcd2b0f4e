"""Our own outcome files: calls whose feedback says whether the answer was right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from budgetctl.evals.cube import CubeBudget, CubeRow
from budgetctl.evals.exchange.common import Defaults, make

from budgetctl import records
from budgetctl.errors import ConfigError, EvalError
from budgetctl.outcomes import Feedback, Outcome
from budgetctl.types import StopReason


def read(path: Path, defaults: Defaults, left_out: Counter[str]) -> Iterator[CubeRow]:
    """Yield a row for every call with feedback; the last feedback counts. The file is read twice.

    The question is known where prompts were stored; without it its keyed hash tells questions apart.

    Raises:
        EvalError: The file cannot be read, or is of another major version.
    """
    right = {id_: score >= defaults.threshold for id_, score in _feedback(path).items()}
    samples: Counter[tuple[str, str | None]] = Counter()
    for row in _rows(path):
        if isinstance(row, Feedback):
            continue
        if row.id not in right:
            left_out["calls without feedback"] += 1
            continue
        if row.model is None and defaults.model is None:
            left_out["calls whose model is not recorded"] += 1
            continue
        name = row.query_hash or row.id
        usage = row.usage.usage()
        yield make(
            f"{path}: outcome {row.id}",
            dataset=defaults.dataset or row.route or path.name.partition(".")[0],
            question_id=name,
            question=(row.model_extra or {}).get("text"),
            model=defaults.model or row.model,
            sample=samples[name, row.model],
            budget=defaults.budget or _budget(row),
            reasoning_tokens=usage.reasoning_tokens,
            output_tokens=usage.output_tokens,
            correct=right[row.id] and row.answered,
            ttfo_s=row.ttfo_s,
            e2e_s=row.e2e_s,
            cost_usd=row.cost_usd,
        )
        samples[name, row.model] += 1


def _rows(path: Path) -> Iterator[Outcome | Feedback]:
    try:
        yield from records.read(path)
    except OSError as error:
        raise EvalError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ConfigError as error:
        raise EvalError(str(error)) from None


def _feedback(path: Path) -> dict[str, float]:
    last: dict[str, Feedback] = {}
    for row in _rows(path):
        if isinstance(row, Feedback) and (row.id not in last or row.time >= last[row.id].time):
            last[row.id] = row
    scores = {id_: row.score if row.correct is None else float(row.correct) for id_, row in last.items()}
    return {id_: score for id_, score in scores.items() if score is not None}


def _budget(row: Outcome) -> CubeBudget | None:
    """Return what the call was really allowed; None where an advisory limit or an early stop blurs that."""
    state = row.budget_state
    if row.stop.reason in (StopReason.SETTLED, StopReason.LOOP, StopReason.DEADLINE):
        return None
    if state.applied is None or state.strength == "none":
        return CubeBudget(kind="natural")
    if isinstance(state.applied, str):
        return CubeBudget(kind="effort", value=state.applied)
    if state.applied == 0:
        return CubeBudget(kind="off")
    if state.hit is False:
        return CubeBudget(kind="natural")  # it ended by itself below the cap
    return CubeBudget(kind="tokens", value=state.applied) if state.strength == "hard" else None
