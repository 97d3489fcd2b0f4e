"""Every number of an evaluation: one row per policy, each against full thinking and against the fixed caps.

Definitions (n questions; several samples of one question are averaged first):

* ``accuracy``: mean over questions; a missing answer is wrong.
* ``delta_accuracy``: accuracy minus that of full thinking, paired by question.
* ``token_saving``: ``1 - sum(tokens) / sum(tokens of full)``, of thinking tokens where they are known for
  every call, else of all output tokens (``token_basis`` says which).
* ``lift_over_cap``: accuracy minus that of the fixed cap with the same mean tokens
  (``baselines.matched_mix``).
* ``accurate_goodput``: share of calls that are right and done within ``slo_s``.
* Intervals are paired percentile bootstraps at 95 %; every statistic, the interpolation between caps
  included, is computed anew in every resample. Where nothing differs between two runs the interval is as
  wide as n questions without a difference allow (``stats.rule_of_three``).
* A p95 needs 59 questions, else it is None: with fewer, not even the largest value bounds it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from budgetctl.evals import stats
from budgetctl.evals.baselines import ORACLE, ORACLE_LABEL, Mix, matched_accuracy, matched_mix, oracle
from budgetctl.evals.results import ClusterBy, Floats, Paired, Result, pair

from budgetctl.errors import BudgetctlError, PairingError
from budgetctl.policy import Cap, Full, Off, parse
from budgetctl.stopping.presets import WITH_TRIALS

FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRow:
    """The numbers of one policy; None is not computable, never zero. See the module for the definitions.

    Attributes:
        n: Number of questions.
        runs: Number of calls (samples and models counted).
        modelled: Fields of this row that rest on a speed profile instead of measurements.
        label: What the row is, where its name does not say.
    """

    policy: str
    n: int
    runs: int
    accuracy: float
    accuracy_ci: stats.Interval | None = None
    delta_accuracy: float | None = None
    delta_ci: stats.Interval | None = None
    delta_se: float | None = None
    harm: int | None = None
    help: int | None = None
    mcnemar_p: float | None = None
    token_basis: str | None = None
    reasoning_tokens_mean: float | None = None
    output_tokens_mean: float | None = None
    tokens_mean: float | None = None
    token_saving: float | None = None
    token_saving_ci: stats.Interval | None = None
    lift_over_cap: float | None = None
    lift_ci: stats.Interval | None = None
    matched_cap: str | None = None
    ttfo_p50_s: float | None = None
    ttfo_p95_s: float | None = None
    e2e_p50_s: float | None = None
    e2e_p95_s: float | None = None
    e2e_p95_ci: tuple[float | None, float | None] | None = None
    cost_usd_mean: float | None = None
    cost_usd_per_correct: float | None = None
    accurate_goodput: float | None = None
    empty_answers: int = 0
    modelled: tuple[str, ...] = ()
    notes: Mapping[str, int] = field(default_factory=dict)
    label: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the row as plain JSON values."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Policies and baselines over the same questions.

    Attributes:
        policies: One row per policy that was asked for, in the order asked.
        baselines: Fixed budgets (full, off, caps) that were not asked for, and the oracle.
        n: Number of questions.
        clusters: Number of units that the bootstrap drew.
        slo_s: The limit behind ``accurate_goodput``.
        slo_source: Where that limit comes from.
    """

    policies: tuple[PolicyRow, ...]
    baselines: tuple[PolicyRow, ...]
    n: int
    clusters: int
    slo_s: float | None
    slo_source: str

    def row(self, name: str) -> PolicyRow | None:
        """Return the row of a policy or baseline."""
        return next((row for row in (*self.policies, *self.baselines) if row.policy == name), None)

    @property
    def fixed(self) -> list[PolicyRow]:
        """Rows of the fixed-cap curve, by mean tokens: full, off and caps, asked for or not."""
        rows = [
            r for r in (*self.policies, *self.baselines) if is_fixed(r.policy) and r.tokens_mean is not None
        ]
        return sorted(rows, key=lambda r: (r.tokens_mean or 0.0, r.accuracy))


def is_fixed(name: str) -> bool:
    """Return whether a policy gives every question the same budget: full, off or a cap, without trials."""
    try:
        policy = parse(name)
    except BudgetctlError:
        return False
    return isinstance(policy, Full | Off | Cap) and policy.stop not in WITH_TRIALS


def unrestricted(result: Result) -> bool:
    """Return whether a budget left thinking as it was."""
    budget = result.budget
    return budget.reasoning_tokens is None and budget.effort is None and budget.stop not in WITH_TRIALS


