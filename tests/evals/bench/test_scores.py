"""Figures of predictors whose figures are known: a perfect one, a constant one, a half-blind one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from budgetctl.classifiers import metrics
from budgetctl.classifiers.targets import pool
from budgetctl.evals.bench.predictors import answer
from budgetctl.evals.bench.resample import Bootstrap, Figure
from budgetctl.evals.bench.scores import needs, row

from .invented import CONSTANT, MODELS, PERFECT, Made, examples, steps

BOOTSTRAP = Bootstrap(seed=0, resamples=50)
QUESTIONS = pool(examples(120))


def scored(predictor, questions=QUESTIONS, bootstrap=BOOTSTRAP):
    return row(predictor.name, [answer(predictor, q, cluster=q.text) for q in questions], bootstrap)


def test_a_perfect_predictor_has_perfect_figures():
    found = scored(PERFECT)
    assert found.need_auc == Figure(value=1.0, n=120, ci=(1.0, 1.0))
    assert found.need_product_auc is not None
    assert found.need_product_auc.value == 1.0
    assert found.need_brier is not None
    assert found.need_brier.value == 0.0
    assert found.spearman["puzzles"].value == pytest.approx(1.0, abs=0.01)
    # Models need 1.0 to 1.3 times what is expected: p80 is 1.2 and p90 1.35 times that.
    assert found.coverage["named"]["p80"].value == pytest.approx(3 / 4, abs=0.01)
    assert found.coverage["named"]["p90"].value == 1.0
    assert found.settled_coverage["unnamed"]["p90"].value == 1.0
    assert found.coverage["named"]["p80"].n == 120 * len(MODELS)


def test_a_constant_predictor_knows_nothing():
    found = scored(CONSTANT)
    assert found.need_auc == Figure(value=0.5, n=120, ci=(0.5, 0.5))
    assert found.need_brier is not None
    # It says 1 for everybody, so its loss is the share that need no thinking.
    assert found.need_brier.value == pytest.approx(1 - (found.need_share.value or 0))
    assert found.spearman["puzzles"] == Figure(value=None, n=120)


def test_pinball_is_the_mean_over_the_quantiles():
    found = scored(CONSTANT)
    pairs = [(CONSTANT.estimate(_query(q)).natural, t) for q in QUESTIONS for _, t in q.natural]
    assert found.pinball["p90"].value == metrics.pinball(pairs, 0.9)
    parts = [figure.value for name, figure in found.pinball.items() if name != "mean"]
    assert found.pinball["mean"].value == pytest.approx(np.mean(parts))


def _query(question):
    from budgetctl.types import Query

    return Query.from_text(question.text)


def test_only_thinking_solves_what_most_models_get_wrong_without_and_right_with_it():
    base = QUESTIONS[0]
    cases = {(0.4, 0.5): True, (0.5, 0.9): False, (0.0, 0.4): False, (None, 1.0): None, (0.0, None): None}
    for (off, full), expected in cases.items():
        assert needs(replace(base, off=off, full=full)) is expected


def test_what_is_not_known_is_none_and_never_zero():
    blank = [replace(q, off=None, natural=(), settled=()) for q in QUESTIONS]
    found = scored(PERFECT, blank)
    assert found.need_auc == Figure(value=None, n=0)
    assert found.need_brier == Figure(value=None, n=0)
    assert found.need_share == Figure(value=None, n=0)
    assert found.spearman == {}
    assert found.pinball["mean"] == Figure(value=None, n=0)
    assert found.coverage["named"]["p90"] == Figure(value=None, n=0)
    assert {point.kept for point in found.abstention} == {None}


def test_a_rule_has_an_order_and_no_probabilities():
    from budgetctl.evals.bench.peers import PROMPT_LENGTH

    found = scored(PROMPT_LENGTH)
    assert found.is_rule
    assert found.need_auc.value is not None
    assert (found.need_brier, found.need_product_auc, found.abstained) == (None, None, None)
    assert (found.pinball, found.coverage, found.settled_coverage, found.abstention) == ({}, {}, {}, ())


def test_lengths_are_compared_question_by_question_whoever_was_asked():
    """Every second question was put to a model that thinks a hundred times as long."""
    uneven = [
        replace(
            q,
            natural=tuple((f"{m}-{i % 2}", t * (100 if i % 2 else 1)) for m, t in q.natural),
        )
        for i, q in enumerate(QUESTIONS)
    ]
    assert (scored(PERFECT, uneven).spearman["puzzles"].value or 0) > 0.9


def test_the_most_confident_questions_are_judged_by_themselves():
    """Sure of the hard questions and right about them; unsure of the others and wrong about some."""

    def length(query):
        return steps(query) if steps(query) > 1 else 5.0 * (len(query.text) % 2)

    unsure = Made("half", length, confidence=lambda query: 0.9 if steps(query) > 1 else 0.1)
    found = scored(unsure)
    hard = sum(bool(needs(q)) for q in QUESTIONS) / len(QUESTIONS)
    assert found.abstained is not None
    assert found.abstained.value == pytest.approx(1 - hard)
    whole, sure = found.abstention[0], found.abstention[-1]
    assert (whole.share, whole.kept) == (1.0, 1.0)
    assert sure.kept == pytest.approx(hard)  # all that are as sure as the surest fifth
    assert (whole.need_brier.value or 0) > 0.1
    assert sure.need_brier.value == 0.0
    assert whole.p90.n == 120 * len(MODELS)
    assert sure.p90.n == round(120 * hard) * len(MODELS)


def test_figures_by_source():
    mixed = [replace(q, kind=("a/x", "a/y", "b")[i % 3]) for i, q in enumerate(QUESTIONS)]
    found = scored(PERFECT, mixed)
    assert {name: figure.n for name, figure in found.need_auc_by_source.items()} == {"a": 80, "b": 40}
    assert set(found.spearman) == set(found.coverage_by_source) == {"a", "b"}


def test_figures_within_parts_do_not_rank_answers_of_different_fits_together():
    """Two fits that order their own questions perfectly, on scales that have nothing in common."""
    answers = [
        replace(a, part=i % 2, score=a.score + 10 * (i % 2), length=a.length * 1000 ** (i % 2))
        for i, a in enumerate(answer(PERFECT, q, cluster=q.text) for q in QUESTIONS)
    ]
    found = row("two", answers, BOOTSTRAP)
    assert (found.need_auc.value or 0) < 0.9
    assert (found.spearman["puzzles"].value or 0) < 0.9
    assert found.within_parts["need_auc"] == Figure(value=1.0, n=120)
    assert found.within_parts["spearman"]["puzzles"].value == pytest.approx(1.0, abs=0.01)


def test_too_few_questions_are_not_ranked():
    assert scored(PERFECT, QUESTIONS[:19]).spearman["puzzles"] == Figure(value=None, n=19)
    assert scored(PERFECT, QUESTIONS[:20]).spearman["puzzles"].value is not None


def test_the_bootstrap_is_the_same_for_the_same_seed():
    clusters = [str(i) for i in range(40)]
    values = np.arange(40.0) % 7

    def drawn(seed):
        return Bootstrap(seed=seed, resamples=200).figure(lambda rows: float(values[rows].mean()), clusters)

    assert drawn(3) == drawn(3)
    assert drawn(3).ci != drawn(4).ci
    assert drawn(3).value == drawn(4).value == values.mean()


def test_clusters_are_drawn_whole_and_widen_the_interval():
    values = np.repeat([0.0, 1.0], 50)
    single = Bootstrap(seed=0, resamples=1000).share(values, [str(i) for i in range(100)])
    paired = Bootstrap(seed=0, resamples=1000).share(values, [str(i // 25) for i in range(100)])
    assert single.ci is not None
    assert paired.ci is not None
    assert single.ci == pytest.approx((0.4, 0.6), abs=0.02)
    assert paired.ci == (0.0, 1.0)


def test_a_share_of_all_is_only_as_sure_as_its_clusters_allow():
    found = Bootstrap(seed=0, resamples=1000).share([True] * 30, [str(i) for i in range(30)])
    assert found.value == 1.0
    assert found.ci == (pytest.approx(1 - (1 - 0.025 ** (1 / 30))), 1.0)


def test_one_cluster_has_no_interval():
    assert Bootstrap(seed=0, resamples=1000).share([True, False], ["one", "one"]) == Figure(value=0.5, n=2)


def test_a_row_is_plain_json():
    found = scored(PERFECT).as_json()
    assert found["need_auc"] == {"value": 1.0, "n": 120, "ci": [1.0, 1.0]}
    assert found["abstention"][0]["p90"]["n"] == 480
    assert found["is_rule"] is False
