"""Reads recorded outcomes of real models, in the layout of their published collections, into examples.

``read(folder)`` looks for ``cubes/``, ``traces/`` and ``questions/`` with the files named below and leaves
out what is not there.
"""

from __future__ import annotations

import gzip
import json
import re
import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from budgetctl.classifiers import settle
from budgetctl.classifiers.readout import base_name
from budgetctl.classifiers.targets import Example
from budgetctl.classifiers.targets import read as read_cubes

from budgetctl.errors import ClassifierError

Row = Mapping[str, Any]

TOKENS_PER_WORD = 1.75
"""Of thinking about mathematics: the median where a model's words and tokens are both recorded."""
_SUMMARISED = re.compile(r"gemini|o4-mini|o3-mini|o1|grok-4|claude-4|claude-opus|gpt-5")
"""Models whose recorded thinking is a summary: where it settles says nothing about tokens."""
_PLAIN = re.compile(
    r"nothink|gpt-4|command|deepseek-v3|deepseek-chat|gemma|llama-3\.3-70b-i|llama-4|mistral-(small|medium)"
    r"|mistral-large|claude-3\.5|grok-3-beta|jamba|olmo-2|hermes|qwen-max|gemini-2\.0|minimax-01",
    re.IGNORECASE,
)
"""Models of which a source without a budget column is known to have asked for no thinking."""
_REASONERS = re.compile(r"^o1-")


