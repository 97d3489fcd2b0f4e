"""Ladders on recordings: rungs, cascades and routers as policies of a replay, and ``eval ladder``."""

import json

import pytest
from budgetctl.evals import columns, cube
from budgetctl.evals.ladders import choices, policies, recorded, scores
from budgetctl.evals.replay import speed_profile

from budgetctl.cli import main
from budgetctl.controller import Controller
from budgetctl.errors import ConfigError, EvalError
from budgetctl.ladder import Rung
from budgetctl.policy import parse
from budgetctl.pricing import Prices
from budgetctl.types import Estimate, Quantiles
from tests.evals.worlds import curve, row

PACE = speed_profile("0.5,0.1")
PAIR = "small@off>large@full"
FREE = {"input": 0}


def pair(n=200, *, informative=True, **of_small):
    """Every tenth question is long and needs the large model; it costs ten times as much."""
    rows = []
    for i in range(n):
        hard = i % 10 == 0
        text = f"Question {i}" + ("?" * (40 if hard == informative and i % 10 in (0, 5) else 1))
        shared = {"question": text, "answer": "42", "dataset": "made-up"}
        small = row(
            f"q{i}", "off", output=10, correct=not hard, model="small", coupled=False, **shared, **of_small
        )
        rows += [small, row(f"q{i}", "natural", output=100, correct=True, model="large", **shared)]
    return rows


def written(tmp_path, rows):
    cube.write(tmp_path / "pair.jsonl", rows)
    return str(tmp_path / "pair.jsonl")


def called(capsys, *arguments):
    code = main([*arguments, "--json"])
    printed = capsys.readouterr()
    return code, json.loads(printed.out), printed.err


def runs(rows, *names, own="MODEL", classifier=None):
    ways = policies.ways(names, own=own, canonical=lambda text: str(parse(text)))
    return policies.replay_ladders(columns.of(rows), ways, pace=PACE, base=Controller(classifier=classifier))[
        0
    ]


class Sure:
    """Believes long questions need thinking."""

    name = hash = "sure"

    def estimate(self, query):
        flat = Quantiles(p50=100, p80=100, p90=100, p95=100)
        p_off = 0.2 if len(query.text) > 30 else 0.95
        return Estimate(p_off=p_off, p_full=0.97, settled=flat, natural=flat, confidence=1.0, source="sure")


# Rungs


def test_a_rung_takes_the_rows_of_its_model_under_its_policy():
    found = recorded.of(columns.of(pair()), [Rung.parse("small@off"), Rung.parse("large@full")], pace=PACE)
    assert len(found) == 200
    assert found.column(0, "correct").mean() == 0.9
    assert [tokens.mean() for tokens in found.tokens()] == [10, 100]


def test_a_capped_rung_is_replayed_on_the_natural_traces():
    rows = [r for i in range(4) for r in curve(f"q{i}", settled=20 * i, natural=90)]
    found = recorded.of(columns.of(rows), [Rung.parse("toy@off"), Rung.parse("toy@cap:40")], pace=PACE)
    assert found.column(0, "correct").tolist() == [1, 0, 0, 0]
    assert found.column(1, "correct").tolist() == [1, 1, 1, 0]


def test_questions_that_one_rung_did_not_record_are_left_out_and_counted():
    found = recorded.of(
        columns.of(pair()[:-1]), [Rung.parse("small@off"), Rung.parse("large@full")], pace=PACE
    )
    assert (len(found), found.left_out) == (199, 1)


@pytest.mark.parametrize(
    ("rung", "said"),
    [
        ("tiny@off", "recorded models: large, small"),
        ("large@off", "of 'large' were recorded: full"),
        ("small@effort:low", "of 'small' were recorded: off"),
        ("small@cap:10", "of 'small' were recorded: off"),
    ],
)
def test_a_rung_that_was_not_recorded_is_refused_with_what_was(rung, said):
    with pytest.raises(EvalError, match=said):
        recorded.of(columns.of(pair()), [Rung.parse(rung), Rung.parse("large@full")], pace=PACE)


# Policies


def test_a_router_asks_one_rung_and_drafts_nothing():
    found = runs(pair(), f"{PAIR}?need:0.5", classifier=Sure())[f"{PAIR}?need:0.5"]
    assert {(r.rung, r.output_tokens) for r in found} == {(0, 10), (1, 100)}
    assert sum(r.rung for r in found) == 20
    assert all(r.correct for r in found)


