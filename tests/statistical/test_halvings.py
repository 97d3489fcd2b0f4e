"""Certificates of one half of real recordings, judged on the other."""

from __future__ import annotations

import json
import os

import pytest
from budgetctl.evals import pocket
from budgetctl.evals.risk import halvings

DATA = os.environ.get("BUDGETCTL_DATA")
recorded = pytest.mark.skipif(DATA is None, reason="recordings of real models are not here (BUDGETCTL_DATA)")


def judged(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    code = halvings.main([*arguments, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == 0
    assert found["halvings"] == 200
    assert max(found["pool"], found["refuted"], found["above"]) <= found["most"]
    return found


def test_certificates_of_the_pocket_reasoner_hold_on_the_other_half(capsys: pytest.CaptureFixture[str]):
    path = str(pocket.path().parent / "test.jsonl.gz")
    found = judged(capsys, path, "--epsilon", "0.03", "--delta", "0.1")
    assert found["certified"] == 200
    assert found["saving_mean"] > 0.1


@recorded
@pytest.mark.parametrize("epsilon", ["0.05", "0.1", "0.15"])
def test_certificates_of_unselected_questions_hold_on_the_other_half(
    epsilon: str, capsys: pytest.CaptureFixture[str]
):
    cube = f"{DATA}/cubes/gemma4_truncation.jsonl.gz"
    found = judged(capsys, cube, "--dataset", "gemma4/gpqa_diamond/full198", "--epsilon", epsilon)
    if epsilon == "0.05":  # 53 questions cannot show that
        assert found["certified"] == 0
    else:
        assert found["certified"] > 100
        assert found["saving_mean"] > 0.1


@recorded
def test_certificates_of_all_coupled_questions_hold_by_cluster(capsys: pytest.CaptureFixture[str]):
    cube = f"{DATA}/cubes/gemma4_truncation.jsonl.gz"
    found = judged(capsys, cube, "--cluster-by", "cluster", "--epsilon", "0.1")
    assert found["units"] > 100
