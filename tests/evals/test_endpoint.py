import pickle
import time

import pytest

pytest.importorskip("openai")

from budgetctl.evals.endpoint import EndpointBackend
from budgetctl.evals.live import LiveQuestion

from budgetctl.errors import ConfigError, EvalError
from budgetctl.pricing import Prices
from budgetctl.types import Budget

from ..engines.scripted import serving  # noqa: TID252 - tests are no package: there is no absolute name

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
    assert copy._per_minute == 15
    assert ask(copy).correct


@pytest.mark.parametrize(
    ("argument", "message"),
    [({"concurrency": 0}, "concurrency 0"), ({"endpoint": "moon"}, "endpoint 'moon': allowed are openai")],
)
def test_what_cannot_be_is_refused(server, argument, message):
    with pytest.raises(ConfigError, match=message):
        backend(server, **argument)
