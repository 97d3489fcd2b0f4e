"""The folder of a live run: ``run.json`` with its settings and ``rows.jsonl`` with every finished call."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from budgetctl.evals.cube import SCHEMA_MAJOR, CubeBudget, CubeRow, parse_row
from budgetctl.evals.results import Result

from budgetctl.errors import EvalError
from budgetctl.types import Budget

ROWS = "rows.jsonl"
SETTINGS = "run.json"


class LiveRow(CubeRow):
    """A cube row that also says under which policy it was made, and with which stop preset."""

    policy: str
    preset: str = "safe"
    probe_tokens: int = 0
    answered: bool = True
    thinking_tail: str | None = None
    p_correct: float | None = None
    confidence: float | None = None
    rung: int | None = None
    stop: str | None = None
    thought_tokens: int | None = None
    ttft_s: float | None = None
    started_s: float | None = None
    notes: tuple[str, ...] = ()

    def result(self) -> Result:
        """Return the row in the common form."""
        return Result(
            question_id=self.question_key,
            cluster=self.cluster,
            model=self.model,
            sample=self.sample,
            correct=self.correct,
            answered=self.answered,
            answer=self.answer,
            thinking_tail=self.thinking_tail,
            p_correct=self.p_correct,
            confidence=self.confidence,
            rung=self.rung,
            stop=self.stop,
            thought_tokens=self.thought_tokens,
            reasoning_tokens=self.reasoning_tokens,
            probe_tokens=self.probe_tokens,
            output_tokens=self.output_tokens,
            ttft_s=self.ttft_s,
            ttfo_s=self.ttfo_s,
            e2e_s=self.e2e_s,
            cost_usd=self.cost_usd,
            started_s=self.started_s,
            budget=replace(_budget(self.budget), stop=self.preset),
            notes=self.notes,
        )


def claim(out: Path, settings: Mapping[str, Any]) -> None:
    """Make ``out`` the folder of a run with these settings, or check that it is.

    Raises:
        EvalError: It belongs to a run with other settings, or holds rows of an unknown one.
    """
    path = out / SETTINGS
    fingerprint = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8).hexdigest()
    if not path.exists():
        if (out / ROWS).exists():
            raise EvalError(
                f"{out}: holds {ROWS} but no {SETTINGS}, so it cannot be resumed; use another folder"
            )
        out.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        content = {"schema_version": "1.0", "fingerprint": fingerprint, "settings": settings}
        temporary.write_text(json.dumps(content, indent=2) + "\n")
        os.replace(temporary, path)
        return
    saved = read_settings(out)
    if saved.get("fingerprint") != fingerprint:
        old = saved.get("settings", {})
        differing = [key for key in {**old, **settings} if old.get(key) != settings.get(key)]
        shown = "; ".join(f"{key} was {old.get(key)!r}, now {settings.get(key)!r}" for key in differing)
        raise EvalError(
            f"{out}: this folder belongs to a run with other settings ({shown}). "
            "Repeat the settings to resume it, or use another folder"
        )


def read_settings(out: Path) -> dict[str, Any]:
    """Return what ``run.json`` of a run folder says.

    Raises:
        EvalError: It is missing or cannot be read.
    """
    path = out / SETTINGS
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise EvalError(f"{path}: cannot be read ({error}); this is no run folder that can be used") from None
    return check_version(content, path=path)


def check_version(content: Any, *, path: Path) -> dict[str, Any]:
    """Return the content of a run folder's file.

    Raises:
        EvalError: It is no JSON object of a version that can be read here.
    """
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(content, dict) or str(version).partition(".")[0] != str(SCHEMA_MAJOR):
        seen = "no schema_version" if version is None else f"schema_version {version}"
        raise EvalError(f"{path}: cannot be read: seen {seen}, this version reads {SCHEMA_MAJOR}.x")
    return content


def read_rows(path: Path) -> list[LiveRow]:
    """Return the rows of a live run; a torn last line, as of a run that is being written, is left out.

    Raises:
        EvalError: A line is no row; the message names it.
    """
    lines = path.read_bytes().split(b"\n")[:-1]
    return [parse_row(line, where=f"{path}:{i}", model=LiveRow) for i, line in enumerate(lines, start=1)]


def collect(rows: Iterable[LiveRow], *, policies: Sequence[str]) -> dict[str, list[Result]]:
    """Return the results of a live run by policy, each in the order of questions and samples."""
    runs: dict[str, list[Result]] = {policy: [] for policy in policies}
    for row in rows:
        if row.policy in runs:
            runs[row.policy].append(row.result())
    return {policy: sorted(results, key=lambda r: r.key) for policy, results in runs.items()}


def _budget(recorded: CubeBudget | None) -> Budget:
    if recorded is None or recorded.kind == "natural":
        return Budget()
    if recorded.kind == "effort":
        return Budget(effort=str(recorded.value))
    return Budget(reasoning_tokens=int(recorded.value or 0))
