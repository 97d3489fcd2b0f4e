"""From recorded results to what a classifier learns.

Per question and sample of a recording (rows as in the documentation of recordings):

``off``      right without thinking: the ``off`` row, else the coupled row at 0 tokens.
``full``     right at the end of its natural thinking.
``natural``  tokens of the natural thinking.
``settled``  the smallest recorded cut of the same thinking from which on the answer is right at every later
             cut and at the end. The true point lies between the cut before and this one, so it errs on the
             long side. Only known where the natural answer is right and prefix cuts of the same thinking are
             recorded: a wrong answer loses nothing by being cut, so it says nothing about how much is enough.

What is not recorded is None.

The questions of all models are then pooled: ``off`` and ``full`` become the shares of models that are right,
and tokens stay with the model that used them, since each has habits (:mod:`budgetctl.classifiers.habits`).
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from budgetctl.errors import ClassifierError

REQUIRED = ("dataset", "question_id", "model", "budget", "correct")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One question, model and sample with everything that its recording tells.

    Attributes:
        kind: Kind of traffic, such as a benchmark: what is calibrated together.
        task: Task type, such as a generator of puzzles: what is new or not as a whole.
        off: Right without thinking, or the share of several models that are.
        full: Right at the end of natural thinking, or a share likewise.
        natural: Tokens.
        settled: Tokens.
        level: Difficulty that the source names, as a z-score within it.
        dense: Dense features as recorded, where the text was not kept or does not give them all.
        weight: For how many examples it stands: 1 / probability of the action that made it.
    """

    question_id: str
    dataset: str
    model: str
    kind: str
    text: str
    task: str = ""
    off: float | None = None
    full: float | None = None
    natural: float | None = None
    settled: float | None = None
    level: float | None = None
    dense: tuple[float, ...] | None = None
    weight: float = 1.0

    @property
    def key(self) -> str:
        """What tells its question from others: the text, white space aside, or its id where there is none."""
        return normalised(self.text) or self.question_id

    @property
    def helped(self) -> bool:
        """Whether it takes thinking to be, and to stay, right: these make up the curve of ``settled``."""
        return self.settled is not None and self.settled > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What all models' recordings tell of one question.

    Attributes:
        off: Share of models right without thinking.
        full: Share of models right with it.
        natural: (model, tokens) pairs.
        settled: (model, tokens) pairs.
        dense: Recorded dense features, where they take the place of those of the text.
        weight: Mean weight of its examples.
    """

    question_id: str
    dataset: str
    kind: str
    task: str
    text: str
    off: float | None
    full: float | None
    natural: tuple[tuple[str, float], ...]
    settled: tuple[tuple[str, float], ...]
    level: float | None
    dense: tuple[float, ...] | None = None
    weight: float = 1.0

    @property
    def key(self) -> str:
        """What tells it from others: the text, white space aside, or its id where there is none."""
        return normalised(self.text) or self.question_id


def normalised(text: str) -> str:
    """Return a text without differences in white space: what makes two questions the same."""
    return " ".join(text.split())


def pool(examples: Iterable[Example]) -> list[Question]:
    """Return one question per distinct text (white space aside), in the order they are found.

    The first example names it. A model with several samples counts once. The same words with other recorded
    features, as after another conversation, are another question.
    """
    groups: dict[tuple[str, tuple[float, ...] | None], list[Example]] = {}
    for example in examples:
        groups.setdefault((example.key, example.dense), []).append(example)
    return [_pooled(group) for group in groups.values()]


def _pooled(examples: Sequence[Example]) -> Question:
    first = examples[0]
    levels = [e.level for e in examples if e.level is not None]
    return Question(
        question_id=first.question_id,
        dataset=first.dataset,
        kind=first.kind,
        task=first.task,
        text=first.text,
        off=_mean([*_by_model((e, e.off) for e in examples).values()]),
        full=_mean([*_by_model((e, e.full) for e in examples).values()]),
        natural=tuple(_by_model((e, e.natural) for e in examples).items()),
        settled=tuple(_by_model((e, e.settled) for e in examples).items()),
        level=_mean(levels),
        dense=first.dense,
        weight=sum(e.weight for e in examples) / len(examples),
    )


def _by_model(pairs: Iterable[tuple[Example, float | None]]) -> dict[str, float]:
    """Return each model's weighted mean."""
    found: dict[str, list[tuple[float, float]]] = {}
    for example, value in pairs:
        if value is not None:
            found.setdefault(example.model, []).append((value, example.weight))
    return {model: sum(v * w for v, w in of) / sum(w for _, w in of) for model, of in found.items()}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def read(paths: Iterable[str | os.PathLike[str]]) -> list[Example]:
    """Return the examples of recordings (JSON lines, ``.gz`` or plain), in the order they are found.

    Rows of one question belong together within a file; another file may record it in other words.

    Raises:
        ClassifierError: A line is no JSON object, or nothing can be learnt from the files.
    """
    groups: dict[tuple[Path, str, str, str, int], list[Mapping[str, Any]]] = {}
    for path in map(Path, paths):
        for row in _rows(path):
            key = (
                path,
                str(row["dataset"]),
                str(row["question_id"]),
                str(row["model"]),
                int(row.get("sample") or 0),
            )
            groups.setdefault(key, []).append(row)
    examples = [e for key, rows in groups.items() if (e := _example(key[1:], rows)) is not None]
    if not examples:
        seen = ", ".join(map(str, paths))
        raise ClassifierError(f"{seen}: no question with its text and a natural row to learn from")
    return examples


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _row(line, where=f"{path}:{number}")
    except (OSError, EOFError, zlib.error) as error:
        raise ClassifierError(f"{path}: cannot be read: {error}") from error


