"""Live runs: every policy answers the same questions, and every answer is kept at once.

A run folder holds ``run.json`` (the settings, which a resumed run must repeat) and ``rows.jsonl`` (one cube
row per policy, question and sample). A call is on disk as soon as it has ended; a run that was killed is
resumed by the same command, and no row is missing or doubled afterwards.

Policies take turns, a few questions each (:func:`turns`), and another one begins every time: whatever drifts
on the other side hits all of them alike. A turn ends before the next one begins, so that at any time the
calls in flight are those of one policy, and its times are those of a server that serves this policy alone.
All policies ask a question's sample with the same seed.

The rungs of a cascade (:mod:`budgetctl.evals.cascade`) are asked within its turn: what was not accepted of a
batch goes on to the next rung at once, and a question is on disk when it has its answer. A model in this
process goes on from the thought of the rung below it.
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
from budgetctl.evals.questions import Backend, LiveQuestion, Suite
from budgetctl.evals.results import Result
from budgetctl.evals.runfolder import ROWS, LiveRow, claim, collect, read_rows
from budgetctl.evals.spend import LimitReached, Spend
from budgetctl.evals.ways import Ascent, backends_of, way_of

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


@dataclass(frozen=True, slots=True)
class _Step:
    """What a rung is asked with."""

    controller: Controller
    backend: Backend
    engine: Engine


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
        backend = self.suite.backend
        ways = [way_of(policy, backend=backend, controller=self._controller) for policy in self.policies]
        if "full" not in [way.name for way in ways]:  # what everything is compared with, so it always runs
            ways.insert(0, way_of("full", backend=backend, controller=self._controller))
        self._ways = {way.name: way for way in ways}
        self._backends = backends_of(self._ways, backend)
        self.policies = tuple(self._ways)
        for name in ("batch_size", "samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name.replace('_', ' ')} {getattr(self, name)}: expected 1 or more")
        unpriced = [model for model, one in self._backends.items() if not one.priced]
        if self.spend.max_usd is not None and unpriced:
            raise ConfigError(
                f"a limit in dollars: it is not known what {unpriced[0]!r} costs; name a price "
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
            **self._others(),
        }

    def _others(self) -> dict[str, Any]:
        """Return the models of rungs that are asked otherwise than the suite's."""
        own = self.suite.backend
        found = {
            name: {"model": one.model, **one.settings}
            for name, one in self._backends.items()
            if one.model != name or one.settings != own.settings
        }
        return {"models": found} if found else {}

    def _controller(self, policy: str) -> Controller:
        return (self.base or Controller(classifier=self.classifier)).with_policy(policy)

    def _configured(self) -> dict[str, Any]:
        """Return what decides otherwise than without a configuration."""
        own, plain = (_decisive(one) for one in (self._controller("full"), Controller(classifier=None)))
        return {key: value for key, value in own.items() if value != plain[key]}

    def _classifier_name(self) -> str | None:
        rungs = [rung for way in self._ways.values() for rung in way.rungs]
        if not any(parse(rung.policy).needs_estimate for rung in rungs):
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
                whole = row.rung is None  # the calls of a ladder are one row, whose sum has no pace
                self._count(row.result(), self._asked(row.policy) if whole else None)
            total = len(self.policies) * len(self.suite.questions) * self.samples
            with self.progress(total, self.suite.name) as bar:
                bar.advance(len(done), spent=self.spend)
                if len(done) < total:
                    self._ask(_Session(done=done, file=file, bar=bar))
        if len(done) < total:
            raise LimitReached(self.spend, done=len(done), total=total)
        return collect(read_rows(self.out / ROWS), policies=self.policies)

    def _count(self, result: Result, model: str | None) -> None:
        """Count what a call spent, and learn the pace of the model that was asked, where it was one."""
        if model is not None:
            self._learn_pace(result, model)
        self.spend.add(result)

    def _asked(self, policy: str, rung: int = 0) -> str:
        """Return the model that is asked under a policy."""
        return self._backends[self._ways[policy].rungs[rung].model].model

    def _ask(self, session: _Session) -> None:
        backend = self.suite.backend
        batch = self.batch_size if backend.batched else 1
        size = batch if backend.concurrency == 1 else batch * backend.concurrency * TURN
        engines = {model: start(self.engine, one) for model, one in self._backends.items()}
        steps = {
            name: [
                _Step(self._controller(rung.policy), self._backends[rung.model], engines[rung.model])
                for rung in way.rungs
            ]
            for name, way in self._ways.items()
        }
        try:
            for turn in turns(self.suite.questions, self.policies, samples=self.samples, size=size):
                groups = deque(self._groups(turn, session, size=batch))
                self._take(turn, groups, steps[turn.policy], session)
                if self.spend.exhausted:
                    return
        finally:
            for engine in engines.values():
                engine.close()

    def _groups(self, turn: Turn, session: _Session, *, size: int) -> Iterator[list[Ascent]]:
        """Yield the questions of a turn in batches; one of which any is missing is asked whole."""
        way = self._ways[turn.policy]
        for group in chunks(turn.questions, size):
            if any((turn.policy, q.id, turn.sample) not in session.done for q in group):
                yield [way.begin(q, self._query(q, self.suite.backend), self._backends) for q in group]

    def _take(
        self, turn: Turn, waiting: deque[list[Ascent]], steps: Sequence[_Step], session: _Session
    ) -> None:
        """Make the calls of one turn; after a fault those in flight are still waited for and kept."""
        running: dict[Future[list[Result]], tuple[list[Ascent], list[Decision]]] = {}
        fault: Exception | None = None
        while running or waiting:
            while waiting and len(running) < self.suite.backend.concurrency and not self.spend.exhausted:
                group = waiting.popleft()
                future, decisions = self._submit(turn, group, steps[group[0].rung])
                running[future] = group, decisions
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                asked, decided = running.pop(future)
                try:
                    higher = self._keep(turn, asked, decided, future.result(), session)
                    if fault is None:
                        rungs = sorted({one.rung for one in higher})
                        waiting.extendleft([one for one in higher if one.rung == rung] for rung in rungs)
                except Exception as error:
                    fault = fault or error
                    waiting.clear()
        if fault is not None:
            raise fault

    def _submit(
        self, turn: Turn, group: Sequence[Ascent], step: _Step
    ) -> tuple[Future[list[Result]], list[Decision]]:
        questions = [one.question for one in group]
        decisions = [self._decide(step, question) for question in questions]
        seeds = [call_seed(self.seed, question.id, turn.sample) for question in questions]
        thoughts = [one.thought for one in group]
        budgets = [d.budget for d in decisions]
        return step.engine.submit(questions, budgets, seeds=seeds, thoughts=thoughts), decisions

    def _query(self, question: LiveQuestion, backend: Backend) -> Query:
        return Query.from_text(question.text, model=backend.model)

    def _decide(self, step: _Step, question: LiveQuestion) -> Decision:
        controller, backend = step.controller, step.backend
        query = self._query(question, backend)
        decision = controller.decide(
            query,
            facts=backend.facts,
            pace=self._speeds.pace(self.suite.name, backend.model),
            price=controller.prices.lookup(
                backend.model, place=backend.settings.get("base_url", backend.endpoint)
            ),
            endpoint=backend.endpoint,
            params=backend.sampling,
        )
        if decision.certificate is None:
            return decision
        return controller.kept(
            decision, lambda budget: backend.written(question, budget), query=query, facts=backend.facts
        )

    def _keep(
        self,
        turn: Turn,
        group: Sequence[Ascent],
        decisions: Sequence[Decision],
        results: Sequence[Result],
        session: _Session,
    ) -> list[Ascent]:
        """Write what is not on disk yet (part of a torn batch may be), and return who climbs on."""
        higher: list[Ascent] = []
        spent: list[tuple[Result, str]] = []
        fresh: list[tuple[LiveQuestion, Result]] = []
        for one, decision, result in zip(group, decisions, results, strict=True):
            new = (turn.policy, one.question.id, turn.sample) not in session.done
            asked = self._asked(turn.policy, one.rung)
            done = one.send(
                replace(
                    result,
                    sample=turn.sample,
                    p_correct=decision.expected.p_correct,
                    notes=_notes(result, decision, void=one.void(result)),
                )
            )
            if new:
                spent.append((result, asked))
            if done is None:
                higher.append(one)
            elif new:
                fresh.append((one.question, done))
        session.file.append(dump(self._row(turn.policy, question, result)) for question, result in fresh)
        session.done.update((turn.policy, question.id, turn.sample) for question, _ in fresh)
        for result, model in spent:
            self._count(result, model)
        session.bar.advance(len(fresh), turn.policy, spent=self.spend)
        return higher

    def _learn_pace(self, r: Result, model: str) -> None:
        if r.e2e_s and r.ttfo_s is not None and r.output_tokens and r.reasoning_tokens:
            per_token = r.ttfo_s / (r.reasoning_tokens + 1)
            self._speeds.observe(
                self.suite.name,
                model,
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
            subject=question.subject,
            policy=policy,
            preset=result.budget.stop,
            answered=result.answered,
            thinking_tail=result.thinking_tail,
            p_correct=result.p_correct,
            confidence=result.confidence,
            rung=result.rung,
            stop=result.stop,
            thought_tokens=result.thought_tokens,
            notes=result.notes,
        )


def _decisive(controller: Controller) -> dict[str, Any]:
    return {
        "presets": controller.presets or None,
        "min_confidence": controller.min_confidence,
        "usd_per_s": controller.limits.usd_per_s,
        "capabilities": controller.capabilities.version,
    }


def _notes(result: Result, decision: Decision, *, void: str | None = None) -> tuple[str, ...]:
    if decision.policy.startswith("certified:"):
        void = decision.certificate_void_reason
    if decision.certificate is not None and result.notes:  # it did not hold in the end
        return tuple(f"certificate void: {note}" for note in result.notes)
    why = decision.fallback or (f"certificate void: {void}" if void else None)
    others = tuple(note for note in result.notes if note != void)
    return (*others, why) if why else result.notes
