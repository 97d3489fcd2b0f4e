"""``@budgeted``: the same function, with a budget injected where it fits."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pydantic import BaseModel

import budgetctl
from budgetctl import ConfigError, budgeted
from budgetctl.adapters import Rendered
from budgetctl.callbacks import Callbacks
from budgetctl.controller import Controller
from budgetctl.errors import UnsupportedControl
from budgetctl.outcomes import Outcome
from budgetctl.session import OuterCall
from budgetctl.types import StopReason, Timing, Usage

QWEN = {"model": "Qwen/Qwen3-8B", "endpoint": "vllm"}
CHUNKS = [
    {"choices": [{"index": 0, "delta": {"reasoning_content": "hm "}}]},
    {"choices": [{"index": 0, "delta": {"content": "42"}}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": {"completion_tokens": 9}},
]


class Collect:
    def __init__(self) -> None:
        self.rows: list[Outcome] = []

    def write(self, outcome: Outcome, *, text: str | None = None) -> None:
        self.rows.append(outcome)


class Reply:
    """What a client returns: dumps to a chat completion and can carry attributes."""

    def model_dump(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": "42", "reasoning_content": "hm"}
        details = {"reasoning_tokens": 7}
        usage = {"prompt_tokens": 3, "completion_tokens": 9, "completion_tokens_details": details}
        return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}


def test_the_budget_arrives_as_keyword_arguments():
    sink = Collect()

    @budgeted("cap:100", sinks=[sink], **QWEN)
    def ask(question: str, **llm: Any) -> dict[str, Any]:
        return llm

    assert ask("why?")["extra_body"]["thinking_token_budget"] == 100
    assert ask("why?", temperature=0.1)["temperature"] == 0.1
    assert [row.policy for row in sink.rows] == ["cap:100", "cap:100"]


def test_what_the_function_does_not_take_is_not_injected_and_is_recorded():
    sink = Collect()

    @budgeted("cap:100", sinks=[sink], **QWEN)
    def ask(question: str) -> str:
        return "42"

    assert ask("why?") == "42"
    assert sink.rows[0].controls == ()
    assert "takes no extra_body" in str(sink.rows[0].fallback)


def test_bare_use_is_auto():
    @budgeted
    def ask(question: str, **llm: Any) -> str:
        return "42"

    assert str(ask.controller.policy) == "auto"
    assert ask("why?") == "42"


def test_the_outcome_is_found_on_the_result():
    @budgeted("cap:100", **QWEN)
    def ask(question: str, **llm: Any) -> Reply:
        return Reply()

    outcome = budgetctl.outcome(ask("why?"))
    assert (outcome.reasoning_tokens, outcome.answer_tokens, outcome.answered) == (7, 2, True)
    assert outcome.e2e_s is not None


def test_with_policy_is_another_function_and_leaves_the_first():
    @budgeted("cap:100", **QWEN)
    def ask(question: str, **llm: Any) -> dict[str, Any]:
        return llm

    tighter = ask.with_policy("cap:7")
    assert tighter("why?")["extra_body"]["thinking_token_budget"] == 7
    assert ask("why?")["extra_body"]["thinking_token_budget"] == 100
    with pytest.raises(ConfigError, match="bogus"):
        ask.with_policy("bogus")


def test_a_method_keeps_its_self():
    class Bot:
        @budgeted("cap:100", **QWEN)
        def ask(self, question: str, **llm: Any) -> tuple[Any, dict[str, Any]]:
            return self, llm

    bot = Bot()
    me, llm = bot.ask("why?")
    assert me is bot
    assert "extra_body" in llm


def test_a_method_keeps_its_self_under_another_policy_too():
    class Bot(BaseModel):
        name: str = "bot"

        @budgeted("cap:100", **QWEN)
        def ask(self, question: str, **llm: Any) -> tuple[Any, dict[str, Any]]:
            """Ask."""
            return self, llm

        @budgeted("cap:100", **QWEN)
        async def later(self, question: str, **llm: Any) -> tuple[Any, dict[str, Any]]:
            return self, llm

        @retried
        @budgeted("cap:100", **QWEN)
        async def again(self, question: str, **llm: Any) -> tuple[Any, dict[str, Any]]:
            return self, llm

    class Louder(Bot):
        def ask(self, question: str, **llm: Any) -> tuple[Any, dict[str, Any]]:
            return super().ask(question.upper(), **llm)

    bot = Bot()
    for me, llm in (
        bot.ask.with_policy("cap:7")("why?"),
        bot.ask.with_policy("off").with_policy("cap:7")("why?"),
        Bot.ask.with_policy("cap:7")(bot, "why?"),
        asyncio.run(bot.later.with_policy("cap:7")("why?")),
    ):
        assert me is bot
        assert llm["extra_body"]["thinking_token_budget"] == 7
    assert Louder().ask("why?")[1]["extra_body"]["thinking_token_budget"] == 100
    assert asyncio.run(bot.again("why?"))[0] is bot
    assert (bot.ask.__name__, bot.ask.__doc__, list(inspect.signature(bot.ask).parameters)) == (
        "ask",
        "Ask.",
        ["question", "llm"],
    )
    assert [inspect.iscoroutinefunction(f) for f in (bot.ask, bot.later, Bot.later)] == [False, True, True]


def retried(function: Any) -> Any:
    """A decorator of somebody else's that asks what it is around."""
    assert inspect.iscoroutinefunction(function)

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return call


