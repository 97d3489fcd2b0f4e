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
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from budgetctl.evals.cube import CubeRow
from budgetctl.evals.results import Result
from budgetctl.evals.stops import EVERY, watch

from budgetctl.controller import Classifier, Controller
from budgetctl.errors import EvalError
from budgetctl.policy import Policy
from budgetctl.stopping.presets import Preset
from budgetctl.types import Budget, Limits, ModelFacts, Pace, Query, StopReason

SPEED_PROFILES: Mapping[str, Pace] = {
    "nominal": Pace(ttft_s=0.5, s_per_token=0.02),
    "fast": Pace(ttft_s=0.2, s_per_token=0.005),
    "slow": Pace(ttft_s=1.0, s_per_token=0.1),
}
"""Assumed speeds, not measurements: 50, 200 and 10 tokens a second."""

PESSIMISTIC = "uncoupled trace cut by the cap: counted as unanswered (pessimistic)"

UNRECORDED = "not recorded before the end, so the stop preset could not act on it"

FactsOf = Callable[[str], ModelFacts]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Everything recorded for one question, model and sample.

    Attributes:
        natural: The row in which the model stopped thinking by itself.
        off: The row without thinking, if there is one.
        coupled: Rows of prefixes of the natural trace, shortest first.
        efforts: Effort level to its row.
    """

    natural: CubeRow
    off: CubeRow | None = None
    coupled: tuple[CubeRow, ...] = ()
    efforts: Mapping[str, CubeRow] = field(default_factory=dict)

    @property
    def query(self) -> Query | None:
        """The call as a classifier would have seen it; None where the text was not recorded."""
        text = self.natural.question
        return None if text is None else Query.from_text(text, model=self.natural.model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Traces that can be replayed, and what had to be left out.

    Attributes:
        traces: One per question, model and sample.
        left_out: Reason to the number of traces (or rows) that it left out.
    """

    traces: tuple[Trace, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Iterable[CubeRow]) -> Recording:
        """Group the rows of one or more cubes. Of rows that record the same thing the first stands.

        Raises:
            EvalError: There is no natural row, so nothing to compare with.
        """
        groups: dict[tuple[str, str], dict[int, list[CubeRow]]] = {}
        reasons: Counter[str] = Counter()
        seen: set[Hashable] = set()
        for row in rows:
            if row.budget is None:
                reasons["rows whose budget is not recorded"] += 1
                continue
            key = (row.question_key, row.model, row.sample, row.budget.kind, row.budget.value, row.coupled)
            if key in seen:
                reasons["rows that repeat an earlier one's question, model, sample and budget"] += 1
                continue
            seen.add(key)
            groups.setdefault((row.question_key, row.model), {}).setdefault(row.sample, []).append(row)
        traces: list[Trace] = []
        for samples in groups.values():
            found = _traces(samples)
            traces += found
            reasons["samples without a natural row"] += len(samples) - len(found)
        if not traces:
            raise EvalError(
                "nothing to replay: no row with budget kind 'natural', so there is no full thinking to "
                f"compare with ({_count(reasons) or 'no rows at all'})"
            )
        return cls(traces=tuple(traces), left_out={reason: n for reason, n in reasons.items() if n})

    @property
    def has_off(self) -> bool:
        """Whether every trace can be replayed without thinking."""
        return all(trace.off is not None for trace in self.traces)


def _count(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in reasons.items() if n)


def _traces(samples: Mapping[int, Sequence[CubeRow]]) -> list[Trace]:
    """Return the traces of one question and model. A sample without an off row borrows another sample's."""
    offs = {n: row for n in sorted(samples) if (row := _only(samples[n], kind="off")) is not None}
    traces = []
    for n in sorted(samples):
        rows = samples[n]
        natural = _only(rows, kind="natural")
        if natural is None:
            continue
        coupled = _prefixes(rows)
        off = offs.get(n) or next((row for row in coupled if row.reasoning_tokens == 0), None)
        traces.append(
            Trace(
                natural=natural,
                off=off or next(iter(offs.values()), None),
                coupled=coupled,
                efforts={str(r.budget.value): r for r in rows if r.budget and r.budget.kind == "effort"},
            )
        )
    return traces


