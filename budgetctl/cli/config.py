"""``budgetctl config``: check a configuration before it meets traffic, or export its schema for editors.

Exit code 1 of ``check``: the configuration cannot be used; or, where it says ``strict``, a budget of it would
be refused.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from budgetctl.adapters import openai_chat
from budgetctl.capabilities import guess_endpoint
from budgetctl.config import Settings
from budgetctl.controller import Controller, Render
from budgetctl.errors import BudgetctlError, ConfigError
from budgetctl.names import Alias
from budgetctl.policy import policy_name
from budgetctl.types import Estimate, Pace, Quantiles, Query

HEAD = ("route", "model", "is", "endpoint", "policy", "controls")


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("config", help="check a configuration", description=__doc__)
    commands = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    one = commands.add_parser("check", help="say what a configuration does, and what is wrong with it")
    one.add_argument("path", nargs="?", default="budgetctl.toml", help="default: budgetctl.toml")
    one.add_argument("--json", action="store_true", help="print JSON on stdout")
    one.set_defaults(run=check)
    other = commands.add_parser("schema", help="print the JSON schema of budgetctl.toml, for editors")
    other.set_defaults(run=schema)


def schema(args: argparse.Namespace) -> int:
    """Print the schema."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "budgetctl.toml"}
    print(json.dumps(Settings.model_json_schema() | head, indent=2))
    return 0


def check(args: argparse.Namespace) -> int:
    """Print what each route does with each model; 1 when that cannot be done."""
    if not Path(args.path).exists():
        raise ConfigError(f"{args.path}: no such file; name one, as in budgetctl config check FILE")
    errors: list[str] = []
    warnings: list[str] = []
    rows: list[dict[str, Any]] = []
    try:
        settings = Settings.load(args.path)
        settings.controller(sinks=(), audits=None).classifier()
        rows = list(_rows(settings))
        errors += _writable("sink", settings.sink) + _journal(settings) + _ladders(settings)
        (errors if settings.strict else warnings).extend(filter(None, map(_warning, rows)))
        warnings += _unpriced(settings, rows)
    except BudgetctlError as error:
        errors += str(error).splitlines()
    if args.json:
        print(json.dumps({"ok": not errors, "errors": errors, "warnings": warnings, "rows": rows}, indent=2))
    else:
        _show(args.path, rows, warnings=warnings, errors=errors)
    return 1 if errors else 0


def render_for(endpoint: str) -> Render:
    """Return the adapter for a kind of endpoint, as a wrapped client that streams would use it."""
    if endpoint == "anthropic":
        from budgetctl.adapters import anthropic

        return anthropic.render
    if endpoint == "google":
        from budgetctl.adapters import google

        return google.render
    return partial(openai_chat.render, live=True, resumes=True)


class _Either:
    """A classifier of two kinds of question: thinking helps, or it does not."""

    hash = "either"

    def estimate(self, query: Query) -> Estimate:
        curve = Quantiles(p50=500, p80=1000, p90=2000, p95=4000)
        p_off = 0.2 if query.text == "hard" else 0.9
        return Estimate(
            p_off=p_off, p_full=0.9, settled=curve, natural=curve, confidence=1.0, source=self.hash
        )


def _rows(settings: Settings) -> Iterator[dict[str, Any]]:
    """Yield a row for each model on each route, and on none unless there is a default."""
    routes = [settings.route, *(name for name in settings.routes if name != settings.route)]
    for route in routes:
        controller = settings.controller(route=route, sinks=(), audits=None, classifier=_Either())
        said = settings.routes.get(route or "")
        head = {
            "route": route,
            "owner": None if said is None else said.owner,
            "target_p95_s": None if said is None else said.target_p95_s,
            "deadline_s": controller.limits.deadline_s,
            "reasoning_tokens": controller.limits.reasoning_tokens,
        }
        for name, alias in controller.names.models.items():
            yield head | {"alias": name} | _model(controller, alias)
        if not controller.names.models:
            yield head | {"alias": None} | _model(controller, None)


