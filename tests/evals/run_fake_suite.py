"""A live run on a fake model, as a process of its own so that a test can kill it: OUT [SECONDS_PER_BATCH]."""

import sys
import time
from pathlib import Path

from budgetctl.evals.live import LiveQuestion, LiveRun, Suite
from budgetctl.evals.results import Result

from budgetctl.types import ModelFacts


class FakeBackend:
    """Right where the question's number is even; thinks 100 tokens unless capped."""

    model = "fake"
    facts = ModelFacts(can_cap=True, can_switch_off=True)

    def __init__(self, *, seconds=0.0, temperature=0.0):
        self.settings = {"temperature": temperature}
        self.seconds = seconds
        self.asked = []

    def generate(self, questions, budgets):
        time.sleep(self.seconds)
        self.asked.append([question.id for question in questions])
        return [self._answer(q, b) for q, b in zip(questions, budgets, strict=True)]

    def _answer(self, question, budget):
        tokens = 100 if budget.reasoning_tokens is None else min(100, budget.reasoning_tokens)
        return Result(
            question_id=question.id,
            correct=int(question.id) % 2 == 0,
            answer=f"answer to {question.text}",
            reasoning_tokens=tokens,
            output_tokens=tokens + 5,
            ttfo_s=tokens / 100,
            e2e_s=tokens / 100 + 0.05,
            stop="natural",
            budget=budget,
        )


def live_run(out, *, n=40, policies=("full", "off", "cap:50"), backend=None, **more):
    questions = tuple(LiveQuestion(id=str(i), text=f"question {i}", cluster=str(i % 4)) for i in range(n))
    suite = Suite(name="fake", questions=questions, backend=backend or FakeBackend())
    return LiveRun(suite=suite, policies=policies, out=Path(out), batch_size=4, **more)


if __name__ == "__main__":
    live_run(sys.argv[1], backend=FakeBackend(seconds=float(sys.argv[2]))).run()
