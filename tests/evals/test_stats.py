import math

import numpy as np
import pytest
from budgetctl.evals import stats


def rng(seed=0):
    return np.random.default_rng(seed)


def test_bootstrap_means_centre_on_the_mean_with_the_known_spread():
    values = np.arange(100.0)
    drawn = stats.bootstrap_means(values[:, None], rng=rng(), resamples=4000)
    assert drawn.shape == (4000, 1)
    assert drawn.mean() == pytest.approx(49.5, abs=0.3)
    assert drawn.std() == pytest.approx(values.std() / 10, rel=0.05)


def test_columns_are_drawn_together():
    values = np.column_stack([np.arange(50.0), np.arange(50.0) + 3])
    drawn = stats.bootstrap_means(values, rng=rng(), resamples=200)
    assert np.allclose(drawn[:, 1] - drawn[:, 0], 3)


def test_groups_are_drawn_whole_and_weigh_by_their_size():
    values = np.array([0.0, 0.0, 0.0, 1.0])
    drawn = stats.bootstrap_means(values[:, None], rng=rng(), groups=[0, 0, 0, 1], resamples=500)
    # Two groups, so a resample is AA, AB or BB: means 0, 1/4, 1.
    assert set(np.round(drawn[:, 0], 6)) == {0.0, 0.25, 1.0}


def test_the_same_seed_gives_the_same_draws_however_they_are_chunked(monkeypatch):
    values = np.arange(30.0)[:, None]
    whole = stats.bootstrap_means(values, rng=rng(3), resamples=100)
    monkeypatch.setattr(stats, "_CHUNK_CELLS", 70)
    assert np.array_equal(whole, stats.bootstrap_means(values, rng=rng(3), resamples=100))


def test_interval_holds_the_middle():
    assert stats.interval(np.arange(1001.0)) == pytest.approx((25.0, 975.0))


def test_paired_se_by_hand():
    # d = 1, 0, 0, -1: mean 0, sum of squares 2, 4/3 * 2 = 8/3, root / 4.
    assert stats.paired_se([1, 0, 0, -1]) == pytest.approx(math.sqrt(8 / 3) / 4)
    # Clusters (1, 0) and (0, -1) sum to 1 and -1: 2/1 * 2 = 4, root / 4 = 1/2.
    assert stats.paired_se([1, 0, 0, -1], groups=[0, 0, 1, 1]) == pytest.approx(0.5)
    assert stats.paired_se([1, 0], groups=[0, 0]) is None


def test_paired_se_without_clusters_is_the_textbook_one():
    d = rng().normal(size=40)
    assert stats.paired_se(d) == pytest.approx(d.std(ddof=1) / math.sqrt(40))


def test_harm_and_help_by_hand():
    full = [True, True, True, False, False, True]
    ours = [True, False, False, True, False, True]
    assert stats.harm_help(full, ours) == (2, 1)
    assert stats.sign_test(2, 1) == 1.0


def test_mcnemar_by_hand():
    # 8 against 1 of 9 discordant pairs: 2 * (1 + 9) / 512.
    assert stats.sign_test(8, 1) == pytest.approx(20 / 512)
    assert stats.sign_test(0, 0) == 1.0
    assert stats.sign_test(3000, 2000) < 1e-40


@pytest.mark.parametrize(("q", "n"), [(0.95, 59), (0.99, 299), (0.999, 2995)])
def test_the_least_n_for_an_upper_bound(q, n):
    assert stats.minimum_n(q) == n


def test_quantiles_are_order_statistics():
    values = list(range(1, 101))
    assert stats.quantile(values, 0.95) == 95
    assert stats.quantile(values, 0.5) == 50
    assert stats.quantile([7], 0.95) == 7
    assert stats.quantile([], 0.5) is None


def test_quantile_interval_by_hand():
    # Median of 10: P(Bin(10, 1/2) <= 1) = 11/1024 < 0.025 < P(<= 2), so ranks 2 and 9.
    assert stats.quantile_interval(range(1, 11), 0.5) == (2, 9)
    # With 50 values nothing bounds p95 from above.
    low, high = stats.quantile_interval(range(50), 0.95)
    assert low is not None
    assert high is None


def test_quantile_interval_covers():
    hits = 0
    draws = rng(1)
    for _ in range(400):
        low, high = stats.quantile_interval(draws.exponential(size=200), 0.95)
        hits += low <= -math.log(0.05) <= high
    # At least 95 % by construction; 400 trials at 95 % give fewer than 370 with probability 1e-4.
    assert hits >= 370


def test_no_difference_in_n_questions_is_not_certainty():
    flat = np.zeros(100)
    low, high = stats.difference_interval(flat, point=0.0, n=100)
    assert (low, high) == pytest.approx((-0.0362, 0.0362), abs=1e-4)
    assert (1 - high) ** 100 == pytest.approx(0.025)


def coverage(*, clusters: bool, by_cluster: bool, worlds: int = 300) -> float:
    """Share of 95 % intervals of a paired accuracy difference that hold the true -0.05."""
    draws = rng(7)
    hits = 0
    for _ in range(worlds):
        size = 5 if clusters else 1
        # Of every cluster either all questions are harmed (10 %), all helped (5 %), or none is touched.
        fate = np.repeat(draws.choice([-1.0, 0.0, 1.0], p=[0.10, 0.85, 0.05], size=200 // size), size)
        groups = np.repeat(np.arange(200 // size), size) if by_cluster else None
        drawn = stats.bootstrap_means(fate[:, None], rng=draws, groups=groups, resamples=400)
        low, high = stats.interval(drawn[:, 0])
        hits += low <= -0.05 <= high
    return hits / worlds


def test_the_bootstrap_interval_covers_the_truth():
    assert 0.90 <= coverage(clusters=False, by_cluster=False) <= 0.99


def test_clustered_questions_need_the_cluster_bootstrap():
    assert coverage(clusters=True, by_cluster=True) >= 0.88
    # The canary: the same harness sees that drawing single questions is too sure of itself.
    assert coverage(clusters=True, by_cluster=False) < 0.75
