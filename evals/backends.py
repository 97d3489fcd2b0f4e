"""What answers in this process: a model of transformers, such as the pocket reasoner."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetctl.evals import pocket
from budgetctl.evals.endpoint import THINKING_KEPT, Grader
from budgetctl.evals.questions import LiveQuestion
from budgetctl.evals.results import Result

from budgetctl.adapters import Rendered
from budgetctl.capabilities import Table
from budgetctl.errors import ConfigError, EvalError
from budgetctl.stopping import Preset, Trials
from budgetctl.types import Budget

if TYPE_CHECKING:
    from budgetctl.integrations.transformers import Generation

POCKET_TRIALS = Trials(cue="The answer is", until=".", tokens=4, every=16)
"""How the pocket reasoner is asked for a trial answer: in its own words, which leave a number or a word."""


class LocalBackend:
    """A causal language model of transformers in this process, which answers in batches.

    Draws are made with the seed of a batch's first question, so that they repeat when the batch is the same.

    Args:
        network: The model.
        tokenizer: Its tokenizer, with a chat template.
        model: Its name, as the capability table knows it.
        grader: Decides whether an answer is right.
        settings: Whatever else makes two runs different.
        sampling: Arguments of ``generate``; nothing is greedy decoding.
        presets: Other soft criteria for the stop presets (see :func:`budgetctl.stopping.soft`).
        capabilities: What models can do; None is the shipped table.
        concurrency: Copies at once, on a cluster; in this process there is one.
        confidence: Keep the geometric mean of the probabilities of every answer's tokens, as
            :func:`budgetctl.ladder.answer_confidence` does.
        trials: How it is asked for trial answers; None is as usual.
        more: Passed to :func:`budgetctl.integrations.transformers.generate`.
    """

    batched = True
    priced = False
    endpoint = "in-process"
    usual_trials = Trials()

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        *,
        model: str,
        grader: Grader,
        settings: Mapping[str, Any],
        sampling: Mapping[str, Any] | None = None,
        presets: Mapping[str, Preset] | None = None,
        capabilities: Table | None = None,
        concurrency: int = 1,
        confidence: bool = False,
        trials: Trials | None = None,
        **more: Any,
    ) -> None:
        from budgetctl.integrations.transformers import sampling_of

        self.model, self.concurrency, self.confidence = model, concurrency, confidence
        facts = (capabilities or Table.load()).lookup(model, self.endpoint).facts()
        switch = "enable_thinking" in (tokenizer.get_chat_template() or "")
        self.facts = replace(facts, can_cap=True, can_switch_off=facts.can_switch_off or switch)
        self.settings: Mapping[str, Any] = {
            **settings,
            "sampling": dict(sampling or {}),
            **({"presets": dict(presets)} if presets else {}),
            **({"confidence": True} if confidence else {}),
            **self._changed(trials or self.usual_trials),
        }
        self._network, self._tokenizer, self._grader = network, tokenizer, grader
        drawn = {"do_sample": True, **sampling} if sampling else {"do_sample": False}
        self.sampling: Mapping[str, Any] = sampling_of(network, drawn)
        self._options = {
            "presets": presets,
            "logprobs": confidence,
            "trials": trials or self.usual_trials,
            **more,
            **drawn,
        }

    def generate(
        self,
        questions: Sequence[LiveQuestion],
        budgets: Sequence[Budget],
        *,
        seeds: Sequence[int] = (),
        thoughts: Sequence[Sequence[int]] | None = None,
    ) -> list[Result]:
        from budgetctl.integrations.transformers import generate

        started = time.time()
        with self._threads(), _seeded(seeds[0] if seeds else 0):
            replies = generate(
                self._network,
                self._tokenizer,
                [question.text for question in questions],
                budgets=budgets,
                batch_size=len(questions),
                thoughts=thoughts,
                **self._options,
            )
        return [self._result(*one, started) for one in zip(questions, budgets, replies, strict=True)]

    def written(self, question: LiveQuestion, budget: Budget) -> Rendered:
        # All controls of a model in this process are hard; a level of effort has none.
        missing = () if budget.effort is None else (f"effort:{budget.effort}",)
        return Rendered(params=dict(self.sampling), unsupported=missing)

    def _changed(self, trials: Trials) -> dict[str, Any]:
        """Return the setting of trial answers, of what is not as usual."""
        own, usual = asdict(trials), asdict(self.usual_trials)
        changed = {key: value for key, value in own.items() if value != usual[key]}
        return {"trials": json.loads(json.dumps(changed))} if changed else {}

    def _threads(self) -> Any:
        return nullcontext()

    def _result(self, question: LiveQuestion, budget: Budget, reply: Generation, started: float) -> Result:
        usage, probes = reply.usage, reply.probe_tokens
        answer = reply.answer.strip()
        return Result(
            question_id=question.id,
            correct=bool(answer) and bool(self._grader(answer, question.raw)),
            answered=bool(answer),
            answer=answer,
            confidence=_confidence(reply.logprobs),
            thinking_tail=reply.reasoning[-THINKING_KEPT:] or None,
            stop=str(reply.stop),
            # A draw is another one where it goes on: its seed is that of the batch.
            thought_tokens=None if self.sampling else len(reply.thought),
            thought=() if self.sampling else reply.thought,
            reasoning_tokens=None if usage.reasoning_tokens is None else usage.reasoning_tokens + probes,
            probe_tokens=probes,
            output_tokens=None if usage.output_tokens is None else usage.output_tokens + probes,
            ttft_s=reply.timing.ttft_s,
            ttfo_s=reply.timing.ttfo_s,
            e2e_s=reply.timing.e2e_s,
            started_s=started,
            budget=budget,
        )


class PocketBackend(LocalBackend):
    """The pocket reasoner, greedy unless ``sampling`` says otherwise.

    Args:
        folder: Another trained copy than the shipped one.
        trials: As for :class:`LocalBackend`, as are the others.
    """

    usual_trials = POCKET_TRIALS

    def __init__(
        self,
        *,
        folder: Path | None = None,
        trials: Trials | None = None,
        presets: Mapping[str, Preset] | None = None,
        capabilities: Table | None = None,
        sampling: Mapping[str, Any] | None = None,
        concurrency: int = 1,
        confidence: bool = False,
    ) -> None:
        weights = (folder or pocket.path()) / "model.safetensors"
        if not weights.exists():
            raise EvalError(f"{weights}: the pocket reasoner's weights are missing from this installation")
        network, tokenizer = pocket.load(folder=folder)
        super().__init__(
            network,
            tokenizer,
            model=pocket.NAME,
            grader=pocket.grade,
            settings={"weights": hashlib.sha256(weights.read_bytes()).hexdigest()[:16]},
            sampling=sampling,
            presets=presets,
            capabilities=capabilities,
            concurrency=concurrency,
            confidence=confidence,
            close_text=pocket.CLOSE_TEXT,
            trials=trials,
        )

    def _threads(self) -> Any:
        return _one_thread()


def from_transformers(name: str, *, grader: Grader, **more: Any) -> LocalBackend:
    """Load a model and its tokenizer from a folder or the model hub, on a GPU where there is one.

    Args:
        name: Folder or name.
        grader: As for :class:`LocalBackend`.
        more: Its further arguments.

    Raises:
        ConfigError: It cannot be loaded, or has no chat template.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name)
        network: Any = AutoModelForCausalLM.from_pretrained(name, dtype="auto")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model {name!r}: transformers cannot load it ({error}); for a model behind an endpoint give "
            "--base-url"
        ) from None
    if not tokenizer.chat_template:
        raise ConfigError(f"model {name!r}: its tokenizer has no chat template, so it cannot be asked")
    return LocalBackend(
        network.to(device).eval(),
        tokenizer,
        model=name,
        grader=grader,
        settings={"device": device},
        **more,
    )


def _confidence(logprobs: Sequence[float] | None) -> float | None:
    """Return the geometric mean of the probabilities of an answer's tokens; None where they are not known."""
    return min(1.0, math.exp(math.fsum(logprobs) / len(logprobs))) if logprobs else None


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


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from a seed, and leave the caller's own random state as it was."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
