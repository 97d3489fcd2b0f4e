"""Integrations that cannot share an environment: what each family installs, and what is run in it.

    python tests/integrations/families.py [NAME ...]        # or: make test-integrations FAMILY=NAME

Each family gets an environment of its own in ``.venvs``, kept until what it installs has changed. What is not
listed here runs in the environment of ``make test``.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENVS = ROOT / ".venvs"
TOOLS = ("pytest>=8", "pytest-asyncio>=0.24", "pytest-timeout>=2.3")


@dataclass(frozen=True, kw_only=True)
class Family:
    """One environment.

    Attributes:
        extra: The extra of ours that it is about.
        packages: What pip installs besides.
        module: What can be imported when they are there.
        tests: Files to run, from the root.
        pages: Pages of ``docs/`` whose snippets run here.
    """

    module: str
    packages: tuple[str, ...] = ()
    extra: str | None = None
    tests: tuple[str, ...]
    pages: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        """Whether the running interpreter has it."""
        return find_spec(self.module) is not None


WRAPPED_CLIENT = (
    "tests/contract/test_wire.py",
    "tests/engines/test_scenarios.py",
    "tests/engines/test_actuators.py",
    "tests/engines/test_scripted.py",
    "tests/integrations/test_decorator.py",
)

FAMILIES: Mapping[str, Family] = {
    "openai-1": Family(packages=("openai==1.109.1",), module="openai", tests=WRAPPED_CLIENT),
    "openai-2": Family(packages=("openai==2.54.0",), module="openai", tests=WRAPPED_CLIENT),
    "openai-3": Family(packages=("openai>=3",), module="openai", tests=WRAPPED_CLIENT),
    "litellm": Family(
        extra="litellm",
        packages=("litellm[proxy]",),
        module="litellm",
        tests=(
            "tests/integrations/test_litellm.py",
            "tests/integrations/test_litellm_proxy.py",
            "tests/ledger/test_everywhere.py",
        ),
        pages=("litellm.md",),
    ),
    "pydantic-ai": Family(
        extra="pydantic-ai",
        packages=("pydantic-ai-slim[openai,anthropic,google]",),
        module="pydantic_ai",
        tests=("tests/integrations/test_pydantic_ai.py", "tests/ledger/test_everywhere.py"),
        pages=("pydantic-ai.md",),
    ),
    "instructor": Family(
        extra="openai",
        packages=("instructor>=1.17",),
        module="instructor",
        tests=("tests/integrations/test_instructor.py",),
        pages=("instructor.md",),
    ),
    "openai-agents": Family(
        extra="openai",
        packages=("openai-agents>=0.24",),
        module="agents",
        tests=("tests/integrations/test_openai_agents.py",),
        pages=("openai-agents.md",),
    ),
    "ray": Family(
        extra="ray",
        packages=("torch", "transformers>=5.0", "tqdm>=4.66"),
        module="ray",
        tests=("tests/evals/test_engines.py",),
    ),
    "peers": Family(
        extra="evals",
        packages=(
            "scikit-learn>=1.5",
            "scipy>=1.11",
            "thinkbudget==0.1.0",
            "thinkrouter==0.3.0",
            "cascadeflow==1.2.0",
            "pareto-router==0.1.0",
            "litellm==1.106.2",
        ),
        module="thinkbudget",
        tests=(
            "tests/evals/bench/test_peers.py",
            "tests/evals/test_recorded_figures.py",
            "tests/cli/test_eval_classifier.py",
        ),
    ),
    "extras": Family(module="pytest", tests=("tests/packaging/test_extras.py",)),
}


def ready(name: str, family: Family) -> Path:
    """Return the family's interpreter, making the environment where it is missing or out of date."""
    folder = VENVS / name
    python, stamp = folder / "bin" / "python", folder / ".installed"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = f".[{family.extra}]" if family.extra else "."
    asked = [*project["dependencies"], *project["optional-dependencies"].get(family.extra, ())]
    wanted = "\n".join([sys.version, ours, *asked, *family.packages, *TOOLS])
    if not stamp.exists() or stamp.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, "--upgrade", "pip>=24"], check=True)
        if "torch" in family.packages:  # from the index that serves the build of this machine
            index = shlex.split(os.environ.get("TORCH_INDEX", ""))
            subprocess.run([*pip, *index, "torch"], check=True)
        subprocess.run([*pip, "--editable", ours, *family.packages, *TOOLS], check=True, cwd=ROOT)
        subprocess.run([python, "-c", f"import {family.module}"], check=True)
        stamp.write_text(wanted)
    return python


def run(name: str) -> bool:
    """Run a family's tests and the pages of the docs that belong to it."""
    family = FAMILIES[name]
    started = time.monotonic()
    python = ready(name, family)
    pages = [f"tests/docs/test_snippets.py::test_the_page_runs[{page}]" for page in family.pages]
    done = subprocess.run([python, "-m", "pytest", "-q", *family.tests, *pages], cwd=ROOT)
    verdict = "passed" if done.returncode == 0 else "FAILED"
    print(f"{name}: {verdict} in {time.monotonic() - started:.0f} s", flush=True)
    return done.returncode == 0


def main(names: list[str]) -> int:
    """Run the families that are named, or all of them."""
    unknown = sorted(set(names) - set(FAMILIES))
    if unknown:
        print(f"no such family: {', '.join(unknown)}; there are: {', '.join(FAMILIES)}", file=sys.stderr)
        return 2
    passed = [run(name) for name in names or FAMILIES]  # all of them, whatever the first ones bring
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
