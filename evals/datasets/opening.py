"""Opens a question set by name: ``gsm8k:PATH_OR_URL``."""

from __future__ import annotations

from budgetctl.evals.datasets.formats import FORMATS, Item, Missing
from budgetctl.evals.datasets.sources import fetch, records

from budgetctl.errors import EvalError


def is_dataset(name: str) -> bool:
    """Return whether a suite's name begins with that of a published format."""
    kind, colon, _ = name.partition(":")
    return bool(colon) and kind in FORMATS


def open_dataset(name: str, *, limit: int | None = None) -> tuple[list[tuple[str, Item]], str]:
    """Return the questions of a set, each under a name of its own, and the name of their grader.

    Args:
        name: ``FORMAT:PATH_OR_URL``; see :func:`budgetctl.evals.datasets.fetch`.
        limit: Only so many, the first.

    Raises:
        ConfigError: There is no such file, or a URL has no checksum.
        EvalError: A record is not of the format; names file and place.
    """
    kind, _, source = name.partition(":")
    known = FORMATS[kind]
    items: dict[str, Item] = {}
    for number, (where, record) in enumerate(records(fetch(source)), start=1):
        if limit is not None and len(items) >= limit:
            break
        try:
            item = known.read(record)
        except Missing as error:
            raise EvalError(f"{where}: not of the format {kind!r}: {error}") from None
        key = item.id if item.id is not None else str(number)
        if key in items:
            raise EvalError(f"{where}: a second question is called {key!r}")
        items[key] = item
    if not items:
        raise EvalError(f"{source}: holds no questions")
    return list(items.items()), known.grader
