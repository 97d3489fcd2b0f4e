"""Each extra by itself, in an environment that has nothing else."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    "openai": "budgetctl.integrations.openai",
    "anthropic": "budgetctl.integrations.anthropic",
    "google": "budgetctl.integrations.google",
    "langchain": "budgetctl.integrations.langchain",
    "litellm": "budgetctl.integrations.litellm",
    "pydantic-ai": "budgetctl.integrations.pydantic_ai",
    "local": "budgetctl.integrations.transformers",
    "train": "budgetctl.classifiers.train",
    "evals": "budgetctl.evals.report",
    "parquet": "budgetctl.evals.exchange",
    "inspect": "budgetctl.evals.exchange",
    "pytest": "budgetctl.evals.plugin",
    "ray": "budgetctl.evals.engines",
    "redis": "budgetctl.ledger.redis",
    "prices": "budgetctl.pricing",
}
"""What each extra is for."""
TOGETHER = {"all", "dev"}

pytestmark = pytest.mark.skipif(
    ROOT / ".venvs" not in Path(sys.prefix).parents,
    reason="takes minutes: make test-integrations FAMILY=extras",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--quiet",
        "wheel",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(pip, check=True)
    [built] = folder.glob("*.whl")
    return built


def test_every_extra_is_tried():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) - TOGETHER == set(MODULES)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("extra", MODULES)
def test_it_installs_by_itself(wheel: Path, tmp_path: Path, extra: str):
    venv.create(tmp_path / "env", with_pip=True)
    scripts = tmp_path / "env" / "bin"
    pip = [scripts / "python", "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    pip += ["--constraint", ROOT / "constraints.txt"]
    if extra == "local":
        subprocess.run([*pip, *shlex.split(os.environ.get("TORCH_INDEX", "")), "torch"], check=True)
    subprocess.run([*pip, f"{wheel}[{extra}]"], check=True)
    for command in (
        [scripts / "python", "-c", f"import {MODULES[extra]}"],
        [scripts / "budgetctl", "--help"],
    ):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
