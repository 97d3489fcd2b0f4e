"""What is known of the recordings of real models comes out of a replay of them."""

import json
import os
from pathlib import Path

import pytest
from budgetctl.evals import cube
from budgetctl.evals.bench.peers import PEERS

from budgetctl.cli import main

DATA = Path(os.environ.get("BUDGETCTL_DATA", "."), "cubes")

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="recordings of real models are not here (BUDGETCTL_DATA)"
)


def replayed(capsys, path, *arguments):
    code = main(["eval", "replay", str(path), *arguments, "--json"])
    content = json.loads(capsys.readouterr().out)
    return code, content, {row["policy"]: row for row in content["policies"] + content["baselines"]}


@pytest.mark.parametrize(
    ("name", "rows"), [("mip_gsm8k_math", 4837), ("lineage_bench", 3362), ("gemma4_truncation", 10_296)]
)
def test_every_row_is_read(name, rows, capsys):
    assert main(["cube", "check", str(DATA / f"{name}.jsonl.gz"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == rows


def test_gsm8k_by_a_model_that_thinks_one_that_does_not_and_whichever_is_cheaper_and_right(tmp_path, capsys):
    think, plain = "QwQ-32B", "Qwen2.5-32B-Instruct"
    rows = [
        row
        for row in cube.iterate(DATA / "mip_gsm8k_math.jsonl.gz")
        if row.dataset == "MiP-gsm8k" and row.model in (think, plain)
    ]
    # Two models under one name: the one that does not think is the other's answer without thinking.
    cube.write(tmp_path / "pair.jsonl", [row.model_copy(update={"model": "pair"}) for row in rows])
    _, _, found = replayed(capsys, tmp_path / "pair.jsonl", "--policies", "full,off", "--caps", "100000")
    seen = {name: (round(row["accuracy"], 3), round(row["tokens_mean"])) for name, row in found.items()}
    assert seen["full"] == (0.980, 1888)
    assert seen["off"] == (0.957, 245)
    assert seen["oracle"] == (0.985, 314)
    # All 582 questions of the source: .973 at 1,897, .955 at 246, .978 at 386; 399 of them are here.
    assert found["full"]["accuracy"] == pytest.approx(0.973, abs=0.01)
    assert found["off"]["tokens_mean"] == pytest.approx(246, rel=0.01)


def test_lineage_puzzles_get_longer_thoughts_until_a_model_is_out_of_its_depth(tmp_path, capsys):
    rows = [r for r in cube.iterate(DATA / "lineage_bench.jsonl.gz") if r.model == "minimax/minimax-m2"]
    spent, right = [], []
    for size in (8, 64, 128, 192):
        cube.write(tmp_path / "size.jsonl", [r for r in rows if r.level == size])
        _, _, found = replayed(capsys, tmp_path / "size.jsonl", "--policies", "full")
        spent.append(round(found["full"]["tokens_mean"]))
        right.append(round(found["full"]["accuracy"], 2))
    assert spent[0] < spent[1] < spent[3] < spent[2]
    assert right == [0.97, 0.71, 0.38, 0.17]


@pytest.mark.parametrize("name", ["mip_gsm8k_math", "lineage_bench"])
def test_without_cut_points_the_classifier_is_not_recommended_and_no_loss_is_claimed(name, capsys):
    code, content, found = replayed(capsys, DATA / f"{name}.jsonl.gz", "--policies", "full,quantile:0.9,auto")
    assert (code, content["recommended"]) == (1, None)
    assert "it has no cut points" in content["verdict"]
    assert found["quantile:0.9"]["lift_ci"][1] < 0
    assert found["auto"]["delta_ci"] == [0.0, 0.0]


def test_on_gemma_the_classifier_saves_little_shows_no_lift_and_is_not_recommended(capsys):
    code, content, found = replayed(
        capsys, DATA / "gemma4_truncation.jsonl.gz", "--policies", "full,off,quantile:0.9"
    )
    row = found["quantile:0.9"]
    assert (code, content["recommended"]) == (1, None)
    assert "no fixed budget passes, and quantile:0.9 shows no lift over one" in content["verdict"]
    assert row["token_saving"] == pytest.approx(0.015, abs=0.002)
    assert row["lift_ci"][0] < 0 < row["lift_ci"][1]


def laddered(capsys, name, rungs, *arguments):
    code = main(["eval", "ladder", str(DATA / f"{name}.jsonl.gz"), "--rungs", rungs, *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("score", ["prompt-length", "thinkbudget", "litellm"])
def test_on_gsm8k_no_rule_shows_that_it_beats_the_random_mix(score, capsys):
    if score in PEERS and not PEERS[score].installed:
        pytest.skip(f"needs {PEERS[score].package}")
    code, found = laddered(
        capsys,
        "mip_gsm8k_math",
        "Qwen2.5-32B-Instruct@off>QwQ-32B@full",
        *("--dataset", "MiP-gsm8k", "--score", score),
    )
    assert (code, found["n"]) == (1, 399)
    seen = {
        side: (round(found[side]["accuracy"], 3), round(found[side]["cost"])) for side in ("small", "large")
    }
    assert seen == {"small": (0.957, 245), "large": (0.980, 1888)}
    assert (round(found["oracle"]["accuracy"], 3), round(found["oracle"]["cost"])) == (0.985, 314)
    assert found["standings"]["share"]["oracle_apgr"] == pytest.approx(1.205, abs=0.001)
    assert "brings nothing here" in found["verdict"]


def test_on_gemma_confidence_in_a_short_thought_says_when_a_long_one_is_worth_it(capsys):
    model = "google/gemma-4-12B-it"
    code, found = laddered(
        capsys, "gemma4_truncation", f"{model}@cap:2000>{model}@full", "--score", "confidence"
    )
    assert (code, found["drafts"]) == (0, True)
    assert found["standings"]["cost"]["position"] == pytest.approx(0.24, abs=0.01)
    assert found["standings"]["cost"]["position_ci"][0] > 0
