"""What every test shares: a home of its own, and as many threads as it has cores to itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Set before torch is loaded anywhere: the models here are so small that a second thread only waits.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def _home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the installation's key out of the user's own configuration."""
    os.environ["BUDGETCTL_HOME"] = str(Path(tmp_path_factory.mktemp("home")))
