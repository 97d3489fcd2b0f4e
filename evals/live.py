"""Live runs: every policy answers the same questions in the same order, and every answer is kept at once.

A run folder holds ``run.json`` (the settings, which a resumed run must repeat) and ``rows.jsonl`` (one cube
row per policy and question). A batch is on disk before the next one begins; a run that was killed is resumed
by the same command, and no row is missing or doubled afterwards.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from budgetctl.evals.append import AppendFile
from budgetctl.evals.cube import CubeBudget, CubeRow, dump, parse_row
from budgetctl.evals.progress import Progress
from budgetctl.evals.results import Result

from budgetctl.controller import Classifier, Controller
from budgetctl.errors import EvalError
from budgetctl.policy import parse
from budgetctl.speed import Speeds
from budgetctl.types import Budget, ModelFacts, Query

ROWS = "rows.jsonl"
SETTINGS = "run.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveQuestion:
    """One question of a suite.

    Attributes:
        id: Unique within the suite.
        text: What the model is asked.
        reference: The right answer, as the grader wants it.
        cluster: Questions that stand or fall together.
        level: Difficulty by the suite's own scale.
        raw: The question in the form that the suite's grader reads.
    """

    id: str
    text: str
    reference: Any = None
    cluster: str | None = None
    level: int | float | str | None = None
    raw: Any = None


class Backend(Protocol):
    """Answers questions within budgets.

    Attributes:
        model: Name of the model, as the capability table knows it.
        facts: What the model can do.
        settings: Whatever makes two runs different, as plain JSON values.
    """

    model: str
    facts: ModelFacts
    settings: Mapping[str, Any]

    def generate(self, questions: Sequence[LiveQuestion], budgets: Sequence[Budget]) -> list[Result]:
        """Return one graded result per question, in their order; ``question_id`` is the question's own id.

        Raises:
            EvalError: The model cannot be reached; what was finished before stays on disk.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Questions and what answers them."""

    name: str
    questions: tuple[LiveQuestion, ...]
    backend: Backend


class LiveRow(CubeRow):
    """A cube row that also says under which policy it was made, and with which stop preset."""

    policy: str
    preset: str = "safe"
    probe_tokens: int = 0
    answered: bool = True
    stop: str | None = None
    notes: tuple[str, ...] = ()

    def result(self, budget: Budget) -> Result:
        """Return the row in the common form."""
        return Result(
            question_id=self.question_key,
            cluster=self.cluster,
            model=self.model,
            sample=self.sample,
            correct=self.correct,
            answered=self.answered,
            answer=self.answer,
            stop=self.stop,
            reasoning_tokens=self.reasoning_tokens,
            probe_tokens=self.probe_tokens,
            output_tokens=self.output_tokens,
            ttfo_s=self.ttfo_s,
            e2e_s=self.e2e_s,
            cost_usd=self.cost_usd,
            budget=replace(budget, stop=self.preset),
            notes=self.notes,
        )


@dataclass(kw_only=True)
class LiveRun:
    """A run folder and the suite that fills it.

    Attributes:
        suite: What is asked of whom.
        policies: Policy strings, run one after another.
        out: The run folder.
        seed: What the questions were drawn with; part of the settings.
        batch_size: Questions per batch.
        classifier: What estimates: an object, a registered name, or None.
        progress: Told of every batch.
    """

    suite: Suite
    policies: Sequence[str]
    out: Path
    seed: int = 0
    batch_size: int = 32
    classifier: Classifier | str | None = "default"
    progress: Callable[[int, str], Progress] = Progress
    _speeds: Speeds = field(default_factory=Speeds)

    def __post_init__(self) -> None:
        names = [str(parse(policy)) for policy in self.policies]
        # Full thinking is what everything is compared with, so it always runs.
        self.policies = tuple(dict.fromkeys([*(["full"] if "full" not in names else []), *names]))
        if self.batch_size < 1:
            raise EvalError(f"the batch size is at least 1, seen {self.batch_size}")
        ids = [question.id for question in self.suite.questions]
        if not ids:
            raise EvalError(f"suite {self.suite.name!r} has no questions")
        if len(set(ids)) < len(ids):
            doubled = next(name for name in ids if ids.count(name) > 1)
            raise EvalError(f"suite {self.suite.name!r}: two questions are called {doubled!r}")

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that two halves of one run must have in common."""
        text = json.dumps([[q.id, q.text, q.reference] for q in self.suite.questions], default=str)
        return {
            "suite": self.suite.name,
            "model": self.suite.backend.model,
            "questions": len(self.suite.questions),
            "questions_hash": hashlib.blake2b(text.encode(), digest_size=8).hexdigest(),
            "policies": list(self.policies),
            "seed": self.seed,
            "batch_size": self.batch_size,
            "classifier": self._classifier_name(),
            **self.suite.backend.settings,
        }

    def _classifier_name(self) -> str | None:
        if self.classifier is None or not any(parse(policy).needs_estimate for policy in self.policies):
            return None
        found = Controller(classifier=self.classifier).classifier()
        return None if found is None else found.hash

    def run(self) -> dict[str, list[Result]]:
        """Ask what was not asked yet and return all results, policy by policy.

        Raises:
            EvalError: The folder belongs to a run with other settings, or another run is writing to it.
        """
        _claim(self.out, self.settings)
        with AppendFile(self.out / ROWS) as file:
            rows = read_rows(self.out / ROWS)
            done = {(row.policy, row.question_id) for row in rows}
            total = len(self.policies) * len(self.suite.questions)
            with self.progress(total, self.suite.name) as bar:
                bar.advance(len(done))
                for policy in self.policies:
                    left = [q for q in self.suite.questions if (policy, q.id) not in done]
                    self._ask(policy, left, file=file, bar=bar)
        return collect(read_rows(self.out / ROWS), policies=self.policies)

    def _ask(self, policy: str, left: Sequence[LiveQuestion], *, file: AppendFile, bar: Progress) -> None:
        controller = Controller(policy, classifier=self.classifier)
        backend = self.suite.backend
        for batch in _batches(left, size=self.batch_size):
            pace = self._speeds.pace(self.suite.name, backend.model)
            decisions = [
                controller.decide(
                    Query.from_text(q.text, model=backend.model), facts=backend.facts, pace=pace
                )
                for q in batch
            ]
            results = backend.generate(batch, [d.budget for d in decisions])
            results = [
                replace(r, notes=(*r.notes, d.fallback)) if d.fallback else r
                for r, d in zip(results, decisions, strict=True)
            ]
            file.append(dump(self._row(policy, q, r)) for q, r in zip(batch, results, strict=True))
            self._learn_pace(results)
            bar.advance(len(batch), policy)

    def _learn_pace(self, results: Iterable[Result]) -> None:
        for r in results:
            if r.e2e_s and r.ttfo_s is not None and r.output_tokens and r.reasoning_tokens:
                per_token = r.ttfo_s / (r.reasoning_tokens + 1)
                self._speeds.observe(
                    self.suite.name,
                    self.suite.backend.model,
                    ttft_s=per_token,
                    tokens=r.output_tokens,
                    seconds=r.e2e_s,
                )

    def _row(self, policy: str, question: LiveQuestion, result: Result) -> LiveRow:
        return LiveRow(
            dataset=self.suite.name,
            question_id=question.id,
            question=question.text,
            reference_answer=question.reference,
            level=question.level,
            model=self.suite.backend.model,
            budget=CubeBudget.of(result.budget),
            reasoning_tokens=result.reasoning_tokens,
            probe_tokens=result.probe_tokens,
            output_tokens=result.output_tokens,
            answer=result.answer,
            correct=result.correct,
            ttfo_s=result.ttfo_s,
            e2e_s=result.e2e_s,
            cost_usd=result.cost_usd,
            cluster=question.cluster,
            policy=policy,
            preset=result.budget.stop,
            answered=result.answered,
            stop=result.stop,
            notes=result.notes,
        )


