"""From a ``[ladders.NAME]`` table of a configuration to a ladder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from budgetctl.certificate import LadderBinding
from budgetctl.errors import ConfigError
from budgetctl.ladder.acceptance import ALLOWED, Agreement, acceptance, imported
from budgetctl.ladder.calibration import Calibration
from budgetctl.ladder.certified import accepts, fingerprint, load
from budgetctl.ladder.client import Private
from budgetctl.ladder.rungs import Ladder
from budgetctl.policy import Policy


class Table(Protocol):
    """A table, as :class:`budgetctl.config.sections.LadderSettings` is one."""

    @property
    def rungs(self) -> Sequence[str]: ...
    @property
    def accept(self) -> str | None: ...
    @property
    def certificate(self) -> Path | None: ...
    @property
    def calibration(self) -> Sequence[Path]: ...
    @property
    def local(self) -> Sequence[str]: ...
    @property
    def private(self) -> bool | str: ...
    @property
    def hedge_s(self) -> float | None: ...


def check(table: Table, *, names: Mapping[str, Policy]) -> None:
    """Say what is wrong with a table, without reading a file or importing a module.

    Raises:
        ConfigError: It is no ladder, or what judges its drafts is unknown.
    """
    if (table.accept is None) is (table.certificate is None):
        raise ConfigError("accept: what judges drafts; allowed: either this or a certificate")
    if table.certificate is not None and table.calibration:
        raise ConfigError("calibration: does not go with a certificate, which is of the confidence as it is")
    kind = None if table.accept is None else table.accept.partition(":")[0]
    if kind not in (None, "confident", "agreement", "verified"):
        raise ConfigError(f"accept: seen {table.accept!r}, allowed: {ALLOWED}")
    if table.accept is not None and kind != "verified":
        acceptance(table.accept)
    ladder = Ladder.of(table.rungs, Agreement(), local=table.local, hedge_s=table.hedge_s, names=names)
    if table.private:
        ladder.path(private=True)


def made(table: Table, *, names: Mapping[str, Policy]) -> Ladder:
    """Return the ladder of a table.

    Args:
        names: Policies that the configuration has given names to.

    Raises:
        ConfigError: A file cannot be read, or a function cannot be imported.
    """
    maps = [Calibration.load(path) for path in table.calibration]
    known = None if not maps else maps[0] if len(maps) == 1 else maps
    if table.accept is not None:
        judges = acceptance(table.accept, calibration=known)
    else:
        assert table.certificate is not None
        judges = accepts(load(table.certificate))
    return Ladder.of(table.rungs, judges, local=table.local, hedge_s=table.hedge_s, names=names)


def check_certificate(table: Table, ladder: Ladder) -> None:
    """Refuse the certificate of another ladder, under which the last rung would always answer.

    Raises:
        ConfigError: It is one, or cannot be read.
    """
    if table.certificate is None:
        return
    certificate = load(table.certificate)
    assert isinstance(certificate.binds, LadderBinding)
    if certificate.binds.ladder != fingerprint(ladder):
        rungs = " > ".join(map(str, ladder.rungs))
        raise ConfigError(
            f"certificate: {table.certificate} is of {certificate.policy!r} for "
            f"{certificate.binds.model}, and the rungs are {rungs}"
        )


def private(table: Table) -> bool | Private:
    """Return which of its queries are private.

    Raises:
        ConfigError: The function cannot be imported.
    """
    return imported(table.private) if isinstance(table.private, str) else table.private
