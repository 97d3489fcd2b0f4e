"""From the outputs of a network to an estimate: calibration by kind of traffic, and the habits of each model.

    out = 4 class logits (right in both ways, only with thinking, only without, in neither)
        + 4 quantiles of the settled + 4 of the natural difficulty, in log(1 + tokens)
          above the centre of the kind
        + one logit per kind of traffic, whose calibration holds where it is the largest

Classes get a temperature and biases (Guo et al. 2017), quantiles a conformal correction (Romano et al. 2019),
kind by kind. It is the same for all questions of a kind: in units of each one's own spread it would multiply
the noise of the spread, and a typing error would move the budget. A named model that is known adds its habit
of thinking long or short. Any other model is a generic one: its quantiles also cover the difference between
models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budgetctl.types import Estimate, Quantiles

Array = NDArray[Any]

QUANTILES = (0.5, 0.8, 0.9, 0.95)
FOREIGN_MODEL = 0.25
"""Confidence is multiplied by this for a named model that is not known, where so few are known that they say
little of another."""
MANY_MODELS = 10
MAX_LOG = 20.0
"""No estimate is above e**20 tokens, whatever the weights."""

ARRAYS: dict[str, int] = {
    "temperature": 1,
    "class_bias": 2,
    "kind_centre": 2,
    "foreign_centre": 2,
    "shift": 3,
    "foreign_shift": 3,
    "habits": 1,
}
"""Arrays of a readout and their dimensions.

``temperature`` kinds; ``class_bias`` kinds x 4; ``kind_centre`` and ``foreign_centre`` (for unknown models)
kinds x [settled, natural], the log(1 + tokens) that 0 stands for; ``shift`` and ``foreign_shift`` kinds x
[settled, natural] x quantiles, and ``habits`` models: offsets in log(1 + tokens).
"""


class Readout:
    """Calibration and habits. Immutable."""

    def __init__(self, arrays: Mapping[str, Array], models: Sequence[str]) -> None:
        wide = {name: np.asarray(arrays[name], dtype=np.float64) for name in ARRAYS}
        self._sharpness: list[float] = (1.0 / wide["temperature"]).tolist()
        self._class_bias = wide["class_bias"].tolist()
        self._centre = wide["kind_centre"].tolist()
        self._foreign_centre = wide["foreign_centre"].tolist()
        self._shift = wide["shift"].tolist()
        self._foreign_shift = wide["foreign_shift"].tolist()
        self._habits = dict(zip(map(base_name, models), wide["habits"].tolist(), strict=True))
        self._unknown = 1.0 if len(self._habits) >= MANY_MODELS else FOREIGN_MODEL

    def estimate(
        self, out: Sequence[float], *, model: str | None, confidence: float, source: str
    ) -> Estimate:
        """Return the estimate for one query.

        Args:
            out: The network's outputs, 12 and one per kind.
            model: The model the call names.
            confidence: How much the query looks like what was trained on, in [0, 1].
            source: Name and hash of the weights.
        """
        kind = out.index(max(out[12:]), 12) - 12
        habit = None if model is None else self._habits.get(base_name(model))
        trust = 1.0 if model is None or habit is not None else self._unknown
        if habit is None:
            shift, centre, habit = self._foreign_shift[kind], self._foreign_centre[kind], 0.0
        else:
            shift, centre = self._shift[kind], self._centre[kind]
        p_off, p_full = self._probabilities(out, kind)
        settled = _tokens(out[4:8], shift[0], habit + centre[0])
        # Thinking ends after it has settled.
        natural = [*map(max, settled, _tokens(out[8:12], shift[1], habit + centre[1]))]
        return Estimate(
            p_off=p_off,
            p_full=p_full,
            settled=Quantiles(p50=settled[0], p80=settled[1], p90=settled[2], p95=settled[3]),
            natural=Quantiles(p50=natural[0], p80=natural[1], p90=natural[2], p95=natural[3]),
            confidence=confidence * trust,
            source=source,
        )

    def _probabilities(self, out: Sequence[float], kind: int) -> tuple[float, float]:
        sharpness, (b0, b1, b2, b3) = self._sharpness[kind], self._class_bias[kind]
        x0, x1 = out[0] * sharpness + b0, out[1] * sharpness + b1
        x2, x3 = out[2] * sharpness + b2, out[3] * sharpness + b3
        top = max(x0, x1, x2, x3)
        both, only_full = math.exp(x0 - top), math.exp(x1 - top)
        only_off, neither = math.exp(x2 - top), math.exp(x3 - top)
        total = both + only_full + only_off + neither
        return (both + only_off) / total, (both + only_full) / total


def base_name(model: str) -> str:
    """Return a model's name without its path or vendor and without a variant, in lower case."""
    return model.rstrip("/").rsplit("/", 1)[-1].split(":")[0].lower()


def _tokens(logs: Sequence[float], shift: Sequence[float], offset: float) -> list[float]:
    """Return corrected quantiles in tokens, made non-decreasing."""
    y0, y1, y2, y3 = logs
    s0, s1, s2, s3 = shift
    p50, p80, p90, p95 = y0 + s0 + offset, y1 + s1 + offset, y2 + s2 + offset, y3 + s3 + offset
    # Comparisons, since each call of max and min takes as long as the arithmetic of a quantile.
    if p80 < p50:
        p80 = p50
    if p90 < p80:
        p90 = p80
    if p95 < p90:
        p95 = p90
    return [math.expm1(y) if 0.0 < y < MAX_LOG else _TOP if y > 0.0 else 0.0 for y in (p50, p80, p90, p95)]


_TOP = math.expm1(MAX_LOG)
