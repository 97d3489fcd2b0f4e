"""Candidates: answers that a thought states in passing, and a thought that does nothing but check one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from budgetctl.types import Evidence, Progress, StopReason

from .compose import Composable, Signal
from .trial import normalised

_BOXED = r"\\boxed\{(?P<boxed>(?:[^{}]|\{[^{}]*\})+)\}"
_STATED = (
    r"\banswer(?:\W{0,4}\s(?:is|be|as)\b\s*+:?+|\W{0,4}[:=])[\s*$(]*+(?:the\s+)?+(?:(?:option|choice)\W{1,2})?+"
    r"(?!(?:not|that|what|a|an|in|to|wrong|correct|right)\b)"
    r"(?P<stated>[-\w\\](?:[^\n.,;:!?()*$]|[.,](?=\d)){0,38}?)(?=[\s*)$]*(?:[.,;:!?(\n](?!\d)|$))"
)
_CHOICE = r"\b(?:option|choice)\s+\(?(?P<choice>[A-J])\)?(?![\w'\u2019])"
_CANDIDATE = re.compile(f"{_BOXED}|{_STATED}|{_CHOICE}", re.IGNORECASE)
_DOUBT = re.compile(
    r"\b(?:wait|hmm+|alternatively|actually|hold on|let me (?:double[- ]?check|re-?check|verify|check))\b",
    re.IGNORECASE,
)
_LAST = 400
"""Characters at the end of a thought in which a candidate is one that was stated just now."""


def candidates(text: str) -> Iterator[tuple[int, str]]:
    r"""Yield (position, answer) of what a text states as an answer.

    Found are ``\boxed{...}``, "the answer is ..." and its likes, and "option B", in the form in which answers
    are compared.
    """
    for match in _CANDIDATE.finditer(text):
        answer = normalised(next(group for group in match.groups() if group is not None))
        if answer:
            yield match.start(), answer


class CandidateSeen(Composable):
    """Evidence that an answer has just been stated: a gate for what costs something.

    ``CandidateSeen() & TrialAnswer(...)`` asks for trial answers only in the 256 tokens after a statement.
    Alone it stops at the first answer that comes to the model's mind.
    """

    name = "candidate_seen"
    needs: frozenset[Signal] = frozenset({"text"})

    def observe(self, progress: Progress) -> Evidence | None:
        """Return evidence at a boundary soon after a statement."""
        if not progress.at_boundary or next(candidates(progress.reasoning[-_LAST:]), None) is None:
            return None
        return Evidence(criterion=self.name, reason=StopReason.SETTLED, hard=False)


class StallStop(Composable):
    """Stop when a thought only goes over an answer that it has: doubts, and the same answer again.

    Since its current answer was first stated, it has been stated ``restated`` times more, with ``doubts``
    words of doubt ("wait", "let me check") in between and no other answer. It needs the text alone. It is in
    no preset: on recorded thoughts it saves next to nothing (``python -m budgetctl.evals.stalls``).

    Args:
        doubts: Words of doubt since the answer was first stated.
        restated: Times that it was stated again.
    """

    name = "stall"
    needs: frozenset[Signal] = frozenset({"text"})

    def __init__(self, *, doubts: int = 3, restated: int = 3) -> None:
        if min(doubts, restated) < 1:
            raise ValueError(f"doubts and restated are at least 1, seen {doubts} and {restated}")
        self.doubts = doubts
        self.restated = restated

    def observe(self, progress: Progress) -> Evidence | None:
        """Return evidence at a boundary, from the last 16,384 characters of the thought."""
        if not progress.at_boundary or not self._stalled(progress.reasoning):
            return None
        return Evidence(criterion=self.name, reason=StopReason.SETTLED, hard=False)

    def _stalled(self, text: str) -> bool:
        stated = list(candidates(text))
        run = [at for at, answer in _last_run(stated)]
        return len(run) > self.restated and len(_DOUBT.findall(text, run[0])) >= self.doubts


def _last_run(stated: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Return the statements at the end that are all of the same answer."""
    first = next((i for i in range(len(stated), 0, -1) if stated[i - 1][1] != stated[-1][1]), 0)
    return stated[first:]
