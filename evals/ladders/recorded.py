"""Rungs on recordings: what each model under each policy of a ladder did with the same calls.

A call is a question and a sample that were recorded at every rung; what was recorded at some of them only is
left out and counted. A rung at ``off``, ``full`` or ``effort:LEVEL`` takes the rows of its model that were
recorded so. Any other policy is replayed on the model's natural traces (:mod:`budgetctl.evals.replay`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from budgetctl.evals import columns
from budgetctl.evals.columns import EFFORT, NATURAL, OFF, Columns, Floats, Ints
from budgetctl.evals.recording import Recording
from budgetctl.evals.replay import FactsOf, no_facts, replay
from budgetctl.evals.replayed import Replayed

from budgetctl.controller import Controller
from budgetctl.errors import EvalError
from budgetctl.ladder import Rung
from budgetctl.policy import Effort, Full, Off, parse
from budgetctl.pricing import Prices
from budgetctl.types import Pace

CHARS_PER_TOKEN = 4
"""Of a prompt whose tokens were not recorded, for its price."""
SIGNALS = ("confidence", "trial_confidence", "p_top")
"""What a recording may hold of the probability of an answer."""
_KINDS = {NATURAL: "full", OFF: "off", EFFORT: "effort"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """The same calls at every rung of a ladder.

    Attributes:
        rungs: Cheapest first.
        tables: The results of each rung.
        at: Of shape (rungs, calls): the place of each call in the rung's table.
        question: For every call the number of its question in ``names``.
        sample: For every call the number of its sample.
        names: Names of the questions.
        texts: Their texts; None where none was recorded.
        clusters: Their clusters; None likewise.
        left_out: How many calls some rung did not record.
    """

    rungs: tuple[Rung, ...]
    tables: tuple[Replayed, ...]
    at: Ints
    question: Ints
    sample: Ints
    names: list[str]
    texts: list[str | None]
    clusters: list[str | None]
    left_out: int

    def __len__(self) -> int:
        return len(self.question)

    def column(self, rung: int, name: str) -> Floats:
        """Return a field of the results of a rung, one value per call; NaN is unknown."""
        return np.asarray(self.tables[rung].column(name)[self.at[rung]])

    def rows(self, rung: int) -> Ints:
        """Return the recorded row that each call comes to at a rung."""
        return np.asarray(self.tables[rung].row[self.at[rung]])

    def confidence(self, rung: int) -> Floats:
        """Return the recorded confidence of each answer at a rung, the first of ``SIGNALS``, else NaN."""
        known, at = self.tables[rung].recording.rows.signals, self.rows(rung)
        found = np.full(len(self), np.nan)
        for name in SIGNALS:
            if name in known:
                found = np.where(np.isnan(found), known[name][at], found)
        return found

    def answers(self, rung: int) -> Ints | None:
        """Return the number of each call's answer at a rung; None where one was not recorded."""
        found = self.tables[rung].recording.rows.answer[self.rows(rung)]
        return None if (found < 0).any() else found

    def tokens(self) -> list[Floats] | None:
        """Return the tokens of every rung: all that were generated, where these are known everywhere, else
        those of thinking; None where neither is."""
        for name in ("output_tokens", "reasoning_tokens"):
            found = [self.column(i, name) for i in range(len(self.rungs))]
            if not any(np.isnan(values).any() for values in found):
                return found
        return None

    def dollars(self, prices: Prices) -> tuple[list[Floats], bool] | None:
        """Return the dollars of every rung, and whether any of them are modelled.

        Dollars that were not recorded are tokens at the model's price, with a token per four characters of
        the question. None where a rung has neither.
        """
        found = [self._dollars(i, prices) for i in range(len(self.rungs))]
        known = [one for one in found if one is not None]
        if len(known) < len(found):
            return None
        return [values for values, _ in known], any(modelled for _, modelled in known)

    def _dollars(self, rung: int, prices: Prices) -> tuple[Floats, bool] | None:
        recorded = self.column(rung, "cost_usd")
        if not np.isnan(recorded).any():
            return recorded, False
        price, output = prices.lookup(self.rungs[rung].model), self.column(rung, "output_tokens")
        if (
            price is None
            or np.isnan(output).any()
            or any(self.texts[q] is None for q in self.question.tolist())
        ):
            return None
        chars = np.array([len(self.texts[q] or "") for q in self.question.tolist()], dtype=float)
        thinking = np.nan_to_num(self.column(rung, "reasoning_tokens"))
        rate = price.output if price.reasoning is None else price.reasoning
        spent = chars / CHARS_PER_TOKEN * price.input + thinking * rate + (output - thinking) * price.output
        return np.where(np.isnan(recorded), spent / 1e6, recorded), True


