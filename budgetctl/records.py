"""Outcome files: JSON lines that many threads and processes append to, and that survive what kills them.

One row is one line, written by one ``write`` call under a file lock, before the call that it describes
returns: a row that was recorded outlives a ``kill -9``. A line that a dying writer left half written is
closed by the next writer, so it costs one row and not two. When the disk is full the half-written row is cut
off again and kept in memory, to be written first as soon as there is room, or at exit.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import logging
import os
import stat
import sys
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterator
from pathlib import Path

from pydantic_core import from_json

from budgetctl.errors import ConfigError
from budgetctl.hashing import query_hash
from budgetctl.outcomes import Feedback, Outcome

__all__ = ["JsonlSink", "Rows", "feedback", "locked", "parse", "query_hash", "read"]

logger = logging.getLogger("budgetctl")

_LOCK_WAIT_S = 0.25
_LOCK_WAIT_HELD_UP_S = 0.005
_LOCK_WAIT_AT_EXIT_S = 5.0
_REMEMBERED_IDS = 10_000
_NAMED_BAD_LINES = 5


class JsonlSink:
    """Append outcomes to a JSON-lines file.

    Safe for threads and for any number of processes. After construction nothing here raises: a row that
    cannot be written waits in memory, a bounded number of rows, and a warning is logged once.

    Args:
        path: The file; it is created, with its folders, when missing.
        store_text: Keep the query's text in the field ``text``. Off by default: prompts are private.
        keep: How many rows wait in memory at most; the oldest go first.

    Raises:
        ConfigError: The file cannot be opened for appending.
    """

    def __init__(self, path: str | os.PathLike[str], *, store_text: bool = False, keep: int = 10_000) -> None:
        self.path = Path(path).absolute()
        self.store_text = store_text
        self.dropped = 0
        self._keep = keep
        self._waiting: deque[bytes] = deque()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._warned = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(self._open())
        except OSError as error:
            raise ConfigError(f"outcomes cannot be appended to {self.path}: {error.strerror}") from error
        _open_sinks.add(self)

    @property
    def waiting(self) -> int:
        """Rows that are in memory because the file could not take them."""
        return len(self._waiting)

    def write(self, outcome: Outcome, *, text: str | None = None) -> None:
        """Record ``outcome``: when this returns it is in the file, or waiting.

        Args:
            text: The query's text; dropped unless the sink was made with ``store_text=True``.
        """
        _remember(outcome.id, self)
        keeps = self.store_text and text is not None
        try:
            line = outcome.model_dump_json(exclude={"text"} if keeps or not self.store_text else None)
        except ValueError as error:  # a control's value, of any type, that JSON has no form for
            self.dropped += 1
            logger.warning("outcome %s cannot be stored: %s", outcome.id, error)
            return
        if keeps:
            line = f'{line[:-1]},"text":{json.dumps(str(text), ensure_ascii=False)}}}'
        self._put(line.encode("utf-8", "replace") + b"\n")

    def feedback(
        self,
        id: str,  # noqa: A002 - the key's own name in the row
        *,
        correct: bool | None = None,
        score: float | None = None,
        source: str = "user",
    ) -> Feedback:
        """Record whether outcome ``id`` was right, or how good it was in [0, 1]; exactly one of the two.

        Raises:
            ConfigError: Neither or both were given, or the score is not in [0, 1].
        """
        row = _feedback_row(id, correct=correct, score=score, source=source)
        self._put(row.model_dump_json().encode() + b"\n")
        return row

    def flush(self) -> bool:
        """Try to write the waiting rows; return whether none is left."""
        with self._lock:
            self._drain(wait_s=_LOCK_WAIT_AT_EXIT_S)
            return not self._waiting

    def _put(self, line: bytes) -> None:
        with self._lock:
            if self._pid != os.getpid():  # a forked child: the parent writes what it has waiting
                self._pid = os.getpid()
                self._waiting.clear()
            held_up = bool(
                self._waiting
            )  # whoever hangs with the lock costs one call the wait, not every call
            self._waiting.append(line)
            self._drain(wait_s=_LOCK_WAIT_HELD_UP_S if held_up else _LOCK_WAIT_S)
            while len(self._waiting) > self._keep:
                self._waiting.popleft()
                self.dropped += 1

    def _drain(self, *, wait_s: float) -> None:
        try:
            # Opened anew for each row: no file handle to share with a fork, and a rotated file is let go.
            fd = self._open()
            try:
                with locked(fd, wait_s=wait_s):
                    while self._waiting:
                        _append(fd, self._waiting[0])
                        self._waiting.popleft()
            finally:
                os.close(fd)
        except OSError as error:
            if not self._warned:
                self._warned = True
                logger.warning(
                    "outcomes wait in memory, %s takes no rows: %s", self.path, error.strerror or error
                )

    def _open(self) -> int:
        mode = 0o600 if self.store_text else 0o666
        return os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), mode)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()


def _append(fd: int, line: bytes) -> None:
    """Append one line, or leave the file as it was and raise OSError."""
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        os.write(fd, line)
        return
    size = info.st_size
    os.lseek(fd, max(size - 1, 0), os.SEEK_SET)
    torn = size > 0 and os.read(fd, 1) != b"\n"
    payload = b"\n" + line if torn else line
    try:
        if os.write(fd, payload) != len(payload):
            raise OSError(errno.ENOSPC, "the row was written only in part")
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, size)
        raise


@contextlib.contextmanager
def locked(fd: int, *, wait_s: float) -> Iterator[None]:
    """Hold the file's lock; give up after ``wait_s``, so that a stopped process stops nobody else."""
    give_up = time.monotonic() + wait_s
    pause = 50e-6
    while not _try_lock(fd):
        if time.monotonic() > give_up:
            raise OSError(errno.EAGAIN, "another process holds its lock")
        time.sleep(pause)
        pause = min(2 * pause, 5e-3)
    try:
        yield
    finally:
        _unlock(fd)


