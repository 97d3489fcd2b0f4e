"""Training samples: full thinking, thinking cut anywhere, and no thinking at all."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from budgetctl.evals.pocket.questions import Worked, stream
from budgetctl.evals.pocket.tokenizer import CLOSE_TEXT, END_THINK, THINK, TRANSITION_CLOSE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CLOSES = (TRANSITION_CLOSE, TRANSITION_CLOSE, CLOSE_TEXT, f"{END_THINK}\n\n")
FULL, CUT = 0.3, 0.5
"""Shares of full and (usually) of cut thinking; the rest answers without thinking."""


EVEN: dict[str, int] = {}
HARD = {"days": 3, "savings": 2, "well": 2}
"""Shares of the families: all alike, and with more of those that are learned late."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Token ids, and for each whether the model learns to write it."""

    ids: list[int]
    learn: list[bool]


def _cut(worked: Worked, encode: dict[str, list[int]], rng: random.Random, *, late: bool) -> int:
    """Return where a thinking is cut: in half of the samples before its answer is first stated."""
    whole, first = len(encode[worked.thinking]), len(encode[worked.thinking.split("\n")[0]])
    if rng.random() < 0.5:
        return rng.randint(0, first)
    return rng.randint(first if late else 0, whole)


def _sample(
    worked: Worked, encode: dict[str, list[int]], rng: random.Random, *, late: bool, share: float
) -> Sample:
    thinking, answer, prompt = (
        encode[t] for t in (worked.thinking, worked.question.answer, worked.question.text)
    )
    kind = rng.random()
    if kind < FULL:
        parts = [(prompt, False), (encode[THINK] + thinking + encode[f"\n{END_THINK}\n\n"] + answer, True)]
    elif kind < FULL + share:
        cut = _cut(worked, encode, rng, late=late)
        close = encode[rng.choice(CLOSES)]
        # Where the cut falls is not the model's choice, so it does not learn to write the close.
        parts = [(prompt, False), (encode[THINK] + thinking[:cut], True), (close, False), (answer, True)]
    else:
        parts = [(prompt + encode[f"{THINK}\n\n{END_THINK}\n\n"], False), (answer, True)]
    return Sample(
        ids=[i for ids, _ in parts for i in ids], learn=[learn for ids, learn in parts for _ in ids]
    )


def samples(
    tokenizer: PreTrainedTokenizerBase,
    n: int,
    *,
    seed: int,
    pool: int,
    shares: Mapping[str, int] = EVEN,
    late: bool = False,
    cut: float = CUT,
) -> list[Sample]:
    """Return the ``pool``-th set of ``n`` training samples of a seed.

    Args:
        tokenizer: The pocket reasoner's.
        n: How many.
        seed: Of the training run.
        pool: Which set.
        shares: How often a family comes for once of the others.
        late: Whether the cuts that may fall anywhere fall after the first statement of the answer only.
        cut: Share of cut thinking; with ``FULL`` at most 1.
    """
    rng = random.Random(f"samples-{seed}-{pool}")
    worked = list(islice(stream("train", seed=seed * 1_000_003 + pool + 1, shares=shares), n))
    fixed = (THINK, f"\n{END_THINK}\n\n", f"{THINK}\n\n{END_THINK}\n\n", *CLOSES)
    texts: dict[str, str] = {text: text for text in fixed}
    for item in worked:
        system = (
            [{"role": "system", "content": "You are a helpful assistant."}] if rng.random() < 0.05 else []
        )
        turns = [*system, {"role": "user", "content": item.question.text}]
        chat = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns)
        texts[item.question.text] = f"{chat}<|im_start|>assistant\n"
        texts[item.thinking] = f"\n{item.thinking}"
        texts[item.thinking.split("\n")[0]] = f"\n{item.thinking.split(chr(10))[0]}"
        texts[item.question.answer] = f"The answer is {item.question.answer}.<|im_end|>"
    rows = tokenizer(list(texts.values()), add_special_tokens=False)["input_ids"]
    encode = dict(zip(texts, rows, strict=True))
    return [_sample(item, encode, rng, late=late, share=cut) for item in worked]


def batches(pool: list[Sample], *, tokens: int, rng: random.Random) -> Iterator[list[Sample]]:
    """Yield batches of about equal lengths, at most ``tokens`` tokens each with padding, in random order."""
    ordered = sorted(pool, key=lambda sample: len(sample.ids))
    packed: list[list[Sample]] = [[]]
    for sample in ordered:
        if packed[-1] and (len(packed[-1]) + 1) * len(sample.ids) > tokens:
            packed.append([])
        packed[-1].append(sample)
    rng.shuffle(packed)
    yield from packed