def test_a_router_by_worth_weighs_dollars_and_needs_prices():
    rows, name = pair(), f"{PAIR}?worth:0.001"
    with pytest.raises(ConfigError, match="'small' has no price"):
        runs(rows, name, classifier=Sure())
    base = Controller(
        classifier=Sure(), prices=Prices.load({"small": FREE | {"output": 1}, "large": FREE | {"output": 5}})
    )
    ways = policies.ways([name], own="MODEL", canonical=str)
    found, _ = policies.replay_ladders(columns.of(rows), ways, pace=PACE, base=base)
    # 100 tokens of the large one cost .0005: worth it for .77 of .001, not for .02.
    assert sum(r.rung for r in found[name]) == 20


def test_a_cascade_charges_the_draft_that_it_throws_away_and_waits_for_it():
    rows = pair(signals={"confidence": 0.9})
    rows = [r.model_copy(update={"signals": {"confidence": 0.1}}) if not r.correct else r for r in rows]
    found = runs(rows, f"{PAIR}?confident:0.5")[f"{PAIR}?confident:0.5"]
    sent = [r for r in found if r.rung == 1]
    assert len(sent) == 20
    assert {r.output_tokens for r in sent} == {110}
    assert [r.e2e_s for r in sent] == pytest.approx([0.5 + 10 * 0.1 + 0.5 + 100 * 0.1] * 20)
    assert {r.output_tokens for r in found if r.rung == 0} == {10}
    assert not any(r.notes for r in found)


def test_without_a_recorded_confidence_the_classifier_stands_for_it_and_the_result_says_so():
    found = runs(pair(), f"{PAIR}?confident:0.5", classifier=Sure())[f"{PAIR}?confident:0.5"]
    assert sum(r.rung for r in found) == 20
    assert all(r.notes == (policies.BEFOREHAND,) for r in found)


def test_without_confidence_and_without_a_classifier_nothing_can_be_accepted():
    with pytest.raises(EvalError, match="without a classifier nothing is known"):
        runs(pair(), f"{PAIR}?confident:0.5")


def test_answers_that_were_not_recorded_cannot_agree():
    rows = [r.model_copy(update={"answer": None}) for r in pair()]
    with pytest.raises(EvalError, match="answers of small@off are not recorded"):
        runs(rows, f"{PAIR}?agree")


def test_full_is_the_last_rung_and_other_rungs_are_fixed_budgets(tmp_path, capsys):
    name = f"{PAIR}?confident:0.5"
    _, content, _ = called(
        capsys, "eval", "replay", written(tmp_path, pair(signals={"confidence": 0.9})), "--policies", name
    )
    rows = {r["policy"]: r for r in content["policies"] + content["baselines"]}
    assert list(rows) == [name, "full", "small@off", "oracle"]
    assert (rows["full"]["accuracy"], rows["small@off"]["accuracy"]) == (1.0, 0.9)
    assert rows[name]["lift_over_cap"] == pytest.approx(0)  # it accepts every draft, so it is always-small


def test_a_ladder_of_the_configuration_is_replayed_by_its_name(tmp_path, capsys):
    (tmp_path / "budgetctl.toml").write_text(
        'policies = { quick = "off" }\n[ladders.support]\nrungs = ["small@quick", "large"]\n'
        'accept = "confident:0.5"\n'
    )
    files = [
        written(tmp_path, pair(signals={"confidence": 0.9})),
        "--config",
        str(tmp_path / "budgetctl.toml"),
    ]
    _, named, _ = called(capsys, "eval", "replay", *files, "--policies", "support")
    _, whole, _ = called(capsys, "eval", "replay", *files, "--policies", f"{PAIR}?confident:0.5")
    assert named["policies"] == whole["policies"]


def test_in_a_recording_of_one_model_rungs_need_not_name_it(tmp_path, capsys):
    rows = [r for i in range(30) for r in curve(f"q{i}", settled=10 * (i % 5), natural=90)]
    for i, r in enumerate(rows):
        rows[i] = r.model_copy(update={"signals": {"confidence": float(r.correct)}})
    _, content, _ = called(
        capsys, "eval", "replay", written(tmp_path, rows), "--policies", "off>cap:20>full?confident:0.5"
    )
    (found,) = content["policies"]
    assert (found["policy"], found["accuracy"]) == ("off>cap:20>full?confident:0.5", 1.0)
    assert {r["policy"] for r in content["baselines"]} == {"full", "off", "cap:20", "oracle"}


