"""Models of scikit-learn that a network learns from, or that become part of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from budgetctl.classifiers.encoding import Inputs
from budgetctl.classifiers.objectives import Labels, majority
from numpy.typing import NDArray

Array = NDArray[Any]
Params = dict[str, Array]

RIDGE_BAG, RIDGE_DENSE = 2.0, 0.3
"""How inputs are scaled for the ridge regression: a larger scale is a smaller penalty."""

TEACHER_FOLDS = 5


def told(dense: Array, share: Array, *, teacher: float, seed: int) -> Array:
    """Return what the network is told of ``share``: its majority, mixed with a teacher's opinion of it.

    The teacher (Hinton et al. 2015) is boosted trees over the dense features; it judges only questions it was
    not fitted on, so what it adds is what carries over to others, and not what it has by heart. Folds are
    shuffled: recordings come task by task, and of a task that it never saw it would know nothing.
    """
    right = majority(share)
    known = ~np.isnan(right)
    fewest = min(np.count_nonzero(right == value) for value in (0.0, 1.0))
    if not teacher or fewest < TEACHER_FOLDS:
        return right
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    trees = HistGradientBoostingClassifier(max_iter=150, learning_rate=0.06, random_state=seed)
    folds = StratifiedKFold(TEACHER_FOLDS, shuffle=True, random_state=seed)
    chances = cross_val_predict(trees, dense[known], right[known] > 0, cv=folds, method="predict_proba")
    right[known] += teacher * (np.asarray(chances)[:, 1] - right[known])
    return right


def with_ridge(p: Params, x: Inputs, y: Labels, *, share: float, penalty: float) -> Params:
    """Let a ridge regression say its share of how questions of one kind differ in length.

    Lengths are known of few questions, which a network soon has by heart; a linear model has not (its rank
    correlation on unseen questions of a narrow kind was twice that of the network). It reads a question in
    all its words, each at an equal share of its weight. It becomes part of the network: one more column of
    the table, and two hidden units, since s = relu(s) - relu(-s).
    """
    from scipy.sparse import csr_matrix, hstack
    from sklearn.linear_model import Ridge

    copies = len(x.dense) // len(y.off)
    tokens, weights = np.tile(y.tokens[:, 1], copies), np.tile(y.weights[:, 1] / copies, copies)
    used = weights > 0
    if not used.any():
        return p  # nobody recorded a length
    inputs = hstack([RIDGE_BAG * x.bag[used], csr_matrix(RIDGE_DENSE * x.dense[used])]).tocsr()
    model = Ridge(alpha=penalty, solver="lsqr", tol=1e-6)
    model.fit(inputs, tokens[used], sample_weight=weights[used])
    words, width = x.bag.shape[1], p["rows"].shape[1]
    column, dense = RIDGE_BAG * model.coef_[:words], RIDGE_DENSE * model.coef_[words:]
    score = np.concatenate((np.zeros(width), [1.0], dense))[:, None]
    heads = np.zeros((2, p["heads"].shape[1]))
    heads[:, 4:12] = share * np.array([[1.0], [-1.0]])
    hidden = np.insert(p["hidden"], width, 0.0, axis=0)
    return {
        "rows": np.hstack((p["rows"], column[:, None])),
        "hidden": np.hstack((hidden, score, -score)),
        "hidden_bias": np.concatenate((p["hidden_bias"], [model.intercept_, -model.intercept_])),
        "heads": np.vstack((p["heads"], heads)),
        "heads_bias": p["heads_bias"],
    }
