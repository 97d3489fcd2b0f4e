"""Every number of an evaluation: one row per policy, each against full thinking and against the fixed caps.

Definitions (n questions; several samples of one question are averaged first):

* ``accuracy``: mean over questions; a missing answer is wrong.
* ``delta_accuracy``: accuracy minus that of full thinking, paired by question.
* ``token_saving``: ``1 - sum(tokens) / sum(tokens of full)``, of thinking tokens where they are known for
  every call, else of all output tokens (``token_basis`` says which).
* ``lift_over_cap``: accuracy minus that of the fixed cap with the same mean tokens
  (``baselines.matched_mix``).
* ``mcnemar_p``: the exact McNemar test. Where there are several calls per question (or clusters are drawn),
  questions (clusters) on which the policy is right more often are held against those on which it is right
  less often; ``harm`` and ``help`` count calls.
* ``split``: what the budget, the classifier and the stop contributed to the saving
  (:mod:`~budgetctl.evals.ablation`); ``curves``: AIQ, APGR and CPT (:mod:`~budgetctl.evals.curves`).
* ``variance_questions`` and ``variance_samples``: the two parts of the variance of the accuracy, that of
  questions and that of samples of one question, ``(Var_q + E[Var_sample] / K) / n`` (Miller 2024, arXiv
  2411.00640, section 3.2). The larger one says whether more questions or more samples narrow the interval.
* Times and goodput are those of :mod:`~budgetctl.evals.serving`, adherence and truncation those of
  :mod:`~budgetctl.evals.control`.
* Intervals are paired percentile bootstraps at 95 %; every statistic, the interpolation between caps
  included, is computed anew in every resample. To accuracy differences and lifts unseen events are added
  (``stats.paired_interval``). Where nothing differs between two runs the interval is as wide as n questions
  without a difference allow (``stats.rule_of_three``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from budgetctl.evals import stats
from budgetctl.evals.ablation import Drawn, Split, matched_tokens, split, without_stop
from budgetctl.evals.baselines import ORACLE, ORACLE_LABEL, Mix, matched_accuracy, matched_mix, oracle
from budgetctl.evals.control import control, stopped
from budgetctl.evals.curves import Curve, Point, compare_curves
from budgetctl.evals.results import ClusterBy, Floats, Paired, Result, budgets, column, noted, pair
from budgetctl.evals.serving import known, serving

from budgetctl.errors import BudgetctlError, PairingError
from budgetctl.policy import Cap, Certified, Deadline, Effort, Full, Off, Policy, parse
from budgetctl.stopping.presets import WITH_TRIALS
from budgetctl.types import Budget

FULL, OFF = "full", "off"
FULL_LABEL = "no budget: what is saved against it comes on top of the model's own adaptivity"


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
    variance_questions: float | None = None
    variance_samples: float | None = None
    reasoning_tokens_mean: float | None = None
    output_tokens_mean: float | None = None
    tokens_mean: float | None = None
    token_saving: float | None = None
    token_saving_ci: stats.Interval | None = None
    split: Mapping[str, Any] | None = None
    lift_over_cap: float | None = None
    lift_ci: stats.Interval | None = None
    matched_cap: str | None = None
    ttft_p50_s: float | None = None
    ttft_p90_s: float | None = None
    ttft_p95_s: float | None = None
    ttft_p99_s: float | None = None
    ttfo_p50_s: float | None = None
    ttfo_p90_s: float | None = None
    ttfo_p95_s: float | None = None
    ttfo_p99_s: float | None = None
    ttfo_p95_ci: tuple[float | None, float | None] | None = None
    e2e_p50_s: float | None = None
    e2e_p90_s: float | None = None
    e2e_p95_s: float | None = None
    e2e_p99_s: float | None = None
    e2e_p95_ci: tuple[float | None, float | None] | None = None
    cost_usd_mean: float | None = None
    cost_usd_per_correct: float | None = None
    goodput: float | None = None
    accurate_goodput: float | None = None
    deadline_met: float | None = None
    deadline_p95: float | None = None
    requests_per_hour: float | None = None
    empty_answers: int = 0
    truncated: int | None = None
    adherence: float | None = None
    overshoot_p95: float | None = None
    stops: Mapping[str, int] | None = None
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
        curves: ``fixed`` and ``with_policies``: the whole curve in one number each.
    """

    policies: tuple[PolicyRow, ...]
    baselines: tuple[PolicyRow, ...]
    n: int
    clusters: int
    slo_s: float | None
    slo_source: str
    curves: Mapping[str, Curve] = field(default_factory=dict)

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
    return _is(name, Full, Off, Cap)


