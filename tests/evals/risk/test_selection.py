"""The walk along the family, and the path of a family with two dimensions."""

from __future__ import annotations

import numpy as np
import pytest
from budgetctl.evals.results import Result
from budgetctl.evals.risk.families import CAPS, RATES, members
from budgetctl.evals.risk.losses import losses
from budgetctl.evals.risk.selection import Walk, fixed_sequence, halve, split_path
from hypothesis import given
from hypothesis import strategies as st

from budgetctl.errors import EvalError
from budgetctl.policy import parse


@given(st.lists(st.floats(0, 1), max_size=20))
def test_the_walk_never_goes_beyond_its_first_failure(p_values: list[float]):
    walk = fixed_sequence(p_values, level=0.1)
    failures = [i for i, p in enumerate(p_values) if p > 0.1]
    passed = failures[0] if failures else len(p_values)
    assert walk.last == (passed - 1 if passed else None)
    assert walk.p_values == tuple(p_values[: passed + 1])


def test_what_lies_beyond_the_first_failure_is_not_even_computed():
    def p_values():
        yield 0.01
        yield 0.5
        raise AssertionError

    assert fixed_sequence(p_values(), level=0.1) == Walk((0.01, 0.5), 0)


def test_a_p_value_that_is_not_a_number_is_no_rejection():
    assert fixed_sequence([float("nan")], level=0.1).last is None


def test_the_path_leaves_out_what_is_beaten_and_goes_from_sure_to_unsure():
    mean_loss = np.array([0.02, 0.0, 0.05, 0.04])[:, None]
    tokens = np.array([50.0, 100.0, 20.0, 60.0])[:, None]
    assert split_path(mean_loss, tokens, lambda i: float(mean_loss[i, 0])) == [1, 0, 2]


def test_halves_are_disjoint_and_cover_everything():
    first, second = halve(7, rng=np.random.default_rng(0))
    assert sorted([*first, *second]) == list(range(7))
    assert (len(first), len(second)) == (3, 4)


@pytest.mark.parametrize("family", ["caps", "utility"])
@pytest.mark.parametrize("stop", ["none", "safe", "balanced"])
def test_families_are_named_policies_from_safe_to_cheap(family: str, stop: str):
    found = members(family, stop=stop, off=True)
    assert [str(parse(m.policy)) for m in found] == [m.policy for m in found]
    lambdas = [m.lambda_ for m in found]
    assert lambdas == sorted(set(lambdas))
    assert lambdas[0] > 0
    assert {getattr(parse(m.policy), "stop") for m in found} <= {stop, "none"}  # noqa: B009


def test_the_grids_are_fixed():
    assert (CAPS[0], CAPS[-1], len(CAPS)) == (131072, 32, 25)
    assert (RATES[0], RATES[-1], len(RATES)) == (0.001, 32.77, 31)
    assert [m.lambda_ for m in members("caps", stop="none", off=True)][-1] == 1


def result(
    question: str, correct: bool, *, sample: int = 0, answer: str | None = "a", cluster: str = "c"
) -> Result:
    return Result(
        question_id=question,
        correct=correct,
        sample=sample,
        answer=answer,
        cluster=cluster,
        reasoning_tokens=10 if correct else 5,
        output_tokens=20,
    )


FULL = [result("1", True), result("2", True, cluster="d"), result("3", False, cluster="d")]
CUT = [
    result("1", False, answer="b"),
    result("2", True, cluster="d"),
    result("3", True, answer="c", cluster="d"),
]


@pytest.mark.parametrize(
    ("loss", "expected", "test"),
    [
        ("accuracy", [1, 0, -1], "betting"),
        ("harm", [1, 0, 0], "binomial"),
        ("disagreement", [1, 0, 1], "binomial"),
    ],
)
def test_each_loss_is_what_it_says_and_at_least_as_large_as_the_one_before(loss, expected, test):
    table = losses(FULL, {"cap:5": CUT}, loss=loss)
    assert table.loss.tolist() == [expected]
    assert table.test == test
    assert table.saving(0) == pytest.approx(1 - 25 / 25)


def test_clusters_and_samples_are_averaged_into_one_unit():
    table = losses(FULL, {"cap:5": CUT}, loss="accuracy", cluster_by="cluster")
    assert table.loss.tolist() == [[1, -0.5]]
    two = [*FULL, result("1", True, sample=1)]
    cut = [*CUT, result("1", True, sample=1)]
    assert losses(two, {"cap:5": cut}, loss="harm").loss.tolist() == [[0.5, 0, 0]]
    assert losses(two, {"cap:5": cut}, loss="harm").test == "betting"


def test_new_names_for_clusters_change_nothing():
    names = {"c": "x", "d": "a"}
    renamed = [
        [Result(**{f: getattr(r, f) for f in r.__slots__} | {"cluster": names[r.cluster or ""]}) for r in run]
        for run in (FULL, CUT)
    ]
    before = losses(FULL, {"cap:5": CUT}, loss="accuracy", cluster_by="cluster")
    after = losses(renamed[0], {"cap:5": renamed[1]}, loss="accuracy", cluster_by="cluster")
    assert sorted(before.loss[0]) == sorted(after.loss[0])


def test_disagreement_needs_answers():
    with pytest.raises(EvalError, match="one was not recorded"):
        losses(
            FULL, {"cap:5": [result(r.question_id, r.correct, answer=None) for r in CUT]}, loss="disagreement"
        )
