"""What the page's charts are drawn from, against numbers that are known beforehand."""

import json
import math

import numpy as np
import pytest
from budgetctl.evals import report
from budgetctl.evals.metrics import evaluate
from budgetctl.evals.report import questions
from budgetctl.evals.report.charts import figures
from budgetctl.evals.report.reliability import LEVEL, upper_bound
from budgetctl.evals.results import Result
from budgetctl.evals.risk.pvalues import betting_p

from budgetctl.types import Budget

from .worlds import row


def calls(correct, *, tokens=100, seconds=None, p=None, **more):
    """Results of questions q/0, q/1, ..; a list for what differs."""

    def pick(value, i):
        return value[i] if isinstance(value, list) else value

    return [
        Result(
            question_id=f"q/{i}",
            correct=c,
            reasoning_tokens=pick(tokens, i),
            e2e_s=pick(seconds, i),
            ttfo_s=pick(seconds, i),
            p_correct=pick(p, i),
            **{name: pick(value, i) for name, value in more.items()},
        )
        for i, c in enumerate(correct)
    ]


def asked(n, **more):
    """Rows that say what the questions are; a function of the number for what differs."""
    return [
        row(
            str(i),
            "natural",
            dataset="q",
            correct=True,
            **{name: value(i) if callable(value) else value for name, value in more.items()},
        )
        for i in range(n)
    ]


def made(runs, rows):
    found = evaluate(runs, rng=np.random.default_rng(0), resamples=200)
    return report.details(runs, found, questions=rows)


