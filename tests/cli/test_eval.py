import json
import os
from pathlib import Path

import pytest
from budgetctl.evals import cube, pocket

from budgetctl.cli import main

from ..engines.scripted import serving  # noqa: TID252 - tests are no package: there is no absolute name

DATA = os.environ.get("BUDGETCTL_DATA")


def rows():
    """A coupled cube: of every four questions three are settled at 10 of 100 tokens, one needs 60."""
    for i in range(300):
        settled = 60 if i % 4 == 0 else 10
        base = {"dataset": "d", "question_id": str(i), "question": f"q{i}", "model": "m", "coupled": True}
        for kind, tokens in [("natural", 100), *(("tokens", t) for t in (0, 10, 30, 60))]:
            yield cube.CubeRow(
                **base,
                budget=cube.CubeBudget(kind=kind, value=None if kind == "natural" else tokens),
                reasoning_tokens=tokens,
                output_tokens=tokens + 5,
                correct=tokens >= settled,
            )


@pytest.fixture
def recorded(tmp_path):
    cube.write(tmp_path / "cube.jsonl.gz", rows())
    return str(tmp_path / "cube.jsonl.gz")


def test_replay_prints_json_and_says_yes_where_a_policy_passes(recorded, capsys):
    code = main(["eval", "replay", recorded, "--policies", "full,off,cap:30,cap:60", "--json"])
    content = json.loads(capsys.readouterr().out)
    by_name = {row["policy"]: row for row in content["policies"]}
    assert list(by_name) == ["full", "off", "cap:30", "cap:60"]
    assert by_name["full"]["accuracy"] == 1.0
    assert by_name["off"]["accuracy"] == 0.0
    assert by_name["cap:30"]["accuracy"] == 0.75
    assert by_name["cap:60"]["token_saving"] == pytest.approx(0.4)
    assert by_name["cap:60"]["modelled"]
    assert content["recommended"] == "cap:60"
    assert content["verdict"].startswith("Use cap:60: it saves 40 % of the tokens")
    assert code == 0


def test_replay_says_no_with_exit_code_one(recorded, capsys):
    assert main(["eval", "replay", recorded, "--policies", "cap:30", "--caps", "10"]) == 1
    assert "Do not use a budget here" in capsys.readouterr().out


def test_replay_writes_the_report(recorded, tmp_path, capsys):
    main(["eval", "replay", recorded, "--policies", "cap:60", "--out", str(tmp_path / "out"), "--json"])
    content = json.loads(capsys.readouterr().out)
    assert {Path(path).name for path in content["files"].values()} == {
        p.name for p in (tmp_path / "out").iterdir()
    }


def test_the_same_seed_gives_the_same_numbers(recorded, capsys):
    printed = []
    for _ in range(2):
        main(["eval", "replay", recorded, "--policies", "cap:30", "--seed", "3", "--json"])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


def test_a_recorded_stop_is_split_off_and_recorded_efforts_stand_beside_it(tmp_path, capsys):
    def row(i, kind, tokens, value=None, **more):
        budget = cube.CubeBudget(kind=kind, value=value)
        base = {"dataset": "d", "question_id": str(i), "question": f"q{i}", "model": "m"}
        return cube.CubeRow(
            **base, budget=budget, reasoning_tokens=tokens, output_tokens=tokens + 5, correct=True, **more
        )

    certain = {"trial_answer": "42", "trial_confidence": 1.0, "answer_mass": 1.0}
    rows = []
    for i in range(80):
        rows += [row(i, "natural", 4000), row(i, "effort", 900, "low")]
        rows += [
            row(i, "tokens", t, t, coupled=True, answer="42", signals=certain) for t in (0, 1000, 2000, 3000)
        ]
    cube.write(tmp_path / "cube.jsonl", rows)
    main(["eval", "replay", str(tmp_path / "cube.jsonl"), "--policies", "full+stop:balanced", "--json"])
    content = json.loads(capsys.readouterr().out)
    names = [r["policy"] for r in content["baselines"]]
    assert {"effort:low", "full"} <= set(names)
    (stopped,) = content["policies"]
    assert stopped["token_saving"] > 0
    assert stopped["split"]["stop"] == pytest.approx(stopped["token_saving"])


