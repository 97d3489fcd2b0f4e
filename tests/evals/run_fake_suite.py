"""A live run on a fake model, as a process of its own so that a test can kill it: OUT SECONDS_PER_CALL."""

import sys
import time
from pathlib import Path

from budgetctl.evals.live import LiveQuestion, LiveRun, Suite
from budgetctl.evals.results import Result

from budgetctl.types import ModelFacts


class FakeBackend:
    """Right where the question's number and its seed are even; thinks 100 tokens unless capped."""

    model = "fake"
    endpoint, sampling = "vllm", {}
    facts = ModelFacts(can_cap=True, can_switch_off=True)

    def __init__(self, *, seconds=0.0, temperature=0.0, concurrency=1, batched=True, usd=None):
        self.settings = {"temperature": temperature}
        self.seconds, self.usd = seconds, usd
        self.concurrency, self.batched, self.priced = concurrency, batched, usd is not None
        self.asked = []

    def generate(self, questions, budgets, *, seeds):
        time.sleep(self.seconds)
        self.asked.append([question.id for question in questions])
        return [self._answer(*one) for one in zip(questions, budgets, seeds, strict=True)]

    def _answer(self, question, budget, seed):
        tokens = 100 if budget.reasoning_tokens is None else min(100, budget.reasoning_tokens)
        return Result(
            question_id=question.id,
            correct=int(question.id) % 2 == 0 or seed % 3 == 0,
            answer=f"answer to {question.text} by {seed}",
            cost_usd=self.usd,
            reasoning_tokens=tokens,
            output_tokens=tokens + 5,
            ttfo_s=tokens / 100,
            e2e_s=tokens / 100 + 0.05,
            stop="natural",
            budget=budget,
        )


def live_run(out, *, n=40, policies=("full", "off", "cap:50"), backend=None, batch_size=4, **more):
    questions = tuple(LiveQuestion(id=str(i), text=f"question {i}", cluster=str(i % 4)) for i in range(n))
    suite = Suite(name="fake", questions=questions, backend=backend or FakeBackend())
    return LiveRun(suite=suite, policies=policies, out=Path(out), batch_size=batch_size, **more)


if __name__ == "__main__":
    slow = FakeBackend(seconds=float(sys.argv[2]), concurrency=3, batched=False)
    live_run(sys.argv[1], backend=slow, samples=2).run()
