"""Certificates: "the accuracy loss is at most epsilon, with probability at least 1 - delta", and for what.

A certificate is a JSON file that ``budgetctl calibrate`` writes. It names one policy of a family that was
ordered before the data was seen, and everything that the statement depends on. The policy
``certified:CERT`` runs that policy where all of it agrees with the call, and steps aside where anything does
not. This module reads, writes and compares; the statistics are in ``budgetctl.evals.risk``.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from budgetctl.errors import CertificateError, ConfigError
from budgetctl.policy import parse
from budgetctl.stopping.presets import PRESETS, Preset
from budgetctl.types import AppliedControl, Strength

SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "do_sample",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_new_tokens",
)
"""Parameters that change how a model samples or when it is cut off. One that a certificate does not name must
not be set by the call either."""

STRENGTHS: tuple[Strength, ...] = ("none", "advisory", "hard")
"""From the weakest on."""

Loss = Literal["accuracy", "harm", "disagreement"]
"""What was bounded, per question against full thinking, as means over its samples: ``accuracy`` is (right
under full thinking) - (right under the policy), from -1 to 1; ``harm`` is 1 where full was right and the
policy wrong; ``disagreement`` is 1 where the answers differ. Each is at least as large as the one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a call is made with, as far as a certificate may depend on it; None is unknown.

    Attributes:
        endpoint: Kind of endpoint, one of the capability table's.
        params: The caller's own parameters.
        classifier: Hash of the classifier that is in use.
        min_confidence: Estimates below it are set aside.
        capabilities: Version of the capability table.
        presets: Criteria that stand in the place of those of stop presets.
        ladder: Fingerprint of the ladder that is climbed.
        trials: How trial answers are asked for, of what is not as usual.
    """

    model: str | None
    endpoint: str | None
    params: Mapping[str, Any] = field(default_factory=dict)
    classifier: str | None = None
    min_confidence: float | None = None
    capabilities: str | None = None
    presets: Mapping[str, Preset] | None = None
    ladder: str | None = None
    trials: Mapping[str, Any] | None = None


class Binding(BaseModel):
    """What a certificate holds for, and nothing else.

    Attributes:
        model: The model, by the name that calls use.
        endpoint: Kind of endpoint.
        strength: The weakest control that may carry the budget.
        sampling: Parameters of :data:`SAMPLING` that calls have to set, and their values; none other.
        classifier: Hash of the classifier; None where the policy needs no estimate.
        min_confidence: The abstention rule: estimates below it are set aside. None likewise.
        stop: Name of the stop preset.
        thresholds: Its criteria and their arguments.
        capabilities: Version of the capability table.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    endpoint: str
    strength: Strength = "hard"
    sampling: dict[str, Any] = Field(default_factory=dict)
    classifier: str | None = None
    min_confidence: float | None = None
    stop: str
    thresholds: dict[str, Any]
    capabilities: str

    @model_validator(mode="after")
    def _sampling_is_known(self) -> Self:
        unknown = sorted(set(self.sampling) - set(SAMPLING))
        if unknown:
            raise ValueError(f"sampling: unknown {', '.join(unknown)}; allowed: {', '.join(SAMPLING)}")
        return self

    def mismatch(self, seen: Circumstances) -> str | None:
        """Return the first thing in which a call differs, as in ``model: bound to 'a', seen 'b'``."""
        body = {**seen.params, **(seen.params.get("extra_body") or {})}
        pairs: list[tuple[str, Any, Any]] = [
            ("model", self.model, seen.model),
            ("endpoint", self.endpoint, seen.endpoint),
            ("capability table", self.capabilities, seen.capabilities),
            ("thresholds of the stop preset", self.thresholds, thresholds(self.stop, presets=seen.presets)),
            *((name, self.sampling.get(name), body.get(name)) for name in SAMPLING),
        ]
        if self.classifier is not None:
            pairs.append(("classifier", self.classifier, seen.classifier))
            pairs.append(("min_confidence", self.min_confidence, seen.min_confidence))
        return next(
            (f"{name}: bound to {bound!r}, seen {found!r}" for name, bound, found in pairs if bound != found),
            None,
        )


class LadderBinding(Binding):
    """What the certificate of a ladder holds for: model and stop preset are those of its last rung.

    Attributes:
        ladder: Fingerprint of the ladder: rungs, and when a draft is accepted.
        stops: Stop presets of the rungs before the last, and their criteria.
        trials: How trial answers were asked for, of what was not as usual; None is all of it.
    """

    ladder: str
    stops: dict[str, dict[str, Any]] = Field(default_factory=dict)
    trials: dict[str, Any] | None = None

    def mismatch(self, seen: Circumstances) -> str | None:
        """Return the first thing in which a call differs, the ladder before all others."""
        if self.ladder != seen.ladder:
            return f"ladder: bound to {self.ladder!r}, seen {seen.ladder!r}"
        for stop, bound in self.stops.items():
            if bound != (found := thresholds(stop, presets=seen.presets)):
                return f"thresholds of the stop preset {stop!r}: bound to {bound!r}, seen {found!r}"
        if self.trials != seen.trials:
            return f"trial answers: bound to {self.trials!r}, seen {seen.trials!r}"
        return super().mismatch(seen)


def _kind(binds: Any) -> str:
    """Return which binding a content is."""
    bound = "ladder" in binds if isinstance(binds, Mapping) else isinstance(binds, LadderBinding)
    return "ladder" if bound else "call"


