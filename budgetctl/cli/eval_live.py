"""What ``budgetctl eval live`` takes, and the run that this comes to."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from budgetctl.cli import inputs
from budgetctl.errors import ConfigError

if TYPE_CHECKING:
    from budgetctl.config import Settings
    from budgetctl.evals.live import LiveRun
    from budgetctl.evals.questions import Backend

POLICIES = "full,off,auto"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that only a live run has."""
    parser.add_argument(
        "suite",
        metavar="SUITE",
        help="'pocket' (the embedded reasoner and its test questions), 'slowdown', 'safety' or 'language', a "
        "published set as gsm8k:PATH_OR_URL, or a JSONL file of your own",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="run folder; an interrupted run resumes"
    )
    parser.add_argument(
        "--limit",
        type=int,
        help="number of questions (default: 200 of pocket, 480 of language, 240 of slowdown and safety, all "
        "of a file)",
    )
    parser.add_argument(
        "--samples", type=int, default=1, help="how often every question is asked (default: %(default)s)"
    )
    parser.add_argument(
        "--grader",
        metavar="NAME",
        help="tells right answers from wrong ones: exact, maths, module:function, ..",
    )
    parser.add_argument("--base-url", help="OpenAI-compatible endpoint (default: a model in this process)")
    parser.add_argument("--model", help="model name at that endpoint, or a model that transformers loads")
    parser.add_argument("--endpoint", help="kind of endpoint, as in the capability table")
    parser.add_argument(
        "--concurrency", type=int, metavar="N", help="calls at once at an endpoint (default: 4)"
    )
    parser.add_argument("--per-minute", type=float, metavar="N", help="most calls per minute at an endpoint")
    parser.add_argument(
        "--batch-size",
        type=int,
        default=32,
        help="questions per batch of a model in this process (default: %(default)s)",
    )
    parser.add_argument(
        "--sampling",
        metavar="JSON",
        help='sampling parameters of all calls, as {"temperature": 0.6} (default: those of the endpoint; in '
        "this process greedy, and temperature 0.6 with several samples)",
    )
    parser.add_argument(
        "--confidence",
        action="store_true",
        help="keep the probability of every answer, for ladders (always kept where one of the policies is a "
        "ladder that needs it)",
    )
    parser.add_argument(
        "--max-usd", type=float, metavar="USD", help="stop before the next call at so many dollars"
    )
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help="stop before the next call at so many generated tokens"
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="where calls are made (default: %(default)s)",
    )


def run_of(args: argparse.Namespace, *, settings: Settings, policies: Sequence[str]) -> LiveRun:
    """Return the run that arguments and a configuration ask for; nothing has been asked of a model yet.

    Raises:
        ConfigError: They do not fit together.
    """
    from budgetctl.evals import suites
    from budgetctl.evals.live import LiveRun
    from budgetctl.evals.spend import Spend
    from budgetctl.evals.ways import needs_confidence

    for name in ("max_usd", "max_tokens"):
        if (limit := getattr(args, name)) is not None and limit <= 0:
            raise ConfigError(f"--{name.replace('_', '-')} {limit:g}: expected a number above 0")
    built_in = args.suite == suites.POCKET
    base = suites.measuring(settings, classifier=None if args.classifier == "none" else args.classifier)
    suite = suites.open_suite(
        args.suite,
        **suites.with_settings(args.suite, vars(args), settings=settings.eval),
        limit=args.limit,
        seed=args.seed,
        samples=args.samples,
        per_minute=args.per_minute,
        sampling=None if args.sampling is None else inputs.sampling(args.sampling),
        confidence=args.confidence or any(map(needs_confidence, policies)),
        base=base,
        many_processes=args.engine == "ray",
    )
    return LiveRun(
        suite=suite,
        policies=policies or _default_policies(suite.backend, built_in=built_in),
        out=args.out,
        seed=args.seed,
        samples=args.samples,
        batch_size=args.batch_size,
        base=base,
        spend=Spend(max_usd=args.max_usd, max_tokens=args.max_tokens),
        engine=args.engine,
    )


def _default_policies(backend: Backend, *, built_in: bool) -> list[str]:
    from budgetctl.evals.suites import POCKET_POLICIES

    if built_in:
        return list(POCKET_POLICIES)
    return [name for name in POLICIES.split(",") if name != "off" or backend.facts.can_switch_off]
