"""Weight files: what is written is read again, and nothing else is taken for it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from budgetctl.classifiers.networks import Header
from budgetctl.classifiers.weightfile import Source, digest, read, write

from budgetctl.errors import ClassifierError

SOURCE = Source(datasets=("toy",), models=("toy-1",), questions=7)
ARRAYS = {"rows": np.arange(6000.0).reshape(2, 3000) ** 0.5, "habits": np.array([0.5], dtype=np.float32)}
EXPECTED = {"rows": 2, "habits": 1}
HEADER = Header(
    name="toy",
    base="bert",
    created="2026-01-01",
    trained_on=SOURCE,
    calibrated_on=SOURCE,
    models=("toy-1",),
    note="",
    sha256=digest(ARRAYS),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "w.npz", HEADER, ARRAYS)
    return tmp_path / "w.npz"


def reading(path: Path) -> tuple[Header, dict[str, Any]]:
    return read(path, Header.from_json, EXPECTED)


def put(path: Path, header: bytes, **arrays: Any) -> None:
    """Write a file whose header and arrays need not fit."""
    np.savez(path, header=np.frombuffer(header, dtype=np.uint8), **arrays)


def test_what_was_written_is_read(path: Path) -> None:
    header, arrays = reading(path)
    assert header == HEADER
    assert arrays.keys() == ARRAYS.keys()
    assert all(np.array_equal(arrays[name], ARRAYS[name]) for name in ARRAYS)
    assert digest(arrays) == HEADER.sha256


def test_the_checksum_knows_names_types_shapes_and_contents_and_no_order() -> None:
    a, b = np.zeros(4, dtype=np.float32), np.ones(4, dtype=np.float32)
    found = digest({"a": a, "b": b})
    assert digest({"b": b, "a": a}) == found
    others = (
        {"a": b, "b": a},
        {"a": a, "c": b},
        {"a": a.reshape(2, 2), "b": b},
        {"a": a.view("<i4"), "b": b},
    )
    assert found not in {digest(other) for other in others}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match=r"gone\.npz: no such weight file"):
        reading(tmp_path / "gone.npz")


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_an_error_of_ours(path: Path, kept: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ClassifierError, match=r"w\.npz: .*damaged"):
        reading(path)


def test_altered_weights_do_not_match_their_checksum(path: Path) -> None:
    put(path, json.dumps(asdict(HEADER)).encode(), **(ARRAYS | {"habits": ARRAYS["habits"] + 1}))
    with pytest.raises(ClassifierError, match=r"w\.npz: checksum is"):
        reading(path)


def test_pickled_objects_are_refused_before_they_run(path: Path) -> None:
    class Code:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(path.with_name("it-ran")),)

    np.savez(path, header=np.array([Code()], dtype=object))
    with pytest.raises(ClassifierError, match=r"w\.npz"):
        reading(path)
    assert not path.with_name("it-ran").exists()


def test_an_npz_that_is_something_else_is_refused(path: Path) -> None:
    np.savez(path, **ARRAYS)
    with pytest.raises(ClassifierError, match="no header"):
        reading(path)


@pytest.mark.parametrize(
    "arrays",
    [{"habits": ARRAYS["habits"]}, ARRAYS | {"rows": ARRAYS["rows"].ravel()}],
    ids=["missing", "flat"],
)
def test_an_array_that_is_missing_or_of_another_shape_is_named(path: Path, arrays: dict[str, Any]) -> None:
    write(path, replace(HEADER, sha256=digest(arrays)), arrays)
    with pytest.raises(ClassifierError, match="missing or of another shape: rows"):
        reading(path)


def test_every_model_has_its_habit(path: Path) -> None:
    write(path, replace(HEADER, models=("toy-1", "toy-2")), ARRAYS)
    with pytest.raises(ClassifierError, match="do not fit each other"):
        reading(path)


def test_a_later_version_may_say_more(path: Path) -> None:
    put(path, json.dumps(asdict(HEADER) | {"later": 1}).encode(), **ARRAYS)
    assert reading(path)[0] == HEADER


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema_version": 1}, "schema_version: seen 1, this package reads 2"),
        ({"trained_on": None}, "trained_on: dict expected, seen None"),
        ({"trained_on": {"datasets": []}}, "models: list expected, seen None"),
        ({"models": "toy-1"}, "models: list expected, seen 'toy-1'"),
        ({"base": 1}, "base: str expected, seen 1"),
    ],
)
def test_a_field_that_is_wrong_is_named(path: Path, change: dict[str, Any], says: str) -> None:
    put(path, json.dumps(asdict(HEADER) | change).encode(), **ARRAYS)
    with pytest.raises(ClassifierError, match=f"header: {says}"):
        reading(path)


@pytest.mark.parametrize("header", [b"[1]", b"{", b"\xff\xfe\xfa"])
def test_a_header_that_is_no_json_object_is_an_error_of_ours(path: Path, header: bytes) -> None:
    put(path, header, **ARRAYS)
    with pytest.raises(ClassifierError, match=r"w\.npz: "):
        reading(path)
