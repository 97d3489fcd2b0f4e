"""Ladders over several models behind endpoints, as ``budgetctl eval live`` runs them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

pytest.importorskip("openai")

from budgetctl.evals.endpoint import EndpointBackend
from budgetctl.evals.live import LiveQuestion, LiveRun, Suite
from budgetctl.evals.runfolder import ROWS, read_rows

import budgetctl
from budgetctl.capabilities import Table
from budgetctl.cli import main
from budgetctl.controller import Controller
from budgetctl.errors import ConfigError
from budgetctl.ladder import over
from budgetctl.names import Alias
from budgetctl.pricing import Prices

from ..ladder.rungserver import Says, serving  # noqa: TID252 - tests are no package: there is no absolute name
from ..ladder.test_certificate import certificate  # noqa: TID252 - tests are no package: no absolute name

LADDER = "small@off>full?confident:0.9"
MAIN = "import sys; from budgetctl.cli import main; sys.exit(main(sys.argv[1:]))"
PRICES = Prices.load({"small": {"input": 1.0, "output": 2.0}, "large": {"input": 10.0, "output": 100.0}})
SWITCHED = """
[[row]]
models = ["small", "large"]
endpoints = ["vllm"]
off = { parameters = { "chat_template_kwargs.enable_thinking" = false }, strength = "hard" }
stream_usage = "include_usage"
verified_on = "2026-01-01"
source = "a test"
"""


def right(answer, raw):
    return answer == raw["answer"]


def even_is_easy(body):
    """The small model is sure of even numbers and wrong about others; the large one knows."""
    number = int(body["messages"][-1]["content"])
    if body["model"] == "small" and number % 2:
        return Says(answer="no idea", logprob=math.log(0.5), chunk_s=0.01)
    return Says(answer=str(number), thought="hm", logprob=math.log(0.95), chunk_s=0.01)


@pytest.fixture
def table(tmp_path):
    (tmp_path / "capabilities.toml").write_text(SWITCHED)
    return Table.load(tmp_path / "capabilities.toml")


@pytest.fixture
def server():
    with serving() as running:
        running.script.choose = even_is_easy
        yield running


def suite(server, *, n=6, **more):
    more = {"endpoint": "vllm", "confidence": True, "prices": PRICES, "concurrency": 2, **more}
    questions = [LiveQuestion(id=str(i), text=str(i), raw={"answer": str(i)}) for i in range(n)]
    backend = EndpointBackend(base_url=f"{server.url}/v1", model="large", grader=right, **more)
    return Suite(name="numbers", questions=tuple(questions), backend=backend)


def numbered(results):
    return {r.question_id.rpartition("/")[2]: r for r in results}


def run(folder, asked, *policies):
    return LiveRun(suite=asked, policies=policies, out=folder, classifier=None)


def test_a_rung_of_another_model_is_asked_by_its_name_and_judged_by_what_its_tokens_say(
    server, table, tmp_path
):
    found = run(tmp_path / "run", suite(server, capabilities=table), "full", LADDER).run()[LADDER]
    by_id = numbered(found)
    assert {name: r.rung for name, r in by_id.items()} == {str(i): i % 2 for i in range(6)}
    assert all(r.correct for r in found)
    assert by_id["0"].confidence == pytest.approx(0.95)
    drafts = [body for body in server.bodies if body["model"] == "small"]
    assert sorted(body["messages"][0]["content"] for body in drafts) == list("012345")
    assert all(body["logprobs"] is True for body in server.bodies)
    assert all(body["chat_template_kwargs"] == {"enable_thinking": False} for body in drafts)
    assert len({body["seed"] for body in server.bodies if body["messages"][0]["content"] == "1"}) == 1


def test_drafts_are_charged_at_their_own_price_in_tokens_dollars_and_seconds(server, table, tmp_path):
    runs = run(tmp_path / "run", suite(server, capabilities=table), "full", LADDER).run()
    alone, climbed = (numbered(runs[name]) for name in ("full", LADDER))
    # Every call of the server's is 10 tokens of prompt and 5 of output.
    small, large = (10 * 1.0 + 5 * 2.0) / 1e6, (10 * 10.0 + 5 * 100.0) / 1e6
    assert (climbed["0"].cost_usd, climbed["0"].output_tokens) == (pytest.approx(small), 5)
    assert (climbed["1"].cost_usd, climbed["1"].output_tokens) == (pytest.approx(small + large), 10)
    assert climbed["1"].probe_tokens == 5
    assert climbed["1"].e2e_s > climbed["0"].e2e_s + 0.02
    assert climbed["1"].ttfo_s > alone["1"].ttfo_s


def test_a_run_that_was_killed_resumes_with_the_answers_that_it_has(server, tmp_path):
    (tmp_path / "capabilities.toml").write_text(SWITCHED)
    (tmp_path / "budgetctl.toml").write_text('capabilities = "capabilities.toml"')
    (tmp_path / "checks.py").write_text("def right(answer, raw):\n    return answer == raw['answer']\n")
    lines = [json.dumps({"question": str(i), "answer": str(i)}) for i in range(24)]
    (tmp_path / "numbers.jsonl").write_text("\n".join(lines))
    command = [sys.executable, "-c", MAIN, "eval", "live", "numbers.jsonl", "--grader", "checks:right"]
    command += ["--base-url", f"{server.url}/v1", "--model", "large", "--endpoint", "vllm", "--out", "run"]
    command += ["--classifier", "none", "--concurrency", "1", "--policies", f"full,{LADDER}", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    first = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    while server.asked.count("small") < 5:
        assert first.poll() is None
        time.sleep(0.01)
    first.kill()
    first.wait()
    kept = read_rows(tmp_path / "run" / ROWS)
    assert LADDER in {row.policy for row in kept}
    asked = server.asked.count("small")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    rows = read_rows(tmp_path / "run" / ROWS)
    assert len({(row.policy, row.question_id) for row in rows}) == len(rows) == 2 * 24
    assert all(row.correct for row in rows)
    # The draft of the question in flight at most was made twice.
    assert 24 <= server.asked.count("small") <= 25
    assert server.asked.count("small") > asked


def test_a_last_rung_that_refuses_log_probabilities_is_asked_without(server, table, tmp_path):
    def refuses(body):
        refused = body["model"] == "large" and "logprobs" in body
        return replace(even_is_easy(body), status=400) if refused else even_is_easy(body)

    server.script.choose = refuses
    asked = suite(server, capabilities=table, concurrency=1)
    found = run(tmp_path / "run", asked, "full", LADDER).run()
    assert all(r.correct for r in found[LADDER])
    assert {r.confidence for r in found["full"]} == {None}
    sent = [body for body in server.bodies if body["model"] == "large"]
    assert "logprobs" in sent[0]
    assert not any("logprobs" in body for body in sent[3:])


def test_all_models_of_a_url_keep_one_pace(server, table, tmp_path):
    started = time.monotonic()
    asked = suite(server, n=2, capabilities=table, per_minute=60 / 0.2)
    run(tmp_path / "run", asked, "full", LADDER).run()
    assert len(server.bodies) == 2 + 2 + 1
    assert time.monotonic() - started > 4 * 0.2


def test_a_name_of_the_configuration_is_asked_where_it_says_and_without_the_key(
    server, table, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "of the large one")
    with serving() as near:
        near.script.choose = even_is_easy
        aliases = {"tiny": Alias(model="small", endpoint="vllm", base_url=f"{near.url}/v1")}
        asked = suite(server, capabilities=table, aliases=aliases)
        other = asked.backend.with_model("tiny")
        assert other._line.client.api_key == "none"
        assert asked.backend.with_model("small")._line is asked.backend._line
        found = run(tmp_path / "run", asked, "full", "tiny@off>large@full?confident:0.9").run()
    assert set(near.asked) == {"small"}
    assert set(server.asked) == {"large"}
    assert all(r.correct for r in found["tiny@off>full?confident:0.9"])
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert settings["models"]["tiny"]["base_url"] == f"{near.url}/v1"


def test_a_name_that_stands_for_another_url_is_refused_as_the_model_of_the_run(server):
    aliases = {"large": Alias(model="gpt-5", base_url="https://api.openai.com/v1")}
    with pytest.raises(ConfigError, match=r"configured for https://api\.openai\.com/v1"):
        suite(server, aliases=aliases)


def test_the_command_takes_models_prices_and_policies_of_rungs_out_of_the_configuration(
    server, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "numbers_grader", sys.modules[__name__])
    with serving() as near:
        near.script.choose = even_is_easy
        (tmp_path / "capabilities.toml").write_text(SWITCHED)
        (tmp_path / "budgetctl.toml").write_text(
            f"""capabilities = "capabilities.toml"
            [policies]
            quick = "off"
            [models.tiny]
            model = "small"
            endpoint = "vllm"
            base_url = "{near.url}/v1"
            [ladders.support]
            rungs = ["tiny@quick", "large"]
            accept = "confident:0.9"
            """
        )
        (tmp_path / "numbers.jsonl").write_text(
            "".join(json.dumps({"question": str(i), "answer": str(i)}) + "\n" for i in range(4))
        )
        command = ["eval", "live", "numbers.jsonl", "--grader", "numbers_grader:right", "--out", "run"]
        command += ["--base-url", f"{server.url}/v1", "--model", "large", "--endpoint", "vllm"]
        command += [
            "--json",
            "--classifier",
            "none",
            "--policies",
            "full,support",
        ]
        assert main(command) in (0, 1)
    table = json.loads(capsys.readouterr().out)["policies"]
    assert [row["policy"] for row in table] == ["full", "tiny@off>full?confident:0.9"]
    assert [row["accuracy"] for row in table] == [1.0, 1.0]
    assert near.asked == ["small"] * 4


@pytest.mark.parametrize(
    ("strength", "sampling", "why"),
    [
        ("hard", {}, None),
        ("hard", {"temperature": 0.2}, "temperature: bound to None, seen 0.2"),
        (
            "advisory",
            {},
            "small@off: chat_template_kwargs.enable_thinking is advisory, bound to hard controls",
        ),
    ],
)
def test_a_certificate_of_a_ladder_holds_live_exactly_where_it_holds_for_a_client(
    server, tmp_path, strength, sampling, why
):
    (tmp_path / "capabilities.toml").write_text(SWITCHED.replace('"hard"', f'"{strength}"'))
    weaker = Table.load(tmp_path / "capabilities.toml")
    certificate(weaker).save(tmp_path / "cert.json")
    named = f"certified:{tmp_path / 'cert.json'}"
    live = suite(server, n=1, capabilities=weaker, sampling=sampling)
    base = Controller(classifier=None, capabilities=weaker)
    [result] = LiveRun(suite=live, policies=[named], out=tmp_path / "run", base=base).run()[named]
    with server.sync() as client:
        ladder = over(
            {"small": client, "large": client},
            ["small@off", "large"],
            certificate=tmp_path / "cert.json",
            endpoints={"small": "vllm", "large": "vllm"},
            controller=base,
        )
        reply = ladder.chat.completions.create(messages=[{"role": "user", "content": "0"}], **sampling)
    outside = budgetctl.outcome(reply)
    assert outside.certificate_void_reason == why
    assert result.notes == (() if why is None else (f"certificate void: {why}",))
    assert result.rung == outside.ladder.rung == (0 if why is None else 1)


@pytest.mark.parametrize("strength", ["hard", "advisory"])
def test_a_certificate_binds_the_weakest_control_of_the_rungs_that_were_run(
    server, tmp_path, strength, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "capabilities.toml").write_text(SWITCHED.replace('"hard"', f'"{strength}"'))
    (tmp_path / "budgetctl.toml").write_text('capabilities = "capabilities.toml"')
    rungs = suite(server, n=150, capabilities=Table.load(tmp_path / "capabilities.toml"), concurrency=8)
    run(tmp_path / "rungs", rungs, "full", "small@off").run()
    rows = [json.loads(line) for line in (tmp_path / "rungs" / ROWS).read_text().splitlines()]
    for row in rows:  # the server counts the same for all its answers
        row["reasoning_tokens"] *= 30 if row["policy"] == "full" else 1
    (tmp_path / "rungs" / ROWS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    cert = tmp_path / "cert.json"
    arguments = ["rungs", "--ladder", "small@off>full", "--endpoint", "vllm", "--epsilon", "0.1"]
    assert main(["calibrate", *arguments, "--out", str(cert), "--json"]) == 0
    binds = json.loads(capsys.readouterr().out)["binds"]
    assert (binds["model"], binds["strength"]) == ("large", strength)
    base = Controller(classifier=None, capabilities=Table.load(tmp_path / "capabilities.toml"))
    with server.sync() as client:
        ladder = over(
            {"small": client, "large": client},
            ["small@off", "large"],
            certificate=cert,
            endpoints={"small": "vllm", "large": "vllm"},
            controller=base,
        )
        outcome = budgetctl.outcome(
            ladder.chat.completions.create(messages=[{"role": "user", "content": "0"}])
        )
    assert (outcome.certificate_void_reason, outcome.ladder.rung) == (None, 0)
