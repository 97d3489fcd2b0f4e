"""The classifier on a frozen encoder, here a tiny one of random weights: its features still tell walks."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from budgetctl.classifiers import Classifier, fit
from budgetctl.classifiers.embedder import Embedder
from budgetctl.classifiers.embedding import MAX_LENGTH, EmbeddingClassifier, cluster, nearest
from budgetctl.classifiers.linear import LinearClassifier
from budgetctl.classifiers.targets import Example
from numpy.typing import NDArray

from budgetctl import Controller
from budgetctl.errors import ClassifierError
from budgetctl.types import Query

from . import bert

pytest.importorskip("torch")
pytest.importorskip("transformers")

Recorded = dict[str, list[Example]]

WALK = "Walker 321 goes from the lake past the hill to the mill. Where is she after 4 turns?"
AT_ONCE = "Sign 321 at the lake says hill, near the mill. What does the sign say?"
FOREIGN = "Which of the following best describes the structure of a eukaryotic chromosome in metaphase?"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return bert.save(tmp_path_factory.mktemp("bert"), seed=0)


@pytest.fixture(scope="module")
def fitted(recorded: Recorded, encoder: str) -> EmbeddingClassifier:
    return EmbeddingClassifier.fit(
        recorded["train"], recorded["calibration"], model=encoder, name="toy-embedding", created="2026-01-01"
    )


@pytest.fixture
def saved(fitted: EmbeddingClassifier, tmp_path: Path) -> Path:
    fitted.save(tmp_path / "w.npz")
    return tmp_path / "w.npz"


def test_it_is_a_classifier(fitted: EmbeddingClassifier) -> None:
    assert isinstance(fitted, Classifier)
    assert fitted.name == "toy-embedding"
    assert fitted.models == ("toy-1",)
    assert fitted.estimate(Query.from_text(WALK)).source == f"toy-embedding:{fitted.hash[:12]}"
    assert fitted.describe(Query.from_text(WALK))["log_words"] > 0


def test_it_tells_what_needs_thinking_from_what_does_not(fitted: EmbeddingClassifier) -> None:
    at_once, walk = (fitted.estimate(Query.from_text(text)) for text in (AT_ONCE, WALK))
    assert abs(at_once.need) < 0.05
    assert walk.need > 0.7
    assert at_once.settled.p90 < 5 < walk.settled.p50
    assert walk.natural.p50 >= walk.settled.p50


def test_quantiles_cover_their_share(fitted: EmbeddingClassifier, recorded: Recorded) -> None:
    known = [e for e in recorded["test"] if e.natural is not None]
    covered = [
        fitted.estimate(Query.from_text(e.text, model=e.model)).natural.p90 >= (e.natural or 0) for e in known
    ]
    assert 0.85 <= np.mean(covered) <= 0.97


def test_confidence_is_full_on_its_own_traffic_and_none_on_other(
    fitted: EmbeddingClassifier, recorded: Recorded
) -> None:
    own = [fitted.estimate(Query.from_text(e.text)).confidence for e in recorded["test"]]
    assert np.mean(np.array(own) == 1) > 0.85
    assert fitted.estimate(Query.from_text(FOREIGN)).confidence == 0
    assert fitted.estimate(Query.from_text("")).confidence == 0


def test_the_same_recipe_gives_the_same_weights(recorded: Recorded, encoder: str) -> None:
    sides = recorded["train"][:200], recorded["calibration"][:100]
    recipe = fit.Recipe(epochs=1, hidden=8)
    first, second = (EmbeddingClassifier.fit(*sides, model=encoder, recipe=recipe).hash for _ in range(2))
    assert first == second


def test_fits_can_share_what_was_embedded_before(recorded: Recorded, encoder: str) -> None:
    sides = recorded["train"][:200], recorded["calibration"][:100]
    recipe, embedder, asked = fit.Recipe(epochs=1, hidden=8), Embedder(encoder, max_length=MAX_LENGTH), []

    def embed(queries: Sequence[Query]) -> NDArray[np.float32]:
        asked.append(len(queries))
        return np.asarray(embedder(queries))

    own, given = (
        EmbeddingClassifier.fit(*sides, model=encoder, recipe=recipe, embed=e).hash for e in (None, embed)
    )
    assert own == given
    assert len(asked) == 2


def test_saved_weights_give_the_same_estimates(fitted: EmbeddingClassifier, saved: Path) -> None:
    again = EmbeddingClassifier.load(saved)
    assert again.hash == fitted.hash
    assert again.header == fitted.header
    assert again.estimate(Query.from_text(WALK)).p_full == pytest.approx(
        fitted.estimate(Query.from_text(WALK)).p_full, abs=1e-5
    )


def test_the_encoder_may_have_moved_but_not_changed(saved: Path, encoder: str, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in Path(encoder).iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    assert EmbeddingClassifier.load(saved, model=str(moved)).models == ("toy-1",)
    other = bert.save(tmp_path / "other", seed=1)
    with pytest.raises(ClassifierError, match=r"w\.npz: the encoder is not, or no longer, the '.*bert"):
        EmbeddingClassifier.load(saved, model=other)


def test_an_encoder_that_is_not_there_is_named(recorded: Recorded, tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match="gone' cannot be loaded"):
        EmbeddingClassifier.fit(recorded["train"], recorded["calibration"], model=str(tmp_path / "gone"))


def test_weights_of_another_kind_are_refused(saved: Path, toy: LinearClassifier, tmp_path: Path) -> None:
    toy.save(tmp_path / "linear.npz")
    with pytest.raises(ClassifierError, match=r"linear\.npz: header: schema_version"):
        EmbeddingClassifier.load(tmp_path / "linear.npz")
    with pytest.raises(ClassifierError, match=r"w\.npz: header: schema_version"):
        LinearClassifier.load(saved)


def test_threads_may_share_it(fitted: EmbeddingClassifier) -> None:
    texts = [WALK, AT_ONCE, FOREIGN, WALK * 9] * 3
    expected = [fitted.estimate(Query.from_text(text)) for text in texts]
    seen = [expected[0]] * len(texts)

    def ask(i: int) -> None:
        seen[i] = fitted.estimate(Query.from_text(texts[i]))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [e.p_full for e in seen] == pytest.approx([e.p_full for e in expected])


def test_the_controller_decides_by_it(fitted: EmbeddingClassifier) -> None:
    controller = Controller("quantile:0.9", classifier=fitted)
    walk = controller.decide(Query.from_text(WALK, model="toy-1"))
    assert walk.estimate is not None
    assert walk.estimate.source.startswith("toy-embedding:")
    assert walk.budget.reasoning_tokens == pytest.approx(walk.estimate.settled.p90, abs=2)


def test_every_centroid_is_the_mean_of_what_is_nearest_to_it() -> None:
    points = np.concatenate([np.random.default_rng(0).normal(c, 0.1, (50, 2)) for c in (-3, 0, 3)])
    centroids = cluster(points, k=3, seed=1)
    assert sorted(centroids[:, 0].round()) == [-3, 0, 3]
    assert nearest(points, centroids).max() < 1
    assert len(cluster(points[:2], k=3, seed=0)) == 2
