"""The command ``budgetctl``. JSON on stdout with ``--json``; progress and prose on stderr.

Exit codes: 0 done, 1 the result says no, 2 the command cannot be carried out as asked, 3 it takes more
evidence (``compare``) or more money (``eval live``) to say.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from budgetctl import __version__
from budgetctl.errors import BudgetctlError

COMMANDS = (
    "run",
    "decide",
    "eval",
    "compare",
    "calibrate",
    "report",
    "slo",
    "roi",
    "cube",
    "train",
    "config",
    "doctor",
    "bench",
)


def parser() -> argparse.ArgumentParser:
    """Return the parser with every command."""
    root = argparse.ArgumentParser(
        prog="budgetctl", description="Give every LLM query the thinking it deserves."
    )
    root.add_argument("--version", action="version", version=f"budgetctl {__version__}")
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        import_module(f"budgetctl.cli.{name}").add(commands)
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = parser().parse_args(argv)
    try:
        return int(args.run(args))
    except BudgetctlError as error:
        print(f"budgetctl {args.command}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"budgetctl {args.command}: {_missing(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0
    except OSError as error:
        print(f"budgetctl {args.command}: {error}", file=sys.stderr)
        return 2
    except Exception:  # a crash is no verdict: exit code 1 means that the result says no
        traceback.print_exc()
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _missing(error: ModuleNotFoundError) -> str:
    extras = {
        "torch": "local",
        "transformers": "local",
        "openai": "openai",
        "matplotlib": "evals",
        "pyarrow": "parquet",
        "zstandard": "inspect",
        "tqdm": "evals",
        "ray": "ray",
        "scipy": "train",
        "sklearn": "train",
    }
    extra = extras.get((error.name or "").partition(".")[0])
    if extra is None:
        raise error
    return f"this needs {error.name}: install the extra, as in pip install '.[{extra}]' from the checkout"
