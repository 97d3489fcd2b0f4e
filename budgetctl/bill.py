"""The overthinking bill: what thinking cost in logged calls, and what a fixed cap would have cut.

Everything here is arithmetic on the log. Tokens are those of the log. Dollars are tokens times list prices.
Seconds of thinking are measured where the log has the time of the first answer token; otherwise they are
*modelled*, as the call's seconds times the share of its output that was thinking (tokens come at an even
speed), or as tokens by a given speed. What a cap does to accuracy is not in a log: that takes an eval.

Memory does not grow with the number of calls: only counts per model and per number of tokens are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from budgetctl.logs import Call, Line
from budgetctl.pricing import Prices
from budgetctl.types import Usage

CAPS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
QUANTILES = {"p50": 0.5, "p80": 0.8, "p90": 0.9, "p95": 0.95, "p99": 0.99}
NOTES = (
    "What a cap would have done to accuracy cannot be seen in a log: run budgetctl eval before capping.",
    "Dollars are recorded costs, else list prices: standard tier, no batch discount, cached input as told.",
)
_NAMED_UNKNOWN = 20


@dataclass(slots=True)
class Sum:
    """A sum over the calls that have the number, and how many those are."""

    total: float = 0.0
    n: int = 0

    def add(self, value: float | None) -> None:
        """Add one number; None counts for nothing."""
        if value is not None:
            self.total += value
            self.n += 1

    @property
    def value(self) -> float | None:
        """The sum, or None where no call had the number."""
        return self.total if self.n else None


@dataclass(slots=True)
class CapCut:
    """What one fixed cap on thinking would have cut."""

    calls_hit: int = 0
    tokens: int = 0
    dollars: Sum = field(default_factory=Sum)
    seconds: Sum = field(default_factory=Sum)


@dataclass(slots=True)
class Tally:
    """Running sums over calls."""

    caps: Mapping[int, CapCut]
    calls: int = 0
    failed: int = 0
    drafts: int = 0
    unbilled: int = 0
    estimated: int = 0
    prompt: Sum = field(default_factory=Sum)
    thinking: Sum = field(default_factory=Sum)
    answer: Sum = field(default_factory=Sum)
    dollars: Sum = field(default_factory=Sum)
    dollars_thinking: Sum = field(default_factory=Sum)
    seconds_measured: Sum = field(default_factory=Sum)
    seconds_modelled: Sum = field(default_factory=Sum)
    empty: int = 0
    empty_tokens: Sum = field(default_factory=Sum)
    empty_dollars: Sum = field(default_factory=Sum)
    lengths: Counter[int] = field(default_factory=Counter)


class Bill:
    """Adds up calls.

    Args:
        prices: List prices; a call of an unlisted model has no dollars.
        speed: Output tokens per second, for calls whose log has no times.
        caps: The caps to try, in tokens.
    """

    def __init__(self, *, prices: Prices, speed: float | None = None, caps: Sequence[int] = CAPS) -> None:
        self._prices = prices
        self._speed = speed
        self._caps = tuple(caps)
        self._all = self._tally()
        self._models: dict[str | None, Tally] = {}
        self._feedback = 0
        self._unknown: list[str] = []
        self._unknown_count = 0

    def _tally(self) -> Tally:
        return Tally(caps={cap: CapCut() for cap in self._caps})

    @property
    def calls(self) -> int:
        """Calls added so far."""
        return self._all.calls

    @property
    def unknown(self) -> Sequence[str]:
        """The first lines that were no calls, as ``file:line: why``."""
        return self._unknown

    def add_lines(self, lines: Iterable[Line]) -> None:
        """Add the lines of logs; those that are no calls are counted and the first ones named."""
        for line in lines:
            if line.kind == "call":
                self.add(line.call)
            elif line.kind == "feedback":
                self._feedback += 1
            else:
                self._unknown_count += 1
                if len(self._unknown) < _NAMED_UNKNOWN:
                    self._unknown.append(f"{line.where}: {line.why}")

    def add(self, call: Call) -> None:
        """Add one call."""
        if call.model not in self._models:
            self._models[call.model] = self._tally()
        dollars, rate = self._dollars(call)
        seconds, measured = self._seconds(call)
        for tally in (self._all, self._models[call.model]):
            _add(tally, call, dollars=dollars, rate=rate, seconds=seconds, measured=measured)

    def _dollars(self, call: Call) -> tuple[float | None, float | None]:
        """Return the dollars of the call and of one token of thinking."""
        price = self._prices.lookup(call.model or "", prompt_tokens=call.usage.prompt_tokens)
        cost = call.cost_usd if call.cost_usd is not None else self._prices.cost(call.model or "", call.usage)
        if price is None:
            return cost, None
        return cost, (price.output if price.reasoning is None else price.reasoning) / 1e6

    def _source(self, model: str | None) -> str | None:
        row = self._prices.row(model)
        return None if row is None else row.source

    def _seconds(self, call: Call) -> tuple[float | None, bool]:
        """Return the seconds of thinking and whether they were measured."""
        tokens, output = call.usage.reasoning_tokens, call.usage.output_tokens
        if call.thinking_s is not None:
            return call.thinking_s, True
        if tokens is None:
            return None, False
        if call.e2e_s is not None and output:
            return call.e2e_s * tokens / output, False
        return (None if self._speed is None else tokens / self._speed), False

    def summary(self) -> dict[str, Any]:
        """Return the bill as plain JSON values."""
        modelled = []
        if self._all.seconds_modelled.n:
            modelled.append("seconds.thinking")
        if any(cut.seconds.n for cut in self._all.caps.values()):
            modelled.append("caps.seconds_cut")
        return {
            "calls": self._all.calls,
            "feedback_rows": self._feedback,
            "unknown_lines": {"count": self._unknown_count, "first": list(self._unknown)},
            **_summary(self._all),
            "quantiles": quantiles(self._all.lengths),
            "histogram": histogram(self._all.lengths),
            "caps": [_cap(cap, cut, self._all) for cap, cut in self._all.caps.items()],
            "models": [
                {
                    "model": model,
                    "calls": tally.calls,
                    "price_source": self._source(model),
                    **_summary(tally),
                    "quantiles": quantiles(tally.lengths),
                }
                for model, tally in sorted(self._models.items(), key=lambda item: -item[1].calls)
            ],
            "modelled": modelled,
            "notes": list(NOTES),
        }


def _add(
    tally: Tally,
    call: Call,
    *,
    dollars: float | None,
    rate: float | None,
    seconds: float | None,
    measured: bool,
) -> None:
    usage = call.usage
    tally.calls += 1
    tally.failed += call.failed
    tally.drafts += call.draft
    if call.failed and usage == Usage():
        tally.unbilled += 1
        return
    tally.estimated += usage.reasoning_tokens is not None and usage.provenance == "estimated"
    tally.prompt.add(usage.prompt_tokens)
    tally.answer.add(usage.answer_tokens)
    tally.dollars.add(dollars)
    (tally.seconds_measured if measured else tally.seconds_modelled).add(seconds)
    if call.empty:
        tally.empty += 1
        tally.empty_tokens.add(usage.output_tokens)
        tally.empty_dollars.add(dollars)
    thought = usage.reasoning_tokens
    if thought is None:
        return
    tally.thinking.add(thought)
    tally.lengths[thought] += 1
    tally.dollars_thinking.add(None if rate is None else thought * rate)
    for cap, cut in tally.caps.items():
        if thought <= cap:
            continue
        over = thought - cap
        cut.calls_hit += 1
        cut.tokens += over
        cut.dollars.add(None if rate is None else over * rate)
        cut.seconds.add(None if seconds is None else seconds * over / thought)


def _summary(tally: Tally) -> dict[str, Any]:
    thinking, answer = tally.thinking.value, tally.answer.value
    output = None if thinking is None or answer is None else thinking + answer
    billed = tally.calls - tally.unbilled
    measured, modelled = tally.seconds_measured, tally.seconds_modelled
    seconds = Sum(measured.total + modelled.total, measured.n + modelled.n)
    return {
        "failed": tally.failed,
        "drafts": tally.drafts,
        "tokens": {
            "prompt": _whole(tally.prompt.value),
            "thinking": _whole(thinking),
            "answer": _whole(answer),
            "thinking_share": thinking / output if thinking is not None and output else None,
            "calls_unknown": billed - tally.thinking.n,
            "calls_estimated": tally.estimated,
        },
        "dollars": {
            "total": tally.dollars.value,
            "thinking": tally.dollars_thinking.value,
            "calls_total_unknown": billed - tally.dollars.n,
            "calls_thinking_unknown": billed - tally.dollars_thinking.n,
        },
        "seconds": {
            "thinking": seconds.value,
            "calls_measured": measured.n,
            "calls_modelled": modelled.n,
            "calls_unknown": billed - seconds.n,
        },
        "empty_answers": {
            "count": tally.empty,
            "tokens": _whole(tally.empty_tokens.value),
            "dollars": tally.empty_dollars.value,
        },
    }


def _cap(cap: int, cut: CapCut, tally: Tally) -> dict[str, Any]:
    known = tally.thinking.n
    return {
        "cap": cap,
        "calls_hit": cut.calls_hit,
        "share_hit": cut.calls_hit / known if known else None,
        "tokens_cut": cut.tokens if known else None,
        "dollars_cut": _cut(cut.dollars, cut, known=known),
        "seconds_cut": _cut(cut.seconds, cut, known=known),
        "calls_dollars_unknown": cut.calls_hit - cut.dollars.n,
        "calls_seconds_unknown": cut.calls_hit - cut.seconds.n,
    }


def _cut(part: Sum, cut: CapCut, *, known: int) -> float | None:
    """Return what was cut: nothing where no call was hit, unknown where no hit call has the number."""
    return 0.0 if known and cut.calls_hit == 0 else part.value


def quantiles(lengths: Mapping[int, int]) -> dict[str, float | None]:
    """Return mean, quantiles and maximum of thinking lengths.

    A quantile is the smallest length that at least that share of the calls does not exceed.
    """
    n = sum(lengths.values())
    if n == 0:
        return dict.fromkeys(["mean", *QUANTILES, "max"])
    found: dict[str, float | None] = {"mean": sum(size * count for size, count in lengths.items()) / n}
    ordered = sorted(lengths.items())
    for name, share in QUANTILES.items():
        below = 0
        for size, count in ordered:
            below += count
            if below >= share * n - 1e-9:
                found[name] = size
                break
    return {**found, "max": ordered[-1][0]}


def histogram(lengths: Mapping[int, int]) -> list[dict[str, int]]:
    """Return how many calls thought 0 tokens, 1 to 63, 64 to 127, and on in doubling steps."""
    bins: Counter[int] = Counter()
    for size, count in lengths.items():
        bins[0 if size == 0 else max(size.bit_length(), 6)] += count
    if not bins:
        return []
    steps = [0, *range(6, max(max(bins), 6) + 1)]
    edges = {
        step: (0, 0) if step == 0 else (1 if step == 6 else 2 ** (step - 1), 2**step - 1) for step in steps
    }
    return [{"from": edges[step][0], "to": edges[step][1], "calls": bins[step]} for step in steps]


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
