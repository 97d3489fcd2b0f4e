"""What :class:`budgetctl.stopping.StallStop` would have done to recorded thoughts.

    python -m budgetctl.evals.stalls TRACES.jsonl.gz ... [--doubts 3] [--restated 3]

Nobody knows what a recorded model would have answered at the stop. What can be seen is whether the answer
that the thought had stated last by then is also the last one that it stated at all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from budgetctl.evals.loops import SEEN_CHARS, read

from budgetctl.errors import BudgetctlError
from budgetctl.stopping import Boundaries, StallStop
from budgetctl.stopping.candidate import candidates
from budgetctl.types import Progress

CHARS = 16
CHARS_PER_TOKEN = 4
SHORTEST = 1500
"""Texts of fewer characters have nothing to save."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stalls:
    """What came of it.

    Attributes:
        traces: Texts with a right answer and of some length.
        stopped: How many of them were stopped.
        kept: Of those, how many had by then stated the answer that they stated last.
        saved: Share of all characters that came after the stops.
    """

    traces: int
    stopped: int
    kept: int
    saved: float


def stopped_at(text: str, criterion: StallStop) -> int | None:
    """Return the number of characters after which a stream of ``text`` is stopped; None where it is not."""
    boundaries = Boundaries()
    for end in range(CHARS, len(text) + CHARS, CHARS):
        progress = Progress(
            reasoning_tokens=end // CHARS_PER_TOKEN,
            reasoning=text[max(end - SEEN_CHARS, 0) : end],
            elapsed_s=0.0,
            at_boundary=boundaries.feed(text[end - CHARS : end]),
        )
        if criterion.observe(progress) is not None:
            return min(end, len(text))
    return None


def measure(texts: Sequence[str], *, doubts: int, restated: int) -> Stalls:
    """Measure on texts whose answer was right."""
    long = [text for text in texts if len(text) >= SHORTEST]
    stops = [stopped_at(text, StallStop(doubts=doubts, restated=restated)) for text in long]
    ended = [(text, at) for text, at in zip(long, stops, strict=True) if at is not None]
    return Stalls(
        traces=len(long),
        stopped=len(ended),
        kept=sum(_last(text[:at]) == _last(text) for text, at in ended),
        saved=sum(len(text) - at for text, at in ended) / max(sum(map(len, long)), 1),
    )


def _last(text: str) -> str:
    return list(candidates(text))[-1][1]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 is success, 2 a usage error."""
    parser = argparse.ArgumentParser(prog="python -m budgetctl.evals.stalls", description=__doc__)
    parser.add_argument("traces", nargs="+", type=Path, metavar="TRACES", help="JSON lines, .gz or plain")
    parser.add_argument("--doubts", type=int, default=3, metavar="N", help="words of doubt (3)")
    parser.add_argument("--restated", type=int, default=3, metavar="N", help="times stated again (3)")
    args = parser.parse_args(argv)
    try:
        texts = [text for path in args.traces for text in read(path)]
        found = measure(texts, doubts=args.doubts, restated=args.restated)
    except (BudgetctlError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"{found.traces} texts with a right answer: {found.stopped} stopped, {found.kept} of them after they "
        f"had stated their last answer; {100 * found.saved:.1f} % of the text came after the stops"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
