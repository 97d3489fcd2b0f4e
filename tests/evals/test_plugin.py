"""The fixture ``budget_eval``, as pytest finds it through its entry point."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

pytest.importorskip("openai")

from budgetctl.evals import metrics
from budgetctl.evals.check import Checked

from budgetctl.errors import ConfigError

from ..engines.scripted import serving  # noqa: TID252 - tests are no package: there is no absolute name
from .worlds import results

pytest_plugins = ["pytester"]


@pytest.fixture
def desk(pytester, monkeypatch):
    """A folder with a suite, a grader and a server that thinks 400 words and answers 42."""
    monkeypatch.chdir(pytester.path)
    pytester.makefile(
        ".jsonl",
        support="\n".join(json.dumps({"id": i, "question": f"What is it, {i}?"}) for i in range(200)),
    )
    pytester.makepyfile(my_grader="def grade(answer, question):\n    return '42' in answer\n")
    pytester.makeini("[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n")
    with serving() as server:
        settings = {
            "base_url": server.url,
            "model": "Qwen3-8B",
            "endpoint": "vllm",
            "grader": "my_grader:grade",
        }
        lines = "\n".join(f'{key} = "{value}"' for key, value in settings.items())
        (pytester.path / "budgetctl.toml").write_text(f"[eval]\n{lines}\n")
        yield pytester


def run(desk, body, *arguments):
    desk.makepyfile(f"def test_budget(budget_eval):\n    {body}\n")
    return desk.runpytest_subprocess("-p", "no:cacheprovider", *arguments)


def test_a_budget_that_loses_nothing_passes_and_the_summary_says_what_it_came_to(desk):
    found = run(
        desk,
        'budget_eval("support.jsonl", policy="cap:50").assert_non_inferior(margin=0.02, p95_ttfo_s=9)',
        "--budget-out",
        "kept",
    )
    found.assert_outcomes(passed=1)
    found.stdout.fnmatch_lines(
        ["*thinking budgets*", "cap:50 on support: +0.0 points against full thinking*"]
    )
    (folder,) = (desk.path / "kept").iterdir()
    assert {"calls.npz", "report.html", "rows.jsonl", "summary.json"} <= {p.name for p in folder.iterdir()}


def test_too_few_questions_fail_and_the_message_says_how_many_it_takes(desk):
    found = run(
        desk,
        'budget_eval("support.jsonl", policy="cap:50", limit=12).assert_non_inferior(p95_ttfo_s=4, usd=1)',
    )
    found.assert_outcomes(failed=1)
    found.stdout.fnmatch_lines(
        [
            "*- accuracy: the lower bound -* above -1 points (not enough evidence; *about 368 questions*",
            "*- p95 of the time to the answer: it takes 59 questions to bound it, seen 12*",
            "*- dollars per call: the cost is unknown; name a price table*",
        ]
    )


def test_the_command_line_wins_over_the_settings_and_the_call_over_both(desk):
    body = 'budget_eval("support.jsonl", policy="cap:50", limit=2, grader="operator:eq")'
    run(desk, body, "--budget-grader", "no:where").assert_outcomes(passed=1)
    missing = run(desk, 'budget_eval("support.jsonl", limit=2)', "--budget-grader", "no:where")
    missing.assert_outcomes(failed=1)
    missing.stdout.fnmatch_lines(["EvalError: grader 'no:where'*"])


def test_the_environment_gives_what_nothing_else_does(desk, monkeypatch):
    (desk.path / "budgetctl.toml").unlink()
    body = 'budget_eval("support.jsonl", policy="cap:50", limit=2)'
    found = run(desk, body)
    found.stdout.fnmatch_lines(["ConfigError: a suite file needs a grader*", "*BUDGETCTL_EVAL__*"])
    with serving() as server:
        for key, value in {"BASE_URL": server.url, "MODEL": "m", "GRADER": "my_grader:grade"}.items():
            monkeypatch.setenv(f"BUDGETCTL_EVAL__{key}", value)
        run(desk, body).assert_outcomes(passed=1)


def test_a_limit_on_spending_fails_the_test(desk):
    found = run(desk, 'budget_eval("support.jsonl", policy="cap:50", max_tokens=1000)')
    found.assert_outcomes(failed=1)
    found.stdout.fnmatch_lines(["LimitReached: stopped at the limit after*"])


def checked(full, auto):
    runs = {"full": full, "auto": auto}
    evaluation = metrics.evaluate(runs, rng=metrics.np.random.default_rng(0))
    row, other = evaluation.policies
    return Checked(suite="s", row=other, full=row, runs=runs, units=evaluation.clusters, folder="run")


def test_a_loss_names_the_questions_that_only_full_thinking_gets_right():
    auto = results([i % 10 > 0 for i in range(300)])
    with pytest.raises(
        AssertionError, match=r"\(a loss\); wrong only under the policy: 000, 010, .*, \.\.\."
    ):
        checked(results([True] * 300), auto).assert_non_inferior()


def test_the_wait_and_the_cost_are_held_against_their_upper_bounds():
    rows = [
        replace(r, ttfo_s=1.0 if i < 96 else 9.0, cost_usd=0.01 + (i % 2) / 50)
        for i, r in enumerate(results([True] * 100))
    ]
    found = checked(rows, rows)
    found.assert_non_inferior(p95_ttfo_s=9, usd=0.03)
    # 96 of 100 are in time: that is no proof that 95 % of all are.
    with pytest.raises(AssertionError, match=r"seen 1 s, upper bound 9 s, allowed 2 s"):
        found.assert_non_inferior(p95_ttfo_s=2)
    with pytest.raises(
        AssertionError, match=r"dollars per call: seen 0\.02, upper bound 0\.021\d*, allowed 0\.02"
    ):
        found.assert_non_inferior(usd=0.02)
    with pytest.raises(ConfigError, match=r"margin=1\.5"):
        found.assert_non_inferior(margin=1.5)


def test_no_answer_is_a_late_answer():
    rows = [replace(r, ttfo_s=1.0) for r in results([True] * 100)]
    silent = [replace(r, answered=False, ttfo_s=None) if i < 10 else r for i, r in enumerate(rows)]
    with pytest.raises(AssertionError, match="seen inf s"):
        checked(rows, silent).assert_non_inferior(p95_ttfo_s=100)


def test_the_check_needs_no_pytest():
    code = "import sys; sys.modules['pytest'] = None; import budgetctl.evals.check"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_plugin_loads_nothing_heavy():
    heavy = ["numpy", "pydantic", "openai", "torch"]
    code = f"import sys, budgetctl.evals.plugin; print([m for m in {heavy} if m in sys.modules])"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "[]"
