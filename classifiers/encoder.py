"""A classifier that is a transformers encoder, fine-tuned end to end on recorded outcomes.

    outputs = logits of a sequence classifier + a constant: 4 classes, 2 x 4 quantiles, kinds of traffic

The loss is that of :mod:`budgetctl.classifiers.fit`. ``base`` names any encoder that transformers can load;
with none, a small one is trained from scratch, tokenizer included. What is saved is a folder in the layout of
transformers (safetensors, configuration, tokenizer) with one file more, ``readout.npz``.

``confidence`` is how much of the wording is known: the share of pairs of neighbouring tokens that occur in
training. It is full at the share that all but the least known twentieth of the calibration questions have,
and none at half of that, as with the built-in classifier. It sees words and not meaning: a strange question
in known words passes, and a known one in other words does not.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from budgetctl.classifiers import calibrate, features, fit, habits, readout, train
from budgetctl.classifiers.embedding import Header, Reader, batches, limit, local_extra, read, write
from budgetctl.classifiers.linear import digest
from budgetctl.classifiers.readout import QUANTILES, Readout
from budgetctl.classifiers.targets import Example
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

VOCABULARY = 8192
LAYERS = 3
WIDTH = 128
HEADS = 4
"""Of the encoder that is trained from scratch."""
SPECIAL = ("[PAD]", "[CLS]", "[SEP]")

FRESH_RATE = 1e-3
BASE_RATE = 5e-5
"""Default learning rates: of a new encoder, and of one that knows its language already."""
WARMUP = 0.1
"""Share of the steps in which the learning rate rises; it then falls in a line to 0."""
DECAY = 0.01
CLIP_NORM = 1.0

MIXING = 0.3
"""Questions whose lengths differ by less than this share, either way, may meet in a batch."""

MIN_PAIR_COUNT = 2
"""A pair of tokens is known from so many training questions on."""
WEIGHTS = fit.Recipe()
"""The parts of the loss weigh as in the built-in classifier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How an encoder is fitted.

    Attributes:
        epochs: Passes over the training questions.
        batch: Questions per step.
        learning_rate: The highest one.
        seed: Of the weights, the order of the questions and dropout.
    """

    epochs: int
    batch: int
    learning_rate: float
    seed: int


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
        transformers = local_extra()
        asked, held = train.apart(training, calibration)
        kinds, learnt = sorted({q.kind for q in asked}), habits.fit(asked)
        schedule = Schedule(
            epochs=epochs,
            batch=batch,
            learning_rate=learning_rate or (BASE_RATE if base else FRESH_RATE),
            seed=seed,
        )
        with _torch_settings(seed=seed, threads=threads):
            texts = [q.text for q in asked]
            tokenizer, network = (
                _fresh(transformers, texts, labels=12 + len(kinds), max_length=max_length)
                if base is None
                else _loaded(transformers, base, labels=12 + len(kinds))
            )
            reader = Reader(tokenizer, max_length=limit(max_length, tokenizer, network))
            ids, ids_held = ([reader.read(Query.from_text(q.text)) for q in side] for side in (asked, held))
            labels = fit.labels(asked, learnt, kinds)
            offset = _offset(labels)
            _fit(network, reader, ids, labels, offset, schedule, progress)
            network.eval()
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
            sha256=digest(arrays),
        )
        write(out / READOUT, header, arrays)
        return cls(header, arrays, network=network, tokenizer=tokenizer)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> EncoderClassifier:
        """Read a folder that :meth:`fit` wrote. Nothing is looked up on the hub.

        Raises:
            ClassifierError: A file is missing, damaged, or made for another version; says which.
        """
        transformers, folder = local_extra(), Path(folder)
        header, arrays = read(folder / READOUT, ARRAYS)
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


@contextmanager
def _torch_settings(*, seed: int, threads: int | None) -> Iterator[None]:
    """Seed torch and set its threads, and leave both as they were afterwards."""
    import torch

    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _loaded(transformers: Any, base: str, *, labels: int) -> tuple[Any, Any]:
    """Return tokenizer and network of ``base`` with a new head."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(base)
        network = transformers.AutoModelForSequenceClassification.from_pretrained(
            base,
            num_labels=labels,
            dtype="float32",
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # a head for another task is replaced
        )
    except Exception as error:  # what a missing, damaged or foreign model raises is not documented
        raise ClassifierError(f"encoder {base!r} cannot be loaded: {error}") from error
    return tokenizer, network


def _fresh(transformers: Any, texts: Sequence[str], *, labels: int, max_length: int) -> tuple[Any, Any]:
    """Return a tokenizer made for ``texts`` and a small untrained network."""
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=_pieces(texts),
        model_max_length=max_length,
        **dict(zip(("pad_token", "cls_token", "sep_token"), SPECIAL, strict=True)),
    )
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=max_length,
        num_labels=labels,
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer, transformers.BertForSequenceClassification(config)


