"""What a criterion is, and how criteria are put together: ``a | b`` and ``a & b``.

A criterion watches a running thought and says when it has gone on long enough. It looks at the progress of
one call and returns evidence, or None to let the model think on. It may keep state, so every call gets
fresh ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from budgetctl.types import Evidence, Progress

Signal = Literal["text", "close_margin", "token_confidence", "entropy_after", "trial"]
"""What a criterion reads of the progress and what costs something to provide: fields of ``Progress``, and
``text`` for ``reasoning``."""

PROBES: frozenset[Signal] = frozenset({"entropy_after", "trial"})
"""Signals that cost forward passes of the model, so they are only measured when they are asked for."""

WITHIN = 256
"""Tokens of thinking for which one piece of soft evidence waits for the other."""


class Criterion(Protocol):
    """What users implement to stop thinking on their own terms.

    A criterion may have ``needs``, a set of signals; without it it is given the text and nothing that costs
    extra. Signals that take a probe are measured where ``asks(progress)`` names them; without that method,
    at every boundary that the probe budget allows.
    """

    @property
    def name(self) -> str:
        """The name that outcomes record."""
        ...

    def observe(self, progress: Progress) -> Evidence | None:
        """Return evidence to stop thinking now, or None."""


def needs(criterion: Criterion) -> frozenset[Signal]:
    """Return the signals that a criterion reads."""
    found: frozenset[Signal] = getattr(criterion, "needs", frozenset({"text"}))
    return found


def asks(criterion: Criterion, progress: Progress) -> frozenset[Signal]:
    """Return the probes that a criterion wants at this point; it has observed the progress already."""
    ask = getattr(criterion, "asks", None)
    wanted: frozenset[Signal] = needs(criterion) if ask is None else ask(progress)
    return wanted & PROBES


class Composable:
    """The operators of our own criteria."""

    needs: frozenset[Signal] = frozenset()

    def __or__(self: Criterion, other: Criterion) -> AnyOf:
        return AnyOf(self, other)

    def __and__(self: Criterion, other: Criterion) -> AllOf:
        return AllOf(self, other)


class AnyOf(Composable):
    """Stop as soon as one of the criteria does: hard evidence first, else in the order given.

    ``a | b`` builds the same. Without criteria it never stops. All parts see all progress, whoever finds
    something first: evidence may be set aside, and then nobody must have missed anything.
    """

    def __init__(self, *criteria: Criterion) -> None:
        self.criteria = criteria
        self.needs = _union(criteria)

    @property
    def name(self) -> str:
        """The names of the parts, joined by ``|``."""
        return "|".join(c.name for c in self.criteria)

    def observe(self, progress: Progress) -> Evidence | None:
        """Return the first evidence that any part gives."""
        found = [e for c in self.criteria if (e := c.observe(progress)) is not None]
        return next((e for e in found if e.hard), found[0] if found else None)

    def asks(self, progress: Progress) -> frozenset[Signal]:
        """Return what any part asks for."""
        return frozenset().union(*(asks(c, progress) for c in self.criteria))


class AllOf(Composable):
    """Stop when all of the criteria have found something within a stretch of thinking.

    Two weak signs together are worth a stop where neither is alone. ``a & b`` builds the same. Evidence
    counts for ``within`` tokens. Parts that need probes are asked only while all others have found
    something, so a free sign gates a costly one.

    Args:
        criteria: The parts; without any it never stops.
        within: Tokens of thinking in which all evidence must come.
    """

    def __init__(self, *criteria: Criterion, within: int = WITHIN) -> None:
        self.criteria = criteria
        self.within = within
        self.needs = _union(criteria)
        self._found: dict[int, tuple[int, Evidence]] = {}

    @property
    def name(self) -> str:
        """The names of the parts, joined by ``&``."""
        return "&".join(f"({c.name})" if isinstance(c, AnyOf) else c.name for c in self.criteria)

    def observe(self, progress: Progress) -> Evidence | None:
        """Return evidence when the last part joins the others; it is hard where all of theirs is."""
        for i, criterion in enumerate(self.criteria):
            evidence = criterion.observe(progress)
            if evidence is not None:
                self._found[i] = (progress.reasoning_tokens, evidence)
        found = [self._recent(i, progress) for i in range(len(self.criteria))]
        every = [e for e in found if e is not None]
        if not every or len(every) < len(found):
            return None
        return Evidence(
            criterion=self.name,
            reason=every[0].reason,
            hard=all(e.hard for e in every),
            score=min(e.score for e in every),
        )

    def asks(self, progress: Progress) -> frozenset[Signal]:
        """Return what the parts with probes ask for, once all the parts without have found something."""
        gates = [i for i, c in enumerate(self.criteria) if not needs(c) & PROBES]
        if any(self._recent(i, progress) is None for i in gates):
            return frozenset()
        return frozenset().union(*(asks(c, progress) for c in self.criteria))

    def _recent(self, part: int, progress: Progress) -> Evidence | None:
        at, evidence = self._found.get(part, (0, None))
        return evidence if progress.reasoning_tokens - at <= self.within else None


def _union(criteria: Sequence[Criterion]) -> frozenset[Signal]:
    return frozenset().union(*(needs(c) for c in criteria))
