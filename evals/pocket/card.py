"""Write the model card from the recorded cube: ``python -m budgetctl.evals.pocket.card``."""

from __future__ import annotations

import gzip
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from budgetctl.evals.pocket import NAME, path
from budgetctl.evals.pocket.families import FAMILIES

Row = dict[str, Any]
SHOWN_CAPS = (0, 16, 32, 64, 128, 256)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """All rows of one question."""

    natural: Row
    off: Row
    capped: tuple[Row, ...]
    """By growing cap."""

    def at(self, cap: int) -> Row:
        """Return the row with the most reasoning tokens not above a cap."""
        rows = [row for row in (*self.capped, self.natural) if row["reasoning_tokens"] <= cap]
        return max(rows, key=lambda row: row["reasoning_tokens"])

    @property
    def settled_late(self) -> int:
        """Thinking tokens after the answer was stated for the first time."""
        first = self.natural["signals"]["first_answer_tokens"]
        return 0 if first is None else self.natural["reasoning_tokens"] - first

    @property
    def cut_after(self) -> list[Row]:
        """The capped rows whose thinking had stated an answer already."""
        first = self.natural["signals"]["first_answer_tokens"]
        return [row for row in self.capped if first is not None and row["reasoning_tokens"] >= first]


def read(cube: Path) -> list[Row]:
    """Return the rows of a recorded cube."""
    with gzip.open(cube, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def by_question(rows: Iterable[Row]) -> list[Recorded]:
    """Return the rows of a cube gathered by question."""
    gathered: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        gathered[row["question_id"]].append(row)
    return [
        Recorded(
            natural=next(r for r in mine if r["budget"]["kind"] == "natural"),
            off=next(r for r in mine if r["budget"]["kind"] == "off"),
            capped=tuple(
                sorted(
                    (r for r in mine if r["budget"]["kind"] == "tokens"), key=lambda r: r["budget"]["value"]
                )
            ),
        )
        for mine in gathered.values()
    ]


def _share(rows: Sequence[Row]) -> str:
    return f"{fmean(row['correct'] for row in rows):.3f}"


def _line(label: str, group: list[Recorded]) -> str:
    thinking = [q.natural["reasoning_tokens"] for q in group]
    cells = [
        label,
        str(len(group)),
        f"{fmean(thinking):.0f}",
        f"{sum(q.settled_late for q in group) / sum(thinking):.0%}",
        _share([q.natural for q in group]),
        _share([q.off for q in group]),
        *(_share([q.at(cap) for q in group]) for cap in SHOWN_CAPS),
    ]
    return f"| {' | '.join(cells)} |"


def _table(label: str, groups: dict[str, list[Recorded]]) -> str:
    heads = [
        label,
        "n",
        "thinking tokens",
        "after the answer",
        "full",
        "off",
        *(f"cap {cap}" for cap in SHOWN_CAPS),
    ]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return "\n".join([*lines, *(_line(name, group) for name, group in groups.items())])


def _grouped(asked: list[Recorded], key: Callable[[Row], str]) -> dict[str, list[Recorded]]:
    groups: dict[str, list[Recorded]] = defaultdict(list)
    for question in asked:
        groups[key(question.natural)].append(question)
    return dict(sorted(groups.items()))


def _families() -> str:
    return "\n".join(f"- **{name}**: {family.__doc__}" for name, family in FAMILIES.items())


def _trained(facts: dict[str, Any]) -> str:
    threads = f"at most {facts['threads']} CPU threads of a shared machine"
    where = threads if facts["device"] == "cpu" else f"one {facts['device']}"
    sizes = f"({facts['layers']} layers, {facts['width']} wide)"
    minutes, speed = facts["seconds"] / 60, facts["tokens_seen"] / facts["seconds"]
    return f"""\
It has {facts["parameters"]:,} parameters {sizes} and was trained from scratch on
{facts["tokens_seen"]:,} tokens of generated questions,
in {minutes:.0f} minutes on {where} ({speed:,.0f} tokens/s, torch {facts["torch"]}), by"""


def render(rows: Iterable[Row], facts: dict[str, Any]) -> str:
    """Return the card of a cube and the training facts that ship with the weights."""
    asked = by_question(rows)
    cells = _grouped(asked, lambda row: f"{row['cluster']} {row['level']}")
    means = {cell: fmean(q.natural["reasoning_tokens"] for q in group) for cell, group in cells.items()}
    low, high = min(means, key=lambda c: means[c]), max(means, key=lambda c: means[c])
    late = [row for q in asked for row in q.cut_after]
    kept = [row for q in asked for row in q.cut_after if q.natural["correct"]]
    return f"""\
# {NAME}

A language model of the Qwen3 architecture that thinks about small word problems in plain English and
then answers them.

{_trained(facts)}

    python -m budgetctl.evals.pocket.train --out DIR --seed {facts["seed"]}

The four stages of the recipe were added while it was being trained, each resumed from the end of the one
before, on one thread or two as the machine allowed. Sums in another order round differently, so a new run
gives a model like it, not the same bits.

It is a test bench and a first run, not evidence about real models. It knows the eight families below, in
the words it was trained on, and nothing else. Words outside its vocabulary become `<unk>`.

## Questions

{_families()}

Levels run from 1 (easy) to 5 (hard). Test questions never occur in training: a question's split is a hash
of its content. The thinking states its answer as soon as it has one ("So the answer is 42.") and then often
checks it again, once or twice: more when the question asks for care, less when it calls itself easy, and
once more for answers that look odd to it.

## Results

Test split, {len(asked)} questions, greedy decoding, one sample each. Accuracy at full thinking, with thinking
off, and at caps in thinking tokens: at a cap the same thinking is cut, closed and answered. "After the
answer" is the share of thinking tokens that follow the first statement of an answer.

{_table("all", {"all": asked})}

When the thinking is cut after it has stated an answer, {_share(late)} of the final answers are right; where
full thinking is right too, {_share(kept)} of {len(kept)}. The shortest cell thinks
{means[low]:.0f} tokens on average ({low}), the longest {means[high]:.0f} ({high}).

### By family

{_table("family", _grouped(asked, lambda row: str(row["cluster"])))}

### By level

{_table("level", _grouped(asked, lambda row: str(row["level"])))}

### By family and level

{_table("cell", cells)}

This file is written by `python -m budgetctl.evals.pocket.card` from `test.jsonl.gz`, which
`python -m budgetctl.evals.pocket.record --split test --n {len(asked)} --out test.jsonl.gz` records.
"""


def shipped() -> str:
    """Return the card of the shipped model and its recorded cube."""
    facts = json.loads((path() / "training.json").read_text(encoding="utf-8"))
    return render(read(path().parent / "test.jsonl.gz"), facts)


def main() -> int:
    """Write ``CARD.md`` beside this module."""
    (path().parent / "CARD.md").write_text(shipped(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
