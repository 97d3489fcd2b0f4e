"""Fine-tunes a sequence classifier of transformers on recorded outcomes.

The loss is that of :mod:`budgetctl.classifiers.fit`. The outputs are the logits plus a constant: 4 classes,
2 x 4 quantiles, kinds of traffic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from budgetctl.classifiers import fit, objectives
from budgetctl.classifiers.readout import QUANTILES
from budgetctl.classifiers.tokens import Reader
from numpy.typing import NDArray

Array = NDArray[Any]

WARMUP = 0.1
"""Share of the steps in which the learning rate rises; it then falls in a line to 0."""
DECAY = 0.01
CLIP_NORM = 1.0
MIXING = 0.3
"""Questions whose lengths differ by less than this share, either way, may meet in a batch."""
WEIGHTS = fit.Recipe()
"""The parts of the loss weigh as in the built-in classifier."""


@contextmanager
def torch_settings(*, seed: int, threads: int | None) -> Iterator[None]:
    """Seed torch and set its threads, and leave both as they were afterwards."""
    import torch

    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def constant(labels: objectives.Labels) -> Array:
    """Return what is added to the logits: for quantiles those of all questions, else 0."""
    offset = np.zeros(12 + labels.kinds.shape[1])
    for target in range(2):
        seen = labels.tokens[labels.weights[:, target] > 0, target]
        if len(seen):
            offset[4 + 4 * target : 8 + 4 * target] = np.quantile(seen, QUANTILES)
    return offset


def finetune(
    network: Any,
    reader: Reader,
    ids: Sequence[Sequence[int]],
    labels: objectives.Labels,
    *,
    offset: Array,
    epochs: int,
    batch: int,
    learning_rate: float,
    seed: int,
    progress: fit.Progress,
) -> None:
    """Fit the network in place by AdamW (Loshchilov & Hutter 2019), and leave it in evaluation mode.

    Args:
        network: A sequence classifier.
        reader: Makes its batches.
        ids: Token ids of the training questions.
        labels: What is to be learnt of them.
        offset: Added to the logits.
        epochs: Passes over the questions.
        batch: Questions per step.
        learning_rate: The highest one.
        seed: Of the order of the questions; dropout follows torch's own.
        progress: Called with the steps done and all steps.
    """
    import torch

    rng = np.random.default_rng(seed)
    start = torch.tensor(offset, dtype=torch.float32)
    steps = epochs * math.ceil(len(ids) / batch)
    adam = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=DECAY)
    rate = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: _rate(step, steps))
    network.train()
    done = 0
    for _ in range(epochs):
        for rows in _shuffled(ids, size=batch, rng=rng):
            logits = network(**reader.batch([ids[i] for i in rows])).logits
            loss = loss_of(logits + start, labels, rows)
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
            adam.step()
            rate.step()
            done += 1
            progress(done, steps)
    network.eval()


def _shuffled(ids: Sequence[Sequence[int]], *, size: int, rng: np.random.Generator) -> list[Array]:
    """Return all places in batches of roughly similar length, in random order.

    Roughly only: questions of one task are of one length, and a batch of one task teaches little.
    """
    order = np.argsort([len(row) * rng.uniform(1 - MIXING, 1 + MIXING) for row in ids])
    found = [order[at : at + size] for at in range(0, len(order), size)]
    return [found[i] for i in rng.permutation(len(found))]


def _rate(step: int, steps: int) -> float:
    """Return the learning rate before step ``step``, as a share of the highest."""
    warm = max(WARMUP * steps, 1.0)
    return min((step + 1) / warm, max(steps - step, 0) / max(steps - warm, 1.0), 1.0)


def loss_of(out: Any, labels: objectives.Labels, rows: Array) -> Any:
    """Return the mean loss of the questions ``rows``, of which ``out`` are the outputs (a tensor).

    The same parts as in :mod:`budgetctl.classifiers.fit`, but for the level.
    """
    import torch

    logs = torch.log_softmax(out[:, :4], dim=-1)
    opinion = logs.detach().exp().double().numpy()
    wanted = objectives.shares(
        opinion, objectives.majority(labels.off[rows]), objectives.majority(labels.full[rows])
    )
    classes = -_tensor(labels.weight[rows]) * (torch.from_numpy(wanted).float() * logs).sum(dim=-1)
    kinds = -(_tensor(labels.kinds[rows]) * torch.log_softmax(out[:, 12:], dim=-1)).sum(dim=-1)
    tokens = _tensor(labels.tokens[rows]).repeat_interleave(len(QUANTILES), dim=1)
    weights = _tensor(labels.weights[rows]).repeat_interleave(len(QUANTILES), dim=1)
    q = torch.tensor(QUANTILES).repeat(2)
    error = tokens - out[:, 4:12]
    pinball = (weights * torch.maximum(q * error, (q - 1) * error)).sum(dim=-1)
    return (classes + WEIGHTS.pinball * pinball + WEIGHTS.kind * kinds).mean()


def _tensor(values: Array) -> Any:
    import torch

    return torch.from_numpy(values).float()
