"""Fits the network of :mod:`budgetctl.classifiers.linear` by minibatch Adam on sparse inputs.

Loss: log-likelihood of the four classes (a class that the recording leaves open is summed over) plus the
pinball loss (Koenker & Bassett 1978) of each quantile of log(1 + tokens).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from budgetctl.classifiers import features
from budgetctl.classifiers.linear import QUANTILES
from budgetctl.classifiers.targets import Example
from numpy.typing import NDArray

from budgetctl.types import Query

Array = NDArray[Any]
Params = dict[str, Array]

AT_ONCE_WEIGHT = 0.1
"""Weight, in the curve of ``settled``, of questions that need no thinking: near 0 where all are such."""


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
    drop: float = 0.05
    pinball: float = 3.0
    kind: float = 0.3
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Encoded questions: ``bag`` is a sparse matrix questions x known n-grams with rows of length 1."""

    bag: Any
    dense: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What the heads learn; ``classes`` marks the classes that the recording allows."""

    classes: Array
    tokens: Array
    """questions x 2: log(1 + tokens) of settled and natural, 0 where unknown."""
    weights: Array
    """questions x 2: 0 where unknown."""
    kinds: Array
    """questions x kinds: 1 for the kind it is; all 0 where that is not known from training."""


@dataclass(slots=True)
class Scaler:
    """How dense features are standardised, and the range in which they were seen."""

    centre: Array
    scale: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, dense: Array) -> Scaler:
        """Measure it on training questions; a feature that never varies there gets scale 1."""
        scale = dense.std(axis=0)
        return cls(
            dense.mean(axis=0), np.where(scale > 1e-6, scale, 1.0), dense.min(axis=0), dense.max(axis=0)
        )

    def __call__(self, dense: Array) -> Array:
        return (np.clip(dense, self.low, self.high) - self.centre) / self.scale


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


def encode(examples: Sequence[Example]) -> list[tuple[Array, Array]]:
    """Encode the questions, as the classifier will see them."""
    return [features.encode(Query.from_text(e.text, model=e.model)) for e in examples]


def vocabulary(encoded: Sequence[tuple[Array, Array]], recipe: Recipe) -> Array:
    """Return the sorted hashes of the n-grams that occur in the most questions."""
    counts: Counter[int] = Counter()
    for hashes, _ in encoded:
        counts.update(set(hashes.tolist()))
    common = [h for h, n in counts.most_common(recipe.vocabulary) if n >= recipe.min_count]
    return np.array(sorted(common), dtype=np.uint32)


def inputs(encoded: Sequence[tuple[Array, Array]], known: Array, scaler: Scaler) -> Inputs:
    """Return the matrices that the network reads."""
    from scipy.sparse import csr_matrix

    index, starts, values = [], [0], []
    for hashes, _ in encoded:
        at = np.searchsorted(known, hashes)
        at[at == len(known)] = 0
        rows = np.unique(at[known[at] == hashes])
        index.append(rows)
        starts.append(starts[-1] + len(rows))
        values.append(np.full(len(rows), 1 / np.sqrt(max(len(rows), 1)), dtype=np.float32))
    shape = (len(encoded), len(known))
    bag = csr_matrix((np.concatenate(values), np.concatenate(index), np.array(starts)), shape=shape)
    return Inputs(bag=bag, dense=scaler(np.array([d for _, d in encoded])).astype(np.float32))


def labels(examples: Sequence[Example], kinds: Sequence[str]) -> Labels:
    """Return targets and their weights; ``kinds`` are the kinds of question in training."""
    classes = np.array([[_allows(e, outcome) for outcome in _CLASSES] for e in examples])
    tokens = np.array([[np.log1p(e.settled or 0), np.log1p(e.natural or 0)] for e in examples])
    weights = np.array(
        [
            [0.0 if e.settled is None else 1.0 if e.helped else AT_ONCE_WEIGHT, float(e.natural is not None)]
            for e in examples
        ]
    )
    is_kind = np.array([[float(e.kind == kind) for kind in kinds] for e in examples])
    return Labels(classes=classes.astype(float), tokens=tokens, weights=weights, kinds=is_kind)


_CLASSES = ((True, True), (False, True), (True, False), (False, False))
"""(right without thinking, right with thinking), in the order of the class head."""


def _allows(example: Example, outcome: tuple[bool, bool]) -> bool:
    off, full = outcome
    return example.full == full and example.off in (None, off)


def fit(x: Inputs, y: Labels, recipe: Recipe) -> Params:
    """Return the network's parameters: ``rows hidden hidden_bias heads heads_bias``."""
    rng = np.random.default_rng(recipe.seed)
    params = _initial(x, y, recipe, rng)
    adam = Adam(params, recipe.decay)
    n = x.dense.shape[0]
    steps = recipe.epochs * -(-n // recipe.batch)
    for _ in range(recipe.epochs):
        order = rng.permutation(n)
        for at in range(0, n, recipe.batch):
            batch = order[at : at + recipe.batch]
            rate = recipe.learning_rate * 0.5 * (1 + np.cos(np.pi * adam.step / steps))
            adam.update(_gradients(params, x, y, batch, recipe, rng), rate)
    return params


def _initial(x: Inputs, y: Labels, recipe: Recipe, rng: np.random.Generator) -> Params:
    wide = recipe.width + x.dense.shape[1]
    seen = [y.tokens[y.weights[:, i] > 0, i] for i in (0, 1)]
    start = [np.quantile(s, QUANTILES) if len(s) else np.zeros(len(QUANTILES)) for s in seen]
    return {
        "rows": rng.normal(0, 1 / np.sqrt(recipe.width), (x.bag.shape[1], recipe.width)),
        "hidden": rng.normal(0, np.sqrt(2 / wide), (wide, recipe.hidden)),
        "hidden_bias": np.zeros(recipe.hidden),
        "heads": rng.normal(0, 0.1 / np.sqrt(recipe.hidden), (recipe.hidden, 12 + y.kinds.shape[1])),
        "heads_bias": np.concatenate((np.zeros(4), *start, np.zeros(y.kinds.shape[1]))),
    }


def _gradients(
    p: Params, x: Inputs, y: Labels, batch: Array, recipe: Recipe, rng: np.random.Generator
) -> Params:
    bag, dense = x.bag[batch], x.dense[batch]
    z = np.hstack((bag @ p["rows"], dense))
    keep = (rng.random(z.shape) >= recipe.drop) / (1 - recipe.drop)
    z = z * keep
    pre = z @ p["hidden"] + p["hidden_bias"]
    h = np.maximum(pre, 0)
    out = h @ p["heads"] + p["heads_bias"]
    g = np.hstack(
        (
            _class_gradient(out[:, :4], y.classes[batch]),
            recipe.pinball * _pinball_gradient(out[:, 4:12], y.tokens[batch], y.weights[batch]),
            recipe.kind * _class_gradient(out[:, 12:], y.kinds[batch]),
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
    """Gradient of -log(sum of the probabilities of the allowed classes); 0 where none is allowed."""
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
    """Return the twelve outputs of every question, before calibration."""
    z = np.hstack((x.bag @ p["rows"], x.dense))
    return np.asarray(np.maximum(z @ p["hidden"] + p["hidden_bias"], 0) @ p["heads"] + p["heads_bias"])
