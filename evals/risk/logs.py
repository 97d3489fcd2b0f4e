"""Calibration on one's own calls: the same queries at full thinking and under caps, with feedback on both.

A log of live calls has no second answer to the same query unless somebody asked for one. So what counts are
the queries that were sent under ``full`` and under every cap (``cap:N``, ``off``) that is to be certified.
The runs are independent, so the loss is the difference of their means; chance differences are noise in both
directions and cost questions, not validity. A call that brought no answer is wrong, with or without
feedback; but an audit without one says nothing. Nobody waited for it, it may have ended with its process,
and as a wrong full run it would make the caps look better than they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from budgetctl.evals.risk.calibrate import Deployment, Goal, binding, certify, cheapest, issue
from budgetctl.evals.risk.families import Member
from budgetctl.evals.risk.losses import FULL, Losses

from budgetctl import records
from budgetctl.certificate import Certificate
from budgetctl.errors import ConfigError, EvalError
from budgetctl.outcomes import Feedback, Outcome
from budgetctl.policy import Cap, Full, Off, parse
from budgetctl.types import Strength

_STRENGTHS: tuple[Strength, ...] = ("hard", "advisory", "none")


@dataclass(slots=True)
class _Calls:
    """What is known of one query under one policy."""

    right: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)


def calibrate(paths: Sequence[Path], *, goal: Goal, model: str | None, deployment: Deployment) -> Certificate:
    """Return a certificate for the cheapest cap of the logs that can be certified.

    The binding's strength is the weakest with which any of the caps was carried.

    Args:
        model: Only calls of this model; None where the logs hold one.

    Raises:
        NotEnoughEvidence: There is none; says how many queries it would take.
        EvalError: The logs hold several models or stop presets, or no query under both.
    """
    if goal.loss != "accuracy" or goal.cluster_by != "question":
        raise EvalError(
            "an outcome log has feedback by query: it bounds the loss 'accuracy' by question only"
        )
    outcomes, right = _read(paths)
    if not right:
        raise EvalError(
            f"{', '.join(map(str, paths))}: neither a recording nor an outcome log with its feedback rows"
        )
    used = [o for o in outcomes if model in (None, o.model) and o.id in right]
    models = sorted({str(o.model) for o in used})
    if len(models) != 1:
        raise EvalError(
            f"a certificate binds one model, and the calls with feedback name {', '.join(models) or 'none'}"
        )
    calls: defaultdict[str, defaultdict[str, _Calls]] = defaultdict(lambda: defaultdict(_Calls))
    strength = 0
    for outcome in used:
        name = _member(outcome.policy)
        if name is None or outcome.query_hash is None or outcome.query_hash.startswith("process:"):
            continue
        spent = outcome.usage.reasoning_tokens
        if spent is None:
            raise EvalError(
                f"outcome {outcome.id}: its thinking tokens are unknown, so no saving can be told"
            )
        found = calls[name][outcome.query_hash]
        found.right.append(right[outcome.id])
        found.tokens.append(spent)
        if name != FULL:
            strength = max(strength, _STRENGTHS.index(outcome.budget_state.strength))
    family = _family(name for name in calls if name != FULL)
    table = _losses(calls, family)
    finding = cheapest([certify(table, family, goal=goal, level=goal.delta, learn_path=False)], goal=goal)
    seen = replace(deployment, strength=_STRENGTHS[strength])
    return issue(finding, goal=goal, coupled=False, binds=binding(finding, model=models[0], deployment=seen))


def _read(paths: Iterable[Path]) -> tuple[list[Outcome], dict[str, float]]:
    """Return the calls and how right each was, as far as that is known; the last feedback counts."""
    outcomes: list[Outcome] = []
    feedback: dict[str, Feedback] = {}
    for path in paths:
        for row in records.read(path):
            if isinstance(row, Outcome):
                outcomes.append(row)
            elif row.id not in feedback or row.time >= feedback[row.id].time:
                feedback[row.id] = row
    right = {o.id: 0.0 for o in outcomes if not o.answered and o.parent_id is None}
    for name, row in feedback.items():
        value = row.score if row.correct is None else float(row.correct)
        if value is not None:
            right.setdefault(name, value)
    return outcomes, right


def _member(policy: str) -> str | None:
    """Return the name under which calls of a policy count; None where they do not."""
    try:
        parsed = parse(policy)
    except ConfigError:
        return None
    if isinstance(parsed, Full):
        return FULL
    return str(parsed) if isinstance(parsed, Cap | Off) else None


def _family(names: Iterable[str]) -> list[Member]:
    policies = [p for p in map(parse, names) if isinstance(p, Cap | Off)]
    if len({p.stop for p in policies if isinstance(p, Cap)}) > 1:
        raise EvalError("the caps of the log have several stop presets: calibrate on calls with one")
    caps = {str(p): p.tokens if isinstance(p, Cap) else 0 for p in policies}
    return [
        Member(policy=name, lambda_=round(1000 / (1000 + cap), 6))
        for name, cap in sorted(caps.items(), key=lambda item: -item[1])
    ]


def _losses(calls: dict[str, defaultdict[str, _Calls]], family: Sequence[Member]) -> Losses:
    names = [FULL, *(member.policy for member in family)]
    seen = [set(calls[name]) for name in names if name in calls]
    queries = sorted(set.intersection(*seen)) if len(seen) == len(names) > 1 else []
    if not queries:
        raise EvalError(
            "no query has feedback both at 'full' and under every cap of the log: send the same queries "
            "under the policy 'full' and under the caps that are to be certified"
        )
    right = np.array([[np.mean(calls[name][q].right) for q in queries] for name in names], dtype=np.float64)
    tokens = np.array([[np.mean(calls[name][q].tokens) for q in queries] for name in names], dtype=np.float64)
    return Losses(
        loss=right[0] - right[1:],
        tokens=tokens[1:],
        full_tokens=tokens[0],
        results=sum(len(calls[FULL][q].right) for q in queries),
        test="betting",
    )
