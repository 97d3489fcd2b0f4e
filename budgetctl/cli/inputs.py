"""What several commands take: recordings by name, sampling parameters as JSON, a configuration."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from budgetctl.errors import ConfigError

POCKET = "pocket"


def recording(name: str) -> Path:
    """Return the file that the name of a recording stands for."""
    if name != POCKET:
        return Path(name)
    from budgetctl.evals import pocket

    return pocket.path().parent / "test.jsonl.gz"


def sampling(text: str) -> dict[str, Any]:
    """Return the sampling parameters that ``--sampling`` gives.

    Raises:
        ConfigError: It is no JSON object of sampling parameters.
    """
    from budgetctl.certificate import SAMPLING

    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not set(found) <= set(SAMPLING):
        raise ConfigError(
            f"--sampling {text!r}: expected a JSON object like '{{\"temperature\": 0.6}}'; allowed keys are "
            f"{', '.join(SAMPLING)}"
        )
    return found


def add_cluster_by(parser: argparse.ArgumentParser) -> None:
    """Add ``--cluster-by``, which says what is independent."""
    parser.add_argument(
        "--cluster-by",
        choices=("question", "cluster"),
        default="question",
        help="the independent unit; 'cluster' for many questions from few sources (default: question)",
    )