def test_the_speed_profile_sets_the_modelled_seconds(recorded, capsys):
    main(["eval", "replay", recorded, "--policies", "cap:60", "--speed-profile", "1,0.1", "--json"])
    (row,) = json.loads(capsys.readouterr().out)["policies"]
    assert row["e2e_p50_s"] == pytest.approx(1 + 65 * 0.1)
    assert "e2e_p95_s" in row["modelled"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["replay", "none.jsonl"], "none.jsonl: there is no such file"),
        (["replay", "CUBE", "--policies", "cap:60,fast"], "unknown part 'fast'"),
        (["replay", "CUBE", "--model", "other"], "no rows are left with --model 'other'; the files hold: m"),
        (["replay", "CUBE", "--speed-profile", "warp"], "speed profile 'warp'"),
        (["replay", "CUBE", "--caps", "0,x"], "--caps '0,x'"),
        (["replay", "CUBE", "--policies", "effort:low"], "effort 'low' was not recorded"),
        (["replay", "CUBE", "--seed", "-1"], "--seed -1"),
        (["replay", "CUBE", "--margin", "2"], "--margin 2.0"),
        (["replay", "CUBE", "--slo", "nan"], "--slo nan: expected seconds above 0"),
        (["replay", "CUBE", "--out", "CUBE"], "is a file; expected a folder"),
        (["live", "nowhere", "--out", "x"], "neither a built-in suite (pocket"),
        (["live", "CUBE", "--out", "x", "--model", "m"], "a suite file needs a grader"),
        (["live", "pocket", "--out", "x", "--limit", "0"], "--limit 0"),
        (["live", "pocket", "--out", "x", "--model", "m"], "brings its own model"),
        (["live", "pocket", "--out", "x", "--concurrency", "3"], "answers in batches; give --batch-size"),
        (["live", "pocket", "--out", "x", "--max-usd", "0"], "--max-usd 0"),
        (["live", "pocket", "--out", "x", "--max-usd", "1"], "it is not known what 'pocket-1' costs"),
        (["live", "pocket", "--out", "x", "--sampling", "[]"], "expected a JSON object"),
        (["live", "pocket", "--out", "x", "--samples", "0"], "samples 0: expected 1 or more"),
        (["live", "pocket", "--out", "x", "--grader", "a:b"], "brings its own grader"),
    ],
)
def test_what_cannot_be_done_is_said_with_exit_code_two(recorded, capsys, arguments, message):
    assert main(["eval", *(recorded if a == "CUBE" else a for a in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_a_configuration_names_policies_and_sets_presets(tmp_path, capsys, monkeypatch):
    signals = {"trial_answer": "42", "trial_confidence": 0.9, "answer_mass": 1.0}
    base = {"dataset": "d", "question": "q", "model": "m", "correct": True}
    rows = []
    for i in range(20):
        rows.append(
            cube.CubeRow(**base, question_id=str(i), budget={"kind": "natural"}, reasoning_tokens=4000)
        )
        rows += [
            cube.CubeRow(
                **base,
                question_id=str(i),
                budget={"kind": "tokens", "value": t},
                reasoning_tokens=t,
                coupled=True,
                answer="42",
                signals=signals,
            )
            for t in (0, 1000, 2000, 3000)
        ]
    cube.write(tmp_path / "cube.jsonl", rows)
    monkeypatch.chdir(tmp_path)
    lenient = "[presets]\nbalanced = { trial_answer = { confidence = 0.8, mass = 0.1 } }\n"
    (tmp_path / "own.toml").write_text('[policies]\ncareful = "full+stop:balanced"\n' + lenient)
    command = ["eval", "replay", "cube.jsonl", "--json"]

    def tokens(*arguments):
        main([*command, *arguments])
        content = json.loads(capsys.readouterr().out)
        [row] = content["policies"]
        return row["policy"], row["reasoning_tokens_mean"], content["settings"].get("presets")

    presets = {"balanced": {"trial_answer": {"confidence": 0.8, "mass": 0.1}}}
    assert tokens("--policies", "full+stop:balanced")[::2] == ("full+stop:balanced", None)
    assert tokens("--policies", "full+stop:balanced")[1] > 4000
    assert tokens("--policies", "careful", "--config", "own.toml") == ("full+stop:balanced", 1001, presets)
    (tmp_path / "budgetctl.toml").write_text(lenient)
    assert tokens("--policies", "full+stop:balanced") == ("full+stop:balanced", 1001, presets)
    assert main([*command, "--config", "none.toml"]) == 2
    assert "none.toml" in capsys.readouterr().err


def test_a_recording_without_lengths_is_replayed_by_what_needs_none(tmp_path, capsys):
    base = {"dataset": "d", "question": "q", "model": "m", "correct": True}
    rows = [
        cube.CubeRow(**base, question_id=str(i), budget={"kind": kind})
        for i in range(5)
        for kind in ("natural", "off")
    ]
    cube.write(tmp_path / "cube.jsonl", rows)
    assert main(["eval", "replay", str(tmp_path / "cube.jsonl"), "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert [row["policy"] for row in content["policies"]] == ["full", "off", "auto"]
    assert content["policies"][0]["tokens_mean"] is None


def test_json_is_json_also_where_most_calls_have_no_answer(recorded, tmp_path, capsys):
    rows = [row for row in cube.iterate(recorded) if row.budget.kind == "natural"]
    cube.write(tmp_path / "natural.jsonl", rows)  # without cut points
    main(["eval", "replay", str(tmp_path / "natural.jsonl"), "--policies", "cap:10", "--json"])
    shown = capsys.readouterr().out
    content = json.loads(shown, parse_constant=pytest.fail)
    assert content["policies"][0]["ttfo_p95_ci"] == [None, None]


def test_a_damaged_cube_is_named_by_file_and_line(recorded, capsys):
    whole = Path(recorded).read_bytes()
    Path(recorded).write_bytes(whole[: len(whole) // 2])
    assert main(["eval", "replay", recorded]) == 2
    assert "cube.jsonl.gz:" in capsys.readouterr().err


@pytest.mark.skipif(DATA is None, reason="recordings of real models are not here (BUDGETCTL_DATA)")
def test_a_coupled_recording_of_a_real_model(capsys):
    path = f"{DATA}/cubes/gemma4_truncation.jsonl.gz"
    main(
        [
            "eval",
            "replay",
            path,
            "--dataset",
            "gemma4/gpqa_diamond/full198",
            "--policies",
            "cap:4000",
            "--json",
        ]
    )
    content = json.loads(capsys.readouterr().out)
    chosen = [r for r in cube.load(path) if r.dataset == "gemma4/gpqa_diamond/full198"]
    by_question = {}
    for row in chosen:
        by_question.setdefault((row.question_id, row.sample), []).append(row)
    # The rule once more, as plainly as it can be written.
    taken = [
        max((r for r in group if r.reasoning_tokens <= 4000), key=lambda r: r.reasoning_tokens)
        for group in by_question.values()
    ]
    (row,) = content["policies"]
    assert row["accuracy"] == pytest.approx(sum(r.correct for r in taken) / len(taken))
    assert row["reasoning_tokens_mean"] == pytest.approx(sum(r.reasoning_tokens for r in taken) / len(taken))
    assert row["empty_answers"] == 0


@pytest.mark.skipif(DATA is None, reason="recordings of real models are not here (BUDGETCTL_DATA)")
def test_an_uncoupled_recording_is_read_pessimistically_and_says_so(capsys):
    path = f"{DATA}/cubes/lineage_bench.jsonl.gz"
    main(["eval", "replay", path, "--model", "deepseek/deepseek-r1-0528", "--policies", "cap:4000", "--json"])
    (row,) = json.loads(capsys.readouterr().out)["policies"]
    assert row["empty_answers"] > 0
    assert row["help"] == 0
    assert any("pessimistic" in note for note in row["notes"])


@pytest.mark.skipif(
    not (pocket.path() / "model.safetensors").exists(), reason="the pocket weights are not built"
)
def test_live_pocket_runs_resumes_and_reports(tmp_path, capsys):
    pytest.importorskip("transformers")
    command = [
        "eval",
        "live",
        "pocket",
        "--limit",
        "6",
        "--policies",
        "full,off,cap:16",
        "--out",
        str(tmp_path),
        "--json",
    ]
    assert main(command) == 1
    content = json.loads(capsys.readouterr().out)
    assert [row["policy"] for row in content["policies"]] == ["full", "off", "cap:16"]
    assert all(row["n"] == 6 for row in content["policies"])
    assert content["policies"][1]["reasoning_tokens_mean"] == 0
    before = (tmp_path / "rows.jsonl").read_bytes()
    main(command)
    assert (tmp_path / "rows.jsonl").read_bytes() == before
    assert main([*command, "--seed", "1"]) == 2
    assert "other settings" in capsys.readouterr().err


@pytest.fixture
def endpoint(tmp_path, monkeypatch):
    """A server that thinks 400 words by script and answers 42, a suite of three questions, and a grader."""
    pytest.importorskip("openai")
    (tmp_path / "my_grader.py").write_text(
        "def grade(answer, question):\n    return question['answer'] in answer\n"
    )
    lines = [{"id": i, "question": f"What is it, {i}?", "answer": "42" if i else "43"} for i in range(3)]
    (tmp_path / "suite.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    monkeypatch.chdir(tmp_path)
    with serving() as server:
        base = ["eval", "live", "suite.jsonl", "--grader", "my_grader:grade", "--model", "Qwen3-8B"]
        yield [*base, "--endpoint", "vllm", "--base-url", server.url, "--out", "run", "--json"]


def test_live_on_an_endpoint_grades_caps_and_times_every_question(endpoint, capsys):
    main([*endpoint, "--policies", "full,off,cap:50"])
    content = json.loads(capsys.readouterr().out)
    full, off, cap = content["policies"]
    assert [full["accuracy"], off["accuracy"], cap["accuracy"]] == pytest.approx([2 / 3] * 3)
    assert full["reasoning_tokens_mean"] == 400
    assert off["reasoning_tokens_mean"] == 0
    assert cap["reasoning_tokens_mean"] == pytest.approx(50, rel=0.2)
    assert full["ttfo_p50_s"] is not None
    assert full["modelled"] == []


class Breaking:
    """A client whose streams break with the transport's own error, as under SDKs that do not wrap it."""

    def __init__(self, error):
        self.error = error
        self.chat = self.completions = self

    def with_policy(self, policy):
        return self

    def create(self, **params):
        yield from ()
        raise self.error


def test_a_stream_that_breaks_is_a_clear_fault(endpoint, capsys, monkeypatch):
    transport = pytest.importorskip("httpx2")
    monkeypatch.setattr("budgetctl.wrap", lambda *_, **__: Breaking(transport.ReadError("reset")))
    assert main([*endpoint, "--policies", "full"]) == 2
    assert "ReadError: reset; what was finished is kept" in capsys.readouterr().err


def test_an_endpoint_is_known_by_its_url_as_wrap_knows_it():
    pytest.importorskip("openai")
    from budgetctl.evals.endpoint import EndpointBackend

    def facts(url):
        return EndpointBackend(base_url=url, model="gpt-5", grader=lambda answer, question: True).facts

    assert "minimal" in facts("https://api.openai.com/v1").efforts
    assert facts("http://127.0.0.1:9/v1").efforts == ()


def test_an_endpoint_that_is_gone_is_a_clear_fault(endpoint, capsys):
    endpoint[endpoint.index("--base-url") + 1] = "http://127.0.0.1:9/v1"
    assert main([*endpoint, "--policies", "full"]) == 2
    assert "the same command resumes" in capsys.readouterr().err
