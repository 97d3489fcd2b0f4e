"""Calibration of given weights to a model that they do not know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from budgetctl.classifiers import encoding, recalibrate, train
from budgetctl.classifiers.linear import LinearClassifier
from budgetctl.classifiers.targets import Example

from budgetctl.errors import ClassifierError
from budgetctl.types import Query

Recorded = dict[str, list[Example]]
LONG = "Walker 321 goes from the lake past the hill to the mill. Where is she after 6 turns?"


def of_another_model(examples: list[Example]) -> list[Example]:
    """Outcomes of a model that thinks four times as long and answers every second question wrong."""
    rng = np.random.default_rng(0)
    return [
        replace(
            e,
            model="toy-2",
            off=None,
            settled=None,
            full=float(rng.random() < 0.5),
            natural=4 * (e.natural or 0) * rng.uniform(0.8, 1.25),
        )
        for e in examples
    ]


@pytest.fixture(scope="module")
def calibrated(toy: LinearClassifier, recorded: Recorded) -> LinearClassifier:
    examples = of_another_model(recorded["calibration"][:300])
    return recalibrate.recalibrate(toy, examples, name="mine", note="", created="")


def test_a_model_that_was_unknown_is_known(toy: LinearClassifier, calibrated: LinearClassifier) -> None:
    before, after = (c.estimate(Query.from_text(LONG, model="toy-2")) for c in (toy, calibrated))
    assert before.confidence < 0.3
    assert after.confidence > 0.9
    assert after.natural.p50 > 3 * before.natural.p50
    assert after.p_full == pytest.approx(0.5, abs=0.1)


def test_its_quantiles_cover_their_share(
    toy: LinearClassifier, calibrated: LinearClassifier, recorded: Recorded
) -> None:
    others = of_another_model(recorded["test"])
    assert train.evaluate(toy, others)["natural"]["coverage"]["p90"] < 0.5
    found = train.evaluate(calibrated, others)
    assert found["natural"]["coverage"]["p90"] == pytest.approx(0.9, abs=0.05)
    assert found["natural"]["spearman"] > 0.9
    assert abs(found["p_full"]["mean"] - found["accuracy_full"]) < 0.08


def test_the_network_stays_and_so_does_what_is_said_of_foreign_models(
    toy: LinearClassifier, calibrated: LinearClassifier
) -> None:
    for name in ("known", "rows", "hidden", "heads", "foreign_shift", "kind_centre", "familiar"):
        assert np.array_equal(toy.arrays[name], calibrated.arrays[name])
    before, after = (c.estimate(Query.from_text(LONG, model="gpt-9")) for c in (toy, calibrated))
    assert after.natural == before.natural
    assert calibrated.models == ("toy-1", "toy-2")


def test_settled_quantiles_above_all_that_was_seen_are_lowered(
    toy: LinearClassifier, recorded: Recorded
) -> None:
    """A log tells only when thinking ended; natural quantiles are never below settled ones."""
    shift = toy.arrays["shift"].copy()
    shift[:, 0] += 40
    header = replace(toy.header, name="late")
    late = LinearClassifier(header, {**toy.arrays, "shift": shift})
    examples, others = (of_another_model(recorded[split]) for split in ("calibration", "test"))
    made = recalibrate.recalibrate(late, examples, name="x", note="", created="")
    found = train.evaluate(made, others)["natural"]["coverage"]
    assert found["p50"] == pytest.approx(0.5, abs=0.12)
    assert found["p90"] == pytest.approx(0.9, abs=0.06)


def test_few_outcomes_move_little(toy: LinearClassifier, recorded: Recorded) -> None:
    """Five outcomes of a known model are half of what its habit is made of, and less of all else."""
    few = [replace(e, model="toy-1") for e in of_another_model(recorded["calibration"][:5])]
    moved = recalibrate.recalibrate(toy, few, name="x", note="", created="")
    habit = moved.arrays["habits"][0] - toy.arrays["habits"][0]
    assert habit == pytest.approx(np.log(4) / 2, abs=0.2)
    assert np.array_equal(moved.arrays["shift"], toy.arrays["shift"])


def test_a_kind_that_the_outcomes_never_show_keeps_its_calibration(
    toy: LinearClassifier, recorded: Recorded
) -> None:
    walks = [e for e in recorded["calibration"] if e.kind == "walk"]
    made = recalibrate.recalibrate(toy, of_another_model(walks), name="x", note="", created="")
    look, walk = 0, 1
    for name in ("temperature", "class_bias", "shift"):
        before, after = toy.arrays[name], made.arrays[name]
        assert after[look] == pytest.approx(before[look])
        assert not np.array_equal(after[walk], before[walk])


def test_a_network_of_n_grams_reads_only_calls_with_their_text(
    toy: LinearClassifier, recorded: Recorded
) -> None:
    texts = recorded["test"][:2]
    blank = replace(texts[0], text="", dense=tuple(encoding.encode(texts)[0][1].tolist()))
    assert recalibrate.readable(toy, [*texts, blank]) == texts


def test_weights_of_another_kind_are_refused() -> None:
    with pytest.raises(ClassifierError, match="heuristic: only the built-in kind of weights"):
        recalibrate.base("heuristic")