def evaluate(
    runs: Mapping[str, Sequence[Result]],
    *,
    rng: np.random.Generator,
    asked: Sequence[str] | None = None,
    slo_s: float | None = None,
    cluster_by: ClusterBy = "question",
    resamples: int = stats.RESAMPLES,
) -> Evaluation:
    """Return the numbers of all policies over the same questions.

    Args:
        runs: Policy name to its results. ``full`` must be among them; fixed budgets form the baseline curve.
        rng: Source of the bootstrap draws.
        asked: The policies to report as such; the others are baselines. None: all.
        slo_s: Limit on the time to the end of the answer; None takes the median of full thinking.
        cluster_by: See :func:`~budgetctl.evals.results.pair`.
        resamples: Bootstrap draws.

    Raises:
        PairingError: ``full`` is missing, or the runs cover different questions.
    """
    if FULL not in runs:
        raise PairingError("full thinking is what everything is compared with: add the policy 'full'")
    fixed = [name for name in runs if is_fixed(name)]
    everything = {**runs, ORACLE: oracle({name: runs[name] for name in fixed})}
    paired = pair(everything, cluster_by=cluster_by)
    table = _Table(paired, fixed=fixed, rng=rng, resamples=resamples)
    slo, source = _slo(paired.runs[FULL], slo_s)
    wanted = list(runs) if asked is None else list(asked)
    rows = {name: table.row(name, slo_s=slo) for name in everything}
    return Evaluation(
        policies=tuple(rows[name] for name in wanted),
        baselines=tuple(rows[name] for name in everything if name not in wanted),
        n=len(paired.questions),
        clusters=int(paired.groups.max()) + 1,
        slo_s=slo,
        slo_source=source,
    )


def _slo(full: Sequence[Result], slo_s: float | None) -> tuple[float | None, str]:
    if slo_s is not None:
        return slo_s, "given"
    values = _known([result.e2e_s for result in full])
    return (None, "no times") if values is None else (stats.quantile(values, 0.5), "median of full thinking")


def _known(values: Sequence[float | None]) -> list[float] | None:
    found = [value for value in values if value is not None]
    return found if len(found) == len(values) else None


