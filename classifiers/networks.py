"""Encoders of transformers (the ``local`` extra) that classifiers stand on, and the header of their weights.

An encoder is named, as a local folder or a model of the hub, and loaded from safetensors without any code of
its own; or a small one is made anew, tokenizer included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from budgetctl.classifiers import weightfile

from budgetctl.errors import ClassifierError

SCHEMA_VERSION = 2

VOCABULARY = 8192
LAYERS = 3
WIDTH = 128
HEADS = 4
"""Of the encoder that is made anew."""
SPECIAL = ("[PAD]", "[CLS]", "[SEP]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header(weightfile.Header):
    """The header of weights that stand on an encoder.

    Attributes:
        base: Name or folder of the encoder; empty where it was trained from scratch.
    """

    schema_version: int = SCHEMA_VERSION
    base: str

    @classmethod
    def from_json(cls, data: bytes) -> Header:
        """Read a header.

        Raises:
            ValueError: Says which field is wrong.
        """
        found = weightfile.parse(data, version=SCHEMA_VERSION)
        return cls(**weightfile.shared(found), base=weightfile.typed(found, "base", str))


def local_extra() -> Any:
    """Return the module ``transformers``.

    Raises:
        ClassifierError: The ``local`` extra is missing.
    """
    try:
        import torch  # noqa: F401 - transformers imports without it, and then has no models
        import transformers
    except ImportError as error:
        raise ClassifierError(f"this classifier needs the 'local' extra of this package: {error}") from error
    return transformers


def named(base: str, *, labels: int) -> tuple[Any, Any]:
    """Return tokenizer and network of ``base`` with a new head, a classifier with so many labels.

    Raises:
        ClassifierError: There is no such model, or the ``local`` extra is missing.
    """
    transformers = local_extra()
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


def fresh(texts: Sequence[str], *, labels: int, max_length: int) -> tuple[Any, Any]:
    """Return a tokenizer made for ``texts`` and a small untrained network, a classifier with so many labels.

    Raises:
        ClassifierError: The ``local`` extra is missing.
    """
    transformers = local_extra()
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
