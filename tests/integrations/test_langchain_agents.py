"""``BudgetMiddleware``: every model call of an agent is budgeted, and all of a turn share one budget."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

import pytest

pytest.importorskip("langchain")
pytest.importorskip("langchain_openai")

from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware, wrap_model_call
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel

import budgetctl
from budgetctl import ConfigError
from budgetctl.integrations.langchain import BudgetMiddleware, budgeted_chat_model
from budgetctl.outcomes import Outcome
from budgetctl.pricing import Prices
from budgetctl.records import read

TIMEOUTS = count(20.0, 0.001)  # langchain-openai shares one HTTP client among models that have all in common
OPEN: list[ChatOpenAI] = []
THOUGHT = 60
ANSWER = 5
PRICES = {"Qwen*": {"input": 0.0, "output": 1000.0}}  # a dollar for a thousand tokens


RESPONSE = {
    "id": "1",
    "object": "response",
    "created_at": 0,
    "model": "gpt-5-mini",
    "status": "completed",
    "output": [
        {
            "type": "message",
            "id": "2",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "It is 42.", "annotations": []}],
        }
    ],
    "usage": {
        "input_tokens": 10,
        "output_tokens": 65,
        "total_tokens": 75,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 60},
    },
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}


class Provider(ThreadingHTTPServer):
    """Calls the tool until it has been called ``loops`` times in a turn, and thinks 60 tokens each time.

    Attributes:
        bodies: What it was asked.
        spent: Thinking tokens that it reported, call by call.
        gone: Models that it does not serve any more.
        tells: It shows and counts its thinking.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.loops = 3
        self.bodies: list[dict[str, Any]] = []
        self.spent: list[int] = []
        self.gone: tuple[str, ...] = ()
        self.tells = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def caps(self) -> list[int | None]:
        """The caps that it was sent; 0 where thinking was switched off."""
        off = {"enable_thinking": False}
        return [
            0 if body.get("chat_template_kwargs") == off else body.get("thinking_token_budget")
            for body in self.bodies
        ]

    def thought(self, body: dict[str, Any]) -> int:
        if body.get("chat_template_kwargs", {}).get("enable_thinking") is False:
            return 0
        return min(THOUGHT, body.get("thinking_token_budget", THOUGHT))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Provider

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path.endswith("/responses"):
            self.server.bodies.append(body)
            self._send(RESPONSE)
            return
        if body["model"] in self.server.gone:
            self._send({"error": {"message": "no such model"}}, status=404)
            return
        self.server.bodies.append(body)
        thought = self.server.thought(body)
        self.server.spent.append(thought)
        last = max(n for n, m in enumerate(body["messages"]) if m["role"] == "user")
        done = sum(m["role"] == "tool" for m in body["messages"][last:])
        function = {"name": "look_up", "arguments": '{"word": "frog"}'}
        message: dict[str, Any] = {"role": "assistant", "content": "It is 42."}
        if body.get("tools") and done < self.server.loops:
            calls = [{"index": 0, "id": f"call-{done}", "type": "function", "function": function}]
            message = {"role": "assistant", "content": "", "tool_calls": calls}
        elif body.get("response_format"):
            message["content"] = '{"value": 42}'
        usage = {"prompt_tokens": 10, "completion_tokens": thought + ANSWER, "total_tokens": 10}
        if self.server.tells:
            message["reasoning_content"] = "hm " * thought
            usage["completion_tokens_details"] = {"reasoning_tokens": thought}  # type: ignore[assignment]
        head = {"id": "1", "created": 0, "model": body["model"], "usage": usage}
        finish = "tool_calls" if "tool_calls" in message else "stop"
        if body.get("stream"):
            choice = {"index": 0, "delta": message, "finish_reason": finish}
            self._send({**head, "object": "chat.completion.chunk", "choices": [choice]}, stream=True)
        else:
            choice = {"index": 0, "message": message, "finish_reason": finish}
            self._send({**head, "object": "chat.completion", "choices": [choice]})

    def _send(self, body: dict[str, Any], *, status: int = 200, stream: bool = False) -> None:
        text = f"data: {json.dumps(body)}\n\ndata: [DONE]\n\n" if stream else json.dumps(body)
        self.send_response(status)
        self.send_header("content-type", "text/event-stream" if stream else "application/json")
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    server = Provider()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    await close()
    server.shutdown()
    server.server_close()
    thread.join()


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return f"{word}: an animal"


