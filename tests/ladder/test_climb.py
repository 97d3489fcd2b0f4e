"""Climbing without any io: which rung is asked, whose draft is the answer, what a ladder may be."""

from __future__ import annotations

import math
import random

import pytest

from budgetctl.errors import ConfigError, LimitExceeded
from budgetctl.ladder import (
    Agreement,
    Climbed,
    Confident,
    Draft,
    Failed,
    Ladder,
    Rates,
    Rung,
    Verdict,
    Verified,
    answer_confidence,
    climb,
    start_rung,
)
from budgetctl.policy import Situation, parse
from budgetctl.pricing import Prices
from budgetctl.types import Estimate, Limits, ModelFacts, Pace, Price, Quantiles, Query

QUERY = Query.from_text("What is 6 times 7?")
THREE = ["small@off", "small@full", "large@full"]


def ladder(rungs=THREE, accept=None, **more) -> Ladder:
    return Ladder.of(rungs, accept or Confident(0.9), **more)


def draft(rung: int, confidence: float | None = None, answer: str | None = "42", *, finished=True) -> Draft:
    return Draft(rung=rung, answer=answer, finished=finished, confidence=confidence)


def limit(*, cheaper: bool) -> LimitExceeded:
    return LimitExceeded(
        limit="day", window="day", unit="usd", amount=1, spent=1, held=0, asked=1, cheaper=cheaper
    )


def run(made: Ladder, replies: dict[int, Draft | Failed], **more) -> tuple[list[int], Climbed | Exception]:
    """Return the rungs that were wanted, and how it ended."""
    steps, wanted = climb(made, QUERY, **more), []
    try:
        rung = next(steps)
        while True:
            wanted.append(rung)
            rung = steps.send(replies[rung])
    except StopIteration as end:
        return wanted, end.value
    except (RuntimeError, LimitExceeded) as error:
        return wanted, error


def test_the_first_confident_draft_is_the_answer():
    wanted, ended = run(ladder(), {0: draft(0, 0.5), 1: draft(1, 0.95)})
    assert wanted == [0, 1]
    assert (ended.draft.rung, ended.why) == (1, "p(correct) 0.950 >= 0.9")
    assert [d.rung for d in ended.drafts] == [0, 1]


def test_the_last_rung_answers_whatever_it_says():
    wanted, ended = run(ladder(), {0: draft(0), 1: draft(1, finished=False), 2: draft(2, finished=False)})
    assert (wanted, ended.draft.rung, ended.why) == ([0, 1, 2], 2, "the last rung")


def test_an_unknown_confidence_is_not_a_high_one():
    notes: dict[int, str] = {}
    run(ladder(), {0: draft(0), 1: draft(1, 1.0)}, notes=notes)
    assert notes[0].startswith("confidence unknown")


@pytest.mark.parametrize("made", [draft(0, 1.0, None), draft(0, 1.0, "  "), draft(0, 1.0, finished=False)])
def test_a_draft_that_is_no_whole_answer_is_not_accepted(made: Draft):
    assert run(ladder(), {0: made, 1: draft(1, 1.0)})[0] == [0, 1]


def test_a_failing_rung_is_climbed_past_and_the_last_error_surfaces():
    first, last = RuntimeError("first"), RuntimeError("last")
    failing = {0: Failed(error=first), 1: Failed(error=first), 2: Failed(error=last)}
    assert run(ladder(), failing) == ([0, 1, 2], last)
    assert run(ladder(), failing | {1: draft(1, 0.95)})[1].draft.rung == 1


def test_where_the_last_rung_fails_an_unaccepted_draft_is_the_answer():
    replies = {0: draft(0, 0.2), 1: draft(1, 0.1), 2: Failed(error=RuntimeError("down"))}
    wanted, ended = run(ladder(), replies)
    assert (wanted, ended.draft.rung) == ([0, 1, 2], 1)
    assert ended.why == "p(correct) 0.100 < 0.9; no rung above brought an answer"


def test_an_empty_last_answer_gives_way_to_a_whole_draft():
    assert run(ladder(), {0: draft(0, 0.2), 1: draft(1), 2: draft(2, answer="")})[1].draft.rung == 1


def test_what_judges_may_fail():
    notes: dict[int, str] = {}
    broken = ladder(accept=Verified(lambda query, answer: 1 / 0))
    assert run(broken, {i: draft(i) for i in range(3)}, notes=notes)[1].draft.rung == 2
    assert notes[0] == "the acceptance failed: ZeroDivisionError"


