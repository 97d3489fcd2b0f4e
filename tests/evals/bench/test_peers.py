"""The packages themselves are asked; ``make test-integrations FAMILY=peers`` has them all."""

from importlib import import_module, metadata

import pytest
from budgetctl.evals.bench import peers
from budgetctl.evals.bench.peers import PEERS, PROMPT_LENGTH, Peer, installed, packages
from budgetctl.evals.bench.predictors import rules
from budgetctl.evals.ladders import scores

from budgetctl.errors import ConfigError, EvalError

STORY = "The old man walked along the shore and thought about the letters that his daughter had sent him. "
EASY_TO_HARD = {
    "thinkbudget": ("hello", "What is the capital of Peru?", "Prove the theorem step by step by induction."),
    "thinkrouter": ("Who wrote Hamlet?", STORY, "Prove it."),
    "cascadeflow-complexity": (
        "thanks!",
        "Explain photosynthesis briefly",
        "Which of my two friends should I invite to dinner tonight",
        "Show that the number is even",
        "Build a scalable production service with best practices for us",
    ),
    "cascadeflow-difficulty": (
        "What is rain?",
        "Why do people like rain so much?",
        "Analyze the theoretical framework and its implications for epistemological methodology.",
    ),
    "pareto-router": ("hey, how are you", "What is 3 + 4", "Prove the lemma with dynamic programming."),
    "litellm": (
        "hi",
        "Tell me about the village where your grandmother lived as a child.",
        "Debug the python function that fails with an exception in production.",
        "Think carefully and explain your reasoning: which of these gardens gets the most sunlight?",
    ),
}


@pytest.fixture(params=PEERS)
def peer(request):
    found = PEERS[request.param]
    if not found.installed:
        pytest.skip(f"needs {found.package}")
    return found


def test_every_peer_has_an_example_here():
    assert list(EASY_TO_HARD) == list(PEERS) == [peer.name for peer in PEERS.values()]


def test_examples_are_ordered_as_the_rule_orders_them(peer):
    found = [peer.score(text) for text in EASY_TO_HARD[peer.name]]
    assert found == sorted(set(found))


def test_any_text_has_the_same_finite_score_twice(peer):
    for text in ("", " \n", "?", "Ünïcödé ∫ 数学", "```\n", "a" * 500, "if (x) { y }; " * 400):
        assert isinstance(peer.score(text), float)
        assert -1 <= peer.score(text) == peer.score(text) < 200


def test_a_score_does_not_depend_on_the_text_before(peer):
    hard, easy = EASY_TO_HARD[peer.name][-1], EASY_TO_HARD[peer.name][0]
    first = peer.score(easy)
    peer.score(hard)
    assert peer.score(easy) == first


def test_prompt_length_counts_characters():
    assert PROMPT_LENGTH.score("four") == 4
    assert PROMPT_LENGTH.installed
    assert PROMPT_LENGTH.name not in PEERS


def test_a_package_of_another_version_is_not_compared_with(monkeypatch):
    peer = Peer(name="p", package="some-package==1.2.0", load=lambda: pytest.fail("loaded"))
    monkeypatch.setattr(metadata, "version", {"some-package": "1.2.0"}.__getitem__)
    assert peer.installed
    monkeypatch.setattr(metadata, "version", {"some-package": "1.2.1"}.__getitem__)
    assert not peer.installed


def test_a_package_that_cannot_be_asked_is_named_before_any_work(monkeypatch):
    broken = Peer(name="p", package="p==1", load=lambda: import_module("no_such_package"))
    monkeypatch.setattr(metadata, "version", {"p": "1"}.__getitem__)
    monkeypatch.setattr(peers, "PEERS", {"p": broken})
    with pytest.raises(EvalError, match="p==1 cannot be asked: ModuleNotFoundError: No module named"):
        rules()


def test_tables_have_the_rules_that_are_installed_and_the_others_are_named(monkeypatch):
    def missing(name):
        if name != "thinkrouter":
            raise metadata.PackageNotFoundError(name)
        return "0.3.0"

    monkeypatch.setattr(metadata, "version", missing)
    monkeypatch.setitem(PEERS["thinkrouter"].__dict__, "score", len)
    assert [rule.name for rule in rules()] == ["heuristic", "prompt-length", "thinkrouter"]
    left_out = packages(peer for peer in PEERS.values() if peer not in installed())
    assert left_out[:2] == ["thinkbudget==0.1.0", "cascadeflow==1.2.0"]
    assert len(left_out) == len(set(left_out)) == 4
    scores.check("thinkrouter")
    with pytest.raises(ConfigError, match=r"pip install thinkbudget==0\.1\.0"):
        scores.check("thinkbudget")