def _model(controller: Controller, alias: Alias | None) -> dict[str, Any]:
    """Return what a model gets: each control that either kind of question brings, and what none carries."""
    policy = controller.policy if alias is None or alias.policy is None else alias.policy
    row: dict[str, Any] = {"model": None, "endpoint": None, "base_url": None, "policy": policy_name(policy)}
    controls: dict[str, str] = {}
    missing: dict[str, None] = {}
    if alias is not None:
        endpoint = alias.endpoint or guess_endpoint(alias.base_url)
        row |= {"model": alias.model, "endpoint": endpoint, "base_url": alias.base_url}
        capability = controller.capabilities.lookup(alias.model, endpoint)
        for kind in ("hard", "easy"):
            decision = controller.decide(
                Query.from_text(kind, model=alias.model),
                facts=capability.facts(),
                pace=Pace(ttft_s=0.5, s_per_token=0.01),
                price=controller.prices.lookup(alias.model, place=alias.base_url or endpoint),
                policy=policy,
                endpoint=endpoint,
            )
            rendered = render_for(endpoint)(decision.budget, capability, {}, caller_values="pin")
            controls |= {control.name: control.strength for control in rendered.controls}
            missing |= dict.fromkeys(rendered.unsupported)
        row["known"] = capability.known
    listed = [{"name": name, "strength": strength} for name, strength in controls.items()]
    return row | {"controls": listed, "missing": list(missing)}


def _warning(row: dict[str, Any]) -> str | None:
    """Say what of a row's policy cannot be carried."""
    where = f"model {row['alias']}" + (f" on route {row['route']}" if row["route"] else "")
    if not row.get("known", True):
        unknown = f"{row['model']!r} at {row['endpoint']!r} is not in the capability table"
        return f"{where}: {unknown}: its calls pass through"
    return f"{where}: nothing keeps {', '.join(row['missing'])} of {_asked(row)}" if row["missing"] else None


def _unpriced(settings: Settings, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Say which models a limit in dollars refuses, because nobody knows what they cost."""
    ledger, prices = settings.ledger, settings.controller(sinks=(), audits=None).prices
    if ledger is None:
        return
    for row in rows:
        limits = [
            limit for limit in ledger.settings.limits if limit.scope.get("route", "*") in ("*", row["route"])
        ]
        dollars = [repr(limit.name) for limit in limits if limit.unit == "usd"]
        counted = ledger.settings.unknown_price == "tokens" and len(dollars) < len(limits)
        price = prices.lookup(row["model"], place=row["base_url"] or row["endpoint"])
        if row["model"] is not None and price is None and dollars and not counted:
            where = f"model {row['alias']}" + (f" on route {row['route']}" if row["route"] else "")
            yield f"{where}: its price is unknown: its calls are refused under {', '.join(dollars)}"


def _asked(row: dict[str, Any]) -> str:
    """Return a row's policy, with the limits that hold over it."""
    units = (("deadline_s", "s"), ("reasoning_tokens", "tokens"))
    limits = ", ".join(f"{row[key]:g} {unit}" for key, unit in units if row[key] is not None)
    return f"{row['policy']} within {limits}" if limits else str(row["policy"])


def _writable(key: str, path: Path | None) -> list[str]:
    """Say why rows cannot be appended to ``path``, without making it."""
    if path is None:
        return []
    if path.is_dir():
        return [f"{key}: seen {str(path)!r}, a directory; allowed: a file"]
    place = path if path.exists() else next(above for above in path.absolute().parents if above.exists())
    usable = os.access(place, os.W_OK) and (path.exists() or place.is_dir())
    return [] if usable else [f"{key}: {path}: {place} cannot be written"]


def _journal(settings: Settings) -> list[str]:
    """Say why audits cannot be kept: the journal that is there may be of another policy."""
    path = settings.audit.journal
    if path is not None and path.is_file() and path.stat().st_size:
        settings.audits()
    return _writable("audit.journal", path)


def _ladders(settings: Settings) -> list[str]:
    """Say why ladders cannot be used: files and functions that they name, prices that contradict an order."""
    from budgetctl.ladder.settings import check_certificate, made, private

    prices = settings.controller(sinks=(), audits=None).prices
    errors = []
    for name, table in settings.ladders.items():
        try:
            ladder = made(table, names=settings.names.policies)
            ladder.check_prices(prices, aliases=settings.names.models)
            check_certificate(table, ladder)
            private(table)
        except ConfigError as error:
            errors.append(f"ladders.{name}: {error}")
    return errors


def _show(path: str, rows: list[dict[str, Any]], *, warnings: list[str], errors: list[str]) -> None:
    table = [HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(HEAD))]
    if rows:
        for line in table:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    for text in warnings:
        print(f"warning: {text}", file=sys.stderr)
    for text in errors:
        print(f"error: {text}", file=sys.stderr)
    print(f"{path}: {'cannot be used' if errors else 'ok'}", file=sys.stderr)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    controls = ", ".join(f"{c['name']} {c['strength']}" for c in row["controls"])
    named = (row["route"], row["alias"], row["model"], row["endpoint"])
    return (*(name or "any" for name in named), _asked(row), controls or "none")
