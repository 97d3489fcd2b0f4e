"""What a trial answer must show before it ends a thought, and which presets listen to it."""

from __future__ import annotations

import pytest

from budgetctl.stopping import PRESETS, TrialAnswer, monitor, preset
from budgetctl.stopping.presets import WITH_TRIALS, without_trials
from budgetctl.types import STOP_PRESETS, Budget, Evidence, Progress, StopReason, Trial


def after(trial: Trial | None) -> Progress:
    return Progress(reasoning_tokens=500, reasoning="so far", elapsed_s=1.0, trial=trial)


@pytest.mark.parametrize(
    ("confidence", "mass", "fires"),
    [
        (float("nan"), 0.9, False),
        (0.99, float("nan"), False),
        (0.99, 0.5, True),
        (0.95, 0.1, True),
        (0.94, 0.9, False),
        (0.999, 0.09, False),
        (0.5, 0.01, False),
    ],
)
def test_it_takes_both_confidence_and_the_will_to_answer(confidence: float, mass: float, fires: bool) -> None:
    criterion = TrialAnswer(confidence=0.95, mass=0.1)
    found = criterion.observe(after(Trial(confidence=confidence, mass=mass)))
    assert (found is not None) == fires
    if found is not None:
        assert found == Evidence(
            criterion="trial_answer", reason=StopReason.SETTLED, hard=False, score=confidence
        )


def test_where_nobody_asks_for_trials_there_is_no_evidence() -> None:
    assert TrialAnswer(confidence=0.0, mass=0.0).observe(after(None)) is None


def test_every_preset_that_a_policy_can_name_is_there_and_holds_what_the_one_before_does() -> None:
    assert tuple(PRESETS) == STOP_PRESETS
    sizes = [len(preset(name).criteria) for name in STOP_PRESETS]
    assert sizes == sorted(sizes)


def test_the_tighter_preset_fires_wherever_the_other_does() -> None:
    shown = [Trial(confidence=c / 1000, mass=m / 100) for c in range(850, 1001, 5) for m in range(0, 30, 2)]
    fired = {
        name: {t for t in shown if preset(name).observe(after(t))} for name in ("balanced", "aggressive")
    }
    assert set() < fired["balanced"] < fired["aggressive"] < set(shown)


def test_a_budget_is_kept_by_its_cap_and_by_its_preset() -> None:
    criterion = monitor(Budget(reasoning_tokens=400, stop="aggressive"))
    found = criterion.observe(after(None))
    assert found is not None
    assert found.reason is StopReason.CAP
    early = Progress(reasoning_tokens=100, reasoning="", elapsed_s=0.1, trial=Trial(confidence=1.0, mass=1.0))
    found = monitor(Budget(reasoning_tokens=400, stop="aggressive")).observe(early)
    assert found is not None
    assert found.reason is StopReason.SETTLED


def test_without_trials_a_preset_is_safe_at_most() -> None:
    assert [without_trials(name) for name in STOP_PRESETS] == ["none", "safe", "safe", "safe"]
    assert {name for name in STOP_PRESETS if without_trials(name) != name} == WITH_TRIALS
