"""``budgetctl slo``: routes against their latency targets and monthly spend, from outcome files."""

from __future__ import annotations

import json
import random
import tracemalloc
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from budgetctl.cli import main
from budgetctl.cli.slo import as_text, since
from budgetctl.config.sections import RouteSettings
from budgetctl.errors import ConfigError
from budgetctl.outcomes import DecisionRow, Feedback, LadderRow, Outcome, UsageRow
from budgetctl.slo import Collected, summary
from budgetctl.slo.account import INTERVAL_NEEDS, POINT_NEEDS, order_interval

END = datetime(2026, 1, 31, tzinfo=UTC)
SUPPORT = RouteSettings(owner="support team", target_p95_s=10)


def call(
    seconds: float | None = 1.0,
    *,
    thinking: float | None = 0.0,
    first_token: float = 0.0,
    ago_s: float = 0.0,
    route: str | None = "support",
    answered: bool = True,
    stop: str = "natural",
    usd: float | None = None,
    **more,
) -> Outcome:
    """A call that ended ``ago_s`` before the end of January; thinking None is one that was not streamed."""
    seen = None if thinking is None else first_token + thinking
    return Outcome(
        time=END - timedelta(seconds=ago_s),
        route=route,
        policy="auto",
        policy_hash="0",
        decision=DecisionRow(),
        stop={"reason": stop},
        answered=answered,
        timing={"ttft_s": None if seen is None else first_token, "ttfo_s": seen, "e2e_s": seconds},
        usage={"reasoning_tokens": 0 if thinking == 0 else 100, "answer_tokens": 10},
        cost_usd=usd,
        **more,
    )


def found(rows, *, routes=None, **more):
    collected = Collected({"support": SUPPORT} if routes is None else routes, now=END, **more)
    collected.add(rows)
    return summary(collected)


def of_support(rows, **more):
    return found(rows, **more)["routes"][0]


def test_deadlines_are_kept_by_the_share_of_the_calls_that_had_one():
    def within(deadline_s, seconds, **more):
        row = call(seconds, **more)
        return row.model_copy(update={"decision": DecisionRow(deadline_s=deadline_s)})

    rows = [within(10, 5.0)] * 18 + [within(10, 12.0), within(10, 2.0, answered=False)]
    rows += [within(10, 1.0, answered=False, stop="caller"), within(None, 99.0), within(10, None)]
    row = of_support(rows)
    assert row["deadlines"] == {"calls": 20, "kept": 0.9, "p95": 1.2}
    assert of_support([within(None, 99.0)])["deadlines"] is None
    assert of_support([within(1, 2.0, answered=False)])["deadlines"]["p95"] is None
    said = as_text(found(rows))
    assert "90.0 % of 20 calls kept their deadline; 95 % took no more than 1.20 of it." in said


@pytest.mark.parametrize("n", [1, 2, 5, 59, 71, 72, 100, 1000, 20_000])
def test_the_interval_is_of_the_order_statistics_that_the_binomial_distribution_names(n):
    low, high = order_interval(np.arange(1.0, n + 1))  # the r-th smallest is r
    ranks = np.arange(1, n + 1)
    below = binom.cdf(ranks - 1, n, 0.95)
    lower, upper = ranks[below <= 0.025], ranks[below >= 0.975]
    assert low == (lower[-1] if len(lower) else None)
    assert high == (upper[0] if len(upper) else None)


def test_the_interval_holds_the_p95_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        low, high = order_interval(np.sort(rng.exponential(size=300)))
        inside += low <= -np.log(0.05) <= high
    assert inside / 400 > 0.93


def test_a_route_within_its_target():
    row = of_support([call(k / 20) for k in range(1, 101)])
    assert (row["p95_s"], row["latency"], row["burns"]) == (4.75, "within", [])
    # Bin(100, 0.95): P(< 91) = 0.028, P(< 90) = 0.011, P(< 99) = 0.963, P(< 100) = 0.994
    assert row["p95_ci"] == [90 / 20, 100 / 20]
    assert row["burn"]["span"] == {"calls": 100, "over": 0, "share": 0.0, "rate": 0.0}
    assert (row["thinking_cut"], row["lever"]) == (0.0, None)