def is_uniform(name: str) -> bool:
    """Return whether a policy looks at no question: it is fixed, or an effort level or a deadline."""
    return _is(name, Full, Off, Cap, Effort, Deadline)


def _is(name: str, *kinds: type[Policy]) -> bool:
    if ">" not in name and not name.startswith("certified:"):
        name = name.rpartition("@")[2]  # a rung, MODEL@POLICY, is as fixed as its policy
    try:
        policy = parse(name)
    except BudgetctlError:
        return False
    policy = policy.member if isinstance(policy, Certified) else policy
    return isinstance(policy, kinds) and getattr(policy, "stop", None) not in WITH_TRIALS


def unrestricted(budget: Budget) -> bool:
    """Return whether a budget left thinking as it was."""
    return budget.reasoning_tokens is None and budget.effort is None and budget.stop not in WITH_TRIALS


def evaluate(
    runs: Mapping[str, Sequence[Result]],
    *,
    rng: np.random.Generator,
    asked: Sequence[str] | None = None,
    slo_s: float | None = None,
    cluster_by: ClusterBy = "question",
    resamples: int = stats.RESAMPLES,
    reference: str = FULL,
) -> Evaluation:
    """Return the numbers of all policies over the same questions.

    Args:
        runs: Policy name to its results. The reference must be among them; fixed budgets form the baseline
            curve.
        rng: Source of the bootstrap draws.
        asked: The policies to report as such; the others are baselines. None: all.
        slo_s: Limit on the time to the end of the answer; None takes the median of full thinking.
        cluster_by: See :func:`~budgetctl.evals.results.pair`.
        resamples: Bootstrap draws.
        reference: What the others are compared with.

    Raises:
        PairingError: The reference is missing, or the runs cover different questions.
    """
    if reference not in runs:
        raise PairingError("full thinking is what everything is compared with: add the policy 'full'")
    fixed = [name for name in runs if is_fixed(name)]
    everything = dict(runs)
    if fixed:
        everything[ORACLE] = oracle({name: runs[name] for name in fixed})
    paired = pair(everything, cluster_by=cluster_by)
    table = _Table(paired, fixed=fixed, rng=rng, resamples=resamples, reference=reference)
    slo, source = _slo(paired.runs[reference], slo_s)
    wanted = list(runs) if asked is None else list(asked)
    rows = {name: table.row(name, slo_s=slo) for name in everything}
    return Evaluation(
        policies=tuple(rows[name] for name in wanted),
        baselines=tuple(rows[name] for name in everything if name not in wanted),
        n=len(paired.questions),
        clusters=int(paired.groups.max()) + 1,
        slo_s=slo,
        slo_source=source,
        curves=table.curves([name for name in runs if name in wanted]),
    )


def _slo(full: Sequence[Result], slo_s: float | None) -> tuple[float | None, str]:
    if slo_s is not None:
        return slo_s, "given"
    values = known(column(full, "e2e_s"))
    return (None, "no times") if values is None else (stats.quantile(values, 0.5), "median of full thinking")