def test_a_turn_never_goes_down():
    for seed in range(300):
        rng = random.Random(seed)
        n = rng.randint(1, 6)
        made = ladder([f"m{i}" for i in range(n)])
        replies = {
            i: rng.choice([draft(i, rng.random()), Failed(error=RuntimeError()), draft(i, answer="")])
            for i in range(n)
        }
        start = rng.randrange(n)
        wanted, ended = run(made, replies, start=start)
        assert wanted == list(range(start, start + len(wanted)))
        whole = any(isinstance(replies[i], Draft) and replies[i].usable for i in wanted)
        assert isinstance(ended, Climbed) or not whole, "an answer comes back where there is one"


def test_a_hedged_rung_may_be_first_and_wins_if_it_is_accepted():
    steps = climb(ladder(), QUERY)
    assert next(steps) == 0
    with pytest.raises(StopIteration) as end:
        steps.send(draft(1, 0.99))
    assert end.value.value.draft.rung == 1


def test_a_hedged_draft_that_is_not_accepted_leaves_the_wanted_rung_wanted():
    steps = climb(ladder(), QUERY)
    next(steps)
    assert steps.send(draft(1, 0.3)) == 0
    assert steps.send(draft(0, 0.3)) == 2


def test_a_limit_that_says_cheaper_is_the_one_way_down():
    replies = {1: Failed(error=limit(cheaper=True)), 0: draft(0, 0.0)}
    wanted, ended = run(ladder(), replies, start=1)
    assert (wanted, ended.draft.rung, ended.why) == ([1, 0], 0, "a spending limit refuses dearer rungs")
    hopeless = {1: Failed(error=limit(cheaper=True)), 0: Failed(error=RuntimeError()), 2: draft(2)}
    assert run(ladder(), hopeless, start=1)[0] == [1, 0, 2]
    refused = {1: Failed(error=limit(cheaper=False)), 2: draft(2)}
    assert run(ladder(), refused, start=1)[0] == [1, 2]
    later = {1: draft(1, 0.1), 2: Failed(error=limit(cheaper=True))}
    assert run(ladder(), later, start=1)[1].draft.rung == 1


def test_a_private_turn_stays_on_local_rungs():
    made = ladder(local=["small"])
    assert run(made, {0: draft(0), 1: draft(1)}, private=True)[1].draft.rung == 1
    assert made.path(start=2, private=True) == (1,)
    with pytest.raises(ConfigError, match="no rung is one"):
        ladder().path(private=True)


def test_agreement_needs_two_that_say_the_same():
    replies = {0: draft(0, answer="The answer is 42."), 1: draft(1, answer="\\boxed{42}"), 2: draft(2)}
    assert run(ladder(accept=Agreement()), replies)[1].draft.rung == 1
    assert run(ladder(accept=Agreement()), replies | {1: draft(1, answer="41")})[1].draft.rung == 2


@pytest.mark.parametrize(
    ("rungs", "said"),
    [
        ([], "one rung or more"),
        (["m@full", "m@off"], "m@full stands before m@off"),
        (["m@cap:200", "m@cap:100"], "less thinking first"),
        (["m@effort:high", "m@effort:low"], "less thinking first"),
        (["m@auto", "m@auto"], "less thinking first"),
        (["m@of"], "unknown part 'of'"),
        (["@off"], "its name"),
    ],
)
def test_a_ladder_that_cannot_be_is_refused(rungs: list[str], said: str):
    with pytest.raises(ConfigError, match=said):
        ladder(rungs)


def test_an_order_that_prices_contradict_is_refused_and_an_unknown_price_is_not():
    prices = Prices.load({"a": {"input": 1, "output": 8}, "b": {"input": 0.5, "output": 2}})
    ladder(["b", "a"]).check_prices(prices)
    ladder(["unknown-model", "b", "a"]).check_prices(prices)
    with pytest.raises(ConfigError, match=r"a@full \(1 and 8 USD .* stands before b@full \(0.5 and 2\)"):
        ladder(["a", "b"]).check_prices(prices)


def test_a_rung_is_written_as_it_is_read():
    rung = Rung.parse("claude@20251001@cap:2000+stop:none")
    assert (rung.model, rung.policy) == ("claude@20251001", "cap:2000+stop:none")
    assert Rung.parse(str(rung)) == rung
    assert Rung.parse("gpt-5").policy == "full"
    assert Rung.parse("m@careful", names={"careful": parse("cap:9000")}).policy == "cap:9000"


