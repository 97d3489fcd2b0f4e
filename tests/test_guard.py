"""The answer guard: what begins like thinking, and what is tried for a call without an answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetctl.guard import RETHINK_CHARS, Guard, Opening, Step, rethinks


@pytest.mark.parametrize(
    "text",
    [
        "Wait, that is wrong.",
        "But wait, the sum",
        "Hmm. Let me see",
        "  Let me double-check that.",
        "But let me think again about",
        "Okay, let me recheck",
        "<think>\nSo",
        "Alternatively, we could",
    ],
)
def test_what_begins_as_thinking_does(text: str):
    assert rethinks(text)


@pytest.mark.parametrize(
    "text",
    [
        "The answer is 42.",
        "But the sky is blue.",
        "Let me know if you need more.",
        "Waiting lists are long.",
        "You have to wait for it.",
        "So the answer is 3.",
        "Alternative energy is cheap.",
        "No.",
        "",
    ],
)
def test_what_begins_as_an_answer_does(text: str):
    assert not rethinks(text)


@given(st.lists(st.text(max_size=12), max_size=30))
def test_an_opening_loses_nothing_however_the_text_is_cut(pieces: list[str]):
    opening = Opening()
    shown = "".join(opening.feed(piece) for piece in pieces)
    assert shown + opening.release() == "".join(pieces)


def test_an_opening_holds_back_only_the_first_characters():
    opening = Opening()
    assert opening.feed("The answer ") == ""
    assert opening.feed("x" * RETHINK_CHARS) == "The answer " + "x" * RETHINK_CHARS
    assert opening.feed("wait") == "wait"


def guard(*, left: float | None = None, ours: bool = True) -> Guard:
    return Guard(ours=ours, time_left=lambda: left)


def steps(one: Guard, *, can_continue: bool, can_switch_off: bool) -> list[Step]:
    found = []
    while not found or found[-1] is not Step.GIVE_UP:
        found.append(one.next(can_continue=can_continue, can_switch_off=can_switch_off))
    return found


@pytest.mark.parametrize(
    ("can_continue", "can_switch_off", "tried"),
    [
        (True, True, [Step.CONTINUE, Step.OWN, Step.GIVE_UP]),
        (False, True, [Step.OFF, Step.OWN, Step.GIVE_UP]),
        (False, False, [Step.OWN, Step.GIVE_UP]),
    ],
)
def test_one_recovery_then_the_callers_own_parameters_then_nothing(
    can_continue: bool, can_switch_off: bool, tried: list[Step]
):
    assert steps(guard(), can_continue=can_continue, can_switch_off=can_switch_off) == tried


def test_the_callers_own_parameters_are_not_tried_behind_the_deadline():
    assert steps(guard(left=-0.1), can_continue=True, can_switch_off=True) == [Step.CONTINUE, Step.GIVE_UP]
    assert Step.OWN in steps(guard(left=3.0), can_continue=True, can_switch_off=True)


def test_a_thought_is_closed_again_once():
    one = guard()
    assert [one.reclose(), one.reclose()] == [True, False]
