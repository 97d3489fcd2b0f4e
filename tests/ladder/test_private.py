"""A private query never leaves the local rungs, whatever fails: counted at the sockets of a remote server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage

import budgetctl
from budgetctl.audit import Audits
from budgetctl.errors import ConfigError
from budgetctl.ladder import Agreement, Confident, Ladder, Verified, over
from budgetctl.types import Query
from tests.ladder.rungserver import RungServer, Says, serving

SECRET = [{"role": "user", "content": "patient 7, what is 6 times 7?"}]


@pytest.fixture(scope="module")
def places() -> Iterator[tuple[RungServer, RungServer]]:
    with serving() as near, serving() as far:
        yield near, far


@pytest.fixture(autouse=True)
def _afresh(places: tuple[RungServer, RungServer]) -> None:
    for server in places:
        server.bodies.clear()
        server.script.models, server.script.choose = {}, None
        server.connections = 0


def flags(query: Query) -> bool:
    return "patient" in query.text


def fails(query: Query) -> bool:
    raise RuntimeError("no opinion")


answers = st.builds(
    Says,
    answer=st.sampled_from(["42", "41", ""]),
    logprob=st.sampled_from([None, -0.01, -5.0]),
    delay_s=st.sampled_from([0.0, 0.0, 0.08]),
    status=st.sampled_from([200, 200, 200, 400, 404, 429, 500, 503]),
    finish=st.sampled_from(["stop", "length", None]),
    breaks=st.sampled_from([None, None, 0, 1]),
    calls=st.sampled_from([None, None, "t1"]),
)
worlds = st.fixed_dictionaries(
    {
        "local": st.lists(st.booleans(), min_size=2, max_size=5).filter(any),
        "policies": st.lists(st.sampled_from(["off", "full", "cap:200", "auto"]), min_size=5, max_size=5),
        "answers": st.lists(answers, min_size=5, max_size=5),
        "hedge_s": st.sampled_from([None, 0.02]),
        "accept": st.sampled_from(
            [Confident(0.9), Agreement(), Verified(lambda q, a: False), Verified(lambda q, a: 1 / 0)]
        ),
        "how": st.sampled_from(["predicate", "fails", "call", "always"]),
        "stream": st.booleans(),
        "tools": st.booleans(),
        "asynchronous": st.booleans(),
        "timeout": st.sampled_from([None, 0.04]),
    }
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(world=worlds)
def test_no_request_of_a_private_query_reaches_a_remote_server(
    places: tuple[RungServer, RungServer], world: dict[str, Any]
):
    near, far = places
    far.connections = 0
    names = [f"m{i}" for i in range(len(world["local"]))]
    near.script.models = dict(zip(names, world["answers"], strict=False))
    ladder = Ladder.of(
        [f"{name}@{policy}" for name, policy in zip(names, world["policies"], strict=False)],
        world["accept"],
        local=[name for name, local in zip(names, world["local"], strict=True) if local],
        hedge_s=world["hedge_s"],
    )
    private: Any = {"predicate": flags, "fails": fails, "call": False, "always": True}[world["how"]]
    params: dict[str, Any] = {"messages": SECRET, "stream": world["stream"]}
    if world["how"] == "call":
        params["private"] = True
    if world["tools"]:
        params["messages"] = [*SECRET, {"role": "tool", "tool_call_id": "t1", "content": "7"}]
    options = {} if world["timeout"] is None else {"timeout": world["timeout"]}

    def sync() -> None:
        with near.sync(**options) as here, far.sync(**options) as there:
            clients = {n: here if local else there for n, local in zip(names, world["local"], strict=True)}
            made = over(clients, ladder, private=private)
            made.chat.completions._rungs.setup.callers.note([{"id": "t1"}], len(names) - 1)
            reply = made.chat.completions.create(**params)
            if world["stream"]:
                list(reply)

    async def asynchronous() -> None:
        async with near.asynchronous(**options) as here, far.asynchronous(**options) as there:
            clients = {n: here if local else there for n, local in zip(names, world["local"], strict=True)}
            made = over(clients, ladder, private=private)
            made.chat.completions._rungs.setup.callers.note([{"id": "t1"}], len(names) - 1)
            reply = await made.chat.completions.create(**params)
            if world["stream"]:
                _ = [chunk async for chunk in reply]

    near.bodies.clear()
    with contextlib.suppress(Exception):
        asyncio.run(asynchronous()) if world["asynchronous"] else sync()
    assert far.connections == 0
    assert near.bodies, "a local rung was asked"
    asked = {body["model"] for body in near.bodies}
    assert asked <= {n for n, local in zip(names, world["local"], strict=True) if local}


def test_the_same_ladder_sends_other_queries_up(places: tuple[RungServer, RungServer]):
    near, far = places
    with near.sync() as here, far.sync() as there:
        ladder = over(
            {"small": here, "large": there},
            ["small", "large"],
            accept=Verified(lambda query, answer: False),
            local=["small"],
            private=flags,
        )
        ladder.chat.completions.create(messages=[{"role": "user", "content": "What is 6 times 7?"}])
        assert far.asked == ["large"], "or the tests here could not fail"
        ladder.chat.completions.create(messages=SECRET)
        assert far.asked == ["large"]
        assert near.asked == ["small", "small"]


@pytest.mark.parametrize(
    "earlier",
    [
        SECRET[0],
        {"role": "system", "content": "You treat patient 7."},
        {"role": "user", "content": [{"type": "text", "text": "patient 7"}]},
        {"role": "tool", "tool_call_id": "x", "content": "patient 7"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "x", "type": "function", "function": {"name": "f", "arguments": '{"of": "patient 7"}'}}
            ],
        },
    ],
    ids=lambda message: message["role"],
)
def test_what_was_said_before_makes_a_call_private(
    places: tuple[RungServer, RungServer], earlier: dict[str, Any]
):
    near, far = places
    with near.sync() as here, far.sync() as there:
        ladder = over(
            {"small": here, "large": there},
            ["small", "large"],
            accept=Verified(lambda query, answer: False),
            local=["small"],
            private=flags,
        )
        ladder.chat.completions.create(messages=[earlier, {"role": "user", "content": "And now?"}])
    assert (near.asked, far.connections) == (["small"], 0)


@pytest.mark.parametrize("stream", [False, True])
def test_what_answers_the_tool_calls_of_a_private_query_is_private(
    places: tuple[RungServer, RungServer], stream: bool
):
    near, far = places
    near.script.models = {"small": Says(calls="t7")}
    with near.sync() as here, far.sync() as there:
        ladder = over(
            {"small": here, "large": there},
            ["small", "large"],
            accept=Verified(lambda query, answer: "look_up" in answer),
            local=["small"],
        )
        asked = {"role": "user", "content": "What ails her?"}
        reply = ladder.chat.completions.create(messages=[asked], private=True, stream=stream)
        _ = list(reply) if stream else None
        near.script.models = {}
        call = {"id": "t7", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
        told = [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "t7", "content": "a cold"},
        ]
        ladder.chat.completions.create(messages=[asked, *told])
        ladder.chat.completions.create(messages=[asked, *told, {"role": "user", "content": "And now?"}])
        assert (near.asked, far.connections) == (["small"] * 3, 0)
        ladder.chat.completions.create(messages=[asked])
        assert far.connections == 1, "what says nothing of it is not"


def breaks_lines(query: Query) -> bool:
    return re.search(r"patient\s+Müller", query.text) is not None


@pytest.mark.parametrize(
    "params",
    [
        {"messages": [{"role": "system", "content": [{"type": "text", "text": "patient\nMüller"}]}]},
        {
            "messages": [
                {"role": "system", "content": [{"type": "text", "text": t} for t in ("patient", "Müller")]}
            ]
        },
        {"messages": [{"role": "user", "name": "patient Müller", "content": "Hi"}]},
        {"messages": [{"role": "assistant", "content": "Hi", "reasoning_content": "patient\nMüller"}]},
        {"messages": [ChatCompletionMessage(role="assistant", content="patient\nMüller")]},
        {
            "messages": [
                {
                    "role": "assistant",
                    "tool_calls": [{"function": {"arguments": json.dumps({"of": "patient\nMüller"})}}],
                }
            ]
        },
        {"messages": [], "prediction": {"type": "content", "content": "patient Müller"}},
        {"messages": [], "metadata": {"of": "patient Müller"}},
        {"messages": [], "extra_body": {"documents": ["patient\nMüller"]}},
        {"messages": [], "user": "patient Müller"},
        {"messages": [], "safety_identifier": "patient Müller"},
    ],
    ids=[
        *("line break", "parts", "name", "thinking", "model", "arguments", "prediction", "metadata", "body"),
        *("user", "safety identifier"),
    ],
)
def test_no_form_hides_what_was_said(places: tuple[RungServer, RungServer], params: dict[str, Any]):
    near, far = places
    with near.sync() as here, far.sync() as there:
        ladder = over(
            {"small": here, "large": there},
            ["small", "large"],
            accept=Verified(lambda query, answer: False),
            local=["small"],
            private=breaks_lines,
        )
        said = {**params, "messages": [*params["messages"], {"role": "user", "content": "And now?"}]}
        ladder.chat.completions.create(**said)
    assert (near.asked, far.connections) == (["small"], 0)


def test_a_local_server_that_points_elsewhere_is_not_followed(places: tuple[RungServer, RungServer]):
    near, far = places
    near.script.models = {"small": Says(redirects=far.url)}
    with near.sync() as here, far.sync() as there:
        ladder = over(
            {"small": here, "large": there},
            ["small", "large"],
            accept=Confident(0.9),
            local=["small"],
            private=flags,
        )
        with pytest.raises(Exception, match="307"):
            ladder.chat.completions.create(messages=SECRET)
    assert far.connections == 0


def test_audits_of_private_calls_go_where_the_calls_went(
    places: tuple[RungServer, RungServer], tmp_path: Path
):
    near, far = places
    audits = Audits(tmp_path / "journal", policy="cap:200", rate=1.0, tokens_per_day=10**6)
    with near.sync() as here, far.sync() as there:
        ladder = over(
            {"qwen3-4b": here, "large": there},
            ["qwen3-4b@cap:200", "large@full"],
            accept=Verified(lambda query, answer: False),
            local=["qwen3-4b"],
            private=flags,
            audits=audits,
            endpoints={"qwen3-4b": "vllm"},
        )
        ladder.chat.completions.create(messages=SECRET)
        assert audits.background.wait(5)
    assert near.asked == ["qwen3-4b", "qwen3-4b"], "the call and its audit"
    assert far.connections == 0


def test_a_classifier_that_asks_an_endpoint_is_not_asked(places: tuple[RungServer, RungServer]):
    from budgetctl.classifiers.llm import LlmClassifier

    near, far = places
    with near.sync() as here, far.sync() as there:
        ladder = over(
            {"small": here, "large": there},
            ["small@quantile:0.9", "large@full"],
            accept=Confident(0.9),
            local=["small"],
            private=flags,
            usd_per_correct=0.01,
            classifier=LlmClassifier(there, model="rater"),
        )
        ladder.chat.completions.create(messages=SECRET)
        assert far.connections == 0
        ladder.chat.completions.create(messages=[{"role": "user", "content": "What is 6 times 7?"}])
        assert far.connections == 1, "for others it is"


def test_a_private_route_needs_a_local_rung(places: tuple[RungServer, RungServer]):
    near, far = places
    configured = budgetctl.Settings.load({"routes": {"care": {"private": True}, "open": {}}}, env={})
    with near.sync() as here, far.sync() as there:
        clients = {"small": here, "large": there}

        def made(route: str, **more: Any) -> Any:
            controller = configured.controller(route=route)
            judge = Verified(lambda query, answer: False)
            return over(clients, ["small", "large"], accept=judge, controller=controller, **more)

        with pytest.raises(ConfigError, match="no rung is one"):
            made("care")
        made("care", local=["small"]).chat.completions.create(messages=[{"role": "user", "content": "Hi"}])
        assert far.connections == 0
        made("open").chat.completions.create(messages=[{"role": "user", "content": "Hi"}])
        assert far.asked == ["large"]
        with pytest.raises(ConfigError, match="no rung is one"):
            made("open").chat.completions.create(messages=SECRET, private=True)
