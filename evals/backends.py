"""What answers a suite's questions: the pocket reasoner in this process, or an OpenAI-compatible endpoint."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetctl.evals import pocket
from budgetctl.evals.live import LiveQuestion, Suite
from budgetctl.evals.results import Result

from budgetctl.capabilities import Table, guess_endpoint
from budgetctl.errors import AnswerTruncated, EvalError
from budgetctl.policy import Situation
from budgetctl.stopping import Trials
from budgetctl.types import Budget, Usage

if TYPE_CHECKING:
    from budgetctl.integrations.transformers import Generation

CONCURRENCY = 4
POCKET = "pocket"
POCKET_POLICIES = (
    "full",
    "off",
    "cap:16",
    "cap:32",
    "cap:64",
    "cap:96",
    "cap:128",
    "cap:192",
    "quantile:0.9",
    "quantile:0.99",
    "auto",
)

POCKET_TRIALS = Trials(cue="The answer is", until=".", tokens=4, every=16)
"""How the pocket reasoner is asked for a trial answer: in its own words, which leave a number or a word."""

Grader = Callable[[str, Mapping[str, Any]], bool]
"""Takes the answer and the question's line of the suite file; returns whether the answer is right."""


def output_tokens(usage: Usage) -> int | None:
    """Return all generated tokens, thinking included."""
    if usage.answer_tokens is None or usage.reasoning_tokens is None:
        return None
    return usage.reasoning_tokens + usage.answer_tokens


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one core: for so small a model threads wait for each other more than they work."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class PocketBackend:
    """The pocket reasoner, greedy, in this process.

    Args:
        folder: Another trained copy than the shipped one.
        presets: Other soft criteria for the stop presets, as tables (see :func:`budgetctl.stopping.soft`).
    """

    def __init__(
        self, *, folder: Path | None = None, presets: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        self.model = pocket.NAME
        self.facts = Table.load().lookup(pocket.NAME, "in-process").facts()
        weights = (folder or pocket.path()) / "model.safetensors"
        if not weights.exists():
            raise EvalError(f"{weights}: the pocket reasoner's weights are missing from this installation")
        self.settings: Mapping[str, Any] = {
            "weights": hashlib.sha256(weights.read_bytes()).hexdigest()[:16],
            **({"presets": dict(presets)} if presets else {}),
        }
        self._presets = presets
        self._network, self._tokenizer = pocket.load(folder=folder)

    def generate(self, questions: Sequence[LiveQuestion], budgets: Sequence[Budget]) -> list[Result]:
        from budgetctl.integrations.transformers import generate

        with _one_thread():
            replies = generate(
                self._network,
                self._tokenizer,
                [question.text for question in questions],
                budgets=budgets,
                batch_size=len(questions),
                close_text=pocket.CLOSE_TEXT,
                trials=POCKET_TRIALS,
                presets=self._presets,
                do_sample=False,
            )
        return [self._result(*one) for one in zip(questions, budgets, replies, strict=True)]

    def _result(self, question: LiveQuestion, budget: Budget, reply: Generation) -> Result:
        usage, probes = reply.usage, reply.probe_tokens
        return Result(
            question_id=question.id,
            correct=pocket.grade(reply.answer, question.raw),
            answered=bool(reply.answer.strip()),
            answer=reply.answer.strip(),
            stop=str(reply.stop),
            reasoning_tokens=None if usage.reasoning_tokens is None else usage.reasoning_tokens + probes,
            probe_tokens=probes,
            output_tokens=None if usage.output_tokens is None else usage.output_tokens + probes,
            ttfo_s=reply.timing.ttfo_s,
            e2e_s=reply.timing.e2e_s,
            budget=budget,
        )


def pocket_suite(*, limit: int, seed: int = 0) -> Suite:
    """Return ``limit`` test questions of the pocket suite, and the pocket reasoner to answer them."""
    questions = tuple(
        LiveQuestion(id=q.id, text=q.text, reference=q.answer, cluster=q.family, level=q.level, raw=q)
        for q in pocket.questions("test", limit, seed=seed)
    )
    return Suite(name=POCKET, questions=questions, backend=PocketBackend())


@dataclass(frozen=True, slots=True)
class _Given:
    """A policy that gives the budget that was decided already."""

    decided: Budget
    needs_estimate: bool = False

    def budget(self, situation: Situation) -> Budget:
        return self.decided

    def __str__(self) -> str:
        return "given"


class EndpointBackend:
    """A model behind an OpenAI-compatible endpoint, called through :func:`budgetctl.wrap`.

    Args:
        base_url: Where it is.
        model: Its name there.
        grader: Decides whether an answer is right.
        endpoint: Kind of endpoint, as in the capability table.
    """

    def __init__(self, *, base_url: str, model: str, grader: Grader, endpoint: str | None = None) -> None:
        from openai import OpenAI

        import budgetctl

        self.model = model
        self.facts = Table.load().lookup(model, endpoint or guess_endpoint(base_url)).facts()
        self.settings: Mapping[str, Any] = {"base_url": base_url, "endpoint": endpoint}
        self._grader = grader
        key = os.environ.get("OPENAI_API_KEY", "none")
        client = OpenAI(base_url=base_url, api_key=key)
        self._client: Any = budgetctl.wrap(client, policy="full", classifier=None, endpoint=endpoint)

    def generate(self, questions: Sequence[LiveQuestion], budgets: Sequence[Budget]) -> list[Result]:
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            return list(pool.map(self._ask, questions, budgets))

    def _ask(self, question: LiveQuestion, budget: Budget) -> Result:
        from openai import OpenAIError

        import budgetctl

        client = self._client.with_policy(_Given(budget))
        failures: tuple[type[Exception], ...] = (OpenAIError, *_transport_errors())
        try:
            messages = [{"role": "user", "content": question.text}]
            # Streamed, since only a stream shows when the answer begins and can be cut on the way.
            stream = client.chat.completions.create(model=self.model, messages=messages, stream=True)
            answer = "".join(c.delta.content or "" for chunk in stream for c in chunk.choices)
            outcome = budgetctl.outcome(stream)
        except AnswerTruncated as error:
            answer, outcome = "", budgetctl.outcome(error)
        except failures as error:
            raise EvalError(
                f"question {question.id!r}: {type(error).__name__}: {error}; what was finished is kept, "
                "the same command resumes"
            ) from error
        usage = Usage(
            reasoning_tokens=outcome.usage.reasoning_tokens, answer_tokens=outcome.usage.answer_tokens
        )
        return Result(
            question_id=question.id,
            correct=bool(answer.strip()) and bool(self._grader(answer, question.raw)),
            answered=bool(answer.strip()),
            answer=answer,
            stop=str(outcome.stop.reason),
            reasoning_tokens=usage.reasoning_tokens,
            output_tokens=output_tokens(usage),
            ttfo_s=outcome.timing.ttfo_s,
            e2e_s=outcome.timing.e2e_s,
            cost_usd=outcome.cost_usd,
            budget=budget,
        )


def _transport_errors() -> tuple[type[Exception], ...]:
    """Return what a stream that breaks raises under SDKs that leave the transport's own error as it is."""
    names = [name for name in ("httpx", "httpx2") if importlib.util.find_spec(name) is not None]
    return tuple(importlib.import_module(name).HTTPError for name in names)


def load_grader(name: str) -> Grader:
    """Return the function that ``module:function`` names; modules in the working directory are found too.

    Raises:
        EvalError: There is no such function.
    """
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise EvalError(f"grader {name!r}: expected module:function, for example graders:exact_match")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise EvalError(f"grader {name!r}: {error}") from None
    if not callable(found):
        raise EvalError(f"grader {name!r}: is no function")
    return found  # type: ignore[no-any-return]  # what a name leads to has no type


def read_questions(path: Path, *, limit: int | None = None) -> tuple[LiveQuestion, ...]:
    """Return the questions of a suite file: JSON lines with ``question`` and, if wanted, ``id``, ``cluster``.

    The other fields of a line are for the grader; ``answer`` or ``reference_answer`` is shown in records.

    Raises:
        EvalError: A line is no question; the message names file and line.
    """
    questions: list[LiveQuestion] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EvalError(f"{path}: cannot be read ({error})") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (limit is not None and len(questions) >= limit):
            continue
        questions.append(_question(line, where=f"{path}:{number}", number=number))
    return tuple(questions)


def _question(line: str, *, where: str, number: int) -> LiveQuestion:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise EvalError(f"{where}: not a JSON object: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("question"), str):
        raise EvalError(f"{where}: expected a JSON object with the text field 'question'")
    cluster = content.get("cluster")
    return LiveQuestion(
        id=str(content.get("id", content.get("question_id", number))),
        text=content["question"],
        reference=content.get("reference_answer", content.get("answer")),
        cluster=None if cluster is None else str(cluster),
        raw=content,
    )
