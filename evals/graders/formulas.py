"""The maths grader: whether two expressions are the same, by math-verify in a process of its own.

Comparing expressions may take arbitrarily long, and no thread can be stopped. So it happens in a child
process, which is killed when a comparison takes too long; then the answer is wrong. Plain numbers and equal
texts are compared at once, without it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import queue
import re
import subprocess
import sys
import threading
from decimal import Decimal, InvalidOperation
from typing import IO, Any

from budgetctl.evals.graders.text import boxes, final, reference

from budgetctl.errors import EvalError

SECONDS = 10.0
_START_SECONDS = 60.0
_LONGEST = 100_000
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:[eE][-+]?\d+)?")
_DRESS = re.compile(r"\\[,;:! ]|\\(?:left|right|displaystyle|mathrm|text|textbf|mathbf)(?![a-zA-Z])|[$\s]")


def maths(answer: str, line: Any) -> bool:
    r"""Whether the final answer is mathematically the reference.

    The final answer is in the last ``\boxed{}``, else what math-verify finds, with the end of the text first.

    Raises:
        EvalError: The line has no reference.
        ModuleNotFoundError: It takes math-verify, which is not installed.
    """
    wanted = str(reference(line)).strip()
    boxed = boxes(answer)
    said = boxed[-1] if boxed else final(answer)
    numbers = number(wanted), number(said)
    if None not in numbers:
        return numbers[0] == numbers[1]
    if bare(wanted) == bare(said):
        return True
    text = f"\\boxed{{{said}}}" if boxed else answer[-_LONGEST:]
    return _worker.same(wanted.replace("\\$", ""), text.replace("\\$", ""))  # dollars would open a formula


def bare(text: str) -> str:
    """Return a formula without what does not change its meaning."""
    return _DRESS.sub("", text).replace("dfrac", "frac").replace("tfrac", "frac").strip(".")


def number(text: str) -> Decimal | None:
    r"""Return the plain number that a text is (``1,234.5``, ``\$18``, ``50\%`` as 50), else None."""
    plain = bare(text).replace("\\$", "").removesuffix("\\%").removesuffix("%").strip("*")
    if not re.search(r"\d", plain) or not _NUMBER.fullmatch(plain):
        return None
    try:
        return Decimal(plain.replace(",", ""))
    except InvalidOperation:
        return None


class _Worker:
    """A child process that compares expressions, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._replies: queue.Queue[str | None] = queue.Queue()
        atexit.register(self.close)

    def same(self, wanted: str, said: str) -> bool:
        """Return whether two expressions are the same; False when that takes longer than ``SECONDS``."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            assert self._process is not None
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(json.dumps([wanted, said]).encode() + b"\n")
                self._process.stdin.flush()
                reply = self._read(SECONDS)
            except BrokenPipeError:
                reply = None
            if reply is None:
                self._kill()
            return reply == "true"

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._kill()

    def _start(self) -> None:
        import math_verify  # noqa: F401  # to say here that it is missing

        self._process = subprocess.Popen(
            [sys.executable, "-m", "budgetctl.evals.graders.formulas"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        self._replies = queue.Queue()
        listening = (self._process.stdout, self._replies)
        threading.Thread(target=self._listen, args=listening, daemon=True).start()
        if self._read(_START_SECONDS) != "ready":
            self._kill()
            raise EvalError("the process that compares expressions does not start")

    def _listen(self, pipe: IO[bytes], replies: queue.Queue[str | None]) -> None:
        with pipe:
            for line in pipe:
                replies.put(line.decode().strip())
        replies.put(None)

    def _read(self, seconds: float) -> str | None:
        try:
            return self._replies.get(timeout=seconds)
        except queue.Empty:
            return None

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            if self._process.stdin is not None:
                with contextlib.suppress(OSError):  # what was not sent yet is not wanted any more
                    self._process.stdin.close()
            self._process.wait()
            self._process = None


_worker = _Worker()


def _compare(wanted: str, said: str) -> bool:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    kinds = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
    # No timeouts of its own: they are alarms, and the parent has one that always works.
    gold = parse(f"${wanted}$", extraction_config=kinds, parsing_timeout=0)
    gold = gold or parse(wanted, extraction_config=kinds, parsing_timeout=0)
    found = parse(said, extraction_config=kinds, parsing_timeout=0)
    return bool(gold) and bool(found) and bool(verify(gold, found, timeout_seconds=None))


def _serve() -> None:
    print("ready", flush=True)
    for request in sys.stdin:
        try:
            same = _compare(*json.loads(request))
        except Exception:  # a formula can make a parser raise anything, and it is then no right answer
            same = False
        print("true" if same else "false", flush=True)


if __name__ == "__main__":
    _serve()
