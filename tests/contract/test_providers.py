"""One budget, every provider: what arrives at a server on loopback, through the real OpenAI SDK."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from openai import AsyncAzureOpenAI, AsyncOpenAI, AzureOpenAI

import budgetctl
from tests.contract.loopback import Provider, serving
from tests.contract.support_table import BUDGETS, CASES, PAGE, TABLE, Case, capture, page

THINKING_OFF = {"chat_template_kwargs.enable_thinking": False}
QWEN = "Qwen/Qwen3-8B"
THINKING: dict[str, Any] = {"extra_body": {"reasoning": {"enabled": True}}}
DASHSCOPE: dict[str, Any] = {"extra_body": {"enable_thinking": True}}
SWITCHED_OFF = {"reasoning.effort": "none", "reasoning.enabled": False}

# Endpoint, model, what the call asks for, and what off, cap:1000 and effort:high change in the body.
ROWS: list[tuple[str, str, dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (
        "openai",
        "gpt-5-mini",
        {},
        {"reasoning_effort": "minimal"},
        {"reasoning_effort": "low"},
        {"reasoning_effort": "high"},
    ),
    ("openai", "gpt-5.1", {}, {"reasoning_effort": "none"}, {}, {}),
    (
        "openai",
        "gpt-5.5",
        {},
        {"reasoning_effort": "none"},
        {"reasoning_effort": "low"},
        {"reasoning_effort": "high"},
    ),
    (
        "openai",
        "gpt-6.1-sol",
        {},
        {"reasoning_effort": "low"},
        {},
        {"reasoning_effort": "high"},
    ),
    ("openai", "gpt-5.3-chat-latest", {}, {}, {}, {}),
    (
        "azure",
        "gpt-5-mini",
        {},
        {"reasoning_effort": "minimal"},
        {"reasoning_effort": "low"},
        {"reasoning_effort": "high"},
    ),
    ("azure", "my-deployment", {}, {}, {}, {}),
    (
        "openrouter",
        "openai/gpt-5-mini:nitro",
        {},
        {"reasoning.effort": "minimal"},
        {"reasoning.effort": "low"},
        {"reasoning.effort": "high"},
    ),
    ("openrouter", "openai/gpt-5.2", {}, SWITCHED_OFF, {}, {}),
    ("openrouter", "anthropic/claude-sonnet-4.5", {}, SWITCHED_OFF, {}, {}),
    (
        "openrouter",
        "anthropic/claude-sonnet-4.5",
        THINKING,
        SWITCHED_OFF,
        {"reasoning.max_tokens": 1024},
        {"reasoning.effort": "high"},
    ),
    (
        "deepseek",
        "deepseek-v4-flash",
        {},
        {"thinking.type": "disabled"},
        {"reasoning_effort": "low"},
        {"reasoning_effort": "high"},
    ),
    ("deepseek", "deepseek-chat", {}, {"thinking.type": "disabled"}, {}, {}),
    ("dashscope", "qwen3.7-plus", {}, {"enable_thinking": False}, {"thinking_budget": 1000}, {}),
    ("dashscope", "qwen-plus", {}, {"enable_thinking": False}, {}, {}),
    ("dashscope", "qwen-plus", DASHSCOPE, {"enable_thinking": False}, {"thinking_budget": 1000}, {}),
    ("dashscope", "qwen3-coder-plus", {}, {}, {}, {}),
    ("xai", "grok-4.3", {}, {"reasoning_effort": "none"}, {}, {"reasoning_effort": "high"}),
    (
        "xai",
        "grok-4.6",
        {},
        {"reasoning_effort": "low"},
        {"reasoning_effort": "low"},
        {"reasoning_effort": "high"},
    ),
    ("xai", "grok-4.20-0309-reasoning", {}, {}, {}, {}),
    ("mistral", "mistral-medium-latest", {}, {"reasoning_effort": "none"}, {}, {}),
    ("mistral", "mistral-medium-latest", {"reasoning_effort": "high"}, {"reasoning_effort": "none"}, {}, {}),
    ("mistral", "magistral-medium-latest", {}, {}, {}, {}),
    ("groq", "qwen/qwen3-32b", {}, {"reasoning_effort": "none"}, {}, {}),
    (
        "groq",
        "openai/gpt-oss-120b",
        {},
        {"reasoning_effort": "low"},
        {"reasoning_effort": "low"},
        {"reasoning_effort": "high"},
    ),
    ("vllm", QWEN, {}, THINKING_OFF, {"thinking_token_budget": 1000}, {}),
    ("sglang", QWEN, {}, THINKING_OFF, {"custom_params.thinking_budget": 1000}, {}),
    (
        "llama.cpp",
        "Qwen3-8B",
        {},
        THINKING_OFF,
        {"reasoning_budget_tokens": 1000, "thinking_budget_tokens": 1000},
        {},
    ),
    (
        "llama.cpp",
        "gpt-oss-20b",
        {},
        {"chat_template_kwargs.reasoning_effort": "low"},
        {"chat_template_kwargs.reasoning_effort": "low"},
        {"chat_template_kwargs.reasoning_effort": "high"},
    ),
    ("ollama", "qwen3:8b", {}, {"reasoning_effort": "none"}, {}, {}),
    (
        "ollama",
        "gpt-oss:20b",
        {},
        {"reasoning_effort": "low"},
        {"reasoning_effort": "low"},
        {"reasoning_effort": "high"},
    ),
    ("tensorrt-llm", QWEN, {}, THINKING_OFF, {"thinking_token_budget": 1000}, {}),
    ("tensorrt-llm", "openai/gpt-oss-20b", {}, {"reasoning_effort": "low"}, {}, {"reasoning_effort": "high"}),
    ("transformers-serve", QWEN, {}, THINKING_OFF, {"max_completion_tokens": 1612}, {}),
]

CALLERS: dict[str, dict[str, Any]] = {
    "openai": {"reasoning_effort": "medium"},
    "azure": {"reasoning_effort": "medium"},
    "openrouter": {"extra_body": {"reasoning": {"effort": "medium"}}},
    "deepseek": {"reasoning_effort": "high", "extra_body": {"thinking": {"type": "enabled"}}},
    "dashscope": {"extra_body": {"enable_thinking": True, "thinking_budget": 200}},
    "xai": {"reasoning_effort": "medium"},
    "mistral": {"reasoning_effort": "high"},
    "groq": {"reasoning_effort": "medium"},
    "vllm": {"extra_body": {"thinking_token_budget": 200}},
    "sglang": {"extra_body": {"custom_params": {"thinking_budget": 200}}},
    "llama.cpp": {"extra_body": {"thinking_budget_tokens": 200}},
    "ollama": {"reasoning_effort": "medium"},
    "tensorrt-llm": {"extra_body": {"thinking_token_budget": 200}},
    "transformers-serve": {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}},
    "openai-compatible": {"reasoning_effort": "medium"},
}
"""What callers set themselves."""


def case_id(case: Case) -> str:
    return f"{case.endpoint}-{case.model}-{case.api}"


def own(case: Case) -> Case:
    """Return the case of a caller who has set what it wants."""
    level = {"reasoning_effort": "medium"}
    return Case(
        endpoint=case.endpoint,
        model=case.model,
        asks=level if "gpt-oss" in case.model else CALLERS[case.endpoint],
    )


@pytest.fixture(scope="module")
def server() -> Iterator[Provider]:
    with serving() as provider:
        yield provider


@pytest.fixture(autouse=True)
def _fresh(server: Provider) -> None:
    server.bodies.clear()
    server.paths.clear()
    server.refuses = {}


@pytest.mark.parametrize(
    ("endpoint", "model", "asks", "off", "cap", "effort"), ROWS, ids=[f"{r[0]}-{r[1]}" for r in ROWS]
)
def test_one_budget_becomes_the_parameters_of_each_provider(
    server: Provider,
    endpoint: str,
    model: str,
    asks: dict[str, Any],
    off: dict[str, Any],
    cap: dict[str, Any],
    effort: dict[str, Any],
):
    case = Case(endpoint=endpoint, model=model, asks=asks)
    for policy, changed in (("off", off), ("cap:1000", cap), ("effort:high", effort)):
        assert capture(server, case, f"{policy}+stop:none").changed == changed, policy


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_nothing_is_written_where_the_caller_is_in_charge(server: Provider, case: Case):
    """Pinned, observed, or of a model that nobody knows."""
    unknown = Case(endpoint=case.endpoint, model="someone/new-model-1", api=case.api)
    for policy in (*BUDGETS.values(), "auto", "effort:xhigh"):
        pinned = capture(server, own(case), policy, caller_values="pin")
        assert pinned.changed.keys() <= {"reasoning_control"}, "the right to end the thought, not its amount"
        assert pinned.outcome.pinned
        assert capture(server, case, policy, mode="observe").changed == {}
        assert capture(server, unknown, policy).changed == {}


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_a_ceiling_is_never_raised(server: Provider, case: Case):
    caller = own(case)
    changed: dict[str, Any] = {}
    for policy in ("effort:max", "cap:90000", "deadline:60"):
        changed |= capture(server, caller, f"{policy}+stop:none").changed
    assert all(value == 200 for path, value in changed.items() if path.endswith(("budget", "budget_tokens")))
    assert not [path for path in changed if path.endswith(("effort", "enabled", "enable_thinking"))]


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_what_is_off_stays_off(server: Provider, case: Case):
    off = {"reasoning_effort": "none"} if case.api == "chat" else {"reasoning": {"effort": "none"}}
    closed = Case(endpoint=case.endpoint, model=case.model, api=case.api, asks=off)
    for policy in (*BUDGETS.values(), "auto"):
        assert capture(server, closed, policy).changed == {}, policy


@pytest.mark.parametrize("mode", ["enforce", "observe"])
@pytest.mark.parametrize(
    ("endpoint", "model", "api", "auto", "level"),
    [
        ("openai", "gpt-5-mini", "chat", {"reasoning_effort": "auto"}, "reasoning_effort"),
        ("openai", "gpt-5-mini", "responses", {"reasoning": {"effort": "auto"}}, "reasoning"),
        (
            "openrouter",
            "openai/gpt-5",
            "chat",
            {"extra_body": {"reasoning": {"effort": "auto"}}},
            "reasoning",
        ),
        ("openai-compatible", "whatever", "chat", {"reasoning_effort": "auto"}, "reasoning_effort"),
    ],
)
def test_a_level_of_auto_leaves_it_to_budgetctl(
    server: Provider, endpoint: str, model: str, api: Any, auto: dict[str, Any], level: str, mode: str
):
    case = Case(endpoint=endpoint, model=model, api=api, asks=auto)
    undecided = capture(server, case, "full", caller_values="pin", mode=mode)
    assert level not in undecided.after
    decided = capture(server, case, "effort:low", caller_values="pin", mode=mode)
    assert not decided.outcome.pinned
    if mode == "observe" or endpoint == "openai-compatible":
        assert level not in decided.after
    else:
        assert decided.after[level] in ("low", {"effort": "low"})


def test_auto_is_taken_out_of_a_function_of_the_callers_own(server: Provider):
    client = server.client()

    @budgetctl.budgeted("full", model="gpt-5", endpoint="openai")
    def ask(question: str, **llm: Any) -> Any:
        messages: Any = [{"role": "user", "content": question}]
        return client.chat.completions.create(model="gpt-5", messages=messages, **llm)

    ask("Why?", reasoning_effort="auto")
    assert "reasoning_effort" not in server.bodies[0]


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_a_provider_that_refuses_is_asked_once_more_as_the_caller_would(server: Provider, case: Case):
    first = capture(server, case, "off+stop:none")
    server.refuses = first.changed
    server.bodies.clear()
    again = capture(server, case, "off+stop:none")
    assert again.changed == {}
    assert len(server.bodies) == (2 if first.changed else 1)
    assert (again.outcome.fallback is not None) == bool(first.changed)


AZURE: dict[str, Any] = {"api_version": "2025-04-01-preview", "api_key": "x"}


@pytest.mark.parametrize("deployment", [None, "gpt-5-mini"])
def test_azure_is_told_by_its_client_and_keeps_its_urls(server: Provider, deployment: str | None):
    sdk = AzureOpenAI(azure_endpoint=server.url, azure_deployment=deployment, **AZURE)
    client: Any = budgetctl.wrap(sdk, policy="effort:low", classifier=None)
    assert isinstance(client, AzureOpenAI)
    with client:
        call: dict[str, Any] = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Why?"}]}
        whole = client.chat.completions.create(**call)
        list(client.with_options(timeout=9).chat.completions.create(**call, stream=True))
        client.with_policy("effort:high").responses.create(model="gpt-5-mini", input="Why?")
    assert [path.partition("?")[0] for path in server.paths] == [
        "/openai/deployments/gpt-5-mini/chat/completions",
        "/openai/deployments/gpt-5-mini/chat/completions",
        "/openai/responses",
    ]
    levels = [body.get("reasoning_effort") or body["reasoning"]["effort"] for body in server.bodies]
    assert levels == ["low", "low", "high"]
    assert budgetctl.outcome(whole).answered


@pytest.mark.parametrize("kind", [AsyncOpenAI, AsyncAzureOpenAI])
async def test_async_clients_write_the_same(server: Provider, kind: Any):
    place: dict[str, Any] = {"base_url": f"{server.url}/v1", "api_key": "x"}
    if kind is AsyncAzureOpenAI:
        place = {"azure_endpoint": server.url, **AZURE}
    endpoint = None if kind is AsyncAzureOpenAI else "openai"
    async with budgetctl.wrap(
        kind(**place), policy="effort:low", endpoint=endpoint, classifier=None
    ) as client:
        call: dict[str, Any] = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Why?"}]}
        await client.chat.completions.create(**call)
        async for _ in await client.chat.completions.create(**call, stream=True):
            pass
        await client.responses.create(model="gpt-5-mini", input="Why?")
    assert [body.get("reasoning_effort") for body in server.bodies] == ["low", "low", None]
    assert server.bodies[2]["reasoning"] == {"effort": "low"}


def test_the_support_table_in_the_docs_is_what_goes_over_the_wire(server: Provider):
    pytest.importorskip("anthropic")
    pytest.importorskip("google.genai")
    assert PAGE.read_text(encoding="utf-8") == page(server), "python -m tests.contract.support_table"


def test_the_docs_say_which_level_comes_nearest_to_a_cap():
    effort = TABLE.lookup("gpt-5", "openai").effort
    assert effort is not None
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"| `{level}` | {tokens:,} tokens |" in text for level, tokens in effort.below.items())
