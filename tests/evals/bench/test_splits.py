"""What is tested was never trained on: not the question, not the task type, not the model."""

from __future__ import annotations

from dataclasses import replace

import pytest
from budgetctl.classifiers.targets import Example, normalised, pool
from budgetctl.evals.bench.splits import SPLITS, Dealer, joined

from budgetctl.errors import NotEnoughEvidence

from .invented import MODELS, TASKS, examples

RECORDED = examples(480)


def texts(side: tuple[Example, ...]) -> set[str]:
    return {normalised(e.text) for e in side}


def dealt(split: str, recorded: list[Example] = RECORDED, *, seed: int = 0, folds: int = 3):
    return Dealer(recorded, seed=seed, folds=folds).parts(split)


@pytest.mark.parametrize("split", SPLITS)
def test_no_question_is_on_two_sides(split):
    for part in dealt(split):
        training, calibration, test = map(texts, (part.training, part.calibration, part.test))
        assert training and calibration and test  # noqa: PT018 - one claim: no side is empty
        assert not training & calibration
        assert not (training | calibration) & test
        assert (part.questions, part.held) == (len(training), len(calibration))


@pytest.mark.parametrize("split", ["random", "tasks"])
def test_every_question_is_tested_once(split):
    tested = [text for part in dealt(split) for text in texts(part.test)]
    assert sorted(tested) == sorted(texts(tuple(RECORDED)))


def test_the_task_types_that_are_tested_are_never_trained_or_calibrated_on():
    parts = dealt("tasks")
    for part in parts:
        seen = {e.task for e in (*part.training, *part.calibration)}
        assert not seen & {e.task for e in part.test}
    assert {e.task for part in parts for e in part.test} == set(TASKS)


def test_neither_models_nor_questions_of_the_models_split_are_trained_on():
    parts = dealt("models")
    for part in parts:
        seen = (*part.training, *part.calibration)
        assert not {e.model for e in seen} & {e.model for e in part.test}
        assert not texts(seen) & texts(part.test)
    assert {e.model for part in parts for e in part.test} == set(MODELS)
    tested = [text for part in parts for text in texts(part.test)]
    assert len(tested) == len(set(tested))


def test_examples_of_no_named_model_are_trained_on_but_do_not_test_unseen_models():
    unnamed = [replace(e, model="") for e in examples(480)[:: len(MODELS)]]
    for part in dealt("models", [*RECORDED, *unnamed]):
        assert "" in {e.model for e in part.training}
        assert "" not in {e.model for e in part.test}


def test_the_same_question_in_other_words_stays_on_one_side():
    """Same id, other wording; and same wording but for white space, other id."""
    reworded = [replace(e, text=f"Please: {e.text}") for e in RECORDED]
    spaced = [replace(e, text=e.text.replace(" ", "  "), question_id=f"x{e.question_id}") for e in RECORDED]
    for part in dealt("random", [*RECORDED, *reworded, *spaced]):
        bare = [
            {normalised(t).removeprefix("Please: ") for t in texts(side)}
            for side in (part.training, part.calibration, part.test)
        ]
        assert not bare[0] & bare[1]
        assert not (bare[0] | bare[1]) & bare[2]


def test_a_question_under_two_task_types_is_not_trained_on_while_one_of_them_is_tested():
    doubled = [*RECORDED, *(replace(e, task="puzzles/other") for e in RECORDED[:40])]
    for part in dealt("tasks", doubled):
        tested = {e.task for e in part.test if normalised(e.text) not in texts(tuple(RECORDED[:40]))}
        if "puzzles/other" in {e.task for e in part.test}:
            tested.add(next(e.task for e in part.test))
        assert not texts(part.training) & texts(part.test)
        assert not {e.task for e in part.training} & tested


def test_a_task_named_like_a_kind_covers_the_kind():
    """Lengths recorded for "sums" as a whole are lengths of the questions of sums_easy and sums_hard."""
    sums = [
        replace(e, kind="sums", task=("sums_easy", "sums_hard", "sums")[i % 3])
        for i, e in enumerate(examples(150, seed=1))
        if e.model == MODELS[0]
    ]
    sums = [replace(e, text=f"Sum {i}", question_id=f"sum/{i}") for i, e in enumerate(sums)]
    for part in dealt("tasks", [*RECORDED, *sums]):
        assert len({e.task for e in part.test if e.kind == "sums"}) in (0, 3)


def test_the_seed_decides_who_is_tested():
    first, again, other = (dealt("random", seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert texts(first[0].test) != texts(other[0].test)


@pytest.mark.parametrize("split", SPLITS)
def test_too_few_questions_are_refused_with_the_number_needed(split):
    with pytest.raises(NotEnoughEvidence, match="at least 50 are needed"):
        dealt(split, examples(60))


def test_one_task_type_or_model_cannot_be_split():
    with pytest.raises(NotEnoughEvidence, match="task types: seen 1; at least 2"):
        dealt("tasks", [replace(e, task="one") for e in RECORDED])
    with pytest.raises(NotEnoughEvidence, match="models: seen 1; at least 2"):
        dealt("models", [replace(e, model="one") for e in RECORDED])


def test_clusters_are_task_types_only_where_those_were_dealt():
    dealer = Dealer(RECORDED, seed=0, folds=3)
    questions = pool(RECORDED)
    assert {dealer.cluster(q, "tasks") for q in questions} == set(TASKS)
    assert len({dealer.cluster(q, "random") for q in questions}) == len(questions)


def test_links_join_names_however_indirectly():
    assert joined([("b", "c"), ("d", "e"), ("a", "c"), ("f", "f")]) == {
        "a": "a",
        "b": "a",
        "c": "a",
        "d": "d",
        "e": "d",
        "f": "f",
    }
