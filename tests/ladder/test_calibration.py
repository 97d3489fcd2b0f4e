"""From confidence to the probability of being right, on invented drafts whose probability is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from budgetctl.errors import ConfigError, NotEnoughEvidence
from budgetctl.ladder import Calibration, Confident, Draft
from budgetctl.types import Query


def graded(n: int, *, seed: int = 0) -> tuple[list[float], list[bool]]:
    """Overconfident drafts: right with the square of their confidence."""
    rng = np.random.default_rng(seed)
    confidence = rng.random(n)
    return list(map(float, confidence)), [bool(x) for x in rng.random(n) < confidence**2]


def test_the_map_finds_the_true_probabilities():
    known = Calibration.fit(*graded(2000))
    at = np.linspace(0.1, 0.95, 18)
    error = [abs(known(float(c)) - c**2) for c in at]
    assert max(error) < 0.12
    assert np.mean(error) < 0.04


def test_what_is_accepted_is_right_as_often_as_it_says():
    accept = Confident(0.8, Calibration.fit(*graded(400)))
    confidence, right = graded(20_000, seed=1)
    kept = [
        r
        for c, r in zip(confidence, right, strict=True)
        if accept.judge(
            Query.from_text("q"), Draft(rung=0, answer="a", finished=True, confidence=c), ()
        ).accepted
    ]
    assert np.mean(kept) > 0.78


def test_it_rises_and_stays_within_what_was_seen():
    known = Calibration.fit(*graded(300, seed=2))
    values = [known(c) for c in np.linspace(0, 1, 101).tolist()]
    assert values == sorted(values)
    assert 0 < values[0] <= values[-1] < 1


def test_a_small_pool_never_claims_certainty():
    assert Calibration.fit([0.5] * 20, [True] * 20)(0.9) == pytest.approx(21 / 22)


def test_a_file_gives_back_what_was_saved(tmp_path: Path):
    known = Calibration.fit(*graded(200))
    known.save(tmp_path / "drafts.json")
    assert Calibration.load(tmp_path / "drafts.json") == known
    assert str(Confident(0.9, known)) == f"confident:0.9@{known.hash}"


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"knots": [[0.5, 2]], "n": 9}', '{"knots": [[0.5, 0.5], [0.4, 0.6]], "n": 9}']
)
def test_a_file_that_is_no_map_is_refused(tmp_path: Path, text: str):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.json"):
        Calibration.load(tmp_path / "bad.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        Calibration.load(tmp_path / "none.json")


def test_a_few_drafts_are_not_enough():
    with pytest.raises(NotEnoughEvidence, match="needed: 20"):
        Calibration.fit(*graded(19))
    with pytest.raises(ConfigError, match="2 confidences for 1 grades"):
        Calibration.fit([0.1, 0.2], [True])


def test_rungs_may_have_maps_of_their_own():
    low, high = Calibration(knots=((0.5, 0.2),), n=20), Calibration(knots=((0.5, 0.95),), n=20)
    accept = Confident(0.9, [low, high])
    verdicts = [
        accept.judge(
            Query.from_text("q"), Draft(rung=i, answer="a", finished=True, confidence=0.5), ()
        ).accepted
        for i in (0, 1)
    ]
    assert verdicts == [False, True]