def test_messages_and_named_queries_are_read():
    seen = []
    controller = Controller("cap:100", callbacks=None)

    class Spy:
        needs_estimate = False

        def budget(self, situation: Any) -> budgetctl.Budget:
            seen.append(situation.query.text)
            return budgetctl.Budget()

    spied = controller.with_policy(Spy())

    @budgeted(controller=spied)
    def chat(messages: list[dict[str, str]]) -> str:
        return ""

    @budgeted(controller=spied, query="topic")
    def about(style: str, topic: str) -> str:
        return ""

    @budgeted(controller=spied, query=lambda style, topic: f"{topic}, {style}")
    def both(style: str, topic: str) -> str:
        return ""

    chat([{"role": "user", "content": "first"}, {"role": "user", "content": "last"}])
    about("dry", topic="cats")
    both("dry", "dogs")
    assert seen == ["last", "cats", "dogs, dry"]


def test_a_function_without_a_query_is_refused_when_it_is_decorated():
    with pytest.raises(ConfigError, match="no parameter carries the query"):

        @budgeted
        def ask(a: int, b: int) -> int:
            return a + b

    with pytest.raises(ConfigError, match="query: there is no parameter 'qestion'"):
        budgeted("off", query="qestion")(lambda question: question)


def test_a_kind_of_endpoint_that_is_none_is_refused_when_the_function_is_decorated():
    with pytest.raises(ConfigError, match="endpoint: seen 'vlm', allowed: openai, "):
        budgeted("cap:100", model="Qwen/Qwen3-8B", endpoint="vlm")


def test_an_error_of_the_function_is_its_own_and_is_recorded():
    sink = Collect()

    @budgeted("cap:100", sinks=[sink], **QWEN)
    def ask(question: str, **llm: Any) -> str:
        raise ConnectionError("down")

    with pytest.raises(ConnectionError, match="down"):
        ask("why?")
    assert (sink.rows[0].stop.reason, sink.rows[0].answered) == ("error", False)


def test_a_call_that_does_not_fit_the_function_fails_as_python_does():
    @budgeted("cap:100", **QWEN)
    def ask(question: str) -> str:
        return "42"

    with pytest.raises(TypeError, match="unexpected keyword"):
        ask("why?", nonsense=1)  # type: ignore[call-arg]


