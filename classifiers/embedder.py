"""A frozen sentence encoder in the style of sentence-transformers, and how to tell one from another.

embedding = mean of the encoder's last hidden states / its length
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from budgetctl.classifiers.networks import local_extra
from budgetctl.classifiers.tokens import Reader, limit
from numpy.typing import NDArray

from budgetctl.errors import ClassifierError
from budgetctl.types import Query

Array = NDArray[Any]

BATCH = 32

PROBES = (
    "What is the capital of Japan?",
    "Solve 12.5 * (7 - 3) = x_1; show that x_1 > 0.\n\treturn x_1",
    "Déjà vu? 東京, naïve, Straße",
)
"""Texts whose embeddings tell one encoder from another."""
SAME = 1e-2
"""Embeddings of one encoder differ by less, in any coordinate and on any machine."""


class Embedder:
    """The encoder, on the CPU. Safe to share between threads."""

    def __init__(self, model: str, *, max_length: int) -> None:
        """Load it.

        Args:
            model: A local folder or a model of the hub.
            max_length: Tokens that are read of a query, at most.

        Raises:
            ClassifierError: There is no such model, or the ``local`` extra is missing.
        """
        transformers = local_extra()
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(model)
            network = transformers.AutoModel.from_pretrained(model, dtype="float32", use_safetensors=True)
        except Exception as error:  # what a missing, damaged or foreign model raises is not documented
            raise ClassifierError(f"embedding model {model!r} cannot be loaded: {error}") from error
        self._network = network.eval()
        self.max_length = limit(max_length, tokenizer, network)
        self._reader = Reader(tokenizer, max_length=self.max_length)

    def __call__(self, queries: Sequence[Query]) -> Array:
        """Return the embeddings, queries x width, each of length 1."""
        return self._reader.apply(self._embed, [self._reader.read(query) for query in queries], size=BATCH)

    def _embed(self, *, attention_mask: Any, **x: Any) -> Any:
        import torch

        states = self._network(attention_mask=attention_mask, **x).last_hidden_state
        mask = attention_mask[..., None]
        mean = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        return torch.nn.functional.normalize(mean, dim=-1)

    def probes(self) -> Array:
        """Return the embeddings of :data:`PROBES`."""
        return self([Query.from_text(text) for text in PROBES])

    def check(self, expected: Array, *, name: str) -> None:
        """Compare it with the encoder called ``name``, whose :meth:`probes` are ``expected``.

        Raises:
            ValueError: It is another one.
        """
        seen = self.probes()
        if seen.shape != expected.shape or not np.abs(seen - expected).max() < SAME:
            raise ValueError(
                f"the encoder is not, or no longer, the {name!r} that the weights were fitted on"
            )
