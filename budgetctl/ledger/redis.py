"""Accounts on a Redis server, for any number of hosts. It needs the extra ``redis``.

Every operation is one call of one script, so it is atomic and takes one round trip. The time is the server's.
A reservation and a settlement that the client sends again, because the connection broke before the reply, are
done once. All keys of a prefix lie in one slot of a cluster. The server must not evict keys
(``maxmemory-policy noeviction``): what was spent would be forgotten.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any, Generic, TypeVar

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from budgetctl.errors import ConfigError
from budgetctl.ledger.store import REMEMBERED_MS, Account, Claim

TIMEOUT_S = 5.0
"""What an answer of the server, or a connection, may take."""


_Reply = TypeVar("_Reply")


class _Scripted(Generic[_Reply]):
    """Writes operations as calls of the script.

    Args:
        client: A client of redis-py, also of a cluster. Its pool should wait for a connection rather than
            raise when all are in use: a settlement that is not sent is a reservation that expires.
        prefix: What all keys begin with, in braces.
        clock: Milliseconds since the epoch, in the place of the server's time.
    """

    def __init__(
        self, client: Any, *, prefix: str = "budgetctl", clock: Callable[[], int] | None = None
    ) -> None:
        if not prefix or set(prefix) & set("{}"):
            raise ConfigError(f"prefix: seen {prefix!r}, allowed: a name without braces")
        text = files("budgetctl.ledger").joinpath("ledger.lua").read_text(encoding="utf-8")
        self.client = client
        self._script: Callable[..., Any] = client.register_script(text)
        self._prefix = f"{{{prefix}}}"
        self._clock = clock

    def reserve(
        self, reservation: str, accounts: Sequence[Account], rungs: Sequence[Sequence[int]], *, hold_ms: int
    ) -> _Reply:
        """Hold the first rung for which every account has room."""
        return self._run("reserve", reservation, accounts, rungs=rungs, hold_ms=hold_ms)

    def settle(self, reservation: str, claims: Sequence[Claim], spent: Sequence[int]) -> _Reply:
        """Give back what is held and charge what was spent."""
        accounts, held = [claim.account for claim in claims], [claim.held for claim in claims]
        return self._run("settle", reservation, accounts, held=held, spent=spent, remembered_ms=REMEMBERED_MS)

    def read(self, accounts: Sequence[Account]) -> _Reply:
        """Return what is spent and what is held of each account."""
        return self._run("read", "", accounts)

    def _run(self, operation: str, reservation: str, accounts: Sequence[Account], **given: Any) -> _Reply:
        keys = [f"{self._prefix}:reservation:{reservation}"]
        for account in accounts:
            keys += [f"{self._prefix}:spent:{account.name}", f"{self._prefix}:holds:{account.name}"]
        given["accounts"] = [
            {
                "period_ms": account.window.period_ms,
                "behind": account.window.behind,
                "kept_ms": account.window.kept_ms,
                "limit": account.limit,
                "strict": account.strict,
            }
            for account in accounts
        ]
        now = "" if self._clock is None else self._clock()
        reply: _Reply = self._script(keys=keys, args=[operation, reservation, now, json.dumps(given)])
        return reply


class RedisStore(_Scripted[Sequence[int]]):
    """A :class:`~budgetctl.ledger.Store` on a ``redis.Redis`` client, whose errors it raises unchanged."""

    @classmethod
    def from_url(cls, url: str, *, prefix: str = "budgetctl") -> RedisStore:
        """Return a store on a client of its own, with up to 50 connections; none is made yet."""
        return cls(_client(redis.Redis, redis.BlockingConnectionPool, Retry, url), prefix=prefix)


class AsyncRedisStore(_Scripted[Awaitable[Sequence[int]]]):
    """The same on a ``redis.asyncio.Redis`` client, which belongs to one event loop."""

    @classmethod
    def from_url(cls, url: str, *, prefix: str = "budgetctl") -> AsyncRedisStore:
        """Return a store on a client of its own, with up to 50 connections; none is made yet."""
        client, pool = redis.asyncio.Redis, redis.asyncio.BlockingConnectionPool
        return cls(_client(client, pool, AsyncRetry, url), prefix=prefix)


def _client(client: Any, pool: Any, retry: Any, url: str) -> Any:
    """Return a client whose calls wait for a connection, but not for ever, and are tried twice more.

    What the URL says itself wins.
    """
    if not isinstance(url, str):
        raise ConfigError(f"redis: seen {type(url).__name__}, allowed: a URL such as redis://localhost:6379")
    given = {
        "socket_timeout": TIMEOUT_S,
        "socket_connect_timeout": TIMEOUT_S,
        "retry": retry(ExponentialBackoff(cap=0.5, base=0.05), 2),
    }
    try:
        return client.from_pool(pool.from_url(url, **given))
    except ValueError as error:
        scheme, found, _ = url.partition("://")  # what follows may hold a password
        seen = f"{scheme}://..." if found else "no scheme"
        raise ConfigError(f"redis: seen {seen}, {error}") from None