async def test_coroutine_functions_stay_coroutine_functions():
    @budgeted("cap:100", **QWEN)
    async def ask(question: str, **llm: Any) -> dict[str, Any]:
        await asyncio.sleep(0)
        return llm

    assert inspect.iscoroutinefunction(ask)
    assert (await ask("why?"))["extra_body"]["thinking_token_budget"] == 100


def test_generators_pass_their_items_on_and_are_recorded():
    sink = Collect()

    @budgeted("cap:100", sinks=[sink], **QWEN)
    def stream(question: str, **llm: Any) -> Iterator[dict[str, Any]]:
        assert llm["extra_body"]["thinking_token_budget"] == 100
        yield from CHUNKS

    assert list(stream("why?")) == CHUNKS
    [row] = sink.rows
    assert row.answered
    assert row.ttft_s is not None
    assert row.ttfo_s is not None
    assert row.ttft_s <= row.ttfo_s


def test_a_generator_that_the_caller_leaves_is_closed_at_once():
    sink, closed = Collect(), []

    @budgeted("cap:100", sinks=[sink], **QWEN)
    def stream(question: str, **llm: Any) -> Iterator[dict[str, Any]]:
        try:
            yield from CHUNKS
        finally:
            closed.append(True)

    items = stream("why?")
    next(items)
    items.close()  # type: ignore[attr-defined]
    assert closed == [True]
    assert sink.rows[0].stop.reason == "caller"


async def test_async_generators_too():
    sink, closed = Collect(), []

    @budgeted("cap:100", sinks=[sink], **QWEN)
    async def stream(question: str, **llm: Any) -> AsyncIterator[dict[str, Any]]:
        try:
            for chunk in CHUNKS:
                yield chunk
        finally:
            closed.append(True)

    assert inspect.isasyncgenfunction(stream)
    assert [item async for item in stream("why?")] == CHUNKS
    early = stream("why?")
    await anext(early)
    await early.aclose()  # type: ignore[attr-defined]
    assert closed == [True, True]
    assert [row.stop.reason for row in sink.rows] == ["natural", "caller"]


def test_a_budgeted_function_inside_another_decides_for_itself():
    sink = Collect()

    @budgeted("cap:50", sinks=[sink], **QWEN)
    def inner(question: str, **llm: Any) -> int:
        return int(llm["extra_body"]["thinking_token_budget"])

    @budgeted("cap:100", sinks=[sink], **QWEN)
    def outer(question: str, **llm: Any) -> int:
        return inner("and why?")

    assert outer("why?") == 50
    assert [row.policy for row in sink.rows] == ["cap:50", "cap:100"]


def test_a_wrapped_client_inside_takes_the_decision_over_with_the_callers_own_parameters():
    sink = Collect()
    seen: dict[str, Any] = {}
    client_side = Controller("off", sinks=[sink])

    @budgeted("cap:100", **QWEN)
    def ask(question: str, **llm: Any) -> Reply:
        def render(budget: Any, capability: Any, params: Any, *, caller_values: str) -> Rendered:
            seen.update(params)
            return Rendered(params=dict(params))

        query = budgetctl.Query.from_text(question, model=QWEN["model"])
        session = client_side.session(query, params=llm, endpoint="vllm", render=render)
        reply = Reply()
        session.finish(usage=Usage(), timing=Timing(), stop=StopReason.NATURAL, answered=True)
        return reply

    ask("why?", extra_body={"top_k": 5}, temperature=0.2)
    assert seen == {"extra_body": {"top_k": 5}, "temperature": 0.2}
    assert [row.policy for row in sink.rows] == ["cap:100"]


# --- arguments ---------------------------------------------------------------------------------------------


class Array:
    """Compares element by element, as arrays and tables do."""

    def __eq__(self, other: object) -> Any:
        class Elements:
            def __bool__(self) -> bool:
                raise ValueError("ambiguous")

        return Elements()


