"""Live runs: every policy answers the same questions, and every answer is kept at once.

A run folder holds ``run.json`` (the settings, which a resumed run must repeat) and ``rows.jsonl`` (one cube
row per policy, question and sample). A call is on disk as soon as it has ended; a run that was killed is
resumed by the same command, and no row is missing or doubled afterwards.

Policies take turns, a few questions each (:func:`turns`), and another one begins every time: whatever drifts
on the other side hits all of them alike. A turn ends before the next one begins, so that at any time the
calls in flight are those of one policy, and its times are those of a server that serves this policy alone.
All policies ask a question's sample with the same seed.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from budgetctl.evals.append import AppendFile
from budgetctl.evals.cube import CubeBudget, dump
from budgetctl.evals.engines import Engine, EngineName, start
from budgetctl.evals.progress import Progress
from budgetctl.evals.questions import LiveQuestion, Suite
from budgetctl.evals.results import Result
from budgetctl.evals.runfolder import ROWS, LiveRow, claim, collect, read_rows
from budgetctl.evals.spend import LimitReached, Spend

from budgetctl.controller import Classifier, Controller
from budgetctl.errors import ConfigError, EvalError
from budgetctl.policy import parse
from budgetctl.speed import Speeds
from budgetctl.types import Decision, Query

__all__ = ["LiveQuestion", "LiveRun", "Suite", "Turn", "call_seed", "chunks", "turns"]

TURN = 8
"""Calls of a turn for each call that may be in flight: enough that the end of a turn, when fewer are in
flight, is a small part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Questions that one policy answers without another in between."""

    policy: str
    sample: int
    questions: tuple[LiveQuestion, ...]


def turns(
    questions: Sequence[LiveQuestion], policies: Sequence[str], *, samples: int, size: int
) -> Iterator[Turn]:
    """Yield the turns of a run, in order.

    Args:
        questions: All of them; every ``size`` of them are a turn of every policy.
        policies: Each of them begins equally often.
        samples: How often every question is asked.
        size: Questions in a turn.
    """
    blocks = list(chunks(questions, size))
    for sample in range(samples):
        for i, block in enumerate(blocks):
            first = (sample * len(blocks) + i) % len(policies)
            for policy in (*policies[first:], *policies[:first]):
                yield Turn(policy=policy, sample=sample, questions=block)


def chunks(questions: Sequence[LiveQuestion], size: int) -> Iterator[tuple[LiveQuestion, ...]]:
    """Yield the questions in groups of ``size``."""
    for start_at in range(0, len(questions), size):
        yield tuple(questions[start_at : start_at + size])


def call_seed(seed: int, question: str, sample: int) -> int:
    """Return the seed of a question's sample, from 0 to 2^31 - 1, the same under every policy."""
    digest = hashlib.blake2b(f"{seed}/{sample}/{question}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) >> 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    """Where a run writes: the calls that are on disk (policy, question, sample), the file, the progress."""

    done: set[tuple[str, str, int]]
    file: AppendFile
    bar: Progress


@dataclass(kw_only=True)
class LiveRun:
    """A run folder and the suite that fills it.

    Attributes:
        suite: What is asked of whom.
        policies: Policy strings; full thinking is added where it is missing.
        out: The run folder.
        seed: What the questions were drawn with and what the seeds of calls come from; part of the settings.
        samples: How often every question is asked.
        batch_size: Questions per call of a backend that takes many.
        classifier: What estimates: an object, a registered name, or None.
        base: What decides, each time under another policy; None is a controller with nothing but
            ``classifier``, which is left out of account where there is one.
        spend: Limits, and what was spent.
        engine: Where the calls are made.
        progress: Told of every call.

    Raises:
        ConfigError: A policy does not parse, or a number is out of range.
        EvalError: The suite holds no questions, or two of the same name.
    """

    suite: Suite
    policies: Sequence[str]
    out: Path
    seed: int = 0
    samples: int = 1
    batch_size: int = 32
    classifier: Classifier | str | None = "default"
    base: Controller | None = None
    spend: Spend = field(default_factory=Spend)
    engine: EngineName = "local"
    progress: Callable[[int, str], Progress] = Progress
    _speeds: Speeds = field(default_factory=Speeds)

    def __post_init__(self) -> None:
        names = [str(parse(policy)) for policy in self.policies]
        # Full thinking is what everything is compared with, so it always runs.
        self.policies = tuple(dict.fromkeys([*(["full"] if "full" not in names else []), *names]))
        for name in ("batch_size", "samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name.replace('_', ' ')} {getattr(self, name)}: expected 1 or more")
        if self.spend.max_usd is not None and not self.suite.backend.priced:
            raise ConfigError(
                f"a limit in dollars: it is not known what {self.suite.backend.model!r} costs; name a price "
                "table with `prices` in budgetctl.toml, or limit the tokens"
            )
        ids = [question.id for question in self.suite.questions]
        if not ids:
            raise EvalError(f"suite {self.suite.name!r} has no questions")
        if len(set(ids)) < len(ids):
            doubled = next(name for name in ids if ids.count(name) > 1)
            raise EvalError(f"suite {self.suite.name!r}: two questions are called {doubled!r}")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything that two halves of one run must have in common."""
        text = json.dumps([[q.id, q.text, q.reference] for q in self.suite.questions], default=str)
        return {
            "suite": self.suite.name,
            "model": self.suite.backend.model,
            "questions": len(self.suite.questions),
            "questions_hash": hashlib.blake2b(text.encode(), digest_size=8).hexdigest(),
            "policies": list(self.policies),
            "samples": self.samples,
            "seed": self.seed,
            **({"batch_size": self.batch_size} if self.suite.backend.batched else {}),
            "concurrency": self.suite.backend.concurrency,
            "classifier": self._classifier_name(),
            **self._configured(),
            **self.suite.backend.settings,
        }

    def _controller(self, policy: str) -> Controller:
        return (self.base or Controller(classifier=self.classifier)).with_policy(policy)

    def _configured(self) -> dict[str, Any]:
        """Return what decides otherwise than without a configuration."""
        own, plain = (_decisive(one) for one in (self._controller("full"), Controller(classifier=None)))
        return {key: value for key, value in own.items() if value != plain[key]}

    def _classifier_name(self) -> str | None:
        if not any(parse(policy).needs_estimate for policy in self.policies):
            return None
        found = self._controller("full").classifier()
        return None if found is None else found.hash

    def run(self) -> dict[str, list[Result]]:
        """Ask what was not asked yet and return all results, policy by policy.

        Raises:
            EvalError: The folder belongs to a run with other settings, another run is writing to it, or the
                model cannot be reached.
            LimitReached: The run stopped at its limit.
        """
        claim(self.out, self.settings)
        with AppendFile(self.out / ROWS) as file:
            rows = read_rows(self.out / ROWS)
            done = {(row.policy, row.question_id, row.sample) for row in rows}
            for row in rows:
                self._count(row.result())
            total = len(self.policies) * len(self.suite.questions) * self.samples
            with self.progress(total, self.suite.name) as bar:
                bar.advance(len(done), spent=self.spend)
                if len(done) < total:
                    self._ask(_Session(done=done, file=file, bar=bar))
        if len(done) < total:
            raise LimitReached(self.spend, done=len(done), total=total)
        return collect(read_rows(self.out / ROWS), policies=self.policies)

    def _count(self, result: Result) -> None:
        self._learn_pace(result)
        self.spend.add(result)

    def _ask(self, session: _Session) -> None:
        backend = self.suite.backend
        batch = self.batch_size if backend.batched else 1
        size = batch if backend.concurrency == 1 else batch * backend.concurrency * TURN
        controllers = {policy: self._controller(policy) for policy in self.policies}
        engine = start(self.engine, backend)
        try:
            for turn in turns(self.suite.questions, self.policies, samples=self.samples, size=size):
                batches = deque(
                    group
                    for group in chunks(turn.questions, batch)
                    if any((turn.policy, q.id, turn.sample) not in session.done for q in group)
                )
                self._take(turn, batches, controllers[turn.policy], engine, session)
                if self.spend.exhausted:
                    return
        finally:
            engine.close()

    def _take(
        self,
        turn: Turn,
        batches: deque[tuple[LiveQuestion, ...]],
        controller: Controller,
        engine: Engine,
        session: _Session,
    ) -> None:
        """Make the calls of one turn; after a fault those in flight are still waited for and kept."""
        running: dict[Future[list[Result]], tuple[Sequence[LiveQuestion], Sequence[Decision]]] = {}
        fault: Exception | None = None
        while running or batches:
            while batches and len(running) < self.suite.backend.concurrency and not self.spend.exhausted:
                group = batches.popleft()
                decisions: Sequence[Decision] = [self._decide(controller, question) for question in group]
                seeds = [call_seed(self.seed, question.id, turn.sample) for question in group]
                future = engine.submit(group, [d.budget for d in decisions], seeds=seeds)
                running[future] = group, decisions
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                asked, decided = running.pop(future)
                try:
                    self._keep(turn, asked, decided, future.result(), session)
                except Exception as error:
                    fault = fault or error
                    batches.clear()
        if fault is not None:
            raise fault

    def _decide(self, controller: Controller, question: LiveQuestion) -> Decision:
        backend = self.suite.backend
        return controller.decide(
            Query.from_text(question.text, model=backend.model),
            facts=backend.facts,
            pace=self._speeds.pace(self.suite.name, backend.model),
            price=controller.prices.lookup(backend.model),
            endpoint=backend.endpoint,
            params=backend.sampling,
        )

    def _keep(
        self,
        turn: Turn,
        questions: Sequence[LiveQuestion],
        decisions: Sequence[Decision],
        results: Sequence[Result],
        session: _Session,
    ) -> None:
        """Write what is not on disk yet: of a batch that was torn, part of it may be."""
        fresh = [
            (question, replace(r, sample=turn.sample, p_correct=d.expected.p_correct, notes=_notes(r, d)))
            for question, d, r in zip(questions, decisions, results, strict=True)
            if (turn.policy, question.id, turn.sample) not in session.done
        ]
        session.file.append(dump(self._row(turn.policy, question, result)) for question, result in fresh)
        session.done.update((turn.policy, question.id, turn.sample) for question, _ in fresh)
        for _, result in fresh:
            self._count(result)
        session.bar.advance(len(fresh), turn.policy, spent=self.spend)

    def _learn_pace(self, r: Result) -> None:
        if r.e2e_s and r.ttfo_s is not None and r.output_tokens and r.reasoning_tokens:
            per_token = r.ttfo_s / (r.reasoning_tokens + 1)
            self._speeds.observe(
                self.suite.name,
                self.suite.backend.model,
                ttft_s=per_token if r.ttft_s is None else r.ttft_s,
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
            sample=result.sample,
            budget=CubeBudget.of(result.budget),
            reasoning_tokens=result.reasoning_tokens,
            probe_tokens=result.probe_tokens,
            output_tokens=result.output_tokens,
            answer=result.answer,
            correct=result.correct,
            ttft_s=result.ttft_s,
            ttfo_s=result.ttfo_s,
            e2e_s=result.e2e_s,
            cost_usd=result.cost_usd,
            started_s=result.started_s,
            cluster=question.cluster,
            policy=policy,
            preset=result.budget.stop,
            answered=result.answered,
            thinking_tail=result.thinking_tail,
            p_correct=result.p_correct,
            stop=result.stop,
            notes=result.notes,
        )


def _decisive(controller: Controller) -> dict[str, Any]:
    return {
        "presets": controller.presets or None,
        "min_confidence": controller.min_confidence,
        "usd_per_s": controller.limits.usd_per_s,
        "capabilities": controller.capabilities.version,
    }


def _notes(result: Result, decision: Decision) -> tuple[str, ...]:
    void = decision.certificate_void_reason if decision.policy.startswith("certified:") else None
    why = decision.fallback or (f"certificate void: {void}" if void else None)
    return (*result.notes, why) if why else result.notes
