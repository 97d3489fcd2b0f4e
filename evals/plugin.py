"""The pytest plugin: the fixture ``budget_eval``, which checks a budget against full thinking.

    def test_budget(budget_eval):
        budget_eval("support.jsonl", policy="auto").assert_non_inferior(margin=0.01, p95_ttfo_s=4)

pytest finds it through its entry point. Nothing heavy is imported before a test asks for the fixture.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from budgetctl.evals.check import Checked

OPTIONS = {
    "grader": "tells right answers from wrong ones, as module:function",
    "base_url": "OpenAI-compatible endpoint",
    "model": "model name at that endpoint, or a model that transformers loads",
    "endpoint": "kind of endpoint, as in the capability table",
}
"""What the command line gives to every ``budget_eval`` that does not say it itself."""

SOURCES = (
    "(budget_eval takes what it needs from its arguments, the --budget-... options, BUDGETCTL_EVAL__... "
    "variables and [eval] of budgetctl.toml, in this order)"
)

_SEEN = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--budget-grader`` and the like."""
    group = parser.getgroup("budgetctl", "thinking budgets (budgetctl)")
    for name, text in OPTIONS.items():
        group.addoption(f"--budget-{name.replace('_', '-')}", default=None, help=text)
    group.addoption(
        "--budget-out",
        default=None,
        metavar="DIR",
        help="keep run folders and reports here, one per test; runs that were interrupted go on (default: "
        "a temporary folder)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make room for the lines of the summary."""
    config.stash[_SEEN] = []


@pytest.fixture
def budget_eval(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Checked]:
    """Ask a suite with full thinking and under a policy; see :func:`budgetctl.evals.check.check`.

    A suite file is looked for beside the test first, then in the working directory. What the call leaves out
    comes from the command line (``--budget-model`` and the like), then from ``[eval]`` of ``budgetctl.toml``
    or the environment (``BUDGETCTL_EVAL__MODEL``).
    """

    def run(suite: str, **arguments: Any) -> Checked:
        __tracebackhide__ = True
        from budgetctl.evals.check import check

        from budgetctl.errors import BudgetctlError

        beside = request.path.parent / suite
        name = str(beside) if beside.is_file() else suite
        given = {key: request.config.getoption(f"budget_{key}") for key in OPTIONS}
        if suite == "pocket":
            given = {"base_url": given["base_url"]} if given["base_url"] else {}
        chosen = {**{key: value for key, value in given.items() if value is not None}, **arguments}
        folder = chosen.pop("folder", None) or _folder(request, tmp_path_factory)
        try:
            found = check(name, folder=Path(folder), **chosen)
        except BudgetctlError as error:
            pytest.fail(f"{type(error).__name__}: {error}\n{SOURCES}", pytrace=False)
        request.config.stash[_SEEN].append(f"{found.headline}; report: {found.folder}")
        return found

    return run


def _folder(request: pytest.FixtureRequest, factory: pytest.TempPathFactory) -> Path:
    kept = request.config.getoption("budget_out")
    if kept is None:
        return factory.mktemp("budget_eval")
    name = re.sub(r"[^\w.-]+", "-", request.node.nodeid).strip("-")
    count = sum(1 for _ in request.node.stash.setdefault(_SEEN, []))
    request.node.stash[_SEEN].append(name)
    return Path(kept) / (f"{name}-{count + 1}" if count else name)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what every evaluation came to, also of tests that passed."""
    lines = config.stash[_SEEN]
    if lines:
        terminalreporter.section("thinking budgets")
        for line in lines:
            terminalreporter.write_line(line)
