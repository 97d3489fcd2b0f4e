"""Training: calibrated on questions it never saw, and judged on others again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from budgetctl.classifiers import calibrate, encoding, fit, habits, objectives, train
from budgetctl.classifiers.linear import LinearClassifier
from budgetctl.classifiers.metrics import auc, evaluate, spearman
from budgetctl.classifiers.targets import Example, Question, pool

from budgetctl.errors import ClassifierError
from budgetctl.types import Query

from .conftest import RECIPE

Recorded = dict[str, list[Example]]


def test_probabilities_mean_what_they_say(toy: LinearClassifier, recorded: Recorded) -> None:
    found = train.evaluate(toy, recorded["test"])
    assert abs(found["p_full"]["mean"] - found["accuracy_full"]) < 0.04
    assert abs(found["p_off"]["mean"] - found["accuracy_off"]) < 0.03
    assert found["p_off"]["auc"] > 0.98
    assert found["p_off"]["brier"] < 0.03


def test_quantiles_cover_their_share(toy: LinearClassifier, recorded: Recorded) -> None:
    found = train.evaluate(toy, recorded["test"])
    for name in ("settled", "natural"):
        assert found[name]["coverage"]["p90"] >= 0.87
        assert found[name]["coverage"]["p95"] >= 0.92
        assert found[name]["spearman"] > 0.9


def test_the_cap_at_p90_keeps_accuracy_and_saves_tokens(toy: LinearClassifier, recorded: Recorded) -> None:
    known = [e for e in recorded["test"] if e.settled is not None and e.natural is not None]
    caps = [toy.estimate(Query.from_text(e.text)).settled.p90 for e in known]
    assert np.mean([cap >= (e.settled or 0) for cap, e in zip(caps, known, strict=True)]) > 0.9
    used = sum(min(cap, e.natural or 0) for cap, e in zip(caps, known, strict=True))
    assert used < 0.75 * sum(e.natural or 0 for e in known)


def test_calibration_questions_are_taken_out_of_training(recorded: Recorded) -> None:
    leaking = recorded["train"][:200] + recorded["calibration"]
    classifier = train.train(
        leaking, recorded["calibration"], name="x", note="", created="", recipe=replace(RECIPE, epochs=1)
    )
    assert classifier.header.trained_on.questions == 200
    assert classifier.header.calibrated_on.questions == 500


def test_the_same_recipe_gives_the_same_weights(recorded: Recorded) -> None:
    short = replace(RECIPE, epochs=1)
    cubes = recorded["train"], recorded["calibration"]
    first, again = (train.train(*cubes, name="x", note="", created="", recipe=short) for _ in range(2))
    assert first.hash == again.hash


def test_too_few_questions_are_refused(recorded: Recorded) -> None:
    with pytest.raises(ClassifierError, match="calibration: 10 questions; at least 50 are needed"):
        train.train(recorded["train"], recorded["calibration"][:10], name="x", note="", created="")


def test_gradients_are_those_of_the_loss(recorded: Recorded) -> None:
    """Finite differences of the printed loss, on a smooth point of it, against the analytic gradient."""
    leveled = [replace(e, level=float(len(e.text) % 3)) for e in recorded["train"][:30]]
    asked = pool(leveled + [replace(e, off=None) for e in recorded["train"][30:40]])
    recipe = fit.Recipe(width=4, hidden=6, drop=0.0, min_count=2, level=0.5)
    encoded = encoding.encode(asked)
    known = encoding.vocabulary(encoded, size=recipe.vocabulary, min_count=recipe.min_count)
    x = encoding.inputs(encoded, known, encoding.Scaler.of(np.array([d for _, d in encoded])))
    y, rng = objectives.labels(asked, habits.fit(asked), ["look", "walk"]), np.random.default_rng(3)
    params = {k: v.astype(float) for k, v in fit.initial(x, y, recipe, rng).items()}
    grads = fit.gradients(params, x, y, np.arange(40), recipe, rng)

    def loss() -> float:
        out = fit.forward(params, x)
        p = fit.softmax(out[:, :4])
        allowed = np.array([[_allows(q, c) for c in _CLASSES] for q in asked])
        chance = (p * allowed).sum(axis=1)
        q = np.tile(fit.QUANTILES, 2)
        error = np.repeat(y.tokens, 4, axis=1) - out[:, 4:12]
        pinball = np.maximum(q * error, (q - 1) * error) * np.repeat(y.weights, 4, axis=1)
        kind = -np.log((fit.softmax(out[:, 12:-1]) * y.kinds).sum(axis=1))
        level = np.nan_to_num(0.5 * (out[:, -1] - y.level) ** 2)
        rest = recipe.pinball * pinball.sum(axis=1) + recipe.kind * kind + recipe.level * level
        return float((rest - np.log(chance)).mean())

    for name in ("heads", "hidden", "hidden_bias", "rows"):
        at = np.unravel_index(np.argmax(np.abs(grads[name])), grads[name].shape)
        params[name][at] += 1e-6
        above = loss()
        params[name][at] -= 2e-6
        below = loss()
        params[name][at] += 1e-6
        assert (above - below) / 2e-6 == pytest.approx(grads[name][at], rel=1e-3)


_CLASSES = ((True, True), (False, True), (True, False), (False, False))


def _allows(question: Question, outcome: tuple[bool, bool]) -> bool:
    off, full = outcome
    return question.full == full and question.off in (None, off)


def test_shares_of_known_outcomes_fix_the_classes_and_leave_the_rest_open() -> None:
    p, unknown = np.array([[0.4, 0.3, 0.1, 0.2]]), np.array([np.nan])
    off, full = np.array([0.25]), np.array([0.75])
    assert objectives.shares(p, off, full)[0] == pytest.approx([0.1875, 0.5625, 0.0625, 0.1875])
    assert objectives.shares(p, off, unknown)[0] == pytest.approx([0.2, 0.45, 0.05, 0.3])
    assert objectives.shares(p, unknown, np.array([1.0]))[0] == pytest.approx([4 / 7, 3 / 7, 0, 0])
    assert objectives.shares(p, unknown, unknown)[0] == pytest.approx(p[0])


def test_the_ridge_part_of_the_network_is_the_ridge_regression(recorded: Recorded) -> None:
    """Two hidden units say what the linear model says, for either sign."""
    asked = pool(recorded["train"][:300])
    recipe = replace(RECIPE, epochs=1, ridge=1.0)
    encoded = encoding.encode(asked)
    known = encoding.vocabulary(encoded, size=recipe.vocabulary, min_count=recipe.min_count)
    x = encoding.inputs(encoded, known, encoding.Scaler.of(np.array([d for _, d in encoded])))
    y = objectives.labels(asked, habits.fit(asked), ["look", "walk"])
    out = fit.forward(fit.fit(x, y, recipe), x)
    used = y.weights[:, 1] > 0
    assert np.corrcoef(out[used, 8], y.tokens[used, 1])[0, 1] > 0.8
    assert (out[used, 8] < 0).any()
    assert (out[used, 8] > 0).any()


def test_the_conformal_correction_is_the_next_order_statistic() -> None:
    assert calibrate.conformal(np.arange(1.0, 100.0), 0.9) == 91
    assert calibrate.conformal(np.arange(5.0), 0.95) == 4


def test_a_weighted_case_counts_for_several_in_the_correction() -> None:
    residual, weight = np.arange(100.0), np.ones(100)
    weight[:20] = 4.0
    whole = np.concatenate((np.repeat(residual[:20], 4), residual[20:]))
    for q in (0.5, 0.8, 0.9):
        assert calibrate.conformal(residual, q, weight) == pytest.approx(calibrate.conformal(whole, q), abs=2)


def test_metrics_by_hand() -> None:
    assert auc([0.1, 0.4, 0.4, 0.9], [False, False, True, True]) == pytest.approx(0.875)
    assert auc([0.5, 0.6], [True, True]) is None
    assert spearman([1, 2, 3, 4], [10, 20, 20, 40]) == pytest.approx(0.9487, abs=1e-4)
    assert spearman([1, 1], [1, 2]) is None


def test_metrics_that_nothing_is_known_of_are_none(toy: LinearClassifier, recorded: Recorded) -> None:
    blank = replace(recorded["test"][0], off=None, settled=None, natural=None)
    found = evaluate([toy.estimate(Query.from_text(blank.text))], [blank])
    assert found["accuracy_off"] is None
    assert found["p_off"] == {"auc": None, "brier": None, "mean": None}
    assert found["settled"]["coverage"]["p90"] is None