def test_the_fingerprint_binds_what_decides():
    def judge(query: Query, answer: str) -> bool:
        return True

    made = [
        ladder(),
        ladder(accept=Confident(0.91)),
        ladder(["small@off", "large@full"]),
        ladder(hedge_s=2.0),
        ladder(local=["small"]),
        ladder(accept=Verified(judge)),
        ladder(accept=Verified(judge, name="checks v2")),
    ]
    assert len({each.fingerprint for each in made}) == len(made)
    assert ladder().fingerprint == ladder().fingerprint


def test_only_the_answers_tokens_count():
    def token(text: str, logprob: float) -> dict:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    tokens = [token("<think>", 0), token("42?", -9), token("</think>", -9), token("\n", -5)]
    tokens += [token("It is ", math.log(0.5)), token("42", math.log(0.5)), token("<|im_end|>", -3)]
    assert answer_confidence(tokens, "It is 42") == pytest.approx(0.5)
    assert answer_confidence(tokens, "something else") is None
    assert answer_confidence([], "42") is None
    halves = [
        {"token": "?", "logprob": -1.0, "bytes": [0xC3]},
        {"token": "?", "logprob": -1.0, "bytes": [0xA9]},
    ]
    assert answer_confidence(halves, "é") == pytest.approx(math.exp(-1))


def situation(p_off: float, p_full: float, *, usd: float | None, usd_per_s: float = 0.0) -> Situation:
    curve = Quantiles(p50=100, p80=200, p90=300, p95=400)
    return Situation(
        query=QUERY,
        estimate=Estimate(
            p_off=p_off, p_full=p_full, settled=curve, natural=curve, confidence=1.0, source="test"
        ),
        facts=ModelFacts(can_switch_off=True, answer_tokens=100),
        limits=Limits(usd_per_s=usd_per_s),
        price=None if usd is None else Price(input=0, output=usd),
        pace=Pace(ttft_s=0.1, s_per_token=0.01),
    )


def test_a_hopeless_draft_is_not_begun_with_and_a_likely_one_is():
    two = ladder(["small@off", "large@full"])
    cheap, dear = situation(0.9, 0.9, usd=1), situation(0.5, 0.95, usd=10)
    assert start_rung(two, [cheap, dear], usd_per_correct=0.01) == 0
    hopeless = situation(0.01, 0.9, usd=1)
    assert start_rung(two, [hopeless, dear], usd_per_correct=0.01) == 1
    assert start_rung(two, [hopeless, situation(0.5, 0.95, usd=None)], usd_per_correct=0.01) == 1


def test_a_draft_costs_the_time_that_it_takes():
    two = ladder(["small@off", "large@full"])
    free = situation(0.1, 0.9, usd=0, usd_per_s=0.0), situation(0.5, 0.95, usd=0)
    assert start_rung(two, free, usd_per_correct=0.01) == 0
    waiting = situation(0.1, 0.9, usd=0, usd_per_s=1.0), situation(0.5, 0.95, usd=0, usd_per_s=1.0)
    assert start_rung(two, waiting, usd_per_correct=0.01) == 1


def test_accepted_drafts_that_are_wrong_are_weighed_with_what_a_right_answer_is_worth():
    two = ladder(["small@off", "large@full"])
    known = [situation(0.6, 0.9, usd=1), situation(0.5, 0.95, usd=10)]
    rates = [Rates(accepted=0.8, right=0.75), Rates(accepted=1.0)]
    assert start_rung(two, known, usd_per_correct=1e-4, rates=rates) == 0
    assert start_rung(two, known, usd_per_correct=1.0, rates=rates) == 1


def test_without_an_estimate_the_climb_begins_below():
    two = ladder(["small@off", "large@full"])
    unknown = Situation(query=QUERY)
    assert start_rung(two, [unknown, unknown], usd_per_correct=1.0) == 0
    with pytest.raises(ConfigError, match="one for each rung"):
        start_rung(two, [unknown], usd_per_correct=1.0)


def test_a_verifier_may_say_how_likely():
    judged = Verified(lambda query, answer: 0.7, threshold=0.8).judge(QUERY, draft(0), ())
    assert judged == Verdict(accepted=False, why="the verifier says no (0.700)", p_correct=0.7)
