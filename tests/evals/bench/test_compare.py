"""The comparison as a whole: who is fitted on what, pooled over the parts, and written down."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from budgetctl.classifiers.targets import normalised
from budgetctl.evals.bench import table
from budgetctl.evals.bench.compare import CURVE, Comparison, as_they_are
from budgetctl.evals.bench.predictors import rules, trained_on
from budgetctl.evals.bench.resample import Bootstrap
from budgetctl.evals.bench.splits import SPLITS, Dealer

from budgetctl.errors import NotEnoughEvidence

from .invented import PERFECT, Made, examples, steps

BOOTSTRAP = Bootstrap(seed=0, resamples=20)
RECORDED = examples(480)


def compared(split, fitted, *, parts=None, curve=False, recorded=RECORDED):
    """Compare a classifier that ``fitted`` makes from a part; return the table and the progress."""
    seen: list[int] = []
    comparison = Comparison(
        Dealer(recorded, seed=0, folds=3),
        split,
        refits={"own": fitted},
        parts=parts,
        curve=curve,
    )
    found = comparison.run(rules(), BOOTSTRAP, advance=lambda n, what: seen.append(n))
    return found, sum(seen), comparison.work


def knows(part, progress):
    """Fit what knows exactly the questions it was trained and calibrated on."""
    known = {normalised(e.text) for e in (*part.training, *part.calibration)}
    progress(1, 2)
    progress(2, 2)
    return Made("own", lambda query: steps(query) if normalised(query.text) in known else 1.0)


def test_every_rule_has_a_row_beside_what_was_fitted():
    found, _, _ = compared("random", knows)
    assert [row.name for row in found.rows] == ["own", *(rule.name for rule in rules())]


@pytest.mark.parametrize("split", SPLITS)
def test_what_knows_its_training_questions_by_heart_knows_nothing_in_the_test(split):
    found, _, _ = compared(split, knows)
    assert found.rows[0].need_auc.value == 0.5
    assert found.rows[0].need_auc.n == found.questions


def test_the_first_parts_alone_are_a_part_of_the_questions():
    (one, done, work), (every, _, _) = (compared("random", knows, parts=parts) for parts in (1, None))
    assert (one.parts, every.parts) == (1, 3)
    assert 0 < one.questions < every.questions
    assert done == work


def test_all_training_questions_are_reported_as_done():
    _, done, work = compared("random", knows, curve=True, recorded=examples(900))
    assert done == work > 3 * 450


def test_the_learning_curve_grows_on_the_same_test_questions():
    sizes: list[set[str]] = []

    def fitted(part, progress):
        sizes.append({normalised(e.text) for e in part.training})
        return PERFECT

    found, _, _ = compared("random", fitted, curve=True, recorded=examples(900))
    assert [point.share for point in found.curve] == [*CURVE, 1.0]
    whole, *_, eighth, quarter, half = sizes
    assert eighth < quarter < half < whole
    assert [point.questions for point in found.curve] == [len(s) for s in (eighth, quarter, half, whole)]
    assert len({point.rows[0].need_auc.n for point in found.curve}) == 1


def test_a_learning_curve_of_too_few_questions_is_refused_before_anything_is_fitted():
    with pytest.raises(NotEnoughEvidence, match=r"a share of 0\.125 leaves"):
        compared("random", lambda part, progress: pytest.fail("fitted"), curve=True)


def test_nothing_to_judge_by_is_said():
    blank = [replace(e, off=None, natural=None, settled=None) for e in RECORDED]
    with pytest.raises(NotEnoughEvidence, match="nothing to judge by"):
        compared("random", knows, recorded=blank)
    with pytest.raises(NotEnoughEvidence, match="nothing to judge by"):
        as_they_are(blank, rules(), BOOTSTRAP)


def test_the_intervals_of_unseen_task_types_are_those_of_few_clusters():
    odd = Made("own", lambda query: 5.0 * (len(query.text) % 2))
    random, tasks = (compared(split, lambda part, progress: odd)[0] for split in ("random", "tasks"))
    assert random.rows[0].need_auc.value == tasks.rows[0].need_auc.value
    assert random.rows[0].need_auc.ci != tasks.rows[0].need_auc.ci


def test_the_text_holds_every_row_and_says_what_is_in_sample(tmp_path):
    found = as_they_are(RECORDED, [PERFECT, *rules()], BOOTSTRAP)
    text = table.render([found], in_sample={"perfect": ["made-up"], "odd": None, "heuristic": []})
    assert all(f"| {name} " in text for name in ("perfect", *(rule.name for rule in rules())))
    assert "perfect: IN-SAMPLE, its weights were made from made-up." in text
    assert "odd: the weights do not say" in text
    assert "heuristic: " not in text
    line = next(line for line in text.splitlines() if line.startswith("| perfect "))
    assert "1.000 [1.000, 1.000]" in line
    paths = table.write(text, {"splits": [found.as_json()]}, tmp_path / "new")
    assert paths["table"].read_text() == text
    assert json.loads(paths["json"].read_text())["splits"][0]["rows"][0]["name"] == "perfect"
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"table.md", "table.json"}


def test_weights_tell_what_they_were_made_from():
    from budgetctl.classifiers import load

    seen = trained_on(load("default"), ["gsm8k_test", "elsewhere"])
    assert seen == ["gsm8k_test"]
    assert trained_on(Made("own", steps), ["made-up"]) is None
    assert [trained_on(rule, ["made-up"]) for rule in rules()] == [[]] * len(rules())