def read(
    paths: Iterable[str | os.PathLike[str]],
    rungs: Sequence[Rung],
    *,
    pace: Pace,
    dataset: str | None = None,
    base: Controller | None = None,
    facts_of: FactsOf = no_facts,
) -> Recorded:
    """Read what cube files hold of the rungs of a ladder.

    Raises:
        EvalError: A rung was not recorded, or no call at all of them; says what was.
    """
    return of(columns.read(paths, dataset=dataset), rungs, pace=pace, base=base, facts_of=facts_of)


def of(
    rows: Columns,
    rungs: Sequence[Rung],
    *,
    pace: Pace,
    base: Controller | None = None,
    facts_of: FactsOf = no_facts,
) -> Recorded:
    """Return what rows hold of the rungs of a ladder; see :func:`read`."""
    tables = [_table(rows, rung, pace=pace, base=base, facts_of=facts_of) for rung in rungs]
    keys = [_keys(table) for table in tables]
    shared = sorted(set.intersection(*map(set, keys)))
    if not shared:
        raise EvalError(f"no question was recorded at every rung of {' > '.join(map(str, rungs))}")
    at = [[places[pair] for pair in shared] for places in keys]
    texts: list[str | None] = [None] * len(rows.questions)
    clusters: list[str | None] = [None] * len(rows.questions)
    for question, text, cluster in zip(
        rows.question.tolist(), rows.text.tolist(), rows.cluster.tolist(), strict=True
    ):
        if text >= 0 and texts[question] is None:
            texts[question] = rows.texts[text]
        if cluster >= 0 and clusters[question] is None:
            clusters[question] = rows.clusters[cluster]
    return Recorded(
        rungs=tuple(rungs),
        tables=tuple(tables),
        at=np.array(at, dtype=np.int64),
        question=np.array([q for q, _ in shared], dtype=np.int64),
        sample=np.array([s for _, s in shared], dtype=np.int64),
        names=rows.questions,
        texts=texts,
        clusters=clusters,
        left_out=len(set().union(*keys)) - len(shared),
    )


def _keys(table: Replayed) -> dict[tuple[int, int], int]:
    calls = table.calls
    pairs = zip(calls.question.tolist(), calls.samples.tolist(), strict=True)
    return {pair: place for place, pair in enumerate(pairs)}


def _table(rows: Columns, rung: Rung, *, pace: Pace, base: Controller | None, facts_of: FactsOf) -> Replayed:
    recording = _recording(rows, rung)
    if not len(recording):
        raise EvalError(f"rung {str(rung)!r} was not recorded; {_recorded(rows, rung.model)}")
    try:
        return replay(recording, rung.policy, pace=pace, base=base, facts_of=facts_of)
    except EvalError as error:
        raise EvalError(f"rung {str(rung)!r}: {error}") from None


def _recording(rows: Columns, rung: Rung) -> Recording:
    """Return what a rung is replayed on; nothing where it was not recorded."""
    policy = parse(rung.policy)
    if isinstance(policy, Effort):
        return Recording.at_budget(rows, rung.model, EFFORT, effort=policy.level)
    off = Recording.at_budget(rows, rung.model, OFF)
    natural = Recording.at_budget(rows, rung.model, NATURAL)
    if policy == Full() or not len(natural):
        return natural if policy != Off() else off
    traces = Recording.of_columns(rows).of_model(rung.model)
    return off if policy == Off() and (len(off) or (traces.off < 0).all()) else traces


def _recorded(rows: Columns, model: str) -> str:
    """Say what there is of a model, or else which models there are."""
    if model not in rows.models:
        return f"recorded models: {', '.join(sorted(rows.models))}"
    mine = rows.model == rows.models.index(model)
    found = [name for kind, name in _KINDS.items() if kind != EFFORT and (mine & (rows.kind == kind)).any()]
    levels = np.unique(rows.value[mine & (rows.kind == EFFORT)]).tolist()
    found += [f"effort:{rows.efforts[level]}" for level in levels]
    return f"of {model!r} were recorded: {', '.join(found) or 'rows whose budget is not known'}"