def test_over_is_what_a_binomial_test_calls_over():
    for late in range(14):
        row = of_support([call(20 if i < late else 1) for i in range(100)])
        p = binomtest(late, 100, 0.05, alternative="greater").pvalue
        assert (row["latency"] == "over") == (p <= 0.025)
        assert row["burn"]["span"]["rate"] == pytest.approx(late / 5)


def test_few_calls_say_how_many_it_takes():
    assert (POINT_NEEDS, INTERVAL_NEEDS) == (59, 72)
    row = of_support([call(1)] * 58)
    assert (row["p95_s"], row["p95_ci"], row["calls_needed"]) == (None, [1, None], 72)
    assert row["latency"] == "unsure"
    assert of_support([call(1)] * 59)["p95_s"] == 1
    row = of_support([call(1)] * 72)
    assert (row["p95_ci"], row["calls_needed"], row["latency"]) == ([1, 1], None, "within")
    # Five of five late calls are no accident: 0.05^5, and four of five would be one in 40,000.
    assert of_support([call(11)] * 5)["burns"] == ["latency"]


def test_a_route_without_calls_or_target_is_shown_and_burns_nothing():
    routes = {"support": SUPPORT, "quiet": RouteSettings(target_p95_s=1), "free": RouteSettings()}
    rows = {row["route"]: row for row in found([call(99, route="free")] * 99, routes=routes)["routes"]}
    assert list(rows) == ["support", "quiet", "free"]
    assert (rows["quiet"]["calls"], rows["quiet"]["latency"], rows["quiet"]["p95_ci"]) == (
        0,
        None,
        [None] * 2,
    )
    assert (rows["free"]["p95_s"], rows["free"]["burn"], rows["free"]["latency"]) == (99, None, None)
    assert not any(row["burns"] for row in rows.values())


def test_calls_of_no_route_and_of_unknown_ones_stand_together():
    result = found([call(route=None), call(route="suport"), call()])
    assert [(row["route"], row["calls"]) for row in result["routes"]] == [("support", 1), (None, 2)]
    assert result["unknown_routes"] == ["suport"]


def test_without_a_configuration_every_name_is_a_route():
    result = found([call(route="a"), call(route="b"), call(route=None)], routes={})
    assert [row["route"] for row in result["routes"]] == ["a", "b", None]


def test_failing_fast_is_not_fast():
    rows = [call(1)] * 88 + [call(0.1, answered=False, stop="error")] * 12
    row = of_support(rows)
    assert (row["answered_share"], row["burn"]["span"]["over"]) == (0.88, 12)
    # The p95 is a call that never ended: unknown because infinite, not because there are too few calls.
    assert (row["p95_s"], row["calls_needed"], row["p95_ci"]) == (None, None, [None, None])
    assert (row["latency"], row["lever"]) == ("over", "unanswered")


def test_a_stream_that_its_caller_closed_took_until_then_and_says_nothing_of_answers():
    row = of_support([call(2)] * 99 + [call(30, answered=False, stop="caller")])
    assert (row["answered_share"], row["burn"]["span"]["over"]) == (1.0, 1)


def test_a_call_without_a_time_is_counted_and_in_no_quantile():
    row = of_support([call(1)] * 72 + [call(None)])
    assert (row["calls"], row["calls_untimed"], row["p95_s"]) == (73, 1, 1)


def test_burn_of_the_last_hour_day_and_of_all():
    # Over the span 10 of 200 calls are late, which is what may be; in the last hour 5 of 10.
    rows = [call(1, ago_s=3 * 86400 + i) for i in range(100)]
    rows += [call(20 if i < 5 else 1, ago_s=7200 + i) for i in range(90)]
    rows += [call(20 if i < 5 else 1, ago_s=60 * i) for i in range(10)]
    burn = of_support(rows)["burn"]
    assert burn["span"] == {"calls": 200, "over": 10, "share": 0.05, "rate": pytest.approx(1.0)}
    assert burn["day"] == {"calls": 100, "over": 10, "share": 0.1, "rate": pytest.approx(2.0)}
    assert burn["hour"] == {"calls": 10, "over": 5, "share": 0.5, "rate": pytest.approx(10.0)}


def test_a_wrong_clock_does_not_empty_the_last_hour():
    result = found([call(1, ago_s=-(10**9)), call(20, ago_s=1800)])
    assert result["until"] == END.isoformat()
    assert result["routes"][0]["burn"]["hour"]["calls"] == 2


