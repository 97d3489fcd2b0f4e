"""Faults in any combination and any cut of the stream: what every caller is promised all the same.

No character of an answer is lost, no thought is filed as one, nothing comes back empty without the typed
error, no upstream is left open, and there is always an outcome. ``BUDGETCTL_FAULTS=100000`` tries more.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from budgetctl.adapters import openai_chat
from budgetctl.capabilities import Table
from budgetctl.channels import ChatChannels, join, split_message
from budgetctl.controller import Controller
from budgetctl.engine import (
    CallerClosed,
    ChatCall,
    Close,
    Emit,
    Receive,
    Send,
    endings,
)
from budgetctl.errors import AnswerTruncated
from budgetctl.stopping import monitor
from budgetctl.types import Query

from .upstream import Disconnected, Refused, Stream, Upstream

CASES = int(os.environ.get("BUDGETCTL_FAULTS", "6000"))
BLOCKS = 12
MODELS = (
    ("qwen3-8b", "vllm"),
    ("qwen3-8b", "transformers-serve"),
    ("qwen3-8b", "llama.cpp"),
    ("qwq-32b", "vllm"),
    ("qwq-32b", "llama.cpp"),
)
MESSAGES = [{"role": "user", "content": "How many?"}]
TABLE = Table.load()
THOUGHT = re.compile(r"\bR\d+\b")


class Plain:
    """The codec of a client that speaks in dicts."""

    def dump(self, item: Any) -> dict[str, Any]:
        return dict(item)

    def chunk(self, body: Mapping[str, Any]) -> Any:
        return dict(body)

    def completion(self, body: Mapping[str, Any]) -> Any:
        return dict(body)


@dataclass
class Came:
    """What the caller got."""

    items: list[dict[str, Any]] = field(default_factory=list)
    error: BaseException | None = None
    left: bool = False


def play(seed: int) -> tuple[Upstream, ChatCall, Came, bool]:
    """Make one call at one seed's upstream; the last part is whether it streamed."""
    rng = random.Random(seed)
    model, endpoint = rng.choice(MODELS)
    capability = TABLE.lookup(model, endpoint)
    upstream = Upstream(rng, starts_in_think=capability.starts_in_think)
    stream = rng.random() < 0.6
    policy = rng.choice(("auto", "cap:10", "cap:40+stop:none", "cap:1000", "deadline:0.4", "off", "full"))
    now = [0.0]
    controller = Controller(policy, classifier=None, clock=lambda: now[0])
    params: dict[str, Any] = {"model": model, "messages": MESSAGES}
    if stream:
        params["stream"] = True
        if rng.random() < 0.5:
            params["stream_options"] = {"include_usage": True}

    def render(budget, capability, own, *, caller_values):
        live = capability.live_end or bool(endings(capability, MESSAGES))
        return openai_chat.render(budget, capability, own, caller_values=caller_values, live=live)

    session = controller.session(
        Query.from_text("How many?", model=model), params=params, endpoint=endpoint, render=render
    )
    call = ChatCall(
        session,
        codec=Plain(),
        stream=stream,
        criterion=monitor(session.budget),
        endings=endings(session.capability, MESSAGES, may_reask=True),
    )
    leaves = rng.randrange(30) if stream and rng.random() < 0.1 else None
    return upstream, call, drive(call, upstream, now=now, leaves=leaves), stream


def drive(call: ChatCall, upstream: Upstream, *, now: list[float], leaves: int | None) -> Came:
    came, machine, value = Came(), call.run(), None
    error: BaseException | None = None
    try:
        while True:
            effect = machine.send(value) if error is None else machine.throw(error)
            value = error = None
            now[0] += 0.01
            if isinstance(effect, Send):
                try:
                    value = upstream.send(effect.path, effect.params, stream=effect.stream)
                except Refused as refused:
                    error = refused
            elif isinstance(effect, Receive):
                try:
                    value = effect.handle.receive(effect.within)
                except Disconnected as lost:
                    error = lost
            elif isinstance(effect, Close):
                assert isinstance(effect.handle, Stream)
                effect.handle.open = False
            elif isinstance(effect, Emit):
                came.items.append(effect.item)
                if leaves is not None and len(came.items) > leaves:
                    came.left, error = True, CallerClosed()
    except StopIteration:
        pass
    except (AnswerTruncated, Refused, Disconnected, CallerClosed) as raised:
        came.error = raised
    return came


def read(came: Came, call: ChatCall, *, stream: bool) -> tuple[str, bool]:
    """Return the answer and whether a tool was called, as the library itself reads what it gave."""
    deltas = [
        choice.get("delta") or choice.get("message") or {} for i in came.items for choice in i["choices"]
    ]
    content = "".join(delta.get("content") or "" for delta in deltas)
    ends = [choice.get("finish_reason") for item in came.items for choice in item["choices"]]
    # A whole text without a closing tag is an answer, whatever the template may begin with.
    whole = "length" not in ends and "</think>" not in content
    starts = call._session.capability.starts_in_think and not whole
    if not stream:
        message = came.items[0]["choices"][0]["message"]
        _, answer = split_message(message, starts_in_think=starts)
        return answer, bool(message.get("tool_calls"))
    channels = ChatChannels(starts_in_think=starts)
    events = [event for item in came.items for event in channels.feed(item)] + channels.flush()
    return join(events)[1], any(event.kind == "tool" for event in events)


def arguments(came: Came) -> Any:
    """Return what a tool was called with."""
    said = [c.get("delta") or c.get("message") or {} for item in came.items for c in item["choices"]]
    calls = [call for delta in said for call in delta.get("tool_calls") or ()]
    return json.loads("".join(call["function"]["arguments"] for call in calls))


def check(seed: int) -> None:
    upstream, call, came, stream = play(seed)
    about = f"seed {seed}: {upstream.style}, {', '.join(upstream.faults) or 'no fault'}"
    assert not any(one.open for one in upstream.streams), f"{about}: an upstream is left open"
    assert call.outcome is not None, f"{about}: no outcome"
    heard = len(upstream.sent) - upstream.refused
    assert heard <= 5, f"{about}: {heard} calls for one"
    if came.error is not None or came.left:
        return
    if upstream.unfinished and upstream.starts_in_think and not call.outcome.answered:
        return  # without a finish reason and a closing tag nobody knows a thought from an answer
    answer, called = read(came, call, stream=stream)
    assert THOUGHT.search(answer) is None, f"{about}: a thought is filed as answer: {answer!r:.200}"
    shaping = [c for c in call.outcome.controls if c.name not in ("stop", "reasoning_control")]
    ours = any(c.strength != "none" for c in shaping)
    if ours or call.outcome.stop.criterion is not None:
        assert answer.strip() or called, f"{about}: empty without the typed error"
    assert call.outcome.answered == bool(answer.strip() or called), f"{about}: the outcome is wrong"
    if called:
        assert arguments(came) == {"x": 1}, f"{about}: the arguments of a tool are no JSON"
    given = [text for text in upstream.answers if text]
    if given and not called:
        assert given[-1].strip() in answer, f"{about}: lost {given[-1]!r:.80} of {answer!r:.120}"


@pytest.mark.parametrize("block", range(BLOCKS))
def test_whatever_goes_wrong_the_promises_hold(block: int) -> None:
    for seed in range(block * CASES // BLOCKS, (block + 1) * CASES // BLOCKS):
        check(seed)
