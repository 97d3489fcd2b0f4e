"""What a figure of the page consists of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from budgetctl.evals.report.charts.vega import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure of the page.

    Attributes:
        id: Its name in the page.
        title: Its heading.
        note: What a reader has to know to read it.
        variants: Label of a choice to its chart; a single one needs no choice.
        choice: What is chosen between.
        headings: Of the table with its numbers.
        lines: The cells.
        narrow: It is about as wide as tall.
    """

    id: str
    title: str
    note: str
    variants: Mapping[str, Spec]
    choice: str = ""
    headings: Sequence[str] = ()
    lines: Sequence[Sequence[str]] = ()
    narrow: bool = False
