"""Token ids of queries, for networks of transformers: what is read of a text, batches, and known pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from budgetctl.classifiers import features
from numpy.typing import NDArray

from budgetctl.types import Query

Array = NDArray[Any]

CHARS_PER_TOKEN = 8
"""So many characters per token are looked at, at either end of a long text; more are hardly ever needed."""
MIN_PAIR_COUNT = 2
"""A pair of tokens is known from so many training questions on."""


class Reader:
    """Makes token ids of queries; of a long one its head and tail. Safe to share between threads."""

    def __init__(self, tokenizer: Any, *, max_length: int) -> None:
        self._tokenizer = tokenizer
        self.max_length = max_length
        # The first call switches off what the tokenizer's own file says of cuts and padding; later calls then
        # find nothing to change, and a tokenizer that nobody changes may be shared.
        self.ids("")

    def read(self, query: Query) -> list[int]:
        """Return the ids of a query; a short last turn is read together with the turns before it."""
        text = query.text
        if query.recent and len(text) < features.SHORT_TURN:
            text = "\n".join((*(turn.text for turn in query.recent), text))
        return self.ids(text)

    def ids(self, text: str) -> list[int]:
        """Return at most ``max_length`` ids, special tokens included."""
        clip = CHARS_PER_TOKEN * self.max_length
        if len(text) > 2 * clip:
            text = f"{text[:clip]}\n{text[-clip:]}"
        text = text.encode("utf-8", "replace").decode()  # a lone surrogate is no text to a tokenizer
        found: list[int] = self._tokenizer(text, truncation=False, padding=False, verbose=False)["input_ids"]
        if len(found) <= self.max_length:
            return found
        tail = self.max_length // 2
        return found[: self.max_length - tail] + found[-tail:]

    def batch(self, ids: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Return the padded tensors ``input_ids`` and ``attention_mask``, queries x tokens."""
        import torch

        width = max(1, *map(len, ids))
        padding = self._tokenizer.pad_token_id or 0
        rows = [[*row, *[padding] * (width - len(row))] for row in ids]
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in ids]
        return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}

    def apply(self, compute: Callable[..., Any], ids: Sequence[Sequence[int]], *, size: int) -> Array:
        """Return a row of ``compute`` for each row of ids, in batches of at most ``size``, without gradients.

        Args:
            compute: From the tensors of a batch to a tensor, queries x whatever it computes.
            ids: Those of all queries.
            size: Queries per batch.
        """
        import torch

        found: list[Array | None] = [None] * len(ids)
        with torch.inference_mode():
            for places in _batches(ids, size=size):
                rows = compute(**self.batch([ids[i] for i in places])).numpy()
                for i, row in zip(places, rows, strict=True):
                    found[i] = row
        return np.array(found, dtype=np.float32)


def _batches(ids: Sequence[Sequence[int]], *, size: int) -> Iterator[list[int]]:
    """Yield the places of all rows in batches of similar length, shortest first, to pad little."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    yield from (order[at : at + size] for at in range(0, len(order), size))


def limit(max_length: int, tokenizer: Any, network: Any) -> int:
    """Return how many tokens may be read: no more than the network has positions for."""
    positions = getattr(network.config, "max_position_embeddings", max_length)
    return int(min(max_length, tokenizer.model_max_length, positions))


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