class _Table:
    """Per-question means of every policy, and one joint bootstrap of all of them."""

    def __init__(
        self, paired: Paired, *, fixed: Sequence[str], rng: np.random.Generator, resamples: int
    ) -> None:
        self.paired = paired
        self.accuracy = {name: self._mean(rows, "correct") for name, rows in paired.runs.items()}
        self.reasoning = {name: self._mean(rows, "reasoning_tokens") for name, rows in paired.runs.items()}
        self.output = {name: self._mean(rows, "output_tokens") for name, rows in paired.runs.items()}
        self.basis, self.tokens = self._tokens()
        self.curve = [name for name in fixed if self.tokens.get(name) is not None]
        columns: list[Floats] = []
        self._column: dict[tuple[str, str], int] = {}
        for kind, values in (("accuracy", self.accuracy), ("tokens", self.tokens)):
            for name, column in values.items():
                if column is not None:
                    self._column[kind, name] = len(columns)
                    columns.append(column)
        self.drawn = stats.bootstrap_means(
            np.column_stack(columns), rng=rng, groups=paired.groups, resamples=resamples
        )
        self.units = int(paired.groups.max()) + 1

    def _mean(self, rows: Sequence[Result], name: str) -> Floats | None:
        return self.paired.by_question([getattr(row, name) for row in rows])

    def _tokens(self) -> tuple[str | None, dict[str, Floats | None]]:
        """Choose thinking tokens where every call has them, else all output tokens, else nothing."""
        for basis, columns in (("reasoning_tokens", self.reasoning), ("output_tokens", self.output)):
            if all(column is not None for column in columns.values()):
                return basis, dict(columns)
        return None, dict.fromkeys(self.paired.runs)

    def _draws(self, kind: str, name: str) -> Floats:
        return np.asarray(self.drawn[:, self._column[kind, name]], dtype=float)

    def row(self, name: str, *, slo_s: float | None) -> PolicyRow:
        """Return every number of one policy."""
        results, full = self.paired.runs[name], self.paired.runs[FULL]
        accuracy = _average(self.accuracy[name])
        assert accuracy is not None
        counts = stats.harm_help([r.correct for r in full], [r.correct for r in results])
        compared = name != FULL
        delta, delta_ci, delta_se = self._delta(name) if compared else (None, None, None)
        saving, saving_ci = self._saving(name) if compared else (None, None)
        mix, lift, lift_ci = self._lift(name)
        return PolicyRow(
            policy=name,
            n=len(self.paired.questions),
            runs=len(results),
            accuracy=accuracy,
            accuracy_ci=self._accuracy_ci(name, accuracy),
            delta_accuracy=delta,
            delta_ci=delta_ci,
            delta_se=delta_se,
            harm=counts.harm if compared else None,
            help=counts.help if compared else None,
            mcnemar_p=counts.p_value if compared else None,
            token_basis=self.basis,
            reasoning_tokens_mean=_average(self.reasoning[name]),
            output_tokens_mean=_average(self.output[name]),
            tokens_mean=_average(self.tokens[name]),
            token_saving=saving,
            token_saving_ci=saving_ci,
            lift_over_cap=lift,
            lift_ci=lift_ci,
            matched_cap=None if mix is None else str(mix),
            **self._times(results, slo_s=slo_s),
            **self._costs(results),
            empty_answers=sum(not r.answered for r in results),
            notes=dict(Counter(note for r in results for note in r.notes)),
            label=ORACLE_LABEL if name == ORACLE else None,
        )

    def _accuracy_ci(self, name: str, point: float) -> stats.Interval:
        low, high = stats.difference_interval(self._draws("accuracy", name), point=point, n=self.units)
        return max(low, 0.0), high

    def _delta(self, name: str) -> tuple[float, stats.Interval, float | None]:
        ours, full = self.accuracy[name], self.accuracy[FULL]
        assert ours is not None
        assert full is not None
        difference = ours - full
        point = float(difference.mean())
        draws = self._draws("accuracy", name) - self._draws("accuracy", FULL)
        limits = stats.difference_interval(draws, point=point, n=self.units)
        if not difference.any() and all(unrestricted(r) for r in self.paired.runs[name]):
            limits = (0.0, 0.0)  # the very same calls: there is nothing to be uncertain about
        return (
            point,
            limits,
            stats.paired_se(difference, groups=self.paired.groups),
        )

    def _saving(self, name: str) -> tuple[float | None, stats.Interval | None]:
        ours, full = self.tokens[name], self.tokens[FULL]
        if ours is None or full is None or not full.sum():
            return None, None
        whole = self._draws("tokens", FULL)
        if not whole.all():
            return 1 - float(ours.sum() / full.sum()), None
        return 1 - float(ours.sum() / full.sum()), stats.interval(1 - self._draws("tokens", name) / whole)

    def _lift(self, name: str) -> tuple[Mix | None, float | None, stats.Interval | None]:
        """Compare with the fixed-cap curve at the same mean tokens; fixed budgets are that curve itself."""
        tokens, accuracy = _average(self.tokens[name]), _average(self.accuracy[name])
        if name in self.curve or name == ORACLE or len(self.curve) < 2:
            return None, None, None
        if tokens is None or accuracy is None:
            return None, None, None
        points = {
            other: (float(np.mean(t)), float(np.mean(a)))
            for other in self.curve
            if (t := self.tokens[other]) is not None and (a := self.accuracy[other]) is not None
        }
        mix = matched_mix(points, tokens)
        if mix is None:
            return None, None, None
        matched = matched_accuracy(
            np.column_stack([self._draws("tokens", other) for other in self.curve]),
            np.column_stack([self._draws("accuracy", other) for other in self.curve]),
            self._draws("tokens", name),
        )
        lift = accuracy - mix.accuracy
        draws = self._draws("accuracy", name) - matched
        return mix, lift, stats.difference_interval(draws, point=lift, n=self.units)

    def _times(self, results: Sequence[Result], *, slo_s: float | None) -> dict[str, Any]:
        enough = len(self.paired.questions) >= stats.minimum_n(0.95)
        # No answer ever came: later than any other, not left out.
        ttfo = _known([math.inf if not r.answered else r.ttfo_s for r in results])
        e2e = _known([r.e2e_s for r in results])
        modelled = {mark for r in results for mark in r.modelled}
        fields = [
            *(f"ttfo_{p}_s" for p in ("p50", "p95") if "ttfo_s" in modelled),
            *(f"e2e_{p}_s" for p in ("p50", "p95") if "e2e_s" in modelled),
            *(["accurate_goodput"] if "e2e_s" in modelled else []),
        ]
        return {
            "ttfo_p50_s": _quantile(ttfo, 0.5),
            "ttfo_p95_s": _quantile(ttfo, 0.95) if enough else None,
            "e2e_p50_s": _quantile(e2e, 0.5),
            "e2e_p95_s": _quantile(e2e, 0.95) if enough else None,
            "e2e_p95_ci": stats.quantile_interval(e2e, 0.95) if enough and e2e is not None else None,
            "accurate_goodput": None
            if slo_s is None or e2e is None
            else sum(r.correct and t <= slo_s for r, t in zip(results, e2e, strict=True)) / len(results),
            "modelled": tuple(fields),
        }

    def _costs(self, results: Sequence[Result]) -> dict[str, Any]:
        costs = _known([r.cost_usd for r in results])
        right = sum(r.correct for r in results)
        return {
            "cost_usd_mean": None if costs is None else sum(costs) / len(costs),
            "cost_usd_per_correct": None if costs is None or not right else sum(costs) / right,
        }


def _average(column: Floats | None) -> float | None:
    return None if column is None else float(column.mean())


def _quantile(values: Sequence[float] | None, q: float) -> float | None:
    value = None if values is None else stats.quantile(values, q)
    return value if value is not None and math.isfinite(value) else None