def _pieces(texts: Sequence[str]) -> Any:
    """Return a byte-level BPE tokenizer (Sennrich et al. 2016) for ``texts``, the same for the same texts.

    Digits stand alone, so that the size of a number shows in its length. WordPiece would do as well, but its
    trainer breaks ties at random.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    pieces = Tokenizer(models.BPE())
    pieces.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    pieces.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    pieces.train_from_iterator(texts, trainer)
    ends = [(token, pieces.token_to_id(token)) for token in SPECIAL[1:]]
    pieces.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return pieces


def _offset(labels: fit.Labels) -> Array:
    """Return the outputs to start from: for quantiles those of all questions, else 0."""
    offset = np.zeros(12 + labels.kinds.shape[1])
    for target in range(2):
        seen = labels.tokens[labels.weights[:, target] > 0, target]
        if len(seen):
            offset[4 + 4 * target : 8 + 4 * target] = np.quantile(seen, QUANTILES)
    return offset


def _fit(
    network: Any,
    reader: Reader,
    ids: Sequence[Sequence[int]],
    labels: fit.Labels,
    offset: Array,
    schedule: Schedule,
    progress: fit.Progress,
) -> None:
    """Fit the network in place by AdamW (Loshchilov & Hutter 2019)."""
    import torch

    rng = np.random.default_rng(schedule.seed)
    start = torch.tensor(offset, dtype=torch.float32)
    steps = schedule.epochs * math.ceil(len(ids) / schedule.batch)
    adam = torch.optim.AdamW(network.parameters(), lr=schedule.learning_rate, weight_decay=DECAY)
    rate = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: _rate(step, steps))
    network.train()
    done = 0
    for _ in range(schedule.epochs):
        for rows in _shuffled(ids, size=schedule.batch, rng=rng):
            logits = network(**reader.batch([ids[i] for i in rows])).logits
            loss = loss_of(logits + start, labels, rows)
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
            adam.step()
            rate.step()
            done += 1
            progress(done, steps)


def _shuffled(ids: Sequence[Sequence[int]], *, size: int, rng: np.random.Generator) -> list[Array]:
    """Return all places in batches of roughly similar length, in random order.

    Roughly only: questions of one task are of one length, and a batch of one task teaches little.
    """
    order = np.argsort([len(row) * rng.uniform(1 - MIXING, 1 + MIXING) for row in ids])
    found = [order[at : at + size] for at in range(0, len(order), size)]
    return [found[i] for i in rng.permutation(len(found))]


def _rate(step: int, steps: int) -> float:
    """Return the learning rate before step ``step``, as a share of the highest."""
    warm = max(WARMUP * steps, 1.0)
    return min((step + 1) / warm, max(steps - step, 0) / max(steps - warm, 1.0), 1.0)


def loss_of(out: Any, labels: fit.Labels, rows: Array) -> Any:
    """Return the mean loss of the questions ``rows``, of which ``out`` are the outputs (a tensor).

    The same parts as in :mod:`budgetctl.classifiers.fit`.
    """
    import torch

    logs = torch.log_softmax(out[:, :4], dim=-1)
    opinion = logs.detach().exp().double().numpy()
    wanted = fit.shares(opinion, fit.majority(labels.off[rows]), fit.majority(labels.full[rows]))
    classes = -(torch.from_numpy(wanted).float() * logs).sum(dim=-1)
    kinds = -(_tensor(labels.kinds[rows]) * torch.log_softmax(out[:, 12:], dim=-1)).sum(dim=-1)
    tokens = _tensor(labels.tokens[rows]).repeat_interleave(len(QUANTILES), dim=1)
    weights = _tensor(labels.weights[rows]).repeat_interleave(len(QUANTILES), dim=1)
    q = torch.tensor(QUANTILES).repeat(2)
    error = tokens - out[:, 4:12]
    pinball = (weights * torch.maximum(q * error, (q - 1) * error)).sum(dim=-1)
    return (classes + WEIGHTS.pinball * pinball + WEIGHTS.kind * kinds).mean()


def _tensor(values: Array) -> Any:
    import torch

    return torch.from_numpy(values).float()


def _logits(network: Any, reader: Reader, ids: Sequence[Sequence[int]], *, size: int = 64) -> Array:
    """Return the logits of a network in evaluation mode, queries x labels."""
    import torch

    found: list[Array | None] = [None] * len(ids)
    with torch.inference_mode():
        for places in batches(ids, size=size):
            logits = network(**reader.batch([ids[i] for i in places])).logits
            for i, row in zip(places, logits.numpy(), strict=True):
                found[i] = row
    return np.array(found, dtype=np.float64)


def known_pairs(ids: Sequence[Sequence[int]]) -> Array:
    """Return the sorted numbers of the pairs that occur in at least ``MIN_PAIR_COUNT`` rows."""
    counts: Counter[int] = Counter()
    for row in ids:
        counts.update(set(_pairs(row).tolist()))
    return np.array(sorted(pair for pair, n in counts.items() if n >= MIN_PAIR_COUNT), dtype=np.uint64)


def share(ids: Sequence[int], known: Array) -> float:
    """Return the share of a row's pairs that are known; 0 where there is no pair."""
    pairs = _pairs(ids)
    if not len(pairs) or not len(known):
        return 0.0
    return float((known.take(known.searchsorted(pairs), mode="clip") == pairs).mean())


def _pairs(ids: Sequence[int]) -> Array:
    """Return one number for every two neighbouring tokens."""
    row = np.asarray(ids, dtype=np.uint64)
    return row[:-1] << np.uint64(32) | row[1:]


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
