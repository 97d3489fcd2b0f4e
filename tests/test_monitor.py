"""The evidence of audits: what it adds up to, and that it outlives the process."""

from __future__ import annotations

import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from budgetctl.errors import ConfigError
from budgetctl.monitor import STAKES, Evidence, Monitor, Spent, stage


def fed(losses: list[float], *, epsilon: float = 0.1, alpha: float = 0.1) -> Evidence:
    evidence = Evidence(epsilon, alpha)
    for loss in losses:
        evidence.add(loss)
    return evidence


def test_the_wealth_is_the_mean_of_the_gamblers_products():
    losses = [0.0, 1.0, 0.0, 0.5]
    above = [math.prod(1 + f * (x - 0.1) / 0.1 for x in losses) for f in STAKES]
    below = [math.prod(1 - f * (x - 0.1) / 0.9 for x in losses) for f in STAKES]
    evidence = fed(losses)
    assert evidence.e_above == pytest.approx(sum(above) / len(STAKES))
    assert evidence.e_below == pytest.approx(sum(below) / len(STAKES))


def test_disagreement_raises_the_alarm_and_agreement_is_proof():
    assert fed([1.0] * 5).alarm
    assert not fed([1.0] * 5).proven
    assert fed([0.0] * 100).proven
    assert not fed([0.0] * 100).alarm
    assert not fed([]).proven


def test_an_alarm_stays():
    evidence = fed([1.0] * 10 + [0.0] * 10_000)
    assert evidence.alarm
    assert evidence.e_above < 1


def test_a_million_agreements_are_a_finite_number():
    assert math.isfinite(fed([0.0] * 50_000).e_below)


@pytest.mark.parametrize("loss", [-0.1, 1.1, math.nan])
def test_a_loss_outside_its_range_is_refused(loss: float, tmp_path: Path):
    with pytest.raises(ConfigError, match="lies in"):
        fed([loss])
    with pytest.raises(ConfigError, match="lies in"):
        Monitor(tmp_path / "a", policy="p", epsilon=0.1, alpha=0.1).observe(loss)


def monitor(path: Path, *, policy: str = "certificate 1", epsilon: float = 0.1) -> Monitor:
    return Monitor(path, policy=policy, epsilon=epsilon, alpha=0.1)


def test_the_evidence_outlives_the_process(tmp_path: Path):
    path = tmp_path / "audits.jsonl"
    code = (
        "import sys, os; from budgetctl.monitor import Monitor\n"
        "m = Monitor(sys.argv[1], policy='certificate 1', epsilon=.1, alpha=.1)\n"
        "for loss in (0, 1, 0): m.observe(loss)\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert monitor(path).evidence == fed([0, 1, 0])


def test_two_processes_share_one_journal(tmp_path: Path):
    one, other = monitor(tmp_path / "a"), monitor(tmp_path / "a")
    one.observe(0)
    other.observe(1)
    assert one.evidence == other.evidence == fed([0, 1])


def test_a_torn_line_costs_that_audit_only(tmp_path: Path):
    first = monitor(tmp_path / "a")
    first.observe(1)
    with (tmp_path / "a").open("ab") as file:
        file.write(b'{"lo')
    first.observe(0)
    assert monitor(tmp_path / "a").evidence == fed([1, 0])


def test_evidence_on_one_policy_or_bound_never_counts_for_another(tmp_path: Path):
    monitor(tmp_path / "a").observe(0)
    with pytest.raises(ConfigError, match="certificate 2"):
        monitor(tmp_path / "a", policy="certificate 2")
    with pytest.raises(ConfigError, match="the journal is of"):
        monitor(tmp_path / "a", epsilon=0.2)


def test_auto_climbs_rung_by_rung_and_an_alarm_leads_back_to_the_ground():
    fresh, proven, alarmed = fed([]), fed([0.0] * 100), fed([1.0] * 5)
    assert stage([]) == 0
    assert stage([fresh, fresh]) == 1
    assert stage([proven, fresh, fresh]) == 2
    assert stage([proven, proven]) == 2
    assert stage([fresh, proven]) == 1
    assert stage([proven, alarmed]) == 0


def test_a_days_limit_holds_for_all_who_share_the_journal(tmp_path: Path):
    limit, one = Spent(usd=1.0), Spent(usd=0.15, tokens=100)
    monitors = [monitor(tmp_path / "a") for _ in range(4)]

    def spend(n: int) -> bool:
        return monitors[n % 4].spend("2026-01-01", one, limit=limit)

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(spend, range(50))) == 6
    assert monitor(tmp_path / "a").spend("2026-01-02", one, limit=limit)


def test_what_was_set_aside_and_not_spent_is_there_again(tmp_path: Path):
    limit, one = Spent(tokens=100), Spent(usd=None, tokens=80)
    journal = monitor(tmp_path / "a")
    assert journal.spend("2026-01-01", one, limit=limit)
    assert not journal.spend("2026-01-01", one, limit=limit)
    journal.correct("2026-01-01", Spent(tokens=-70))
    assert monitor(tmp_path / "a").spend("2026-01-01", one, limit=limit)


def test_threads_share_one_monitor(tmp_path: Path):
    shared = monitor(tmp_path / "a")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(shared.observe, [0.0, 1.0] * 50))
    assert shared.evidence.n == 100
    assert monitor(tmp_path / "a").evidence.e_above == pytest.approx(shared.evidence.e_above)
