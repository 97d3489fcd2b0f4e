"""How every machine opens its call: our parameters first, the caller's own when the server refuses them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any

from budgetctl.adapters.base import OURS
from budgetctl.engine.effects import Effect, Send

if TYPE_CHECKING:
    from budgetctl.session import Session

REFUSED = (400, 422)
"""Statuses by which a server refuses parameters."""

OnBroken = Callable[[frozenset[str]], None]
"""Told the names of controls that an endpoint refused or ignored."""


def status(error: BaseException) -> Any:
    """Return the HTTP status of a provider's error; None where it has none."""
    return getattr(error, "status_code", None)


def brief(error: BaseException) -> str:
    """Name an error for the records. Not its message: servers quote the prompt in theirs."""
    code = status(error)
    return type(error).__name__ if code is None else f"{type(error).__name__} (HTTP {code})"


def unchanged(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Send parameters as they are."""
    return params


def open_call(
    session: Session,
    path: str,
    *,
    stream: bool,
    on_broken: OnBroken,
    edit: Callable[[Mapping[str, Any]], Mapping[str, Any]] = unchanged,
) -> Generator[Effect, Any, tuple[Any, str | None]]:
    """Send the budgeted parameters, and once the caller's own when the server refuses them.

    Args:
        edit: Last change to either set of parameters.

    Returns:
        The response, and what was refused; None when nothing was.
    """
    try:
        return (yield Send(path=path, params=edit(session.params), stream=stream)), None
    except Exception as error:
        if status(error) not in REFUSED or session.params == session.caller_params:
            raise
        names = frozenset(c.name for c in session.controls) - OURS
        refused = (
            f"HTTP {status(error)} on {', '.join(sorted(names))}: sent again with the caller's own parameters"
        )
    response = yield Send(path=path, params=edit(session.caller_params), stream=stream)
    on_broken(names)  # only now is it known that the fault was in our parameters
    return response, refused