def _only(rows: Sequence[CubeRow], *, kind: str) -> CubeRow | None:
    return next((row for row in rows if row.budget is not None and row.budget.kind == kind), None)


def _prefixes(rows: Sequence[CubeRow]) -> tuple[CubeRow, ...]:
    """Return the coupled capped rows, shortest first; of equally long ones the larger cap last."""
    capped = [
        (row.reasoning_tokens, int(row.budget.value or 0), row)
        for row in rows
        if row.coupled and row.budget is not None and row.budget.kind == "tokens"
        if row.reasoning_tokens is not None
    ]
    return tuple(row for *_, row in sorted(capped, key=lambda item: item[:2]))


def play(trace: Trace, budget: Budget, *, pace: Pace) -> Result:
    """Return what one recorded call comes to under a budget.

    Raises:
        EvalError: The recording cannot say, as for an effort level that was not recorded.
    """
    row = trace.natural
    if budget.effort is not None:
        if budget.effort not in trace.efforts:
            known = ", ".join(sorted(trace.efforts)) or "none"
            raise EvalError(
                f"{row.question_key}: effort {budget.effort!r} was not recorded for {row.model!r} "
                f"(recorded: {known})"
            )
        row = trace.efforts[budget.effort]
    cap = budget.reasoning_tokens
    if cap == 0:
        if trace.off is None:
            raise EvalError(
                f"{row.question_key}: no answer without thinking was recorded for {row.model!r}, so 'off' "
                "cannot be replayed"
            )
        return _result(trace.off, budget, pace=pace)
    length = row.output_tokens if row.reasoning_tokens is None else row.reasoning_tokens
    if cap is None or (length is not None and length <= cap):
        return _result(row, budget, pace=pace)
    # Coupled rows are prefixes of the natural trace only; they say nothing about a trace at another effort.
    prefixes = () if budget.effort is not None else trace.coupled
    cut = [r for r in prefixes if r.reasoning_tokens is not None and r.reasoning_tokens <= cap]
    if cut:
        return _result(cut[-1], budget, pace=pace)
    if length is None:
        raise EvalError(f"{row.question_key}: no length of the trace was recorded, so no cap can be replayed")
    return Result(
        question_id=row.question_key,
        cluster=row.cluster,
        model=row.model,
        sample=trace.natural.sample,
        correct=False,
        answered=False,
        reasoning_tokens=None if row.reasoning_tokens is None else cap,
        output_tokens=cap,
        e2e_s=pace.seconds(cap),
        budget=budget,
        modelled=("e2e_s",),
        notes=(PESSIMISTIC,),
    )


def _result(row: CubeRow, budget: Budget, *, pace: Pace) -> Result:
    off = row.budget is not None and row.budget.kind == "off"
    reasoning = 0 if off and row.reasoning_tokens is None else row.reasoning_tokens
    modelled: list[str] = []
    ttfo, e2e = row.ttfo_s, row.e2e_s
    if ttfo is None and reasoning is not None:
        ttfo = pace.seconds(reasoning)
        modelled.append("ttfo_s")
    total = reasoning if row.output_tokens is None else row.output_tokens
    if e2e is None and total is not None:
        e2e = pace.seconds(total)
        modelled.append("e2e_s")
    return Result(
        question_id=row.question_key,
        cluster=row.cluster,
        model=row.model,
        sample=row.sample,
        correct=row.correct,
        answer=None if row.answer is None else str(row.answer),
        reasoning_tokens=reasoning,
        output_tokens=row.output_tokens,
        ttfo_s=ttfo,
        e2e_s=e2e,
        cost_usd=row.cost_usd,
        budget=budget,
        modelled=tuple(modelled),
    )