def test_groups_are_the_coarsest_split_that_was_recorded():
    runs = {"full": calls([True] * 8), "auto": calls([True] * 4 + [False] * 4)}
    by_cluster = made(runs, asked(8, cluster=lambda i: f"c{i // 2}"))
    assert by_cluster["grouped_by"] == "cluster"
    by_subject = made(runs, asked(8, cluster=lambda i: f"c{i // 2}", subject=lambda i: "ab"[i // 4]))
    assert by_subject["grouped_by"] == "subject"
    assert [(r["group"], r["policy"], r["n"], r["delta"]) for r in by_subject["forest"]] == [
        ("a", "auto", 4, 0.0),
        ("b", "auto", 4, -1.0),
    ]
    assert made(runs, asked(8))["grouped_by"] is None
    assert made(runs, asked(8))["forest"] == []


def test_a_group_without_a_difference_has_the_width_that_its_size_allows():
    subjects = asked(8, subject=lambda i: "ab"[i // 4])
    capped = calls([True] * 8, budget=Budget(reasoning_tokens=50))
    first = made({"full": calls([True] * 8), "cap:50": capped}, subjects)["forest"][0]
    assert first["high"] == pytest.approx(1 - 0.025 ** (1 / 4))
    unchanged = made({"full": calls([True] * 8), "auto": calls([True] * 8)}, subjects)["forest"][0]
    assert (unchanged["low"], unchanged["high"]) == (0.0, 0.0), "the very same calls"


def test_full_thinking_alone_is_a_report_too():
    found = made({"full": calls([True, False] * 4)}, asked(8, subject=lambda i: "ab"[i // 4]))
    assert found["forest"] == found["risk"] == []
    assert len(found["browser"]["calls"]) == 8


def test_difficulty_is_the_recorded_level_or_else_how_long_full_thinking_took():
    runs = {"full": calls([True] * 9, tokens=[10 * i for i in range(9)]), "auto": calls([True] * 9, tokens=5)}
    recorded = made(runs, asked(9, level=lambda i: 3 - i % 3))
    assert recorded["difficulty"] == "level"
    assert list(dict.fromkeys(r["level"] for r in recorded["spent"]["rows"])) == ["1", "2", "3"]
    many = made(runs, asked(9, level=lambda i: i))
    assert len({r["level"] for r in many["spent"]["rows"]}) <= 6
    thirds = made(runs, asked(9))
    assert thirds["difficulty"] == "reasoning tokens of full"
    spent = [(r["level"], r["policy"], r["mean"]) for r in thirds["spent"]["rows"] if r["policy"] == "full"]
    assert spent == [("0-20", "full", 10), ("30-50", "full", 40), ("60-80", "full", 70)]


def test_every_call_is_in_one_bar_and_the_last_bar_is_open():
    runs = {"full": calls([True] * 50, tokens=[*range(49), 10_000]), "auto": calls([True] * 50, tokens=3)}
    found = made(runs, asked(50, level=1))["spent"]
    full, auto = found["rows"]
    assert sum(full["counts"]) == sum(auto["counts"]) == 50
    assert full["counts"][-1] == 1
    assert auto["counts"][3 // found["width"]] == 50


def test_a_call_without_an_answer_never_reaches_its_first_token_of_it():
    answered = [i % 4 > 0 for i in range(60)]
    late = calls(answered, seconds=[float(i + 1) for i in range(60)], answered=answered)
    found = {e["what"]: e for e in made({"full": late}, asked(60))["latency"]}
    assert found["e2e_s"]["points"][-1] == [60.0, 1.0]
    assert max(share for _, share in found["ttfo_s"]["points"]) == pytest.approx(45 / 60)
    p50, p90, p95, p99 = found["e2e_s"]["quantiles"]
    assert (p50, p90, p95) == (30.0, 54.0, 57.0)
    assert p99 is None, "60 questions do not bound it"
    assert found["ttfo_s"]["quantiles"][1:] == [None, None, None]


def test_times_that_are_not_known_for_every_call_are_not_drawn():
    partly = calls([True] * 60, seconds=[None] + [1.0] * 59)
    assert made({"full": partly}, asked(60))["latency"] == []


def test_reliability_holds_what_was_expected_against_what_came():
    p = [0.95] * 40 + [0.25] * 40
    right = [i % 10 > 0 for i in range(40)] + [i % 2 == 0 for i in range(40)]
    [found] = made({"full": calls([True] * 80), "auto": calls(right, p=p)}, asked(80))["reliability"]
    low, high = found["bins"]
    assert (low["expected"], low["right"], low["n"]) == (0.25, 0.5, 40)
    assert (high["expected"], high["right"], high["n"]) == (pytest.approx(0.95), 0.9, 40)
    assert found["ece"] == pytest.approx((0.25 + 0.05) / 2)
    # Wilson's interval of 20 in 40, as in any table of it.
    assert (low["low"], low["high"]) == (pytest.approx(0.352, abs=5e-4), pytest.approx(0.648, abs=5e-4))


def test_samples_of_a_question_count_as_one():
    def twice(correct, **more):
        once = calls(correct, **more)
        other = calls([not c for c in correct], sample=1, **more)
        return [*once, *other]

    runs = {"full": twice([True] * 10), "auto": twice([True] * 10, p=0.5)}
    [found] = made(runs, asked(10))["reliability"]
    assert found["n"] == found["bins"][0]["n"] == 10
    assert found["bins"][0]["right"] == 0.5


def test_the_upper_bound_is_where_the_betting_test_begins_to_reject():
    rng = np.random.default_rng(1)
    loss = (rng.random(400) < 0.05).astype(float)
    bound = upper_bound(loss)
    assert loss.mean() < bound < 0.12
    assert betting_p(loss, epsilon=bound, level=LEVEL) <= LEVEL
    assert betting_p(loss, epsilon=bound - 1e-3, level=LEVEL) > LEVEL
    assert upper_bound(np.ones(50)) is None, "of all losses nothing can be ruled out"


def test_the_upper_bound_covers_the_loss_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = [upper_bound((rng.random(200) < 0.1).astype(float)) >= 0.1 for _ in range(200)]
    # Of 200 draws at most 5 % may miss on average; 19 is the 99.9 % quantile of that.
    assert covered.count(False) <= 19


def test_the_risk_curve_goes_from_the_budget_that_spends_most_to_the_cheapest():
    runs = {
        "full": calls([True] * 100),
        "cap:20": calls([i % 4 > 0 for i in range(100)], tokens=20),
        "cap:60": calls([i % 50 > 0 for i in range(100)], tokens=60),
        "auto": calls([True] * 100),
    }
    found = made(runs, asked(100))["risk"]
    assert [r["policy"] for r in found] == ["cap:60", "cap:20"]
    assert [r["loss"] for r in found] == [pytest.approx(0.02), pytest.approx(0.25)]
    assert all(r["low"] <= r["loss"] <= r["high"] and r["loss"] < r["bound"] for r in found)


def test_questions_on_which_policies_differ_are_listed_before_others(monkeypatch):
    monkeypatch.setattr(questions, "MOST_ROWS", 8)
    right = [i not in (3, 7) for i in range(10)]
    found = made({"full": calls([True] * 10), "auto": calls(right)}, asked(10))["browser"]
    assert len(found["calls"]) == 4
    assert found["left_out"] == 6
    assert {"q/3", "q/7"} <= set(found["questions"]["id"])
    assert found["policies"]["auto"]["right"].count("0") == 2


def test_texts_are_cut_until_they_fit_and_of_thinking_the_end_is_kept(monkeypatch):
    monkeypatch.setattr(questions, "MOST_TEXT", 10_000)
    thought = "begin " + "x" * 5000 + " end"
    runs = {"full": calls([True] * 10, answer="a" * 5000, thinking_tail=thought)}
    found = made(runs, asked(10, question="What? " * 500))["browser"]
    assert found["text_cut"] == 300
    assert all(len(text) <= 302 for text in (*found["pool"], *found["questions"]["text"]))
    kept = found["pool"][found["policies"]["full"]["thinking"][0]]
    assert kept.endswith("x end")
    assert kept.startswith("… ")
    assert found["questions"]["text"][0].startswith("What? What?")


def test_a_missing_answer_is_told_from_one_that_was_not_kept():
    runs = {"full": calls([True, False, True], answer=["4", None, None], answered=[True, False, True])}
    found = made(runs, asked(3))["browser"]
    places = found["policies"]["full"]["answer"]
    assert [None if at is None else found["pool"][at] for at in places] == ["4", "", None]


def test_figures_without_numbers_are_left_out():
    bare = [Result(question_id=f"q/{i}", correct=True) for i in range(4)]
    found = evaluate({"full": bare}, rng=np.random.default_rng(0), resamples=50)
    more = report.details({"full": bare}, found, questions=[])
    assert figures(found, more, margin=0.02) == []
    assert figures(found, None, margin=None) == []


def test_every_mark_that_has_a_value_says_it_in_words():
    n = 80
    runs = {
        "full": calls([True] * n, seconds=2.0),
        "cap:20": calls([i % 4 > 0 for i in range(n)], tokens=20, seconds=0.5),
        "auto": calls([i % 9 > 0 for i in range(n)], tokens=50, seconds=1.0, p=0.9),
    }
    found = evaluate(runs, rng=np.random.default_rng(0), resamples=200)
    more = report.details(
        runs, found, questions=asked(n, subject=lambda i: "ab"[i % 2], level=lambda i: i % 3)
    )
    drawn = figures(found, more, margin=0.02, recommended="auto")
    assert [f.id for f in drawn] == ["tradeoff", "forest", "latency", "spent", "reliability", "risk"]
    assert next(iter(drawn[3].variants)) == "auto", "what is recommended is looked at first"
    for figure in drawn:
        assert figure.lines
        assert {len(line) for line in figure.lines} == {len(figure.headings)}
        for spec in figure.variants.values():
            json.dumps(spec, allow_nan=False)
            spoken = [m for m in marks(spec) if m.get("interactive") is not False and m["type"] != "group"]
            assert spoken
            assert all("description" in m["encode"]["update"] for m in spoken)
    [auto] = [p for p in drawn[0].variants["tokens"]["data"][0]["values"] if p["policy"] == "auto"]
    assert auto["say"].startswith("policy: auto\naccuracy (95 % CI): 88.8 %")
    assert math.isclose(auto["y"], 100 * 71 / 80)


def marks(spec):
    for mark in spec["marks"]:
        yield mark
        yield from marks(mark) if mark["type"] == "group" else ()