def test_where_the_time_went_is_measured():
    rows = [call(4, first_token=1, thinking=2), call(16, first_token=1, thinking=14), call(20, thinking=None)]
    row = of_support(rows)
    parts = {"first_token": 2 / 20, "thinking": 16 / 20, "answer": 2 / 20}
    assert row["time"] == {"calls": 3, "calls_split": 2, **{k: pytest.approx(v) for k, v in parts.items()}}
    assert row["over"]["thinking"] == pytest.approx(14 / 16)
    assert (row["over"]["calls"], row["over"]["calls_split"]) == (2, 1)


def test_how_much_shorter_thinking_would_have_to_be():
    # 5 of 100 may stay late, those that are latest: the cut that is enough for the fifth of these ten is due.
    late = [call(10 + k, thinking=8 + k) for k in range(1, 11)]
    row = of_support([*([call(1)] * 90), *late])
    assert row["thinking_cut"] == pytest.approx(5 / 13)
    assert row["lever"] == "thinking"
    cut = row["thinking_cut"]
    after = of_support([call(1)] * 90 + [call(10 + k - cut * (8 + k), thinking=1) for k in range(1, 11)])
    assert after["burn"]["span"]["rate"] <= 1


@pytest.mark.parametrize(
    ("late", "lever"),
    [
        (call(20, thinking=2, first_token=16), "first_token"),
        (call(20, thinking=2, first_token=1), "answer"),
        (call(20, thinking=None), "unknown"),
        (call(1, answered=False), "unanswered"),
    ],
)
def test_what_helps_where_thinking_is_not_what_makes_it_late(late, lever):
    row = of_support([*([call(1)] * 80), *([late] * 20)])
    assert (row["thinking_cut"], row["lever"]) == (None, lever)


def test_audits_cost_and_nobody_waits_for_them():
    row = of_support(
        [call(1, usd=0.25), call(60, usd=0.5, parent_id="a"), Feedback(id="a", correct=True, source="x")]
    )
    assert (row["calls"], row["burn"]["span"]["over"]) == (1, 0)
    assert (row["cost"]["usd"], row["cost"]["usd_extra"]) == (0.75, 0.5)


def test_the_drafts_of_a_turn_are_one_call_from_its_beginning():
    def draft(turn, rung, seconds, *, ago_s, accepted, **more):
        ladder = LadderRow(id=turn, rung=rung, of=2, accepted=accepted, why="")
        return call(seconds, ago_s=ago_s, ladder=ladder, usd=0.5, **more)

    climbed = [
        draft("a", 0, 4, ago_s=8, accepted=False),
        draft("a", 1, 7, ago_s=0, accepted=True, thinking=5),
    ]
    row = of_support(climbed)
    assert (row["calls"], row["burn"]["span"]["over"]) == (1, 1)  # from 12 s ago: 12 s
    assert row["time"]["first_token"] == pytest.approx(5 / 12)
    assert row["time"]["thinking"] == pytest.approx(5 / 12)
    assert (row["cost"]["usd"], row["cost"]["usd_extra"]) == (1.0, 0.5)
    # A call that a hedge left behind is recorded when it has ended, after the accepted one.
    hedged = of_support([climbed[1], draft("a", 0, 15, ago_s=-3, accepted=False, answered=False)])
    assert (hedged["time"]["calls"], hedged["time"]["thinking"]) == (1, pytest.approx(5 / 15))
    # A turn in which no rung brought an answer has failed; one that is going on says nothing yet.
    failed = [draft("b", 0, 1, ago_s=1, accepted=False, answered=False, stop="error")]
    assert of_support(failed)["answered_share"] == 0.0
    assert of_support(climbed[:1])["calls"] == 0


def test_a_month_is_projected_from_a_day_or_more():
    rows = [call(usd=1.0, ago_s=86400 * d) for d in range(11)]  # 11 dollars in 10 days
    cost = of_support(rows)["cost"]
    assert cost["days"] == 10
    assert cost["month_usd"] == pytest.approx(11 / 10 * 365.25 / 12)
    assert of_support(rows[:1] * 9)["cost"]["month_usd"] is None


