"""The cascade: the cheap rung answers, and the dear one where that is not good enough.

    ladder = budgetctl.ladder.over({"qwen3-4b": local, "gpt-5": cloud}, ["qwen3-4b@off", "gpt-5@full"],
                                   accept=Confident(0.9), local=["qwen3-4b"])
    reply = ladder.chat.completions.create(messages=[...])

A rung is a model and how much it may think. :func:`climb` says which one is asked next, without any io;
:func:`over` runs it on clients of the OpenAI SDK, under their budgets, guards and records.
"""

from __future__ import annotations

from .acceptance import Acceptance, Agreement, Confident, Verdict, Verified
from .calibration import Calibration
from .choice import Rates, start_rung
from .client import over
from .climb import Climbed, Failed, Judged, climb
from .confidence import answer_confidence
from .rungs import Draft, Ladder, Rung

__all__ = [
    "Acceptance",
    "Agreement",
    "Calibration",
    "Climbed",
    "Confident",
    "Draft",
    "Failed",
    "Judged",
    "Ladder",
    "Rates",
    "Rung",
    "Verdict",
    "Verified",
    "answer_confidence",
    "climb",
    "over",
    "start_rung",
]
