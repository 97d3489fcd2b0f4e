"""Certificates of ladders in the client: where one holds, and what happens where it does not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import budgetctl
from budgetctl.capabilities import Table
from budgetctl.certificate import Certificate, LadderBinding, thresholds
from budgetctl.cli import main
from budgetctl.controller import Controller
from budgetctl.errors import CertificateMismatch, ConfigError
from budgetctl.ladder import Agreement, Confident, Ladder, over
from budgetctl.records import read
from budgetctl.types import Limits
from tests.ladder.rungserver import RungServer, Says, serving

RUNGS = ["small@off", "large@full"]
MESSAGES = [{"role": "user", "content": "Hi"}]
ROW = """
[[row]]
models = ["small", "large"]
endpoints = ["vllm"]
off = {{ parameters = {{ "chat_template_kwargs.enable_thinking" = false }}, strength = "{strength}" }}
stream_usage = "include_usage"
verified_on = "2026-01-01"
source = "a test"
"""


def table(folder: Path, *, strength: str = "hard") -> Table:
    path = folder / f"{strength}.toml"
    path.write_text(ROW.format(strength=strength))
    return Table.load(path)


def certificate(capabilities: Table, *, threshold: float = 0.9, **binds: Any) -> Certificate:
    ladder = Ladder.of(RUNGS, Confident(threshold))
    policy = f"small@off>full?confident:{threshold:g}"
    bound = {
        "model": "large",
        "endpoint": "vllm",
        "stop": "safe",
        "thresholds": thresholds("safe"),
        "capabilities": capabilities.version,
        "ladder": ladder.fingerprint,
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
        coupled=False,
        members=(policy,),
        lambdas=(0.1,),
        p_values=(0.01,),
        lambda_=0.1,
        policy=policy,
        token_saving=0.5,
        mean_loss=0.0,
        data="0",
        seed=0,
        binds=LadderBinding(**bound),
    ).sealed()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    certificate(table(tmp_path)).save(tmp_path / "cert.json")
    return tmp_path / "cert.json"


@pytest.fixture
def server() -> Iterator[RungServer]:
    with serving(small=Says(answer="1", logprob=math.log(0.95)), large=Says(answer="2")) as running:
        yield running


def climbing(server: RungServer, client: Any, saved: Path, **said: Any) -> Any:
    """Return the certified ladder, but for what is said."""
    given = {
        "certificate": saved,
        "endpoints": {"small": "vllm", "large": "vllm"},
        "capabilities": table(saved.parent),
        "classifier": None,
        **said,
    }
    given = {name: value for name, value in given.items() if value is not ...}
    return over({"small": client, "large": client}, given.pop("rungs", RUNGS), **given)


def test_a_certified_ladder_takes_its_threshold_and_its_records_name_the_certificate(
    server: RungServer, saved: Path
):
    log = saved.parent / "log.jsonl"
    with server.sync() as client:
        ladder = climbing(server, client, saved, sink=log, local=["small"])
        assert str(ladder.ladder.accept) == "confident:0.9"
        reply = ladder.chat.completions.create(messages=MESSAGES)
        server.script.models["small"] = Says(answer="1", logprob=math.log(0.8))
        ladder.chat.completions.create(messages=MESSAGES)
    assert server.asked == ["small", "small", "large"]
    assert reply.choices[0].message.content == "1"
    outcome, proven = budgetctl.outcome(reply), Certificate.load(saved)
    assert (outcome.certificate, outcome.certificate_void_reason) == (proven.id, None)
    rows = [row for row in read(log) if isinstance(row, budgetctl.Outcome)]
    assert [row.certificate for row in rows] == [proven.id] * 3


VOID: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"rungs": ["small@off", "large@cap:9000"]}, {}, "ladder: bound to"),
    ({"accept": Agreement()}, {}, "ladder: bound to"),
    ({"accept": Confident(0.5)}, {}, "ladder: bound to"),
    ({"hedge_s": 9}, {}, "ladder: bound to"),
    ({}, {"temperature": 0.2}, "temperature: bound to None, seen 0.2"),
    ({}, {"extra_body": {"top_k": 4}}, "top_k: bound to None, seen 4"),
    ({}, {"max_tokens": 9}, "max_tokens: bound to None, seen 9"),
    ({"endpoints": {"small": "vllm", "large": "sglang"}}, {}, "endpoint: bound to 'vllm', seen 'sglang'"),
    ({"endpoints": {"small": "sglang", "large": "vllm"}}, {}, "small@off: no control for"),
    ({"limits": Limits(deadline_s=60)}, {}, "a limit of the call"),
    ({"mode": "observe"}, {}, "observe mode"),
    ({}, {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}}, "small@off: pinned"),
    ({"local": ["small"]}, {"private": True}, "the turn has not all rungs"),
    ({"capabilities": None}, {}, "capability table: bound to"),
    ({"capabilities": "advisory"}, {}, "small@off: chat_template_kwargs.enable_thinking is advisory"),
]


@pytest.mark.parametrize(("said", "params", "why"), VOID)
def test_where_anything_else_is_climbed_the_last_rung_answers_alone_and_the_outcome_says_why(
    said: dict[str, Any], params: dict[str, Any], why: str, server: RungServer, saved: Path
):
    if said.get("capabilities") == "advisory":
        weaker = table(saved.parent, strength="advisory")
        certificate(weaker).save(saved)
        said = {"capabilities": weaker}
    with server.sync() as client:
        ladder = climbing(server, client, saved, **said)
        outcome = budgetctl.outcome(ladder.chat.completions.create(messages=MESSAGES, **params))
        assert server.asked == ["small" if params.get("private") else "large"]
        assert outcome.certificate is None
        assert outcome.certificate_void_reason.startswith(why)
        strict = climbing(server, client, saved, **said, strict=True)
        with pytest.raises(CertificateMismatch, match=r"certificate [0-9a-f]{16}: "):
            strict.chat.completions.create(messages=MESSAGES, **params)
        assert len(server.asked) == 1


def test_presets_of_your_own_void_it(tmp_path: Path, server: RungServer):
    rungs = ["small@off", "large@full+stop:balanced"]
    numbers = {"balanced": {"trial_answer": {"confidence": 0.9, "mass": 0.5}}}
    ladder = Ladder.of(rungs, Confident(0.9))
    bound = {"stop": "balanced", "thresholds": thresholds("balanced"), "ladder": ladder.fingerprint}
    certificate(table(tmp_path), **bound).save(tmp_path / "cert.json")
    with server.sync() as client:
        ladder = climbing(server, client, tmp_path / "cert.json", rungs=rungs, presets=numbers)
        outcome = budgetctl.outcome(ladder.chat.completions.create(messages=MESSAGES))
    assert "thresholds of the stop preset" in outcome.certificate_void_reason


def test_what_goes_wrong_on_the_way_is_not_what_was_certified(server: RungServer, saved: Path):
    server.script.models["small"] = Says(status=500)
    with server.sync() as client:
        ladder = climbing(server, client, saved)
        outcome = budgetctl.outcome(ladder.chat.completions.create(messages=MESSAGES))
        assert outcome.certificate_void_reason == "small@off: it failed"
        server.script.models["small"] = Says()
        with budgetctl.override("full"):
            outcome = budgetctl.outcome(ladder.chat.completions.create(messages=MESSAGES))
    assert outcome.certificate_void_reason == "small@off: overridden by another policy"


def test_the_results_of_tool_calls_go_on_at_the_last_rung(server: RungServer, saved: Path):
    server.script.models["small"] = Says(calls="call-1", logprob=None)
    server.script.models["large"] = Says(calls="call-2")
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": {}}}]
    with server.sync() as client:
        ladder = climbing(server, client, saved)
        first = ladder.chat.completions.create(messages=MESSAGES, tools=tools)
        message = first.choices[0].message.model_dump(exclude_none=True)
        answer = {"role": "tool", "tool_call_id": "call-2", "content": "7"}
        second = ladder.chat.completions.create(messages=[*MESSAGES, message, answer], tools=tools)
    assert server.asked == ["small", "large", "large"]
    assert budgetctl.outcome(second).certificate_void_reason == "the turn has not all rungs of the ladder"


def test_asynchronous_and_streaming_turns_are_held_to_it_too(server: RungServer, saved: Path):
    async def climbed() -> None:
        async with server.asynchronous() as client:
            ladder = climbing(server, client, saved)
            stream = await ladder.chat.completions.create(messages=MESSAGES, stream=True)
            async for _ in stream:
                pass
            assert budgetctl.outcome(stream).certificate == Certificate.load(saved).id
            stream = await ladder.chat.completions.create(messages=MESSAGES, stream=True, temperature=1)
            async for _ in stream:
                pass
            assert "temperature" in budgetctl.outcome(stream).certificate_void_reason

    anyio.run(climbed)
    assert server.asked == ["small", "large"]


def test_a_fault_in_the_check_costs_the_saving_and_not_the_call(
    server: RungServer, saved: Path, monkeypatch: pytest.MonkeyPatch
):
    def breaks(*_: Any, **__: Any) -> None:
        raise RuntimeError("boom")

    with server.sync() as client:
        ladder = climbing(server, client, saved)
        monkeypatch.setattr(Certificate, "mismatch", breaks)
        outcome = budgetctl.outcome(ladder.chat.completions.create(messages=MESSAGES))
    assert server.asked == ["large"]
    assert outcome.certificate_void_reason == "it could not be checked: RuntimeError"


def test_a_file_that_is_no_certificate_of_a_ladder_is_refused(tmp_path: Path, server: RungServer):
    from tests.test_certificate import certificate as of_a_call

    of_a_call().save(tmp_path / "call.json")
    with server.sync() as client:
        for name, said in (("call.json", "not of a ladder"), ("none.json", "cannot be read")):
            with pytest.raises(ConfigError, match=said):
                climbing(server, client, tmp_path / name, capabilities=...)


def settings(saved: Path, **ladder: Any) -> budgetctl.Settings:
    table(saved.parent)
    said = {"rungs": ["tiny@off", "large"], "certificate": str(saved), **ladder}
    return budgetctl.Settings.load(
        {
            "classifier": None,
            "capabilities": str(saved.parent / "hard.toml"),
            "models": {
                "tiny": {"model": "small", "endpoint": "vllm"},
                "large": {"model": "large", "endpoint": "vllm"},
            },
            "ladders": {"support": said},
        },
        env={},
    )


def test_a_configured_ladder_may_have_one(tmp_path: Path, server: RungServer):
    path = tmp_path / "cert.json"
    ladder = Ladder.of(["tiny@off", "large@full"], Confident(0.9))
    certificate(table(tmp_path), ladder=ladder.fingerprint).save(path)
    configured = settings(path)
    with server.sync() as client:
        ladder = configured.ladder("support", {"tiny": client, "large": client})
        outcome = budgetctl.outcome(ladder.chat.completions.create(messages=MESSAGES))
    assert (server.asked, outcome.certificate) == (["small"], Certificate.load(path).id)
    assert configured.evaluated("support") == f"certified:{path}"
    with pytest.raises(ConfigError, match=r"cert\.json is of 'small@off>full\?confident:0\.9' for large"):
        settings(path, rungs=["tiny@off", "tiny@full"]).evaluated("support")


@pytest.mark.parametrize(
    ("ladder", "said"),
    [
        ({"accept": "confident:0.9"}, "either this or a certificate"),
        ({"certificate": None}, "either this or a certificate"),
        ({"calibration": ["drafts.json"]}, "does not go with a certificate"),
    ],
)
def test_either_an_acceptance_or_a_certificate_judges(ladder: dict[str, Any], said: str, saved: Path):
    with pytest.raises(ConfigError, match=said):
        settings(saved, **ladder)


def test_config_check_finds_the_certificate_of_another_ladder(
    saved: Path, capsys: pytest.CaptureFixture[str]
):
    path = saved.parent / "budgetctl.toml"
    path.write_text(f'[ladders.a]\nrungs = ["small@off", "big"]\ncertificate = "{saved}"\n')
    assert main(["config", "check", str(path)]) == 1
    assert "ladders.a: certificate" in capsys.readouterr().err


def test_a_controller_of_ones_own_may_be_strict(server: RungServer, saved: Path):
    controller = Controller(classifier=None, strict=True)
    with server.sync() as client:
        ladder = climbing(server, client, saved, controller=controller, capabilities=..., classifier=...)
        with pytest.raises(CertificateMismatch, match="capability table"):
            ladder.chat.completions.create(messages=MESSAGES)
    assert server.asked == []
