"""The JSON grader: an answer's JSON, its schema and its values."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from budgetctl.errors import EvalError

_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_NOTHING = object()


def json_grader(answer: str, line: Any) -> bool:
    """Whether an answer is JSON that fits the line's ``schema`` and is its reference, as far as it has any.

    Objects are compared whatever the order of their keys, numbers with a relative tolerance of 1e-9.

    Raises:
        EvalError: The line has neither schema nor reference, or the schema is none.
        ModuleNotFoundError: There is a schema, and jsonschema is not installed.
    """
    if not isinstance(line, Mapping):
        raise EvalError("the question is no mapping with a 'schema' or a 'reference_answer'")
    schema, wanted = line.get("schema"), line.get("reference_answer", line.get("answer", _NOTHING))
    if schema is None and wanted is _NOTHING:
        raise EvalError("the question has neither a 'schema' nor a 'reference_answer' to grade by")
    found = extract(answer)
    if found is _NOTHING or (schema is not None and not _fits(found, schema)):
        return False
    if isinstance(wanted, str):
        parsed = extract(wanted)
        wanted = wanted if parsed is _NOTHING else parsed
    return wanted is _NOTHING or wanted is None or same(found, wanted)


def extract(answer: str) -> Any:
    """Return the JSON value of an answer: all of it, its last fenced block, or its first object or array."""
    fenced = _FENCE.findall(answer)
    for text in (answer, *fenced[-1:]):
        try:
            return json.loads(text)
        except ValueError:
            continue
    decoder = json.JSONDecoder()
    for match in re.finditer(r"[{\[]", answer):
        try:
            return decoder.raw_decode(answer, match.start())[0]
        except ValueError:
            continue
    return _NOTHING


def _fits(value: Any, schema: Any) -> bool:
    import jsonschema
    import jsonschema.validators

    kind = jsonschema.validators.validator_for(schema)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise EvalError(f"the question's schema is no JSON schema: {error.message}") from None
    return bool(kind(schema).is_valid(value))


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
