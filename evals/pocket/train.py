"""Train the pocket reasoner from scratch: ``python -m budgetctl.evals.pocket.train --out DIR --seed 0``.

A run that was killed goes on from its last checkpoint and, on CPU, ends with the same weights bit for
bit. Two CPU cores need well under two hours.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from budgetctl.evals.pocket.muon import Muon
from budgetctl.evals.pocket.samples import CUT, EVEN, HARD, Sample, batches, samples
from budgetctl.evals.pocket.tokenizer import build
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One rise and fall of the learning rate."""

    tokens: int
    """Tokens to train on, prompts included, padding not."""
    rate: float
    hard: bool = False
    """Whether the families that are learned late come more often."""
    late: bool = False
    """Whether more of the cuts fall after the answer was first stated."""
    cut: float = CUT
    """Share of cut thinking."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Everything that decides the weights, besides the machine's arithmetic."""

    seed: int = 0
    stages: tuple[Stage, ...] = (
        Stage(tokens=5_000_000, rate=3e-3),
        Stage(tokens=2_500_000, rate=1.5e-3, hard=True),
        Stage(tokens=4_000_000, rate=1.5e-3, hard=True, late=True),
        Stage(tokens=2_000_000, rate=1e-3, hard=True, late=True, cut=0.66),
    )
    width: int = 96
    layers: int = 3
    inner: int = 256
    batch_tokens: int = 2048
    pool: int = 2048
    """Samples that are drawn, sorted by length and packed together."""
    checkpoint_every: int = 200


