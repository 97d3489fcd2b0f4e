"""From the string that names a policy to the policy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import reduce

from budgetctl.errors import ConfigError
from budgetctl.policy.auto import Auto
from budgetctl.policy.base import Both, Policy
from budgetctl.policy.certified import Certified
from budgetctl.policy.estimated import Quantile, Tiered
from budgetctl.policy.exchange import Exchange, Utility
from budgetctl.policy.fixed import Cap, Deadline, Effort, Full, Off
from budgetctl.types import STOP_PRESETS

ALLOWED = (
    "auto, full, off, cap:N, tiered, quantile:Q, deadline:SECONDS, effort:LEVEL, utility:USD_PER_CORRECT, "
    "exchange:RATE, certified:CERT"
)


def _no_argument(make: Callable[..., Policy]) -> Callable[[str | None, dict[str, str]], Policy]:
    def build(argument: str | None, stop: dict[str, str]) -> Policy:
        if argument is not None:
            raise ConfigError(f"takes no argument, seen {argument!r}")
        return make(**stop)

    return build


def _with_argument(
    make: Callable[..., Policy], kind: Callable[[str], object], example: str
) -> Callable[[str | None, dict[str, str]], Policy]:
    def build(argument: str | None, stop: dict[str, str]) -> Policy:
        if not argument:
            raise ConfigError(f"needs an argument, for example {example!r}")
        try:
            value = kind(argument)
        except ValueError:
            raise ConfigError(f"{argument!r} does not fit, for example {example!r}") from None
        return make(value, **stop)

    return build


def _certified(argument: str | None, stop: dict[str, str]) -> Policy:
    if not argument:
        raise ConfigError("needs the file of a certificate, for example 'certified:cert.json'")
    if stop:
        raise ConfigError("takes no stop preset: the certificate holds for its own")
    return Certified.load(argument)


_BUILDERS: dict[str, Callable[[str | None, dict[str, str]], Policy]] = {
    "auto": _no_argument(Auto),
    "full": _no_argument(Full),
    "off": _no_argument(Off),
    "tiered": _no_argument(Tiered),
    "cap": _with_argument(Cap, int, "cap:4096"),
    "quantile": _with_argument(Quantile, float, "quantile:0.9"),
    "deadline": _with_argument(Deadline, float, "deadline:2.5"),
    "effort": _with_argument(Effort, str, "effort:low"),
    "utility": _with_argument(Utility, float, "utility:0.05"),
    "exchange": _with_argument(Exchange, float, "exchange:0.02"),
    "certified": _certified,
}
BUILT_IN = frozenset(_BUILDERS)
"""What names a policy by itself."""


def parse(text: str | Policy, *, names: Mapping[str, Policy] | None = None) -> Policy:
    """Return the policy that ``text`` names; a policy object passes through.

    Args:
        names: Policies that a configuration has given names to, which may be parts of ``text``.

    Raises:
        ConfigError: A part does not parse. The message names the part and what is allowed.
    """
    if not isinstance(text, str):
        if not isinstance(text, Policy):
            raise ConfigError(f"a policy is a string or has a budget() method, seen {type(text).__name__}")
        return text
    policies = [_parse_term(part.strip(), whole=text, names=names or {}) for part in text.split("&")]
    return reduce(Both, policies)


def _parse_term(part: str, *, whole: str, names: Mapping[str, Policy]) -> Policy:
    if part in names:
        return names[part]
    base, *options = part.split("+")
    name, colon, argument = base.partition(":")
    if name in names:
        raise ConfigError(f"policy {whole!r}: part {part!r}: a named policy takes no argument and no option")
    if name not in _BUILDERS:
        allowed = ", ".join([ALLOWED, *names])
        meant = _meant(part, {**_BUILDERS, **names})
        raise ConfigError(f"policy {whole!r}: unknown part {part!r}; allowed: {allowed}{meant}")
    try:
        return _BUILDERS[name](argument if colon else None, _parse_stop(options))
    except ConfigError as error:
        raise ConfigError(f"policy {whole!r}: part {part!r}: {error}") from None


def _meant(part: str, names: Iterable[str]) -> str:
    """Return what ``part`` was perhaps meant to be, as a question; nothing where nothing comes near."""
    base, plus, option = part.partition("+")
    glued = re.fullmatch(r"([a-z]+)[\s=_-]*(\d.*)", base.lower())
    word, colon, argument = base.partition(":")
    if glued is not None and glued[1] in names:
        word, colon, argument = glued[1], ":", glued[2]
    near = _near(word.lower(), names)
    return f"; did you mean {near[0] + colon + argument + plus + option!r}?" if near else ""


def _near(word: str, names: Iterable[str]) -> list[str]:
    from difflib import get_close_matches  # for what is wrong only

    return get_close_matches(word, list(names), n=1)


def _parse_stop(options: list[str]) -> dict[str, str]:
    if not options:
        return {}
    allowed = ", ".join(f"+stop:{preset}" for preset in STOP_PRESETS)
    if len(options) > 1:
        raise ConfigError(f"one stop preset at most; allowed: {allowed}")
    key, _, preset = options[0].partition(":")
    if key != "stop" or preset not in STOP_PRESETS:
        near = _near(preset or key, STOP_PRESETS)
        meant = "".join(f"; did you mean '+stop:{match}'?" for match in near)
        raise ConfigError(f"unknown option '+{options[0]}'; allowed: {allowed}{meant}")
    return {"stop": preset}
