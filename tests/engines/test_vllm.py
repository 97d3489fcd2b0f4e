"""The wrapped client against a real vLLM (CPU build) with the pocket reasoner: ``make test-engines``.

What the server did is read from its own counters, tokens generated and requests running.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

import budgetctl
from budgetctl.capabilities import Table
from budgetctl.cli import main
from budgetctl.integrations.openai import wrap
from budgetctl.types import StopReason

from .served import Served, serving_vllm

PYTHON = os.environ.get("BUDGETCTL_VLLM")
pytestmark = pytest.mark.skipif(PYTHON is None, reason="needs a vLLM of its own: make test-engines")

MODEL = "Qwen3-pocket"
"""A name that the shipped rows for vLLM know."""
SENTENCE = 16
"""Tokens in a sentence of this model."""
WITHOUT_CAP = """
[[row]]
models = ["Qwen3-pocket"]
endpoints = ["vllm"]
off = {{ parameters = {{ "chat_template_kwargs.enable_thinking" = false }}, strength = "hard" }}
continuation = ["{way}"]
prompt_format = "chatml"
output_limit = "max_tokens"
source = "for this test"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    from budgetctl.evals import pocket

    home = tmp_path_factory.mktemp("home")
    with serving_vllm(str(PYTHON), pocket.path(), home=home, name=MODEL) as running:
        yield running


@pytest.fixture(scope="module")
def questions() -> list[Any]:
    from budgetctl.evals import pocket

    hardest = sorted(pocket.questions("test", 200), key=lambda q: -q.level)[:12]
    return [[{"role": "user", "content": q.text}] for q in hardest]


@pytest.fixture
def sdk(server: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.url, api_key="x", max_retries=0, timeout=60) as client:
        yield client


def text_of(stream: Any) -> tuple[str, str]:
    thought = answer = ""
    for chunk in stream:
        for choice in chunk.choices:
            thought += getattr(choice.delta, "reasoning", None) or ""
            answer += choice.delta.content or ""
    return thought, answer


def settled(server: Served) -> float:
    """Wait until no request runs and return the tokens that were generated so far."""
    last = -1.0
    for _ in range(100):
        generated = server.metric("vllm:generation_tokens_total")
        # The counters lag behind the responses a little.
        if server.metric("vllm:num_requests_running") == 0 and generated == last:
            return generated
        last = generated
        time.sleep(0.3)
    raise AssertionError("a request runs on")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("cap", [24, 48])
def test_the_engines_cap_is_kept(sdk: OpenAI, questions: Any, cap: int, stream: bool):
    client = wrap(sdk, policy=f"cap:{cap}", endpoint="vllm", classifier=None)
    spent = []
    for messages in questions:
        reply = client.chat.completions.create(
            model=MODEL, messages=messages, temperature=0, stream=stream, **OPTIONS[stream]
        )
        answer = text_of(reply)[1] if stream else reply.choices[0].message.content
        outcome = budgetctl.outcome(reply)
        assert answer.strip().startswith("The answer is")
        assert outcome.answered
        assert outcome.usage.provenance == "reported"
        spent.append(outcome.reasoning_tokens)
    print(f"\ncap {cap}, {'stream' if stream else 'whole'}: overshoot {[tokens - cap for tokens in spent]}")
    assert max(spent) <= 1.1 * cap + SENTENCE
    assert sum(tokens >= cap for tokens in spent) >= 6


OPTIONS: dict[bool, dict[str, Any]] = {False: {}, True: {"stream_options": {"include_usage": True}}}


THINK_ON = {"bad_words": ["</think>"]}
"""The model cannot end its thought by itself."""


@pytest.fixture(scope="module")
def natural(server: Served, questions: Any) -> list[int]:
    """Tokens generated for the first questions where nothing ends the thought."""
    with OpenAI(base_url=server.url, api_key="x", max_retries=0, timeout=60) as sdk:
        replies = [
            sdk.chat.completions.create(
                model=MODEL, messages=messages, temperature=0, max_tokens=1900, extra_body=THINK_ON
            )
            for messages in questions[:6]
        ]
    return [reply.usage.completion_tokens for reply in replies]


DROPS = """
    {%- if message.role == 'assistant' %}
        {%- set said.text = said.text.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}"""


@pytest.fixture(scope="module")
def keeping() -> str:
    """This model's chat template, but for what drops the thought of an assistant's turn."""
    from budgetctl.evals import pocket

    template = (pocket.path() / "chat_template.jinja").read_text()
    assert DROPS in template
    return template.replace(DROPS, "")


@pytest.mark.parametrize("way", ["raw_completions", "chat", "reask"])
def test_without_a_cap_the_stream_is_closed_and_the_answer_asked_for(
    server: Served, sdk: OpenAI, questions: Any, natural: list[int], keeping: str, way: str, tmp_path: Any
):
    body = THINK_ON | ({"chat_template": keeping} if way == "chat" else {})
    path = tmp_path / "capabilities.toml"
    path.write_text(WITHOUT_CAP.format(way=way))
    client = wrap(sdk, policy="cap:24", endpoint="vllm", classifier=None, capabilities=Table.load(path))
    generated, overshoot = [], []
    for messages in questions[:6]:
        before = settled(server)
        stream = client.chat.completions.create(
            model=MODEL, messages=messages, temperature=0, max_tokens=1900, extra_body=body, stream=True
        )
        _, answer = text_of(stream)
        outcome = budgetctl.outcome(stream)
        generated.append(int(settled(server) - before))
        overshoot.append(outcome.reasoning_tokens - 24)
        assert answer.strip().startswith("The answer is")
        assert (outcome.stop.reason, outcome.stop.actuator) == (StopReason.CAP, way)
        assert outcome.stop.degraded is (way == "reask")
    print(f"\n{way}: generated {generated} where {natural} were without a cap, overshoot {overshoot}")
    assert max(overshoot) <= 0.1 * 24 + SENTENCE
    assert all(few < many / 4 for few, many in zip(generated, natural, strict=True))


