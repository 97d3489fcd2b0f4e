"""A budget checked against full thinking on a suite, for tests: it fails where the evidence is not enough.

    found = check("support.jsonl", policy="auto", folder=Path("run"), grader="graders:exact", ...)
    found.assert_non_inferior(margin=0.01, p95_ttfo_s=4, usd=0.02)

The pytest plugin (:mod:`budgetctl.evals.plugin`) gives it to tests as the fixture ``budget_eval``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from budgetctl.evals import calls, compare, metrics, report, runfolder, stats, verdict
from budgetctl.evals.live import LiveRun
from budgetctl.evals.results import ClusterBy, Result, column
from budgetctl.evals.spend import Spend
from budgetctl.evals.suites import measuring, open_suite, with_settings
from budgetctl.evals.verdict import points, share, span

from budgetctl.config import Settings
from budgetctl.controller import Classifier
from budgetctl.errors import ConfigError

MARGIN = 0.01
HARMED_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a policy came to beside full thinking.

    Attributes:
        suite: Name of the suite.
        row: The numbers of the policy.
        full: Those of full thinking.
        runs: The calls of both.
        units: Number of independent units behind the intervals.
        folder: The run folder, with the report.
        seed: Of the resampling.
    """

    suite: str
    row: metrics.PolicyRow
    full: metrics.PolicyRow
    runs: Mapping[str, Sequence[Result]]
    units: int
    folder: Path
    seed: int = 0

    def assert_non_inferior(
        self, *, margin: float = MARGIN, p95_ttfo_s: float | None = None, usd: float | None = None
    ) -> None:
        """Fail unless it was shown that the policy keeps the accuracy, and whatever else is asked.

        Each claim is held against a 95 % bound, not against the number that was seen, so too few questions
        fail as well; the message says how many it takes.

        Args:
            margin: Loss of accuracy that passes, as a share of questions.
            p95_ttfo_s: Seconds within which 95 % of the calls have to begin their answer. No answer is late.
            usd: Dollars that a call may cost on average.

        Raises:
            AssertionError: What was not shown, and where the report is.
            ConfigError: ``margin`` is not between 0 and 1.
        """
        __tracebackhide__ = True
        if not 0 < margin < 1:
            raise ConfigError(f"margin={margin}: expected a share of questions between 0 and 1, such as 0.01")
        failures = [
            text
            for text in (
                self._accuracy(margin),
                None if p95_ttfo_s is None else self._wait(p95_ttfo_s),
                None if usd is None else self._cost(usd),
            )
            if text is not None
        ]
        if failures:
            lines = [f"- {text}" for text in failures]
            raise AssertionError(
                "\n".join([f"{self.headline}; not shown:", *lines, f"report: {self.folder}"])
            )

    @property
    def headline(self) -> str:
        """One line for a log."""
        row = self.row
        cost = "" if row.cost_usd_mean is None else f", ${row.cost_usd_mean:.2g} a call"
        return (
            f"{row.policy} on {self.suite}: {points(row.delta_accuracy)} against full thinking "
            f"({span(row.delta_ci)}, n = {row.n}), {share(row.token_saving)} of the tokens saved{cost}"
        )

    def _accuracy(self, margin: float) -> str | None:
        found = compare.judge(self.full, self.row, margin=margin, units=self.units)
        if found.finding == "pass":
            return None
        why = "a loss" if found.finding == "loss" else "not enough evidence"
        needed = "" if found.n_needed is None else f"; {compare.needed_text(found.n_needed)}"
        return (
            f"accuracy: the lower bound {100 * (self.row.delta_ci or (0, 0))[0]:+.1f} has to lie "
            f"above {-100 * margin:g} points ({why}{needed})"
            f"{self._harmed()}"
        )

    def _harmed(self) -> str:
        """Name questions that full thinking gets right more often."""
        balance: dict[str, int] = {}
        for name, sign in (("full", 1), (self.row.policy, -1)):
            for result in self.runs[name]:
                balance[result.question_id] = balance.get(result.question_id, 0) + sign * result.correct
        harmed = [question for question, lost in balance.items() if lost > 0]
        more = ", ..." if len(harmed) > HARMED_SHOWN else ""
        return f"; wrong only under the policy: {', '.join(harmed[:HARMED_SHOWN])}{more}" if harmed else ""

    def _wait(self, limit: float) -> str | None:
        # Calls of one question are no independent ones: the first of each stands for it.
        first = [r for r in self.runs[self.row.policy] if r.sample == 0]
        waits = np.where(column(first, "answered") == 0, np.inf, column(first, "ttfo_s"))
        needed = stats.minimum_n(0.95)
        if len(waits) < needed:
            return (
                f"p95 of the time to the answer: it takes {needed} questions to bound it, seen {len(waits)}"
            )
        if np.isnan(waits).any():
            return "p95 of the time to the answer: some calls have no time to their first answer token"
        bound = stats.upper_bound(waits, 0.95)
        seen = stats.quantile(waits, 0.95)
        if bound is not None and bound <= limit:
            return None
        return (
            f"p95 of the time to the answer: seen {seen:.3g} s, upper bound {bound:.3g} s, "
            f"allowed {limit:g} s"
        )

    def _cost(self, limit: float) -> str | None:
        costs = column(self.runs[self.row.policy], "cost_usd")
        if np.isnan(costs).any():
            return (
                "dollars per call: the cost is unknown; name a price table with `prices` in budgetctl.toml "
                "(a row for this model), and see that the endpoint reports its usage"
            )
        drawn = stats.bootstrap_means(costs[:, None], rng=np.random.default_rng(self.seed))
        bound = stats.interval(drawn, level=0.9)[1]
        if bound <= limit:
            return None
        return f"dollars per call: seen {costs.mean():.3g}, upper bound {bound:.3g}, allowed {limit:g}"


