import math

import numpy as np
import pytest
from scipy import stats

from ablation.reports.comparisons import ALPHA, compare
from ablation.reports.folds import accuracy_interval_of_folds, compare_folds, fold_views
from benchmarks import false_findings

rng = np.random.default_rng(4)


def test_of_equal_folds_and_one_seed_the_test_is_nadeau_and_bengios() -> None:
    """Their corrected t-test on the K differences of accuracies: (1/K + n_test/n_train) · s²."""
    n_folds, size = 5, 60
    fold = np.repeat(np.arange(n_folds), size)
    chance = np.repeat(rng.uniform(0.75, 0.95, n_folds), size)
    a, b = rng.random((1, fold.size)) < 0.7, rng.random((1, fold.size)) < chance
    by_fold = (b.astype(float) - a).reshape(n_folds, size).mean(axis=1)
    error = math.sqrt(by_fold.var(ddof=1) * (1 / n_folds + 1 / (n_folds - 1)))
    views = fold_views(b.astype(np.int8) - a.astype(np.int8), fold)
    assert views.errors[[0, 2],] == pytest.approx([error, error])
    assert views.df[[0, 2]].tolist() == [n_folds - 1] * 2
    found = compare_folds(a, b, fold)
    by_text = stats.ttest_1samp((b.astype(float) - a)[0], 0).pvalue
    expected = max(2 * stats.t.sf(abs(by_fold.mean()) / error, n_folds - 1), by_text)
    assert found.p == pytest.approx(expected)
    assert found.points == pytest.approx(100 * (b.mean() - a.mean()))


def test_folds_of_unequal_size_and_names() -> None:
    fold = rng.permutation(np.repeat(["x", "y", "z"], (30, 50, 90)))
    a, b = rng.random((2, 3, fold.size)) < 0.8
    found = compare_folds(a, b, fold)
    order = rng.permutation(fold.size)
    again = compare_folds(a[:, order], b[:, order], fold[order])
    assert (found.p, found.low) == pytest.approx((again.p, again.low))
    assert found.points == pytest.approx(100 * (b.mean() - a.mean()))


def test_what_seeds_have_in_common_over_folds_counts() -> None:
    """Each seed's runs are alike in all folds, and seeds differ: folds alone would be sure."""
    fold = np.arange(500) % 5
    ease = rng.random(500)
    a = np.repeat((ease < 0.8)[None], 4, axis=0)
    b = ease[None] < np.array([0.95, 0.75, 0.9, 0.8])[:, None]
    views = fold_views(b.astype(np.int8) - a.astype(np.int8), fold)
    assert views.errors[2] > 2 * views.errors[0]
    by_seed = (b.astype(float) - a).mean(axis=1)
    assert views.errors[2] == pytest.approx(by_seed.std(ddof=1) / 2, rel=0.2)
    assert compare_folds(a, b, fold).p > 0.05


@pytest.mark.filterwarnings("error")
def test_interval_and_p_agree() -> None:
    for seed in range(150):
        draw = np.random.default_rng(seed)
        n_seeds, n_folds = draw.integers([1, 2], [4, 8])
        fold = np.arange(n_folds * draw.integers(2, 30)) % n_folds
        base, gain = draw.uniform(0.3, 1), draw.choice([0, 0.02, 0.3, 0.7, 1])
        a = draw.random((n_seeds, fold.size)) < base
        b = a | (draw.random((n_seeds, fold.size)) < gain)
        found = compare_folds(a, b, fold)
        assert -100 <= found.low <= found.points <= found.high <= 100
        assert (found.low <= 0 <= found.high) == (found.p >= ALPHA)
        low, high = accuracy_interval_of_folds(a, fold)
        assert 0 <= low <= 100 * a.mean() <= high <= 100


def test_nothing_that_differs_is_no_finding_and_all_is_one() -> None:
    fold = np.arange(400) % 4
    wrong, right = (np.full((1, 400), value) for value in (False, True))
    assert compare_folds(right, right, fold).p == 1
    assert compare_folds(wrong, right, fold).p < 0.001
    few = wrong | (np.arange(400) < 5)
    assert compare_folds(wrong, few, fold).p == pytest.approx(max(2 / 2**5, 0), abs=0.2)
    assert compare_folds(wrong, few, fold).p > 0.05


# ---------------------------------------------------------------- the promise


@pytest.mark.parametrize(("n_seeds", "n_folds"), [(1, 5), (1, 10), (3, 5)])
@pytest.mark.parametrize("regime", ["quiet", "common", "noisy"])
def test_false_findings_over_folds_are_rare(regime: str, n_seeds: int, n_folds: int) -> None:
    """Where each run has luck of its own; one that takes single runs finds far too much."""
    pair = false_findings.REGIMES[regime]
    found = false_findings.measure_folds(pair, n_seeds, n_folds, 600)
    assert found[0] < 0.06 + 2.5 * math.sqrt(0.06 / 600)
    if regime == "noisy":
        assert false_findings.measure_single(pair, 200)[0] > 0.3


def test_more_folds_and_seeds_find_more() -> None:
    pair = false_findings.REGIMES["common"]
    power = [
        false_findings.measure_folds(pair, *size, 300, gain=0.03)[0]
        for size in ((1, 5), (1, 10), (3, 10))
    ]
    assert power[0] < power[1] < power[2]
    assert power[2] > 0.9


def test_one_seed_of_folds_is_no_pair_of_runs() -> None:
    fold = np.arange(300) % 5
    a, b = rng.random((2, 1, 300)) < np.array([0.7, 0.9])[:, None, None]
    assert compare_folds(a, b, fold).views is not None
    assert compare(a, b).views is None
