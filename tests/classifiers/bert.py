"""A tiny encoder of random weights, whose tokenizer knows the words of the toy traffic."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .traffic import rows

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def tokenizer() -> Any:
    """Return one id per word, point and digit, between those of ``[CLS]`` and ``[SEP]``: 2 and 3."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = sorted({w for row in rows(200, seed=0) for w in re.findall(r"[A-Za-z]+|[.,?]", row["question"])})
    vocabulary = {word: i for i, word in enumerate((*SPECIAL.values(), *words, *"0123456789"))}
    pieces = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Digits(individual_digits=True)]
    )
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=pieces, **SPECIAL)


def save(folder: Path, *, seed: int) -> str:
    """Save the encoder and return its name."""
    import torch
    from transformers import BertConfig, BertModel

    pieces = tokenizer()
    pieces.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    torch.manual_seed(seed)
    BertModel(config).save_pretrained(folder)
    return str(folder)
