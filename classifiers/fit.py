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

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from budgetctl.classifiers import features
from budgetctl.classifiers.habits import Habits
from budgetctl.classifiers.readout import QUANTILES
from budgetctl.classifiers.targets import Example, Question
from numpy.typing import NDArray

from budgetctl.types import Query

Array = NDArray[Any]
Params = dict[str, Array]

Progress = Callable[[int, int], None]
"""Called with the epochs done and all epochs."""

SMALLEST_STD = 0.3
RIDGE_BAG, RIDGE_DENSE = 2.0, 0.3
"""How inputs are scaled for the ridge regression: a larger scale is a smaller penalty."""

TEACHER_FOLDS = 5

AT_ONCE_WEIGHT = 0.1
"""Weight, in the curve of ``settled``, of questions that need no thinking: near 0 where all are such."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Encoded questions: ``bag`` is a sparse matrix questions x known n-grams with rows of length 1."""

    bag: Any
    dense: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What the heads learn, one row per question.

    Attributes:
        off: Share of models right without thinking; NaN where unknown.
        full: Share of models right with thinking; NaN where unknown.
        tokens: questions x 2: how far settled and natural difficulty lie from the mean of their kind, in
            log(1 + tokens); 0 where unknown.
        weights: questions x 2: 0 where unknown, more for kinds whose questions differ little.
        centres: kinds x 2: the mean of each kind.
        kinds: questions x kinds: 1 for the kind it is; all 0 where that is not known from training.
        level: Named difficulty; NaN where unknown.
        weight: What each question counts, 1 on average; ``weights`` have it in them.
    """

    off: Array
    full: Array
    tokens: Array
    weights: Array
    centres: Array
    kinds: Array
    level: Array
    weight: Array


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


def encode(questions: Sequence[Question | Example]) -> list[tuple[Array, Array]]:
    """Encode the questions, as the classifier will see them; without its text a question has no n-grams."""
    return [_encoded(q) for q in questions]


def _encoded(question: Question | Example) -> tuple[Array, Array]:
    hashes, dense = features.encode(Query.from_text(question.text))
    if question.dense is not None:
        dense = np.array(question.dense)
    return hashes if question.text else hashes[:0], dense


def vocabulary(encoded: Sequence[tuple[Array, Array]], recipe: Recipe) -> Array:
    """Return the sorted hashes of the n-grams that occur in the most questions, at most one for each slot."""
    counts: Counter[int] = Counter()
    for hashes, _ in encoded:
        counts.update(set(hashes.tolist()))
    common: dict[int, int] = {}
    for n_gram, n in counts.most_common():
        if n < recipe.min_count or len(common) == recipe.vocabulary:
            break
        common.setdefault(n_gram >> int(features.SLOT_SHIFT), n_gram)
    return np.array(sorted(common.values()), dtype=np.uint32)


def inputs(encoded: Sequence[tuple[Array, Array]], known: Array, scaler: Scaler) -> Inputs:
    """Return the matrices that the network reads."""
    from scipy.sparse import csr_matrix

    index, starts, values = [], [0], []
    for hashes, _ in encoded:
        at = np.searchsorted(known, hashes)
        rows = np.unique(at[np.take(known, at, mode="clip") == hashes] if len(known) else at[:0])
        index.append(rows)
        starts.append(starts[-1] + len(rows))
        values.append(np.full(len(rows), 1 / np.sqrt(max(len(rows), 1)), dtype=np.float32))
    shape = (len(encoded), len(known))
    bag = csr_matrix((np.concatenate(values), np.concatenate(index), np.array(starts)), shape=shape)
    return Inputs(bag=bag, dense=scaler(np.array([d for _, d in encoded])).astype(np.float32))


def labels(questions: Sequence[Question], habits: Habits, kinds: Sequence[str]) -> Labels:
    """Return targets and their weights; ``kinds`` are the kinds of question in training."""
    tokens = np.stack([_floats(habits.difficulty(p) for p in pairs) for pairs in _pairs(questions)], axis=1)
    known = ~np.isnan(tokens)
    weight = _floats(q.weight for q in questions)
    weight /= weight.mean()
    weights = known * weight[:, None]
    weights[:, 0] *= [_settling_weight(q) for q in questions]
    is_kind = np.array([[float(q.kind == kind) for kind in kinds] for q in questions])
    centres = np.zeros((len(kinds), 2))
    for kind, target in np.ndindex(centres.shape):
        of_kind = is_kind[:, kind] > 0
        used = of_kind & known[:, target]
        values = tokens[used, target]
        if len(values):
            centres[kind, target] = np.average(values, weights=weight[used])
            weights[of_kind, target] /= max(float(values.std()), SMALLEST_STD)
        else:  # of a kind of unknown length nothing is known but what all questions are like
            centres[kind, target] = (
                np.nan_to_num(np.nanmean(tokens[:, target])) if known[:, target].any() else 0.0
            )
    return Labels(
        off=_floats(q.off for q in questions),
        full=_floats(q.full for q in questions),
        tokens=np.where(known, tokens - is_kind @ centres, 0.0),
        weights=weights,
        centres=centres,
        kinds=is_kind,
        level=_floats(q.level for q in questions),
        weight=weight,
    )


def _pairs(questions: Sequence[Question]) -> tuple[list[Any], list[Any]]:
    return [q.settled for q in questions], [q.natural for q in questions]


def _settling_weight(question: Question) -> float:
    if not question.settled:
        return 0.0
    return 1.0 if any(tokens > 0 for _, tokens in question.settled) else AT_ONCE_WEIGHT


def _floats(values: Iterable[float | None]) -> Array:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def shares(p: Array, off: Array, full: Array) -> Array:
    """Return what class probabilities ``p`` become once shares of right models are known (questions x 4).

    Classes are right in both ways, only with thinking, only without, in neither. Two known shares are taken
    for independent between models; of an unknown one the probabilities keep their own opinion.
    """
    right_off, right_full = p[:, [0, 2]].sum(axis=1), p[:, [0, 1]].sum(axis=1)
    both = np.stack([off * full, (1 - off) * full, off * (1 - full), (1 - off) * (1 - full)], axis=1)
    given_off = p * _scale(off, right_off, (0, 2))
    given_full = p * _scale(full, right_full, (0, 1))
    found = np.where(np.isnan(off)[:, None], np.where(np.isnan(full)[:, None], p, given_full), given_off)
    return np.asarray(np.where(np.isnan(off + full)[:, None], found, both))


def _scale(share: Array, probability: Array, right: tuple[int, int]) -> Array:
    """Return the factors that bring the classes ``right`` to a total of ``share``, the others to the rest."""
    factor = np.repeat(((1 - share) / np.maximum(1 - probability, 1e-12))[:, None], 4, axis=1)
    factor[:, list(right)] = (share / np.maximum(probability, 1e-12))[:, None]
    return factor


def majority(share: Array) -> Array:
    """Return 1 where at least half of the models are right, 0 where fewer are, NaN where unknown."""
    return np.where(np.isnan(share), np.nan, (share >= 0.5).astype(float))


def fit(x: Inputs, y: Labels, recipe: Recipe, *, progress: Progress = quiet) -> Params:
    """Return the network's parameters: ``rows hidden hidden_bias heads heads_bias``."""
    rng = np.random.default_rng(recipe.seed)
    told = replace(y, **{name: _told(x.dense, getattr(y, name), recipe) for name in ("off", "full")})
    params = _initial(x, y, recipe, rng)
    adam = Adam(params, recipe.decay)
    n = x.dense.shape[0]
    steps = recipe.epochs * -(-n // recipe.batch)
    for epoch in range(recipe.epochs):
        order = rng.permutation(n)
        for at in range(0, n, recipe.batch):
            batch = order[at : at + recipe.batch]
            rate = recipe.learning_rate * 0.5 * (1 + np.cos(np.pi * adam.step / steps))
            adam.update(_gradients(params, x, told, batch, recipe, rng), rate)
        progress(epoch + 1, recipe.epochs)
    kept = {name: _kept(params[name], 1.0 - recipe.ridge) for name in ("heads", "heads_bias")}
    return _with_ridge(params | kept, x, y, recipe) if recipe.ridge else params | kept


def _told(dense: Array, share: Array, recipe: Recipe) -> Array:
    """Return what the network is told of ``share``: its majority, mixed with a teacher's opinion of it.

    The teacher (Hinton et al. 2015) is boosted trees over the dense features; it judges only questions it was
    not fitted on, so what it adds is what carries over to others, and not what it has by heart. Folds are
    shuffled: recordings come task by task, and of a task that it never saw it would know nothing.
    """
    right = majority(share)
    known = ~np.isnan(right)
    fewest = min(np.count_nonzero(right == value) for value in (0.0, 1.0))
    if not recipe.teacher or fewest < TEACHER_FOLDS:
        return right
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    trees = HistGradientBoostingClassifier(max_iter=150, learning_rate=0.06, random_state=recipe.seed)
    folds = StratifiedKFold(TEACHER_FOLDS, shuffle=True, random_state=recipe.seed)
    chances = cross_val_predict(trees, dense[known], right[known] > 0, cv=folds, method="predict_proba")
    right[known] += recipe.teacher * (np.asarray(chances)[:, 1] - right[known])
    return right


def _kept(heads: Array, share: float) -> Array:
    """Return the outputs that are used: classes, quantiles around the mean of the kind, kinds.

    The median keeps ``share`` of the network's opinion, the quantiles their distances from it.
    """
    medians = np.repeat(heads[..., [4, 8]], len(QUANTILES), axis=-1)
    quantiles = heads[..., 4:12] - (1.0 - share) * medians
    return np.concatenate((heads[..., :4], quantiles, heads[..., 12:-1]), axis=-1)


def _with_ridge(p: Params, x: Inputs, y: Labels, recipe: Recipe) -> Params:
    """Let a ridge regression say its share of how questions of one kind differ in length.

    Lengths are known of few questions, which a network soon has by heart; a linear model has not (its rank
    correlation on unseen questions of a narrow kind was twice that of the network). It becomes part of the
    network: one more column of the table, and two hidden units, since s = relu(s) - relu(-s).
    """
    from scipy.sparse import csr_matrix, hstack
    from sklearn.linear_model import Ridge

    used = y.weights[:, 1] > 0
    inputs = hstack([RIDGE_BAG * x.bag[used], csr_matrix(RIDGE_DENSE * x.dense[used])]).tocsr()
    model = Ridge(alpha=recipe.ridge_penalty, solver="lsqr", tol=1e-6)
    model.fit(inputs, y.tokens[used, 1], sample_weight=y.weights[used, 1])
    words, width = x.bag.shape[1], recipe.width
    column, dense = RIDGE_BAG * model.coef_[:words], RIDGE_DENSE * model.coef_[words:]
    score = np.concatenate((np.zeros(width), [1.0], dense))[:, None]
    heads = np.zeros((2, p["heads"].shape[1]))
    heads[:, 4:12] = recipe.ridge * np.array([[1.0], [-1.0]])
    hidden = np.insert(p["hidden"], width, 0.0, axis=0)
    return {
        "rows": np.hstack((p["rows"], column[:, None])),
        "hidden": np.hstack((hidden, score, -score)),
        "hidden_bias": np.concatenate((p["hidden_bias"], [model.intercept_, -model.intercept_])),
        "heads": np.vstack((p["heads"], heads)),
        "heads_bias": p["heads_bias"],
    }


def _initial(x: Inputs, y: Labels, recipe: Recipe, rng: np.random.Generator) -> Params:
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


def _gradients(
    p: Params, x: Inputs, y: Labels, batch: Array, recipe: Recipe, rng: np.random.Generator
) -> Params:
    bag, dense = x.bag[batch], x.dense[batch]
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
