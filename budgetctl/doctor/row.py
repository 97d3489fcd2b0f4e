"""A diagnosis as a row of the capability table, to be put into one's own file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from budgetctl.capabilities import Capability
from budgetctl.doctor.findings import Diagnosis


def capability_row(diagnosis: Diagnosis, capability: Capability, *, today: str) -> str:
    """Return TOML with one ``[[row]]``: the row that the table has, corrected by what was seen.

    What was seen to work is in it, what was seen not to is not, and what could not be told stays as it was.

    Args:
        diagnosis: What was found out.
        capability: The table's own row; one that is not known has nothing to start from.
        today: The date, ISO format.
    """
    values: dict[str, Any] = (
        capability.model_dump(exclude_defaults=True, exclude_none=True) if capability.known else {}
    )
    values |= {"models": [_pattern(diagnosis.model)], "endpoints": [diagnosis.endpoint]}
    for finding in diagnosis.findings:
        if finding.verified is False:
            values.pop(finding.name, None)
        elif finding.verified and finding.name == "cap":
            values["cap"] = {"parameters": list(finding.sent), "strength": finding.strength}
        elif finding.verified and finding.name == "off":
            values["off"] = {"parameters": dict(finding.sent), "strength": finding.strength}
        elif finding.verified and finding.name == "live_end":
            values["live_end"] = True
    values["continuation"] = _continuation(values.get("continuation") or (), diagnosis)
    if not values["continuation"]:
        del values["continuation"]
    if diagnosis.starts_in_think:
        values["starts_in_think"] = True
    values |= {
        "reasoning": diagnosis.reasoning,
        "output_limit": "max_completion_tokens" if diagnosis.endpoint == "openai" else "max_tokens",
        "stream_usage": diagnosis.stream_usage,
        "verified_on": today,
        "source": f"budgetctl doctor, {diagnosis.engine or 'an engine that does not say its name'}",
    }
    return "\n".join(["[[row]]", *(f"{key} = {_toml(value)}" for key, value in values.items())]) + "\n"


def _continuation(known: Sequence[str], diagnosis: Diagnosis) -> list[str]:
    """Return the ways of going on from a thought: the table's, less what failed, and what worked."""
    failed: set[str | None] = {f.way for f in diagnosis.tried if f.verified is False}
    off = diagnosis.finding("off")
    if off is not None and off.verified is False:
        failed.add("reask")
    left = [way for way in known if way not in failed]
    new = [f.way for f in diagnosis.tried if f.way is not None and f.verified and f.way not in left]
    return sorted([*left, *new], key=lambda way: way == "reask")  # another question: the last resort


def _pattern(model: str) -> str:
    """Return the pattern that matches this model and no other."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in model.rstrip("/"))


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(key)} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inner} }}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if key.replace("_", "").isalnum() and key.isascii() else json.dumps(key, ensure_ascii=False)
