import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from comparisons import (
    accuracy_interval,
    compare,
    crossed_p,
    detectable_points,
    holm,
    mcnemar,
    published_count,
    resample_means,
    same_proportion,
    smallest_difference,
)

rng = np.random.default_rng(5)


def predictions(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = [1] * both + [1] * only_a + [0] * only_b + [0] * neither
    b = [1] * both + [0] * only_a + [1] * only_b + [0] * neither
    return np.array(a, dtype=bool), np.array(b, dtype=bool)


def test_mcnemar_by_hand() -> None:
    # 1 of 9 discordant messages: 2 * (1 + 9) / 2 ** 9
    assert mcnemar(*predictions(280, 1, 8, 11)) == pytest.approx(20 / 512)
    assert mcnemar(*predictions(280, 8, 1, 11)) == pytest.approx(20 / 512)
    assert mcnemar(*predictions(290, 5, 5, 0)) == 1.0
    assert mcnemar(*predictions(300, 0, 0, 0)) == 1.0


@pytest.mark.parametrize("cells", [(200, 30, 12, 58), (100, 0, 7, 3), (0, 3, 4, 0)])
def test_mcnemar_as_in_statsmodels(cells: tuple[int, int, int, int]) -> None:
    both, only_a, only_b, neither = cells
    expected = statsmodels_mcnemar([[both, only_a], [only_b, neither]], exact=True).pvalue
    assert mcnemar(*predictions(*cells)) == pytest.approx(expected)


def test_smallest_difference() -> None:
    assert smallest_difference() == 6  # 2 / 2 ** 6 = 0.031, and 2 / 2 ** 5 = 0.063
    assert smallest_difference(0.05 / 18) == 10  # 2 / 2 ** 10 = 0.00195
    # Of 20 discordant messages, 15 to 5 give 2 * 21700 / 2 ** 20 = 0.041, 14 to 6 give 0.115.
    assert smallest_difference(n_discordant=20) == 10
    assert smallest_difference(n_discordant=5) == 6
    a, b = predictions(280, 0, 6, 14)
    assert mcnemar(a, b) < 0.05 < mcnemar(np.delete(a, 280), np.delete(b, 280))


def test_holm_by_hand() -> None:
    # sorted: 0.01 * 4, 0.02 * 3, then 0.03 * 2 = 0.06 and 0.04 * 1, not below the one before
    assert holm([0.02, 0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.06, 0.04, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_as_in_statsmodels() -> None:
    for n in (1, 2, 18, 40):
        p_values = rng.random(n) ** 3
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_bootstrap_of_one_seed_as_in_scipy() -> None:
    a, b = rng.random((1, 300)) < 0.90, rng.random((1, 300)) < 0.96
    found = compare(a, b)
    assert found.points == pytest.approx(100 * (b.mean() - a.mean()))
    differences = (b.astype(float) - a)[0]
    expected = stats.bootstrap(
        (differences,), np.mean, method="percentile", n_resamples=10_000, rng=rng
    ).confidence_interval
    assert found.low == pytest.approx(100 * expected.low, abs=0.35)
    assert found.high == pytest.approx(100 * expected.high, abs=0.35)
    assert found.p == found.mcnemar[0] == mcnemar(a[0], b[0])
    assert (found.by_message != 0).sum() == (a != b).sum()


def test_bootstrap_resamples_seeds_and_messages() -> None:
    by_seed = np.repeat([[0.0], [0.3], [0.6], [0.9]], 500, axis=1)
    expected = np.std([0.0, 0.3, 0.6, 0.9]) / math.sqrt(4)
    assert resample_means(by_seed).std() == pytest.approx(expected, rel=0.05)
    by_message = np.repeat([[0.0, 1.0] * 50], 7, axis=0)
    assert resample_means(by_message).std() == pytest.approx(0.5 / math.sqrt(100), rel=0.05)
    assert resample_means(by_message).mean() == pytest.approx(0.5, abs=0.005)


def test_bootstrap_decides_over_several_seeds() -> None:
    a = rng.random((5, 300)) < 0.90
    clearly = compare(a, rng.random((5, 300)) < 0.99)
    assert clearly.p < 0.001
    assert clearly.low > 0
    assert len(clearly.mcnemar) == 5
    same = compare(a, a)
    assert (same.points, same.p) == (0, 1)
    assert detectable_points(same, 0.05) == pytest.approx(2.0), "never less than six messages"
    swapped = compare(*(rng.random((5, 300)) < 0.9 for _ in range(2)))
    assert swapped.p > 0.05
    assert swapped.low < 0 < swapped.high


@pytest.mark.parametrize(("n_seeds", "limit"), [(2, 0.16), (3, 0.1), (5, 0.08), (10, 0.07)])
def test_false_findings_are_rare_however_few_the_seeds(n_seeds: int, limit: float) -> None:
    """Two configurations of equal worth, whose messages differ in hardness and seeds in luck.

    The bootstrap's p-value would be below 0.05 in a quarter of the cases with two seeds.
    """
    n_runs, found = 250, 0
    for _ in range(n_runs):
        hardness = rng.normal(2.5, 2, 300)
        pair = []
        for _ in range(2):
            own = hardness + rng.normal(0, 0.7, 300)  # what one of them is better at
            luck = rng.normal(0, 0.5, (n_seeds, 1))
            pair.append(own + luck + rng.normal(0, 0.7, (n_seeds, 300)) > 0)
        points = 100 * (pair[1].astype(float) - pair[0])
        by_seed, by_message = points.mean(axis=1), points.mean(axis=0)
        found += crossed_p(points.mean(), by_seed=by_seed, by_message=by_message) < 0.05
    assert found / n_runs < limit


def test_a_clear_difference_is_found_with_two_seeds() -> None:
    a = rng.random((2, 300)) < 0.80
    assert compare(a, rng.random((2, 300)) < 0.95).p < 0.01
    # Eight messages that all seeds agree on: like one run's McNemar test, no matter how many.
    b = np.repeat(np.arange(300)[None] < 280, 3, axis=0)
    assert 0.0001 < compare(b, np.repeat(np.arange(300)[None] < 288, 3, axis=0)).p < 0.05
    assert compare(b, np.repeat(np.arange(300)[None] < 283, 3, axis=0)).p > 0.05


def test_detectable_points_are_where_the_test_turns() -> None:
    a, b = rng.random((4, 300)) < 0.93, rng.random((4, 300)) < 0.94
    difference = compare(a, b)
    points = detectable_points(difference, 0.01)
    varying = {"by_seed": difference.by_seed, "by_message": difference.by_message}
    assert crossed_p(points, **varying) < 0.01 < crossed_p(points - 0.1, **varying)


def test_interval_of_one_run_covers_the_exact_one() -> None:
    for k in (0, 3, 150, 290, 300):
        correct = np.arange(300)[None] < k
        exact = stats.binomtest(k, 300).proportion_ci(method="exact")
        low, high = accuracy_interval(correct)
        assert low <= 100 * exact.low + 1e-9
        assert high >= 100 * exact.high - 1e-9
    # All right: the lower end by hand, where p ** 300 = 0.025.
    assert accuracy_interval(np.ones((1, 300), dtype=bool))[0] == pytest.approx(
        100 * 0.025 ** (1 / 300)
    )


def test_interval_widens_with_the_seeds() -> None:
    steady = np.arange(300)[None] < np.array([[270]] * 4)
    scattered = np.arange(300)[None] < np.array([[300], [240], [300], [240]])
    width = [high - low for low, high in map(accuracy_interval, (steady, scattered))]
    assert width[1] > 1.3 * width[0]


def test_published_counts() -> None:
    for n in (149, 300, 1040, 1045):
        for k in range(n + 1):
            assert published_count(float(f"{100 * k / n:.2f}"), n) == k
    assert published_count(99.81, 149) is None
    assert published_count(99.81, 1040) == 1038


@pytest.mark.parametrize("counts", [(280, 300, 290, 300), (285, 300, 285, 300), (3, 149, 9, 149)])
def test_same_proportion_by_the_hypergeometric_distribution(counts: tuple[int, ...]) -> None:
    k, n, other_k, other_n = counts
    distribution = stats.hypergeom(n + other_n, k + other_k, n)
    each = distribution.pmf(range(n + 1))
    expected = each[each <= each[k] * (1 + 1e-7)].sum()
    assert same_proportion(k, n, other_k, other_n) == pytest.approx(expected)
