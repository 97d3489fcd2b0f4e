"""Runs in the child of the code grader: limits itself, then runs the program. Imports nothing of ours."""

import json
import resource
import sys


def limit(which: int, amount: int) -> None:
    """Lower a limit for good, to what is allowed already where that is less."""
    hard = resource.getrlimit(which)[1]
    amount = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
    resource.setrlimit(which, (amount, amount))


def main() -> None:
    """Run the program of a job file."""
    with open(sys.argv[1]) as file:
        job = json.load(file)
    limits = job["limits"]
    limit(resource.RLIMIT_CPU, limits["cpu_s"])
    limit(resource.RLIMIT_FSIZE, limits["file_mb"] << 20)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_NOFILE, limits["files"])
    limit(resource.RLIMIT_NPROC, limits["processes"])
    if sys.platform != "darwin":  # which has no such limit
        limit(resource.RLIMIT_AS, limits["memory_mb"] << 20)
    sys.setrecursionlimit(20_000)
    exec(compile(job["source"], "answer.py", "exec"), {"__name__": "__main__"})


main()
