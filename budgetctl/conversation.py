"""One decision per conversation, where another one would cost the provider's prompt cache.

Some providers cannot read a cached prompt once the amount of thinking changes. For models whose capability
says so (``breaks_cache``) the budget of a conversation's first call is kept for its later ones; where
something else is asked for all the same, the decision says what that gives up. A conversation is known by a
hash of its opening, its model and its endpoint, or by an id that the caller gives; no text is kept, and each
process remembers its own.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from budgetctl.capabilities import Capability
from budgetctl.hashing import load_key
from budgetctl.types import Budget, Query, Usage

REMEMBERED = 10_000
KEPT = "kept from the conversation's first call, for the prompt cache"

current_id: ContextVar[str | None] = ContextVar("budgetctl_conversation", default=None)

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """The conversation that a call belongs to.

    Attributes:
        key: What it is known by.
        begins: This is its first call.
        place: Its endpoint and model, without which an id of the provider's means nothing.
    """

    key: str
    begins: bool
    place: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class LastCall:
    """The last call of a conversation.

    Attributes:
        said: What it said about thinking.
        cached: Tokens that the cache held after it: those it read and those it wrote; None is unknown.
    """

    said: str
    cached: int | None

    def gives_up(self, said: str) -> str | None:
        """Return what a call that says ``said`` gives up; None where it says the same."""
        if said == self.said:
            return None
        held = "" if not self.cached else f" ({self.cached:,} tokens)"
        return f"gives up the conversation's prompt cache{held}: its last call asked for other thinking"


@dataclass(slots=True)
class _Known:
    budgets: dict[str, Budget] = field(default_factory=dict)
    last: LastCall | None = None


def conversation_of(
    query: Query, capability: Capability, *, place: str, given: str | None = None
) -> Conversation | None:
    """Return the conversation of a call; None where nothing is lost if every call is decided by itself.

    Args:
        place: The endpoint, to tell conversations at different ones apart.
        given: An id from the call's own parameters. One from ``budgetctl.override`` comes first.
    """
    given = current_id.get() or given
    if not capability.breaks_cache or not (given or query.opening):
        return None
    at = (place, query.model or "")
    parts = [given] if given else [part for turn in query.opening for part in (turn.role, turn.text)]
    return Conversation(key=_key(*at, *parts), begins=query.begins and not given, place=at)


def given_id(params: Mapping[str, Any]) -> str | None:
    """Return the id by which a call to OpenAI's Responses API goes on: of a conversation, or of a response.

    ``prompt_cache_key`` is none: conversations of one user share it.
    """
    given = params.get("conversation")
    given = given.get("id") if isinstance(given, Mapping) else given
    given = given or params.get("previous_response_id")
    return given if isinstance(given, str) else None


def _key(*parts: str) -> str:
    # Lengths keep parts apart. The key of this process is enough: nothing of it is ever written down.
    return load_key(None).hash("".join(f"{len(part)}:{part}" for part in parts))


class Conversations:
    """What is known of conversations, the most recent ones; safe for threads."""

    def __init__(self, *, most: int = REMEMBERED) -> None:
        self._most = most
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._responses: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def recall(self, conversation: Conversation | None, policy: str) -> Budget | None:
        """Return the budget that ``policy`` gave the conversation's first call, if this is a later one."""
        if conversation is None or conversation.begins:
            return None
        with self._lock:
            known = self._find(conversation)
            return None if known is None else known.budgets.get(policy)

    def keep(self, conversation: Conversation | None, policy: str, budget: Budget) -> None:
        """Remember a budget; the conversation that was idle longest goes."""
        if conversation is not None:
            with self._lock:
                self._find_or_make(conversation).budgets[policy] = budget

    def last(self, conversation: Conversation | None) -> LastCall | None:
        """Return the call before this one; None where this is the first, or nothing is known."""
        if conversation is None or conversation.begins:
            return None
        with self._lock:
            known = self._find(conversation)
            return None if known is None else known.last

    def note(self, conversation: Conversation | None, *, said: str, usage: Usage) -> None:
        """Remember a call that has ended.

        Args:
            said: What it said about thinking.
            usage: Its tokens.
        """
        if conversation is None:
            return
        counts = [n for n in (usage.cached_tokens, usage.cache_write_tokens) if n is not None]
        with self._lock:
            last = LastCall(said=said, cached=sum(counts) if counts else None)
            self._find_or_make(conversation).last = last

    def answered(self, conversation: Conversation | None, response: str) -> None:
        """Know a conversation by the id of a response as well, which its next call may name instead."""
        if conversation is not None:
            with self._lock:
                key = self._responses.get(conversation.key, conversation.key)
                self._put(self._responses, _key(*conversation.place, response), key)

    def _find(self, conversation: Conversation) -> _Known | None:
        key = self._responses.get(conversation.key, conversation.key)
        if key in self._known:
            self._known.move_to_end(key)
        return self._known.get(key)

    def _find_or_make(self, conversation: Conversation) -> _Known:
        known = self._find(conversation)
        if known is None:
            known = _Known()
            self._put(self._known, self._responses.get(conversation.key, conversation.key), known)
        return known

    def _put(self, table: OrderedDict[str, _Value], key: str, value: _Value) -> None:
        table[key] = value
        table.move_to_end(key)
        if len(table) > self._most:
            table.popitem(last=False)
