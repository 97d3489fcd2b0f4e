"""The controller: decisions, what it falls back to, and what it records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

import budgetctl
from budgetctl.adapters import Rendered
from budgetctl.callbacks import Callbacks
from budgetctl.controller import Controller
from budgetctl.errors import ClassifierError, ConfigError, UnsupportedControl
from budgetctl.outcomes import Outcome
from budgetctl.session import Session
from budgetctl.types import (
    AppliedControl,
    Budget,
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
        controls=(AppliedControl(name="cap", value=cap, strength="hard"),),
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
        (Fixed(error=RuntimeError("no weights")), "classifier failed: RuntimeError: no weights"),
        (Fixed(confidence=0.2), "estimate confidence is below 0.5"),
        (None, "no classifier configured"),
        ("no-such-classifier", "classifier failed: ClassifierError"),
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
    assert row.controls[0].name == "cap"
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
    assert callbacks.errors == ["on_decision: ValueError: mine"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"policy": "bogus"}, "bogus"),
        ({"mode": "maybe"}, "mode: seen 'maybe', allowed: enforce, observe"),
        ({"caller_values": "ignore"}, "allowed: pin, ceiling"),
        ({"min_confidence": 3}, "between 0 and 1"),
    ],
)
def test_a_controller_is_never_half_built(arguments: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        Controller(**arguments)