class _Table:
    """Per-question means of every policy, and one joint bootstrap of all of them."""

    def __init__(
        self,
        paired: Paired,
        *,
        fixed: Sequence[str],
        rng: np.random.Generator,
        resamples: int,
        reference: str = FULL,
    ) -> None:
        self.paired, self.reference, self.rng = paired, reference, rng
        self.accuracy = {name: self._mean(rows, "correct") for name, rows in paired.runs.items()}
        self.reasoning = {name: self._mean(rows, "reasoning_tokens") for name, rows in paired.runs.items()}
        self.basis, self.tokens = self._tokens()
        self.curve = [name for name in fixed if self.tokens.get(name) is not None]
        columns: list[Floats] = []
        self._column: dict[tuple[str, str], int] = {}
        for kind, values in (("accuracy", self.accuracy), ("tokens", self.tokens)):
            for name, values_of in values.items():
                if values_of is not None:
                    self._column[kind, name] = len(columns)
                    columns.append(values_of)
        self.drawn = stats.bootstrap_columns(columns, rng=rng, groups=paired.groups, resamples=resamples)
        self.units = int(paired.groups.max()) + 1

    def _mean(self, rows: Sequence[Result], name: str) -> Floats | None:
        return self.paired.by_question(column(rows, name))

    def _tokens(self) -> tuple[str | None, dict[str, Floats | None]]:
        """Choose thinking tokens where every call has them, else all output tokens, else nothing."""
        if all(values is not None for values in self.reasoning.values()):
            return "reasoning_tokens", self.reasoning
        output = {name: self._mean(rows, "output_tokens") for name, rows in self.paired.runs.items()}
        if all(values is not None for values in output.values()):
            return "output_tokens", output
        return None, dict.fromkeys(self.paired.runs)

    def _draws(self, kind: str, name: str) -> Floats:
        return np.asarray(self.drawn[:, self._column[kind, name]], dtype=float)

    def row(self, name: str, *, slo_s: float | None) -> PolicyRow:
        """Return every number of one policy."""
        results, full = self.paired.runs[name], self.paired.runs[self.reference]
        accuracy = _average(self.accuracy[name])
        assert accuracy is not None
        harm, gain = stats.harm_help(column(full, "correct"), column(results, "correct"))
        compared = name != self.reference
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
            harm=harm if compared else None,
            help=gain if compared else None,
            mcnemar_p=self._mcnemar(name) if compared else None,
            token_basis=self.basis,
            reasoning_tokens_mean=_average(self.reasoning[name]),
            output_tokens_mean=_average(self._mean(results, "output_tokens")),
            tokens_mean=_average(self.tokens[name]),
            token_saving=saving,
            token_saving_ci=saving_ci,
            split=None if (parts := self._split(name)) is None else parts.as_json(),
            lift_over_cap=lift,
            lift_ci=lift_ci,
            matched_cap=None if mix is None else str(mix),
            **serving(results, questions=len(self.paired.questions), slo_s=slo_s),
            **control(results),
            **self._costs(results),
            **self._variance(results),
            empty_answers=len(results) - int(column(results, "answered").sum()),
            notes=noted(results),
            label={ORACLE: ORACLE_LABEL, FULL: FULL_LABEL}.get(name),
        )

    def _accuracy_ci(self, name: str, point: float) -> stats.Interval:
        low, high = stats.difference_interval(self._draws("accuracy", name), point=point, n=self.units)
        return max(low, 0.0), high

    def _difference(self, name: str) -> Floats:
        ours, full = self.accuracy[name], self.accuracy[self.reference]
        assert ours is not None
        assert full is not None
        return ours - full

    def _delta(self, name: str) -> tuple[float, stats.Interval, float | None]:
        difference = self._difference(name)
        point = float(difference.mean())
        draws = self._draws("accuracy", name) - self._draws("accuracy", self.reference)
        limits = stats.paired_interval(draws, point=point, n=self.units, rng=self.rng)
        if self._untouched(name):
            limits = (0.0, 0.0)  # the very same calls: there is nothing to be uncertain about
        return point, limits, stats.paired_se(difference, groups=self.paired.groups)

    def _untouched(self, name: str) -> bool:
        """Return whether a policy left every call as it was, and so is full thinking by another name."""
        if self.reference != FULL or self._difference(name).any():
            return False
        return all(map(unrestricted, budgets(self.paired.runs[name])))

    def _idle(self, name: str) -> bool:
        """Return whether a policy was full thinking to the token: it has no lift, and saved nothing."""
        same = _average(self.tokens[name]) == _average(self.tokens[self.reference])
        return same and self._untouched(name)

    def _mcnemar(self, name: str) -> float:
        """Test over the units of the bootstrap: calls of one question, or cluster, are not independent."""
        by_unit = np.bincount(self.paired.groups, weights=self._difference(name))
        # Means of several samples may miss zero by a rounding error.
        return stats.sign_test(int((by_unit < -1e-9).sum()), int((by_unit > 1e-9).sum()))

    def _saving(self, name: str) -> tuple[float | None, stats.Interval | None]:
        ours, full = self.tokens[name], self.tokens[self.reference]
        if ours is None or full is None or not full.sum():
            return None, None
        whole = self._draws("tokens", self.reference)
        if not whole.all():
            return 1 - float(ours.sum() / full.sum()), None
        return 1 - float(ours.sum() / full.sum()), stats.interval(1 - self._draws("tokens", name) / whole)

    def _lift(self, name: str) -> tuple[Mix | None, float | None, stats.Interval | None]:
        """Compare with the fixed-cap curve at the same mean tokens; fixed budgets are that curve itself."""
        tokens, accuracy = _average(self.tokens[name]), _average(self.accuracy[name])
        if name in self.curve or name == ORACLE or len(self.curve) < 2:
            return None, None, None
        if tokens is None or accuracy is None or self._idle(name):
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
        return mix, lift, stats.paired_interval(draws, point=lift, n=self.units, rng=self.rng)

    def _split(self, name: str) -> Split | None:
        """Split a saving where everything that it takes was run: fixed budgets, and no stop preset."""
        bare = name if name in self.curve else self._bare(name)
        whole = self._drawn_tokens(self.reference)
        if name in (ORACLE, self.reference) or bare is None or whole is None or len(self.curve) < 2:
            return None
        if self._idle(name):
            return None
        policy, plain = self._drawn_tokens(name), self._drawn_tokens(bare)
        if policy is None or plain is None or not whole[1].all():
            return None
        # A fixed budget is its own cap.
        cap = plain if bare in self.curve else self._as_accurate(bare)
        return split(full=whole, cap=cap, plain=plain, policy=policy)

    def _drawn_tokens(self, name: str) -> Drawn | None:
        tokens = self.tokens[name]
        return None if tokens is None else (float(tokens.mean()), self._draws("tokens", name))

    def _as_accurate(self, name: str) -> Drawn:
        """Return the tokens of the fixed budgets that are as accurate as a policy."""
        tokens, accuracy = (
            np.column_stack([self._draws(kind, other) for other in self.curve])
            for kind in ("tokens", "accuracy")
        )
        points = [self._point(other) for other in self.curve]
        point = matched_tokens([t for t, _ in points], [a for _, a in points], self._point(name)[1])
        return float(point[0]), matched_tokens(tokens, accuracy, self._draws("accuracy", name))

    def _point(self, name: str) -> Point:
        """Return mean tokens and accuracy of a policy whose tokens are known."""
        tokens, accuracy = _average(self.tokens[name]), _average(self.accuracy[name])
        assert tokens is not None
        assert accuracy is not None
        return tokens, accuracy

    def _bare(self, name: str) -> str | None:
        """Return the run of the same policy without its stop preset: itself where that ended no thought."""
        if not stopped(self.paired.runs[name]):
            return name
        try:
            bare = without_stop(name)
        except BudgetctlError:
            return None
        return bare if self.tokens.get(bare) is not None else None

    def curves(self, policies: Sequence[str]) -> dict[str, Curve]:
        """Return the curve scalars of the fixed budgets, and of these with the policies."""
        if FULL not in self.curve or len(self.curve) < 2:
            return {}
        gap_se = None
        if OFF in self.curve:
            gap = np.asarray(self.accuracy[FULL]) - np.asarray(self.accuracy[OFF])
            gap_se = stats.paired_se(gap, groups=self.paired.groups)
        more = [name for name in policies if name not in self.curve and self.tokens[name] is not None]
        return compare_curves(
            {name: self._point(name) for name in self.curve},
            {name: self._point(name) for name in more},
            gap_se=gap_se,
        )

    def _variance(self, results: Sequence[Result]) -> dict[str, Any]:
        parts = stats.variance_parts(column(results, "correct"), self.paired.index)
        return {} if parts is None else {"variance_questions": parts[0], "variance_samples": parts[1]}

    def _costs(self, results: Sequence[Result]) -> dict[str, Any]:
        costs, right = known(column(results, "cost_usd")), column(results, "correct").sum()
        return {
            "cost_usd_mean": None if costs is None else float(costs.mean()),
            "cost_usd_per_correct": None if costs is None or not right else float(costs.sum() / right),
        }


def _average(column: Floats | None) -> float | None:
    return None if column is None else float(column.mean())
