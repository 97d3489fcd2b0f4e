"""Graders: whether an answer is right, by name.

===================  ======================================================================================
``exact``            the answer is the reference, but for white space around it
``normalised``       likewise without case, punctuation, articles and spacing; of the final answer alone
``regex:PATTERN``    the last match (its group, if any) is the reference; without a reference, any match
``choice``           the letter of a multiple-choice answer
``stated``           ``choice`` where the reference is a letter in brackets, else ``normalised``
``maths``            the final answer is mathematically the same (math-verify)
``json``             the answer is JSON, fits the line's ``schema``, is the reference, as far as there are any
``code``             the answer's program passes the line's tests, with limits on what it may use up
``judge:MODEL@URL``  a model at an OpenAI-compatible endpoint says so; never unless it is asked for
``module:function``  a function of your own: answer and line to True or False
===================  ======================================================================================

A grader takes the answer and the question's line, a mapping with ``reference_answer`` or ``answer``. An empty
answer is wrong.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from budgetctl.evals.graders.formulas import maths
from budgetctl.evals.graders.judging import judge
from budgetctl.evals.graders.programs import code, jobs
from budgetctl.evals.graders.structured import json_grader
from budgetctl.evals.graders.text import choice, exact, normalised, reference, regex, stated

from budgetctl.errors import EvalError

Grader = Callable[[str, Any], bool]

PLAIN: Mapping[str, Grader] = {
    "exact": exact,
    "normalised": normalised,
    "choice": choice,
    "stated": stated,
    "maths": maths,
    "json": json_grader,
    "code": code,
}
_CHECKS: Mapping[str, Callable[[Any], object]] = {
    **dict.fromkeys(("exact", "normalised", "maths", "judge"), reference),
    "choice": lambda line: choice("A", line),
    "stated": lambda line: stated("A", line),
    "json": lambda line: json_grader("null", line),
    "code": lambda line: jobs("", line),
}
WITH_ARGUMENT: Mapping[str, Callable[[str], Grader]] = {"regex": regex, "judge": judge}


def load(name: str) -> Grader:
    """Return the grader of a name; modules in the working directory are found too.

    Raises:
        EvalError: There is no such grader, or its argument is none.
    """
    if name in PLAIN:
        return answered(PLAIN[name])
    kind, colon, argument = name.partition(":")
    if kind in WITH_ARGUMENT and argument:
        return answered(WITH_ARGUMENT[kind](argument))
    if not (kind and colon and argument):
        allowed = ", ".join([*PLAIN, "regex:PATTERN", "judge:MODEL@URL"])
        raise EvalError(f"grader {name!r}: expected module:function, or one of {allowed}")
    return _imported(name, kind, argument)


def check_line(name: str, line: Any, *, where: str) -> None:
    """Refuse a question that a grader could not judge, before anyone is asked. Your own functions take any.

    Raises:
        EvalError: It has no reference, no tests, or none of the right form; begins with ``where``.
    """
    check = _CHECKS.get(name.partition(":")[0] if name.startswith("judge:") else name)
    try:
        if check is not None:
            check(line)
    except EvalError as error:
        raise EvalError(f"{where}: {error}") from None


def answered(grader: Grader) -> Grader:
    """Return a grader to which a missing answer is wrong."""

    def grade(answer: str, line: Any) -> bool:
        return bool(answer.strip()) and grader(answer, line)

    return grade


def _imported(name: str, module: str, function: str) -> Grader:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise EvalError(f"grader {name!r}: {error}") from None
    if not callable(found):
        raise EvalError(f"grader {name!r}: is no function")
    return found  # type: ignore[no-any-return]  # what a name leads to has no type
