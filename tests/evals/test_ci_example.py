"""The workflow in the docs: its shell parses, and its commands are ours as they are."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from budgetctl.cli import parser

yaml = pytest.importorskip("yaml")

WORKFLOW = Path(__file__).resolve().parents[2] / "docs" / "examples" / "budget-check.yml"


@pytest.fixture(scope="module")
def steps():
    return yaml.safe_load(WORKFLOW.read_text())["jobs"]["budget"]["steps"]


def test_every_script_is_shell(steps):
    scripts = [step["run"] for step in steps if "run" in step]
    assert len(scripts) == 6
    for script in scripts:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_its_commands_take_their_arguments(steps):
    lines = [line.strip() for step in steps for line in step.get("run", "").splitlines()]
    ours = [re.split(r">>|\|\|", line)[0] for line in lines if line.startswith("budgetctl ")]
    assert ours
    for line in ours:
        parser().parse_args(shlex.split(line)[1:])


def test_secrets_reach_the_step_that_asks_and_no_other(steps):
    assert [step.get("name") for step in steps if "secrets." in str(step)] == ["Ask the suite"]


def test_what_may_fail_is_said_before_the_job_fails(steps):
    names = [step.get("name") for step in steps]
    assert names[-1].startswith("Fail")
    assert all(step.get("if") for step in steps[names.index("Describe the result") :])
