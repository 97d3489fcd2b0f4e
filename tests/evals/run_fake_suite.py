"""A live run on a fake model, as a process of its own so that a test can kill it: OUT SECONDS [ladder]."""

import sys
import time
from pathlib import Path

from budgetctl.evals.live import LiveQuestion, LiveRun, Suite
from budgetctl.evals.results import Result

from budgetctl.adapters import Rendered
from budgetctl.types import AppliedControl, ModelFacts


class FakeBackend:
    """Right where the question's number and its seed are even; thinks 100 tokens unless capped."""

    model = "fake"
    endpoint, sampling, strength = "vllm", {}, "hard"
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

    def written(self, question, budget):
        control = AppliedControl(name="cap", value=budget.reasoning_tokens, strength=self.strength)
        return Rendered(params={}, controls=(control,) if budget.reasoning_tokens is not None else ())

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


class Thinker(FakeBackend):
    """Thinks 100 tokens, or 40 of every fifth question, and goes on from a thought.

    Without thinking it is right on every third question, within 50 tokens on every other, and at the end of
    its thought on all. It is sure where it is right, but never of every tenth question.
    """

    confidence = True

    def generate(self, questions, budgets, *, seeds, thoughts=None):
        time.sleep(self.seconds)
        self.asked.append([question.id for question in questions])
        begun = thoughts or [()] * len(questions)
        return [self._draft(*one) for one in zip(questions, budgets, begun, strict=True)]

    def _draft(self, question, budget, begun):
        n, cap = int(question.id), budget.reasoning_tokens
        length = 40 if n % 5 == 0 else 100
        whole = length if cap is None else min(length, cap)
        right = whole == length or n % 3 == 0 or (cap == 50 and n % 2 == 0)
        sure = right and n % 10 != 5  # what ended by itself may still be in doubt
        made = whole - len(begun)
        return Result(
            question_id=question.id,
            correct=right,
            answer=f"answer to {question.text} after {whole}",
            confidence=0.95 if sure else 0.4,
            reasoning_tokens=made,
            output_tokens=made + 5,
            ttfo_s=made / 100,
            e2e_s=made / 100 + 0.05,
            stop="off" if cap == 0 else "natural" if whole == length else "cap",
            thought=tuple(range(whole)),
            thought_tokens=whole,
            budget=budget,
        )


LADDER = "off>cap:50>full?confident:0.9"


def live_run(out, *, n=40, policies=("full", "off", "cap:50"), backend=None, batch_size=4, **more):
    questions = tuple(LiveQuestion(id=str(i), text=f"question {i}", cluster=str(i % 4)) for i in range(n))
    suite = Suite(name="fake", questions=questions, backend=backend or FakeBackend())
    return LiveRun(suite=suite, policies=policies, out=Path(out), batch_size=batch_size, **more)


if __name__ == "__main__":
    seconds, ladder = float(sys.argv[2]), "ladder" in sys.argv[3:]
    if ladder:
        live_run(sys.argv[1], backend=Thinker(seconds=seconds), policies=("full", LADDER)).run()
    else:
        slow = FakeBackend(seconds=seconds, concurrency=3, batched=False)
        live_run(sys.argv[1], backend=slow, samples=2).run()
