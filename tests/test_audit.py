"""Audits without a network: what is drawn, what they rest on, and what ``auto`` makes of it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from budgetctl.adapters import openai_chat
from budgetctl.audit import Audits, repeatable
from budgetctl.config import Settings
from budgetctl.controller import Controller
from budgetctl.errors import ConfigError
from budgetctl.overrides import override
from budgetctl.policy import Certified
from budgetctl.session import Session
from budgetctl.types import Budget, Decision, Limits, Price, Query
from tests.test_certificate import ENDPOINT, MODEL, certificate

QUERY = Query.from_text("How many?", model=MODEL)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    certificate().save(tmp_path / "cert.json")
    return tmp_path / "cert.json"


def audits(path: Path, **options: Any) -> Audits:
    return Audits(path.parent / "audits.jsonl", **{"certificate": path, **options})


def begin(policy: str, audits: Audits | None, **more: Any) -> Session:
    params = {"model": MODEL, **more.pop("params", {})}
    controller = Controller(policy, audits=audits, **{"classifier": None, **more})
    return controller.session(
        QUERY, params=params, endpoint=ENDPOINT, render=openai_chat.render, repeatable=True
    )


def test_auto_on_a_certificate_is_its_cap(path: Path):
    session = begin("auto", audits(path))
    assert session.decision.budget == Budget(reasoning_tokens=512, stop="none")
    assert session.decision.certificate == certificate().id
    assert session.decision.policy == "auto"
    assert session.decision.policy_hash != begin("auto", None).decision.policy_hash


@pytest.mark.parametrize(
    ("policy", "more", "why"),
    [
        ("auto", {"params": {"temperature": 0.6}}, "temperature: bound to None, seen 0.6"),
        ("auto", {"params": {"extra_body": {"thinking_token_budget": 99}}}, "pinned by the caller"),
        ("auto", {"limits": Limits(reasoning_tokens=9000)}, "a limit of the call"),
        ("auto+stop:none", {}, "auto+stop:none"),
        ("auto&cap:100000", {}, "no certificate configured"),
    ],
)
def test_where_the_certificate_does_not_hold_auto_cuts_nothing(
    path: Path, policy: str, more: dict[str, Any], why: str
):
    for strict in (False, True):  # auto has not promised that there is a certificate
        session = begin(policy, audits(path), strict=strict, **more)
        assert session.decision.certificate is None
        assert why in (session.decision.certificate_void_reason or "")
        assert session.decision.budget.reasoning_tokens != 512


def test_a_change_of_stage_is_logged_once_and_said_in_every_decision(path: Path, caplog: Any):
    made = audits(path, epsilon=0.05)
    assert begin("auto", made).decision.reasons[0] == f"auto stage 1: certificate {made.subject}: no alarm"
    for _ in range(5):
        made.compare("41", "42", of="1")
    for _ in range(2):
        decision = begin("auto", made).decision
        assert decision.reasons[1].endswith("audits raised the alarm (n 2); was stage 1")
        assert (decision.certificate, decision.budget.reasoning_tokens) == (None, None)
    assert len([r for r in caplog.records if "auto stands on stage 0" in r.message]) == 1


def test_another_process_learns_of_the_alarm(path: Path):
    now = [0.0]
    one, other = audits(path), audits(path, clock=lambda: now[0])
    assert begin("auto", other).decision.certificate is not None
    for _ in range(5):
        one.compare("41", "42", of="1")
    now[0] = 1.5
    assert begin("auto", other).decision.certificate is None


def test_a_journal_that_cannot_be_read_leads_to_the_ground(path: Path):
    now = [0.0]
    made = audits(path, clock=lambda: now[0])
    assert begin("auto", made).decision.certificate is not None
    (path.parent / "audits.jsonl").unlink()
    now[0] = 1.5
    decision = begin("auto", made).decision
    assert decision.certificate is None
    assert decision.fallback is None
    assert "cannot be read (FileNotFoundError)" in (decision.certificate_void_reason or "")


def test_a_conversation_does_not_keep_a_certified_budget_after_the_alarm(path: Path):
    from budgetctl.conversation import Conversation

    made = audits(path)
    controller = Controller("auto", audits=made, classifier=None)

    def decide(*, begins: bool) -> Decision:
        conversation = Conversation(key="1", begins=begins)
        return controller.decide(QUERY, endpoint=ENDPOINT, params={"model": MODEL}, conversation=conversation)

    assert decide(begins=True).budget.reasoning_tokens == 512
    for _ in range(5):
        made.compare("41", "42", of="1")
    assert decide(begins=False).budget.reasoning_tokens is None


def test_an_override_is_neither_covered_nor_audited(path: Path):
    with override("cap:64"):
        decision = begin("auto", audits(path, rate=1.0, usd_per_day=1)).decision
    assert (decision.certificate, decision.audit) == (None, False)


def test_the_draw_is_by_lot(path: Path):
    made = audits(path, rate=0.1, usd_per_day=1, rng=random.Random(1))
    controller = Controller("auto", audits=made, classifier=None)
    decision = controller.decide(QUERY, endpoint=ENDPOINT, params={"model": MODEL})
    drawn = sum(made.draw(decision, limits=Limits()) for _ in range(10_000))
    assert 900 < drawn < 1100


def test_audits_of_a_policy_that_holds_a_certificate_are_of_the_certificate(path: Path):
    made = Audits(path.parent / "a", policy=f"certified:{path}", rate=1.0, tokens_per_day=1)
    assert made.subject == certificate().id
    assert begin(f"certified:{path}", made).decision.audit
    assert begin("auto", made).decision.certificate is None  # nobody said that auto may stand on it


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rate": 2.0, "usd_per_day": 1}, "rate: seen 2.0"),
        ({"rate": 0.1}, "usd_per_day or tokens_per_day"),
        ({"policy": "cap:3"}, "name one of them"),
        ({"certificate": None}, "name one of them"),
        ({"certificate": None, "policy": "cap:none"}, "does not fit"),
    ],
)
def test_what_cannot_work_is_refused_at_once(path: Path, options: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        audits(path, **options)


def test_auto_stands_on_uniform_caps_only(path: Path):
    certificate("exchange:0.5+stop:none", classifier="1", min_confidence=0.5).save(path)
    with pytest.raises(ConfigError, match="uniform cap, seen one of exchange"):
        audits(path)
    assert isinstance(Certified.load(path), Certified)


def test_a_reservation_is_at_the_dearer_rate(path: Path):
    made = audits(path, rate=1.0, usd_per_day=1.0)
    price = Price(input=1, output=2, reasoning=10)
    assert made.reserve(price=price, prompt=0, output=100_000) is not None
    assert made.reserve(price=price, prompt=0, output=1) is None


def test_a_call_with_a_form_for_its_answer_may_be_made_again():
    assert repeatable(
        {"model": "m", "messages": [], "response_format": {}, "extra_body": {"guided_json": {}}}
    )
    assert not repeatable({"model": "m", "extra_body": {"tools": []}})
    assert repeatable({"model": "m", "tools": None})


def test_audits_come_from_a_configuration(path: Path):
    table = {"rate": 0.02, "usd_per_day": 5, "journal": path.parent / "a", "certificate": path}
    settings = Settings.load({"audit": table}, env={})
    made = settings.controller().audits
    assert made is not None
    assert (made.rate, made.subject, made.evidence.epsilon) == (0.02, certificate().id, 0.03)
    own = settings.audits(agree=lambda delivered, full: True)
    assert own is not None
    assert own.agree("1", "2")
    assert Settings.load({}, env={}).controller().audits is None


def test_without_a_certificate_they_are_of_the_policy(path: Path):
    table = {"rate": 0.02, "tokens_per_day": 5, "journal": path.parent / "a", "epsilon": 0.1}
    made = Settings.load({"policy": "cap:2000", "audit": table}, env={}).controller().audits
    assert made is not None
    assert (made.subject, made.evidence.epsilon) == ("cap:2000", 0.1)
    with pytest.raises(ConfigError, match="the journal is of"):
        Settings.load({"policy": "cap:3000", "audit": table}, env={}).controller()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"rate": 0.1, "usd_per_day": 1}, "need a journal"),
        ({"rate": 0.1, "journal": "a"}, "usd_per_day or tokens_per_day"),
        ({"journal": "a", "certificate": "none.json"}, "audit.certificate: seen 'none.json'"),
        ({"rate": 1.1, "journal": "a"}, "audit.rate: seen 1.1"),
    ],
)
def test_a_bad_table_is_explained(table: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        Settings.load({"audit": table}, env={})