def chat(provider: Provider, **options: Any) -> ChatOpenAI:
    own = {"model": "Qwen3-8B", "api_key": "none", "max_retries": 0, "timeout": next(TIMEOUTS)}
    OPEN.append(ChatOpenAI(base_url=provider.url, **(own | options)))
    return OPEN[-1]


async def close() -> None:
    """Close the clients of all models; LangChain leaves them open."""
    while OPEN:
        model = OPEN.pop()
        model.root_client.close()
        await model.root_async_client.close()


def middleware(policy: Any = "full", **options: Any) -> BudgetMiddleware:
    return BudgetMiddleware(policy, **({"endpoint": "vllm", "classifier": None} | options))


def agent(model: Any, budget: BudgetMiddleware, *others: Any, **options: Any) -> Any:
    return create_agent(model, [look_up], middleware=[*others, budget], **options)


def ask(made: Any, text: str = "What is a frog?", thread: str = "1") -> Any:
    return made.invoke({"messages": [("user", text)]}, {"configurable": {"thread_id": thread}})


def outcomes(result: Any) -> list[Outcome]:
    return [budgetctl.outcome(m) for m in result["messages"] if m.type == "ai"]


def test_all_model_calls_of_a_turn_spend_from_one_budget(provider: Provider):
    result = ask(agent(chat(provider), middleware(tokens_per_turn=150)))
    assert result["messages"][-1].text == "It is 42."
    assert provider.caps == [150, 90, 30, 0]
    assert sum(provider.spent) == 150


async def test_asynchronous_agents_do_the_same(provider: Provider):
    made = agent(chat(provider), middleware(tokens_per_turn=150))
    result = await made.ainvoke({"messages": [("user", "What is a frog?")]})
    assert result["messages"][-1].text == "It is 42."
    assert provider.caps == [150, 90, 30, 0]


def test_so_do_agents_whose_tokens_are_streamed(provider: Provider):
    made = agent(chat(provider), middleware(tokens_per_turn=150))
    asked = {"messages": [("user", "What is a frog?")]}
    chunks = [chunk for chunk, _ in made.stream(asked, stream_mode="messages")]
    assert "It is 42." in "".join(c.text for c in chunks if c.type == "AIMessageChunk")
    assert all(body["stream"] for body in provider.bodies)
    assert provider.caps == [150, 90, 30, 0]


def test_the_policy_holds_within_the_turn(provider: Provider):
    ask(agent(chat(provider), middleware("cap:40", tokens_per_turn=100)))
    assert provider.caps == [40, 40, 20, 0]


def test_the_records_tell_what_was_left(provider: Provider):
    result = ask(agent(chat(provider), middleware(tokens_per_turn=100)))
    first, *_, last = outcomes(result)
    assert first.policy == "full&turn:100"
    assert "turn: 100 of 100 thinking tokens left" in first.decision.reasons
    assert "turn: 0 of 100 thinking tokens left" in last.decision.reasons
    assert "switched thinking off" in last.why


def test_a_model_that_cannot_be_switched_off_thinks_as_little_as_it_can(provider: Provider):
    ask(agent(chat(provider, model="QwQ-32B"), middleware(tokens_per_turn=60)))
    assert provider.caps == [60, 1, 1, 1]


def test_a_model_with_effort_levels_only_gets_the_weakest(provider: Provider):
    budget = middleware("auto", tokens_per_turn=60, endpoint="openai")
    result = ask(agent(chat(provider, model="o3"), budget))
    assert [body.get("reasoning_effort") for body in provider.bodies][1:] == ["low", "low", "low"]
    assert result["messages"][-1].text == "It is 42."


def test_thinking_that_nobody_counts_is_charged_with_all_of_the_output(provider: Provider):
    provider.tells = False
    made = agent(
        chat(provider, model="o3"),
        middleware("auto", tokens_per_turn=150, endpoint="openai"),
        checkpointer=InMemorySaver(),
    )
    assert {o.reasoning_tokens for o in outcomes(ask(made))} == {None}
    state = made.get_state({"configurable": {"thread_id": "1"}})
    assert state.values["budgetctl_turn"]["tokens"] == 4 * (THOUGHT + ANSWER)


def test_the_responses_api_gets_its_own_parameters(provider: Provider):
    model = chat(provider, model="gpt-5-mini", use_responses_api=True)
    budget = middleware("effort:low", tokens_per_turn=5000, endpoint="openai")
    made = agent(model, budget, checkpointer=InMemorySaver())
    assert ask(made)["messages"][-1].text == "It is 42."
    assert provider.bodies[-1]["reasoning"] == {"effort": "low"}
    assert made.get_state({"configurable": {"thread_id": "1"}}).values["budgetctl_turn"]["tokens"] == 60