def test_a_month_that_costs_more_than_its_limit_burns():
    limited = {"support": RouteSettings(usd_per_month=33.4)}
    rows = [call(usd=1.0, ago_s=86400 * d) for d in range(11)]  # 33.48 a month
    assert of_support(rows, routes=limited)["burns"] == ["spend"]
    assert of_support(rows[1:], routes=limited)["burns"] == ["spend"]
    assert of_support([rows[0], *rows[2:]], routes=limited)["burns"] == []


def test_a_cost_that_is_unknown_is_not_zero():
    cost = of_support([call(usd=None), call(usd=2.0)])["cost"]
    assert (cost["usd"], cost["calls_unknown"]) == (2.0, 1)
    assert of_support([call(usd=None)])["cost"]["usd"] is None
    refused = call(usd=None, stop="error").model_copy(update={"usage": UsageRow(provenance="reported")})
    assert of_support([refused])["cost"]["calls_unknown"] == 0, "a call that was refused is not billed"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("column", ["usd", "seconds", "first_token"])
def test_a_row_that_cannot_be_spoils_nothing(column: str, value: float):
    seen = Collected({"support": SUPPORT}, now=END)
    seen.add([call(usd=1.0), call(**{"usd": 1.0, column: value})])
    assert (seen.outcomes, seen.impossible) == (1, 1)
    json.dumps(summary(seen), allow_nan=False)


def test_since_leaves_out_and_keeps_the_span():
    week_ago = END - timedelta(days=7)
    row = of_support(
        [call(20, ago_s=86400 * 20), *(call(usd=1, ago_s=3600) for _ in range(7))], since=week_ago
    )
    assert (row["calls"], row["cost"]["days"]) == (7, pytest.approx(7 - 1 / 24))
    assert since("90m", now=END) == END - timedelta(minutes=90)
    assert since("7d", now=END) == week_ago
    assert since("2026-01-24", now=END) == week_ago
    for text in ("yesterday", "999999d"):
        with pytest.raises(ConfigError, match=f"--since '{text}': expected 90m, 24h, 7d, or a date"):
            since(text, now=END)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "budgetctl.toml").write_text(
        '[routes.support]\nowner = "support team"\ntarget_p95_s = 10\n[routes.quiet]\ntarget_p95_s = 1\n'
    )
    return tmp_path


def write(path, rows, tail=""):
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows) + tail)
    return str(path)


def test_the_command_says_who_burns_and_what_would_help(desk, capsys):
    rows = [call(1)] * 80 + [call(20, thinking=18)] * 20
    log = write(desk / "outcomes.jsonl", rows, tail='{"schema_ver')
    assert main(["slo", log]) == 1
    out = capsys.readouterr().out
    assert "support (support team) burns: its p95 is above the target." in out
    assert "Thinking 55.6 % shorter" in out
    assert "n/a, of 72 calls" in out  # the route without calls
    assert main(["slo", log, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["burning"], found["unreadable_lines"]) == (["support"], 1)


def test_the_command_is_content_with_routes_that_keep_their_targets(desk, capsys):
    logs = [write(desk / f"{i}.jsonl", [call(1)] * 50) for i in range(2)]
    assert main(["slo", *logs]) == 0
    assert "burns" not in capsys.readouterr().out
    assert main(["slo", write(desk / "empty.jsonl", [])]) == 0
    assert "no calls" in capsys.readouterr().out


def test_what_is_no_outcome_file_is_refused(desk, capsys):
    (desk / "other.jsonl").write_text('{"a": 1}\n')
    assert main(["slo", "other.jsonl"]) == 2
    assert "no outcome in other.jsonl: 1 lines are no rows" in capsys.readouterr().err
    assert main(["slo", "missing.jsonl"]) == 2
    assert "missing.jsonl: cannot be read" in capsys.readouterr().err
    assert main(["slo", write(desk / "o.jsonl", [call()]), "--config", "missing.toml"]) == 2
    assert "missing.toml: cannot be read" in capsys.readouterr().err


def test_memory_is_a_few_numbers_per_call():
    rng = random.Random(0)
    some = [call(rng.random()) for _ in range(100)]
    collected = Collected({"support": SUPPORT}, now=END)
    tracemalloc.start()
    collected.add(row for _ in range(500) for row in some)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 40 * 50_000