def _batches(questions: Sequence[LiveQuestion], *, size: int) -> Iterable[list[LiveQuestion]]:
    iterator = iter(questions)
    while batch := list(islice(iterator, size)):
        yield batch


def _claim(out: Path, settings: Mapping[str, Any]) -> None:
    """Make ``out`` the folder of a run with these settings, or check that it is."""
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
    if not isinstance(content, dict):
        raise EvalError(f"{path}: is not a JSON object; this is no run folder that can be used")
    return content


def read_rows(path: Path) -> list[LiveRow]:
    """Return the rows of a live run; a torn last line, as of a run that is being written, is left out.

    Raises:
        EvalError: A line is no row; the message names it.
    """
    lines = path.read_bytes().split(b"\n")[:-1]
    return [parse_row(line, where=f"{path}:{i}", model=LiveRow) for i, line in enumerate(lines, start=1)]


def collect(rows: Iterable[LiveRow], *, policies: Sequence[str]) -> dict[str, list[Result]]:
    """Return the results of a live run by policy."""
    runs: dict[str, list[Result]] = {policy: [] for policy in policies}
    for row in rows:
        if row.policy in runs:
            runs[row.policy].append(row.result(_budget(row.budget)))
    return runs


def _budget(recorded: CubeBudget | None) -> Budget:
    if recorded is None or recorded.kind == "natural":
        return Budget()
    if recorded.kind == "effort":
        return Budget(effort=str(recorded.value))
    return Budget(reasoning_tokens=int(recorded.value or 0))