if sys.platform == "win32":
    import msvcrt

    _FAR = 2**62  # a byte that no row reaches: the lock is a token, reading stays free

    def _try_lock(fd: int) -> bool:
        os.lseek(fd, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(fd: int) -> None:
        os.lseek(fd, _FAR, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a file system without locks: single appends still do not interleave on most
        return True

    def _unlock(fd: int) -> None:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)


_open_sinks: weakref.WeakSet[JsonlSink] = weakref.WeakSet()

# Which sink recorded which outcome, so that feedback finds its file.
_recorded: OrderedDict[str, JsonlSink] = OrderedDict()
_recorded_lock = threading.Lock()


def _remember(outcome_id: str, sink: JsonlSink) -> None:
    with _recorded_lock:
        _recorded[outcome_id] = sink
        _recorded.move_to_end(outcome_id)
        if len(_recorded) > _REMEMBERED_IDS:
            _recorded.popitem(last=False)


def _flush_all() -> None:
    for sink in list(_open_sinks):
        if sink._pid == os.getpid() and (sink.waiting or sink.dropped):
            sink.flush()
            if sink.waiting or sink.dropped:
                logger.error("%d outcomes were lost, %s took no rows", sink.waiting + sink.dropped, sink.path)


def _after_fork() -> None:
    global _recorded_lock
    _recorded_lock = threading.Lock()
    for sink in list(_open_sinks):
        sink._renew_lock()


atexit.register(_flush_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def feedback(
    id: str,  # noqa: A002 - the key's own name in the row
    *,
    correct: bool | None = None,
    score: float | None = None,
    source: str = "user",
    path: str | os.PathLike[str] | None = None,
) -> Feedback:
    """Record what became known about outcome ``id``: right or wrong, or a score in [0, 1].

    Args:
        source: Who says so: ``user``, ``grader``, the name of a test, ...
        path: The outcome file; without it, the file in which this process last recorded ``id``.

    Raises:
        ConfigError: Neither or both of ``correct`` and ``score``, a score outside [0, 1], or no file known.
        OSError: The file named by ``path`` cannot be written.
    """
    if path is None:
        with _recorded_lock:
            sink = _recorded.get(id)
        if sink is None:
            raise ConfigError(
                f"this process recorded no outcome {id!r} in a file; pass path=, the outcome file it is in"
            )
        return sink.feedback(id, correct=correct, score=score, source=source)
    row = _feedback_row(id, correct=correct, score=score, source=source)
    fd = os.open(path, os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0))
    try:
        with locked(fd, wait_s=_LOCK_WAIT_AT_EXIT_S):
            _append(fd, row.model_dump_json().encode() + b"\n")
    finally:
        os.close(fd)
    return row


def _feedback_row(outcome_id: str, *, correct: bool | None, score: float | None, source: str) -> Feedback:
    if (correct is None) == (score is None):
        raise ConfigError(f"feedback needs exactly one of correct and score, seen {correct=} {score=}")
    if score is not None and not 0 <= score <= 1:
        raise ConfigError(f"a feedback score lies in [0, 1], seen {score!r}")
    return Feedback(id=outcome_id, correct=correct, score=score, source=source)


class Rows(Iterator[Outcome | Feedback]):
    """The rows of an outcome file, one at a time. Lines that are no rows are logged, counted and passed over.

    Attributes:
        path: The file.
        unreadable: How many lines so far were no rows.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.unreadable = 0
        self._rows = self._read()

    def __iter__(self) -> Iterator[Outcome | Feedback]:
        return self

    def __next__(self) -> Outcome | Feedback:
        return next(self._rows)

    def _read(self) -> Iterator[Outcome | Feedback]:
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = parse(line)
                except ConfigError as error:
                    raise ConfigError(f"{self.path}:{number}: {error}") from None
                except ValueError as error:
                    self._pass_over(number, torn=not line.endswith(b"\n"), error=error)
                else:
                    yield row

    def _pass_over(self, number: int, *, torn: bool, error: ValueError) -> None:
        self.unreadable += 1
        why = "torn last line" if torn else str(error).splitlines()[0]
        if self.unreadable <= _NAMED_BAD_LINES:
            logger.warning("%s:%d: passed over, no outcome or feedback row: %s", self.path, number, why)
        elif self.unreadable == _NAMED_BAD_LINES + 1:
            logger.warning("%s:%d: passed over; more such lines are only counted", self.path, number)


def parse(line: bytes | str) -> Outcome | Feedback:
    """Read one line of an outcome file.

    Raises:
        ConfigError: The row has another major schema version.
        ValueError: The line is neither an outcome nor a feedback row.
    """
    row = from_json(line)
    if isinstance(row, dict) and "schema_version" not in row:
        return Feedback.read(row)
    return Outcome.read(row)


def read(path: str | os.PathLike[str]) -> Rows:
    """Read an outcome file row by row, whatever its size.

    Lines that are no rows, such as the torn last line of a killed writer, are passed over; each is logged
    with file and line, and counted in ``.unreadable``.

    Raises:
        OSError: While iterating: the file cannot be read.
        ConfigError: While iterating: a row has another major schema version.
    """
    return Rows(path)
