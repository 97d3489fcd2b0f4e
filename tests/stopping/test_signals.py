"""Soft criteria one by one: what they take for evidence, and what they never do."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest

from budgetctl.stopping import AnswerAgreement, CloseMargin, Criterion, EntropyAfterThink, LowConfidence
from budgetctl.types import Evidence, Progress, StopReason, Trial


def at(
    tokens: int = 100,
    *,
    boundary: bool = True,
    margin: float | None = None,
    confidence: float | None = None,
    entropy: float | None = None,
    answer: str | None = None,
) -> Progress:
    return Progress(
        reasoning_tokens=tokens,
        reasoning="",
        elapsed_s=1.0,
        at_boundary=boundary,
        close_margin=margin,
        token_confidence=confidence,
        entropy_after=entropy,
        trial=None if answer is None else Trial(confidence=0.5, mass=1.0, answer=answer),
    )


def found(criterion: Criterion, points: Iterable[Progress]) -> list[bool]:
    return [criterion.observe(point) is not None for point in points]


def test_a_margin_counts_at_boundaries_in_a_row() -> None:
    margins = [1.9, 2.1, 1.9, 2.0, -0.5]
    assert found(CloseMargin(2.0, patience=2), [at(margin=m) for m in margins]) == [0, 0, 0, 1, 1]


def test_a_margin_inside_a_sentence_neither_counts_nor_breaks_a_run() -> None:
    points = [at(margin=0.0), at(margin=9.0, boundary=False), at(margin=0.0)]
    assert found(CloseMargin(2.0, patience=2), points) == [0, 0, 1]


def test_the_score_of_a_margin_is_how_much_less_likely_the_close_is() -> None:
    evidence = CloseMargin(2.0, patience=1).observe(at(margin=math.log(4)))
    assert evidence is not None
    assert (evidence.reason, evidence.hard) == (StopReason.SETTLED, False)
    assert evidence.score == pytest.approx(0.25)


def test_low_confidence_is_a_mean_over_a_full_window_and_never_evidence() -> None:
    criterion = LowConfidence(10.0, window=3)
    seen = []
    for value in (5.0, 5.0, 5.0, 20.0, 20.0, None):
        assert criterion.observe(at(confidence=value)) is None
        seen.append(criterion.low)
    assert seen == [False, False, True, False, False, False]


def test_entropy_settles_when_its_moving_variance_is_small_after_the_warm_up() -> None:
    still = [at(entropy=0.3) for _ in range(9)]
    assert found(EntropyAfterThink(0.5, delta=1e-6), still) == [0] * 7 + [1, 1]
    restless = [at(entropy=float(i % 2)) for i in range(40)]
    assert not any(found(EntropyAfterThink(0.5, delta=0.01), restless))


def test_the_variance_is_the_published_recursion() -> None:
    criterion = EntropyAfterThink(0.5, delta=0.05)
    readings = [1.0] * 7 + [2.0, 1.5, 1.5, 1.5]
    mean, variance, expected = 1.0, 0.0, []
    for n, entropy in enumerate(readings, start=1):
        mean = 0.5 * entropy + 0.5 * mean
        variance = 0.5 * (entropy - mean) ** 2 + 0.5 * variance
        expected.append(n >= 8 and variance < 0.05)
    assert found(criterion, [at(entropy=entropy) for entropy in readings]) == expected
    assert 0 < sum(expected) < 4  # the jump is seen, and forgotten


@pytest.mark.parametrize(
    ("answers", "agree"),
    [
        (["42", "42", "42"], True),
        (["\\boxed{42}", "$42$", "42."], True),
        (["Paris", "paris", " PARIS "], True),
        (["no", "No", "no."], True),
        (["1.5", "1.5", "15"], False),
        (["41", "42", "42"], False),
        (["", "", ""], False),
        (["42", "42", "wait, 42"], False),
        (["a denominator", "a denominator", "a denominator"], True),
        (["about Butte", "about Butte", "about Butte"], True),
        (["42 but maybe not", "42 but maybe not", "42 but maybe not"], False),
    ],
)
def test_answers_agree_when_the_same_thing_is_said_without_a_hedge(answers: list[str], agree: bool) -> None:
    assert found(AnswerAgreement(3), [at(answer=a) for a in answers])[-1] == agree


def test_a_trial_that_came_to_no_end_breaks_the_agreement() -> None:
    unfinished = Progress(
        reasoning_tokens=9, reasoning="", elapsed_s=0.0, trial=Trial(confidence=0.9, mass=0.0)
    )
    points = [at(answer="42"), unfinished, at(answer="42"), at(answer="42")]
    assert found(AnswerAgreement(2), points) == [0, 0, 0, 1]
    with pytest.raises(ValueError, match="k=1"):
        AnswerAgreement(1)


SOFT: list[Criterion] = [
    CloseMargin(1e9, patience=1),
    EntropyAfterThink(1.0, delta=1e9),
    AnswerAgreement(2),
    LowConfidence(-1e9),
]


@pytest.mark.parametrize("criterion", SOFT, ids=lambda c: c.name)
def test_what_the_engine_does_not_offer_is_never_evidence(criterion: Criterion) -> None:
    assert not any(found(criterion, [at(n) for n in range(20)]))


@pytest.mark.parametrize("criterion", SOFT, ids=lambda c: c.name)
def test_what_is_not_a_number_is_never_evidence(criterion: Criterion) -> None:
    nan = float("nan")
    points = [at(margin=nan, entropy=nan, confidence=nan) for _ in range(20)]
    assert not any(found(criterion, points))


def test_evidence_names_its_criterion() -> None:
    assert EntropyAfterThink(1.0, delta=2.0).observe(at(entropy=1.0)) is None
    criterion = AnswerAgreement(2)
    criterion.observe(at(answer="4"))
    assert criterion.observe(at(answer="4")) == Evidence(
        criterion="answer_agreement", reason=StopReason.SETTLED, hard=False
    )
