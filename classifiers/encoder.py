"""A classifier that is a transformers encoder, fine-tuned end to end on recorded outcomes.

    outputs = logits of a sequence classifier + a constant: 4 classes, 2 x 4 quantiles, kinds of traffic

``base`` names any encoder that transformers can load; with none, a small one is trained from scratch,
tokenizer included. What is saved is a folder in the layout of transformers (safetensors, configuration,
tokenizer) with one file more, ``readout.npz``.

``confidence`` is how much of the wording is known: the share of pairs of neighbouring tokens that occur in
training. It is full at the share that all but the least known twentieth of the calibration questions have,
and none at half of that, as with the built-in classifier. It sees words and not meaning: a strange question
in known words passes, and a known one in other words does not.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from budgetctl.classifiers import (
    calibrate,
    features,
    finetune,
    fit,
    habits,
    networks,
    objectives,
    readout,
    train,
    weightfile,
)
from budgetctl.classifiers.networks import Header
from budgetctl.classifiers.readout import Readout
from budgetctl.classifiers.targets import Example
from budgetctl.classifiers.tokens import Reader, known_pairs, limit, share
from numpy.typing import NDArray

from budgetctl.errors import ClassifierError
from budgetctl.types import Estimate, Query

Array = NDArray[Any]

READOUT = "readout.npz"
SUFFIXES = (".safetensors", ".json", ".model", ".txt")
"""Of the files that decide what the network computes."""
ARRAYS: dict[str, int] = {
    "offset": 1,
    "pairs": 1,
    "familiar": 0,
    "max_length": 0,
    "files": 1,
    **readout.ARRAYS,
}
"""The arrays of ``readout.npz`` and their number of dimensions.

