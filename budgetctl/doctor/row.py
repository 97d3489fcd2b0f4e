"""A diagnosis as a row of the capability table, to be put into one's own file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from budgetctl.doctor.findings import Diagnosis, Finding


def capability_row(diagnosis: Diagnosis, *, today: str, prompt_format: str | None = None) -> str:
    """Return TOML with one ``[[row]]``: only what was seen to work is in it.

    Args:
        diagnosis: What was found out.
        today: The date, ISO format.
        prompt_format: Format of raw prompts with which a thought was continued.
    """
    values: dict[str, Any] = {"models": [diagnosis.model], "endpoints": [diagnosis.endpoint]}
    cap, off = _works(diagnosis, "cap"), _works(diagnosis, "off")
    if cap is not None:
        values["cap"] = {"parameters": list(cap.sent), "strength": cap.strength}
    if off is not None:
        values["off"] = {"parameters": dict(off.sent), "strength": off.strength}
    if _works(diagnosis, "abort_continue") is not None:
        values["continuation"] = "raw_completions"
        if prompt_format is not None:
            values["prompt_format"] = prompt_format
    if diagnosis.starts_in_think:
        values["starts_in_think"] = True
    values |= {
        "reasoning": diagnosis.reasoning,
        "stream_usage": diagnosis.stream_usage,
        "verified_on": today,
        "source": f"budgetctl doctor, {diagnosis.engine or 'an engine that does not say its name'}",
    }
    return "\n".join(["[[row]]", *(f"{key} = {_toml(value)}" for key, value in values.items())]) + "\n"


def _works(diagnosis: Diagnosis, name: str) -> Finding | None:
    found = diagnosis.finding(name)
    return found if found is not None and found.verified else None


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(key)} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inner} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)


def _key(key: str) -> str:
    return key if key.replace("_", "").isalnum() else json.dumps(key)
