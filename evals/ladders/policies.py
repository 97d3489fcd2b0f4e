"""Ladders as policies of a replay: cascades, and routers that choose a rung before anything is asked.

A cascade (:mod:`budgetctl.evals.cascade`) drafts and climbs as in a live run, on what was recorded at each
rung. A draft's confidence is the recorded one (:data:`~budgetctl.evals.ladders.recorded.SIGNALS`), else the
probability of a right answer that the classifier gives its rung beforehand, and such results say so. Routers
are

    A@off>B@full?need:0.1            the last of two rungs where the estimate gains 0.1 or more from it
    A@off>A@full>B@full?worth:0.02   the largest 0.02 dollars * p(right) - expected cost

In an evaluation with ladders a call is a question and sample that every rung recorded. ``full`` is the last
rung, which all ladders share, always asked; every other rung is a fixed budget by its name, ``A@off``; and
any other policy is one of the last rung's model. In a recording of one model, rungs need not name it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from budgetctl.evals.cascade import Cascade, Climb, is_cascade, name_of, rung_of
from budgetctl.evals.columns import Columns
from budgetctl.evals.ladders.recorded import Recorded, of
from budgetctl.evals.ladders.scores import p_right
from budgetctl.evals.replay import FactsOf, no_facts
from budgetctl.evals.results import Result

from budgetctl.controller import Controller
from budgetctl.errors import ConfigError, EvalError
from budgetctl.ladder import Rung
from budgetctl.policy import Situation, expect, parse
from budgetctl.types import Estimate, Pace, Query

FULL = "full"
ROUTERS = ("need", "worth")
BEFOREHAND = "no confidence was recorded: the classifier's p(right) before the draft stands for it"


@dataclass(frozen=True, slots=True)
class Router:
    """Rungs of which one is chosen before anything is asked.

    Attributes:
        by: ``need`` or ``worth``.
        at: The threshold, or the dollars.
    """

    rungs: tuple[Rung, ...]
    by: str
    at: float
    own: str

    @classmethod
    def parse(cls, text: str, *, model: str) -> Router:
        """Read a router.

        Args:
            text: See the module.
            model: The model of rungs that name none.

        Raises:
            ConfigError: A part does not parse; the message names it and what is allowed.
        """
        chain, _, how = text.rpartition("?")
        by, _, number = how.strip().partition(":")
        parts = [part.strip() for part in chain.split(">")]
        try:
            at = float(number)
        except ValueError:
            raise ConfigError(f"router {text!r}: ?{how}: allowed are need:GAIN and worth:USD") from None
        if len(parts) < 2 or (by == "need" and len(parts) > 2):
            raise ConfigError(f"router {text!r}: expected two rungs, of worth two or more, as A@off>B@full")
        if by == "worth" and not 0 < at < np.inf:
            raise ConfigError(f"router {text!r}: what a right answer is worth is a number above zero")
        return cls(tuple(rung_of(part, own=model) for part in parts), by, at, model)

    def __str__(self) -> str:
        return f"{'>'.join(name_of(rung, own=self.own) for rung in self.rungs)}?{self.by}:{self.at:g}"


Way = Router | Cascade | Rung
"""How a policy of an evaluation with ladders is run."""


def ways(policies: Sequence[str], *, own: str, canonical: Callable[[str], str]) -> dict[str, Way]:
    """Return the canonical names of policies, with ladders among them, and what each is.

    Args:
        policies: Policy strings, at least one of them of a ladder.
        own: The model of rungs that name none.
        canonical: The name of a policy that is no ladder.

    Raises:
        ConfigError: One does not parse, or two ladders end in different rungs.
    """
    ladders = [_ladder(text, own=own) for text in policies if is_cascade(text)]
    top = ladders[0].rungs[-1]
    for ladder in ladders:
        if ladder.rungs[-1] != top:
            raise ConfigError(
                f"{str(ladder)!r} ends in {ladder.rungs[-1]} and {str(ladders[0])!r} in {top}: "
                "ladders that are compared share their last rung, which 'full' stands for"
            )
    found: dict[str, Way] = {FULL: top}
    for ladder in ladders:
        found |= {name_of(rung, own=own): rung for rung in ladder.rungs[:-1]}
    found |= {str(ladder): ladder for ladder in ladders}
    for text in policies:
        if not is_cascade(text) and (name := canonical(text)) not in found:
            found[name] = Rung(model=top.model, policy=name)
    return found


def _ladder(text: str, *, own: str) -> Router | Cascade:
    if text.rpartition("?")[2].strip().partition(":")[0] in ROUTERS:
        return Router.parse(text, model=own)
    return Cascade.parse(text, model=own)


def replay_ladders(
    rows: Columns,
    found: Mapping[str, Way],
    *,
    pace: Pace,
    base: Controller,
    facts_of: FactsOf = no_facts,
) -> tuple[dict[str, list[Result]], int]:
    """Return the results of every way over the calls that all rungs recorded, and how many others there are.

    Raises:
        EvalError: Something that a ladder looks at was not recorded; says what.
        ConfigError: A router by worth meets a model without a price.
    """
    rungs = tuple(dict.fromkeys(rung for way in found.values() for rung in _rungs(way)))
    calls = of(rows, rungs, pace=pace, base=base, facts_of=facts_of)
    at = {rung: _results(calls, i) for i, rung in enumerate(rungs)}
    guesses = _Guesses(calls, base)
    runs: dict[str, list[Result]] = {}
    for name, way in found.items():
        if isinstance(way, Rung):
            runs[name] = at[way]
        elif isinstance(way, Router):
            runs[name] = [*_routed(way, at, guesses, base=base, facts_of=facts_of, pace=pace)]
        else:
            runs[name] = [*_climbed(way, calls, at, guesses)]
    return runs, calls.left_out


def _rungs(way: Way) -> tuple[Rung, ...]:
    return (way,) if isinstance(way, Rung) else way.rungs


def _results(calls: Recorded, rung: int) -> list[Result]:
    """Return the results of a rung without their model, by which those of two rungs were no pair."""
    said = calls.confidence(rung)
    table = list(calls.tables[rung])
    return [
        replace(table[place], model="", confidence=None if np.isnan(confidence) else confidence)
        for place, confidence in zip(calls.at[rung].tolist(), said.tolist(), strict=True)
    ]


class _Guesses:
    """What the classifier says of each call at each rung; each question is asked about once a model."""

    def __init__(self, calls: Recorded, base: Controller) -> None:
        self.calls, self._base = calls, base
        self._known: dict[tuple[int, str], Estimate] = {}

    def query(self, call: int, rung: Rung) -> Query:
        """Return a call as the classifier sees it."""
        question = int(self.calls.question[call])
        text = self.calls.texts[question]
        if text is None:
            raise EvalError(
                f"the text of question {self.calls.names[question]!r} was not recorded, so nothing is known "
                f"of it before {rung} answers"
            )
        return Query.from_text(text, model=rung.model)

    def estimate(self, call: int, rung: Rung) -> Estimate:
        """Return the estimate of a call at a rung."""
        key = int(self.calls.question[call]), rung.model
        if key not in self._known:
            classifier = self._base.classifier()
            if classifier is None:
                raise EvalError(f"{rung}: without a classifier nothing is known of a question beforehand")
            self._known[key] = classifier.estimate(self.query(call, rung))
        return self._known[key]

    def p_right(self, call: int, rung: Rung) -> float:
        """Return the probability that a rung is right."""
        return p_right(rung, self.estimate(call, rung))


def _routed(
    router: Router,
    at: Mapping[Rung, Sequence[Result]],
    guesses: _Guesses,
    *,
    base: Controller,
    facts_of: FactsOf,
    pace: Pace,
) -> Iterator[Result]:
    first, last = router.rungs[0], router.rungs[-1]
    for call in range(len(at[first])):
        p = [guesses.p_right(call, rung) for rung in router.rungs]
        if router.by == "need":
            chosen = last if p[-1] - p[0] >= router.at else first
        else:
            values = [
                router.at * right - _cost(guesses, call, rung, base=base, facts_of=facts_of, pace=pace)
                for right, rung in zip(p, router.rungs, strict=True)
            ]
            chosen = router.rungs[values.index(max(values))]
        place = router.rungs.index(chosen)
        yield replace(at[chosen][call], rung=place, p_correct=p[place])


def _cost(
    guesses: _Guesses, call: int, rung: Rung, *, base: Controller, facts_of: FactsOf, pace: Pace
) -> float:
    """Return what a rung is expected to cost; answers of unknown length count as nothing."""
    facts = facts_of(rung.model)
    situation = Situation(
        query=guesses.query(call, rung),
        estimate=guesses.estimate(call, rung),
        facts=replace(facts, answer_tokens=facts.answer_tokens or 0),
        pace=pace,
        price=base.prices.lookup(rung.model),
    )
    cost = expect(parse(rung.policy).budget(situation), situation).cost_usd
    if cost is None:
        raise ConfigError(f"{rung}: 'worth' weighs dollars, and {rung.model!r} has no price; see [prices]")
    return cost


def _climbed(
    cascade: Cascade, calls: Recorded, at: Mapping[Rung, Sequence[Result]], guesses: _Guesses
) -> Iterator[Result]:
    agree, top = cascade.thresholds is None, cascade.rungs[-1]
    for rung in cascade.rungs[:-1]:
        if agree and any(draft.answered and draft.answer is None for draft in at[rung]):
            raise EvalError(
                f"cascade {str(cascade)!r}: answers of {rung} are not recorded, so none can agree"
            )
    for call in range(len(calls)):
        climb = Climb(cascade, Query.from_text(calls.texts[int(calls.question[call])] or ""))
        unknown = guessed = False
        done: Result | None = None
        while done is None:
            rung = cascade.rungs[climb.rung]
            draft = at[rung][call]
            unknown |= draft.output_tokens is None
            if not agree and rung != top and draft.confidence is None:
                draft, guessed = replace(draft, confidence=guesses.p_right(call, rung)), True
            done = climb.send(_shown(draft))
        assert done.rung is not None
        taken = at[cascade.rungs[done.rung]][call]
        yield replace(
            done,
            answer=taken.answer,
            confidence=taken.confidence,
            output_tokens=None if unknown else done.output_tokens,
            notes=(*done.notes, BEFOREHAND) if guessed else done.notes,
        )


def _shown(draft: Result) -> Result:
    """Return a draft as it is judged and charged, whatever of it was not recorded.

    An answer whose text was not kept is an answer all the same, and where only thinking was counted that is
    what a draft cost.
    """
    spent = draft.reasoning_tokens if draft.output_tokens is None else draft.output_tokens
    return replace(draft, answer=(draft.answer or "?") if draft.answered else None, output_tokens=spent)
