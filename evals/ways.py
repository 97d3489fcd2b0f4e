"""The way a live run takes with a policy: one call, or the rungs of a cascade."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from budgetctl.evals.cascade import Cascade, Climb, is_cascade
from budgetctl.evals.questions import Backend, LiveQuestion
from budgetctl.evals.results import Result

from budgetctl.certificate import Certificate, LadderBinding
from budgetctl.controller import Controller
from budgetctl.errors import CertificateError, ConfigError
from budgetctl.ladder import Rung, certified
from budgetctl.policy import parse
from budgetctl.types import Query

CERTIFIED = "certified:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a policy is run.

    Attributes:
        name: Its canonical name.
        rungs: What may be asked, cheapest first; one for a policy that is no cascade.
        cascade: What accepts drafts; None where there are none.
        certificate: That of the cascade; where it does not hold, only the last rung is asked.
        decider: What the certificate has to hold for.
    """

    name: str
    rungs: tuple[Rung, ...]
    cascade: Cascade | None = None
    certificate: Certificate | None = None
    decider: Controller | None = None

    def begin(self, question: LiveQuestion, query: Query, backends: Mapping[str, Backend]) -> Ascent:
        """Return the question at the foot of the way.

        Args:
            backends: Model to what answers for it.
        """
        if self.cascade is None:
            return Ascent(question, None)
        void = None
        if self.certificate is not None and self.decider is not None:
            met = [_met(backends[rung.model], question) for rung in self.rungs]
            ladder = self.cascade.ladder
            void = certified.void(self.certificate, ladder, met, controller=self.decider, query=query)
        start = 0 if void is None else len(self.rungs) - 1
        climb = Climb(self.cascade, query, start=start)
        return Ascent(question, climb, void=void, proven=self.certificate is not None)


def _met(backend: Backend, question: LiveQuestion) -> certified.Met:
    return certified.Met(
        model=backend.model,
        endpoint=backend.endpoint,
        params=backend.sampling,
        facts=backend.facts,
        write=partial(backend.written, question),
        trials=backend.settings.get("trials"),
    )


class Ascent:
    """A question on its way.

    Args:
        climb: Its way up a cascade.
        void: Why the certificate of the cascade does not hold.
        proven: The cascade has one.

    Attributes:
        question: What is asked.
    """

    def __init__(
        self,
        question: LiveQuestion,
        climb: Climb | None,
        *,
        void: str | None = None,
        proven: bool = False,
    ) -> None:
        self.question = question
        self._climb, self._void, self._proven = climb, void, proven

    @property
    def rung(self) -> int:
        """Position of the rung that is to answer next."""
        return 0 if self._climb is None else self._climb.rung

    @property
    def thought(self) -> tuple[int, ...]:
        """What that rung goes on from."""
        return () if self._climb is None else self._climb.thought

    def void(self, result: Result) -> str | None:
        """Return why the certificate of the cascade does not hold, now that a rung has answered."""
        if self._proven and self._void is None and result.notes:
            self._void = result.notes[0]
        return self._void

    def send(self, result: Result) -> Result | None:
        """Take an answer; return what the question came to once that is known."""
        return result if self._climb is None else self._climb.send(result)


def way_of(policy: str, *, backend: Backend, controller: Callable[[str], Controller]) -> Way:
    """Return the way of a policy string, or of a certificate of a ladder.

    Args:
        policy: A policy, one of another model as ``MODEL@POLICY``, a cascade, or ``certified:CERT``.
        backend: What rungs without a model of their own ask.
        controller: Policy string to what decides.

    Raises:
        ConfigError: It does not parse, or needs what the backend does not give.
    """
    certificate = certificate_of(policy)
    if certificate is None and not is_cascade(policy):
        model, _, own = policy.rpartition("@") if not policy.startswith(CERTIFIED) else ("", "", policy)
        rung = Rung(model=model or backend.model, policy=str(parse(own)))
        return Way(name=rung.policy if rung.model == backend.model else str(rung), rungs=(rung,))
    cascade = Cascade.parse(policy if certificate is None else certificate.policy, model=backend.model)
    if cascade.thresholds is not None and not getattr(backend, "confidence", False):
        raise ConfigError(
            f"cascade {str(cascade)!r}: it needs the confidence of answers, which is not kept here: "
            "open the suite with confidence=True"
        )
    if certificate is None:
        return Way(name=str(cascade), rungs=cascade.rungs, cascade=cascade)
    return Way(
        name=policy,
        rungs=cascade.rungs,
        cascade=cascade,
        certificate=certificate,
        decider=controller("full"),
    )


def needs_confidence(policy: str) -> bool:
    """Return whether a policy string names a ladder that looks at the confidence of answers."""
    certificate = certificate_of(policy)
    return "?confident" in (policy if certificate is None else certificate.policy)


def certificate_of(policy: str) -> Certificate | None:
    """Return the certificate of a ladder that a policy string names; None where it names something else.

    Raises:
        ConfigError: The file is no certificate.
    """
    if not policy.startswith(CERTIFIED):
        return None
    try:
        found = Certificate.load(policy.removeprefix(CERTIFIED))
    except CertificateError as error:
        raise ConfigError(str(error)) from None
    return found if isinstance(found.binds, LadderBinding) else None


def backends_of(ways: Mapping[str, Way], own: Backend) -> dict[str, Backend]:
    """Return model to what answers for it.

    Raises:
        ConfigError: A rung names another model, and the backend has only its own.
    """
    found: dict[str, Backend] = {own.model: own}
    for rung in (rung for way in ways.values() for rung in way.rungs):
        if rung.model not in found:
            other: Any = getattr(own, "with_model", None)
            if other is None:
                raise ConfigError(
                    f"rung {str(rung)!r}: a model in this process answers alone; give --base-url for others"
                )
            found[rung.model] = other(rung.model)
    return found
