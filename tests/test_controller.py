"""The controller: decisions, what it falls back to, and what it records."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

import budgetctl
from budgetctl.adapters import Rendered
from budgetctl.callbacks import Callbacks
from budgetctl.capabilities import Capability, Table
from budgetctl.controller import Controller
from budgetctl.conversation import Conversation, Conversations, conversation_of
from budgetctl.errors import ClassifierError, ConfigError, UnsupportedControl
from budgetctl.outcomes import Outcome
from budgetctl.session import Session
from budgetctl.types import (
    AppliedControl,
    Budget,
    Decision,
    Estimate,
    Limits,
    ModelFacts,
    Pace,
    Price,
    Quantiles,
    Query,
    StopReason,
    Timing,
    Usage,
)

HARD = Query.from_text("Prove it.", model="somebody/some-model")
SETTLED = Quantiles(p50=100, p80=200, p90=400, p95=500)


class Fixed:
    """A classifier that always says the same, or raises."""

    hash = "fixed"

    def __init__(self, *, confidence: float = 1.0, error: Exception | None = None) -> None:
        self.confidence, self.error = confidence, error

    def estimate(self, query: Query) -> Estimate:
        if self.error is not None:
            raise self.error
        return Estimate(
            p_off=0.4,
            p_full=0.9,
            settled=SETTLED,
            natural=SETTLED,
            confidence=self.confidence,
            source="fixed",
        )


class Says:
    """A classifier that answers with anything."""

    hash = "says"

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def estimate(self, query: Query) -> Any:
        return self.answer


class Collect:
    """A sink in memory."""

    def __init__(self) -> None:
        self.rows: list[Outcome] = []

    def write(self, outcome: Outcome, *, text: str | None = None) -> None:
        self.rows.append(outcome)


def render(budget: Budget, capability: Any, params: Mapping[str, Any], *, caller_values: str) -> Rendered:
    """An adapter that can only cap."""
    if budget.reasoning_tokens is None:
        return Rendered(params=dict(params))
    cap = budget.reasoning_tokens
    return Rendered(
        params={**params, "cap": cap},
        controls=(AppliedControl(name="logits", value=cap, strength="hard"),),
        unsupported=("deadline",) if budget.deadline_s else (),
    )


def begin(controller: Controller, **params: Any) -> Session:
    return controller.session(HARD, params=params, endpoint="openai-compatible", render=render)


def finish(session: Session, **kwargs: Any) -> Outcome:
    given = {
        "usage": Usage(prompt_tokens=10, reasoning_tokens=90, answer_tokens=10, provenance="reported"),
        "timing": Timing(ttft_s=0.1, ttfo_s=1.0, e2e_s=1.1),
        "stop": StopReason.NATURAL,
        "answered": True,
    }
    return session.finish(**(given | kwargs))


def test_a_decision_carries_the_estimate_and_what_to_expect():
    decision = Controller("quantile:0.9", classifier=Fixed()).decide(
        HARD,
        facts=ModelFacts(can_cap=True, answer_tokens=20),
        pace=Pace(ttft_s=0.5, s_per_token=0.01),
        price=Price(input=1.0, output=10.0),
    )
    assert decision.budget.reasoning_tokens == 400
    assert decision.expected.p_correct == pytest.approx(0.4 + 0.5 * 0.9)
    assert decision.expected.ttfo_s == pytest.approx(0.5 + 100 * 0.01)
    assert decision.expected.e2e_s == pytest.approx(0.5 + 120 * 0.01)
    assert decision.expected.cost_usd == pytest.approx((9 / 4 * 1 + 120 * 10) / 1e6)
    assert decision.fallback is None
    assert decision.decide_us > 0


@pytest.mark.parametrize(
    ("classifier", "said"),
    [
        (Fixed(error=RuntimeError("no weights")), "classifier failed: RuntimeError"),
        (Fixed(confidence=float("nan")), "estimate confidence is below 0.5"),
        (Says("yes"), "classifier failed: AttributeError"),
        (Fixed(confidence=0.2), "estimate confidence is below 0.5"),
        (None, "no classifier configured"),
        ("no-such-weights.npz", "classifier failed: ClassifierError"),
    ],
)
def test_without_a_trustworthy_estimate_the_callers_parameters_go_through(classifier: Any, said: str):
    decision = Controller("quantile:0.9", classifier=classifier).decide(HARD)
    assert decision.budget == Budget()
    assert said in str(decision.fallback)


def test_strict_raises_instead_of_falling_back():
    with pytest.raises(ClassifierError, match="no weights"):
        Controller("quantile:0.9", classifier=Fixed(error=RuntimeError("no weights")), strict=True).decide(
            HARD
        )


def test_a_policy_that_fails_falls_back_to_the_callers_own_call():
    class Broken:
        needs_estimate = False

        def budget(self, situation: Any) -> Budget:
            raise KeyError("oops")

    decision = Controller(Broken()).decide(HARD)
    assert decision.budget == Budget(stop="none")
    assert "KeyError" in str(decision.fallback)


def test_the_classifier_is_not_asked_when_the_policy_does_not_need_it():
    decision = Controller("cap:100", classifier=Fixed(error=RuntimeError("asked"))).decide(HARD)
    assert (decision.estimate, decision.fallback) == (None, None)


def test_a_limit_in_seconds_joins_the_policy():
    controller = Controller("cap:100", limits=Limits(deadline_s=3))
    assert controller.decide(HARD).budget == Budget(reasoning_tokens=100, deadline_s=3)
    assert controller.decide(HARD, limits=Limits(deadline_s=1)).budget.deadline_s == 1


def test_an_override_holds_inside_its_block_only():
    controller = Controller("cap:100")
    with budgetctl.override("off"):
        assert controller.decide(HARD).budget.off
        with budgetctl.override("cap:7"):
            assert controller.decide(HARD).budget.reasoning_tokens == 7
        assert controller.decide(HARD).policy == "off"
    assert controller.decide(HARD).budget.reasoning_tokens == 100


def test_an_override_that_does_not_parse_fails_before_the_call():
    with pytest.raises(ConfigError, match="bogus"), budgetctl.override("bogus"):
        pass


def test_a_conversation_that_is_no_string_fails_before_the_call():
    thread: Any = 17
    allowed = "conversation: seen 17, allowed: a string"
    with pytest.raises(ConfigError, match=allowed), budgetctl.override(conversation=thread):
        pass


def test_a_session_renders_the_budget_and_records_the_outcome_once():
    sink = Collect()
    session = begin(Controller("cap:100", sinks=[sink], route="support"), temperature=0.3)
    assert session.params == {"temperature": 0.3, "cap": 100}
    first = finish(session)
    assert finish(session, answered=False) is first
    [row] = sink.rows
    assert (row.route, row.model, row.policy, row.answered) == (
        "support",
        "somebody/some-model",
        "cap:100",
        True,
    )
    assert row.budget_state.model_dump() == {
        "requested": 100,
        "applied": 100,
        "strength": "hard",
        "hit": False,
    }
    assert row.controls[0].name == "logits"
    assert row.cost_usd is None, "the price of an unknown model is unknown, never zero"


def test_observe_decides_and_records_but_changes_nothing():
    session = begin(Controller("cap:100", mode="observe"), temperature=0.3)
    assert session.params == {"temperature": 0.3}
    assert session.budget == Budget(stop="none")
    row = finish(session)
    assert (row.decision.reasoning_tokens, row.budget_state.applied, row.controls) == (100, None, ())


def test_the_record_keeps_the_features_of_the_query_and_not_its_text():
    sink = Collect()
    finish(begin(Controller("cap:100", sinks=[sink])))
    [row] = sink.rows
    assert row.features["log_chars"] > 0
    assert HARD.text not in row.model_dump_json()
    assert str(row.query_hash).startswith("install:")


def test_numbers_in_a_query_cannot_be_read_back_from_its_record():
    controller = Controller("auto")
    features = [controller.features(Query.from_text(f"My code is {code}.")) for code in (48213, 50001)]
    assert features[0] == features[1]


def test_strict_refuses_a_budget_that_the_model_cannot_keep():
    with pytest.raises(UnsupportedControl, match="deadline"):
        begin(Controller("cap:100", limits=Limits(deadline_s=1), strict=True))


def test_speed_is_learnt_from_finished_calls_and_shared_by_copies():
    controller = Controller("deadline:2")
    other = controller.with_policy("full")
    for _ in range(5):
        finish(begin(other))
    decision = begin(controller).decision
    assert decision.budget.reasoning_tokens is not None
    assert controller.policy != other.policy


def test_a_sink_that_fails_does_not_fail_the_call():
    class Broken:
        def write(self, outcome: Outcome, *, text: str | None = None) -> None:
            raise OSError("no space")

    sink = Collect()
    finish(begin(Controller("cap:100", sinks=[Broken(), sink])))
    assert len(sink.rows) == 1


def test_callbacks_run_in_order_off_the_hot_path_and_may_fail():
    seen: list[str] = []

    async def on_outcome(outcome: Outcome) -> None:
        seen.append(f"outcome {outcome.policy}")

    def on_decision(decision: Any) -> None:
        seen.append(f"decision {decision.policy}")
        raise ValueError("mine")

    callbacks = Callbacks(on_decision=on_decision, on_outcome=on_outcome)
    finish(begin(Controller("cap:100", callbacks=callbacks)))
    assert callbacks.flush()
    assert seen == ["decision cap:100", "outcome cap:100"]
    assert list(callbacks.errors) == ["on_decision: ValueError"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"policy": "bogus"}, "bogus"),
        ({"mode": "maybe"}, "mode: seen 'maybe', allowed: enforce, observe"),
        ({"caller_values": "ignore"}, "allowed: pin, ceiling"),
        ({"min_confidence": 3}, "min_confidence: seen 3, allowed: a number that lies between 0 and 1"),
        ({"min_confidence": "0.5"}, "min_confidence: seen '0.5', allowed: a number"),
        ({"min_confidence": float("nan")}, "min_confidence: seen nan"),
        ({"strict": "no"}, "strict: seen 'no', allowed: True, False"),
        (
            {"classifier": "defualt"},
            "classifier: no classifier 'defualt'; known: default, heuristic, pocket, or the path",
        ),
        (
            {"classifier": 3},
            r"classifier: seen 3, allowed: a registered name, what has estimate\(\), or None",
        ),
        ({"limits": {"deadline_s": 5}}, "limits: seen .*, allowed: Limits"),
        ({"sinks": "outcomes.jsonl"}, "sinks: seen 'o', allowed: JsonlSink"),
        ({"capabilities": "own.toml"}, "capabilities: seen 'own.toml', allowed: .*Table.load"),
        ({"prices": "own.toml"}, "prices: seen 'own.toml', allowed: .*Prices.load"),
        ({"callbacks": print}, "callbacks: seen .*, allowed: Callbacks"),
    ],
)
def test_a_controller_is_never_half_built(arguments: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        Controller(**arguments)


@pytest.mark.parametrize("name", ["on_decision", "on_delta", "on_stop", "on_outcome"])
def test_a_callback_can_be_called(name: str):
    with pytest.raises(ConfigError, match=f"{name}: seen 3, allowed: a function of one argument"):
        Callbacks(**{name: 3})  # type: ignore[arg-type]


def test_a_fault_of_ours_is_logged_once_for_each_cause_and_quotes_nothing(caplog: pytest.LogCaptureFixture):
    controller = Controller("cap:100", classifier=None)
    for fault, n in ((KeyError, 3), (TypeError, 2)):
        for _ in range(n):
            try:
                raise fault("my diagnosis")
            except Exception as error:
                controller.with_policy("off").unbudgeted("the call", error)
    assert [record.getMessage().partition(" at ")[0] for record in caplog.records] == [
        "the call goes through unchanged: KeyError",
        "the call goes through unchanged: TypeError",
    ]
    assert "diagnosis" not in caplog.text
    assert "Traceback" not in caplog.text


# --- faults of ours, and of what users plug in, stay out of the call ---------------------------------------


class Mine:
    """A policy without a name of its own."""

    needs_estimate = False

    def __init__(self, budget: Any = None, *, error: Exception | None = None) -> None:
        self._budget, self.error = budget, error

    def budget(self, situation: Any) -> Any:
        if self.error is not None:
            raise self.error
        return self._budget


class Unnamed(Mine):
    def __str__(self) -> str:
        raise ValueError("no name")


@pytest.mark.parametrize("policy", [Mine(None), Unnamed(Budget()), Mine("100")])
def test_a_policy_that_answers_with_nonsense_falls_back_too(policy: Any):
    decision = Controller(policy).decide(HARD)
    assert decision.budget == Budget(stop="none")
    assert decision.policy == type(policy).__name__
    assert "policy failed" in str(decision.fallback)


def test_records_and_logs_name_errors_and_never_quote_them(caplog: pytest.LogCaptureFixture):
    secret = RuntimeError("cannot read 'my diagnosis'")

    class Broken:
        def write(self, outcome: Outcome, *, text: str | None = None) -> None:
            raise secret

    def fails(value: Any) -> None:
        raise secret

    callbacks = Callbacks(on_outcome=fails)
    for policy in ("quantile:0.9", Mine(error=secret)):
        controller = Controller(policy, classifier=Fixed(error=secret), sinks=[Broken()], callbacks=callbacks)
        row = finish(begin(controller))
        assert "RuntimeError" in row.why
        assert "diagnosis" not in row.model_dump_json()
    assert callbacks.flush()
    assert list(callbacks.errors) == ["on_outcome: RuntimeError"] * 2
    assert "diagnosis" not in caplog.text


def test_an_outcome_that_cannot_be_built_costs_the_record_and_not_the_call(caplog: pytest.LogCaptureFixture):
    class Unreadable:
        def lookup(self, model: str | None, **_: object) -> None:
            return None

        def cost(self, model: str | None, usage: Usage, **_: object) -> float:
            raise RuntimeError("my diagnosis")

    prices: Any = Unreadable()
    assert finish(begin(Controller("cap:100", prices=prices))) is None
    assert "could not be recorded: RuntimeError" in caplog.text
    assert "diagnosis" not in caplog.text


def test_strict_does_not_refuse_what_is_only_observed():
    controller = Controller("cap:100", limits=Limits(deadline_s=1), strict=True, mode="observe")
    assert begin(controller, temperature=0.3).params == {"temperature": 0.3}


def test_a_limit_in_seconds_asks_the_policy_once_and_keeps_its_stop_preset():
    asked = []

    class Once(Mine):
        def budget(self, situation: Any) -> Budget:
            asked.append(situation)
            return Budget(reasoning_tokens=100, stop="none")

    decided = Controller(Once(), limits=Limits(deadline_s=3)).decide(HARD).budget
    assert decided == Budget(reasoning_tokens=100, deadline_s=3, stop="none")
    assert len(asked) == 1


# --- the state of the budget -------------------------------------------------------------------------------


def state(*controls: AppliedControl, budget: Budget, spent: int | None, model: str = "Qwen/Qwen3-8B") -> Any:
    def carry(b: Budget, c: Any, params: Mapping[str, Any], *, caller_values: str) -> Rendered:
        return Rendered(params=dict(params), controls=controls)

    session = Controller(Mine(budget)).session(
        Query.from_text("Prove it.", model=model), params={}, endpoint="vllm", render=carry
    )
    row = finish(session, usage=Usage(reasoning_tokens=spent)).budget_state
    return (row.requested, row.applied, row.strength, row.hit)


def control(name: str, value: Any, strength: Any = "hard") -> AppliedControl:
    return AppliedControl(name=name, value=value, strength=strength)


def test_the_state_of_a_budget_is_that_of_the_control_that_carries_it():
    cap = Budget(reasoning_tokens=500)
    engine = control("thinking_token_budget", 400)
    assert state(engine, budget=cap, spent=420) == (500, 400, "hard", True)
    assert state(engine, budget=cap, spent=None) == (500, 400, "hard", None)
    both = (control("thinking_token_budget", 400, "advisory"), control("abort_continue", 300))
    assert state(*both, budget=cap, spent=299) == (500, 300, "hard", False)
    ours_only = (control("deadline", 3.0), control("stop", "safe"), control("max_completion_tokens", 900))
    assert state(*ours_only, budget=cap, spent=900) == (500, None, "none", None)
    assert state(budget=cap, spent=900) == (500, None, "none", None), "pinned: nothing of ours acts"


def test_the_state_of_levels_and_switches():
    level = control("reasoning_effort", "low", "advisory")
    assert state(level, budget=Budget(effort="low"), spent=9) == ("low", "low", "advisory", None)
    off = control("chat_template_kwargs.enable_thinking", False)
    assert state(off, budget=Budget(reasoning_tokens=0), spent=0) == (0, 0, "hard", None)


# --- what is computed, shared and learned -------------------------------------------------------------------


def test_features_are_computed_only_where_somebody_gets_them():
    described = []

    class Describes(Fixed):
        def describe(self, query: Query) -> dict[str, float]:
            described.append(query)
            return {"x": 1.0}

    assert finish(begin(Controller("cap:100", classifier=Describes()))).features == {}
    assert not described
    seen: list[Outcome] = []
    callbacks = Callbacks(on_outcome=seen.append)
    finish(begin(Controller("cap:100", classifier=Describes(), callbacks=callbacks)))
    assert callbacks.flush()
    assert seen[0].features == {"x": 1.0}


def test_copies_under_another_policy_share_the_tables():
    controller = Controller("auto")
    other = controller.with_policy("full")
    assert other.capabilities is controller.capabilities
    assert other.prices is controller.prices


def test_no_speed_is_learned_where_thinking_is_hidden():
    controller = Controller("auto")
    for _ in range(5):
        session = controller.session(
            Query.from_text("Prove it.", model="gpt-5"), params={}, endpoint="openai", render=render
        )
        assert session.capability.reasoning == "hidden"
        finish(session)
    assert controller.speeds.pace("openai", "gpt-5") is None


# --- callbacks ----------------------------------------------------------------------------------------------


def test_callbacks_of_the_last_call_run_before_the_process_ends():
    code = (
        "import time\n"
        "from budgetctl.callbacks import Callbacks\n"
        "Callbacks(on_outcome=lambda x: (time.sleep(0.3), print(x, flush=True))).emit('on_outcome', 'seen')\n"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "seen\n"


def test_the_errors_of_callbacks_are_the_last_hundred():
    def fails(value: Any) -> None:
        raise ValueError

    callbacks = Callbacks(on_outcome=fails)
    for _ in range(150):
        callbacks.emit("on_outcome", 1)
    assert callbacks.flush()
    assert len(callbacks.errors) == 100


# --- limits over every policy -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "limit", "tokens"),
    [("full", 500, 500), ("cap:100", 500, 100), ("cap:900", 500, 500), ("off", 500, 0), ("full", 0, 0)],
)
def test_a_limit_in_tokens_holds_over_every_policy(policy: str, limit: int, tokens: int):
    decision = Controller(policy, limits=Limits(reasoning_tokens=limit)).decide(HARD)
    assert decision.budget.reasoning_tokens == tokens
    assert (f"limit: {limit} tokens" in decision.reasons) is (tokens == limit and policy != "off")


def test_a_limit_of_nothing_is_one_token_where_thinking_cannot_be_switched_off():
    decided = Controller("full", limits=Limits(reasoning_tokens=0)).decide(
        HARD, facts=ModelFacts(can_cap=True)
    )
    assert decided.budget.reasoning_tokens == 1


@pytest.mark.parametrize("wrong", [{"deadline_s": 0}, {"reasoning_tokens": -1}, {"deadline_s": float("nan")}])
def test_a_limit_out_of_range_is_refused_at_once(wrong: Any):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}: seen"):
        Limits(**wrong)


# --- one decision per conversation --------------------------------------------------------------------------


class Rising:
    """A policy that gives every call one token more than the one before."""

    needs_estimate = False

    def __init__(self) -> None:
        self.asked = 0

    def budget(self, situation: Any) -> Budget:
        self.asked += 1
        return Budget(reasoning_tokens=100 * self.asked, reasons=(f"call {self.asked}",))

    def __str__(self) -> str:
        return "rising"


CACHED = Table(
    (
        Capability(
            models=("cached-*",), endpoints=("openai-compatible",), breaks_cache=True, source="a test"
        ),
        Capability(models=("*",), endpoints=("openai-compatible",), source="a test"),
    ),
    version="test",
)


def ask(controller: Controller, *turns: str, model: str = "cached-1", **options: Any) -> Decision:
    """Decide a call with these turns: the system's, the user's, the assistant's, the user's, ..."""
    roles = ["system", *["user", "assistant"] * len(turns)]
    messages = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]
    query = Query.from_messages(messages, model=model)
    return controller.session(
        query, params={}, endpoint="openai-compatible", render=render, **options
    ).decision


def caps(*decisions: Decision) -> list[int | None]:
    return [decision.budget.reasoning_tokens for decision in decisions]


def test_a_conversation_keeps_the_budget_of_its_first_call_where_another_costs_the_cache():
    controller = Controller(Rising(), capabilities=CACHED)
    first = ask(controller, "Be brief.", "Why?")
    later = ask(controller, "Be brief.", "Why?", "Because.", "And why that?")
    assert caps(first, later) == [100, 100]
    assert later.reasons == ("kept from the conversation's first call, for the prompt cache", "call 1")
    assert caps(ask(controller, "Be brief.", "How?"), ask(controller, "Be long.", "Why?")) == [200, 300]
    assert caps(ask(controller, "Be brief.", "Why?", "Because.", "So?", model="cached-2")) == [400]


def test_a_conversation_that_begins_again_is_decided_again():
    controller = Controller(Rising(), capabilities=CACHED)
    assert caps(*(ask(controller, "Be brief.", "Hi") for _ in range(2))) == [100, 200]
    assert caps(ask(controller, "Be brief.", "Hi", "Hello", "Why?")) == [200]


def test_models_that_keep_their_cache_are_decided_call_by_call():
    controller = Controller(Rising(), capabilities=CACHED)
    calls = [("Be brief.", "Why?"), ("Be brief.", "Why?", "Because.", "So?")]
    assert caps(*(ask(controller, *turns, model="other") for turns in calls)) == [100, 200]


def test_a_conversation_has_the_id_that_the_call_or_the_caller_gives():
    controller = Controller(Rising(), capabilities=CACHED)
    assert caps(*(ask(controller, "", text, conversation="c1") for text in "abc")) == [100, 100, 100]
    with budgetctl.override(conversation="c2"):
        assert caps(*(ask(controller, "", text) for text in "ab")) == [200, 200]
    assert caps(ask(controller, "", "d")) == [300]


def test_a_tighter_limit_applies_to_a_conversation_and_a_policy_named_later_wins():
    controller = Controller(Rising(), capabilities=CACHED)
    ask(controller, "", "Why?")
    turns = ("", "Why?", "Because.", "So?")
    hurried = ask(controller, *turns, limits=Limits(deadline_s=2, reasoning_tokens=50))
    assert (hurried.budget.reasoning_tokens, hurried.budget.deadline_s) == (50, 2)
    with budgetctl.override("cap:7"):
        assert caps(ask(controller, *turns)) == [7]
    assert caps(ask(controller, *turns)) == [100], "the conversation itself is as it was"


def test_a_conversation_is_remembered_across_policies_and_routes_of_one_controller():
    controller = Controller(Rising(), capabilities=CACHED)
    ask(controller, "", "Why?")
    other = controller.with_route("support")
    assert caps(ask(other, "", "Why?", "Because.", "So?")) == [100]


def test_what_is_remembered_is_bounded_and_holds_no_text():
    memory = Conversations(most=2)
    for name in "abc":
        memory.keep(Conversation(key=name, begins=True), "p", Budget(reasoning_tokens=ord(name)))
    assert [memory.recall(Conversation(key=n, begins=False), "p") is None for n in "abc"] == [
        True,
        False,
        False,
    ]
    query = Query.from_text("my diagnosis", model="cached-1")
    found = conversation_of(query, CACHED.lookup("cached-1", "openai-compatible"), place="here")
    assert found is not None
    assert "diagnosis" not in found.key
