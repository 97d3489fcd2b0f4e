"""How often the loop criterion stops a thought that is none, and how soon it stops one that is.

    python -m budgetctl.evals.loops TRACES.jsonl.gz ... [--loops 1000] [--json]

Every recorded text whose answer was right is fed to :class:`budgetctl.stopping.LoopStop` as a stream of
tokens of four characters: a stop there is a false one. Texts of fewer than ten different words ("Thinking...
Thinking...") stand for thoughts that were hidden, and are left out. Loops are made of the same texts, since
none are labelled: a thought goes well up to some word, and from there on says the next 4 to 400 words again
and again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from budgetctl.errors import BudgetctlError, EvalError
from budgetctl.stopping import LoopStop
from budgetctl.types import Progress

FIELDS = ("thinking_text", "output_text")
CHARS_PER_TOKEN = 4
SEEN_CHARS = 16384
"""What a criterion is shown of a thought."""
SHORTEST, LONGEST = 4, 400
LONG = 64
"""Words of a loop whose first four rounds are the 256 words that the criterion wants to see repeated."""
PERIODS = 3
"""So many times something may be said again before it should have been stopped."""
DIFFERENT_WORDS = 10
LEAD_WORDS = 100
SLACK_WORDS = 16
"""Words that may come between two looks of the criterion."""
Z = 1.96


@dataclass(frozen=True, slots=True, kw_only=True)
class Loops:
    """What came of it.

    Attributes:
        traces: Texts with a right answer.
        false_stops: How many of them were stopped.
        false_stop_ci: Wilson's 95 % interval (1927) of their share.
        loops: Loops that were made.
        caught: Share of them that was stopped before the text ended, after 12 periods or 600 words.
        in_time: Share that was stopped within three periods after the first.
        long_in_time: The same, of loops of at least 64 words.
        in_time_or_256: Share that was stopped within three periods, or within 256 words where those are more.
    """

    traces: int
    false_stops: int
    false_stop_ci: tuple[float, float]
    loops: int
    caught: float
    in_time: float
    long_in_time: float
    in_time_or_256: float


def stopped_at(text: str, *, start: int = 0) -> int | None:
    """Return the number of characters after which a stream of ``text`` is stopped; None where it is not.

    Args:
        text: The whole thought.
        start: Characters that are known not to be stopped in.
    """
    loop = LoopStop()
    for end in range(start, len(text) + CHARS_PER_TOKEN, CHARS_PER_TOKEN):
        seen = text[max(end - SEEN_CHARS, 0) : end]
        progress = Progress(reasoning_tokens=end // CHARS_PER_TOKEN, reasoning=seen, elapsed_s=0.0)
        if loop.observe(progress) is not None:
            return min(end, len(text))
    return None


def measure(texts: Sequence[str], *, loops: int, seed: int = 0) -> Loops:
    """Measure on texts whose answer was right.

    Raises:
        EvalError: No text is long enough to make a loop of.
    """
    rng = random.Random(seed)
    usable = [text for text in texts if len(text.split()) > LEAD_WORDS + SHORTEST]
    if loops and not usable:
        raise EvalError(
            f"no text of more than {LEAD_WORDS + SHORTEST} words among {len(texts)} with a right answer"
        )
    false = sum(stopped_at(text) is not None for text in texts)
    delays = [_delay(rng.choice(usable), rng) for _ in range(loops)]
    found = [(words, period) for words, period in delays if words is not None]
    in_time = [period for words, period in found if words <= (PERIODS + 1) * period + SLACK_WORDS]
    long = sum(period >= LONG for _, period in delays)
    return Loops(
        traces=len(texts),
        false_stops=false,
        false_stop_ci=wilson(false, len(texts)),
        loops=loops,
        caught=len(found) / max(loops, 1),
        in_time=len(in_time) / max(loops, 1),
        long_in_time=sum(period >= LONG for period in in_time) / max(long, 1),
        in_time_or_256=sum(w <= max((PERIODS + 1) * p, 256) + SLACK_WORDS for w, p in found) / max(loops, 1),
    )


def _delay(text: str, rng: random.Random) -> tuple[int | None, int]:
    """Return after how many words of a loop made of ``text`` it is stopped, and its period in words."""
    words = text.split()
    lead = rng.randint(LEAD_WORDS, len(words) - SHORTEST)
    most = min(LONGEST, len(words) - lead)
    period = round(math.exp(rng.uniform(math.log(SHORTEST), math.log(most))))
    unit = words[lead : lead + period]
    before = " ".join(words[:lead]) + " "
    looped = before + " ".join(unit * max(12, 600 // period))
    at = stopped_at(looped, start=max(len(before) - CHARS_PER_TOKEN, 0) // CHARS_PER_TOKEN * CHARS_PER_TOKEN)
    return (None if at is None else len(looped[len(before) : at].split())), period


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share; (0, 1) of nothing."""
    if not n:
        return 0.0, 1.0
    p, z2 = hits / n, Z * Z
    middle, half = p + z2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max((middle - half) / (1 + z2 / n), 0.0), min((middle + half) / (1 + z2 / n), 1.0)


def read(path: Path) -> Iterator[str]:
    """Yield the thinking texts of a recording's rows with a right answer.

    Raises:
        EvalError: The file cannot be read, or a line is no JSON object.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            rows = [json.loads(line) for line in file if line.strip()]
    except (OSError, EOFError, ValueError) as error:
        raise EvalError(f"{path}: not JSON lines of recorded texts: {error}") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise EvalError(f"{path}: row {number}: an object expected, seen {type(row).__name__}")
        text = next((row[field] for field in FIELDS if row.get(field)), None)
        if text and row.get("correct") and len(set(text.split())) >= DIFFERENT_WORDS:
            yield str(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 is success, 2 a usage error."""
    parser = argparse.ArgumentParser(prog="python -m budgetctl.evals.loops", description=__doc__)
    parser.add_argument("traces", nargs="+", type=Path, metavar="TRACES", help="JSON lines, .gz or plain")
    parser.add_argument("--loops", type=int, default=1000, metavar="N", help="loops to make (1000)")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    args = parser.parse_args(argv)
    try:
        found = measure([text for path in args.traces for text in read(path)], loops=args.loops)
    except BudgetctlError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(asdict(found), indent=2))
        return 0
    low, high = found.false_stop_ci
    print(
        f"{found.traces} texts with a right answer: {found.false_stops} stopped "
        f"(95 %: {100 * low:.2f} to {100 * high:.2f} %)\n"
        f"{found.loops} loops of {SHORTEST} to {LONGEST} words: {100 * found.caught:.1f} % stopped, "
        f"{100 * found.in_time:.1f} % within {PERIODS} periods after the first "
        f"({100 * found.long_in_time:.1f} % of those of {LONG} words or more), "
        f"{100 * found.in_time_or_256:.1f} % within those or 256 words"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