def test_arguments_that_cannot_be_compared_go_through():
    sink, seen = Collect(), []

    @budgeted("cap:100", sinks=[sink], **QWEN)
    def ask(question: str, table: Any, **llm: Any) -> str:
        seen.append((table, llm))
        return "42"

    table = Array()
    assert ask("why?", table=table) == "42"
    assert seen[0][0] is table
    assert seen[0][1]["extra_body"]["thinking_token_budget"] == 100
    assert len(sink.rows) == 1


def test_what_was_injected_is_recognised_in_a_copy_of_it():
    array = Array()
    outer = OuterCall(
        controller=Controller(),
        decision=Controller("off").decide(budgetctl.Query.from_text("x")),
        injected={"extra_body": {"cap": 1}, "table": array},
        replaced={"table": None},
    )
    assert outer.restore({"extra_body": {"cap": 1}, "table": array, "n": 1}) == {"table": None, "n": 1}
    assert "table" in outer.restore({"table": Array()})


def test_a_ceiling_replaces_a_positional_argument_in_its_place():
    @budgeted("cap:100", caller_values="ceiling", **QWEN)
    def ask(question: str, extra_body: Any, *more: Any, **llm: Any) -> Any:
        return extra_body, more

    own = {"thinking_token_budget": 4000}
    body, more = ask("why?", own, "a", "b")
    assert (body["thinking_token_budget"], more) == (100, ("a", "b"))
    assert own == {"thinking_token_budget": 4000}


@pytest.mark.parametrize(
    ("settings", "model"),
    [({}, "Qwen/Qwen3-8B"), ({"model": "somebody/else"}, "Qwen/Qwen3-8B")],
)
def test_a_default_model_in_the_signature_is_the_model(settings: Any, model: str):
    sink = Collect()

    @budgeted("cap:100", endpoint="vllm", sinks=[sink], **settings)
    def ask(question: str, model: str = "Qwen/Qwen3-8B", **llm: Any) -> Any:
        return llm

    assert ask("why?")["extra_body"]["thinking_token_budget"] == 100
    assert sink.rows[0].model == model


def test_a_model_that_is_no_string_is_no_model():
    sink = Collect()

    @budgeted("cap:100", endpoint="vllm", sinks=[sink])
    def ask(question: str, model: Any, **llm: Any) -> str:
        return "42"

    assert ask("why?", object()) == "42"
    assert sink.rows[0].model is None


def test_a_controller_and_settings_of_another_are_refused():
    with pytest.raises(ConfigError, match="controller that you pass: min_confidence"):
        budgeted(controller=Controller(), route="support", min_confidence=0.1)


# --- faults of ours ----------------------------------------------------------------------------------------


def test_a_query_that_cannot_be_found_leaves_the_call_alone(caplog: pytest.LogCaptureFixture):
    def find(question: str) -> str:
        raise TypeError(f"cannot read {question!r}")

    @budgeted("cap:100", query=find, **QWEN)
    def ask(question: str) -> str:
        return "42"

    assert ask("my diagnosis") == "42"
    assert "goes through unchanged: TypeError" in caplog.text
    assert "diagnosis" not in caplog.text


def test_strict_still_raises_what_is_ours():
    @budgeted("cap:100", strict=True)
    def ask(question: str, **llm: Any) -> str:
        return "42"

    with pytest.raises(UnsupportedControl):
        ask("why?")


class Unreadable:
    def model_dump(self) -> Any:
        raise RuntimeError("my diagnosis")


def test_what_cannot_be_read_is_returned_all_the_same(caplog: pytest.LogCaptureFixture):
    @budgeted("cap:100", **QWEN)
    def ask(question: str, **llm: Any) -> Any:
        return Unreadable()

    @budgeted("cap:100", **QWEN)
    def stream(question: str, **llm: Any) -> Iterator[Any]:
        yield Unreadable()
        yield "42"

    assert isinstance(ask("why?"), Unreadable)
    assert len(list(stream("why?"))) == 2
    assert "RuntimeError" in caplog.text
    assert "diagnosis" not in caplog.text