def test_a_new_message_of_the_user_begins_a_new_budget(provider: Provider):
    made = agent(chat(provider), middleware(tokens_per_turn=100), checkpointer=InMemorySaver())
    ask(made)
    ask(made, "And a toad?")
    assert provider.caps == [100, 40, 0, 0] * 2


def test_a_checkpoint_keeps_what_is_left(provider: Provider):
    saver = InMemorySaver()
    config = {"configurable": {"thread_id": "1"}}
    stopped: Any = {"checkpointer": saver, "interrupt_before": ["tools"]}
    ask(agent(chat(provider), middleware(tokens_per_turn=150), **stopped))
    assert provider.caps == [150]
    # Another process goes on: nothing but the checkpoint is the same.
    agent(chat(provider), middleware(tokens_per_turn=150), **stopped).invoke(None, config)
    assert provider.caps == [150, 90]
    result = agent(chat(provider), middleware(tokens_per_turn=150), checkpointer=saver).invoke(None, config)
    assert provider.caps == [150, 90, 30, 0]
    assert [o.reasoning_tokens for o in outcomes(result)] == [60, 60, 30, 0]


def test_a_model_call_that_fails_is_charged_to_the_next_one(provider: Provider):
    failures = ["the 2nd call", None]

    @wrap_model_call
    def failing(request: Any, handler: Any) -> Any:
        response = handler(request)
        if len(provider.bodies) == 2 and failures.pop(0):
            raise RuntimeError("the answer cannot be used")
        return response

    budget = middleware(tokens_per_turn=150)
    made = create_agent(chat(provider), [look_up], middleware=[budget, failing], checkpointer=InMemorySaver())
    with pytest.raises(RuntimeError, match="cannot be used"):
        ask(made)
    made.invoke(None, {"configurable": {"thread_id": "1"}})
    assert provider.caps == [150, 90, 30, 0, 0]
    assert sum(provider.spent) == 150
    ask(made, "And a toad?", thread="2")
    assert provider.caps[5:] == [150, 90, 30, 0]


def test_the_result_of_a_tool_that_runs_elsewhere_belongs_to_the_same_turn(provider: Provider):
    saver = InMemorySaver()
    budget = middleware(tokens_per_turn=100)
    elsewhere: Any = [{"type": "function", "function": {"name": "look_up"}}]
    made = create_agent(chat(provider), elsewhere, middleware=[budget], checkpointer=saver)
    first = ask(made)
    [call] = first["messages"][-1].tool_calls
    answer = {"role": "tool", "content": "an animal", "tool_call_id": call["id"]}
    made.invoke({"messages": [answer]}, {"configurable": {"thread_id": "1"}})
    assert provider.caps == [100, 40]


def test_dollars_are_shared_likewise(provider: Provider):
    budget = middleware(usd_per_turn=0.7, prices=Prices.load(PRICES))
    result = ask(agent(chat(provider), budget))
    # A token is a tenth of a cent: 700 less 512 kept for the answer, then less the 65 that each call cost.
    assert provider.caps == [188, 123, 58, 0]
    assert [round(o.cost_usd or 0, 3) for o in outcomes(result)] == [0.065, 0.065, 0.063, 0.005]


def test_dollars_of_a_model_without_a_price_limit_nothing_and_the_records_say_so(provider: Provider):
    result = ask(agent(chat(provider), middleware(usd_per_turn=0.01)))
    assert provider.caps == [None] * 4
    assert any("price is unknown" in reason for reason in outcomes(result)[0].decision.reasons)


def test_what_the_caller_has_set_is_pinned_also_at_nothing_left(provider: Provider):
    pinned = chat(provider, extra_body={"thinking_token_budget": 55})
    result = ask(agent(pinned, middleware(tokens_per_turn=60)))
    assert provider.caps == [55] * 4
    assert all(o.pinned == ("thinking_token_budget",) for o in outcomes(result))


def test_the_settings_of_another_middleware_are_the_callers(provider: Provider):
    @wrap_model_call
    def settle(request: Any, handler: Callable[[Any], Any]) -> Any:
        return handler(request.override(model_settings={"extra_body": {"thinking_token_budget": 55}}))

    ask(agent(chat(provider), middleware(tokens_per_turn=60), settle))
    assert provider.caps == [55] * 4


