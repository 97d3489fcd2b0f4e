"""``budgetctl doctor``: which controls over thinking an endpoint really keeps, found out by trying.

A few short calls: one that thinks freely, one for each way of switching thinking off or capping it until one
works, one for each way of ending a thought from outside, one that is closed early. Prints a table, and a row
for one's own capability table with what was seen to work. Without ``--base-url`` the embedded model is
examined. Exit code 1: a control that the table calls hard was not kept, or a plain call brought nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from budgetctl.adapters.base import LIVE_END
from budgetctl.capabilities import ENDPOINTS, Capability, Table
from budgetctl.doctor import Checkup, Diagnosis, Finding, capability_row
from budgetctl.errors import ConfigError

MARKS = {True: "yes", False: "NO", None: "unknown"}


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "doctor", help="find out which controls an endpoint keeps", description=__doc__
    )
    parser.add_argument("--base-url", help="OpenAI-compatible endpoint; without it the embedded model")
    parser.add_argument("--model", help="model name at that endpoint")
    parser.add_argument(
        "--endpoint", choices=ENDPOINTS, help="kind of endpoint (default: what it says of itself)"
    )
    parser.add_argument("--question", help="what to ask; it should take a few hundred tokens of thought")
    parser.add_argument(
        "--max-tokens", type=int, default=2048, help="output limit of each call (default: %(default)s)"
    )
    parser.add_argument("--capabilities", metavar="FILE", help="your own capability table, to check its rows")
    parser.add_argument("--markdown", action="store_true", help="print Markdown, as for a bug report")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Examine and print; 1 when the table promises more than was seen."""
    _check(args)
    table = Table.load(args.capabilities)
    diagnosis, capability = _embedded(table) if args.base_url is None else _remote(args, table)
    broken = _broken(diagnosis, capability)
    call = diagnosis.finding("call")
    if call is not None and call.observed.startswith("failed"):
        raise ConfigError(f"{args.model} at the endpoint: {call.observed}")
    today = datetime.now(tz=UTC).date().isoformat()
    entry = None if call is not None else capability_row(diagnosis, capability, today=today)
    if args.json:
        print(json.dumps({**diagnosis.as_json(), "broken": broken, "capability": entry}, indent=2))
    else:
        print(_page(diagnosis, entry, broken, markdown=args.markdown))
    return 1 if broken or call is not None else 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what would be ignored, or fail only after calls were paid for."""
    if args.max_tokens < 1:
        raise ConfigError(f"--max-tokens {args.max_tokens}: expected a whole number from 1")
    if args.base_url is None:
        for flag in ("model", "endpoint", "question"):
            if getattr(args, flag) is not None:
                raise ConfigError(f"--{flag} needs --base-url; without it the embedded model is examined")
        return
    if not args.base_url.startswith(("http://", "https://")):
        raise ConfigError("--base-url: expected an address that begins with http:// or https://")
    if not args.model:
        raise ConfigError("--base-url needs --model")
    if args.endpoint == "in-process":
        raise ConfigError("--endpoint in-process is no endpoint with a --base-url")


def _remote(args: argparse.Namespace, table: Table) -> tuple[Diagnosis, Capability]:
    from openai import OpenAI

    from budgetctl.doctor.chat import QUESTION, TIMEOUT_S, ChatEndpoint

    client = OpenAI(
        base_url=args.base_url,
        api_key=os.environ.get("OPENAI_API_KEY") or "none",
        max_retries=0,
        timeout=TIMEOUT_S,
    )
    endpoint = ChatEndpoint(
        client,
        model=args.model,
        kind=args.endpoint,
        question=args.question or QUESTION,
        max_tokens=args.max_tokens,
    )
    capability = table.lookup(args.model, endpoint.kind)
    for step in Checkup(endpoint, capability).run():
        if isinstance(step, Diagnosis):
            return step, capability
        print(f"{step} ...", file=sys.stderr)
    raise AssertionError("a checkup ends with a diagnosis")


def _embedded(table: Table) -> tuple[Diagnosis, Capability]:
    """Examine the embedded model: the controls of this process."""
    import transformers

    import budgetctl
    from budgetctl.evals import pocket
    from budgetctl.integrations.transformers import generate

    model, tokenizer = pocket.load()
    hardest = max(pocket.questions("test", 40), key=lambda question: question.level)
    messages = [[{"role": "user", "content": hardest.text}]]

    def thought(policy: str) -> tuple[int, bool]:
        controller = budgetctl.Controller(policy, classifier=None)
        [done] = generate(model, tokenizer, messages, controller=controller, close_text=pocket.CLOSE_TEXT)
        return budgetctl.outcome(done).usage.reasoning_tokens or 0, bool(done.answer.strip())

    natural, _ = thought("full")
    cap = natural // 4
    spent, answered = thought(f"cap:{cap}")
    kept = spent <= 1.1 * cap + 32 and answered
    none, said = thought("off")
    findings = (
        Finding(
            name="off",
            strength="hard" if not none and said else "none",
            verified=not none and said,
            observed=f"{none} tokens of thinking, and {'an' if said else 'no'} answer",
            sent={"chat_template_kwargs.enable_thinking": False},
        ),
        Finding(
            name="cap",
            strength="hard" if kept else "none",
            verified=kept,
            observed=f"{spent} tokens of thinking under a cap of {cap}, "
            f"and {'an' if answered else 'no'} answer",
            sent={},
        ),
    )
    diagnosis = Diagnosis(
        model=pocket.NAME,
        endpoint="in-process",
        engine=f"transformers {transformers.__version__}",
        reasoning="inline",
        field=None,
        starts_in_think=False,
        natural_tokens=natural,
        truncated=False,
        reports_reasoning=True,
        stream_usage="never",
        findings=findings,
        tried=findings,
        calls=3,
        output_tokens=natural + spent + none,
    )
    return diagnosis, table.lookup(pocket.NAME, "in-process")


def _broken(diagnosis: Diagnosis, capability: Capability) -> list[str]:
    """Return the controls that the table calls hard and that were not kept when sent as the table says."""
    claimed: dict[str, Any] = {"live_end": {LIVE_END}} if capability.live_end else {}
    if capability.off is not None and capability.off.strength == "hard":
        claimed["off"] = set(capability.off.parameters)
    if capability.cap is not None and capability.cap.strength == "hard":
        claimed["cap"] = set(capability.cap.parameters)
    broken = [
        f.name
        for f in diagnosis.tried
        if f.verified is False and f.name in claimed and set(f.sent) == set(claimed[f.name])
    ]
    # Ways of going on take each other's place: only without any of them is a thought not brought to its end.
    ways = [f for f in diagnosis.tried if f.way is not None]
    if any(f.verified is False and f.way in (capability.continuation or ()) for f in ways):
        broken += [] if any(f.verified for f in ways) else ["abort_continue"]
    return broken


def _page(diagnosis: Diagnosis, entry: str | None, broken: Sequence[str], *, markdown: bool) -> str:
    d = diagnosis
    where = {"field": f"in the field {d.field}", "inline": "inline in the content", "none": "not seen"}
    where["hidden"] = "not shown, only counted"
    cut = " at least, cut by the output limit" if d.truncated else ""
    untagged = ", without its opening tag" if d.starts_in_think else ""
    facts = [
        f"{d.model} at {d.endpoint}, {d.engine or 'the engine does not say its name'}",
        f"thinking: {where[d.reasoning]}{untagged}, {d.natural_tokens} tokens{cut} without any control",
        f"usage: {'says' if d.reports_reasoning else 'does not say'} how many tokens were thinking; "
        f"in streams: {d.stream_usage}",
        f"{d.calls} calls, at least {d.output_tokens} output tokens",
    ]
    headings = ("control", "kept", "what was seen", "sent")
    rows = [
        (f.name if f.way is None else f"{f.name} ({f.way})", MARKS[f.verified], f.observed, _sent(f))
        for f in d.tried or d.findings
    ]
    parts = ["\n".join(f"- {fact}" if markdown else fact for fact in facts)]
    parts.append(_grid(headings, rows, markdown=markdown))
    if broken:
        parts.append(f"The capability table calls these hard, and they were not kept: {', '.join(broken)}.")
    if entry is not None:
        parts.append("For your own capability table, as it was seen:")
        parts.append(f"```toml\n{entry}```" if markdown else entry.rstrip())
    return "\n\n".join(parts)


def _sent(finding: Finding) -> str:
    return ", ".join(f"{key}={json.dumps(value)}" for key, value in finding.sent.items())


def _grid(headings: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool) -> str:
    if markdown:
        lines = [headings, ["---"] * len(headings), *rows]
        cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
        return "\n".join(f"| {' | '.join(line)} |" for line in cells)
    widths = [max(len(line[i]) for line in [headings, *rows]) for i in range(len(headings))]
    lines = [headings, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )
