# ruff: noqa: E402 -- what needs torch or transformers is imported after the check that they are there
"""Training: what is learned, and runs that are killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from budgetctl.evals.pocket import load
from budgetctl.evals.pocket.muon import orthogonalize
from budgetctl.evals.pocket.samples import samples
from budgetctl.evals.pocket.tokenizer import build
from budgetctl.evals.pocket.train import Recipe, Stage, Trainer, train

TINY = Recipe(
    stages=(Stage(tokens=12_000, rate=3e-3), Stage(tokens=8_000, rate=1e-3, hard=True, late=True)),
    width=32,
    layers=1,
    inner=32,
    batch_tokens=1024,
    pool=48,
    checkpoint_every=5,
)


def same(a: Path, b: Path) -> bool:
    left, right = load(folder=a)[0].state_dict(), load(folder=b)[0].state_dict()
    return all(torch.equal(left[name], right[name]) for name in left)


def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(whole, TINY)
    killed.mkdir()
    Trainer(TINY).run(killed, max_steps=8)  # the checkpoint is three steps older than the kill
    train(killed, TINY)
    assert same(whole, killed)


def test_another_seed_gives_another_model(tmp_path: Path) -> None:
    for seed in (0, 1):
        train(tmp_path / str(seed), replace(TINY, seed=seed, stages=(Stage(tokens=2000, rate=3e-3),)))
    assert not same(tmp_path / "0", tmp_path / "1")


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    Trainer(TINY).save(tmp_path)
    with pytest.raises(ValueError, match="another recipe"):
        Trainer(Recipe(seed=7)).resume(tmp_path)


def test_the_prompt_and_a_forced_close_are_not_learned() -> None:
    tokenizer = build()
    shut, end = tokenizer.convert_tokens_to_ids(["</think>", "<|im_end|>"])
    kinds = set()
    for sample in samples(tokenizer, 200, seed=0, pool=0):
        closed = sample.ids.index(shut)
        natural = sample.learn[closed]
        kinds.add(natural)
        assert not sample.learn[0]
        assert sample.learn[-1]
        assert sample.ids[-1] == end
        written = [tokenizer.decode([i]) for i, learn in zip(sample.ids, sample.learn, strict=True) if learn]
        assert ("</think>" in written) == natural
    assert kinds == {True, False}


def test_newton_schulz_brings_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((2, 24, 8), (2, 8, 24)):
        values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.5


def test_the_rate_falls_within_a_stage_and_rises_with_the_next() -> None:
    trainer = Trainer(TINY)
    rates = {}
    for trainer.seen in (3000, 11_900, 13_000, 19_900):
        rates[trainer.seen] = trainer._rate()
    assert rates[3000] > rates[13_000] > rates[11_900] > 0
    assert rates[13_000] > rates[19_900] > 0
