"""A JSON-lines file that one run appends to and that survives being killed at any moment."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from budgetctl.errors import EvalError

try:
    import fcntl
except ImportError:  # Windows has no flock; there the run folder is not guarded against a second run
    fcntl = None  # type: ignore[assignment]  # a module elsewhere


class AppendFile:
    """Appends whole lines, and on opening repairs what a killed run left behind.

    A line counts once its newline is on disk. A torn last line is cut off when the file is opened, so a
    resumed run computes that result again and nothing is lost or doubled. While it is open no second
    run can open it; the lock dies with the process.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._lock()
            self._repair()
        except BaseException:
            os.close(self._fd)
            raise

    def append(self, lines: Iterable[str]) -> None:
        """Write lines (without newlines) in one go and wait until they are on disk."""
        data = memoryview("".join(f"{line}\n" for line in lines).encode())
        while data:
            data = data[os.write(self._fd, data) :]
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the file and give up its lock."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise EvalError(f"{self.path}: another run is writing to this file") from None

    def _repair(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        os.ftruncate(self._fd, whole)
        os.lseek(self._fd, 0, os.SEEK_END)
