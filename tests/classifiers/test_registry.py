"""Where classifiers come from."""

from __future__ import annotations

import os
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from budgetctl.classifiers import load, registry
from budgetctl.classifiers.linear import LinearClassifier

from budgetctl.errors import ClassifierError
from budgetctl.types import Estimate, Quantiles, Query

FLAT = Quantiles(p50=1, p80=2, p90=3, p95=4)


class Constant:
    name = "constant"
    hash = "0"

    def estimate(self, query: Query) -> Estimate:
        return Estimate(p_off=0.5, p_full=0.5, settled=FLAT, natural=FLAT, confidence=1, source="constant")


def broken() -> None:
    raise RuntimeError("no weights here")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"mine": f"{__name__}:Constant", "broken": f"{__name__}:broken", "odd": "builtins:dict"}
    points = EntryPoints(EntryPoint(name, value, registry.GROUP) for name, value in values.items())
    monkeypatch.setattr("importlib.metadata.entry_points", lambda *, group: points.select(group=group))
    registry._from_entry_point.cache_clear()


def test_a_file_is_loaded_once_until_it_changes(toy: LinearClassifier, tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    toy.save(path)
    first = load(path)
    assert load(str(path)) is first
    os.utime(path, ns=(1, 1))
    assert load(path) is not first


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match=r"gone\.npz: No such file"):
        load(tmp_path / "gone.npz")


@pytest.mark.usefixtures("installed")
def test_an_installed_package_can_bring_its_own() -> None:
    assert load("mine").estimate(Query.from_text("?")).source == "constant"
    assert load("mine") is load("mine")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "nobody",
            "no classifier 'nobody'; known: broken, default, heuristic, mine, odd, pocket, or the path",
        ),
        ("broken", "failed to load: RuntimeError.*no weights here"),
        ("odd", "lacks one of name, hash, estimate: seen dict"),
    ],
)
def test_what_cannot_be_loaded_says_why(name: str, says: str) -> None:
    with pytest.raises(ClassifierError, match=says):
        load(name)
