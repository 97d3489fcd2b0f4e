"""``budgetctl decide``: what one query would be given, without calling any model."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from typing import Any

from budgetctl.adapters import openai_chat
from budgetctl.adapters.base import Rendered
from budgetctl.capabilities import Capability, guess_endpoint
from budgetctl.cli.run import read_text
from budgetctl.config import Settings
from budgetctl.controller import Controller
from budgetctl.errors import ClassifierError, ConfigError
from budgetctl.pricing import PriceRow
from budgetctl.types import Decision, Estimate, Query


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("decide", help="show the decision for one query", description=__doc__)
    parser.add_argument("text", metavar="TEXT", help="the question; - reads it from standard input")
    parser.add_argument("--model", help="model of the call (default: the embedded one)")
    parser.add_argument("--endpoint", help="kind of endpoint, as in the capability table (default: openai)")
    parser.add_argument("--policy", help="policy string (default: auto, or the configuration's)")
    parser.add_argument("--config", metavar="FILE", help="configuration whose names and limits hold")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Decide and print."""
    settings = Settings.load({} if args.config is None else args.config, env={})
    controller = settings.controller(policy=args.policy, sinks=())
    alias = controller.alias(args.model)
    model, endpoint, policy = args.model, args.endpoint, None
    if alias is not None:
        endpoint = endpoint or alias.endpoint or guess_endpoint(alias.base_url)
        model, policy = alias.model, alias.policy
    controller = controller if policy is None else controller.with_policy(policy)
    place = endpoint  # where none is named, the model's name tells whose prices hold
    model, endpoint, capability = _capability(controller, model, endpoint)
    priced = controller.prices.row(model, place=endpoint if args.model is None else place)
    query = Query.from_text(read_text(args.text), model=model)
    estimate = _estimate(controller, query)
    # Loading is not part of a decision: a service pays it once, here it would be all there is to see.
    _decide(controller, Query.from_text("warm up", model=model), capability, endpoint, priced)
    started = time.perf_counter_ns()
    decision, rendered = _decide(controller, query, capability, endpoint, priced)
    elapsed_us = (time.perf_counter_ns() - started) / 1e3
    result = report(decision, rendered, estimate=estimate, elapsed_us=elapsed_us, priced=priced)
    print(json.dumps(result, indent=2) if args.json else _table(result, model))
    return 0


def report(
    decision: Decision,
    rendered: Rendered,
    *,
    estimate: Estimate | None,
    elapsed_us: float,
    priced: PriceRow | None = None,
) -> dict[str, Any]:
    """Return what the command prints as JSON.

    ``estimate`` is shown also where the policy needs none or set it aside; ``decision.reasons`` say what
    shaped the budget, and end with the reason of a fallback.
    """
    budget = decision.budget
    reasons = [*decision.reasons, *([decision.fallback] if decision.fallback is not None else [])]
    return {
        "estimate": None if estimate is None else {**asdict(estimate), "need": estimate.need},
        "decision": {
            "reasoning_tokens": budget.reasoning_tokens,
            "effort": budget.effort,
            "answer_tokens": budget.answer_tokens,
            "reasons": reasons,
        },
        "expected": asdict(decision.expected),
        "price_source": None if priced is None else priced.source,
        "controls": [asdict(control) for control in rendered.controls],
        "elapsed_us": elapsed_us,
    }


def _capability(
    controller: Controller, model: str | None, endpoint: str | None
) -> tuple[str, str, Capability]:
    """Return model, endpoint and what they can do: without a name those that ``budgetctl run`` would call."""
    if model is not None:
        endpoint = endpoint or "openai"
        return model, endpoint, controller.capabilities.lookup(model, endpoint)
    if endpoint is not None:
        raise ConfigError("--endpoint needs --model")
    from budgetctl.evals import pocket

    return pocket.NAME, "in-process", controller.capabilities.lookup(pocket.NAME, "in-process")


def _estimate(controller: Controller, query: Query) -> Estimate | None:
    try:
        classifier = controller.classifier()
        return None if classifier is None else classifier.estimate(query)
    except ClassifierError:
        return None  # a policy that needs it says so in its reasons


def _decide(
    controller: Controller, query: Query, capability: Capability, endpoint: str, priced: PriceRow | None
) -> tuple[Decision, Rendered]:
    """Decide, and render the decision as a wrapped streaming call would."""
    price = None if priced is None else priced.at(query.prompt_tokens)
    decision = controller.decide(query, facts=capability.facts(), price=price, endpoint=endpoint)
    return decision, openai_chat.render(decision.budget, capability, {}, live=True, resumes=True)


def _table(result: dict[str, Any], model: str | None) -> str:
    decision, estimate, expected = result["decision"], result["estimate"], result["expected"]
    cap, effort = decision["reasoning_tokens"], decision["effort"]
    thinking = "off" if cap == 0 else "the model's own" if cap is None else f"at most {cap} tokens"
    rows = [("model", model or "unknown"), ("thinking", thinking if effort is None else f"effort {effort}")]
    rows += [("because", reason) for reason in decision["reasons"]]
    if estimate is not None:
        p_off, p_full = estimate["p_off"], estimate["p_full"]
        settled, natural = (
            "  ".join(f"{name} {tokens:.0f}" for name, tokens in estimate[curve].items())
            for curve in ("settled", "natural")
        )
        rows += [
            ("p(correct)", f"{p_off:.3f} without thinking, {p_full:.3f} with it"),
            ("settled at", settled),
            ("ends at", natural),
            ("confidence", f"{estimate['confidence']:.2f} ({estimate['source']})"),
        ]
    rows += [(f"expected {name}", f"{value:.4g}") for name, value in expected.items() if value is not None]
    if expected["cost_usd"] is not None:
        rows.append(("price from", result["price_source"]))
    rows += [(c["strength"], f"{c['name']} = {c['value']}") for c in result["controls"]]
    rows.append(("decided in", f"{result['elapsed_us']:.0f} us"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
