"""Certificates of ladders, from runs in which every rung answered every question.

    budgetctl eval live pocket --policies off,full+stop:balanced,full --confidence --out rungs
    budgetctl calibrate rungs --ladder "off>full+stop:balanced>full" --out ladder.json

The family is one ladder with one threshold of confidence for all its rungs, ``lambda = 1 - threshold``: at 0
only the last rung answers, and the larger lambda, the more drafts are accepted. What is compared with is the
last rung alone. Recorded drafts are climbed as live ones are, and every draft is charged. Where a live rung
goes on from the thought of the one below it, the recorded one is charged with what it adds; its times are
those of the whole answer, longer than live.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from budgetctl.evals.cascade import Cascade, Climb
from budgetctl.evals.questions import LiveQuestion
from budgetctl.evals.results import Key, Result
from budgetctl.evals.risk.calibrate import Deployment, Goal, certify, cheapest, issue
from budgetctl.evals.risk.families import Member
from budgetctl.evals.risk.losses import Losses, losses
from budgetctl.evals.runfolder import ROWS, collect, read_rows, read_settings

from budgetctl.certificate import STRENGTHS, Certificate, LadderBinding, thresholds
from budgetctl.controller import MIN_CONFIDENCE
from budgetctl.errors import ConfigError, EvalError
from budgetctl.policy import Situation, parse
from budgetctl.types import Query, Strength

LAMBDAS = tuple(round(1e-4 * 2 ** (k / 2), 6) for k in range(27))
"""Thresholds of 0.9999 down to 0.1808: what they leave open grows in steps of the square root of 2."""


def members(cascade: Cascade) -> list[Member]:
    """Return the ladders of the family, safest first."""
    return [Member(policy=str(cascade.at(round(1 - step, 6))), lambda_=step) for step in LAMBDAS]


def read(folder: Path, chain: str) -> tuple[Cascade, dict[str, list[Result]], Mapping[str, Any]]:
    """Return a ladder, the results of its rungs, and the settings of the run that holds them.

    Args:
        folder: A run folder.
        chain: The rungs, as ``off>full+stop:balanced>full``.

    Raises:
        ConfigError: It is no chain of rungs.
        EvalError: A rung was not run, or its confidence not kept.
    """
    if "?" in chain:
        raise ConfigError(
            f"ladder {chain!r}: leave out what follows '?': the threshold is what is calibrated"
        )
    settings = read_settings(folder)["settings"]
    cascade = Cascade.parse(f"{chain}?confident:0.5", model=settings["model"])
    names = cascade.chain.split(">")
    missing = [name for name in names if name not in settings["policies"]]
    if missing:
        raise EvalError(
            f"{folder}: the rung {missing[0]!r} was not run; seen are {', '.join(settings['policies'])}"
        )
    runs = collect(read_rows(folder / ROWS), policies=names)
    for name in names[:-1]:
        if any(r.answered and r.confidence is None for r in runs[name]):
            raise EvalError(
                f"{folder}: {name!r} has answers without a confidence: record the rungs with --confidence"
            )
    return cascade, runs, settings


def climbed(cascade: Cascade, runs: Mapping[str, Sequence[Result]]) -> list[Result]:
    """Return what the ladder comes to on recorded drafts, in the order of the last rung's results."""
    names = cascade.chain.split(">")
    drafts: list[dict[Key, Result]] = [{r.key: r for r in runs[name]} for name in names]
    done: list[Result] = []
    for key in drafts[-1]:
        climb, found = Climb(cascade, Query.from_text("")), None
        while found is None:
            if key not in drafts[climb.rung]:
                raise EvalError(f"question {key[0]!r}: the rung {names[climb.rung]!r} has no answer to it")
            found = climb.send(_going_on(drafts[climb.rung][key], kept=climb.kept))
        done.append(found)
    return done


def _going_on(result: Result, *, kept: int) -> Result:
    """Return a whole answer as the rung that had ``kept`` tokens of its thought already; its times stay."""
    if not kept or result.reasoning_tokens is None or result.output_tokens is None:
        return result
    return replace(
        result,
        reasoning_tokens=max(result.reasoning_tokens - kept, 0),
        output_tokens=max(result.output_tokens - kept, 0),
    )


def table(
    cascade: Cascade, runs: Mapping[str, Sequence[Result]], *, goal: Goal
) -> tuple[Losses, list[Member]]:
    """Return the losses of the family against the last rung alone, and the family."""
    family = members(cascade)
    ladders = {m.policy: climbed(cascade.at(round(1 - m.lambda_, 6)), runs) for m in family}
    top = runs[cascade.chain.split(">")[-1]]
    return losses(top, ladders, loss=goal.loss, cluster_by=goal.cluster_by), family


def calibrate(folder: Path, *, chain: str, goal: Goal, deployment: Deployment) -> Certificate:
    """Return a certificate of the cheapest ladder of the family that can be certified.

    Raises:
        NotEnoughEvidence: None can; says how many questions it would take.
        ConfigError: ``chain`` is no chain of rungs.
        EvalError: The folder does not hold what it takes.
    """
    cascade, runs, settings = read(folder, chain)
    tested, family = table(cascade, runs, goal=goal)
    finding = cheapest([certify(tested, family, goal=goal, level=goal.delta, learn_path=False)], goal=goal)
    assert finding.last is not None
    chosen = Cascade.parse(finding.members[finding.last].policy, model=cascade.own)
    return issue(finding, goal=goal, coupled=False, binds=_binding(chosen, settings, deployment))


def _binding(cascade: Cascade, settings: Mapping[str, Any], deployment: Deployment) -> LadderBinding:
    *drafts, top = [str(getattr(parse(rung.policy), "stop", "none")) for rung in cascade.rungs]
    presets = settings.get("presets")
    guesses = any(parse(rung.policy).needs_estimate for rung in cascade.rungs)
    return LadderBinding(
        model=cascade.rungs[-1].model,
        endpoint=deployment.endpoint,
        strength=_strength(cascade, settings, deployment),
        sampling=dict(deployment.sampling),
        classifier=settings.get("classifier") if guesses else None,
        min_confidence=settings.get("min_confidence", MIN_CONFIDENCE) if guesses else None,
        stop=top,
        thresholds=thresholds(top, presets=presets),
        capabilities=deployment.capabilities,
        ladder=cascade.ladder.fingerprint,
        stops={stop: thresholds(stop, presets=presets) for stop in drafts},
        trials=settings.get("trials"),
    )


def _strength(cascade: Cascade, settings: Mapping[str, Any], deployment: Deployment) -> Strength:
    """Return the weakest control that carried the budget of a rung where the run was made."""
    if "base_url" not in settings or deployment.base is None:
        return deployment.strength
    from budgetctl.evals.endpoint import EndpointBackend

    question = LiveQuestion(id="", text="")
    found = [STRENGTHS.index(deployment.strength)]
    for rung in cascade.rungs:
        own = settings.get("models", {}).get(rung.model, {"model": rung.model})
        asked = {**settings, **own}
        backend = EndpointBackend(
            base_url=asked["base_url"],
            model=asked["model"],
            grader=lambda answer, raw: False,
            endpoint=asked["endpoint"],
            sampling=asked["sampling"],
            capabilities=deployment.base.capabilities,
        )
        situation = Situation(query=Query.from_text("", model=backend.model), facts=backend.facts)
        budget = parse(rung.policy).budget(situation)
        found += [STRENGTHS.index(c.strength) for c in backend.written(question, budget).controls]
    return STRENGTHS[min(found)]
