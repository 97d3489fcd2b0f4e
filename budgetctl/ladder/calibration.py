"""From the confidence of an answer to the probability that it is right, fitted on graded drafts."""

from __future__ import annotations

import hashlib
import math
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from budgetctl.errors import ConfigError, NotEnoughEvidence

FEWEST = 20
"""Graded drafts below which nothing is fitted."""


class Calibration(BaseModel):
    """A non-decreasing map, linear between knots and constant beyond them.

    Fitted by isotonic regression (Ayer et al., 1955): pools of neighbours whose share of right answers would
    fall are joined until none does. A knot is the mean confidence and the share of a pool, which is taken as
    ``(right + 1) / (n + 2)``, so that a small pool never claims certainty.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = Field(default=1, ge=1, le=1)
    knots: tuple[tuple[float, float], ...] = Field(min_length=1)
    n: int = Field(ge=1)
    """Graded drafts that it was fitted on."""

    @field_validator("knots")
    @classmethod
    def _rise(cls, knots: Any) -> Any:
        flat = [value for knot in knots for value in knot]
        if not all(0 <= value <= 1 for value in flat):
            raise ValueError("confidences and probabilities lie in [0, 1]")
        if any(a[0] >= b[0] or a[1] > b[1] for a, b in pairwise(knots)):
            raise ValueError("knots rise")
        return knots

    @classmethod
    def fit(cls, confidences: Sequence[float], correct: Sequence[bool | float]) -> Self:
        """Fit the map on drafts whose answers were graded.

        Args:
            confidences: Of each draft, in [0, 1].
            correct: Whether it was right.

        Raises:
            NotEnoughEvidence: There are fewer than 20 drafts.
            ConfigError: The lengths differ, or a number is not in [0, 1].
        """
        if len(confidences) != len(correct):
            raise ConfigError(f"calibration: {len(confidences)} confidences for {len(correct)} grades")
        if len(confidences) < FEWEST:
            raise NotEnoughEvidence(f"calibration: seen {len(confidences)} graded drafts, needed: {FEWEST}")
        if not all(0 <= float(value) <= 1 for value in (*confidences, *correct)):
            raise ConfigError("calibration: confidences and grades lie in [0, 1]")
        pools: list[_Pool] = []
        for confidence, right in sorted(zip(map(float, confidences), map(float, correct), strict=True)):
            pools.append(_Pool(confidence, right, 1))
            while len(pools) > 1 and not pools[-2].below(pools[-1]):
                last = pools.pop()
                pools[-1] = pools[-1].joined(last)
        return cls(knots=tuple(pool.knot for pool in pools), n=len(confidences))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a map from a JSON file.

        Raises:
            ConfigError: It cannot be read, or is none.
        """
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise ConfigError(f"calibration: {path} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            raise ConfigError(f"calibration: {path}: {error.errors()[0]['msg']}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the map to a JSON file."""
        Path(path).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    def __call__(self, confidence: float) -> float:
        """Return the probability that an answer of this confidence is right."""
        at = bisect_right(self.knots, (confidence, math.inf))
        if at in (0, len(self.knots)):
            return self.knots[min(at, len(self.knots) - 1)][1]
        (x0, y0), (x1, y1) = self.knots[at - 1 : at + 1]
        return y0 + (y1 - y0) * (confidence - x0) / (x1 - x0)

    @property
    def hash(self) -> str:
        """Hash of the map."""
        return hashlib.blake2b(repr(self.knots).encode(), digest_size=8).hexdigest()


class _Pool:
    """Neighbouring drafts: the sums of their confidences and grades, and how many they are."""

    __slots__ = ("confidence", "n", "right")

    def __init__(self, confidence: float, right: float, n: int) -> None:
        self.confidence, self.right, self.n = confidence, right, n

    @property
    def knot(self) -> tuple[float, float]:
        return self.confidence / self.n, (self.right + 1) / (self.n + 2)

    def below(self, other: _Pool) -> bool:
        """Whether this pool's knot lies to the left of the other's and below it."""
        (x0, y0), (x1, y1) = self.knot, other.knot
        return x0 < x1 and y0 < y1

    def joined(self, other: _Pool) -> _Pool:
        return _Pool(self.confidence + other.confidence, self.right + other.right, self.n + other.n)
