"""What a machine asks of its shell. A machine is a generator of effects and does no io of its own.

    effect                  the shell answers with
    Send(path, params)      a handle to the response stream, or the whole response when stream is False
    Receive(handle)         the next chunk, ENDED at the end of the stream, SILENT when none came in time
    Close(handle)           nothing; closing twice is allowed and never fails
    Emit(item)              nothing, once the consumer wants the next one
    Wait(work)              what the function returns; asynchronous shells run it in a thread

What the provider or the transport raises is thrown into the machine at the effect that caused it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Post ``params`` to ``path`` (as seen from the API root)."""

    path: str
    params: Mapping[str, Any]
    stream: bool


@dataclass(frozen=True, slots=True)
class Receive:
    """Wait for the next chunk of a stream, ``within`` so many seconds; None: as long as the client waits."""

    handle: Any
    within: float | None = None


@dataclass(frozen=True, slots=True)
class Close:
    """Close a stream now, so that the server stops generating."""

    handle: Any


@dataclass(frozen=True, slots=True)
class Emit:
    """Hand an item to the consumer: a chunk of a stream, or the whole result."""

    item: Any


@dataclass(frozen=True, slots=True)
class Wait:
    """Run a blocking function that asks another server than the provider's."""

    work: Callable[[], Any]


Effect = Send | Receive | Close | Emit | Wait
Machine = Generator[Effect, Any, None]


class Silent(Enum):
    """What a machine is told when no chunk came within the time it gave. The stream is of no more use."""

    SILENT = "silent"


SILENT = Silent.SILENT


class Ended(Enum):
    """What a machine is told at the end of a stream, whose chunks may be anything, None too."""

    ENDED = "ended"


ENDED = Ended.ENDED


class CallerClosed(BaseException):
    """Thrown into a machine when the consumer wants no more; the machine closes what it has open.

    Not an Exception: no handler for the provider's errors may swallow it.
    """


def read(
    handle: Any,
    take: Callable[[Any], Generator[Effect, Any, object]],
    *,
    patience: Callable[[], float | None] = lambda: None,
) -> Machine:
    """Give every chunk of a stream to ``take`` until it returns true, and close the stream in any case.

    Args:
        handle: The stream.
        take: Gets the chunks, and at last SILENT when the stream has kept silent for too long.
        patience: Seconds that the next chunk may take; None is as long as the client waits.
    """
    try:
        while (chunk := (yield Receive(handle, patience()))) is not ENDED:
            if (yield from take(chunk)) or chunk is SILENT:
                break
    except GeneratorExit:  # the shell is gone and takes its streams with it
        raise
    except BaseException:
        yield Close(handle)
        raise
    yield Close(handle)
