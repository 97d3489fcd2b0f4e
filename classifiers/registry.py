"""Where classifiers are found: built-in names, weight files, and installed entry points."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from budgetctl.classifiers.base import Classifier

from budgetctl.errors import ClassifierError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "budgetctl.classifiers"
"""Entry-point group: each entry is a callable without arguments that returns a classifier."""

BUILT_IN = {"default": ("default.npz", "pocket.npz"), "pocket": ("pocket.npz",)}
"""Weights that ship with the package; of several, who knows the model answers, else the first."""


def load(name_or_path: str | os.PathLike[str] = "default") -> Classifier:
    """Return a classifier, loaded once per process.

    Args:
        name_or_path: ``default``, ``pocket`` (the embedded reasoner's own weights), ``heuristic``, the
            path of an ``.npz`` file, or the name of an entry point in the group ``budgetctl.classifiers``.
            A file that changes on disk is loaded again.

    Raises:
        ClassifierError: There is no such classifier, or its weights cannot be used.
    """
    name = os.fspath(name_or_path)
    if name in BUILT_IN:
        return _built_in(name)
    if name == "heuristic":
        return _heuristic()
    if name.endswith(".npz"):
        path = Path(name).absolute()
        try:
            return _from_file(path, path.stat().st_mtime_ns)
        except OSError as error:
            raise ClassifierError(f"{path}: {error.strerror or error}") from error
    return _from_entry_point(name)


def check(name: str) -> None:
    """Refuse a name that no classifier has. Reads no weights, and looks at no path.

    Raises:
        ClassifierError: There is no such classifier; the message names those that there are.
    """
    if name not in BUILT_IN and name != "heuristic" and not name.endswith(".npz"):
        _entry_point(name)


@cache
def _built_in(name: str) -> Classifier:
    from budgetctl.classifiers.experts import Experts
    from budgetctl.classifiers.linear import LinearClassifier

    found = [LinearClassifier.load(Path(__file__).with_name(file)) for file in BUILT_IN[name]]
    return found[0] if len(found) == 1 else Experts(found, name=name)


@cache
def _heuristic() -> Classifier:
    from budgetctl.classifiers.heuristic import HeuristicClassifier

    return HeuristicClassifier()


@cache
def _from_file(path: Path, changed_ns: int | None) -> Classifier:
    from budgetctl.classifiers.linear import LinearClassifier

    return LinearClassifier.load(path)


def _entry_point(name: str) -> EntryPoint:
    from importlib.metadata import entry_points  # costs more than the shipped weights, which need none

    installed = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in installed:
        known = ", ".join(sorted({*BUILT_IN, "heuristic", *installed}))
        raise ClassifierError(f"no classifier {name!r}; known: {known}, or the path of an .npz file")
    return installed[name]


@cache
def _from_entry_point(name: str) -> Classifier:
    entry = _entry_point(name)
    try:
        classifier = entry.load()()
    except Exception as error:
        raise ClassifierError(f"classifier {name!r} ({entry.value}) failed to load: {error!r}") from error
    if not isinstance(classifier, Classifier):
        raise ClassifierError(
            f"classifier {name!r} ({entry.value}) lacks one of name, hash, estimate: "
            f"seen {type(classifier).__name__}"
        )
    return classifier
