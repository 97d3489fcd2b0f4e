"""Names of a configuration on the wire: the model behind an alias, its endpoint and its policy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI

import budgetctl
from budgetctl import ConfigError, Settings, budgeted
from budgetctl.integrations.openai import wrap
from tests.engines.scripted import Scripted, serving

CAP = "thinking_token_budget"
MODEL = "Qwen/Qwen3-8B"
MESSAGES: Any = [{"role": "user", "content": "Why?"}]


@pytest.fixture
def server() -> Iterator[Scripted]:
    with serving(thought=3) as server:
        yield server


def url(server: Scripted) -> str:
    return f"http://127.0.0.1:{server.server_port}/v1"


def settings(server: Scripted, **changes: Any) -> Settings:
    fast = {"model": MODEL, "endpoint": "vllm", "base_url": url(server), "policy": "cap:700"}
    routes = {"support": {"policy": "cap:500", "limits": {"reasoning_tokens": 400}}}
    given = {
        "models": {"fast": fast},
        "routes": routes,
        "policies": {"little": "cap:300"},
        "policy": "cap:900",
    }
    return Settings.load({**given, "classifier": None, **changes}, env={})


def client(server: Scripted, **options: Any) -> OpenAI:
    controller = settings(server).controller()
    sdk = OpenAI(base_url=url(server), api_key="x", max_retries=0)
    return wrap(sdk, **({"controller": controller} | options))


def arrived(server: Scripted) -> tuple[Any, Any]:
    body = server.seen[-1].body
    return body["model"], body.get(CAP)


def test_an_alias_stands_for_its_model_endpoint_and_policy(server: Scripted):
    with client(server) as c:
        reply = c.chat.completions.create(model="fast", messages=MESSAGES)
    assert arrived(server) == (MODEL, 700)
    assert budgetctl.outcome(reply).model == MODEL


@pytest.mark.parametrize("stream", [False, True])
async def test_asynchronous_calls_and_streams_do_the_same(server: Scripted, stream: bool):
    sdk = AsyncOpenAI(base_url=url(server), api_key="x", max_retries=0)
    async with wrap(sdk, controller=settings(server).controller()) as c:
        reply: Any = await c.chat.completions.create(model="fast", messages=MESSAGES, stream=stream)
        if stream:
            _ = [chunk async for chunk in reply]
    assert arrived(server) == (MODEL, 700)
    assert budgetctl.outcome(reply).model == MODEL


def test_an_alias_in_extra_body_counts_too(server: Scripted):
    with client(server) as c:
        c.chat.completions.create(model="m", messages=MESSAGES, extra_body={"model": "fast"})
    assert arrived(server) == (MODEL, 700)


def test_the_policy_of_an_alias_gives_way_to_one_that_somebody_names(server: Scripted):
    with client(server) as c, budgetctl.override("cap:20"):
        c.chat.completions.create(model="fast", messages=MESSAGES)
        assert arrived(server) == (MODEL, 20)
    for options, cap in [({"policy": "little"}, 300), ({"route": "support"}, 400)]:
        with client(server, **options) as c:
            reply = c.chat.completions.create(model="fast", messages=MESSAGES)
            assert arrived(server) == (MODEL, cap)
            assert budgetctl.outcome(reply).route == options.get("route")
    with client(server) as c:
        c.with_policy("little").chat.completions.create(model="fast", messages=MESSAGES)
    assert arrived(server) == (MODEL, 300)


def test_a_name_that_is_no_alias_is_the_models_own(server: Scripted):
    with client(server, endpoint="vllm") as c:
        c.chat.completions.create(model="qwen/qwen3-8b", messages=MESSAGES)
    assert arrived(server) == ("qwen/qwen3-8b", 900)


def test_an_alias_of_another_endpoint_is_refused_before_the_call(server: Scripted):
    elsewhere = settings(server, models={"fast": {"model": MODEL, "base_url": "http://127.0.0.1:1/v1"}})
    with (
        client(server, controller=elsewhere.controller()) as c,
        pytest.raises(ConfigError, match="configured for"),
    ):
        c.chat.completions.create(model="fast", messages=MESSAGES)
    assert not server.seen


def test_a_refused_parameter_is_taken_back_and_the_model_is_still_the_one_behind_the_alias(server: Scripted):
    server.refuses = (CAP,)
    with client(server) as c:
        reply = c.chat.completions.create(model="fast", messages=MESSAGES)
    assert [seen.body["model"] for seen in server.seen] == [MODEL, MODEL]
    assert reply.choices[0].message.content


def test_a_fault_of_ours_still_sends_the_model_behind_the_alias(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
):
    controller = settings(server).controller()
    monkeypatch.setattr(controller, "session", lambda *args, **kwargs: 1 / 0)
    with client(server, controller=controller) as c:
        c.chat.completions.create(model="fast", messages=MESSAGES)
    assert arrived(server) == (MODEL, None)


@pytest.mark.parametrize("ways", [{"model": "fast"}, {}])
def test_a_budgeted_function_is_called_with_the_model_behind_the_alias(
    server: Scripted, ways: dict[str, str]
):
    calls = []

    @budgeted(controller=settings(server).controller(), route="support")
    def ask(question: str, model: str = "fast", **llm: Any) -> Any:
        calls.append((model, llm))
        return "42"

    ask("Why?", **ways)
    assert calls == [(MODEL, {"extra_body": {CAP: 400}})]
    calls.clear()
    ask.with_policy("little")("Why?", "fast")
    assert calls == [(MODEL, {"extra_body": {CAP: 300}})]


def test_a_budgeted_client_inside_a_budgeted_function_sees_the_same_model(server: Scripted):
    controller = settings(server).controller()
    with client(server, controller=controller) as c:

        @budgeted(controller=controller)
        def ask(question: str, **llm: Any) -> Any:
            return c.chat.completions.create(messages=MESSAGES, **llm)

        outcome = budgetctl.outcome(ask("Why?", model="fast"))
    assert arrived(server) == (MODEL, 700)
    assert (outcome.model, outcome.policy) == (MODEL, "cap:700")


def test_chat_models_of_langchain_take_aliases_and_routes(server: Scripted):
    pytest.importorskip("langchain_openai")
    from langchain_openai import ChatOpenAI

    from budgetctl.integrations.langchain import budgeted_chat_model

    controller = settings(server).controller()
    chat = ChatOpenAI(model="fast", base_url=url(server), api_key="x", max_retries=0)
    try:
        message = budgeted_chat_model(chat, controller=controller).invoke("Why?")
        assert arrived(server) == (MODEL, 700)
        assert (budgetctl.outcome(message).model, budgetctl.outcome(message).policy) == (MODEL, "cap:700")
        budgeted_chat_model(chat, controller=controller, route="support").invoke("Why?")
        assert arrived(server) == (MODEL, 400)
    finally:
        chat.root_client.close()


def test_chat_models_of_other_packages_are_called_with_the_model_behind_the_alias(server: Scripted):
    pytest.importorskip("langchain")
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage
    from langchain_core.outputs import ChatGeneration, ChatResult

    from budgetctl.integrations.langchain import budgeted_chat_model

    seen: list[dict[str, Any]] = []

    class Plain(BaseChatModel):
        @property
        def _llm_type(self) -> str:
            return "plain"

        @property
        def _identifying_params(self) -> dict[str, Any]:
            return {"model": "fast"}

        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
            seen.append(kwargs)
            return ChatResult(generations=[ChatGeneration(message=AIMessage(content="42"))])

    message = budgeted_chat_model(Plain(), controller=settings(server).controller()).invoke("Why?")
    assert seen == [{"model": MODEL, "extra_body": {CAP: 700}}]
    assert budgetctl.outcome(message).model == MODEL


def test_a_conversation_that_the_provider_keeps_is_one_conversation(server: Scripted, tmp_path: Any):
    rows = tmp_path / "capabilities.toml"
    rows.write_text(
        '[[row]]\nmodels = ["m"]\nendpoints = ["vllm"]\nbreaks_cache = true\nsource = "a test"\n'
        'cap = { parameters = ["thinking_token_budget"], strength = "hard" }\n'
    )

    class Rising:
        needs_estimate = False
        cap = 0

        def budget(self, situation: Any) -> budgetctl.Budget:
            Rising.cap += 100
            return budgetctl.Budget(reasoning_tokens=Rising.cap)

        def __str__(self) -> str:
            return "rising"

    configured = settings(server, capabilities=rows).controller(policy=Rising())
    with client(server, controller=configured, endpoint="vllm") as c:
        first = [{"role": "user", "content": "Why?"}]
        more = [*first, {"role": "assistant", "content": "Because."}, {"role": "user", "content": "So?"}]
        for messages in (first, more, more, first):
            c.chat.completions.create(model="m", messages=messages)
    assert [seen.body[CAP] for seen in server.seen] == [100, 100, 100, 200]
