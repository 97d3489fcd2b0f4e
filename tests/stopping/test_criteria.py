"""When a thought is stopped, criterion by criterion."""

from __future__ import annotations

import pytest

from budgetctl.stopping import (
    AnyOf,
    Boundaries,
    Criterion,
    Deadline,
    LoopStop,
    ReasoningCap,
    monitor,
    with_grace,
)
from budgetctl.types import Budget, Evidence, Progress, StopReason


def progress(
    tokens: int = 0,
    text: str = "",
    *,
    elapsed_s: float = 0.0,
    s_per_token: float | None = None,
    at_boundary: bool = False,
) -> Progress:
    return Progress(
        reasoning_tokens=tokens,
        reasoning=text,
        elapsed_s=elapsed_s,
        s_per_token=s_per_token,
        at_boundary=at_boundary,
    )


def fires_at(criterion: Criterion, *, boundaries: set[int]) -> int | None:
    """The first token count at which a criterion stops a thought with these boundaries."""
    seen = (progress(n, at_boundary=n in boundaries) for n in range(500))
    return next((p.reasoning_tokens for p in seen if criterion.observe(p)), None)


@pytest.mark.parametrize(
    ("boundaries", "stopped_at"),
    [({100}, 100), ({99, 104, 107}, 104), (set(), 110), ({99, 111}, 110)],
    ids=["at the cap", "within the grace", "no boundary", "boundaries outside"],
)
def test_cap_waits_for_a_boundary_within_its_grace(boundaries: set[int], stopped_at: int) -> None:
    assert fires_at(ReasoningCap(100), boundaries=boundaries) == stopped_at


def test_cap_of_zero_stops_at_once_and_small_caps_have_no_grace() -> None:
    assert fires_at(ReasoningCap(0), boundaries=set()) == 0
    assert fires_at(ReasoningCap(9), boundaries=set()) == 9
    assert with_grace(4096) == 4505


def test_deadline_keeps_the_time_to_answer() -> None:
    deadline = Deadline(10, answer_tokens=125)
    assert deadline.observe(progress(elapsed_s=7.4, s_per_token=0.02)) is None
    assert deadline.observe(progress(elapsed_s=7.5, s_per_token=0.02)) == Evidence(
        criterion="deadline", reason=StopReason.DEADLINE
    )


def test_deadline_keeps_what_its_tail_says() -> None:
    seen = []

    def tail_s(tokens: float, *, s_per_token: float | None, ttft_s: float | None) -> float:
        seen.append((tokens, s_per_token, ttft_s))
        return 4.0

    deadline = Deadline(10, answer_tokens=125, tail_s=tail_s)
    assert deadline.observe(progress(elapsed_s=5.9, s_per_token=0.02)) is None
    assert deadline.observe(progress(elapsed_s=6.0, s_per_token=0.02)) is not None
    assert seen == [(125, 0.02, None)] * 2


def test_deadline_without_a_measured_pace_is_the_deadline_itself() -> None:
    assert Deadline(10).observe(progress(elapsed_s=9.9)) is None
    assert Deadline(10).observe(progress(elapsed_s=10.0)) is not None


def test_any_of_gives_the_first_evidence() -> None:
    both = Deadline(1) | ReasoningCap(10)
    assert both.name == "deadline|reasoning_cap"
    late_and_over = both.observe(progress(20, elapsed_s=2))
    over = both.observe(progress(20))
    assert late_and_over is not None
    assert over is not None
    assert (late_and_over.reason, over.reason) == (StopReason.DEADLINE, StopReason.CAP)
    assert both.observe(progress(5)) is None


def test_safe_preset_watches_what_the_budget_has() -> None:
    budget = Budget(reasoning_tokens=100, deadline_s=5.0, answer_tokens=50)
    assert monitor(budget).name == "reasoning_cap|deadline|loop"
    assert monitor(Budget()).name == "loop"


def test_none_preset_keeps_the_budget_and_leaves_loops_alone() -> None:
    assert monitor(Budget(reasoning_tokens=100, stop="none")).name == "reasoning_cap"
    free = monitor(Budget(stop="none"))
    assert free.observe(progress(10_000, "so " * 9000, elapsed_s=99)) is None