def _row(line: bytes, *, where: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ClassifierError(f"{where}: not JSON: {error}") from error
    missing = [key for key in REQUIRED if not isinstance(row, dict) or key not in row]
    if missing:
        raise ClassifierError(f"{where}: not a row of a recording, it lacks {', '.join(missing)}")
    return dict(row)


def _example(key: tuple[str, str, str, int], rows: list[Mapping[str, Any]]) -> Example | None:
    text = next((row["question"] for row in rows if row.get("question")), None)
    end = next((row for row in rows if _kind(row) == "natural"), None)
    if end is None or text is None or end["correct"] is None:
        return None
    curve = _curve([row for row in rows if row is not end and row.get("coupled")])
    offs = [row["correct"] for row in rows if _kind(row) == "off"]
    off = offs[0] if offs else next((right for tokens, right in curve if not tokens), None)
    natural = end.get("reasoning_tokens")
    full = bool(end["correct"])
    dataset, question_id, model, _ = key
    return Example(
        question_id=f"{dataset}/{question_id}",
        dataset=dataset,
        model=model,
        kind=str(end.get("subject") or end.get("cluster") or ""),
        task=str(end.get("cluster") or end.get("subject") or ""),
        text=text,
        off=None if off is None else bool(off),
        full=full,
        natural=natural,
        settled=_settled(curve, natural) if full and curve and natural is not None else None,
    )


def _kind(row: Mapping[str, Any]) -> str | None:
    return (row["budget"] or {}).get("kind")


def _curve(cuts: list[Mapping[str, Any]]) -> list[tuple[int, bool]]:
    """Return (tokens, right) of the prefix cuts of one thinking, shortest first."""
    return sorted(
        (int(row["reasoning_tokens"]), bool(row["correct"]))
        for row in cuts
        if row["correct"] is not None and row.get("reasoning_tokens") is not None
    )


def _settled(curve: list[tuple[int, bool]], natural: int) -> int:
    settled = natural
    for tokens, right in reversed(curve):
        if not right:
            break
        settled = min(tokens, natural)
    return settled
