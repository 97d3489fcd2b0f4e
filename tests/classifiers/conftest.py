from __future__ import annotations

import pytest
from budgetctl.classifiers import fit, train
from budgetctl.classifiers.linear import LinearClassifier
from budgetctl.classifiers.targets import Example, read

from .traffic import rows, write

RECIPE = fit.Recipe(width=8, hidden=24, epochs=30, batch=64)


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Example]]:
    """Examples of the toy traffic by split."""
    folder = tmp_path_factory.mktemp("toy")
    sizes = {"train": 1200, "calibration": 500, "test": 500}
    return {
        split: read([write(folder / f"{split}.jsonl.gz", rows(n, seed=seed))])
        for seed, (split, n) in enumerate(sizes.items())
    }


@pytest.fixture(scope="session")
def toy(recorded: dict[str, list[Example]]) -> LinearClassifier:
    """A classifier that was trained on the toy traffic."""
    return train.train(
        recorded["train"],
        recorded["calibration"],
        name="toy",
        note="",
        created="2026-01-01",
        recipe=RECIPE,
    )
