"""The limits of a budget as criteria: the cap and the deadline. Both are hard."""

from __future__ import annotations

import math
from typing import Protocol

from budgetctl.types import Evidence, Progress, StopReason

from .compose import Composable

GRACE = 0.10
ANSWER_TOKENS = 512


class Tail(Protocol):
    """Says how long it takes from the end of a thought to that of its call."""

    def __call__(self, tokens: float, *, s_per_token: float | None, ttft_s: float | None) -> float:
        """Return the seconds that ``tokens`` of answer take, given the pace of the stream so far."""
        ...


class ReasoningCap(Composable):
    """Stop at ``tokens`` of thinking, or up to ``grace`` later at the end of a sentence.

    A thought that is cut in the middle of a sentence tends to go on in the answer; the extension window is
    that of NVIDIA NIM's budget control (10 %).

    Args:
        tokens: The cap.
        grace: Share of the cap that may be spent on reaching a boundary.
    """

    name = "reasoning_cap"

    def __init__(self, tokens: int, *, grace: float = GRACE) -> None:
        self.tokens = tokens
        self.limit = with_grace(tokens, grace=grace)

    def observe(self, progress: Progress) -> Evidence | None:
        """Return evidence at the first boundary from the cap on, at the latest at the limit."""
        spent = progress.reasoning_tokens
        if spent >= self.limit or (spent >= self.tokens and progress.at_boundary):
            return Evidence(criterion=self.name, reason=StopReason.CAP)
        return None


class Deadline(Composable):
    """Stop when only the time to write the answer is left.

    ``elapsed + tail >= seconds``, where the tail is ``answer_tokens * s_per_token`` unless something better
    is known of it. Until the stream's pace is measured only the deadline itself counts then.

    Args:
        seconds: From the start of the call to its end.
        answer_tokens: Tokens of answer to keep time for.
        tail_s: Returns the seconds to keep, the request that writes the answer included where it takes one.
    """

    name = "deadline"

    def __init__(
        self, seconds: float, *, answer_tokens: int = ANSWER_TOKENS, tail_s: Tail | None = None
    ) -> None:
        self.seconds = seconds
        self.answer_tokens = answer_tokens
        self._tail_s = tail_s or _answer_s

    def observe(self, progress: Progress) -> Evidence | None:
        """Return evidence from the moment at which the reserve is all that is left."""
        tail_s = self._tail_s(self.answer_tokens, s_per_token=progress.s_per_token, ttft_s=progress.ttft_s)
        if progress.elapsed_s + tail_s >= self.seconds:
            return Evidence(criterion=self.name, reason=StopReason.DEADLINE)
        return None


def _answer_s(tokens: float, *, s_per_token: float | None, ttft_s: float | None) -> float:
    return tokens * (s_per_token or 0.0)


def with_grace(tokens: int, *, grace: float = GRACE) -> int:
    """Return the most tokens that a cap may cost, with its extension to the end of the sentence."""
    return tokens + math.floor(tokens * grace)
