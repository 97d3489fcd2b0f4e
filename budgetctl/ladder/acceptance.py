"""Whether a draft is good enough: calibrated confidence, agreement with an earlier one, a check of yours."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, Protocol, cast

from budgetctl.agreement import same_answer
from budgetctl.errors import ConfigError
from budgetctl.ladder.calibration import Calibration
from budgetctl.ladder.rungs import Draft, is_number
from budgetctl.policy.base import exact
from budgetctl.types import Query

ALLOWED = "confident:P, agreement, verified:MODULE:FUNCTION"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was said of a draft.

    Attributes:
        accepted: It is the answer.
        why: A short sentence, without anything of the query or the answer.
        p_correct: The probability that it is right, where that is known.
    """

    accepted: bool
    why: str
    p_correct: float | None = None


class Acceptance(Protocol):
    """Judges whole answers of all rungs but the last; ``str()`` of it should name it with all its numbers.

    One that needs ``Draft.confidence`` has an attribute ``needs_confidence`` that is true: log-probabilities
    are then asked for. One that waits for something may have a coroutine method ``ajudge`` beside ``judge``.
    """

    def judge(self, query: Query, draft: Draft, earlier: Sequence[Draft]) -> Verdict:
        """Say whether ``draft`` is the answer; ``earlier`` are the drafts before it that were not."""
        ...


