"""One turn on a ladder, without any io: which rung is asked next, and whose draft is the answer."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from budgetctl.errors import LimitExceeded, brief
from budgetctl.ladder.acceptance import Verdict
from budgetctl.ladder.rungs import Draft, Ladder
from budgetctl.types import Query


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A rung that has brought nothing.

    Attributes:
        error: Why.
        rung: Which one; None is the one that was asked for.
    """

    error: Exception
    rung: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A draft with its verdict, where whoever asks the rungs has waited for one."""

    draft: Draft
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Climbed:
    """How a turn ended.

    Attributes:
        draft: The answer.
        drafts: All drafts, in the order in which they came.
        why: Why it is the answer.
    """

    draft: Draft
    drafts: tuple[Draft, ...]
    why: str


def climb(
    ladder: Ladder,
    query: Query,
    *,
    start: int = 0,
    private: bool = False,
    notes: dict[int, str] | None = None,
) -> Generator[int, Draft | Failed | Judged, Climbed]:
    """Climb until a draft is accepted. Yields the rung whose draft is wanted and is sent what it came to.

    What came of a rung above the wanted one, which a hedge had started beside it, may be sent first: the
    first accepted answer ends the turn. The way never leads down, but for one case: where a limit on spending
    refuses the first rung and lets cheaper ones be tried, these are, from the dearest, and not judged.

    Args:
        start: The rung to begin with.
        private: Only local rungs.
        notes: Filled with what each rung came to, by its place, as far as the turn has come; nothing of the
            query or of an answer.

    Raises:
        ConfigError: There is no such rung, or no local one.
        Exception: The error of the last rung, unless some rung has brought a whole answer: then that of the
            highest one is the answer, accepted or not.
    """
    path = list(ladder.path(start=start, private=private))
    first, top = path[0], path[-1]
    lower = [i for i in reversed(ladder.path(private=private)) if i < first]
    drafts: list[Draft] = []
    notes = {} if notes is None else notes
    error: Exception | None = None

    def judge(got: Draft | Judged) -> Verdict:
        draft = got.draft if isinstance(got, Judged) else got
        if draft.rung == top and (not draft.empty or not any(d.usable for d in drafts)):
            return Verdict(accepted=True, why="the last rung")
        if not draft.usable:
            return Verdict(accepted=False, why="no whole answer")
        if draft.rung < first:
            return Verdict(accepted=True, why="a spending limit refuses dearer rungs")
        if isinstance(got, Judged):
            return got.verdict
        try:
            return said(ladder.accept.judge(query, draft, tuple(drafts)))
        except Exception as failure:  # what judges may be the user's own
            return unjudged(failure)

    while path:
        got = yield path[0]
        if isinstance(got, Failed):
            rung = path[0] if got.rung is None else got.rung
            error, notes[rung] = got.error, f"failed: {brief(got.error)}"
            if lower and not drafts and isinstance(error, LimitExceeded) and error.cheaper:
                path, lower = [*lower, *path], []
            path.remove(rung)
            continue
        draft = got.draft if isinstance(got, Judged) else got
        verdict = judge(got)
        drafts.append(draft)
        notes[draft.rung] = verdict.why
        path.remove(draft.rung)
        if verdict.accepted:
            return Climbed(draft=draft, drafts=tuple(drafts), why=verdict.why)
    whole = [draft for draft in drafts if draft.usable]
    if not whole:
        assert error is not None  # a draft of the last rung would have been accepted
        raise error
    best = max(whole, key=lambda draft: draft.rung)
    notes[best.rung] = why = f"{notes[best.rung]}; no rung above brought an answer"
    return Climbed(draft=best, drafts=tuple(drafts), why=why)


def said(verdict: object) -> Verdict:
    """Return what was said of a draft.

    Raises:
        TypeError: It is no verdict.
    """
    if not isinstance(verdict, Verdict):
        raise TypeError(f"a verdict was to come, seen {type(verdict).__name__}")
    return verdict


def unjudged(error: Exception) -> Verdict:
    """Return the verdict where there was to be one and what judges has failed: not accepted."""
    return Verdict(accepted=False, why=f"the acceptance failed: {brief(error)}")
