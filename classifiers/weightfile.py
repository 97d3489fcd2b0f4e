"""Weight files: plain arrays and a JSON header in one ``.npz``, never pickled objects.

Headers are plain dataclasses, read by hand: importing pydantic would be half the time of a first decision.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from budgetctl.errors import ClassifierError

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a set of recordings was."""

    datasets: tuple[str, ...]
    models: tuple[str, ...]
    questions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What weights are and where they come from; each kind of weights adds its own fields.

    Attributes:
        models: Models whose habits are known, in the order of the array ``habits``.
        sha256: Over all arrays.
    """

    schema_version: int
    name: str
    created: str
    trained_on: Source
    calibrated_on: Source
    models: tuple[str, ...]
    note: str
    sha256: str


H = TypeVar("H", bound=Header)


def parse(data: bytes, *, version: int) -> dict[str, Any]:
    """Return the fields of a header in JSON.

    Raises:
        ValueError: It is no header of schema ``version``.
    """
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError(f"header: not a JSON object, seen {found!r:.80}")
    seen = found.get("schema_version")
    if seen != version:
        raise ValueError(f"header: schema_version: seen {seen!r}, this package reads {version}")
    return found


def shared(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that all headers have, checked; fields of a later minor version are left out.

    Raises:
        ValueError: Says which field is wrong.
    """
    return {
        "schema_version": typed(found, "schema_version", int),
        "trained_on": _source(found, "trained_on"),
        "calibrated_on": _source(found, "calibrated_on"),
        "models": _names(found, "models"),
        **{key: typed(found, key, str) for key in ("name", "created", "note", "sha256")},
    }


def typed(found: Mapping[str, Any], key: str, kind: type) -> Any:
    """Return the field ``key``.

    Raises:
        ValueError: It is missing or not of type ``kind``.
    """
    if not isinstance(found.get(key), kind):
        raise ValueError(f"header: {key}: {kind.__name__} expected, seen {found.get(key)!r:.80}")
    return found[key]


def _source(header: Mapping[str, Any], key: str) -> Source:
    found = typed(header, key, dict)
    return Source(
        datasets=_names(found, "datasets"),
        models=_names(found, "models"),
        questions=typed(found, "questions", int),
    )


def _names(found: Mapping[str, Any], key: str) -> tuple[str, ...]:
    return tuple(map(str, typed(found, key, list)))


def digest(arrays: Mapping[str, Array]) -> str:
    """Return the SHA-256 over names, types, shapes and contents of arrays, independent of their order."""
    seen = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        seen.update(f"{name} {array.dtype.str} {array.shape};".encode())
        seen.update(array.tobytes())
    return seen.hexdigest()


def write(path: Path, header: Header, arrays: Mapping[str, Array]) -> None:
    """Write arrays and their header."""
    data = np.frombuffer(json.dumps(asdict(header)).encode(), dtype=np.uint8)
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, header=data, **arrays)


def read(
    path: Path, parse_header: Callable[[bytes], H], expected: Mapping[str, int]
) -> tuple[H, dict[str, Array]]:
    """Read what :func:`write` wrote.

    Args:
        path: The file.
        parse_header: Makes a header of its JSON; raises ValueError where it is wrong.
        expected: Names of the arrays and their numbers of dimensions; ``habits``, one per model, among them.

    Raises:
        ClassifierError: The file is missing, damaged, or something else; says which.
    """
    try:
        with np.load(BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise ClassifierError(f"{path}: no such weight file") from None
    except Exception as error:  # a flipped bit can bring anything, zlib.error for one
        raise ClassifierError(f"{path}: not a readable weight file, damaged or truncated: {error}") from error
    try:
        if "header" not in arrays:
            raise ValueError("no header: not a weight file of this package")
        header = parse_header(arrays.pop("header").tobytes())
        _check(header, arrays, expected)
    except ValueError as error:
        raise ClassifierError(f"{path}: {error}") from error
    return header, arrays


def _check(header: Header, arrays: Mapping[str, Array], expected: Mapping[str, int]) -> None:
    wrong = [name for name, ndim in expected.items() if name not in arrays or arrays[name].ndim != ndim]
    if wrong:
        raise ValueError(f"arrays are missing or of another shape: {', '.join(wrong)}")
    seen = digest(arrays)
    if seen != header.sha256:
        raise ValueError(
            f"checksum is {seen[:12]}.., the header says {header.sha256[:12]}..: damaged or altered"
        )
    if len(arrays["habits"]) != len(header.models):
        raise ValueError("arrays do not fit each other: damaged or altered")
