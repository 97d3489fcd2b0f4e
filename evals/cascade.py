"""Cascades as policies of evaluations: ``off>cap:48>full?confident:0.99``.

The rungs stand cheapest first, a policy each, with ``MODEL@`` before those of another model than the suite's.
What follows the question mark says when a draft of any rung but the last is accepted: ``confident:P``, where
its confidence is at least P (or one threshold per rung, ``confident:0.99/0.9``), or ``agree``, where it says
the same as an earlier draft. :func:`budgetctl.ladder.climb` does the climbing, live and on recordings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from budgetctl.evals.results import Result

from budgetctl.errors import ConfigError
from budgetctl.ladder import Acceptance, Agreement, Confident, Draft, Ladder, Rung, Verdict, climb
from budgetctl.policy import parse
from budgetctl.stopping.presets import WITH_TRIALS
from budgetctl.types import Query, Timing, Usage

N = TypeVar("N", int, float)
ALLOWED = "confident:P, confident:P/P/.. (one per rung but the last), agree"


def is_cascade(text: str) -> bool:
    """Return whether a string names a cascade and no policy."""
    return ">" in text and not text.startswith("certified:")


@dataclass(frozen=True, slots=True)
class ConfidentPerRung:
    """Accepts a draft whose confidence reaches the threshold of its rung."""

    thresholds: tuple[float, ...]

    def judge(self, query: Query, draft: Draft, earlier: Sequence[Draft]) -> Verdict:
        """Return what :class:`~budgetctl.ladder.Confident` says at the rung's own threshold."""
        return Confident(self.thresholds[draft.rung]).judge(query, draft, earlier)


@dataclass(frozen=True, slots=True)
class Cascade:
    """Rungs of an evaluation, and when a draft of theirs is accepted.

    Attributes:
        rungs: Cheapest first; the last one always answers.
        thresholds: Confidence per rung but the last; None asks for agreement instead.
        own: The model of rungs that name none.
    """

    rungs: tuple[Rung, ...]
    thresholds: tuple[float, ...] | None
    own: str

    @classmethod
    def parse(cls, text: str, *, model: str) -> Cascade:
        """Read a cascade.

        Args:
            text: See the module.
            model: The model of rungs that name none.

        Raises:
            ConfigError: A part does not parse; the message names it and what is allowed.
        """
        chain, asked, how = text.rpartition("?")
        if not asked:
            raise ConfigError(
                f"cascade {text!r}: says not when a draft is accepted; add ?ACCEPT, one of {ALLOWED}"
            )
        try:
            rungs = tuple(rung_of(part.strip(), own=model) for part in chain.split(">"))
            if len(rungs) < 2:
                raise ConfigError("a cascade has two rungs or more, as off>full")
            found = cls(rungs, _thresholds(how.strip(), drafts=len(rungs) - 1), model)
            _ = found.ladder  # refuses what is no ladder
            return found
        except ConfigError as error:
            raise ConfigError(f"cascade {text!r}: {error}") from None

    @property
    def accept(self) -> Acceptance:
        """What judges the drafts."""
        if self.thresholds is None:
            return Agreement()
        first, *others = self.thresholds
        return ConfidentPerRung(self.thresholds) if set(others) - {first} else Confident(first)

    def goes_on(self, below: int, above: int) -> bool:
        """Return whether a rung goes on from the thought of one below it, where the model can.

        It does where that is the beginning of its own: it is the same model, and no stop preset of the upper
        rung looks for an earlier end.
        """
        lower, upper = self.rungs[below], self.rungs[above]
        stop = getattr(parse(upper.policy), "stop", "balanced")  # of a policy that has none, any
        return lower.model == upper.model and stop not in WITH_TRIALS

    @property
    def ladder(self) -> Ladder:
        """The ladder that is climbed."""
        return Ladder(rungs=self.rungs, accept=self.accept)

    @property
    def chain(self) -> str:
        """The rungs alone, as ``off>full``."""
        return ">".join(name_of(rung, own=self.own) for rung in self.rungs)

    def at(self, *thresholds: float) -> Cascade:
        """Return the same rungs with other thresholds: one for all, or one per rung but the last."""
        each = thresholds if len(thresholds) > 1 else thresholds * (len(self.rungs) - 1)
        return replace(self, thresholds=each)

    def __str__(self) -> str:
        if self.thresholds is None:
            return f"{self.chain}?agree"
        shown = [f"{t:g}" for t in self.thresholds]
        return f"{self.chain}?confident:{shown[0] if len(set(shown)) == 1 else '/'.join(shown)}"


