"""The fine-tuned encoder: trained from scratch on toy traffic in seconds."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from budgetctl.classifiers import Classifier
from budgetctl.classifiers.encoder import EncoderClassifier
from budgetctl.classifiers.metrics import spearman
from budgetctl.classifiers.targets import Example

from budgetctl import Controller
from budgetctl.errors import ClassifierError
from budgetctl.types import Query

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

Recorded = dict[str, list[Example]]

SHORT = "Walker 321 goes from the lake past the hill to the mill. Where is she after 1 turns?"
LONG = "Walker 321 goes from the lake past the hill to the mill. Where is she after 6 turns?"
AT_ONCE = "Sign 321 at the lake says hill, near the mill. What does the sign say?"
FOREIGN = "Which of the following best describes the structure of a eukaryotic chromosome in metaphase?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoder") / "made"


@pytest.fixture(scope="module")
def fitted(recorded: Recorded, folder: Path) -> EncoderClassifier:
    return EncoderClassifier.fit(
        recorded["train"][:800],
        recorded["calibration"],
        base=None,
        out=folder,
        name="toy-encoder",
        created="2026-01-01",
        epochs=3,
        max_length=40,
        threads=1,
    )


@pytest.fixture
def copied(fitted: EncoderClassifier, folder: Path, tmp_path: Path) -> Path:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_it_is_a_classifier(fitted: EncoderClassifier) -> None:
    assert isinstance(fitted, Classifier)
    assert fitted.name == "toy-encoder"
    assert fitted.models == ("toy-1",)
    assert fitted.estimate(Query.from_text(LONG)).source == f"toy-encoder:{fitted.hash[:12]}"
    assert fitted.describe(Query.from_text(LONG))["log_words"] > 0


def test_it_tells_what_needs_thinking_from_what_does_not(fitted: EncoderClassifier) -> None:
    at_once, walk = (fitted.estimate(Query.from_text(text)) for text in (AT_ONCE, LONG))
    assert abs(at_once.need) < 0.05
    assert walk.need > 0.6


def test_a_longer_derivation_takes_longer_though_the_text_is_as_long(
    fitted: EncoderClassifier, recorded: Recorded
) -> None:
    short, long = (fitted.estimate(Query.from_text(text)) for text in (SHORT, LONG))
    assert short.settled.p50 < 25 < long.settled.p50
    assert long.natural.p50 > long.settled.p50
    estimates = [fitted.estimate(Query.from_text(e.text)) for e in recorded["test"][:200]]
    lengths = [float(e.natural or 0) for e in recorded["test"][:200]]
    rank = spearman([e.natural.p50 for e in estimates], lengths)
    assert rank is not None
    assert rank > 0.9


def test_confidence_is_full_on_its_own_traffic_and_none_on_other(fitted: EncoderClassifier) -> None:
    assert fitted.estimate(Query.from_text(LONG)).confidence > 0.9
    assert fitted.estimate(Query.from_text(FOREIGN)).confidence < 0.05
    assert fitted.estimate(Query.from_text("")).confidence == 0


def test_text_of_any_size_and_shape_has_an_estimate(fitted: EncoderClassifier) -> None:
    for text in ("", "?", "\ud800", "lake " * 50_000, "東京"):
        e = fitted.estimate(Query.from_text(text))
        assert 0 <= e.p_off <= 1
        assert 0 <= e.settled.p50 <= e.settled.p95 <= e.natural.p95


def test_a_saved_folder_gives_the_same_estimates(fitted: EncoderClassifier, copied: Path) -> None:
    again = EncoderClassifier.load(copied)
    assert again.hash == fitted.hash
    assert again.header == fitted.header
    before, after = (c.estimate(Query.from_text(LONG)) for c in (fitted, again))
    assert after.p_full == pytest.approx(before.p_full, abs=1e-5)
    assert after.natural.p90 == pytest.approx(before.natural.p90, rel=1e-4)


def test_a_saved_folder_can_be_the_base_of_another(copied: Path, recorded: Recorded, tmp_path: Path) -> None:
    tuned = EncoderClassifier.fit(
        recorded["train"][:100], recorded["calibration"][:100], base=str(copied), out=tmp_path / "t", epochs=1
    )
    assert tuned.header.base == str(copied)
    assert tuned.estimate(Query.from_text(LONG)).need > 0.3
    assert EncoderClassifier.load(tmp_path / "t").hash == tuned.hash


def test_the_same_seed_gives_the_same_weights_and_leaves_torch_alone(
    recorded: Recorded, tmp_path: Path
) -> None:
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    hashes = {
        EncoderClassifier.fit(
            recorded["train"][:100],
            recorded["calibration"][:60],
            base=None,
            out=tmp_path / str(i),
            epochs=1,
            max_length=16,
            threads=1,
        ).hash
        for i in range(2)
    }
    assert len(hashes) == 1
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_steps_are_reported(recorded: Recorded, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    EncoderClassifier.fit(
        recorded["train"][:64],
        recorded["calibration"][:60],
        base=None,
        out=tmp_path,
        epochs=2,
        max_length=16,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_base_that_is_not_there_is_named(recorded: Recorded, tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match="gone' cannot be loaded"):
        EncoderClassifier.fit(
            recorded["train"], recorded["calibration"], base=str(tmp_path / "gone"), out=tmp_path / "out"
        )


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match=r"readout\.npz: no such weight file"):
        EncoderClassifier.load(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_file_is_an_error_of_ours(copied: Path, name: str) -> None:
    whole = (copied / name).read_bytes()
    for damaged in (whole[:-9], whole[:99] + bytes([whole[99] ^ 1]) + whole[100:], None):
        (copied / name).unlink()
        if damaged is not None:
            (copied / name).write_bytes(damaged)
        with pytest.raises(ClassifierError, match="damaged or altered"):
            EncoderClassifier.load(copied)
        (copied / name).write_bytes(whole)


def test_a_damaged_readout_is_an_error_of_ours(copied: Path) -> None:
    whole = (copied / "readout.npz").read_bytes()
    (copied / "readout.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ClassifierError, match=r"readout\.npz: .*damaged"):
        EncoderClassifier.load(copied)


def test_threads_may_share_it(fitted: EncoderClassifier) -> None:
    texts = [LONG, AT_ONCE, FOREIGN, LONG * 9] * 3
    expected = [fitted.estimate(Query.from_text(text)).p_full for text in texts]
    seen = [0.0] * len(texts)

    def ask(i: int) -> None:
        seen[i] = fitted.estimate(Query.from_text(texts[i])).p_full

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == pytest.approx(expected)


def test_the_controller_decides_by_it(fitted: EncoderClassifier) -> None:
    decision = Controller("quantile:0.9", classifier=fitted).decide(Query.from_text(LONG, model="toy-1"))
    assert decision.estimate is not None
    assert decision.estimate.source.startswith("toy-encoder:")
    assert decision.budget.reasoning_tokens == pytest.approx(decision.estimate.settled.p90, abs=2)