@dataclass(frozen=True, slots=True)
class Confident:
    """Accepts a draft that is right with a probability of ``threshold`` or more, as far as its tokens tell.

    Attributes:
        threshold: In (0, 1].
        calibration: From confidence to the probability of being right: one map for all rungs, or one for each
            rung but the last. Without it the confidence is taken for that probability, which it rarely is.

    Raises:
        ConfigError: The threshold is out of its range, or what calibrates is none.
    """

    threshold: float
    calibration: Calibration | Sequence[Calibration] | None = None

    def __post_init__(self) -> None:
        if not (is_number(self.threshold) and 0 < self.threshold <= 1):
            raise ConfigError(f"confident:{self.threshold}: a probability above 0, at most 1")
        if isinstance(self.calibration, Sequence):
            object.__setattr__(self, "calibration", tuple(self.calibration))
        if not all(isinstance(known, Calibration) for known in self._maps):
            raise ConfigError(
                f"calibration: seen {self.calibration!r}, allowed: a Calibration or a list of them"
            )

    @property
    def needs_confidence(self) -> bool:
        """Log-probabilities have to be asked for."""
        return True

    def judge(self, query: Query, draft: Draft, earlier: Sequence[Draft]) -> Verdict:
        """Accept what is likely enough to be right; what nobody measured is not."""
        if draft.confidence is None:
            return Verdict(accepted=False, why="confidence unknown: no log-probabilities of the answer came")
        p = self._probability(draft.confidence, draft.rung)
        sign = ">=" if p >= self.threshold else "<"
        why = f"p(correct) {p:.3f} {sign} {self.threshold:g}"
        return Verdict(accepted=p >= self.threshold, why=why, p_correct=p)

    def _probability(self, confidence: float, rung: int) -> float:
        if self.calibration is None:
            return confidence
        if isinstance(self.calibration, Calibration):
            return self.calibration(confidence)
        return self.calibration[rung](confidence)

    @property
    def _maps(self) -> Sequence[Calibration]:
        known = self.calibration
        return () if known is None else known if isinstance(known, tuple) else (cast("Calibration", known),)

    def __str__(self) -> str:
        return "".join([f"confident:{exact(self.threshold)}", *(f"@{m.hash}" for m in self._maps)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Accepts a draft that says the same as an earlier one, so never the first.

    Attributes:
        same: Whether two answers say the same; the default compares choices, numbers and short texts.
    """

    same: Callable[[str, str], bool] = same_answer

    def __post_init__(self) -> None:
        if not takes(self.same, 2):
            raise ConfigError(f"same: seen {self.same!r}, allowed: a function of two answers")

    def judge(self, query: Query, draft: Draft, earlier: Sequence[Draft]) -> Verdict:
        """Compare it with all that came before."""
        for other in earlier:
            if other.usable and self.same(other.answer or "", draft.answer or ""):
                return Verdict(accepted=True, why=f"says the same as rung {other.rung}")
        return Verdict(accepted=False, why="no earlier draft says the same")

    def __str__(self) -> str:
        return "agreement" if self.same is same_answer else f"agreement:{_named(self.same)}"


@dataclass(frozen=True, slots=True)
class Verified:
    """Accepts what a function of yours says is right: ``function(query, answer)``.

    It returns whether the answer is accepted, or the probability that it is right, which ``threshold`` has to
    be reached by. A coroutine function needs clients that are asynchronous; on these, a plain function runs
    in a thread.

    Attributes:
        name: Names it in fingerprints; by default ``module:function``. What the function does is not seen
            there: give it another name when that changes.
    """

    function: Callable[[Query, str], bool | float | Awaitable[bool | float]]
    threshold: float = 0.5
    name: str | None = None

    def __post_init__(self) -> None:
        if not takes(self.function, 2):
            raise ConfigError(
                f"verified: seen {self.function!r}, allowed: a function of a query and an answer"
            )
        if not (is_number(self.threshold) and 0 < self.threshold <= 1):
            raise ConfigError(f"threshold: seen {self.threshold!r}, allowed: above 0, at most 1")

    @property
    def waits(self) -> bool:
        """The function is a coroutine function."""
        return waits(self.function)

    def judge(self, query: Query, draft: Draft, earlier: Sequence[Draft]) -> Verdict:
        """Ask the function."""
        return self._verdict(cast("Any", self.function(query, draft.answer or "")))

    async def ajudge(self, query: Query, draft: Draft, earlier: Sequence[Draft]) -> Verdict:
        """Ask the function and wait for it."""
        if not self.waits:
            import anyio.to_thread  # comes with the asynchronous clients

            return await anyio.to_thread.run_sync(partial(self.judge, query, draft, earlier))
        return self._verdict(await cast("Any", self.function(query, draft.answer or "")))

    def _verdict(self, said: bool | float) -> Verdict:
        accepted = bool(said >= self.threshold)
        p = None if isinstance(said, bool) else float(said)
        why = f"the verifier says {'yes' if accepted else 'no'}" + ("" if p is None else f" ({p:.3f})")
        return Verdict(accepted=accepted, why=why, p_correct=p)

    def __str__(self) -> str:
        at = "" if self.threshold == 0.5 else f"@{exact(self.threshold)}"
        return f"verified:{self.name or _named(self.function)}{at}"


def acceptance(text: str, *, calibration: Calibration | Sequence[Calibration] | None = None) -> Acceptance:
    """Return what a string of a configuration names: ``confident:0.9``, ``agreement``, ``verified:MODULE:F``.

    Raises:
        ConfigError: It names nothing, or the function cannot be imported.
    """
    kind, _, argument = text.partition(":")
    if calibration is not None and kind != "confident":
        raise ConfigError(f"accept {text!r}: only 'confident' takes a calibration")
    if kind == "confident":
        try:
            threshold = float(argument)
        except ValueError:
            raise ConfigError(f"accept {text!r}: needs a probability, as in 'confident:0.9'") from None
        return Confident(threshold, calibration)
    if text == "agreement":
        return Agreement()
    if kind == "verified":
        return Verified(imported(argument), name=argument)
    raise ConfigError(f"accept: seen {text!r}, allowed: {ALLOWED}")


def waits(function: object) -> bool:
    """Whether it is a coroutine function, or an object that is called like one."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - of an object, not whether it has one
    )


def takes(function: object, count: int) -> bool:
    """Whether it can be called with so many arguments, as far as that can be told."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # one of C, which does not say
        pass
    return True


def imported(path: str) -> Callable[..., Any]:
    """Return the function that ``module:function`` names.

    Raises:
        ConfigError: There is none.
    """
    module, _, name = path.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{path!r} cannot be imported: {error}; allowed: 'module:function'") from None
    if not callable(found):
        raise ConfigError(f"{path!r} is no function")
    return cast("Callable[..., Any]", found)


def _named(function: object) -> str:
    kind: Any = function if hasattr(function, "__qualname__") else type(function)
    return f"{kind.__module__}:{kind.__qualname__}"