def read(folder: Path) -> list[Example]:
    """Return the examples of every source in ``folder``.

    Raises:
        ClassifierError: There is none, or a file is damaged; says which.
    """
    found = [example for reader in _READERS for example in reader(folder)]
    if not found:
        raise ClassifierError(
            f"{folder}: none of the recorded collections is here (cubes, traces, questions)"
        )
    return found


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file; none where it is missing."""
    if not path.exists():
        return
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                if row.get("question") or "trace_words" in row:
                    yield row
    except (OSError, EOFError, ValueError) as error:
        raise ClassifierError(f"{path}: cannot be read: {error}") from error


def _example(row: Row, *, kind: str, task: str = "", **values: Any) -> Example:
    return Example(
        question_id=f"{row['dataset']}/{row['question_id']}",
        dataset=row["dataset"],
        model=base_name(str(row.get("model", ""))),
        kind=kind,
        task=task or kind,
        text=str(row["question"]),
        **values,
    )


def _mathematics(folder: Path) -> Iterator[Example]:
    """Questions with the difficulty that their source names, and thinking lengths of two distilled models."""
    texts: dict[tuple[str, str], dict[str, Any]] = {}
    for name, kind in _LEVELS.items():
        rows = list(_rows(folder / "questions" / f"{name}.jsonl.gz"))
        levels = [float(row["level"]) for row in rows if row.get("level") is not None]
        mean, spread = (statistics.fmean(levels), statistics.pstdev(levels)) if levels else (0.0, 1.0)
        for row in rows:
            texts[name.removesuffix("_test"), row["question_id"]] = row | {"kind": kind}
            if row.get("level") is not None:
                z = (float(row["level"]) - mean) / (spread or 1.0)
                yield _example(row, kind=kind, task=name, level=z)
    for row in _rows(folder / "questions" / "r1distill_trace_lengths.jsonl.gz"):
        question = texts.get((row["dataset"], row["question_id"]))
        if question is not None and row["trace_words"]:
            tokens = TOKENS_PER_WORD * row["trace_words"]
            yield _example(question | {"model": row["model"]}, kind=question["kind"], natural=tokens)


_LEVELS = {
    "math500": "math",
    "gsm8k_test": "gsm8k",
    "math_train": "math",
    "gsm8k_train": "gsm8k",
    "aime_1983_2023": "competition",
    "aime24": "competition",
    "amc22_23": "competition",
}


def _reasoning_gym(folder: Path) -> Iterator[Example]:
    for row in _rows(folder / "cubes" / "reasoning_gym.jsonl.gz"):
        mode = "off" if row["budget"]["kind"] == "off" else "full"
        kind = f"reasoning_gym/{row['subject']}"
        yield _example(
            row, kind=kind, task=f"reasoning_gym/{row['cluster']}", **{mode: float(row["correct"])}
        )


def _matrices(folder: Path) -> Iterator[Example]:
    """Correctness of many models per question: plain ones, and two reasoners."""
    for name in ("zeroeval_matrix", "mmlu_pro_matrix"):
        for row in _rows(folder / "questions" / f"{name}.jsonl.gz"):
            options = [f"{chr(65 + i)}) {option}" for i, option in enumerate(row.get("options") or ())]
            whole = row | {"question": "\n".join((row["question"], *options)), "model": ""}
            kind = row["dataset"] if not row.get("subject") else f"{row['dataset']}/{row['subject']}"
            votes = row["correct_by_model"].items()
            plain = [float(right) for model, right in votes if not _REASONERS.match(model)]
            thinking = [float(right) for model, right in votes if _REASONERS.match(model)]
            yield _example(
                whole,
                kind=kind,
                off=statistics.fmean(plain) if plain else None,
                full=statistics.fmean(thinking) if thinking else None,
            )


def _answered(name: str, kind: str) -> Callable[[Path], Iterator[Example]]:
    """Make a reader of cube rows of thinking and of plain models, with lengths where recorded."""

    def reader(folder: Path) -> Iterator[Example]:
        for row in _rows(folder / "cubes" / f"{name}.jsonl.gz"):
            budget = (row["budget"] or {}).get("kind")
            plain = _PLAIN.search(row["model"]) is not None
            if row["correct"] is None or (budget is None and not plain):
                continue
            if budget in ("off", None) or "nothink" in row["model"]:
                yield _example(row, kind=kind, off=float(row["correct"]))
                continue
            tokens = row["output_tokens"] if row["reasoning_tokens"] is None else row["reasoning_tokens"]
            yield _example(row, kind=kind, full=float(row["correct"]), natural=tokens or None)

    return reader


def _coupled(folder: Path) -> Iterator[Example]:
    """Thinking cut at tenths of its length: the only recording of when an answer settles, by trial."""
    path = folder / "cubes" / "gemma4_truncation.jsonl.gz"
    for example in read_cubes([path]) if path.exists() else ():
        yield Example(
            question_id=example.question_id,
            dataset=example.dataset,
            model=base_name(example.model),
            kind="hard_choice",
            task="hard_choice",
            text=example.text,
            off=example.off,
            full=example.full,
            natural=example.natural,
            settled=example.settled,
        )


def _settled(folder: Path) -> Iterator[Example]:
    """Where the thinking texts settle, as a share of the natural length of the same model and question."""
    for name, kind in (
        ("mip_gsm8k_math", "gsm8k"),
        ("lineage_bench", "lineage"),
        ("lrm_token_economy", "trivia"),
    ):
        cube, trace = (folder / part / f"{name}.jsonl.gz" for part in ("cubes", "traces"))
        if not cube.exists() or not trace.exists():
            continue
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        lengths: dict[tuple[str, str], list[float]] = {}
        for row in _rows(cube):
            key = row["question_id"], base_name(row["model"])
            tokens = row["output_tokens"] if row["reasoning_tokens"] is None else row["reasoning_tokens"]
            rows[key] = row
            lengths.setdefault(key, []).extend([tokens] if tokens else [])
        for point in settle.mine(trace, cube=cube):
            key = point.question_id, base_name(point.model)
            if lengths.get(key) and not _SUMMARISED.search(key[1]) and point.share is not None:
                yield _example(rows[key], kind=kind, settled=point.share * statistics.fmean(lengths[key]))


_READERS: tuple[Callable[[Path], Iterator[Example]], ...] = (
    _mathematics,
    _reasoning_gym,
    _matrices,
    _answered("mip_gsm8k_math", "gsm8k"),
    _answered("lineage_bench", "lineage"),
    _answered("misguided_attention", "riddle"),
    _answered("lrm_token_economy", "trivia"),
    _answered("livecodebench_o1", "code"),
    _answered("routerarena", "mixed"),
    _coupled,
    _settled,
)
