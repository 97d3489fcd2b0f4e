"""What a trained classifier says, and how it treats files that are not what they should be."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from budgetctl.classifiers import Classifier, train
from budgetctl.classifiers.linear import LinearClassifier

from budgetctl.errors import ClassifierError
from budgetctl.types import Query

SHORT = "Walker 321 goes from the lake past the hill to the mill. Where is she after 1 turns?"
LONG = "Walker 321 goes from the lake past the hill to the mill. Where is she after 6 turns?"
AT_ONCE = "Sign 321 at the lake says hill, near the mill. What does the sign say?"
FOREIGN = "Which of the following best describes the structure of a eukaryotic chromosome in metaphase?"


def test_it_is_a_classifier(toy: LinearClassifier) -> None:
    assert isinstance(toy, Classifier)
    assert toy.name == "toy"
    assert toy.estimate(Query.from_text(SHORT)).source == f"toy:{toy.hash[:12]}"


def test_need_is_small_where_the_answer_comes_at_once(toy: LinearClassifier) -> None:
    at_once, walk = toy.estimate(Query.from_text(AT_ONCE)), toy.estimate(Query.from_text(LONG))
    assert abs(at_once.need) < 0.01
    assert at_once.settled.p90 < 5
    assert walk.need > 0.7


def test_a_longer_derivation_settles_later_though_the_text_is_as_long(toy: LinearClassifier) -> None:
    short, long = toy.estimate(Query.from_text(SHORT)), toy.estimate(Query.from_text(LONG))
    assert short.settled.p90 < 25
    assert 57 <= long.settled.p90 < 120
    assert long.natural.p50 > long.settled.p50


def test_quantiles_rise_and_natural_is_never_below_settled(toy: LinearClassifier) -> None:
    for text in (SHORT, LONG, AT_ONCE, FOREIGN, "", "?", "lake " * 5000):
        e = toy.estimate(Query.from_text(text))
        for q in (e.settled, e.natural):
            assert 0 <= q.p50 <= q.p80 <= q.p90 <= q.p95
        assert e.settled.p90 <= e.natural.p90
        assert 0 <= e.p_off <= 1
        assert 0 <= e.p_full <= 1


def test_confidence_is_full_on_its_own_traffic_and_none_on_other(toy: LinearClassifier) -> None:
    assert toy.estimate(Query.from_text(LONG)).confidence > 0.9
    assert toy.estimate(Query.from_text(FOREIGN)).confidence < 0.05
    assert toy.estimate(Query.from_text("")).confidence == 0


def test_known_words_in_an_unheard_of_amount_lower_the_confidence(toy: LinearClassifier) -> None:
    assert toy.estimate(Query.from_text(f"{LONG} " * 60)).confidence < 0.1


def test_a_kind_that_is_uncertain_lowers_the_confidence(toy: LinearClassifier) -> None:
    """The heads of the kinds are made equal, which leaves nothing to tell them by."""
    heads, bias = toy.arrays["heads"].copy(), toy.arrays["heads_bias"].copy()
    kinds = bias.shape[0] - 12
    heads[:, 12:], bias[12:] = 0.0, 0.0
    doubtful = LinearClassifier(toy.header, {**toy.arrays, "heads": heads, "heads_bias": bias})
    sure, unsure = (c.estimate(Query.from_text(LONG)).confidence for c in (toy, doubtful))
    certain = float(toy.arrays["certain"])
    assert kinds > 1
    assert 1 / kinds <= certain <= train.SURE
    assert unsure == pytest.approx((1 / kinds) / (2 * certain), rel=0.01)
    assert sure > 0.9


def test_which_kind_of_a_family_it_is_may_be_open(toy: LinearClassifier) -> None:
    heads, bias = toy.arrays["heads"].copy(), toy.arrays["heads_bias"].copy()
    heads[:, 12:], bias[12:] = 0.0, 0.0
    one_family = {"families": np.zeros(1, dtype=np.int32)}
    open_kind = LinearClassifier(toy.header, {**toy.arrays, "heads": heads, "heads_bias": bias, **one_family})
    assert open_kind.estimate(Query.from_text(LONG)).confidence > 0.9


def test_a_named_model_that_it_does_not_know_lowers_the_confidence(toy: LinearClassifier) -> None:
    known = toy.estimate(Query.from_text(LONG, model="somewhere/Toy-1"))
    other = toy.estimate(Query.from_text(LONG, model="gpt-9"))
    assert known.confidence > 0.9
    assert other.confidence < 0.3
    assert other.settled == known.settled


def test_saved_weights_give_the_same_estimates(toy: LinearClassifier, tmp_path: Path) -> None:
    toy.save(tmp_path / "w.npz")
    again = LinearClassifier.load(tmp_path / "w.npz")
    assert again.hash == toy.hash
    assert again.header == toy.header
    assert again.estimate(Query.from_text(LONG)) == toy.estimate(Query.from_text(LONG))


def test_threads_may_share_it(toy: LinearClassifier) -> None:
    expected, seen = toy.estimate(Query.from_text(LONG)), []
    threads = [
        threading.Thread(target=lambda: seen.append(toy.estimate(Query.from_text(LONG)))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [expected] * 8


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match=r"gone\.npz: no such weight file"):
        LinearClassifier.load(tmp_path / "gone.npz")


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_an_error_of_ours(toy: LinearClassifier, tmp_path: Path, kept: float) -> None:
    path = tmp_path / "w.npz"
    toy.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ClassifierError, match=r"w\.npz: .*damaged"):
        LinearClassifier.load(path)


def test_no_flipped_byte_goes_unseen_or_raises_anything_else(toy: LinearClassifier, tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    toy.save(path)
    whole = path.read_bytes()
    right = toy.estimate(Query.from_text(LONG))
    refused = 0
    for at in range(0, len(whole), len(whole) // 150):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            # A time stamp in the archive is nobody's weight; what loads must be what was saved.
            assert LinearClassifier.load(path).estimate(Query.from_text(LONG)) == right
        except ClassifierError:
            refused += 1
    assert refused > 100


def test_altered_weights_do_not_match_their_checksum(toy: LinearClassifier, tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    toy.save(path)
    with np.load(path) as file:
        arrays = dict(file)
    arrays["heads_bias"] = arrays["heads_bias"] + 1
    np.savez(path, **arrays)
    with pytest.raises(ClassifierError, match="checksum is"):
        LinearClassifier.load(path)


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", header=np.array([{"schema_version": 1}], dtype=object))
    with pytest.raises(ClassifierError, match=r"w\.npz"):
        LinearClassifier.load(tmp_path / "w.npz")


def test_weights_for_other_features_are_refused(toy: LinearClassifier, tmp_path: Path) -> None:
    header = replace(toy.header, features=999)
    LinearClassifier(header, toy._arrays).save(tmp_path / "w.npz")
    with pytest.raises(ClassifierError, match="made for features version 999"):
        LinearClassifier.load(tmp_path / "w.npz")


def test_an_npz_that_is_something_else_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    with pytest.raises(ClassifierError, match="no header"):
        LinearClassifier.load(tmp_path / "w.npz")


def test_a_header_that_lacks_a_field_names_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", header=np.frombuffer(b'{"schema_version": 4}', dtype=np.uint8))
    with pytest.raises(ClassifierError, match="header: features: int expected, seen None"):
        LinearClassifier.load(tmp_path / "w.npz")
