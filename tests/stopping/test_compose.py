"""Criteria together: either, both, and the guards that soft evidence must pass."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from budgetctl.errors import ConfigError
from budgetctl.stopping import (
    MIN_THINK,
    AllOf,
    AnyOf,
    CloseMargin,
    Guarded,
    LowConfidence,
    ProbeLedger,
    ReasoningCap,
    Signal,
    TrialAnswer,
    preset,
    soft,
)
from budgetctl.stopping.compose import asks
from budgetctl.types import Evidence, Progress, StopReason, Trial


@dataclass
class Says:
    """A criterion that finds something at given token counts."""

    name: str
    at: set[int]
    hard: bool = False
    score: float = 1.0
    needs: frozenset[Signal] = frozenset()
    seen: list[int] = field(default_factory=list)

    def observe(self, progress: Progress) -> Evidence | None:
        self.seen.append(progress.reasoning_tokens)
        if progress.reasoning_tokens not in self.at:
            return None
        return Evidence(criterion=self.name, reason=StopReason.SETTLED, hard=self.hard, score=self.score)


def after(tokens: int, **shown: float) -> Progress:
    return Progress(reasoning_tokens=tokens, reasoning="", elapsed_s=0.0, at_boundary=True, **shown)  # type: ignore[arg-type]  # only floats are given


SURE = Trial(confidence=1.0, mass=1.0, answer="4")


def trial(tokens: int) -> Progress:
    return Progress(reasoning_tokens=tokens, reasoning="", elapsed_s=0.0, trial=SURE)


def test_any_of_prefers_hard_evidence_and_lets_everybody_look() -> None:
    weak, strong = Says("weak", {5}), Says("strong", {5}, hard=True)
    evidence = AnyOf(weak, strong).observe(after(5))
    assert evidence is not None
    assert evidence.criterion == "strong"
    assert weak.seen == strong.seen == [5]


def test_all_of_waits_for_every_part_within_its_window() -> None:
    both = AllOf(Says("a", {10}, score=0.9), Says("b", {30}, score=0.4), within=20)
    assert both.observe(after(10)) is None
    evidence = both.observe(after(30))
    assert evidence == Evidence(criterion="a&b", reason=StopReason.SETTLED, hard=False, score=0.4)
    late = AllOf(Says("a", {10}), Says("b", {31}), within=20)
    assert [late.observe(after(n)) for n in (10, 31)] == [None, None]
    assert AllOf().observe(after(1)) is None


def test_all_of_is_hard_only_where_all_its_evidence_is() -> None:
    for hard in (True, False):
        evidence = AllOf(Says("a", {1}, hard=True), Says("b", {1}, hard=hard)).observe(after(1))
        assert evidence is not None
        assert evidence.hard is hard


def test_operators_bind_as_in_arithmetic_and_names_say_so() -> None:
    a, b, c = CloseMargin(), TrialAnswer(confidence=1, mass=1), ReasoningCap(9)
    assert (a & b | c).name == "close_margin&trial_answer|reasoning_cap"
    assert ((a | b) & c).name == "(close_margin|trial_answer)&reasoning_cap"


def test_a_free_sign_gates_what_takes_a_probe() -> None:
    gated = CloseMargin(2.0, patience=1) & TrialAnswer(confidence=0.9, mass=0.1)
    gated.observe(after(100, close_margin=5.0))
    assert asks(gated, after(100)) == set()
    gated.observe(after(120, close_margin=1.0))
    assert asks(gated, after(120)) == {"trial"}
    assert gated.observe(trial(120)) is not None
    assert asks(gated, after(120 + gated.within + 1)) == set()


def test_a_criterion_of_ones_own_says_what_it_needs() -> None:
    assert asks(Says("own", set()), after(1)) == set()
    assert asks(Says("own", set(), needs=frozenset({"trial", "text"})), after(1)) == {"trial"}
    assert AnyOf(Says("own", set()), CloseMargin()).needs == {"close_margin"}


@pytest.mark.parametrize(("cap", "start"), [(None, MIN_THINK), (100, MIN_THINK), (1000, 150)])
def test_nothing_soft_counts_too_early(cap: int | None, start: int) -> None:
    guarded = Guarded(TrialAnswer(confidence=0.9, mass=0.1), cap=cap)
    assert [guarded.observe(trial(n)) is not None for n in (start - 1, start)] == [False, True]
    assert [bool(guarded.asks(after(n))) for n in (start - 1, start)] == [False, True]


def test_the_earliest_stop_suits_the_models_thoughts() -> None:
    assert Guarded(TrialAnswer(confidence=0.9, mass=0.1), min_think=8).observe(trial(8)) is not None


def test_doubt_vetoes_what_is_soft_and_its_probes_and_nothing_hard() -> None:
    guarded = Guarded(TrialAnswer(confidence=0.9, mass=0.1), ReasoningCap(500), LowConfidence(10.0, window=2))
    for n in (100, 101):
        guarded.observe(after(n, token_confidence=1.0))
    assert guarded.observe(trial(102)) is None
    assert guarded.asks(after(102)) == set()
    hard = guarded.observe(after(550))
    assert hard is not None
    assert hard.reason is StopReason.CAP
    for n in (103, 104):
        guarded.observe(after(n, token_confidence=30.0))
    assert guarded.observe(trial(105)) is not None


def test_presets_are_data_that_a_call_may_replace() -> None:
    table = {"close_margin": {"margin": 1.0, "patience": 1}, "low_confidence": {"bar": 9.0}, "min_think": 5}
    own = soft("balanced", presets={"balanced": table})
    assert own is not None
    assert (own.name, own.start) == ("close_margin|low_confidence", 5)
    assert own.observe(after(5, close_margin=1.0)) is not None
    both = soft("balanced", presets={"balanced": lambda: CloseMargin() & TrialAnswer(confidence=1, mass=1)})
    assert both is not None
    assert both.name == "close_margin&trial_answer"
    assert soft("balanced", presets={"aggressive": table}).name == "trial_answer"  # type: ignore[union-attr]  # balanced has some
    assert soft("safe") is None
    assert soft("balanced", presets={"balanced": {}}) is None


def test_a_factory_may_bring_its_own_guards() -> None:
    own = soft("balanced", cap=1000, presets={"balanced": lambda: Guarded(CloseMargin(), min_think=3)})
    assert own is not None
    assert own.start == 3


@pytest.mark.parametrize(
    ("presets", "message"),
    [
        ({"safe": {}}, "'safe' cannot be replaced; allowed are aggressive, balanced"),
        ({"balanced": {"close_margins": {}}}, "'close_margins' is no criterion; allowed are answer_agree"),
        ({"balanced": {"close_margin": {"tau": 1}}}, "close_margin: .*'tau'"),
        ({"balanced": {"answer_agreement": {"k": 1}}}, "seen k=1"),
        ({"balanced": {"close_margin": 2.0}}, "close_margin: .*seen 2.0"),
    ],
)
def test_what_a_table_gets_wrong_is_named(presets: dict[str, dict[str, object]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        soft("balanced", presets=presets)


def test_the_guard_of_a_preset_grows_with_the_cap() -> None:
    assert preset("balanced", cap=1000).observe(trial(149)) is None
    assert preset("balanced", cap=1000).observe(trial(150)) is not None


def test_probes_stay_within_their_share_and_back_off() -> None:
    ledger = ProbeLedger(gap=100)
    assert not ledger.affords(10, thought=99)
    assert ledger.affords(10, thought=100)
    ledger.charge(generated=10, prefilled=500)
    assert not ledger.affords(10, thought=199)
    assert ledger.due(thought=0)
    dues = []
    for thought in (100, 200, 350):
        ledger.in_vain(thought=thought)
        dues.append(next(n for n in range(1000) if ledger.due(thought=n)))
    assert dues == [200, 350, 575]
    assert (ledger.generated, ledger.prefilled) == (10, 500)
