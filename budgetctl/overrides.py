"""What is said of all calls inside a block: their policy, their conversation, and who pays for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from budgetctl.conversation import current_id
from budgetctl.errors import ConfigError
from budgetctl.policy import Policy, parse

policy_override: ContextVar[Policy | None] = ContextVar("budgetctl_override", default=None)
paying: ContextVar[tuple[str | None, str | None]] = ContextVar("budgetctl_paying", default=(None, None))
"""Key and tenant of the calls in this context."""


@contextmanager
def override(
    policy: str | Policy | None = None,
    *,
    conversation: str | None = None,
    tenant: str | None = None,
    key: str | None = None,
) -> Iterator[None]:
    """Say something about every call made inside the ``with`` block, in this thread or task.

    Args:
        policy: The policy of these calls. A name out of a configuration is looked up by what loaded it:
            ``override(settings.parse("careful"))``.
        conversation: Id of the conversation that they belong to, where its opening does not tell it.
        tenant: Whom they are for, in the eyes of spending limits.
        key: Who pays for them, likewise.

    Raises:
        ConfigError: The policy does not parse, or a name is no string.
    """
    check_name("conversation", conversation, "a string, such as a thread's id")
    check_name("tenant", tenant)
    check_name("key", key)
    policies = policy_override.set(policy_override.get() if policy is None else parse(policy))
    ids = current_id.set(current_id.get() if conversation is None else conversation)
    known = paying.get()
    payers = paying.set((key or known[0], tenant or known[1]))
    try:
        yield
    finally:
        paying.reset(payers)
        current_id.reset(ids)
        policy_override.reset(policies)


def check_name(what: str, value: object, allowed: str = "a string") -> None:
    """Refuse what is no name; None is.

    Raises:
        ConfigError: Says what was to be one.
    """
    if value is not None and not (isinstance(value, str) and value):
        raise ConfigError(f"{what}: seen {value!r}, allowed: {allowed}")
