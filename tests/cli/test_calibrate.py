"""``budgetctl calibrate``: the certificate it writes, and what it says where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from budgetctl.evals import cube

from budgetctl.certificate import Certificate
from budgetctl.cli import main
from budgetctl.config import Settings
from budgetctl.controller import Controller
from budgetctl.outcomes import Feedback, Outcome
from budgetctl.policy import Certified, parse
from budgetctl.types import Budget, Decision, Query, StopReason, Usage

CONTRACT = {"lambda", "epsilon", "delta", "n", "p_values", "token_saving"}


def rows(n: int = 400, *, models: tuple[str, ...] = ("m",), question: str | None = None):
    """Of every hundred questions 99 settle at 60 of 1,000 tokens, one needs them all."""
    for model in models:
        for i in range(n):
            settled = 900 if i % 100 == 0 else 60
            for kind, tokens in [("natural", 1000), *(("tokens", t) for t in (0, 64, 128, 256, 512))]:
                yield cube.CubeRow(
                    dataset="d",
                    question_id=str(i),
                    question=question,
                    model=model,
                    budget=cube.CubeBudget(kind=kind, value=None if kind == "natural" else tokens),
                    reasoning_tokens=tokens,
                    output_tokens=tokens + 5,
                    correct=tokens >= settled,
                    answer="right" if tokens >= settled else "wrong",
                    coupled=True,
                    cluster=str(i % 50),
                    signals={"p_top": 0.999 if tokens >= settled else 0.5, "p_choice_mass": 0.9},
                )


@pytest.fixture
def recorded(tmp_path: Path) -> str:
    cube.write(tmp_path / "cube.jsonl", rows())
    return str(tmp_path / "cube.jsonl")


def calibrate(capsys: Any, *arguments: str, code: int = 0) -> dict[str, Any]:
    assert main(["calibrate", *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("loss", ["accuracy", "harm", "disagreement"])
def test_it_certifies_the_cheapest_cap_that_holds(loss, recorded, tmp_path, capsys):
    out = tmp_path / "cert.json"
    found = calibrate(capsys, recorded, "--epsilon", "0.05", "--out", str(out), "--loss", loss)
    assert set(found) >= CONTRACT
    assert found["policy"] == "cap:64+stop:none"
    assert found["lambda"] == pytest.approx(1000 / 1064)
    assert (found["epsilon"], found["delta"], found["n"]) == (0.05, 0.1, 400)
    assert found["token_saving"] == pytest.approx(1 - 64 / 1000)
    assert max(found["p_values"][:-1]) <= 0.1 < found["p_values"][-1]
    policy = parse(f"certified:{out}")
    assert isinstance(policy, Certified)
    assert str(policy.member) == "cap:64+stop:none"
    assert policy.certificate.binds.model == "m"


def test_the_same_seed_gives_the_same_certificate(recorded, tmp_path, capsys):
    for name in ("a", "b"):
        calibrate(capsys, recorded, "--out", str(tmp_path / name), "--seed", "3", "--epsilon", "0.05")
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


def test_where_nothing_can_be_certified_it_says_what_it_would_take(recorded, tmp_path, capsys):
    out = tmp_path / "cert.json"
    found = calibrate(capsys, recorded, "--epsilon", "0.005", "--out", str(out), code=1)
    assert set(found) >= CONTRACT
    assert (found["lambda"], found["token_saving"]) == (None, None)
    assert found["n_needed"] > 400
    assert not out.exists()
    main(["calibrate", recorded, "--epsilon", "0.005", "--out", str(out)])
    said = capsys.readouterr()
    assert said.out == ""
    assert f"about {found['n_needed']} units" in said.err


def test_clusters_are_the_units_where_asked_for(recorded, tmp_path, capsys):
    arguments = (recorded, "--epsilon", "0.1", "--out", str(tmp_path / "c"), "--cluster-by", "cluster")
    assert calibrate(capsys, *arguments)["n"] == 50


def test_two_stop_presets_are_ordered_on_one_half_and_tested_on_the_other(recorded, tmp_path, capsys):
    out = tmp_path / "c"
    found = calibrate(capsys, recorded, "--epsilon", "0.05", "--stop", "none,aggressive", "--out", str(out))
    assert found["n"] == 200
    certificate = Certificate.load(out)
    assert certificate.binds.stop in certificate.policy or certificate.policy.startswith("cap")
    assert len(certificate.members) < 2 * 26


def test_two_families_share_delta(tmp_path, capsys):
    cube.write(tmp_path / "cube.jsonl", rows(question="What is 3 + 4?"))
    out = tmp_path / "c"
    found = calibrate(capsys, str(tmp_path / "cube.jsonl"), "--epsilon", "0.05", "--out", str(out))
    assert (found["delta"], found["level"]) == (0.1, 0.05)


def test_the_certificate_binds_what_it_is_told(recorded, tmp_path, capsys):
    out = str(tmp_path / "c")
    sampling = '{"temperature": 0.6}'
    found = calibrate(
        capsys, recorded, "--epsilon", "0.05", "--out", out, "--endpoint", "vllm", "--sampling", sampling
    )
    assert found["binds"]["endpoint"] == "vllm"
    assert found["binds"]["sampling"] == {"temperature": 0.6}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epsilon", "0"], "epsilon: seen 0.0"),
        (["--delta", "1"], "delta: seen 1.0"),
        (["--endpoint", "moon"], "allowed are openai"),
        (["--sampling", "hot"], "expected a JSON object"),
        (["--sampling", '{"seed": 1}'], "allowed keys are temperature"),
        (["--stop", "wild"], "allowed are none, safe"),
        (["--families", "herds"], "allowed are caps, utility"),
        (["--families", "utility"], "needs question texts"),
        (["--model", "x"], "no rows are left"),
        (["--seed", "-1"], "whole number from 0"),
    ],
)
def test_what_cannot_work_is_refused_with_what_is_allowed(arguments, said, recorded, tmp_path, capsys):
    assert main(["calibrate", recorded, "--out", str(tmp_path / "c"), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_certificate_is_for_the_configuration_that_its_calls_are_made_with(tmp_path, capsys):
    cube.write(tmp_path / "two.jsonl", rows(models=("m", "o")))
    (tmp_path / "budgetctl.toml").write_text(
        """
        [models.fast]
        model = "o"
        endpoint = "vllm"
        [presets]
        balanced = { trial_answer = { confidence = 0.99, mass = 0.1 } }
        """
    )
    out = tmp_path / "c"
    arguments = ("--stop", "balanced", "--epsilon", "0.05", "--model", "fast", "--out", str(out))
    config = ("--config", str(tmp_path / "budgetctl.toml"))
    binds = calibrate(capsys, str(tmp_path / "two.jsonl"), *arguments, *config)["binds"]
    assert (binds["model"], binds["endpoint"], binds["stop"]) == ("o", "vllm", "balanced")
    assert binds["thresholds"]["trial_answer"]["confidence"] == 0.99

    def void(controller: Any) -> str | None:
        decision = controller.decide(Query.from_text("Hi", model="o"), endpoint="vllm")
        return decision.certificate_void_reason

    settings = Settings.load(tmp_path / "budgetctl.toml", env={})
    assert void(settings.controller(policy=f"certified:{out}")) is None
    assert "thresholds of the stop preset" in str(void(Controller(f"certified:{out}")))


def test_utility_is_certified_at_the_abstention_rule_of_the_configuration(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cube.write(tmp_path / "cube.jsonl", rows(question="What is 3 + 4?"))
    (tmp_path / "budgetctl.toml").write_text("min_confidence = 0.05")
    arguments = ("--families", "utility", "--epsilon", "0.3", "--out", "c")
    assert calibrate(capsys, "cube.jsonl", *arguments)["binds"]["min_confidence"] == 0.05


def test_a_recording_of_several_models_needs_a_choice(tmp_path, capsys):
    cube.write(tmp_path / "two.jsonl", rows(models=("m", "o")))
    path, out = str(tmp_path / "two.jsonl"), str(tmp_path / "c")
    assert main(["calibrate", path, "--out", out]) == 2
    assert "holds m, o" in capsys.readouterr().err
    assert calibrate(capsys, path, "--out", out, "--model", "o", "--epsilon", "0.05")["binds"]["model"] == "o"


def log(path: Path, *, n: int = 600, lost_audits: int = 0) -> str:
    """Every query at full thinking and under two caps; the smaller one is right half as often.

    The first queries have an audit besides that brought no answer.
    """
    with path.open("w") as file:
        for i in range(n):
            for policy, tokens, right in (
                ("full", 1000, True),
                ("cap:500", 500, True),
                ("cap:100", 100, i % 2 == 0),
            ):
                cap = None if policy == "full" else tokens
                outcome = Outcome.of(
                    Decision(budget=Budget(reasoning_tokens=cap), policy=policy, policy_hash="0"),
                    stop=StopReason.NATURAL,
                    answered=True,
                    usage=Usage(reasoning_tokens=tokens, answer_tokens=5),
                    model="m",
                    query_hash=f"install:{i}",
                    budget_state={
                        "requested": cap,
                        "applied": cap,
                        "strength": "none" if cap is None else "hard",
                    },
                )
                file.write(outcome.model_dump_json() + "\n")
                file.write(Feedback(id=outcome.id, correct=right, source="t").model_dump_json() + "\n")
                if policy == "full" and i < lost_audits:
                    audit = outcome.model_copy(
                        update={"id": f"audit-{i}", "parent_id": "a", "answered": False}
                    )
                    file.write(audit.model_dump_json() + "\n")
    return str(path)


def test_a_log_of_the_same_queries_at_full_thinking_and_under_caps_is_enough(tmp_path, capsys):
    path = log(tmp_path / "log.jsonl")
    found = calibrate(capsys, path, "--out", str(tmp_path / "c"), "--epsilon", "0.05", "--endpoint", "vllm")
    assert (found["policy"], found["n"]) == ("cap:500", 600)
    assert found["token_saving"] == pytest.approx(0.5)
    assert found["binds"]["strength"] == "hard"
    assert found["binds"]["stop"] == "safe"


def test_an_audit_without_an_answer_is_no_wrong_full_run(tmp_path, capsys):
    plain, audited = log(tmp_path / "plain.jsonl"), log(tmp_path / "audited.jsonl", lost_audits=300)
    arguments = ("--epsilon", "0.05", "--endpoint", "vllm")
    for path in (plain, audited):
        calibrate(capsys, path, "--out", f"{path}.json", *arguments)
    expected, found = (Certificate.load(f"{path}.json") for path in (plain, audited))
    assert found.policy == "cap:500", "as wrong runs of full the audits would let cap:100 pass"
    assert found.mean_loss == expected.mean_loss == 0


def test_a_log_without_such_pairs_says_what_is_missing(tmp_path, capsys):
    text = (tmp_path / "log.jsonl").open
    log(tmp_path / "log.jsonl", n=5)
    with text() as file:
        kept = [line for line in file if '"policy":"full"' not in line]
    (tmp_path / "log.jsonl").write_text("".join(kept))
    assert main(["calibrate", str(tmp_path / "log.jsonl"), "--out", str(tmp_path / "c")]) == 2
    assert "under the policy 'full'" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[1, 2]\n", "not JSON\n"])
def test_a_file_that_is_no_recording_and_no_log_is_said_to_be_none(text, tmp_path, capsys):
    path = tmp_path / "other.jsonl"
    path.write_text(text)
    assert main(["calibrate", str(path), "--out", str(tmp_path / "cert.json")]) == 2
    assert f"{path}: neither a recording nor an outcome log" in capsys.readouterr().err
