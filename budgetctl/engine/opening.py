"""How every machine opens its call: our parameters first, the caller's own when the server refuses them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from budgetctl.adapters.base import OURS
from budgetctl.engine.effects import Effect, Send
from budgetctl.errors import brief as brief  # named here for the machines

if TYPE_CHECKING:
    from budgetctl.session import Session

REFUSED = (400, 422)
"""Statuses by which a server refuses parameters."""

MISSING = (400, 404, 405, 422, 501)
"""Statuses by which a server says that it has not what was asked for."""

OnBroken = Callable[[frozenset[str]], None]
"""Told the names of controls that an endpoint refused or ignored."""


def status(error: BaseException) -> Any:
    """Return the HTTP status of a provider's error; None where it has none."""
    return getattr(error, "status_code", getattr(error, "code", None))  # Google's calls it a code


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A response that has begun.

    Attributes:
        response: A handle to the stream, or the whole response.
        stream: It is a stream.
        refused: What of ours the server refused before; None when nothing.
    """

    response: Any
    stream: bool
    refused: str | None = None


def open_call(
    session: Session,
    path: str,
    *,
    stream: bool,
    on_broken: OnBroken,
    edit: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> Generator[Effect, Any, Opened]:
    """Send the budgeted parameters, and once exactly what the caller asked for when the server refuses them.

    Args:
        stream: The caller wants a stream.
        edit: Turns the parameters of a whole call into those of a stream that is read for it.
    """
    streamed = stream or edit is not None
    params = session.params if edit is None else edit(session.params)
    try:
        return Opened(response=(yield Send(path=path, params=params, stream=streamed)), stream=streamed)
    except Exception as error:
        if status(error) not in REFUSED or params == session.caller_params:
            raise
        names: frozenset[str] = frozenset()
        if session.params != session.caller_params:
            names = frozenset(c.name for c in session.controls) - OURS
        seen = ", ".join([*sorted(names), *(["stream"] if streamed != stream else [])])
        refused = f"HTTP {status(error)} on {seen}: sent again with the caller's own parameters"
    response = yield Send(path=path, params=session.caller_params, stream=stream)
    if names:
        on_broken(names)  # only now is it known that the fault was in our parameters
    return Opened(response=response, stream=stream, refused=refused)