``offset`` is added to the logits; ``pairs`` sorted numbers of the known pairs of tokens; ``familiar`` the
share of them that usual traffic has; ``max_length`` tokens per query; ``files`` a hash of the folder's other
files; the rest belongs to the readout.
"""

BATCH = 64
"""Questions at a time outside of training."""
FRESH_RATE = 1e-3
BASE_RATE = 5e-5
"""Default learning rates: of a new encoder, and of one that knows its language already."""


class EncoderClassifier:
    """An encoder and its calibration. Immutable, so safe to share between threads.

    Args:
        header: What the weights are.
        arrays: Those of :data:`ARRAYS`.
        network: A sequence classifier in evaluation mode.
        tokenizer: Its tokenizer.
    """

    def __init__(self, header: Header, arrays: Mapping[str, Array], *, network: Any, tokenizer: Any) -> None:
        self.header = header
        self._network = network
        self._reader = Reader(tokenizer, max_length=int(arrays["max_length"]))
        self._offset = arrays["offset"].astype(np.float64)
        self._pairs = arrays["pairs"]
        self._familiar = float(arrays["familiar"])
        self._readout = Readout(arrays, header.models)
        self._source = f"{header.name}:{header.sha256[:12]}"

    @property
    def name(self) -> str:
        """Its name in records."""
        return self.header.name

    @property
    def hash(self) -> str:
        """SHA-256 of the arrays, among them a hash of the folder's other files."""
        return self.header.sha256

    @property
    def models(self) -> tuple[str, ...]:
        """The models whose habits are known."""
        return self.header.models

    def estimate(self, query: Query) -> Estimate:
        """Return the success curve of ``query``, in tokens of its model or of a generic reasoner."""
        ids = self._reader.read(query)
        out: list[float] = (_logits(self._network, self._reader, [ids])[0] + self._offset).tolist()
        known = share(ids, self._pairs)
        confidence = min(max(2.0 * known / self._familiar - 1.0, 0.0), 1.0) if self._familiar else 0.0
        return self._readout.estimate(out, model=query.model, confidence=confidence, source=self._source)

    def describe(self, query: Query) -> dict[str, float]:
        """Return what is kept of ``query`` in records: the built-in classifier's dense features."""
        return features.describe(query)

    @classmethod
    def fit(
        cls,
        training: Sequence[Example],
        calibration: Sequence[Example],
        *,
        base: str | None,
        out: Path,
        name: str = "encoder",
        note: str = "",
        created: str = "",
        epochs: int = 3,
        batch: int = 32,
        learning_rate: float | None = None,
        max_length: int = 128,
        seed: int = 0,
        threads: int | None = None,
        progress: fit.Progress = fit.quiet,
    ) -> EncoderClassifier:
        """Fit a classifier on ``training``, calibrate it on ``calibration`` and save it.

        Args:
            training: Recorded outcomes.
            calibration: Recorded outcomes of other questions.
            base: The encoder to start from, a local folder or a model of the hub; None trains a new one.
            out: Folder to save to; it is made where it is missing.
            name: Its name in records.
            note: What users of the weights should know.
            created: Date.
            epochs: Passes over the training questions.
            batch: Questions per step.
            learning_rate: The highest one; None takes what suits ``base``.
            max_length: Tokens that are read of a query, at most.
            seed: Of the weights, the order of the questions and dropout.
            threads: Of torch, while it lasts; None leaves them as they are.
            progress: Called with the steps done and all steps.

        Raises:
            ClassifierError: Too few questions are left on either side, or the encoder cannot be loaded.
        """
        networks.local_extra()  # what is missing is said before the work begins
        asked, held = train.apart(training, calibration)
        kinds, learnt = sorted({q.kind for q in asked}), habits.fit(asked)
        labels = objectives.labels(asked, learnt, kinds)
        offset = finetune.constant(labels)
        with finetune.torch_settings(seed=seed, threads=threads):
            heads = 12 + len(kinds)
            tokenizer, network = (
                networks.fresh([q.text for q in asked], labels=heads, max_length=max_length)
                if base is None
                else networks.named(base, labels=heads)
            )
            reader = Reader(tokenizer, max_length=limit(max_length, tokenizer, network))
            ids, ids_held = ([reader.read(Query.from_text(q.text)) for q in side] for side in (asked, held))
            finetune.finetune(
                network,
                reader,
                ids,
                labels,
                offset=offset,
                epochs=epochs,
                batch=batch,
                learning_rate=learning_rate or (BASE_RATE if base else FRESH_RATE),
                seed=seed,
                progress=progress,
            )
            found = _logits(network, reader, ids_held) + offset
        calibrated, models = calibrate.readout(found, held, learnt, kinds, labels.centres)
        _save(out, network, tokenizer)
        pairs = known_pairs(ids)
        arrays = {
            **calibrated,
            "offset": offset.astype(np.float32),
            "pairs": pairs,
            "familiar": np.array(
                np.quantile([share(row, pairs) for row in ids_held], 0.05), dtype=np.float32
            ),
            "max_length": np.array(reader.max_length),
            "files": _files(out),
        }
        header = Header(
            name=name,
            base=base or "",
            created=created,
            trained_on=train.source(asked),
            calibrated_on=train.source(held),
            models=models,
            note=note,
            sha256=weightfile.digest(arrays),
        )
        weightfile.write(out / READOUT, header, arrays)
        return cls(header, arrays, network=network, tokenizer=tokenizer)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> EncoderClassifier:
        """Read a folder that :meth:`fit` wrote. Nothing is looked up on the hub.

        Raises:
            ClassifierError: A file is missing, damaged, or made for another version; says which.
        """
        transformers, folder = networks.local_extra(), Path(folder)
        header, arrays = weightfile.read(folder / READOUT, Header.from_json, ARRAYS)
        try:
            if not np.array_equal(_files(folder), arrays["files"]):
                raise ClassifierError(
                    f"{folder}: its files are not those that were saved: damaged or altered"
                )
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            network = transformers.AutoModelForSequenceClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype="float32"
            )
        except ClassifierError:
            raise
        except Exception as error:  # a version of transformers that cannot read them raises what it likes
            raise ClassifierError(f"{folder}: cannot be loaded: {error}") from error
        return cls(header, arrays, network=network.eval(), tokenizer=tokenizer)


def _logits(network: Any, reader: Reader, ids: Sequence[Sequence[int]]) -> Array:
    """Return the logits of a network in evaluation mode, queries x labels."""
    return reader.apply(lambda **x: network(**x).logits, ids, size=BATCH).astype(np.float64)


def _save(folder: Path, network: Any, tokenizer: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    network.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def _files(folder: Path) -> Array:
    """Return the SHA-256, as bytes, of names and contents of the files that transformers reads."""
    seen = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES):
        with path.open("rb") as file:
            seen.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()};".encode())
    return np.frombuffer(seen.digest(), dtype=np.uint8)
