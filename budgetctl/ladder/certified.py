"""The certificate of a ladder: the threshold that it names, and whether it holds for a turn.

Clients and evaluations ask the same two functions: :func:`void` before anything is asked of a model, and
:func:`lost` of each call that was made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from budgetctl.certificate import Certificate, Circumstances, LadderBinding
from budgetctl.errors import CertificateError, ConfigError
from budgetctl.ladder.acceptance import Acceptance, acceptance
from budgetctl.ladder.rungs import Ladder, Rung
from budgetctl.policy import Situation, parse
from budgetctl.types import Budget, ModelFacts, Query, StopReason

if TYPE_CHECKING:
    from budgetctl.adapters import Rendered
    from budgetctl.controller import Controller
    from budgetctl.outcomes import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """A rung as a call meets it.

    Attributes:
        model: The model's own name.
        endpoint: Kind of endpoint that it stands at.
        params: The call's own parameters.
        facts: What the model can do there.
        write: Writes a budget into the call.
        trials: How trial answers are asked for, of what is not as usual.
    """

    model: str
    endpoint: str
    params: Mapping[str, Any]
    facts: ModelFacts
    write: Callable[[Budget], Rendered]
    trials: Mapping[str, Any] | None = None


def load(path: str | os.PathLike[str]) -> Certificate:
    """Read the certificate of a ladder.

    Raises:
        ConfigError: The file is none.
    """
    try:
        found = Certificate.load(path)
    except CertificateError as error:
        raise ConfigError(str(error)) from None
    if not isinstance(found.binds, LadderBinding):
        raise ConfigError(f"{path}: the certificate of one call's policy ({found.policy}), not of a ladder")
    return found


def accepts(certificate: Certificate) -> Acceptance:
    """Return what judges drafts as certified: the threshold of confidence.

    Raises:
        ConfigError: The certificate names none that a client knows.
    """
    how = certificate.policy.rpartition("?")[2]
    return acceptance("agreement" if how == "agree" else how)


def fingerprint(ladder: Ladder) -> str:
    """Return the fingerprint that certificates bind: which models are local plays no part in it."""
    return replace(ladder, rungs=tuple(replace(rung, local=False) for rung in ladder.rungs)).fingerprint


def void(
    certificate: Certificate,
    ladder: Ladder,
    met: Sequence[Met],
    *,
    controller: Controller,
    query: Query,
    start: int = 0,
    private: bool = False,
) -> str | None:
    """Return why a turn is not what was certified; None where it is.

    Args:
        certificate: One of a ladder.
        ladder: What is climbed.
        met: Its rungs, as this turn meets them.
        controller: What decides.
        query: What is asked.
        start: The rung to begin with.
        private: Only local rungs are asked.
    """
    binds, limits = certificate.binds, controller.limits
    if start or len(ladder.path(private=private)) < len(ladder.rungs):
        return "the turn has not all rungs of the ladder"
    if controller.mode != "enforce":
        return "observe mode: nothing was enforced"
    if limits.deadline_s is not None or limits.reasoning_tokens is not None:
        return "a limit of the call may cut what was certified"
    guesses = next((rung for rung in ladder.rungs if parse(rung.policy).needs_estimate), None)
    if guesses is not None and binds.classifier is None:
        return f"{guesses}: its policy needs an estimate, and no classifier is bound"
    classifier = None if binds.classifier is None else controller.classifier()
    top = met[-1]
    seen = Circumstances(
        model=top.model,
        endpoint=top.endpoint,
        params=top.params,
        classifier=None if classifier is None else classifier.hash,
        min_confidence=controller.min_confidence,
        capabilities=controller.capabilities.version,
        presets=controller.presets,
        ladder=fingerprint(ladder),
        trials=top.trials,
    )
    why = certificate.mismatch(seen)
    if why is not None:
        return why
    kept = (_unkept(certificate, rung, one, query) for rung, one in zip(ladder.rungs, met, strict=True))
    return next((why for why in kept if why is not None), None)


def _unkept(certificate: Certificate, rung: Rung, met: Met, query: Query) -> str | None:
    situation = Situation(query=replace(query, model=met.model), facts=met.facts)
    rendered = met.write(parse(rung.policy).budget(situation))
    why = certificate.unkept(rendered.controls, unsupported=rendered.unsupported, pinned=rendered.pinned)
    return None if why is None else f"{rung}: {why}"


def recorded(
    certificate: Certificate, ladder: Ladder, void: str | None, outcomes: Mapping[int, Outcome | None]
) -> dict[str, str | None]:
    """Return what the records of a turn say of its certificate.

    Args:
        certificate: One of a ladder.
        ladder: What was climbed.
        void: Why it does not hold, as far as that was known beforehand.
        outcomes: Those of the calls that were made, by rung.
    """
    losses = (lost(ladder.rungs[rung], outcome) for rung, outcome in outcomes.items())
    why = void or next((loss for loss in losses if loss is not None), None)
    return {"certificate": None if why else certificate.id, "certificate_void_reason": why}


def lost(rung: Rung, outcome: Outcome | None) -> str | None:
    """Return why a rung's call was not what was certified, in spite of all; None where it was."""
    if outcome is None:
        return f"{rung}: it was not recorded"
    if outcome.stop.reason is StopReason.ERROR:
        return f"{rung}: it failed"
    if outcome.policy != rung.policy:
        return f"{rung}: overridden by another policy"
    if outcome.stop.degraded:
        why = f"the answer does not go on from the model's own thought ({outcome.stop.actuator})"
        return f"{rung}: {why}"
    if any(reason.startswith("limit '") for reason in outcome.decision.reasons):
        return f"{rung}: a spending limit made the call a cheaper one"
    return None if outcome.fallback is None else f"{rung}: {outcome.fallback}"