def make_model(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Qwen3ForCausalLM:
    """Return the untrained model of a recipe."""
    torch.manual_seed(recipe.seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.inner,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.width // 32,
        num_key_value_heads=recipe.width // 32,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=int(tokenizer.get_vocab()["<|im_end|>"]),
        pad_token_id=int(tokenizer.get_vocab()["<|endoftext|>"]),
    )
    return Qwen3ForCausalLM(config)


class Trainer:
    """The state of a run: model, optimizers, and how far it got."""

    def __init__(self, recipe: Recipe, *, device: str = "cpu") -> None:
        self.recipe, self.device = recipe, device
        self.tokenizer = build()
        self.model = make_model(recipe, self.tokenizer)
        torch.nn.Module.to(self.model, device)  # the override of transformers mistypes its argument
        matrices = [p for p in self.model.model.layers.parameters() if p.ndim == 2]
        others = [p for p in self.model.parameters() if all(p is not m for m in matrices)]
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=recipe.stages[0].rate),
            torch.optim.AdamW(others, lr=recipe.stages[0].rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.pool = self.batch = self.step = self.seen = 0
        self.drawn = 0  # the stage whose samples the current pool holds
        self.loss = math.nan
        self.seconds = 0.0

    @property
    def total(self) -> int:
        """Tokens of all stages."""
        return sum(stage.tokens for stage in self.recipe.stages)

    def _stage(self) -> tuple[int, float]:
        """Return the stage that the next step belongs to, and which share of it is done."""
        left = self.seen
        for i, stage in enumerate(self.recipe.stages):
            if left < stage.tokens:
                return i, left / stage.tokens
            left -= stage.tokens
        return len(self.recipe.stages) - 1, 1.0

    def _rate(self) -> float:
        # A short warm-up, then a cosine to one hundredth, once per stage.
        stage, done = self._stage()
        cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))
        return self.recipe.stages[stage].rate * min(1.0, done / 0.02 + 0.01) * cosine

    def learn(self, batch: list[Sample]) -> float:
        """Take one step on a batch; return its mean loss per learned token, in nats."""
        longest = max(len(sample.ids) for sample in batch)
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([s.ids + [pad] * (longest - len(s.ids)) for s in batch], device=self.device)
        learn = torch.tensor([s.learn + [False] * (longest - len(s.ids)) for s in batch], device=self.device)
        # Padding is on the right, where causal attention never looks back from.
        states = self.model.model(ids[:, :-1], use_cache=False).last_hidden_state
        chosen = learn[:, 1:]
        loss = cross_entropy(self.model.lm_head(states[chosen]), ids[:, 1:][chosen])
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        rate = self._rate()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.seen += sum(len(s.ids) for s in batch)
        self.step += 1
        return float(loss.detach())

    def run(self, out: Path, *, max_steps: int | None = None) -> bool:
        """Train to the end, or for ``max_steps`` more steps; return whether the run is complete."""
        last = self.step
        while self.seen < self.total:
            if not self.batch:
                self.drawn, _ = self._stage()
            recipe, stage = self.recipe, self.recipe.stages[self.drawn]
            drawn = samples(
                self.tokenizer,
                recipe.pool,
                seed=recipe.seed,
                pool=self.pool,
                shares=HARD if stage.hard else EVEN,
                late=stage.late,
                cut=stage.cut,
            )
            rng = random.Random(f"batches-{self.recipe.seed}-{self.pool}")
            for batch in list(batches(drawn, tokens=self.recipe.batch_tokens, rng=rng))[self.batch :]:
                began = time.perf_counter()
                loss = self.learn(batch)
                self.seconds += time.perf_counter() - began
                self.loss = loss if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * loss
                self.batch += 1
                if self.step % self.recipe.checkpoint_every == 0:
                    self.save(out)
                if self.step % 20 == 0:
                    self._progress()
                if self.seen >= self.total:
                    break
                if max_steps is not None and self.step - last >= max_steps:
                    return False
            else:
                self.pool, self.batch = self.pool + 1, 0
        return True

    def _progress(self) -> None:
        speed = self.seen / self.seconds
        eta = (self.total - self.seen) / speed / 60
        share = self.seen / self.total
        line = f"{share:4.0%} step {self.step} loss {self.loss:.4f} {speed:,.0f} tokens/s, {eta:.0f} min left"
        print(line, end="\r" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)

    def save(self, out: Path) -> None:
        """Write a checkpoint; a kill at any moment leaves the old one or the new one."""
        state: dict[str, Any] = {
            "recipe": repr(self.recipe),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": (self.pool, self.batch, self.step, self.seen, self.drawn, self.loss, self.seconds),
        }
        torch.save(state, out / f"{CHECKPOINT}.tmp")
        os.replace(out / f"{CHECKPOINT}.tmp", out / CHECKPOINT)

    def resume(self, out: Path) -> None:
        """Go on from the checkpoint in a folder, if there is one of the same recipe.

        Raises:
            ValueError: The checkpoint belongs to another recipe.
        """
        if not (out / CHECKPOINT).exists():
            return
        state = torch.load(out / CHECKPOINT, map_location=self.device, weights_only=True)
        if state["recipe"] != repr(self.recipe):
            raise ValueError(f"{out / CHECKPOINT} is of another recipe, {state['recipe']}; use another --out")
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.pool, self.batch, self.step, self.seen, self.drawn, self.loss, self.seconds = state["progress"]

    def export(self, out: Path) -> None:
        """Write the model folder that transformers and vLLM load."""
        self.model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]  # as above
            do_sample=False,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
            max_new_tokens=768,
        )
        staged = out / "staged"
        shutil.rmtree(staged, ignore_errors=True)
        self.model.save_pretrained(staged)
        self.tokenizer.save_pretrained(staged)
        # The class name that every version of transformers knows, older ones (and vLLM on them) too.
        config = json.loads((staged / "tokenizer_config.json").read_text(encoding="utf-8"))
        _write_json(
            staged / "tokenizer_config.json", {**config, "tokenizer_class": "PreTrainedTokenizerFast"}
        )
        facts = {
            **asdict(self.recipe),
            "parameters": self.model.num_parameters(),
            "steps": self.step,
            "tokens_seen": self.seen,
            "seconds": round(self.seconds),
            "device": torch.cuda.get_device_name() if self.device.startswith("cuda") else "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        _write_json(staged / "training.json", facts)
        for file in sorted(staged.iterdir()):
            os.replace(file, out / file.name)
        staged.rmdir()


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def train(out: Path, recipe: Recipe, *, device: str = "cpu") -> None:
    """Train or resume a recipe in a folder and leave the finished model there."""
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(recipe, device=device)
    trainer.resume(out)
    trainer.run(out)
    trainer.save(out)
    trainer.export(out)


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Train the pocket reasoner from scratch.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and the model")
    parser.add_argument("--seed", type=int, default=Recipe().seed)
    parser.add_argument("--tokens", type=int, help="train in one stage of so many tokens instead")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    stages = (Stage(tokens=args.tokens, rate=3e-3),) if args.tokens else Recipe().stages
    train(args.out, Recipe(seed=args.seed, stages=stages), device=args.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
