"""Fits the network of :mod:`budgetctl.classifiers.linear` by minibatch Adam on sparse inputs.

Loss: log-likelihood of the four classes (a class that the recording leaves open is summed over), plus the
pinball loss (Koenker & Bassett 1978) of each quantile of the difficulty in log(1 + tokens) around the mean
of its kind, plus the squared error of the level that a source names, which only training looks at, plus the
kind. Kinds differ far more than the questions of one kind do; without their means the small differences are
learnt.

The class of a question is that of the majority of models: it carries the sign of the difference and not the
noise of who happened to be asked. Calibration then makes probabilities of single models out of it. A teacher
of boosted trees may soften it: what trees see in dense features, a small network finds only when told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from budgetctl.classifiers import teachers
from budgetctl.classifiers.encoding import Inputs
from budgetctl.classifiers.objectives import Labels, shares
from budgetctl.classifiers.readout import QUANTILES
from numpy.typing import NDArray

Array = NDArray[Any]
Params = dict[str, Array]

PARAMS = ("rows", "hidden", "hidden_bias", "heads", "heads_bias")
"""Names of the parameters."""

Progress = Callable[[int, int], None]
"""Called with the epochs done and all epochs."""


def quiet(done: int, total: int) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything about the fit that is chosen."""

    vocabulary: int = 8192
    min_count: int = 3
    width: int = 12
    hidden: int = 96
    epochs: int = 80
    batch: int = 256
    learning_rate: float = 4e-3
    decay: float = 1e-4
    copies: int = 0
    """Edited copies of every question; what is learnt then hangs less on how it is worded."""
    drop: float = 0.05
    bag_drop: float = 0.0
    """Share of questions that are shown without their n-grams, so that dense features stand on their own."""
    pinball: float = 3.0
    kind: float = 0.3
    level: float = 0.0
    ridge: float = 0.0
    """Share of a ridge regression in how questions of one kind differ in length."""
    ridge_penalty: float = 3.0
    teacher: float = 0.0
    """Share of boosted trees' opinion in who is right, as the network is told it."""
    seed: int = 0


@dataclass(slots=True)
class Adam:
    """Adam (Kingma & Ba 2015) with decoupled weight decay."""

    params: Params
    decay: float
    step: int = 0
    mean: Params = field(init=False)
    square: Params = field(init=False)

    def __post_init__(self) -> None:
        self.mean = {k: np.zeros_like(v) for k, v in self.params.items()}
        self.square = {k: np.zeros_like(v) for k, v in self.params.items()}

    def update(self, grads: Params, rate: float) -> None:
        """Take one step in place."""
        self.step += 1
        for name, grad in grads.items():
            mean, square, value = self.mean[name], self.square[name], self.params[name]
            mean += 0.1 * (grad - mean)
            square += 0.001 * (grad * grad - square)
            by = mean / (1 - 0.9**self.step) / (np.sqrt(square / (1 - 0.999**self.step)) + 1e-8)
            value -= rate * (by + self.decay * value * (value.ndim > 1))


