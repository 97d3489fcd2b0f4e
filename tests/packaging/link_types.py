"""Build ``.types/budgetctl``: links to the rooms, laid out as they are installed, for the type checkers."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def link() -> Path:
    """Make the tree anew and return it."""
    tree = ROOT / ".types" / "budgetctl"
    shutil.rmtree(tree.parent, ignore_errors=True)
    tree.mkdir(parents=True)
    for entry in (ROOT / "budgetctl").iterdir():
        if entry.name != "__pycache__":
            (tree / entry.name).symlink_to(entry)
    for room in ("classifiers", "evals"):
        (tree / room).symlink_to(ROOT / room)
    return tree


if __name__ == "__main__":
    link()
