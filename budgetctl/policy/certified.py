"""The policy that runs what was certified, where the certificate holds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from budgetctl.errors import CertificateError, CertificateMismatch, ConfigError
from budgetctl.policy.auto import Auto
from budgetctl.policy.base import JOINED, Both, Named, Policy, Situation, policy_name
from budgetctl.policy.fixed import Cap, Off
from budgetctl.types import Budget

if TYPE_CHECKING:
    from budgetctl.certificate import Certificate


@dataclass(frozen=True, slots=True)
class Certified(Named):
    """The policy that a certificate covers, wherever the certificate holds; elsewhere stage 0 of ``auto``.

    Attributes:
        certificate: What was certified, with all that it binds.
        path: The file it was read from, for the name in records.
        member: The certified policy.
    """

    certificate: Certificate
    path: str
    member: Policy = field(init=False)

    def __post_init__(self) -> None:
        from budgetctl.policy.parsing import parse  # which knows this class

        object.__setattr__(self, "member", parse(self.certificate.policy))

    @classmethod
    def load(cls, path: str | Path) -> Certified:
        """Read the certificate at ``path``.

        Raises:
            ConfigError: The file is no certificate.
        """
        from budgetctl.certificate import Certificate, LadderBinding

        try:
            certificate = Certificate.load(path)
            if isinstance(certificate.binds, LadderBinding):
                raise ConfigError(
                    f"{path}: the certificate of a ladder ({certificate.policy}), which is no policy of one "
                    "call"
                )
            return cls(certificate, str(path))
        except CertificateError as error:
            raise ConfigError(str(error)) from None

    @property
    def needs_estimate(self) -> bool:
        return self.member.needs_estimate

    def void(self, situation: Situation) -> str | None:
        """Return why the certificate does not hold here; None where it does."""
        if situation.void is not None:
            return situation.void
        limits = situation.limits
        if limits.deadline_s is not None or limits.reasoning_tokens is not None:
            return "a limit of the call may cut what was certified"
        if situation.circumstances is None:
            return "model, endpoint and parameters of the call are not known"
        return self.certificate.mismatch(situation.circumstances)

    def budget(self, situation: Situation) -> Budget:
        why = self.void(situation)
        return self.member.budget(situation) if why is None else aside(situation, why)

    def __str__(self) -> str:
        return f"certified:{self.path}"


def aside(situation: Situation, why: str) -> Budget:
    """Return the budget of stage 0 of ``auto``, for a certificate that does not hold because of ``why``."""
    budget = Auto().budget(situation)
    return replace(budget, reasons=(f"certificate void: {why}", *budget.reasons))


def coverage(policy: Policy, situation: Situation, *, strict: bool = False) -> tuple[str | None, str | None]:
    """Return the id of the certificate that covers the budget of ``policy``, or None and why there is none.

    Raises:
        CertificateMismatch: Only if ``strict``: a certificate was asked for and does not hold.
    """
    if isinstance(policy, Auto):  # whose stage 0 is no fault
        why = policy.void(situation)
        return (
            (None, why)
            if situation.footing is None or why
            else (situation.footing.certified.certificate.id, None)
        )
    if not _asks_for_certificate(policy):
        return None, situation.void or "no certificate configured"
    why = policy.void(situation) if isinstance(policy, Certified) else JOINED
    if why is not None and strict:
        raise CertificateMismatch(f"{policy_name(policy)}: {why}")
    return (None, why) if why is not None else (cast(Certified, policy).certificate.id, None)


def _asks_for_certificate(policy: Policy) -> bool:
    if isinstance(policy, Both):
        return _asks_for_certificate(policy.left) or _asks_for_certificate(policy.right)
    return isinstance(policy, Certified)


def uniform(path: str | Path) -> Certified:
    """Return what ``auto`` can stand on: a certificate of one cap for all calls.

    Raises:
        ConfigError: The file is no certificate, or its policy is another one.
    """
    certified = Certified.load(path)
    if not isinstance(certified.member, Cap | Off):
        raise ConfigError(
            f"{path}: auto stands on a certificate of a uniform cap, seen one of "
            f"{policy_name(certified.member)}; it can be the policy itself, as certified:{path}"
        )
    return certified
