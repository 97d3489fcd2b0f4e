"""An outcome says what was decided, what acted and what it cost. Rows outlive versions."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import dataclass

import pytest
from pydantic import BaseModel, ValidationError

from budgetctl.errors import ConfigError
from budgetctl.outcomes import Feedback, Outcome, attach, outcome
from budgetctl.types import (
    AppliedControl,
    Budget,
    Decision,
    Estimate,
    Expected,
    Quantiles,
    StopReason,
    Timing,
    Usage,
)

ROW_KEYS = """
    schema_version id parent_id time route query_hash features model policy policy_hash action_probability
    decision controls usage timing stop budget_state pinned answered fallback cost_usd cache_lost
    ladder certificate certificate_void_reason
"""


def decision(**changes) -> Decision:
    tokens = Quantiles(p50=100, p80=200, p90=300, p95=400)
    return Decision(
        **{
            "budget": Budget(reasoning_tokens=2048, answer_tokens=512, reasons=("the caller's cap",)),
            "policy": "cap:2048",
            "policy_hash": "abc",
            "estimate": Estimate(
                p_off=0.2, p_full=0.9, settled=tokens, natural=tokens, confidence=0.7, source="linear@1"
            ),
            "expected": Expected(p_correct=0.88),
            "decide_us": 310.0,
            **changes,
        }
    )


def made(**changes) -> Outcome:
    return Outcome.of(
        decision(),
        **{
            "stop": StopReason.NATURAL,
            "answered": True,
            "usage": Usage(prompt_tokens=10, reasoning_tokens=512, answer_tokens=40, provenance="reported"),
            "timing": Timing(ttft_s=0.1, ttfo_s=2.5, e2e_s=3.0),
            "controls": [AppliedControl(name="thinking_token_budget", value=2048, strength="hard")],
            "model": "m",
            **changes,
        },
    )


def test_a_row_has_exactly_the_documented_keys():
    row = json.loads(made().model_dump_json())
    assert list(row) == ROW_KEYS.split()
    tokens = {"prompt_tokens", "reasoning_tokens", "answer_tokens", "cached_tokens", "cache_write_tokens"}
    assert set(row["usage"]) == {*tokens, "provenance"}
    assert set(row["timing"]) == {"ttft_s", "ttfo_s", "e2e_s", "decide_us"}
    assert set(row["stop"]) == {"reason", "criterion", "probe_tokens"}
    assert set(row["budget_state"]) == {"requested", "applied", "strength", "hit"}
    assert set(row["controls"][0]) == {"name", "value", "strength"}
    assert row["schema_version"] == "1.1"


def test_a_row_of_an_earlier_minor_version_is_read():
    row = json.loads(made().model_dump_json()) | {"schema_version": "1.0"}
    del row["cache_lost"], row["usage"]["cached_tokens"], row["usage"]["cache_write_tokens"]
    read = Outcome.read(row)
    assert (read.usage.cached_tokens, read.cache_lost) == (None, None)


def test_the_decision_is_stored_with_its_estimate():
    row = made().decision
    assert (row.reasoning_tokens, row.answer_tokens, row.reasons) == (2048, 512, ("the caller's cap",))
    assert row.estimate is not None
    assert row.estimate.need == pytest.approx(0.7)
    assert row.expected.p_correct == 0.88


def test_what_is_unknown_is_none_and_not_zero():
    bare = Outcome.of(decision(estimate=None), stop=StopReason.ERROR, answered=False)
    assert (bare.reasoning_tokens, bare.ttfo_s, bare.cost_usd, bare.budget_state.hit) == (None,) * 4


def test_building_refuses_unknown_fields_and_names_them():
    with pytest.raises(ValidationError, match=r"no field \['reasonning'\]"):
        made(reasonning=1)


def test_a_later_minor_version_is_read_and_written_back_unchanged():
    row = json.loads(made().model_dump_json())
    row["schema_version"] = "1.9"
    row["carbon_g"] = 0.2
    row["stop"]["votes"] = [1, 2]
    read = Outcome.read(json.dumps(row))
    assert read.reasoning_tokens == 512
    assert json.loads(read.model_dump_json()) == row


@pytest.mark.parametrize("version", ["2.0", "0.9", None, 1])
def test_another_major_version_is_refused_with_both_versions_named(version):
    row = json.loads(made().model_dump_json()) | {"schema_version": version}
    with pytest.raises(ConfigError, match=r"schema_version .* cannot be read, this version reads 1\.x"):
        Outcome.read(row)


def test_why_tells_decision_controls_and_ending_in_one_sentence():
    assert made().why == (
        "cap:2048 allowed 2,048 reasoning tokens (the caller's cap); set thinking_token_budget=2048 (hard); "
        "the model ended its thinking itself after 512 reasoning tokens."
    )


def test_why_does_not_hide_pins_fallbacks_estimates_and_missing_answers():
    why = made(
        controls=(),
        pinned=("reasoning_effort",),
        fallback="classifier timed out",
        answered=False,
        stop=StopReason.LOOP,
        criterion="loop",
        usage=Usage(reasoning_tokens=900, provenance="counted"),
    ).why
    assert "set no control, left reasoning_effort as the caller pinned it" in why
    assert "it repeated itself [loop] after 900 reasoning tokens (counted)" in why
    assert why.endswith("fell back: classifier timed out; no answer came back.")


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (Budget(), "left thinking free"),
        (Budget(reasoning_tokens=0), "switched thinking off"),
        (Budget(effort="low"), "asked for effort low"),
        (Budget(reasoning_tokens=9, deadline_s=4.0), "allowed 9 reasoning tokens within 4 s"),
    ],
)
def test_why_names_every_kind_of_budget(budget, said):
    row = Outcome.of(decision(budget=budget, policy="auto"), stop=StopReason.NATURAL, answered=True)
    assert row.why.startswith(f"auto {said};")


@pytest.mark.parametrize("reason", StopReason)
def test_why_has_words_for_every_stop_reason(reason):
    assert f"thinking ended by {reason}" not in made(stop=reason).why


# --- finding the outcome of an object ---------------------------------------------------------------------


class Completion(BaseModel, extra="allow"):
    """Shaped like the responses of the OpenAI client."""

    id: str


class Stream:
    pass


class Slotted:
    __slots__ = ("__weakref__",)


@dataclass(frozen=True)
class Frozen:
    x: int = 1


@pytest.mark.parametrize("make", [lambda: Completion(id="c"), Stream, Slotted, Frozen])
def test_an_attached_outcome_is_found_again(make):
    obj, row = make(), made()
    assert attach(obj, row)
    assert outcome(obj) is row


def test_attaching_leaves_the_object_as_it_was_for_everyone_else():
    plain, carrying = Completion(id="c"), Completion(id="c")
    attach(carrying, made())
    assert carrying == plain
    assert carrying.model_dump() == plain.model_dump()
    assert repr(carrying) == repr(plain)


def test_an_object_without_a_dict_takes_its_outcome_along_when_it_dies():
    from budgetctl import outcomes

    before = len(outcomes._by_id)
    obj = Slotted()
    attach(obj, made())
    assert len(outcomes._by_id) == before + 1
    del obj
    assert len(outcomes._by_id) == before


def test_an_object_with_an_outcome_of_its_own_and_an_outcome_itself_are_understood():
    row = made()
    holder = Stream()
    holder.outcome = row
    assert outcome(holder) is row
    assert outcome(row) is row


@pytest.mark.parametrize("obj", ["text", {"choices": []}, 3, None])
def test_what_carries_no_outcome_says_what_can_be_asked(obj):
    assert not attach(obj, made())
    with pytest.raises(LookupError, match=r"carries no outcome\. Ask for the object"):
        outcome(obj)


def test_feedback_says_exactly_one_thing():
    assert Feedback(id="a", correct=True, source="user").correct is True
    assert Feedback(id="a", score=0.5, source="user").score == 0.5
    for wrong in ({}, {"correct": True, "score": 1.0}, {"score": 1.5}):
        with pytest.raises(ValidationError):
            Feedback(id="a", source="user", **wrong)


def test_attaching_writes_nothing_into_the_objects_of_users():
    obj = Stream()
    obj.text = "42"
    attach(obj, made())
    assert json.dumps(vars(obj)) == '{"text": "42"}'
    completion = Completion(id="c")
    attach(completion, made())
    assert copy.deepcopy(completion) == pickle.loads(pickle.dumps(completion)) == completion


def test_where_no_weak_reference_is_possible_the_outcome_is_an_attribute():
    class Strong:
        __slots__ = ("__dict__",)

    obj, row = Strong(), made()
    assert attach(obj, row)
    assert outcome(obj) is row