def stopped(
    trace: Trace,
    result: Result,
    *,
    pace: Pace,
    presets: Mapping[str, Preset] | None = None,
    every: int = EVERY,
) -> Result:
    """Return what is left of a result when its budget's stop preset may end the thinking before.

    Args:
        trace: What was recorded.
        result: What the call comes to without the preset.
        pace: The speed profile.
        presets: As for :func:`replay`.
        every: As for :func:`replay`.
    """
    if result.reasoning_tokens is None:
        return result
    stop = watch(points(trace, result), result, pace=pace, presets=presets, every=every)
    if stop is None:
        return result
    if stop.row is not None and stop.evidence is not None:
        result = cut(stop.row, result, stop=stop.evidence.reason, pace=pace)
    elif stop.missing and result.reasoning_tokens and result.budget.effort is None:
        result = replace(result, notes=(*result.notes, f"{UNRECORDED}: {', '.join(sorted(stop.missing))}"))
    return _with_trials(result, stop.probe_tokens, pace=pace) if stop.probe_tokens else result


def points(trace: Trace, result: Result) -> list[tuple[int, CubeRow]]:
    """Return (tokens, row) of the recorded points before the end of the thinking of ``result``."""
    if result.budget.effort is not None or result.budget.off:
        return []  # they are points of the natural trace
    end = result.reasoning_tokens or 0
    return [(at, row) for row in trace.coupled if (at := row.reasoning_tokens) and at < end]


def cut(row: CubeRow, result: Result, *, stop: StopReason, pace: Pace) -> Result:
    """Return what ``result`` comes to when its thinking ends at a recorded point."""
    return replace(_result(row, result.budget, pace=pace), sample=result.sample, stop=str(stop))


def _with_trials(result: Result, spent: int, *, pace: Pace) -> Result:
    """Charge a result for its trials: their tokens, and their time where that is modelled anyway."""
    late = {name: getattr(result, name) + spent * pace.s_per_token for name in result.modelled}
    return replace(
        result,
        reasoning_tokens=None if result.reasoning_tokens is None else result.reasoning_tokens + spent,
        output_tokens=None if result.output_tokens is None else result.output_tokens + spent,
        probe_tokens=spent,
        **late,
    )


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
    every: int = EVERY,
) -> list[Result]:
    """Return one result per trace under a policy, decided by the controller that live calls use.

    Args:
        recording: What was recorded.
        policy: A policy or its string.
        pace: The speed profile: what a deadline is measured with, and what models missing times.
        classifier: Estimates from the question's text; a trace without text gets no estimate.
        facts_of: Model name to what a live run would know of that model. That thinking can be capped, and
            switched off where an answer without it was recorded, is added.
        limits: What the caller could spend on each call.
        presets: Other soft criteria for the stop presets (see :func:`budgetctl.stopping.soft`).
        every: Tokens of thinking after a trial answer that ended nothing until the next one, the first time.

    Raises:
        ConfigError: The policy does not parse, or ``presets`` name what there is not.
        ClassifierError: The policy needs the classifier, and it cannot be loaded.
        EvalError: The recording cannot answer for a budget that the policy gave.
    """
    sighted = Controller(policy, classifier=classifier, limits=limits)
    if sighted.policy.needs_estimate:
        sighted.classifier()  # a live call falls back when it is broken; a measurement of that means nothing
    blind = Controller(policy, classifier=None, limits=limits)
    results = []
    for trace in recording.traces:
        controller = blind if trace.query is None else sighted
        decision = controller.decide(
            trace.query or Query.from_text("", model=trace.natural.model),
            facts=replace(facts_of(trace.natural.model), can_cap=True, can_switch_off=trace.off is not None),
            pace=pace,
        )
        result = stopped(
            trace, play(trace, decision.budget, pace=pace), pace=pace, presets=presets, every=every
        )
        notes = result.notes if decision.fallback is None else (*result.notes, decision.fallback)
        # An off row may be borrowed from another sample; it still stands for this one.
        results.append(replace(result, sample=trace.natural.sample, notes=notes))
    return results
