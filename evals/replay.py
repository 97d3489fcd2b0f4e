"""Replay: what a policy would have come to on recorded results, without calling a model.

* ``full`` takes a question's natural row; ``off`` its off row, or else the coupled row at 0 tokens.
* A cap on a coupled recording takes the row of that question and sample with the most reasoning tokens not
  above the cap, and counts that row's tokens. A cap at or above the natural length changes nothing.
* On an uncoupled trace nobody knows the answer at a shorter length: a cap below it counts as unanswered and
  wrong, with the whole cap spent. That is the pessimistic reading, and such results say so.
* A policy sees what a live run would have seen: question text, model, its facts, the pace of the named speed
  profile. Never the length of the trace and never a later row.
* A stop preset sees the recorded points of the trace in order, with the signals that were recorded there, and
  ends the thinking at the first that convinces it (:mod:`budgetctl.evals.stops`). Probes cost their tokens.
* Where no time was recorded, seconds = ttft + tokens x seconds per token; such numbers are marked modelled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from budgetctl.evals.columns import Flags, Ints
from budgetctl.evals.recording import Recording, length
from budgetctl.evals.replayed import Given, Replayed
from budgetctl.evals.stops import EVERY, points, watch

from budgetctl.controller import Classifier, Controller
from budgetctl.errors import EvalError
from budgetctl.policy import Cap, Certified, Deadline, Effort, Full, Off, Policy
from budgetctl.stopping.presets import WITH_TRIALS, Preset
from budgetctl.types import Limits, ModelFacts, Pace, Query

__all__ = ["SPEED_PROFILES", "FactsOf", "Recording", "no_facts", "replay", "speed_profile"]

SPEED_PROFILES: Mapping[str, Pace] = {
    "nominal": Pace(ttft_s=0.5, s_per_token=0.02),
    "fast": Pace(ttft_s=0.2, s_per_token=0.005),
    "slow": Pace(ttft_s=1.0, s_per_token=0.1),
}
"""Assumed speeds, not measurements: 50, 200 and 10 tokens a second."""

FactsOf = Callable[[str], ModelFacts]

NO_TEXT = "no question text was recorded, so nothing was estimated"

_BLIND_TO_QUERIES = (Full, Off, Cap, Deadline, Effort)
"""Policies that give all queries the same budget, as long as model and pace are the same."""


def speed_profile(text: str) -> Pace:
    """Return the pace that a profile name or ``ttft,seconds_per_token`` stands for.

    Raises:
        EvalError: Neither.
    """
    if text in SPEED_PROFILES:
        return SPEED_PROFILES[text]
    try:
        ttft, per_token = (float(part) for part in text.split(","))
        if min(ttft, per_token) < 0 or not math.isfinite(ttft + per_token) or per_token == 0:
            raise ValueError
    except ValueError:
        raise EvalError(
            f"speed profile {text!r}: allowed are {', '.join(SPEED_PROFILES)}, or two numbers "
            "TTFT,SECONDS_PER_TOKEN such as 0.5,0.02"
        ) from None
    return Pace(ttft_s=ttft, s_per_token=per_token)


def no_facts(model: str) -> ModelFacts:
    """Say that nothing is known of any model."""
    return ModelFacts()


def replay(
    recording: Recording,
    policy: str | Policy,
    *,
    pace: Pace,
    classifier: Classifier | str | None = None,
    facts_of: FactsOf = no_facts,
    limits: Limits | None = None,
    presets: Mapping[str, Preset] | None = None,
    base: Controller | None = None,
    every: int = EVERY,
) -> Replayed:
    """Return one result per trace under a policy, decided by the controller that live calls use.

    Calls that look the same to a policy (text, model, what the model can do) are decided once.

    Args:
        recording: What was recorded.
        policy: A policy or its string. A certificate is taken to be at its own endpoint and sampling.
        pace: The speed profile: what a deadline is measured with, and what models missing times.
        classifier: Estimates from the question's text; a trace without text gets no estimate.
        facts_of: Model name to what a live run would know of that model. That thinking can be capped, and
            switched off where an answer without it was recorded, is added.
        limits: What the caller could spend on each call.
        presets: Other soft criteria for the stop presets (see :func:`budgetctl.stopping.soft`).
        base: What decides, under another policy, in the place of ``classifier``, ``limits`` and ``presets``.
        every: Tokens of thinking after a trial answer that ended nothing until the next one, the first time.

    Raises:
        ConfigError: The policy does not parse, or ``presets`` name what there is not.
        ClassifierError: The policy needs the classifier, and it cannot be loaded.
        EvalError: The recording cannot answer for a budget that the policy gave.
    """
    base = base or Controller(classifier=classifier, limits=limits, presets=presets)
    sighted = base.with_policy(policy)
    if sighted.policy.needs_estimate:
        sighted.classifier()  # a live call falls back when it is broken; a measurement of that means nothing
    blind = Controller(sighted.policy, classifier=None, limits=base.limits)
    assumed: dict[str, Any] = {}
    if isinstance(sighted.policy, Certified):  # a recording does not say where its calls went
        binds = sighted.policy.certificate.binds
        assumed = {"endpoint": binds.endpoint, "params": binds.sampling}
    situation = _situations(recording, sighted.policy)
    _, firsts, which = np.unique(situation, return_index=True, return_inverse=True)
    given = Given()
    for trace in firsts.tolist():
        query, name = recording.query(trace), recording.model(trace)
        facts = replace(facts_of(name), can_cap=True, can_switch_off=bool(recording.off[trace] >= 0))
        decision = (blind if query is None else sighted).decide(
            query or Query.from_text("", model=name),
            facts=facts,
            pace=pace,
            price=base.prices.lookup(name),
            **assumed,
        )
        if query is None and sighted.policy.needs_estimate:
            decision = replace(decision, fallback=NO_TEXT)
        given.add(decision)
    played = play(recording, given, which, pace=pace)
    stop_early(played, presets=base.presets, every=every)
    return played


def _situations(recording: Recording, policy: Policy) -> Ints:
    """Return a number for each trace; traces of the same number are the same to a policy."""
    rows, at = recording.rows, recording.natural
    text = np.where(isinstance(policy, _BLIND_TO_QUERIES), np.sign(rows.text[at]), rows.text[at])
    situation = (text.astype(np.int64) + 1) * len(rows.models) + rows.model[at]
    return np.asarray(2 * situation + (recording.off >= 0), dtype=np.int64)


def play(recording: Recording, given: Given, which: Ints, *, pace: Pace) -> Replayed:
    """Return what the recorded calls come to under budgets, before any stop preset.

    Args:
        recording: What was recorded.
        given: Decisions.
        which: For every trace the number of its decision.
        pace: The speed profile.

    Raises:
        EvalError: The recording cannot say, as for an effort level that was not recorded.
    """
    budgets = given.budgets
    caps = np.array([math.nan if b.reasoning_tokens is None else b.reasoning_tokens for b in budgets])[which]
    row, with_effort = recording.natural.copy(), np.zeros(len(recording), dtype=np.bool_)
    for level in sorted({b.effort for b in budgets if b.effort is not None}):
        asked = np.array([b.effort == level for b in budgets])[which]
        found = recording.effort(level)
        _refuse(asked & (found < 0), recording, f"effort {level!r} was not recorded", efforts=True)
        row, with_effort = np.where(asked, found, row), with_effort | asked
    off = caps == 0
    _refuse(off & (recording.off < 0), recording, "no answer without thinking was recorded", then="'off'")
    tokens = length(recording.rows, row)
    short = ~off & ~np.isnan(caps) & ~(tokens <= caps)
    # Prefixes are those of the natural trace; they say nothing about a trace at another effort.
    prefix = np.where(short & ~with_effort, recording.prefix(caps), -1)
    cut = short & (prefix < 0)
    _refuse(cut & np.isnan(tokens), recording, "no length of the trace was recorded", then="a cap")
    row = np.where(off, recording.off, np.where(prefix >= 0, prefix, row))
    return Replayed(recording=recording, given=given, which=which, row=row, cut=cut, pace=pace)


def _refuse(
    where: Flags,
    recording: Recording,
    what: str,
    *,
    then: str = "",
    efforts: bool = False,
) -> None:
    if not where.any():
        return
    trace = int(np.argmax(where))
    more = f", so {then} cannot be replayed"
    if efforts:
        more = f" (recorded: {', '.join(recording.efforts(trace)) or 'none'})"
    question = recording.rows.questions[int(recording.rows.question[recording.natural[trace]])]
    raise EvalError(f"{question}: {what} for {recording.model(trace)!r}{more}")


def stop_early(played: Replayed, *, presets: Mapping[str, Preset] | None = None, every: int = EVERY) -> None:
    """Let the stop presets of the budgets end the thinking of results before its end.

    Args:
        played: Results; changed in place.
        presets: As for :func:`replay`.
        every: As for :func:`replay`.
    """
    recording, budgets = played.recording, played.given.budgets
    ends = played.column("reasoning_tokens")
    asked = np.array([b.stop in WITH_TRIALS and not b.off for b in budgets])[played.which] & ~np.isnan(ends)
    for b in {b.stop: b for b in budgets}.values():
        watch([], budget=b, pace=played.pace, presets=presets)  # refuses bad presets
    natural = np.array([b.effort is None for b in budgets])[played.which]
    traces, rows = recording.points(np.where(asked & natural, ends, -1.0))
    seen = points(recording.rows, rows)
    starts = np.searchsorted(traces, np.arange(len(recording) + 1))
    for trace in np.flatnonzero(asked).tolist():
        stop = watch(
            seen[starts[trace] : starts[trace + 1]],
            budget=budgets[played.which[trace]],
            pace=played.pace,
            presets=presets,
            every=every,
        )
        if stop is None:
            continue
        if stop.row is not None and stop.evidence is not None:
            played.end_at(trace, stop.row, reason=stop.evidence.reason)
        elif stop.missing and ends[trace] and natural[trace]:
            played.miss(trace, stop.missing)
        if stop.probe_tokens:
            played.probe(trace, stop.probe_tokens)
