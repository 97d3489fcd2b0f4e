import bisect

import pytest
from budgetctl.evals.bench.cascadeflow import Level
from budgetctl.evals.bench.peers import PEERS, PROMPT_LENGTH

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


def tier(score, *starts):
    return bisect.bisect(starts, score)


def test_every_peer_has_an_example_here():
    assert list(EASY_TO_HARD) == list(PEERS)


@pytest.mark.parametrize("name", PEERS)
def test_examples_are_ordered_as_the_rule_orders_them(name):
    scores = [PEERS[name].score(text) for text in EASY_TO_HARD[name]]
    assert scores == sorted(set(scores))


@pytest.mark.parametrize("name", PEERS)
def test_any_text_has_the_same_finite_score_twice(name):
    peer = PEERS[name]
    for text in ("", " \n", "?", "Ünïcödé ∫ 数学", "```\n", "a" * 500, "if (x) { y }; " * 400):
        assert isinstance(peer.score(text), float)
        assert -1 <= peer.score(text) == peer.score(text) < 200


def test_peers_are_keyed_by_their_names_and_name_their_licence():
    assert [peer.name for peer in PEERS.values()] == list(PEERS)
    assert all("licence" in p.source or "MIT" in p.source or "AGPL" in p.source for p in PEERS.values())


def test_prompt_length_counts_characters():
    assert PROMPT_LENGTH.score("four") == 4
    assert PROMPT_LENGTH.name not in PEERS


class TestThinkBudget:
    score = staticmethod(PEERS["thinkbudget"].score)

    def test_length_stops_counting_at_forty_points(self):
        assert self.score("word " * 30) == pytest.approx(39 / 6)
        assert self.score("word " * 2000) == 40

    def test_a_look_up_is_at_least_simple(self):
        assert self.score("What is love") == 10

    def test_a_hyphen_is_mathematics(self):
        assert self.score("a well-known old tale") - self.score("a well known old tale") > 12

    def test_reasoning_keywords_count_inside_words_up_to_four(self):
        plain = self.score("an evening among friends")
        assert self.score("an improved evening together") == pytest.approx(plain + 10)
        many = "theorem lemma induction integral eigenvalue"
        assert self.score(many) == pytest.approx(40 + 6 / 6)


class TestThinkRouter:
    score = staticmethod(PEERS["thinkrouter"].score)

    def test_words_decide_where_no_phrase_does(self):
        assert [self.score("word " * n) for n in (12, 13, 31, 32)] == [0, 1, 1, 2]

    def test_an_easy_beginning_wins_over_a_hard_phrase(self):
        assert self.score("Define entropy and prove that it grows") == 0
        assert self.score("Please define entropy and prove that it grows") == 2


class TestCascadeflowComplexity:
    score = staticmethod(PEERS["cascadeflow-complexity"].score)

    def test_everyday_words_make_short_texts_trivial_and_long_ones_not(self):
        assert self.score("Why is the sky blue?") == Level.TRIVIAL
        assert self.score("Why did my neighbour paint his old door in that blue last year?") == Level.MODERATE

    def test_technical_terms_and_notation_make_expert(self):
        assert (
            self.score("Explain the residue theorem, contour integration and manifold theory") == Level.EXPERT
        )
        assert (
            self.score("Say for which numbers of them $\\frac{a}{b} ≤ \\sqrt{c} + ∑ β$ holds") == Level.EXPERT
        )

    def test_code_and_structure_raise_by_one(self):
        plain = "Tell me which of these two lines would run faster on my laptop"
        assert self.score(plain) == Level.MODERATE
        assert self.score(f"{plain}: x => x") == Level.HARD
        assert self.score(f"{plain}?\nWhy is that so?") == Level.HARD

    def test_tool_prompts_and_long_documents_come_back_to_moderate(self):
        tools = 'You have access to these tools: {"type": "function"}. Prove by induction. parameters: {}'
        assert self.score(tools) == Level.MODERATE
        document = f"Document: {STORY * 20}"
        assert self.score(f"{document} Prove by induction that the sqrt is irrational.") == Level.EXPERT
        assert self.score(f"{document} Prove that sqrt is irrational. Which of them is it?") == Level.MODERATE

    def test_single_keywords_count_less_in_long_texts(self):
        assert self.score("Please build me a small garden shed from these wooden planks") == Level.EXPERT
        assert self.score(f"{STORY * 12} Please build me a small shed") == Level.MODERATE


class TestCascadeflowDifficulty:
    score = staticmethod(PEERS["cascadeflow-difficulty"].score)

    def test_parts_add_up(self):
        assert self.score("?") == 0
        assert self.score("What is rain?") == pytest.approx(0.25 - 0.15 - 0.10)
        assert self.score("Design a very small boat") == pytest.approx(0.25 - 0.05 + 0.25)
        assert self.score("Is it raining? Is it snowing?") == pytest.approx(0.25 - 0.05 + 0.05)

    def test_if_counts_inside_words(self):
        assert self.score("Two different boats") == pytest.approx(0.25 - 0.05 + 0.05)

    def test_kinds_are_whole_words(self):
        assert self.score("A tall designer boat") == pytest.approx(0.25 - 0.05)


class TestParetoRouter:
    score = staticmethod(PEERS["pareto-router"].score)

    def test_words_phrases_marks_and_strictness_add_up_to_one(self):
        assert self.score("the raft came home") == 0.25
        assert self.score("the raft passed the unit test") == pytest.approx(0.25 + 0.35 + 0.20)
        assert self.score("solve for 3 + 4 and 5 * 6 and 7 - 8") == pytest.approx(0.30 + 0.15)
        assert self.score("prove the lemma and the theorem by induction with recursion") == 1

    def test_small_talk_and_rewording_are_near_zero(self):
        assert self.score("ok cool") == 0.02
        assert self.score("Please proofread my letter to the mayor") == 0.02
        assert self.score("hey, prove it") == 0.25


class TestLiteLLM:
    score = staticmethod(PEERS["litellm"].score)

    def test_keywords_are_whole_words_and_phrases_match_anywhere(self):
        base = "Some people in the small town still remember the old times and more {}"
        assert self.score(base.format("apis")) == 0
        assert self.score(base.format("api")) == pytest.approx(0.15)
        assert self.score(base.format("api calls in rust")) == pytest.approx(0.30)
        assert self.score(base.format("backpropagation by machine learnings in gpu")) == pytest.approx(0.125)

    def test_two_reasoning_markers_lift_to_the_top_unless_the_text_is_simple(self):
        tail = ", and tell me in which of these gardens the roses grow best"
        assert tier(self.score(f"Think carefully, then deduce it{tail}"), 0.15, 0.35, 0.60) == 3
        assert tier(self.score(f"Think carefully{tail}"), 0.15, 0.35, 0.60) == 1
        assert tier(self.score("Hi, evaluate and infer"), 0.15, 0.35, 0.60) == 0

    def test_length_pulls_both_ways(self):
        assert self.score("Tell me a tale") == pytest.approx(-0.10)
        assert self.score(STORY * 20) == pytest.approx(0.10)
