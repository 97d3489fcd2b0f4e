"""``budgetctl run``: one live call under a policy, on the embedded model or an OpenAI-compatible endpoint."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

import budgetctl
from budgetctl.errors import AnswerTruncated, ConfigError
from budgetctl.outcomes import Outcome


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("run", help="make one call under a policy", description=__doc__)
    parser.add_argument("text", metavar="TEXT", help="the question; - reads it from standard input")
    parser.add_argument("--policy", help="policy string (default: auto, or the configuration's)")
    parser.add_argument("--config", metavar="FILE", help="configuration whose names and limits hold")
    parser.add_argument(
        "--base-url", help="OpenAI-compatible endpoint; without it the embedded model answers"
    )
    parser.add_argument("--model", help="model name at that endpoint")
    parser.add_argument("--endpoint", help="kind of endpoint, as in the capability table")
    parser.add_argument("--sink", metavar="FILE", help="append the outcome to this JSONL file")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make the call; 1 when no answer came back."""
    text = read_text(args.text)
    settings = budgetctl.Settings.load({} if args.config is None else args.config, env={})
    sinks = {} if args.sink is None else {"sinks": (budgetctl.JsonlSink(args.sink),)}
    controller = settings.controller(policy=args.policy, **sinks)
    alias = controller.alias(args.model)
    if alias is not None and args.base_url is None:
        args.base_url = alias.base_url
    if args.base_url is None:
        if args.model is not None:
            raise ConfigError("--model needs --base-url; without it the embedded model answers")
        answer, outcome = _embedded(text, controller)
    else:
        answer, outcome = _remote(text, controller, args)
    if args.json:
        print(json.dumps({"answer": answer, "outcome": outcome.model_dump(mode="json")}, indent=2))
    else:
        print(answer)
        print(outcome.why, file=sys.stderr)
    return 0 if outcome.answered else 1


def read_text(text: str) -> str:
    """Return the question, from standard input where TEXT is ``-``.

    Raises:
        ConfigError: There is nothing to ask.
    """
    text = sys.stdin.read() if text == "-" else text
    if not text.strip():
        raise ConfigError(
            "the prompt is empty: give the question as TEXT, or - to read it from standard input"
        )
    return text


def _embedded(text: str, controller: budgetctl.Controller) -> tuple[str, Outcome]:
    from budgetctl.evals import pocket
    from budgetctl.evals.backends import POCKET_TRIALS
    from budgetctl.integrations.transformers import generate

    model, tokenizer = pocket.load()
    messages = [{"role": "user", "content": text}]
    [generation] = generate(
        model,
        tokenizer,
        [messages],
        controller=controller,
        close_text=pocket.CLOSE_TEXT,
        trials=POCKET_TRIALS,
    )
    return generation.answer, budgetctl.outcome(generation)


def _remote(text: str, controller: budgetctl.Controller, args: argparse.Namespace) -> tuple[str, Outcome]:
    from openai import OpenAI, OpenAIError

    if args.model is None:
        raise ConfigError("--base-url needs --model")
    client = budgetctl.wrap(
        OpenAI(base_url=args.base_url, api_key=os.environ.get("OPENAI_API_KEY", "none")),
        controller=controller,
        endpoint=args.endpoint,
    )
    try:
        reply = client.chat.completions.create(model=args.model, messages=[{"role": "user", "content": text}])
    except AnswerTruncated as error:
        return "", budgetctl.outcome(error)
    except OpenAIError as error:
        raise ConfigError(f"{args.base_url}: {type(error).__name__}: {error}") from error
    return reply.choices[0].message.content or "", budgetctl.outcome(reply)