def rung_of(text: str, *, own: str) -> Rung:
    """Return the rung that ``[MODEL@]POLICY`` names; without a model it is ``own``.

    Raises:
        ConfigError: The policy does not parse.
    """
    model, _, policy = text.rpartition("@")
    return Rung(model=model or own, policy=str(parse(policy)))


def name_of(rung: Rung, *, own: str) -> str:
    """Return what names a rung among those of ``own``."""
    return rung.policy if rung.model == own else str(rung)


def _thresholds(text: str, *, drafts: int) -> tuple[float, ...] | None:
    name, _, argument = text.partition(":")
    if text == "agree":
        return None
    try:
        values = [float(part) for part in argument.split("/")] if name == "confident" else []
    except ValueError:
        values = []
    if len(values) not in (1, drafts) or not all(0 <= value <= 1 for value in values):
        raise ConfigError(
            f"?{text}: allowed are {ALLOWED}, with numbers from 0 to 1; "
            f"there are {drafts} rungs before the last"
        )
    return tuple(values * drafts if len(values) == 1 else values)


class Climb:
    """The way of one question up a cascade.

    Attributes:
        rung: Position of the rung that is to answer next.
        kept: Tokens of the last draft's thought that this rung goes on from; 0 where it begins anew.
    """

    def __init__(self, cascade: Cascade, query: Query, *, start: int = 0) -> None:
        self._cascade = cascade
        self._steps = climb(cascade.ladder, query, start=start)
        self._results: list[Result] = []
        self._kept: list[int] = []
        self._answered: dict[int, int] = {}
        self.rung = next(self._steps)
        self.kept = 0

    @property
    def thought(self) -> tuple[int, ...]:
        """The tokens that the rung goes on from."""
        return self._results[-1].thought if self.kept else ()

    def send(self, result: Result) -> Result | None:
        """Take what the rung answered; return the result of the whole climb once a draft is accepted.

        A thought that came to its end by itself is no other on the rung that goes on from it: that rung is
        not asked, and the draft is judged again as its own.
        """
        self._results.append(result)
        self._kept.append(self.kept)
        ended = result.stop == "natural" and result.answered
        while True:
            here = self.rung
            self._results[-1] = replace(result, rung=here)
            self._answered[here] = len(self._results) - 1
            try:
                self.rung = self._steps.send(_draft(self._results[-1]))
            except StopIteration as end:
                at = self._answered[end.value.draft.rung]
                return charge(self._results, at=at, kept=self._kept[at])
            on = self._cascade.goes_on(here, self.rung)
            self.kept = (result.thought_tokens or 0) if on else 0
            if not (ended and self.kept):
                return None


def _draft(result: Result) -> Draft:
    assert result.rung is not None
    return Draft(
        rung=result.rung,
        answer=result.answer if result.answered else None,
        finished=result.stop != "length",
        confidence=result.confidence,
        usage=Usage(reasoning_tokens=result.reasoning_tokens, output_tokens=result.output_tokens),
        cost_usd=result.cost_usd,
        timing=Timing(ttft_s=result.ttft_s, ttfo_s=result.ttfo_s, e2e_s=result.e2e_s),
    )


def charge(drafts: Sequence[Result], *, at: int = -1, kept: int = 0) -> Result:
    """Return the accepted draft, charged with all the others.

    A draft that was thrown away is a trial answer: all its tokens count as thinking and as those of probes,
    but for the part of its thought that the accepted draft went on from, which is no probe. Drafts are made
    one after the other and shown only once accepted, so the earlier ones delay the first token. A sum with an
    unknown part is unknown.

    Args:
        drafts: In the order made.
        at: Which of them was accepted.
        kept: Tokens of an earlier one's thought that it went on from, and that it does not count itself.
    """
    taken = drafts[at]
    others = [draft for draft in drafts if draft is not taken]
    wasted = total([draft.output_tokens for draft in others])
    waited = total([draft.e2e_s for draft in others])
    return replace(
        taken,
        reasoning_tokens=total([taken.reasoning_tokens, wasted]),
        probe_tokens=taken.probe_tokens + max(int(wasted or 0) - kept, 0),
        output_tokens=total([taken.output_tokens, wasted]),
        cost_usd=total([draft.cost_usd for draft in drafts]),
        ttft_s=total([waited, taken.ttft_s]),
        ttfo_s=total([waited, taken.ttfo_s]),
        e2e_s=total([waited, taken.e2e_s]),
        started_s=drafts[0].started_s,
    )


def total(values: Sequence[N | None]) -> N | None:
    """Return the sum of values; None where one of them is unknown."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return sum(known)  # pyright: ignore[reportReturnType]  # the 0 of an empty sum is no N to it
