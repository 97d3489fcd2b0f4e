"""The code grader: a program and its tests in a process with limits.

The child limits its own processor time, memory, file sizes, open files and processes. It gets an empty
folder, a bare environment and, where the system lets us, no network. The parent kills its whole process group
when the time is up. That stops accidents: endless loops, full disks, fork bombs. It is no wall against an
attacker: answers of a model that you do not trust belong into a container.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from budgetctl.errors import EvalError

_FENCE = re.compile(r"```(?:[\w+#.-]*)[ \t]*\n(.*?)```", re.DOTALL)
_RUNNER = Path(__file__).with_name("program_child.py")
_PRELUDE = (
    "import sys, math, re, json, collections, itertools, functools, heapq, bisect, string, random, operator\n"
    "from typing import *\nfrom collections import *\nfrom math import *\n"
)
"""What the published problems take for imported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one program may use up.

    Attributes:
        seconds: By the clock, for all tests of a question together.
        cpu_s: Of the processor, for one test.
        memory_mb: Of address space.
        file_mb: Of any file that it writes.
        files: Open files.
        processes: Processes and threads of this user; not enforced for root.
    """

    seconds: float = 60.0
    cpu_s: int = 10
    memory_mb: int = 1024
    file_mb: int = 16
    files: int = 64
    processes: int = 256


LIMITS = Limits()


def code(answer: str, line: Any, *, limits: Limits = LIMITS) -> bool:
    """Whether the program in an answer passes all tests of a question.

    The program is the last fenced block, else the whole answer. Tests are in one of the published forms:
    ``public_test_cases`` and ``private_test_cases`` of LiveCodeBench (read from standard input, or calls of
    ``metadata.func_name``), ``test_list`` of MBPP, ``test`` and ``entry_point`` of HumanEval (its ``prompt``
    comes before a body alone), or ``tests``: a Python program that follows the answer's.

    Raises:
        EvalError: The question has no tests of a known form.
    """
    if os.name != "posix":
        raise EvalError("the code grader limits processes in ways that only POSIX systems have")
    blocks = _FENCE.findall(answer)
    program = blocks[-1] if blocks else answer
    return all(run(job, limits=limits) for job in jobs(program, line))


def jobs(program: str, line: Any) -> list[dict[str, Any]]:
    """Return what to run: each a source, what it reads, and what it must print (None: only end well)."""
    if not isinstance(line, Mapping):
        raise EvalError("the question is no mapping with tests")
    if line.get("public_test_cases") or line.get("private_test_cases"):
        return _live_code_bench(program, line)
    if line.get("test_list"):
        setup = [str(line.get("test_setup_code") or ""), *map(str, line.get("test_imports") or ())]
        return [_job(program, *setup, *map(str, line["test_list"]))]
    if isinstance(line.get("test"), str) and line.get("entry_point"):
        entry = str(line["entry_point"])
        whole = (
            program
            if re.search(rf"def\s+{re.escape(entry)}\b", program)
            else f"{line.get('prompt', '')}{program}"
        )
        return [_job(whole, line["test"], f"check({entry})")]
    if isinstance(line.get("tests"), str):
        return [_job(program, line["tests"])]
    raise EvalError(
        "the question has no tests: expected public_test_cases, test_list, test and entry_point, or tests"
    )


def _job(*parts: str) -> dict[str, Any]:
    return {"source": _PRELUDE + "\n".join(parts), "stdin": "", "stdout": None}


def _live_code_bench(program: str, line: Mapping[str, Any]) -> list[dict[str, Any]]:
    metadata = line.get("metadata") or {}
    if isinstance(metadata, str):
        metadata = json.loads(metadata)
    found = []
    for name in ("public_test_cases", "private_test_cases"):
        for case in _cases(line.get(name)):
            if case.get("testtype") == "functional":
                found.append(_call(program, str(metadata.get("func_name")), case))
            else:
                source = _PRELUDE + program
                found.append({"source": source, "stdin": case["input"], "stdout": case["output"]})
    return found


def _cases(cases: Any) -> Sequence[Mapping[str, Any]]:
    """Return test cases; the private ones may be packed: JSON in pickled text in zlib in base 64."""
    if not cases:
        return ()
    if not isinstance(cases, str):
        return list(cases)
    try:
        return list(json.loads(cases))
    except ValueError:
        return list(json.loads(_unpacked(cases)))


def _unpacked(text: str) -> str:
    import base64
    import io
    import pickle
    import zlib

    class OnlyText(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            raise EvalError(f"packed test cases hold {module}.{name}, and only text is expected")

    try:
        found = OnlyText(io.BytesIO(zlib.decompress(base64.b64decode(text)))).load()
    except (ValueError, zlib.error, pickle.UnpicklingError) as error:
        raise EvalError(f"test cases cannot be read: {error}") from None
    if not isinstance(found, str):
        raise EvalError(f"packed test cases hold a {type(found).__name__}, and only text is expected")
    return found


def _call(program: str, function: str, case: Mapping[str, Any]) -> dict[str, Any]:
    arguments = [json.loads(part) for part in str(case["input"]).split("\n") if part.strip()]
    lines = (
        f"_arguments, _wanted = {arguments!r}, {json.loads(case['output'])!r}",
        f"_call = getattr(Solution(), {function!r}) if 'Solution' in globals() else globals()[{function!r}]",
        "_found = _call(*_arguments)",
        "assert (list(_found) if isinstance(_found, tuple) else _found) == _wanted",
    )
    return _job(program, *lines)


def run(job: Mapping[str, Any], *, limits: Limits = LIMITS) -> bool:
    """Run one program; return whether it ended well and printed what it must, line by line but for spaces."""
    with tempfile.TemporaryDirectory(prefix="budgetctl-code-") as folder:
        settings = json.dumps({"source": job["source"], "limits": asdict(limits)})
        (Path(folder) / "job.json").write_text(settings)
        with (Path(folder) / "stdout").open("wb") as stdout:
            child = subprocess.Popen(
                [*_without_network(), sys.executable, "-I", str(_RUNNER), "job.json"],
                cwd=folder,
                env={"PATH": "/usr/bin:/bin", "HOME": folder, "TMPDIR": folder, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        try:
            child.communicate(str(job["stdin"]).encode(), timeout=limits.seconds)
        except subprocess.TimeoutExpired:
            return False
        finally:
            _kill_group(child)
        if child.returncode != 0 or job["stdout"] is None:
            return child.returncode == 0
        printed = (Path(folder) / "stdout").read_text(errors="replace")
        return _lines(printed) == _lines(str(job["stdout"]))


def _lines(text: str) -> list[list[str]]:
    return [words for line in text.splitlines() if (words := line.split())]


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """Kill the child and whatever it left running."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    if child.stdin is not None:
        child.stdin.close()
    child.wait()


@functools.cache
def _without_network() -> tuple[str, ...]:
    """Return the command that takes the network away; nothing where the system does not let us."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return ()
    command = (unshare, "--user", "--map-root-user", "--net")
    tried = subprocess.run([*command, "true"], capture_output=True, check=False)
    return command if tried.returncode == 0 else ()