def test_ladders_of_different_last_rungs_are_not_compared():
    with pytest.raises(ConfigError, match="share their last rung"):
        policies.ways(["a@off>b@full?agree", "a@off>c@full?agree"], own="MODEL", canonical=str)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a@off>b@full?need:much", "allowed are need:GAIN and worth:USD"),
        ("a@off>b@full?worth:0", "a number above zero"),
        ("a@off>b@off>c@full?need:0.1", "expected two rungs"),
    ],
)
def test_a_router_that_does_not_parse_says_what_is_allowed(text, said):
    with pytest.raises(ConfigError, match=said):
        policies.Router.parse(text, model="m")


def test_a_deadline_has_its_adherence_in_the_table_and_it_is_marked_modelled(tmp_path, capsys):
    rows = [r for i in range(80) for r in curve(f"q{i}", settled=10, natural=90)]
    _, content, _ = called(
        capsys,
        "eval",
        "replay",
        written(tmp_path, rows),
        "--policies",
        "full,deadline:40",
        "--speed-profile",
        "0.5,0.02",
    )
    full, deadline = content["policies"]
    assert (full["deadline_met"], full["deadline_p95"]) == (None, None)
    assert deadline["deadline_met"] == 1.0
    assert deadline["deadline_p95"] == pytest.approx((0.5 + 95 * 0.02) / 40)
    assert {"deadline_met", "deadline_p95"} <= set(deadline["modelled"])


# eval ladder


def test_eval_ladder_finds_a_score_that_knows(tmp_path, capsys):
    code, content, table = called(
        capsys,
        "eval",
        "ladder",
        written(tmp_path, pair()),
        "--rungs",
        PAIR,
        "--score",
        "prompt-length",
        "--out",
        str(tmp_path / "out"),
    )
    assert (code, content["beats_mix"], content["cost_unit"]) == (0, True, "tokens")
    assert content["crossfit"] is False
    assert content["standings"]["cost"]["position"] == pytest.approx(1)
    assert content["oracle"] == {
        "accuracy": pytest.approx(1),
        "cost": pytest.approx(19),
        "share": pytest.approx(0.1),
    }
    assert "beats the random mix" in table
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "ladder.json",
        "ladder.txt",
        "ladder.png",
        "ladder.svg",
    }


def test_eval_ladder_says_that_a_score_brings_nothing(tmp_path, capsys):
    path = written(tmp_path, pair(informative=False))
    code, content, table = called(capsys, "eval", "ladder", path, "--rungs", PAIR, "--score", "prompt-length")
    assert (code, content["beats_mix"]) == (1, False)
    assert "brings nothing here" in table


def test_eval_ladder_says_when_there_is_nothing_to_choose(tmp_path, capsys):
    rows = [r.model_copy(update={"correct": True}) for r in pair()]
    code, content, _ = called(
        capsys, "eval", "ladder", written(tmp_path, rows), "--rungs", PAIR, "--score", "prompt-length"
    )
    assert code == 1
    assert content["verdict"].startswith("There is nothing to choose")


def test_eval_ladder_stays_with_the_cheaper_model_where_the_dearer_one_is_no_better(tmp_path, capsys):
    rows = [r.model_copy(update={"correct": r.correct == (r.model == "small")}) for r in pair()]
    code, content, _ = called(
        capsys, "eval", "ladder", written(tmp_path, rows), "--rungs", PAIR, "--score", "prompt-length"
    )
    assert (code, content["beats_mix"]) == (1, False)
    assert content["verdict"].startswith("Stay with small@off: large@full is no more often right (-90.00")


def test_eval_ladder_refuses_rungs_that_stand_dearest_first(tmp_path, capsys):
    path = written(tmp_path, pair())
    assert main(["eval", "ladder", path, "--rungs", "large@full>small@off", "--score", "prompt-length"]) == 2
    assert "large@full costs 100 tokens on average and small@off 10" in capsys.readouterr().err


def test_eval_ladder_by_confidence_is_a_cascade_and_pays_for_drafts(tmp_path, capsys):
    rows = [r.model_copy(update={"signals": {"confidence": 0.5 + r.correct / 4}}) for r in pair()]
    code, content, _ = called(
        capsys, "eval", "ladder", written(tmp_path, rows), "--rungs", PAIR, "--score", "confidence"
    )
    assert (code, content["drafts"]) == (0, True)
    # It sends up what the oracle does, and has drafted all of that.
    assert content["curve"][1]["cost"] == pytest.approx(10 + 0.1 * 100)


