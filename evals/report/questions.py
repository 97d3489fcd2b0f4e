"""Single questions for the page: what every policy made of each, compact enough for ten thousand calls.

Rows are written by column, long texts once, in a pool that rows point into. What does not fit is cut or left
out, and the page says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from budgetctl.evals.cube import CubeRow
from budgetctl.evals.results import Paired, Result, column

MOST_ROWS = 20_000
"""Results (calls x policies) that the page lists."""
MOST_TEXT = 4_000_000
"""Characters of texts in the page, about."""
_CUTS = (2000, 800, 300, 120, 40)


def browser(
    paired: Paired,
    asked: Mapping[str, CubeRow],
    *,
    groups: Mapping[str, str],
    levels: Mapping[str, str],
    basis: str | None,
) -> dict[str, Any]:
    """Return questions and results by column.

    ``calls`` and every list of ``policies`` have the same order. Where there are too many, those on which the
    policies do not agree come first.

    Args:
        groups: Group of every question.
        levels: Difficulty of every question.
        basis: The field of tokens that the report counts.
    """
    kept = _kept(paired)
    names = list(dict.fromkeys(paired.questions[paired.index[i]] for i in kept))
    place = {name: i for i, name in enumerate(names)}
    rows = [asked.get(name) for name in names]
    runs = {name: [run[i] for i in kept] for name, run in paired.runs.items()}
    first = next(iter(runs.values()))
    shown = [result for results in runs.values() for result in results]
    texts = _Texts(
        [row.question for row in rows if row is not None]
        + [text for result in shown for text in (result.answer, result.thinking_tail)]
    )
    several = len({r.model for r in first}) > 1
    return {
        "left_out": len(paired.index) - len(kept),
        "text_cut": texts.cut,
        "questions": {
            "id": names,
            "text": [texts.head(row.question if row else None) for row in rows],
            "reference": [
                None if row is None or row.reference_answer is None else str(row.reference_answer)[:200]
                for row in rows
            ],
            "group": [groups.get(name) for name in names],
            "level": [levels.get(name) for name in names],
        },
        "calls": [[place[r.question_id], r.sample, r.model if several else ""] for r in first],
        "policies": {name: _columns(results, texts=texts, basis=basis) for name, results in runs.items()},
        "pool": texts.pool,
    }


def _kept(paired: Paired) -> list[int]:
    """Return the positions of the calls to list, in their order."""
    right = np.array([column(results, "correct") for results in paired.runs.values()])
    agree = (right == right[0]).all(axis=0)
    most = max(1, MOST_ROWS // len(right))
    return sorted(np.argsort(agree, kind="stable")[:most].tolist())


def _columns(results: Sequence[Result], *, texts: _Texts, basis: str | None) -> dict[str, Any]:
    return {
        "right": "".join("1" if r.correct else "0" for r in results),
        "tokens": None if basis is None else [getattr(r, basis) for r in results],
        "seconds": _known([None if r.e2e_s is None else float(f"{r.e2e_s:.3g}") for r in results]),
        "stop": _known([texts.place(r.stop) for r in results]),
        # An empty text is an answer that did not come; null is one that was not kept.
        "answer": _known([texts.place(texts.head(r.answer) if r.answered else "") for r in results]),
        "thinking": _known([texts.place(texts.tail(r.thinking_tail)) for r in results]),
    }


def _known(values: list[Any]) -> list[Any] | None:
    return values if any(value is not None for value in values) else None


class _Texts:
    """Texts cut to a common length that keeps them together below :data:`MOST_TEXT`, each kept once."""

    def __init__(self, texts: Sequence[str | None]) -> None:
        lengths = [len(text) for text in texts if text]
        self.cut = next((cut for cut in _CUTS if sum(min(n, cut) for n in lengths) <= MOST_TEXT), _CUTS[-1])
        self.pool: list[str] = []
        self._places: dict[str, int] = {}

    def head(self, text: str | None) -> str | None:
        """Return the beginning of a text."""
        return text if text is None or len(text) <= self.cut else text[: self.cut] + " …"

    def tail(self, text: str | None) -> str | None:
        """Return the end of a text."""
        return text if text is None or len(text) <= self.cut else "… " + text[-self.cut :]

    def place(self, text: str | None) -> int | None:
        """Return where a text stands in the pool."""
        if text is None:
            return None
        if text not in self._places:
            self._places[text] = len(self.pool)
            self.pool.append(text)
        return self._places[text]
