"""What the adapters share: what they return, what they write with, and what they look at first.

Three rules hold for every dialect. Inputs are never changed. Nothing is switched on that was off, and
sampling is never touched. An output limit, where one is sent, is never below cap + grace + answer reserve:
the caller's limit stays and the cap gives way (:func:`fit_cap`, the one place that clamps).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from budgetctl.adapters.paths import EFFORT_PATHS, GRAMMARS, SWITCHES, THINKING, blocked, dig, plant
from budgetctl.capabilities import Capability
from budgetctl.stopping.criteria import GRACE
from budgetctl.types import EFFORTS, AppliedControl, CallerValues, Strength

ABORT_CONTINUE = "abort_continue"
"""Control of ours: the stream is closed at the cap and the answer written from the closed thought."""
DEADLINE = "deadline"
"""Control of ours: thinking is closed when only the time for the answer is left."""
STOP = "stop"
"""Control of ours: the stop preset's criteria may close the thinking."""
LIVE_END = "reasoning_control"
"""Parameter by which a call asks that its thinking can be ended from outside, while it runs (llama.cpp)."""
OURS = frozenset({ABORT_CONTINUE, DEADLINE, STOP})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """Parameters with a budget in them.

    Attributes:
        params: The parameters to send: new, the caller's own objects are only read.
        controls: What carries the budget, each with its strength. Names in ``OURS`` act on the stream.
        unsupported: Parts of the budget that nothing carries, or only something weaker.
        pinned: Parameters that the caller had set and that were left alone.
    """

    params: dict[str, Any]
    controls: tuple[AppliedControl, ...] = ()
    unsupported: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Names of a wire dialect.

    Attributes:
        effort: Path of the effort level, where a model's row names no other.
        limits: Names of the output limit, the one in force first.
        standard: Top-level parameters that the dialect's SDK knows; all else travels in ``extra_body``.
        engine_controls: Caps and switches of the engine are known for this dialect.
    """

    effort: str
    limits: tuple[str, ...]
    standard: frozenset[str]
    engine_controls: bool = True


@dataclass(slots=True, kw_only=True)
class Writer:
    """Collects what one rendering does; ``params`` is a copy as deep as what is written into it."""

    dialect: Dialect
    capability: Capability
    params: dict[str, Any]
    caller_values: CallerValues
    controls: list[AppliedControl] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)
    pinned: list[str] = field(default_factory=list)

    def get(self, path: str) -> Any:
        """Return what the call says at ``path``, in ``extra_body``, which wins, or in the body; else None."""
        found = dig(self.params.get("extra_body"), path)
        return dig(self.params, path) if found is None else found

    def put(self, path: str, value: Any, strength: Strength) -> None:
        """Write one control, where the call already has it or where the dialect's SDK takes it.

        A value of another kind in its way, such as ``thinking=True``, is the caller's and stays.
        """
        head = path.partition(".")[0]
        elsewhere = head not in self.dialect.standard and head not in self.params
        if elsewhere or head in (self.params.get("extra_body") or ()):
            path = f"extra_body.{path}"
        if (theirs := blocked(self.params, path)) is not None:
            self.pinned.append(theirs.removeprefix("extra_body."))
            return
        plant(self.params, path, value)
        self.controls.append(
            AppliedControl(name=path.removeprefix("extra_body."), value=value, strength=strength)
        )

    @property
    def effort_path(self) -> str:
        """Where the level goes."""
        effort = self.capability.effort
        return self.dialect.effort if effort is None or effort.parameter is None else effort.parameter

    @property
    def silent(self) -> bool:
        """Whether the model does not think unless it is asked to, and the caller has not asked."""
        return self.capability.silent and all(self.get(path) is None for path in THINKING)

    def act(self, name: str, value: Any, strength: Strength) -> None:
        """Note a control of ours that works on the stream."""
        self.controls.append(AppliedControl(name=name, value=value, strength=strength))

    def result(self) -> Rendered:
        """Return what was collected."""
        return Rendered(
            params=self.params,
            controls=tuple(self.controls),
            unsupported=tuple(self.unsupported),
            pinned=tuple(self.pinned),
        )


def steerable(params: Mapping[str, Any]) -> bool:
    """Whether a thought may be cut and continued: one choice, no tools, no structured output, no logprobs.

    A cut next to a tool call or a grammar breaks their syntax, so there only the engine may cut.
    """
    params = {**params, **(params.get("extra_body") or {})}
    return (
        not any(params.get(name) for name in ("tools", "functions", "logprobs"))
        and all(params.get(name) is None for name in GRAMMARS)
        and (params.get("n") or 1) == 1
    )


def switched_off(writer: Writer) -> bool:
    """Whether the caller has switched thinking off, in a way that is common or in the model's own."""
    get, switch = writer.get, writer.capability.off
    if switch is not None and all(get(path) == value for path, value in switch.parameters.items()):
        return True
    levels = [get(path) for path in (*EFFORT_PATHS, "chat_template_kwargs.reasoning_effort")]
    disabled = get("thinking.type") == "disabled"
    return disabled or "none" in levels or any(get(path) is False for path in SWITCHES)


def fit_cap(cap: int, *, limit: int | None, reserve: int) -> int:
    """Return the largest cap up to ``cap`` that leaves an output limit room for grace and answer.

    Solves ``cap * (1 + grace) + reserve <= limit``; a reserve of more than half the limit is cut to half.
    """
    if limit is None:
        return cap
    room = limit - min(reserve, limit // 2)
    # The small term undoes binary rounding: 550 tokens of room are a cap of 500.
    return max(1, min(cap, int(room / (1 + GRACE) + 1e-9)))


def rank(level: Any) -> int:
    """Return the place of a level in ``EFFORTS``; levels whose order is unknown come last."""
    level = level.lower() if isinstance(level, str) else level  # Google writes them in capitals
    return EFFORTS.index(level) if level in EFFORTS else len(EFFORTS)
