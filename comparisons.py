"""What the predictions of runs on the same test messages can show, and what they cannot.

``correct`` is (S, M): for S runs that differ in their seed, whether each of M messages was
classified correctly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from scipy import stats

ALPHA = 0.05
RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """Accuracy of ``b`` minus that of ``a``, in percentage points, over the seeds of both.

    ``mcnemar`` has the p-value of each seed. ``p`` is what decides: of one seed its exact
    McNemar test; of several Welch's test on the variance over seeds and that over messages.
    """

    points: float
    low: float  # of the 95 % interval
    high: float
    p: float
    mcnemar: tuple[float, ...]
    by_seed: np.ndarray  # (S,): points
    by_message: np.ndarray  # (M,): points

    @property
    def n_messages(self) -> int:
        """Test messages."""
        return len(self.by_message)


def compare(a: np.ndarray, b: np.ndarray) -> Difference:
    """Compare two configurations, run by run on the same messages.

    Args:
        a, b: (S, M); run s of one is paired with run s of the other.
    """
    points = 100 * (b.astype(float) - a)
    by_seed, by_message = points.mean(axis=1), points.mean(axis=0)
    per_seed = tuple(mcnemar(*pair) for pair in zip(a, b, strict=True))
    low, high = np.quantile(resample_means(points), [ALPHA / 2, 1 - ALPHA / 2])
    return Difference(
        points=float(points.mean()),
        low=float(low),
        high=float(high),
        p=per_seed[0]
        if len(a) == 1
        else float(crossed_p(points.mean(), by_seed=by_seed, by_message=by_message)),
        mcnemar=per_seed,
        by_seed=by_seed,
        by_message=by_message,
    )


def crossed_p(
    mean: float | np.ndarray, by_seed: np.ndarray, by_message: np.ndarray
) -> float | np.ndarray:
    """Two-sided p-value of a mean difference, for other seeds as well as other messages.

    The variances of the mean over seeds and over messages add up, with Satterthwaite's degrees
    of freedom: Welch's test, with the seeds as one sample and the messages as the other. (The
    bootstrap's own p-value would be far too small for a few seeds.)
    """
    spread = by_seed.std(ddof=1), by_message.std(ddof=1)
    if max(spread) == 0:
        return np.ones_like(mean)
    return stats.ttest_ind_from_stats(
        mean, spread[0], len(by_seed), 0.0, spread[1], len(by_message), equal_var=False
    ).pvalue


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided p-value of the exact test on the messages (M,) that only one got right.

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated
    proportions or percentages", Psychometrika 12 (1947), with the binomial distribution in
    place of its approximation.
    """
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def smallest_difference(alpha: float = ALPHA, n_discordant: int = 0) -> int:
    """The fewest messages by which two runs must differ for an exact McNemar test below ``alpha``.

    Args:
        n_discordant: messages that only one of the two got right; where they are too few for any
            difference to show, and by default, as many as it takes, and all one way.
    """
    for ahead in range(n_discordant % 2, n_discordant + 1, 2):
        if stats.binomtest((n_discordant + ahead) // 2, n_discordant or 1).pvalue < alpha:
            return ahead
    return next(n for n in count(1) if stats.binomtest(n, n).pvalue < alpha)


def detectable_points(difference: Difference, alpha: float) -> float:
    """The difference, in points, from which on two configurations that vary as much as these
    would have been told apart at ``alpha``."""
    n = difference.n_messages
    if len(difference.by_seed) == 1:
        n_discordant = int((difference.by_message != 0).sum())
        return 100 * smallest_difference(alpha, n_discordant) / n
    candidates = np.arange(100 * smallest_difference(alpha) / n, 100, 0.1)
    p_values = crossed_p(candidates, difference.by_seed, difference.by_message)
    return float(candidates[np.argmax(p_values < alpha)])


def resample_means(values: np.ndarray) -> np.ndarray:
    """Means (R,) of values (S, M) over resampled seeds and, crossed with them, messages.

    Source: A. Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1 (2007).
    """
    n_seeds, n_messages = values.shape
    generator = np.random.default_rng(0)  # the same report from the same records
    seeds = generator.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), RESAMPLES)
    messages = generator.multinomial(n_messages, np.full(n_messages, 1 / n_messages), RESAMPLES)
    return (seeds * (messages @ values.T)).sum(axis=1) / values.size


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for how many they are.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian
    Journal of Statistics 6 (1979).
    """
    order = np.argsort(p_values, kind="stable")
    factors = len(order) - np.arange(len(order))
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(1, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    return corrected.tolist()


def accuracy_interval(correct: np.ndarray) -> tuple[float, float]:
    """95 % interval of the accuracy, in percent, for other messages and other seeds.

    The wider, on each side, of Clopper and Pearson's exact interval at the mean count, which
    knows nothing of seeds, and the bootstrap, which fails where all is right.
    """
    n = correct.shape[1]
    k = correct.mean() * n  # no whole number over several seeds, so scipy's binomtest is no help
    low = stats.beta.ppf(ALPHA / 2, k, n - k + 1) if k > 0 else 0.0
    high = stats.beta.ppf(1 - ALPHA / 2, k + 1, n - k) if k < n else 1.0
    resampled = np.quantile(resample_means(correct.astype(float)), [ALPHA / 2, 1 - ALPHA / 2])
    return 100 * float(min(low, resampled[0])), 100 * float(max(high, resampled[1]))


def published_count(percent: float, n: int) -> int | None:
    """The count out of ``n`` that rounds to a published percentage; none if no count does."""
    k = round(percent * n / 100)
    return k if math.isclose(round(100 * k / n, 2), percent) else None


def same_proportion(k: int, n: int, other_k: int, other_n: int) -> float:
    """Two-sided p-value of Fisher's exact test that two counts have one proportion behind them."""
    return float(stats.fisher_exact([[k, n - k], [other_k, other_n - other_k]]).pvalue)