def test_the_parser_takes_a_whole_answer_to_a_closed_thought_for_thinking(
    sdk: OpenAI, questions: Any, keeping: str
):
    """It waits for the closing tag, which is in the prompt; in a stream only usage counts it so."""
    begun = {"role": "assistant", "content": "<think>\nSo the answer is 9.\n</think>\n\n"}
    goes_on = {"continue_final_message": True, "add_generation_prompt": False, "chat_template": keeping}
    call = {"model": MODEL, "messages": [*questions[0], begun], "temperature": 0, "extra_body": goes_on}
    whole = sdk.chat.completions.create(**call)
    assert (whole.choices[0].message.content, whole.choices[0].message.reasoning) == (
        None,
        "The answer is 9.",
    )
    stream = sdk.chat.completions.create(**call, stream=True, **OPTIONS[True])
    *said, last = stream
    assert text_of(said) == ("", "The answer is 9.")
    assert last.usage.completion_tokens_details.reasoning_tokens == last.usage.completion_tokens - 1


def test_so_a_whole_answer_is_read_from_a_stream(sdk: OpenAI, questions: Any, keeping: str, tmp_path: Any):
    path = tmp_path / "capabilities.toml"
    path.write_text(WITHOUT_CAP.format(way="chat"))
    client = wrap(sdk, policy="cap:24", endpoint="vllm", classifier=None, capabilities=Table.load(path))
    body = {**THINK_ON, "chat_template": keeping}
    for messages in questions[:6]:
        reply = client.chat.completions.create(
            model=MODEL, messages=messages, temperature=0, max_tokens=1900, extra_body=body
        )
        outcome = budgetctl.outcome(reply)
        assert reply.choices[0].message.content.strip().startswith("The answer is")
        assert outcome.stop.actuator == "chat"
        assert outcome.reasoning_tokens <= 1.1 * 24 + SENTENCE, "the answer is not counted as thinking"


def test_a_way_that_the_template_does_not_allow_is_refused_and_the_next_one_answers(
    sdk: OpenAI, questions: Any, tmp_path: Any
):
    """This template drops the thought of an assistant's turn, and vLLM continues nothing that is gone."""
    path = tmp_path / "capabilities.toml"
    path.write_text(WITHOUT_CAP.format(way='chat", "raw_completions'))
    client = wrap(sdk, policy="cap:24", endpoint="vllm", classifier=None, capabilities=Table.load(path))
    stream = client.chat.completions.create(
        model=MODEL, messages=questions[0], temperature=0, max_tokens=1900, extra_body=THINK_ON, stream=True
    )
    assert text_of(stream)[1].strip().startswith("The answer is")
    outcome = budgetctl.outcome(stream)
    assert outcome.stop.actuator == "raw_completions"
    assert "(chat): BadRequestError" in str(outcome.fallback)


def test_leaving_a_stream_ends_the_generation(server: Served, sdk: OpenAI, questions: Any):
    client = wrap(sdk, policy="full", endpoint="vllm", classifier=None)
    before = settled(server)
    with client.chat.completions.create(
        model=MODEL, messages=questions[0], max_tokens=1900, extra_body={"ignore_eos": True}, stream=True
    ) as stream:
        for number, _ in enumerate(stream):
            if number == 30:
                break
        running = server.metric("vllm:num_requests_running")
    generated = settled(server) - before
    time.sleep(1.0)
    print(f"\n30 chunks read, {generated:.0f} tokens generated of 1,900")
    assert running == 1
    assert generated < 500
    assert server.metric("vllm:generation_tokens_total") - before == generated


def test_thinking_off_is_off(sdk: OpenAI, questions: Any):
    client = wrap(sdk, policy="off", endpoint="vllm", classifier=None)
    reply = client.chat.completions.create(model=MODEL, messages=questions[0], temperature=0)
    assert reply.choices[0].message.content.strip()
    assert budgetctl.outcome(reply).reasoning_tokens in (0, None)


def test_the_doctor_finds_what_vllm_keeps(server: Served, questions: Any, capsys: pytest.CaptureFixture[str]):
    argv = ["doctor", "--base-url", server.url, "--model", MODEL, "--question", questions[0][0]["content"]]
    code = main([*argv, "--json"])
    found = json.loads(capsys.readouterr().out)
    with capsys.disabled():
        print("", *(f"{c['name']} {c['way'] or ''}: {c['observed']}" for c in found["tried"]), sep="\n")
    assert (code, found["broken"]) == (0, [])
    assert found["engine"].startswith("vLLM ")
    assert (found["reasoning"]["field"], found["reasoning"]["reported_in_usage"]) == ("reasoning", True)
    verified = {c["name"]: c["verified"] for c in found["controls"]}
    assert verified == {"off": True, "cap": True, "abort_continue": True, "close": True}
    ways = {c["way"]: c["verified"] for c in found["tried"] if c["way"] is not None}
    assert ways == {"raw_completions": True, "chat": False}, "the template drops the thought of a turn"
    assert 'continuation = ["raw_completions", "reask"]' in found["capability"]