def fit(x: Inputs, y: Labels, recipe: Recipe, *, progress: Progress = quiet) -> Params:
    """Return the network's parameters: ``rows hidden hidden_bias heads heads_bias``.

    ``x`` may hold the questions of ``y`` several times over, each time in other words: every batch shows one
    of them.
    """
    rng = np.random.default_rng(recipe.seed)
    n = len(y.off)
    opinion = partial(teachers.told, x.dense[:n], teacher=recipe.teacher, seed=recipe.seed)
    told = replace(y, off=opinion(y.off), full=opinion(y.full))
    params = initial(x, y, recipe, rng)
    adam = Adam(params, recipe.decay)
    steps = recipe.epochs * -(-n // recipe.batch)
    for epoch in range(recipe.epochs):
        order = rng.permutation(n)
        for at in range(0, n, recipe.batch):
            batch = order[at : at + recipe.batch]
            rate = recipe.learning_rate * 0.5 * (1 + np.cos(np.pi * adam.step / steps))
            adam.update(gradients(params, x, told, batch, recipe, rng), rate)
        progress(epoch + 1, recipe.epochs)
    kept = {name: _kept(params[name], 1.0 - recipe.ridge) for name in ("heads", "heads_bias")}
    if not recipe.ridge:
        return params | kept
    return teachers.with_ridge(params | kept, x, y, share=recipe.ridge, penalty=recipe.ridge_penalty)


def _kept(heads: Array, share: float) -> Array:
    """Return the outputs that are used: classes, quantiles around the mean of the kind, kinds.

    The median keeps ``share`` of the network's opinion, the quantiles their distances from it.
    """
    medians = np.repeat(heads[..., [4, 8]], len(QUANTILES), axis=-1)
    quantiles = heads[..., 4:12] - (1.0 - share) * medians
    return np.concatenate((heads[..., :4], quantiles, heads[..., 12:-1]), axis=-1)


def initial(x: Inputs, y: Labels, recipe: Recipe, rng: np.random.Generator) -> Params:
    wide = recipe.width + x.dense.shape[1]
    seen = [y.tokens[y.weights[:, i] > 0, i] for i in (0, 1)]
    start = [np.quantile(s, QUANTILES) if len(s) else np.zeros(len(QUANTILES)) for s in seen]
    return {
        "rows": rng.normal(0, 1 / np.sqrt(recipe.width), (x.bag.shape[1], recipe.width)),
        "hidden": rng.normal(0, np.sqrt(2 / wide), (wide, recipe.hidden)),
        "hidden_bias": np.zeros(recipe.hidden),
        "heads": rng.normal(0, 0.1 / np.sqrt(recipe.hidden), (recipe.hidden, 13 + y.kinds.shape[1])),
        "heads_bias": np.concatenate((np.zeros(4), *start, np.zeros(y.kinds.shape[1] + 1))),
    }


def gradients(
    p: Params, x: Inputs, y: Labels, batch: Array, recipe: Recipe, rng: np.random.Generator
) -> Params:
    n = len(y.off)
    shown = batch + n * rng.integers(len(x.dense) // n, size=len(batch))
    bag, dense = x.bag[shown], x.dense[shown]
    z = np.hstack((bag @ p["rows"], dense))
    keep = (rng.random(z.shape) >= recipe.drop) / (1 - recipe.drop)
    if recipe.bag_drop:
        keep[:, : recipe.width] *= rng.random((len(batch), 1)) >= recipe.bag_drop
    z = z * keep
    pre = z @ p["hidden"] + p["hidden_bias"]
    h = np.maximum(pre, 0)
    out = h @ p["heads"] + p["heads_bias"]
    chosen = softmax(out[:, :4])
    wanted = shares(chosen, y.off[batch], y.full[batch])
    level = out[:, -1] - y.level[batch]
    g = np.hstack(
        (
            y.weight[batch, None] * (chosen - wanted),
            recipe.pinball * _pinball_gradient(out[:, 4:12], y.tokens[batch], y.weights[batch]),
            recipe.kind * _class_gradient(out[:, 12:-1], y.kinds[batch]),
            recipe.level * np.where(np.isnan(level), 0.0, level)[:, None],
        )
    ) / len(batch)
    g_h = (g @ p["heads"].T) * (pre > 0)
    g_z = (g_h @ p["hidden"].T) * keep
    return {
        "heads": h.T @ g,
        "heads_bias": g.sum(axis=0),
        "hidden": z.T @ g_h,
        "hidden_bias": g_h.sum(axis=0),
        "rows": bag.T @ g_z[:, : recipe.width],
    }


def _class_gradient(logits: Array, allowed: Array) -> Array:
    """Gradient of -log(probability of the right class); 0 where none is."""
    p = softmax(logits)
    posterior = p * allowed
    total = posterior.sum(axis=1, keepdims=True)
    return np.asarray(np.where(total > 0, p - posterior / np.maximum(total, 1e-12), 0.0))


def _pinball_gradient(predicted: Array, tokens: Array, weights: Array) -> Array:
    q = np.tile(QUANTILES, 2)
    below = np.repeat(tokens, len(QUANTILES), axis=1) < predicted
    return np.asarray((below - q) * np.repeat(weights, len(QUANTILES), axis=1))


def softmax(logits: Array) -> Array:
    """Softmax over the last axis."""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def forward(p: Params, x: Inputs) -> Array:
    """Return the outputs of every question, before calibration: 4 classes, 2 x 4 quantiles, kinds."""
    z = np.hstack((x.bag @ p["rows"], x.dense))
    return np.asarray(np.maximum(z @ p["hidden"] + p["hidden_bias"], 0) @ p["heads"] + p["heads_bias"])
