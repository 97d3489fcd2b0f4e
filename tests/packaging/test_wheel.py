"""The installed wheel, in an empty environment and in a folder that has its own ``evals/``."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEAKS = ("classifiers", "evals")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy: setuptools leaves a build folder beside the sources, and would ship what is stale in it.
    skip = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "tests", "__pycache__")
    source = Path(shutil.copytree(ROOT, folder / "source", ignore=skip))
    pip = [sys.executable, "-m", "pip", "-v", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, "--wheel-dir", str(folder), str(source)], check=True, capture_output=True, text=True
    )
    assert "is absent from the `packages` configuration" not in done.stdout + done.stderr
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel and what it asks for, and nothing else."""
    folder = tmp_path_factory.mktemp("env")
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True, capture_output=True)
    return python


def run(python: Path, code: str, *, cwd: Path) -> str:
    done = subprocess.run([python, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_wheel_has_every_data_file(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    for file in (
        "budgetctl/py.typed",
        "budgetctl/capabilities.toml",
        "budgetctl/prices.toml",
        "budgetctl/ledger/ledger.lua",
        "budgetctl/classifiers/default.npz",
        "budgetctl/evals/pocket/pocket-1/model.safetensors",
        "budgetctl/evals/pocket/test.jsonl.gz",
        "budgetctl/evals/report/assets/report.js",
        "budgetctl/evals/report/assets/vega.min.js",
        "budgetctl/evals/report/assets/VEGA-LICENSE.txt",
    ):
        assert file in names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"budgetctl"}


def test_it_brings_at_most_pydantic_and_numpy(python: Path, tmp_path: Path):
    code = "import importlib.metadata as m; print(*[d.metadata['Name'].lower() for d in m.distributions()])"
    family = {"pydantic", "pydantic-core", "pydantic_core", "annotated-types", "typing-extensions"}
    family |= {"typing_extensions", "typing-inspection", "numpy"}
    installed = set(run(python, code, cwd=tmp_path).split())
    assert installed - {"pip", "setuptools", "reasoning-budgetctl"} <= family


def test_a_folder_with_its_own_evals_does_not_shadow_ours(python: Path, tmp_path: Path):
    for name in LEAKS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("mine = True")
    code = (
        "import budgetctl.classifiers, budgetctl.evals, evals, classifiers;"
        "print(evals.mine, classifiers.mine)"
    )
    assert run(python, code, cwd=tmp_path) == "True True"


@pytest.mark.parametrize("name", LEAKS)
def test_no_top_level_package_leaks(python: Path, tmp_path: Path, name: str):
    code = f"import importlib.util; print(importlib.util.find_spec({name!r}))"
    assert run(python, code, cwd=tmp_path) == "None"


def test_decisions_and_replay_work_with_the_core_alone(python: Path, tmp_path: Path):
    code = (
        "from budgetctl.cli import main;"
        "assert main(['decide', 'What is 3 + 4?', '--policy', 'quantile:0.9', '--json']) == 0;"
        "policies = 'full,off,cap:64,quantile:0.9';"
        "assert main(['eval', 'replay', 'pocket', '--policies', policies, '--json']) in (0, 1)"
    )
    assert '"policies"' in run(python, code, cwd=tmp_path)