class Certificate(BaseModel):
    """A statement about one policy: P(loss <= epsilon) >= 1 - delta over the draw of the calibration data.

    Attributes:
        id: Hash of everything else; the name of the certificate in outcomes.
        created: Day, ISO format.
        loss: What is bounded; see :data:`Loss`.
        epsilon: The bound on the expected loss, as a share.
        delta: Largest probability that the bound is wrong.
        level: What of ``delta`` the family was tested at: all of it, or a share where several were tried.
        test: ``betting`` or ``binomial``.
        n: Independent units (questions, or clusters) that were tested on.
        results: Calls per policy behind them.
        coupled: All budgets were applied to the same traces.
        members: The family, from safest to cheapest, as policy strings; full thinking comes before them all.
        lambdas: Position of each in the family's own measure, growing as they get cheaper; 0 is full.
        p_values: Of "the loss is above epsilon", in order, up to and with the first that was not rejected.
        lambda_: ``lambda`` of the policy, in JSON ``lambda``.
        policy: The certified policy: the last that was rejected in a row.
        token_saving: ``1 - sum(tokens) / sum(tokens of full)`` on the calibration data.
        mean_loss: Mean loss of the policy on the calibration data.
        data: Hash of the results that were tested on.
        seed: Of the order in which they were tested.
        binds: What it holds for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    schema_version: Literal["1.0"] = "1.0"
    id: str = ""
    created: str
    loss: Loss
    epsilon: float = Field(gt=0, lt=1)
    delta: float = Field(gt=0, lt=1)
    level: float = Field(gt=0, lt=1)
    test: Literal["betting", "binomial"]
    n: int = Field(gt=0)
    results: int = Field(gt=0)
    coupled: bool
    members: tuple[str, ...] = Field(min_length=1)
    lambdas: tuple[float, ...]
    p_values: tuple[float, ...] = Field(min_length=1)
    # Not plain ``alias``: type checkers would take the keyword for the only name to build it with.
    lambda_: float = Field(
        validation_alias=AliasChoices("lambda", "lambda_"), serialization_alias="lambda", ge=0
    )
    policy: str
    token_saving: float
    mean_loss: float
    data: str
    seed: int
    binds: Annotated[
        Annotated[LadderBinding, Tag("ladder")] | Annotated[Binding, Tag("call")], Discriminator(_kind)
    ]

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if len(self.members) != len(self.lambdas) or self.policy not in self.members:
            raise ValueError("policy and lambdas do not belong to the members")
        at = self.members.index(self.policy)
        if self.lambdas[at] != self.lambda_ or not all(p <= self.level for p in self.p_values[: at + 1]):
            raise ValueError("the policy was not certified by these p-values")
        if len(self.p_values) <= at or self.level > self.delta:
            raise ValueError("p-values are missing, or tested at more than delta")
        if self.id and self.id != self._digest():
            raise ValueError("the content was changed after it was certified")
        return self

    def _digest(self) -> str:
        content = self.model_dump(mode="json", by_alias=True, exclude={"id"})
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def sealed(self) -> Certificate:
        """Return the certificate with its id."""
        return self.model_copy(update={"id": self._digest()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Certificate:
        """Read a certificate and check that it holds together.

        Raises:
            CertificateError: It cannot be read, is damaged or changed, or its policy is unknown here.
        """
        try:
            certificate = cls.model_validate_json(Path(path).read_bytes())
            if not isinstance(certificate.binds, LadderBinding):
                parse(certificate.policy)
        except OSError as error:
            raise CertificateError(f"{path}: the certificate cannot be read: {error.strerror}") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise CertificateError(
                f"{path}: no valid certificate: {where or 'file'}: {first['msg']}"
            ) from None
        except ConfigError as error:
            raise CertificateError(f"{path}: {error}") from None
        if not certificate.id:
            raise CertificateError(f"{path}: no valid certificate: it has no id")
        return certificate

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate in one step: readers see the old file or the whole new one."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(self.model_dump_json(by_alias=True, indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def mismatch(self, seen: Circumstances) -> str | None:
        """Return why the certificate does not hold for a call; None where it does."""
        return self.binds.mismatch(seen)

    def unkept(
        self, controls: Sequence[AppliedControl], *, unsupported: Sequence[str], pinned: Sequence[str]
    ) -> str | None:
        """Return why a rendered call does not keep the certified budget; None where it does.

        Args:
            controls: What was written into the call, each with its strength.
            unsupported: Parts of the budget that nothing carries.
            pinned: Parameters of the caller's that were left alone.
        """
        own = [name for name in pinned if name not in self.binds.sampling]
        if own:
            return f"pinned by the caller: {', '.join(own)}"
        if unsupported:
            return f"no control for: {', '.join(unsupported)}"
        weak = [c for c in controls if STRENGTHS.index(c.strength) < STRENGTHS.index(self.binds.strength)]
        if weak:
            return f"{weak[0].name} is {weak[0].strength}, bound to {self.binds.strength} controls"
        return None


def thresholds(stop: str, *, presets: Mapping[str, Preset] | None = None) -> dict[str, Any]:
    """Return the criteria of a stop preset as plain JSON values, ready to be compared.

    Args:
        presets: What stands in the place of the shipped criteria, as for :func:`budgetctl.stopping.soft`.
    """
    found = (presets or {}).get(stop, PRESETS[stop])
    return json.loads(json.dumps(found)) if isinstance(found, Mapping) else {"made by": repr(found)}
