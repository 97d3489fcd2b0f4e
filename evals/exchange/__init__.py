"""Cubes from the logs of other tools, and cubes as files that other tools read.

Sources: ``inspect``, logs of inspect_ai; ``lm-eval``, samples of the LM evaluation harness; ``calls``,
requests and responses of an OpenAI-style endpoint; ``outcomes``, our own outcome files with their feedback.
"""

from __future__ import annotations

from budgetctl.evals.exchange.common import Defaults
from budgetctl.evals.exchange.reading import SOURCES, Imported, read

__all__ = ["SOURCES", "Defaults", "Imported", "read"]
