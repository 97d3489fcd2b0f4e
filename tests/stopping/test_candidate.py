from __future__ import annotations

import pytest
from budgetctl.evals.stalls import main, measure

from budgetctl.errors import ConfigError
from budgetctl.stopping import CandidateSeen, StallStop, TrialAnswer, soft
from budgetctl.stopping.candidate import candidates
from budgetctl.types import Evidence, Progress, Trial


def at(text: str, *, tokens: int = 400, boundary: bool = True, trial: Trial | None = None) -> Progress:
    return Progress(reasoning_tokens=tokens, reasoning=text, elapsed_s=1.0, at_boundary=boundary, trial=trial)


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("so \\boxed{42}.", ["42"]),
        ("\\boxed{\\frac{1}{2}} it is", ["\\frac{1}{2}"]),
        ("Therefore, the answer is 3.5.", ["3.5"]),
        ("The final answer: $12$.", ["12"]),
        ("**Answer:** Paris\n", ["paris"]),
        ("the answer would be option B.", ["b"]),
        ("I would go with option (C), then.", ["c"]),
        ("the answer is 1,250 dollars.", ["1,250 dollars"]),
        ("the answer is: C", ["c"]),
        ("The correct answer is : **12**.", ["12"]),
        ("so the answer is:\nParis.", ["paris"]),
        ("the answer is not 5.", []),
        ("the answer is: not clear yet.", []),
        ("the answer is:", []),
        ("the answer is that nobody knows.", []),
        ("No answer here, and no options.", []),
        ("an optional answer", []),
    ],
)
def test_answers_are_found_as_thoughts_state_them(text: str, stated: list[str]):
    assert [answer for _, answer in candidates(text)] == stated


def test_a_statement_opens_the_gate_to_a_trial():
    gated = CandidateSeen() & TrialAnswer(confidence=0.9, mass=0.1)
    assert gated.observe(at("Let me see.")) is None
    assert gated.asks(at("Let me see.")) == frozenset(), "nothing was stated, so nothing is paid for"
    stated = at("So the answer is 7.")
    assert gated.observe(stated) is None
    assert gated.asks(stated) == {"trial"}
    found = gated.observe(at("So the answer is 7.", trial=Trial(confidence=0.95, mass=1.0)))
    assert found is not None
    assert (found.hard, found.criterion) == (False, "candidate_seen&trial_answer")


def test_an_old_statement_opens_no_gate():
    assert CandidateSeen().observe(at("The answer is 7. " + "And so on. " * 50)) is None
    assert CandidateSeen().observe(at("The answer is 7.", boundary=False)) is None


def test_a_table_may_end_thoughts_at_the_first_statement():
    own = soft("balanced", presets={"balanced": {"candidate_seen": {}, "min_think": 3}})
    assert own is not None
    assert own.observe(at("So the answer is 7.")) is not None


SURE = "The answer is 7. Wait, let me check. The answer is 7. Hmm. So the answer is 7. "


def stall(text: str, **arguments: int) -> Evidence | None:
    return StallStop(**arguments).observe(at(text))


def test_a_thought_that_only_goes_over_its_answer_has_stalled():
    assert stall(SURE) is None, "stated again twice"
    found = stall(SURE + "Actually, yes: the answer is 7.")
    assert found is not None
    assert (found.criterion, found.hard) == ("stall", False)
    assert stall(SURE, doubts=1, restated=2) is not None


def test_another_answer_in_between_begins_anew():
    assert stall(SURE + "No, the answer is 8. Actually, the answer is 7.") is None


def test_an_answer_that_is_repeated_without_doubt_has_not_stalled():
    assert stall("The answer is 7. " * 6) is None


def test_a_preset_of_ones_own_may_hold_it_and_bad_numbers_are_named():
    presets = {"balanced": {"stall": {"doubts": 1, "restated": 2}, "min_think": 0}}
    criterion = soft("balanced", presets=presets)
    assert criterion is not None
    assert criterion.observe(at(SURE)) is not None
    with pytest.raises(ConfigError, match=r"stall: doubts and restated are at least 1, seen 0 and 2"):
        soft("balanced", presets={"balanced": {"stall": {"doubts": 0, "restated": 2}}})


def test_what_it_would_have_done_to_recorded_thoughts_is_counted():
    thought = "We count. " * 200 + SURE + "Actually, yes: the answer is 7.\n"
    kept, lost = thought + "And more. " * 100, thought + "And more. " * 100 + "No: the answer is 9.\n"
    found = measure([kept, lost, "We count. " * 300, "short"], doubts=3, restated=3)
    assert (found.traces, found.stopped, found.kept) == (3, 2, 1)
    assert 0.2 < found.saved < 0.4


def test_traces_that_are_none_are_refused(tmp_path, capsys):
    assert main([str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err
