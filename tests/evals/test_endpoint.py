import pickle
import time

import pytest

pytest.importorskip("openai")

from budgetctl.evals.endpoint import EndpointBackend
from budgetctl.evals.live import LiveQuestion, LiveRun, Suite

from budgetctl.errors import ConfigError, EvalError
from budgetctl.pricing import Prices
from budgetctl.types import Budget

from ..engines.scripted import serving  # noqa: TID252 - tests are no package: there is no absolute name
from ..test_certificate import certificate  # noqa: TID252 - likewise

QUESTION = LiveQuestion(id="a", text="What is it?", raw={"answer": "42"})


def right(answer, raw):
    return raw["answer"] in answer


def backend(server, **more):
    more = {"endpoint": "vllm", **more}
    return EndpointBackend(base_url=server.url, model="Qwen3-8B", grader=right, **more)


@pytest.fixture
def server():
    with serving(thought=40) as running:
        yield running


def ask(backend, budget=None, seed=7):
    return backend.generate([QUESTION], [budget or Budget()], seeds=[seed])[0]


def test_a_call_is_graded_counted_timed_and_priced(server):
    prices = Prices.load({"Qwen3*": {"input": 1.0, "output": 10.0}})
    result = ask(backend(server, prices=prices))
    assert (result.correct, result.answered, result.reasoning_tokens) == (True, True, 40)
    assert 0 < result.ttft_s < result.ttfo_s <= result.e2e_s
    assert result.started_s == pytest.approx(time.time(), abs=60)
    assert result.cost_usd > 0
    assert ask(backend(server)).cost_usd is None


def test_the_seed_goes_where_it_is_taken_and_sampling_everywhere(server):
    ask(backend(server, sampling={"temperature": 0.5}), seed=11)
    assert (server.seen[0].body["seed"], server.seen[0].body["temperature"]) == (11, 0.5)
    ask(backend(server, endpoint=None, sampling={"temperature": 0.5}), seed=11)
    assert "seed" not in server.seen[1].body
    assert server.seen[1].body["temperature"] == 0.5


def test_a_busy_server_is_asked_again_when_it_says_and_by_nobody_else(server):
    server.failures = [(429, {"retry-after": "0"}), (503, {"retry-after-ms": "1"})]
    assert ask(backend(server)).correct
    assert len(server.seen) == 3


def test_a_refusal_is_raised_at_once_and_says_that_the_run_resumes(server):
    server.failures = [(401, {})]
    with pytest.raises(EvalError, match=r"question 'a': AuthenticationError: .*the same command resumes"):
        ask(backend(server))
    assert len(server.seen) == 1


def test_a_budget_is_kept(server):
    result = ask(backend(server), Budget(reasoning_tokens=10))
    assert result.reasoning_tokens <= 15


def test_a_copy_elsewhere_makes_a_client_of_its_own(server):
    one = backend(server, per_minute=60, concurrency=4)
    ask(one)
    copy = pickle.loads(pickle.dumps(one))
    assert copy._line._per_minute == 15
    assert ask(copy).correct
    two = one.with_model("QwQ-32B")
    assert pickle.loads(pickle.dumps(two))._line._per_minute == 7.5


@pytest.mark.parametrize(
    ("argument", "message"),
    [({"concurrency": 0}, "concurrency 0"), ({"endpoint": "moon"}, "endpoint 'moon': allowed are openai")],
)
def test_what_cannot_be_is_refused(server, argument, message):
    with pytest.raises(ConfigError, match=message):
        backend(server, **argument)


@pytest.mark.parametrize(
    ("model", "endpoint", "policy", "holds"),
    [
        ("Qwen3-8B", "vllm", "cap:10+stop:none", True),
        ("qwen3-max", "dashscope", "cap:10+stop:none", False),
        ("qwen3-max", "dashscope", "off", False),
        ("gpt-oss-20b", "vllm", "off", False),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_certificate_is_set_aside_exactly_where_a_client_sets_it_aside(
    server, tmp_path, model, endpoint, policy, holds
):
    from openai import OpenAI

    import budgetctl

    certificate(policy, model=model, endpoint=endpoint).save(tmp_path / "cert.json")
    named = f"certified:{tmp_path / 'cert.json'}"
    with OpenAI(base_url=server.url, api_key="none") as plain:
        client = budgetctl.wrap(plain, policy=named, endpoint=endpoint)
        messages = [{"role": "user", "content": QUESTION.text}]
        stream = client.chat.completions.create(model=model, messages=messages, stream=True)
        list(stream)
    outside = budgetctl.outcome(stream)
    asked = Suite(
        name="one",
        questions=(QUESTION,),
        backend=EndpointBackend(base_url=server.url, model=model, grader=right, endpoint=endpoint),
    )
    [result] = LiveRun(suite=asked, policies=[named], out=tmp_path / "run", classifier=None).run()[named]
    assert (outside.certificate is not None) == holds
    why = () if holds else (f"certificate void: {outside.certificate_void_reason}",)
    assert result.notes == why
    assert result.budget.reasoning_tokens == outside.decision.reasoning_tokens