def check(
    suite: str,
    *,
    policy: str = "auto",
    folder: Path,
    classifier: Classifier | str | None = "default",
    samples: int = 1,
    seed: int = 0,
    cluster_by: ClusterBy = "question",
    max_usd: float | None = None,
    max_tokens: int | None = None,
    batch_size: int = 32,
    **options: Any,
) -> Checked:
    """Ask a suite with full thinking and under a policy, and return what came of it.

    Args:
        suite: ``pocket``, or the path of a suite file.
        policy: What to check.
        folder: The run folder; a run that was interrupted goes on there.
        classifier: What estimates.
        samples: How often every question is asked.
        seed: Of questions, calls and resampling.
        cluster_by: What the bootstrap draws.
        max_usd: Dollars at which no further call is made.
        max_tokens: Generated tokens at which no further call is made.
        batch_size: Questions per batch of a model in this process.
        options: Further arguments of :func:`budgetctl.evals.suites.open_suite`; of those that are left out
            ``[eval]`` of ``budgetctl.toml`` gives grader, base_url, model, endpoint and concurrency.

    Raises:
        ConfigError: The arguments do not fit together.
        LimitReached: The run stopped at a limit.
    """
    settings = Settings.load()
    name = str(settings.parse(policy))
    if name == metrics.FULL:
        raise ConfigError("policy='full': full thinking is what policies are held against")
    options |= with_settings(suite, options, settings=settings.eval)
    base = measuring(settings, classifier=classifier)
    opened = open_suite(suite, samples=samples, seed=seed, base=base, **options)
    run = LiveRun(
        suite=opened,
        policies=[metrics.FULL, name],
        out=folder,
        seed=seed,
        samples=samples,
        batch_size=batch_size,
        base=base,
        spend=Spend(max_usd=max_usd, max_tokens=max_tokens),
    )
    runs = run.run()
    evaluation = metrics.evaluate(runs, rng=np.random.default_rng(seed), cluster_by=cluster_by)
    details = report.details(
        runs,
        evaluation,
        questions=runfolder.read_rows(folder / runfolder.ROWS),
        seed=seed,
        cluster_by=cluster_by,
    )
    found = report.Report(
        title=f"{opened.name}, {opened.backend.model}",
        evaluation=evaluation,
        verdict=verdict.decide(evaluation),
        settings={"kind": "live", **run.settings},
        details=details,
    )
    report.write(found, folder)
    calls.save(folder, runs)
    full, row = evaluation.policies
    return Checked(
        suite=opened.name,
        row=row,
        full=full,
        runs=runs,
        units=evaluation.clusters,
        folder=folder,
        seed=seed,
    )