# --- streams -----------------------------------------------------------------------------------------------


async def test_a_stream_that_nobody_read_is_not_called_answered():
    sink = Collect()

    async def chunks() -> AsyncIterator[Any]:
        yield CHUNKS[0]

    @budgeted("cap:100", sinks=[sink], **QWEN)
    def ask(question: str, **llm: Any) -> Any:
        return iter(CHUNKS)

    @budgeted("cap:100", sinks=[sink], **QWEN)
    async def aask(question: str, **llm: Any) -> Any:
        return chunks()

    assert list(ask("why?")) == CHUNKS
    assert [c async for c in await aask("why?")] == CHUNKS[:1]
    for row in sink.rows:
        assert (row.stop.reason, row.answered) == ("unknown", False)
        assert (row.reasoning_tokens, row.e2e_s) == (None, None)
        assert "was not read yet" in row.why
        assert "no answer" not in row.why


def test_a_generator_takes_values_and_returns_one():
    @budgeted("cap:100", **QWEN)
    def stream(question: str, **llm: Any) -> Any:
        got = yield "a"
        again = yield got
        return again

    items = stream("why?")
    assert next(items) == "a"
    assert items.send("b") == "b"
    with pytest.raises(StopIteration) as end:
        items.send("c")
    assert end.value.value == "c"


async def test_an_async_generator_takes_values():
    @budgeted("cap:100", **QWEN)
    async def stream(question: str, **llm: Any) -> Any:
        got = yield "a"
        yield got

    items = stream("why?")
    assert await anext(items) == "a"
    assert await items.asend("b") == "b"
    await items.aclose()


# --- a client inside ---------------------------------------------------------------------------------------


def test_the_route_sinks_and_callbacks_of_the_function_see_what_the_client_records():
    inner_sink, outer_sink, shared = Collect(), Collect(), Collect()
    decided: list[str] = []
    heard: list[Outcome] = []
    callbacks = Callbacks(
        on_decision=lambda decision: decided.append(decision.policy), on_outcome=heard.append
    )
    client_side = Controller("off", sinks=[inner_sink, shared], route="client", callbacks=callbacks)
    outer_heard: list[Outcome] = []
    outer_callbacks = Callbacks(on_outcome=outer_heard.append)

    @budgeted("cap:100", route="support", sinks=[outer_sink, shared], callbacks=outer_callbacks, **QWEN)
    def ask(question: str, **llm: Any) -> str:
        session = client_side.session(
            budgetctl.Query.from_text(question, model=QWEN["model"]),
            params=llm,
            endpoint="vllm",
            render=lambda budget, capability, params, *, caller_values: Rendered(params=dict(params)),
        )
        session.finish(usage=Usage(), timing=Timing(), stop=StopReason.NATURAL, answered=True)
        return "42"

    ask("why?")
    assert callbacks.flush()
    assert outer_callbacks.flush()
    [row] = shared.rows
    assert row.route == "support"
    assert inner_sink.rows == outer_sink.rows == heard == outer_heard == [row]
    assert decided == ["cap:100"]


def test_a_second_call_inside_gets_the_callers_own_parameters_too():
    seen: list[dict[str, Any]] = []
    inner = Controller("off")

    @budgeted("cap:100", **QWEN)
    def ask(question: str, **llm: Any) -> Reply:
        def render(budget: Any, capability: Any, params: Any, *, caller_values: str) -> Rendered:
            seen.append(dict(params))
            return Rendered(params=dict(params))

        query = budgetctl.Query.from_text(question, model=QWEN["model"])
        for _ in range(2):
            session = inner.session(query, params=llm, endpoint="vllm", render=render)
            session.finish(usage=Usage(), timing=Timing(), stop=StopReason.NATURAL, answered=True)
        return Reply()

    ask("why?", temperature=0.2)
    assert seen == [{"temperature": 0.2}, {"temperature": 0.2}]