def test_a_ceiling_is_only_gone_below(provider: Provider):
    own = chat(provider, extra_body={"thinking_token_budget": 55})
    ask(agent(own, middleware(tokens_per_turn=100, caller_values="ceiling")))
    assert provider.caps == [55, 45, 0, 0]


def test_observing_changes_nothing_and_records(provider: Provider):
    plain = create_agent(chat(provider), [look_up])
    ask(plain)
    expected = [{**body, "messages": len(body["messages"])} for body in provider.bodies]
    provider.bodies.clear()
    result = ask(agent(chat(provider), middleware("cap:40", tokens_per_turn=100, mode="observe")))
    assert [{**body, "messages": len(body["messages"])} for body in provider.bodies] == expected
    assert [o.decision.reasoning_tokens for o in outcomes(result)] == [40, 40, 0, 0]


def test_state_stays_private(provider: Provider):
    made = agent(chat(provider), middleware(tokens_per_turn=100), checkpointer=InMemorySaver())
    result = ask(made)
    assert "budgetctl_turn" not in result
    assert "budgetctl_turn" not in made.get_input_jsonschema()["properties"]
    assert made.get_state({"configurable": {"thread_id": "1"}}).values["budgetctl_turn"]["tokens"] == 100


def test_without_a_budget_of_the_turn_each_call_stands_for_itself(provider: Provider):
    made = agent(chat(provider), middleware("cap:50"), checkpointer=InMemorySaver())
    ask(made)
    assert provider.caps == [50] * 4
    assert "budgetctl_turn" not in made.get_state({"configurable": {"thread_id": "1"}}).values


def test_a_fallback_model_is_budgeted_too_and_spends_from_the_same_turn(provider: Provider):
    provider.gone = ("Qwen3-8B",)
    fallback = ModelFallbackMiddleware(chat(provider, model="Qwen3-4B"))
    result = ask(agent(chat(provider), middleware(tokens_per_turn=150), fallback))
    assert result["messages"][-1].text == "It is 42."
    assert provider.caps == [150, 90, 30, 0]


def test_a_retry_next_to_the_model_sees_what_the_first_try_has_spent(provider: Provider):
    @wrap_model_call
    def twice(request: Any, handler: Callable[[Any], Any]) -> Any:
        handler(request)
        return handler(request)

    made = create_agent(chat(provider), [look_up], middleware=[middleware(tokens_per_turn=150), twice])
    ask(made)
    assert provider.caps[:4] == [150, 90, 30, 0]


def test_a_budgeted_model_gets_the_budget_of_the_agent(provider: Provider):
    model = budgeted_chat_model(chat(provider), "cap:5", endpoint="vllm", classifier=None)
    ask(agent(model, middleware(tokens_per_turn=150)))
    assert provider.caps == [150, 90, 30, 0]


class Number(BaseModel):
    value: int


def test_structured_output_works(provider: Provider):
    provider.loops = 1
    made = agent(chat(provider), middleware(tokens_per_turn=150), response_format=ProviderStrategy(Number))
    assert ask(made)["structured_response"] == Number(value=42)
    assert provider.caps == [150, 90]


async def test_fifty_agents_at_once_do_not_mix_their_budgets(provider: Provider):
    provider.loops = 1
    made = agent(chat(provider), middleware(tokens_per_turn=70))
    asked = [{"messages": [("user", f"Question {n}")]} for n in range(50)]
    with ThreadPoolExecutor(25) as pool:
        results = list(pool.map(made.invoke, asked[:25]))
    results += await asyncio.gather(*(made.ainvoke(one) for one in asked[25:]))
    assert sorted(map(str, provider.caps)) == sorted(["70", "10"] * 50)
    assert [[o.reasoning_tokens for o in outcomes(r)] for r in results] == [[60, 10]] * 50


def test_outcomes_go_to_the_sink(provider: Provider, tmp_path: Any):
    path = tmp_path / "outcomes.jsonl"
    result = ask(agent(chat(provider), middleware(tokens_per_turn=150, sink=path)))
    assert [row.id for row in read(path)] == [o.id for o in outcomes(result)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"tokens_per_turn": -1},
        {"tokens_per_turn": 1.5},
        {"usd_per_turn": -0.1},
        {"usd_per_turn": "0.05"},
        {"endpoint": "nowhere"},
        {"policy": "cap:x"},
    ],
)
def test_what_cannot_work_is_refused_at_once(wrong: dict[str, Any]):
    with pytest.raises(ConfigError):
        BudgetMiddleware(**wrong)