def test_users_may_compose_their_own_criterion() -> None:
    class Bored:
        name = "bored"

        def observe(self, progress: Progress) -> Evidence | None:
            bored = "hmm" in progress.reasoning
            return Evidence(criterion=self.name, reason=StopReason.LOOP) if bored else None

    assert AnyOf(Bored(), ReasoningCap(9)).observe(progress(1, "hmm")) is not None
    assert (ReasoningCap(9) | Bored()).observe(progress(1, "so")) is None


BOUNDARIES = {
    "So it is 4.": False,
    "So it is four.": True,
    "So it is four": False,
    "pi is 3.": False,
    "pi is 3. ": True,
    "e.g.": False,
    "Really?": True,
    'He said "no."': True,
    "a line\n": True,
    "```\nx = 1\n": False,
    "```\nx = 1\n```\n": True,
    "inline `code` done.": True,
    "so $x = 1. ": False,
    "so $x = 1$. ": True,
    "it costs $5\n": True,
    "it costs \\$5. Good. ": True,
    "$$\nx = 1\n": False,
    "$$\nx = 1\n$$\n": True,
    r"so \(x. ": False,
    r"so \(x\). ": True,
    "\\[\nx\n": False,
    "\\[\nx\n\\]\n": True,
    "": False,
}


@pytest.mark.parametrize(("text", "expected"), BOUNDARIES.items(), ids=repr)
def test_boundaries_do_not_depend_on_how_the_text_is_cut(text: str, expected: bool) -> None:
    for cut in range(len(text) + 1):
        boundaries = Boundaries()
        boundaries.feed(text[:cut])
        assert boundaries.feed(text[cut:]) is expected
    letters = Boundaries()
    for letter in text:
        letters.feed(letter)
    assert letters.at_boundary is expected


LOOPS = {
    "a phrase": "wait, let me check that again " * 60,
    "a paragraph": "First I add 2 and 3. That gives 5. Then I double it, which gives 10. So it is 10. " * 20,
    "lines in turn": "\n".join(f"Is it {'ABCDE'[i % 5]}? No, not {'ABCDE'[i % 5]}." for i in range(90)),
    "one word": "the " * 600,
    "one character": "0" * 3000,
    "from a healthy start": " ".join(f"fact {i} holds" for i in range(200)) + " so on and on and on" * 80,
}
NO_LOOPS = {
    "counting": " ".join(f"Step {i}: add {i} to {i * i}, giving {i * i + i}." for i in range(300)),
    "a table": "| a | b | c | d |\n" + "\n".join(f"| {i} | {i * 7 % 50} | x | y |" for i in range(120)),
    "three times the same": "Let me check. " * 3 + " ".join(f"Case {i} gives {i * 3}." for i in range(200)),
    "zeros": "The number is 1" + "0" * 100 + " so it ends in 0.",
}


def observe_all(text: str) -> int | None:
    """Feed a text four characters per token, as a stream would, and say where LoopStop fires."""
    loop = LoopStop()
    seen = (progress(n, text[: 4 * n][-16384:]) for n in range(len(text) // 4 + 1))
    return next((p.reasoning_tokens for p in seen if loop.observe(p)), None)


@pytest.mark.parametrize("text", LOOPS.values(), ids=LOOPS)
def test_loops_are_found(text: str) -> None:
    fired = observe_all(text)
    assert fired is not None
    assert fired >= 256


@pytest.mark.parametrize("text", NO_LOOPS.values(), ids=NO_LOOPS)
def test_what_only_looks_alike_is_no_loop(text: str) -> None:
    assert observe_all(text) is None


@pytest.mark.parametrize("period", range(4, 65, 6))
def test_every_period_is_found_within_its_repeats(period: int) -> None:
    lead = " ".join(f"word{i}" for i in range(400))
    unit = " ".join(f"w{i * 37 % 101}" for i in range(period))
    text = f"{lead} " + " ".join([unit] * max(5, 280 // period + 2))
    assert observe_all(text) is not None
