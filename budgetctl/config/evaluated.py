"""What a string of ``eval --policies`` names: a policy, a ladder, or a ladder of the configuration."""

from __future__ import annotations

from collections.abc import Mapping

from budgetctl.config.sections import LadderSettings
from budgetctl.errors import ConfigError
from budgetctl.ladder import Rung
from budgetctl.ladder.settings import check_certificate, made
from budgetctl.policy import Policy, parse, policy_name


def canonical(text: str, *, policies: Mapping[str, Policy], ladders: Mapping[str, LadderSettings]) -> str:
    """Return the string without names of the configuration: ``RUNG>RUNG?ACCEPT`` for a ladder.

    Args:
        text: What was asked for.
        policies: Policies that have names, also inside rungs.
        ladders: Ladders that have names.

    Raises:
        ConfigError: It does not parse, or an evaluation cannot do what the ladder says.
    """
    if text in ladders:
        return _ladder(text, ladders[text], policies)
    if text.startswith("certified:"):
        return policy_name(parse(text, names=policies))
    if ">" not in text:
        return _rung(text, policies)
    chain, asked, how = text.rpartition("?")
    if not asked:
        chain, how = text, ""
    try:
        rungs = [_rung(part.strip(), policies) for part in chain.split(">")]
    except ConfigError as error:
        raise ConfigError(f"cascade {text!r}: {error}") from None
    return ">".join(rungs) + asked + how.strip()


def _rung(text: str, policies: Mapping[str, Policy]) -> str:
    model, at, policy = text.rpartition("@")
    return f"{model}{at}{policy_name(parse(policy, names=policies))}"


def _ladder(name: str, said: LadderSettings, policies: Mapping[str, Policy]) -> str:
    chain = ">".join(str(Rung.parse(text, names=policies)) for text in said.rungs)
    accept = said.accept or ""
    kind = accept.partition(":")[0]
    cannot = {
        f"accept {accept!r}: your functions judge in the client only": kind == "verified",
        "calibration: an evaluation takes the confidence as it is": bool(said.calibration),
        "hedge_s: an evaluation asks one rung after the other": said.hedge_s is not None,
    }
    why = next((why for why, applies in cannot.items() if applies), None)
    if why is not None:
        raise ConfigError(f"ladder {name!r} cannot be evaluated by its name: {why}")
    if said.certificate is not None:
        check_certificate(said, made(said, names=policies))
        return f"certified:{said.certificate}"
    return f"{chain}?{'agree' if kind == 'agreement' else accept}"
