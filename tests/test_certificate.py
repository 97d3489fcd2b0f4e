"""Certificates: what they bind, where they step aside, and what is recorded of it."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from budgetctl.adapters import openai_chat
from budgetctl.certificate import Binding, Certificate, Circumstances, thresholds
from budgetctl.controller import Controller
from budgetctl.errors import CertificateError, CertificateMismatch, ConfigError
from budgetctl.overrides import override
from budgetctl.policy import parse
from budgetctl.session import Acted, OuterCall, Session, outer_call
from budgetctl.stopping import CloseMargin
from budgetctl.types import Decision, Estimate, Limits, Quantiles, Query, StopReason, Timing, Usage

MODEL, ENDPOINT = "Qwen/Qwen3-8B", "vllm"
QUERY = Query.from_text("How many?", model=MODEL)


class Fixed:
    """A classifier that thinking of 100 tokens settles for, at a confidence of choice."""

    def __init__(self, confidence: float = 1.0, *, hash: str = "weights 1") -> None:  # noqa: A002
        self.hash, self.confidence = hash, confidence

    def estimate(self, query: Query) -> Estimate:
        tokens = Quantiles(p50=100, p80=200, p90=400, p95=500)
        return Estimate(
            p_off=0.1,
            p_full=0.9,
            settled=tokens,
            natural=tokens,
            confidence=self.confidence,
            source="fixed",
        )


class Broken:
    hash = "weights 1"

    def estimate(self, query: Query) -> Estimate:
        raise RuntimeError("no weights")


def certificate(policy: str = "cap:512+stop:none", **binds: Any) -> Certificate:
    stop = "none" if "stop:none" in policy else "safe"
    bound: dict[str, Any] = {
        "model": MODEL,
        "endpoint": ENDPOINT,
        "stop": stop,
        "thresholds": thresholds(stop),
        "capabilities": Controller().capabilities.version,
        **binds,
    }
    return Certificate(
        created="2026-01-01",
        loss="accuracy",
        epsilon=0.03,
        delta=0.1,
        level=0.1,
        test="betting",
        n=300,
        results=300,
        coupled=True,
        members=("cap:8192+stop:none", policy, "off"),
        lambdas=(0.1, 0.7, 1.0),
        p_values=(0.001, 0.04, 0.4),
        lambda_=0.7,
        policy=policy,
        token_saving=0.5,
        mean_loss=0.01,
        data="0",
        seed=0,
        binds=Binding(**bound),
    ).sealed()


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    def save(policy: str = "cap:512+stop:none", **binds: Any) -> str:
        path = tmp_path / "cert.json"
        certificate(policy, **binds).save(path)
        return f"certified:{path}"

    return save


def begin(policy: str, *, params: dict[str, Any] | None = None, query: Query = QUERY, **more: Any) -> Session:
    endpoint = more.pop("endpoint", ENDPOINT)
    limits = more.pop("limits", None)
    controller = Controller(policy, **{"classifier": None, **more})
    return controller.session(
        query,
        params={"model": MODEL, **(params or {})},
        endpoint=endpoint,
        render=openai_chat.render,
        limits=limits,
    )


def void(session: Session, why: str) -> None:
    """The session runs stage 0 of ``auto``, and says why."""
    decision = session.decision
    assert decision.certificate is None
    assert why in (decision.certificate_void_reason or "")
    assert why in decision.reasons[0]
    p99 = session.capability.natural_p99
    assert (decision.budget.reasoning_tokens, decision.budget.stop) == (p99, "safe")


def test_it_runs_what_was_certified_where_everything_agrees(saved):
    session = begin(saved())
    assert session.decision.budget.reasoning_tokens == 512
    assert session.decision.certificate == certificate().id
    assert session.decision.certificate_void_reason is None
    assert session.decision.policy == saved()


@pytest.mark.parametrize(
    ("binds", "call", "why"),
    [
        ({"model": "another"}, {}, "model: bound to 'another', seen 'Qwen/Qwen3-8B'"),
        ({"endpoint": "sglang"}, {}, "endpoint: bound to 'sglang', seen 'vllm'"),
        ({"capabilities": "1"}, {}, "capability table: bound to '1'"),
        ({"thresholds": {"trial_answer": {}}}, {}, "thresholds of the stop preset"),
        ({"sampling": {"temperature": 0.6}}, {}, "temperature: bound to 0.6, seen None"),
        ({}, {"params": {"temperature": 0.6}}, "temperature: bound to None, seen 0.6"),
        ({}, {"params": {"extra_body": {"top_k": 20}}}, "top_k: bound to None, seen 20"),
        ({}, {"params": {"max_tokens": 4096}}, "max_tokens: bound to None, seen 4096"),
        ({}, {"params": {"extra_body": {"thinking_token_budget": 99}}}, "pinned by the caller"),
        ({}, {"limits": Limits(deadline_s=60)}, "a limit of the call"),
        ({}, {"limits": Limits(reasoning_tokens=9000)}, "a limit of the call"),
        ({"endpoint": "sglang"}, {"endpoint": "sglang"}, "is advisory, bound to hard"),
        ({"endpoint": "openai-compatible"}, {"endpoint": "openai-compatible"}, "no control for: cap"),
    ],
)
def test_it_steps_aside_on_any_mismatch(saved, binds, call, why):
    session = begin(saved(**binds), **call)
    assert session.decision.certificate is None
    assert why in session.decision.certificate_void_reason
    limit = call.get("limits", Limits()).reasoning_tokens
    assert session.decision.budget.reasoning_tokens == (limit or session.capability.natural_p99)
    with pytest.raises(CertificateMismatch) as seen:
        begin(saved(**binds), strict=True, **call)
    assert why in str(seen.value)


def test_sampling_that_is_bound_is_required_and_not_a_pin(saved):
    bound = saved(sampling={"temperature": 0.6, "max_tokens": 4096})
    session = begin(bound, params={"temperature": 0.6, "max_tokens": 4096})
    assert session.decision.certificate is not None


def test_joined_with_another_policy_it_steps_aside_and_the_other_one_stays(saved):
    session = begin(f"{saved()}&cap:100")
    assert session.decision.budget.reasoning_tokens == 100
    assert session.decision.certificate_void_reason == "joined with another policy by &"
    with pytest.raises(CertificateMismatch, match="joined"):
        begin(f"{saved()}&cap:100", strict=True)


def test_an_override_is_not_covered(saved):
    with override("cap:64"):
        session = begin(saved())
    assert session.decision.budget.reasoning_tokens == 64
    assert session.decision.certificate_void_reason == "overridden by another policy"


def test_a_certificate_may_itself_be_the_override(saved):
    with override(saved()):
        assert begin("auto").decision.certificate is not None


def test_a_decision_without_an_endpoint_is_not_covered(saved):
    decision = Controller(saved(), classifier=None).decide(QUERY)
    assert decision.certificate is None
    assert "not known" in decision.certificate_void_reason


@pytest.mark.parametrize("classifier", [Fixed(hash="weights 2"), Broken(), None])
def test_a_policy_with_estimates_holds_for_its_classifier_only(saved, classifier):
    policy = saved("exchange:0.5+stop:none", classifier="weights 1", min_confidence=0.5)
    void(begin(policy, classifier=classifier), "classifier: bound to 'weights 1'")
    assert begin(policy, classifier=Fixed()).decision.certificate is not None


def test_the_abstention_rule_is_bound_and_abstaining_is_covered(saved):
    policy = saved("exchange:0.5+stop:none", classifier="weights 1", min_confidence=0.5)
    unsure = begin(policy, classifier=Fixed(0.4)).decision
    assert unsure.budget.reasoning_tokens is None
    assert unsure.certificate is not None
    void(begin(policy, classifier=Fixed(0.4), min_confidence=0.3), "min_confidence: bound to 0.5")


def finished(session: Session, **how: Any) -> Any:
    usage = Usage(prompt_tokens=1, reasoning_tokens=100, answer_tokens=5, provenance="reported")
    return session.finish(usage=usage, timing=Timing(e2e_s=1), stop=StopReason.CAP, answered=True, **how)


def test_the_outcome_names_the_certificate(saved):
    assert finished(begin(saved())).certificate == certificate().id


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"fallback": "asked again without a budget"}, "asked again without a budget"),
        ({"acted": Acted(actuator="reask", degraded=True)}, "the model's own thought (reask)"),
    ],
)
def test_what_went_another_way_is_not_covered_in_the_outcome(saved, how, why):
    outcome = finished(begin(saved()), **how)
    assert outcome.certificate is None
    assert why in outcome.certificate_void_reason


def test_observing_covers_nothing(saved):
    outcome = finished(begin(saved(), mode="observe"))
    assert outcome.certificate is None
    assert "observe mode" in outcome.certificate_void_reason


def test_without_a_certificate_the_outcome_says_that_none_is_configured():
    assert finished(begin("cap:100")).certificate_void_reason == "no certificate configured"


def test_a_certificate_survives_its_file(tmp_path: Path):
    path = tmp_path / "deep" / "cert.json"
    certificate().save(path)
    assert Certificate.load(path) == certificate()
    assert json.loads(path.read_text())["lambda"] == 0.7
    assert [p.name for p in path.parent.iterdir()] == ["cert.json"]
    assert stat.S_IMODE(path.stat().st_mode) & stat.S_IRUSR


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "cert.json"
    certificate().save(path)
    before = path.read_text()

    def full(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="disk full"):
        certificate("cap:512+stop:none", model="another").save(path)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["cert.json"]


def changed(**fields: Any) -> str:
    return json.dumps({**certificate().model_dump(mode="json", by_alias=True), **fields})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no valid certificate"),
        (changed(epsilon=0.01), "changed after it was certified"),
        (changed(schema_version="2.0"), "schema_version"),
        (changed(extra=1), "extra: Extra inputs"),
        (changed(id=""), "it has no id"),
        (changed(id="", p_values=[0.001, 0.2]), "not certified by these p-values"),
        (changed(id="", level=0.2, p_values=[0.001, 0.15]), "tested at more than delta"),
        (changed(id="", policy="cap:7"), "do not belong"),
        (changed(id="", binds={**certificate().binds.model_dump(), "sampling": {"seed": 1}}), "unknown seed"),
    ],
)
def test_what_does_not_hold_together_is_no_certificate(text: str, said: str, tmp_path: Path):
    path = tmp_path / "cert.json"
    path.write_text(text)
    with pytest.raises(CertificateError, match=said):
        Certificate.load(path)
    with pytest.raises(ConfigError, match=said):
        parse(f"certified:{path}")


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        parse(f"certified:{tmp_path}/none.json")


def test_a_certificate_brings_its_own_stop_preset(saved):
    with pytest.raises(ConfigError, match="its own"):
        parse(f"{saved()}+stop:balanced")


def test_circumstances_may_be_compared_by_hand():
    seen = Circumstances(
        model=MODEL, endpoint=ENDPOINT, capabilities=Controller().capabilities.version, params={"top_p": 1}
    )
    assert certificate().mismatch(seen) == "top_p: bound to None, seen 1"


NUMBERS = {"trial_answer": {"confidence": 0.9, "mass": 0.03}}
"""Those of the shipped ``aggressive``, where somebody calls them ``balanced``."""


def decided(policy: str, *, presets: dict[str, Any] | None = None) -> Decision:
    controller = Controller(policy, classifier=None, presets=presets)
    return controller.decide(QUERY, endpoint=ENDPOINT, params={"model": MODEL})


def test_thresholds_of_your_own_are_what_a_certificate_is_compared_with(saved):
    policy = saved("cap:512+stop:balanced", stop="balanced", thresholds=thresholds("balanced"))
    assert decided(policy).certificate is not None
    assert decided(policy, presets={"aggressive": NUMBERS}).certificate is not None
    assert "thresholds of the stop preset" in decided(policy, presets={"balanced": NUMBERS}).reasons[0]
    own = saved("cap:512+stop:balanced", stop="balanced", thresholds=NUMBERS)
    assert decided(own, presets={"balanced": NUMBERS}).certificate is not None
    assert "thresholds of the stop preset" in decided(own).reasons[0]


def test_a_criterion_that_is_made_by_code_has_no_numbers_to_compare(saved):
    policy = saved("cap:512+stop:balanced", stop="balanced", thresholds=thresholds("balanced"))
    assert "made by" in decided(policy, presets={"balanced": lambda: CloseMargin(1.0)}).reasons[0]


class Claimed:
    """A budgeted function around a client."""

    def __init__(self, controller: Controller, *, policy: Any) -> None:
        query = Query.from_text("How many?", model=MODEL)
        decision = controller.decide(query, endpoint=ENDPOINT, params={"model": MODEL}, policy=policy)
        self.outer = OuterCall(controller=controller, decision=decision, policy=policy)

    def __enter__(self) -> OuterCall:
        self._token = outer_call.set(self.outer)
        return self.outer

    def __exit__(self, *_: Any) -> None:
        outer_call.reset(self._token)


def test_a_client_that_takes_over_a_covered_decision_decides_by_the_same_policy(saved):
    """The policy of an alias: the function's own controller has another one."""
    with Claimed(Controller("cap:64", classifier=None), policy=parse(saved())) as outer:
        assert outer.decision.certificate == certificate().id
        session = begin("off")
    assert session.decision.certificate == certificate().id
    assert session.decision.budget.reasoning_tokens == 512


def test_and_finds_out_itself_whether_its_own_call_is_covered(saved):
    with Claimed(Controller("cap:64", classifier=None), policy=parse(saved())):
        session = begin("off", params={"temperature": 0.6})
    void(session, "temperature: bound to None, seen 0.6")
