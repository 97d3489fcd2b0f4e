"""``calls.npz``: every call of a finished evaluation in columns, so that two evaluations can be compared.

A few bytes a call, the same for live runs and replays. There is no text in it: questions go by their names.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from budgetctl.evals.replayed import Replayed
from budgetctl.evals.results import Result, Table, column

from budgetctl.errors import EvalError
from budgetctl.types import Budget

CALLS = "calls.npz"
_COUNTS = ("reasoning_tokens", "output_tokens")
_MEASURES = ("ttfo_s", "e2e_s", "cost_usd")
_FLAGS = ("correct", "answered")
_TEXTS = ("question_id", "model", "cluster", "effort", "stop")
_VERSION = 1


def save(folder: Path, runs: Mapping[str, Sequence[Result]]) -> Path:
    """Write the calls of all policies into ``folder`` in one step, and return the file's path."""
    columns: dict[str, Any] = {"version": np.array(_VERSION), "policies": np.array(list(runs))}
    for i, results in enumerate(runs.values()):
        for name in (*_COUNTS, *_MEASURES, *_FLAGS):
            columns[f"{name}/{i}"] = column(results, name)
        for name, values in _identities(results).items():
            columns[f"{name}/{i}"] = values
    path = folder / CALLS
    temporary = folder / f".{CALLS}.tmp"
    with temporary.open("wb") as file:
        np.savez_compressed(file, **columns)
    os.replace(temporary, path)
    return path


def _identities(results: Sequence[Result]) -> dict[str, Any]:
    """Return what names a call, and its budget, in columns."""
    if isinstance(results, Table):
        calls = results.calls
        names, samples = [calls.names[q] for q in calls.question.tolist()], calls.samples
        models, clusters = calls.models, calls.clusters
    else:
        names, samples = [r.question_id for r in results], np.array([r.sample for r in results])
        models, clusters = [r.model for r in results], [r.cluster for r in results]
    given = _budgets(results)
    efforts, stops = [b.effort for b in given], [b.stop for b in given]
    texts = {
        name: np.array([value or "" for value in values], dtype=np.str_)
        for name, values in zip(_TEXTS, (names, models, clusters, efforts, stops), strict=True)
    }
    caps = np.array([b.reasoning_tokens for b in given], dtype=float)
    return {**texts, "sample": samples, "cap": caps}


def _budgets(results: Sequence[Result]) -> Sequence[Budget]:
    if isinstance(results, Replayed):
        return [results.given.budgets[i] for i in results.which.tolist()]
    return [r.budget for r in results]


def load(folder: str | os.PathLike[str]) -> dict[str, list[Result]]:
    """Return policy to its calls.

    Raises:
        EvalError: The folder holds no finished evaluation, or a file that cannot be read.
    """
    path = Path(folder) / CALLS
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            if int(found["version"]) != _VERSION:
                raise EvalError(f"{path}: version {int(found['version'])}, this one reads {_VERSION}")
            return {str(policy): _results(found, i) for i, policy in enumerate(found["policies"])}
    except FileNotFoundError:
        raise EvalError(
            f"{folder}: holds no {CALLS}, so no finished evaluation: `budgetctl eval live` writes it when "
            "the run is complete, `budgetctl eval replay` with --out"
        ) from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise EvalError(f"{path}: cannot be read ({type(error).__name__}: {error})") from None


def _results(found: Any, i: int) -> list[Result]:
    columns: dict[str, list[Any]] = {}
    for name in (*_COUNTS, *_MEASURES):
        kind = int if name in _COUNTS else float
        columns[name] = [None if np.isnan(v) else kind(v) for v in found[f"{name}/{i}"]]
    for name in _FLAGS:
        columns[name] = found[f"{name}/{i}"].astype(bool).tolist()
    for name in _TEXTS:
        columns[name] = found[f"{name}/{i}"].tolist()
    columns["sample"] = found[f"sample/{i}"].tolist()
    columns["cluster"] = [cluster or None for cluster in columns["cluster"]]
    caps, efforts, stops = found[f"cap/{i}"].tolist(), columns.pop("effort"), columns.pop("stop")
    columns["budget"] = [
        Budget(reasoning_tokens=None if np.isnan(cap) else int(cap), effort=effort or None, stop=stop)
        for cap, effort, stop in zip(caps, efforts, stops, strict=True)
    ]
    rows = zip(*columns.values(), strict=True)
    return [Result(**dict(zip(columns, row, strict=True))) for row in rows]