def test_eval_ladder_by_agreement_takes_the_commonest_answer_and_pays_for_all_samples(tmp_path, capsys):
    rows = []
    for i in range(100):
        hard = i % 5 == 0
        votes = ["7", "8", "42"] if hard else ["42", "7", "42"]
        for sample, said in enumerate(votes):
            shared = {"sample": sample, "question": f"Q{i}"}
            rows.append(
                row(
                    f"q{i}",
                    "off",
                    output=10,
                    correct=said == "42",
                    answer=said,
                    model="small",
                    coupled=False,
                    **shared,
                )
            )
            rows.append(
                row(f"q{i}", "natural", output=100, correct=True, answer="42", model="large", **shared)
            )
    code, content, _ = called(
        capsys, "eval", "ladder", written(tmp_path, rows), "--rungs", PAIR, "--score", "agreement"
    )
    assert code == 0
    first, second, _ = content["curve"]
    assert first["cost"] == pytest.approx(30)
    assert (second["share"], second["accuracy"], second["cost"]) == pytest.approx((0.2, 1.0, 50))


@pytest.mark.parametrize("first", ["small", "large"])
def test_of_equally_common_answers_the_earliest_sample_stands_whatever_else_the_file_holds(first):
    rows = []
    for i, (sample, said) in ((i, vote) for i in range(40) for vote in enumerate(["7", "42"])):
        shared = {"sample": sample, "question": f"Q{i}"}
        rows += [
            row(f"q{i}", "off", correct=said == "42", answer=said, model="small", coupled=False, **shared),
            row(f"q{i}", "natural", correct=True, answer="42", model="large", **shared),
        ]
    rows.sort(key=lambda r: r.model != first)
    found = recorded.of(columns.of(rows), [Rung.parse("small@off"), Rung.parse("large@full")], pace=PACE)
    assert choices.cascade(found, "agreement", None).kept[0].mean() == 0


def test_dollars_come_before_tokens_where_they_are_known(tmp_path, capsys):
    rows = [r.model_copy(update={"cost_usd": r.output_tokens / 1000}) for r in pair()]
    _, content, _ = called(
        capsys, "eval", "ladder", written(tmp_path, rows), "--rungs", PAIR, "--score", "prompt-length"
    )
    assert (content["cost_unit"], content["cost_modelled"]) == ("usd", False)
    assert content["large"]["cost"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rungs", "small@off"], "expected two rungs"),
        (
            ["--rungs", PAIR, "--score", "magic"],
            "allowed are need, doubt, confidence, agreement, prompt-length",
        ),
        (["--rungs", PAIR, "--score", "confidence"], "no confidence was recorded at small@off"),
        (["--rungs", PAIR, "--score", "agreement"], "a second sample of every question"),
        (
            ["--rungs", PAIR, "--score", "need", "--classifier", "default", "--train", "x"],
            "it needs --classifier fit",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused_by_name(arguments, said, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert main(["eval", "ladder", written(tmp_path, pair()), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_need_does_not_tell_two_models_apart_that_both_think_as_they_like(tmp_path, capsys):
    natural = {"kind": "natural", "value": None}
    rows = [cube.CubeRow.model_validate(r.model_dump() | {"budget": natural}) for r in pair()]
    arguments = ["--rungs", "small@full>large@full", "--classifier", "default"]
    assert main(["eval", "ladder", written(tmp_path, rows), *arguments]) == 2
    assert "does not tell small@full and large@full apart" in capsys.readouterr().err


class Parrot:
    """Knows what it was fitted on, and nothing else."""

    def __init__(self, part, progress):
        self.known = {e.text: e.off for e in (*part.training, *part.calibration)}

    def estimate(self, query):
        one = Quantiles(p50=1, p80=1, p90=1, p95=1)
        off = self.known.get(query.text, 0.5)
        return Estimate(p_off=off, p_full=1.0, settled=one, natural=one, confidence=1.0, source="parrot")


def test_a_question_is_scored_without_what_was_recorded_of_it(monkeypatch):
    monkeypatch.setattr("budgetctl.evals.bench.predictors.linear", Parrot)
    found = recorded.of(columns.of(pair(450)), [Rung.parse("small@off"), Rung.parse("large@full")], pace=PACE)
    assert scores.by_fit(found, "need") == pytest.approx(0.5)


def test_a_score_is_fitted_on_the_recording_itself(tmp_path, capsys):
    pytest.importorskip("sklearn")
    code, content, _ = called(capsys, "eval", "ladder", written(tmp_path, pair(450)), "--rungs", PAIR)
    assert (code, content["held_out"], content["crossfit"]) == (0, True, True)
    assert content["learned"] == "on the other four fifths of these questions"
    assert content["standings"]["cost"]["position"] > 0.9
