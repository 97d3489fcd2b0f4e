"""Calibration: from a recording to a certificate, or to how many questions one would take."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from budgetctl.evals.recording import Recording
from budgetctl.evals.replay import FactsOf, no_facts, replay
from budgetctl.evals.replayed import Replayed
from budgetctl.evals.results import ClusterBy
from budgetctl.evals.risk.families import Family, Member, members
from budgetctl.evals.risk.losses import FULL, Losses, losses
from budgetctl.evals.risk.pvalues import minimum_n, needed_n, p_value
from budgetctl.evals.risk.selection import fixed_sequence, halve, split_path

from budgetctl.certificate import Binding, Certificate, Loss, thresholds
from budgetctl.controller import Classifier, Controller
from budgetctl.errors import EvalError, NotEnoughEvidence
from budgetctl.policy import parse
from budgetctl.types import Pace, Strength


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is to be shown: P(loss <= epsilon) >= 1 - delta.

    Attributes:
        epsilon: Largest loss, as a share of questions.
        delta: Largest probability of a wrong certificate.
        loss: What is counted; see :data:`budgetctl.certificate.Loss`.
        cluster_by: What an independent unit is.
        seed: Of the order in which units are tested.
    """

    epsilon: float
    delta: float
    loss: Loss = "accuracy"
    cluster_by: ClusterBy = "question"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epsilon", "delta"):
            if not 0 < getattr(self, name) < 1:
                raise EvalError(f"{name}: seen {getattr(self, name)!r}, allowed: a share between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What testing one family came to.

    Attributes:
        members: The family, in the order tested.
        level: What it was tested at.
        p_values: Up to and with the first that was not rejected.
        last: Position of the certified member; None is none.
        tested: Losses on the units that were tested on.
    """

    members: tuple[Member, ...]
    level: float
    p_values: tuple[float, ...]
    last: int | None
    tested: Losses

    @property
    def saving(self) -> float:
        """Token saving of the certified member on the calibration data; 0 without one."""
        return 0.0 if self.last is None else self.tested.saving(self.last)


def certify(
    table: Losses, family: Sequence[Member], *, goal: Goal, level: float, learn_path: bool
) -> Finding:
    """Test one family on the losses of all units.

    Args:
        table: Losses of the members of ``family``, in its order.
        level: Share of delta that this family may use up.
        learn_path: The family has two dimensions: half of the units give the order, the others are tested on.
    """
    rng = np.random.default_rng(goal.seed)
    units: Sequence[int] = rng.permutation(table.n).tolist()

    def p_of(one: Losses, member: int) -> float:
        return p_value(one.loss[member], epsilon=goal.epsilon, level=level, test=one.test)

    order = list(range(len(family)))
    if learn_path:
        first, units = halve(table.n, rng=rng)
        learnt = table.of(first)
        order = split_path(learnt.loss, learnt.tokens, lambda member: p_of(learnt, member))
    tested = table.of(units)
    walk = fixed_sequence((p_of(tested, member) for member in order), level=level)
    return Finding(
        members=tuple(family[i] for i in order),
        level=level,
        p_values=walk.p_values,
        last=walk.last,
        tested=tested.only(order),
    )


def cheapest(findings: Sequence[Finding], *, goal: Goal) -> Finding:
    """Return the finding that saves most.

    Each was tested at its own share of delta, so all of them hold together and any may be picked.

    Raises:
        NotEnoughEvidence: None certifies a policy that saves tokens; says how many units it would take.
    """
    best = max(findings, key=lambda finding: finding.saving)
    if best.saving <= 0:
        raise Insufficient(findings, goal)
    return best


class Insufficient(NotEnoughEvidence):
    """Nothing that saves tokens can be certified.

    Attributes:
        n: Units that were tested on.
        needed: Units that it would take, about; None where more of the same would not do.
        p_values: Of the family that came closest.
    """

    def __init__(self, findings: Sequence[Finding], goal: Goal) -> None:
        best = min(findings, key=lambda f: f.p_values[-1])
        at, table = len(best.p_values) - 1, best.tested
        self.n, self.p_values = table.n, best.p_values
        least = minimum_n(epsilon=goal.epsilon, level=best.level, test=table.test)
        rng = np.random.default_rng(goal.seed)
        self.needed = needed_n(
            table.loss[at].tolist(), epsilon=goal.epsilon, level=best.level, test=table.test, rng=rng
        )
        mean = float(table.loss[at].mean())
        what = f"{best.members[at].policy}: mean loss {mean:+.4f} on {table.n} units"
        if self.needed is None:
            more = f"more of the same would not do: the loss seen is not clearly below {goal.epsilon:g}"
        else:
            more = f"at losses like these it takes about {self.needed} units; without any loss {least}"
        super().__init__(
            f"nothing that saves tokens can be certified at epsilon {goal.epsilon:g}, delta {goal.delta:g} "
            f"({what}, p = {best.p_values[-1]:.3g}); {more}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What the certificate is meant for, as far as a recording does not say it.

    Attributes:
        endpoint: Kind of endpoint.
        sampling: Sampling parameters that calls set.
        capabilities: Version of the capability table.
        facts_of: Model name to what is known of it.
        pace: Speed profile for policies that look at speed.
        classifier: For families that need estimates.
        base: What decides, in the place of ``classifier``: with its prices, presets and abstention rule.
        strength: The weakest control that may carry a budget. Recorded prefixes of a trace are what a hard
        cap does.
    """

    endpoint: str
    capabilities: str
    sampling: Mapping[str, Any] = field(default_factory=dict)
    facts_of: FactsOf = no_facts
    pace: Pace
    classifier: Classifier | None = None
    base: Controller | None = None
    strength: Strength = "hard"

    @property
    def decider(self) -> Controller:
        """What decides."""
        return self.base or Controller(classifier=self.classifier)


def calibrate(
    recording: Recording,
    *,
    goal: Goal,
    families: Sequence[Family],
    stops: Sequence[str],
    deployment: Deployment,
) -> Certificate:
    """Return a certificate for the cheapest policy of the families that can be certified on a recording.

    Several families share delta in equal parts. Several stop presets make a family of two dimensions, whose
    order is learnt on half of the questions.

    Raises:
        NotEnoughEvidence: None can; says how many questions it would take.
        EvalError: The recording holds several models, or lacks what the loss needs.
    """
    models = recording.models
    if len(models) != 1:
        raise EvalError(
            f"a certificate binds one model, and the recording holds {', '.join(models)}: choose one"
        )
    findings = []
    for name in families:
        family = [m for stop in stops for m in members(name, stop=stop, off=recording.has_off)]
        runs = play(recording, family, deployment=deployment)
        table = losses(runs.pop(FULL), runs, loss=goal.loss, cluster_by=goal.cluster_by)
        level = goal.delta / len(families)
        findings.append(certify(table, family, goal=goal, level=level, learn_path=len(stops) > 1))
    finding = cheapest(findings, goal=goal)
    binds = binding(finding, model=models[0], deployment=deployment)
    return issue(finding, goal=goal, coupled=recording.coupled, binds=binds)


def play(recording: Recording, family: Sequence[Member], *, deployment: Deployment) -> dict[str, Replayed]:
    """Replay full thinking and every member of a family."""
    base = deployment.decider
    return {
        policy: replay(recording, policy, pace=deployment.pace, base=base, facts_of=deployment.facts_of)
        for policy in (FULL, *(member.policy for member in family))
    }


def binding(finding: Finding, *, model: str, deployment: Deployment) -> Binding:
    """Return what the certificate of a finding holds for."""
    assert finding.last is not None
    policy = parse(finding.members[finding.last].policy)
    stop = str(getattr(policy, "stop", "none"))
    base = deployment.decider
    classifier = base.classifier() if policy.needs_estimate else None
    return Binding(
        model=model,
        endpoint=deployment.endpoint,
        strength=deployment.strength,
        sampling=dict(deployment.sampling),
        classifier=None if classifier is None else classifier.hash,
        min_confidence=None if classifier is None else base.min_confidence,
        stop=stop,
        thresholds=thresholds(stop, presets=base.presets),
        capabilities=deployment.capabilities,
    )


def issue(finding: Finding, *, goal: Goal, coupled: bool, binds: Binding) -> Certificate:
    """Return the certificate of a finding that has one."""
    assert finding.last is not None
    member, tested = finding.members[finding.last], finding.tested
    return Certificate(
        created=datetime.now(UTC).date().isoformat(),
        loss=goal.loss,
        epsilon=goal.epsilon,
        delta=goal.delta,
        level=finding.level,
        test=tested.test,
        n=tested.n,
        results=tested.results,
        coupled=coupled,
        members=tuple(m.policy for m in finding.members),
        lambdas=tuple(m.lambda_ for m in finding.members),
        p_values=finding.p_values,
        lambda_=member.lambda_,
        policy=member.policy,
        token_saving=finding.saving,
        mean_loss=float(tested.loss[finding.last].mean()),
        data=hashlib.sha256(tested.loss.tobytes() + tested.tokens.tobytes()).hexdigest()[:16],
        seed=goal.seed,
        binds=binds,
    ).sealed()
