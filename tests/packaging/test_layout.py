"""The rooms: which packages are shipped, who may import whom, and what ``import budgetctl`` costs."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {
    "budgetctl": ROOT / "budgetctl",
    "budgetctl.classifiers": ROOT / "classifiers",
    "budgetctl.evals": ROOT / "evals",
}

# Who may import whom: a module imports from its own tier and from lower ones.
GROUND = {"errors", "types"}
VALUES = {
    "agreement",
    "background",
    "callbacks",
    "capabilities",
    "certificate",
    "channels",
    "channels_anthropic",
    "channels_google",
    "conversation",
    "hashing",
    "ledger",
    "monitor",
    "names",
    "outcomes",
    "overrides",
    "policy",
    "pricing",
    "records",
    "speed",
    "stopping",
}
MIDDLE = {
    "adapters",
    "audit",
    "bill",
    "charging",
    "config",
    "controller",
    "doctor",
    "engine",
    "guard",
    "ladder",
    "logs",
    "session",
    "slo",
}
OUTER = {"integrations"}
TIERS = [GROUND, VALUES, MIDDLE, OUTER, {"cli"}]


def modules() -> dict[str, Path]:
    """Every module of the three rooms by its installed name."""
    found = {}
    for package, folder in ROOMS.items():
        for path in folder.rglob("*.py"):
            relative = path.relative_to(folder).with_suffix("")
            parts = [p for p in relative.parts if p != "__init__"]
            found[".".join([package, *parts])] = path
    return found


def imports(name: str, path: Path) -> set[str]:
    """Absolute names of the budgetctl modules that ``path`` imports, also inside functions."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names} | {base}
    return {module for module in found if module.startswith("budgetctl")}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def tier(module: str) -> int | None:
    return next((i for i, names in enumerate(TIERS) if room(module) in names), None)


def test_every_core_module_has_a_tier():
    rooms = {room(m) for m in modules() if m != "budgetctl"} - {"classifiers", "evals"}
    assert rooms <= set().union(*TIERS), "place the new module in TIERS"


@pytest.mark.parametrize(("name", "path"), sorted(modules().items()))
def test_imports_point_downwards(name: str, path: Path):
    for target in imports(name, path):
        mine, theirs = tier(name), tier(target)
        if mine is not None and theirs is not None:
            assert theirs <= mine, f"{name} imports {target}"
        if room(name) == "classifiers":
            assert room(target) in {"classifiers", "types", "errors", ""}, f"{name} imports {target}"
        if room(name) not in {"cli", "evals"}:
            assert room(target) != "evals", f"{name} imports {target}"
        if room(name) not in {"classifiers", "evals", "cli"} and room(target) == "classifiers":
            assert name == "budgetctl.controller", f"{name} imports {target}"
        if room(name) != "cli":
            assert room(target) != "cli" or name == "budgetctl.__main__", f"{name} imports {target}"


def test_every_package_on_disk_is_shipped():
    declared = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    on_disk = {name for name, path in modules().items() if path.name == "__init__.py"}
    assert declared == on_disk


def test_import_is_light():
    heavy = ["numpy", "pydantic", "openai", "sklearn", "torch", "transformers", "matplotlib"]
    code = f"import sys, budgetctl; print([m for m in {heavy} if m in sys.modules])"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "[]"


def test_all_is_sorted_and_importable():
    import budgetctl

    assert budgetctl.__all__ == sorted(budgetctl.__all__)
    assert len(budgetctl.__all__) <= 20
    for name in budgetctl.__all__:
        assert getattr(budgetctl, name) is not None
