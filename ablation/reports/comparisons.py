"""What the predictions of runs on the same test messages can show, and what they cannot.

``correct`` is (S, M): for S runs that differ in their seed, whether each of M messages was
classified correctly. ``docs/statistics.md`` says why these tests and no others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ablation.finetuning.metrics import ALPHA, exact_interval

ROUNDING = 1 / 12  # variance of what a whole number of messages hides


@dataclass(frozen=True)
class Views:
    """A mean difference (...) as three t-tests see it: their standard errors and degrees of
    freedom, (3, ...) each.

    A finding needs all three, so the one that knows least decides. ``leaning`` (...) is how many
    of the messages lean either way.

    Source of the maximum: R. Berger, "Multiparameter hypothesis testing and acceptance
    sampling", Technometrics 24 (1982).
    """

    mean: np.ndarray
    errors: np.ndarray
    df: np.ndarray
    leaning: np.ndarray
    n_messages: int

    @property
    def p(self) -> np.ndarray:
        """Two-sided p-values (...), the largest of three.

        None is below that of an exact sign test where as many messages lean, and all one way; it
        also decides where nothing varies.
        """
        mean = np.abs(self.mean)
        t = np.divide(
            mean, self.errors, out=np.full_like(self.errors, np.inf), where=self.errors > 0
        )
        p = (2 * stats.t.sf(t, self.df)).max(axis=0)
        smallest = np.minimum(1.0, 2.0 ** (1.0 - self.leaning))
        return np.where(mean > 0, np.maximum(p, smallest), 1.0)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of one mean; inverts ``p``."""
        mean, half, n_leaning = float(self.mean), self.half_width(ALPHA), int(self.leaning)
        if 2.0 ** (1 - n_leaning) >= ALPHA:  # so few that their spread says little
            half = max(half, exact_interval(n_leaning, self.n_messages)[1])
        return max(-1.0, mean - half), min(1.0, mean + half)

    def half_width(self, alpha: float) -> float:
        """Half the interval of one mean."""
        return float((stats.t.isf(alpha / 2, self.df) * self.errors).max())


@dataclass(frozen=True)
class Difference:
    """Accuracy of ``b`` minus that of ``a``, in percentage points, over the seeds of both.

    ``p`` is what decides, and the interval leaves out 0 exactly where ``p`` is below ``ALPHA``.
    Of single runs both speak of these two, on other messages; else of other seeds as well.
    """

    points: float
    low: float  # of the 95 % interval
    high: float
    p: float
    mcnemar: tuple[float, ...]  # the p-value of each seed
    values: np.ndarray  # (S, M): 1 where only b is right, -1 where only a is, else 0
    views: Views | None = None  # none of single runs

    @property
    def is_of_runs(self) -> bool:
        """Whether it is of two single runs, and not of configurations."""
        return self.views is None

    @property
    def n_seeds(self) -> int:
        """Seeds that both have."""
        return self.values.shape[0]

    @property
    def n_messages(self) -> int:
        """Test messages."""
        return self.values.shape[1]


def compare(a: np.ndarray, b: np.ndarray) -> Difference:
    """Compare two configurations, run by run on the same messages.

    Args:
        a, b: (S, M); run s of one is paired with run s of the other.
    """
    values = b.astype(np.int8) - a.astype(np.int8)
    per_seed = tuple(mcnemar(*pair) for pair in zip(a, b, strict=True))
    if len(values) > 1:
        return decide(values, views_of(sum_up(values)), per_seed)
    low, high = _paired_interval(values[0])
    return Difference(
        100 * float(values.mean()), 100 * low, 100 * high, per_seed[0], per_seed, values
    )


def compare_pairs(a: np.ndarray, b: np.ndarray) -> Difference:
    """The mean difference over several pairs of configurations, of seeds and messages that all
    have, by the same test on each message's sum over the pairs.

    It speaks of these pairs, on other messages and with other seeds.

    Args:
        a, b: (C, S, M), S at least 2; no configuration stands in two pairs.
    """
    values = (b.astype(np.int32) - a).sum(axis=0, dtype=np.int32)
    return decide(values, views_of(sum_up(values, n_pairs=len(a))))


def decide(values: np.ndarray, views: Views, mcnemar: tuple[float, ...] = ()) -> Difference:
    """The difference of values (S, M) as three t-tests see it."""
    low, high = (100 * end for end in views.interval)
    return Difference(100 * float(views.mean), low, high, float(views.p), mcnemar, values, views)


# ---------------------------------------------------------------- one seed: two runs


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided p-value of the exact test on the messages (M,) that only one got right.

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated
    proportions or percentages", Psychometrika 12 (1947), with the binomial distribution in
    place of its approximation.
    """
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def _paired_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the difference of two runs (M,), for other messages; inverts ``mcnemar``.

    The difference is (2 share - 1) · rate: the rate of messages that only one got right, times
    how far b's share of them is from one half. Both have Clopper and Pearson's exact intervals,
    and 0 lies within exactly where the share may be one half. (With the rate as it was found,
    the interval would be far too narrow where most of these messages lean one way.)
    """
    n_discordant = int(np.count_nonzero(values))
    share = exact_interval(int((values > 0).sum()), n_discordant)
    rate = exact_interval(n_discordant, len(values))
    # Of the rate, the end that takes each bound further out.
    low, high = (2 * bound - 1 for bound in share)
    return low * rate[low < 0], high * rate[high > 0]


def smallest_difference(alpha: float = ALPHA, n_discordant: int = 0) -> int:
    """The fewest messages by which two runs must differ for an exact McNemar test below ``alpha``.

    Args:
        n_discordant: messages that only one of the two got right; where they are too few for any
            difference to show, and by default, as many as it takes, and all one way.
    """
    k = int(stats.binom.isf(alpha / 2, n_discordant, 0.5)) + 1  # of them, the winner's share
    if k <= n_discordant:
        return 2 * k - n_discordant
    return math.floor(1 - math.log2(alpha)) + 1  # the first n for which 2 / 2 ** n is below


# ---------------------------------------------------------------- several seeds


@dataclass(frozen=True)
class Sums:
    """What the tests know of values (..., S, M): sums of whole numbers.

    They are exact, so that what does not vary has a variance of exactly 0; and those of other
    messages can be added to them.
    """

    n_messages: int
    by_seed: np.ndarray  # (..., S)
    squares: np.ndarray  # (...): of all values
    message_squares: np.ndarray  # (...): of each message's sum over seeds
    leaning: np.ndarray  # (...): messages whose sum over seeds is not 0
    n_pairs: int = 1  # of configurations, over which the values are summed


def sum_up(values: np.ndarray, n_pairs: int = 1) -> Sums:
    """Sum up values (..., S, M), whole numbers of a type that holds their squares."""
    by_message = values.sum(axis=-2, dtype=np.int64)
    return Sums(
        n_messages=values.shape[-1],
        by_seed=values.sum(axis=-1, dtype=np.int64),
        squares=(values * values).sum(axis=(-2, -1), dtype=np.int64),
        message_squares=(by_message * by_message).sum(axis=-1),
        leaning=np.count_nonzero(by_message, axis=-1),
        n_pairs=n_pairs,
    )


def p_values(values: np.ndarray) -> np.ndarray:
    """Two-sided p-values (...) of the mean difference of values (..., S, M), S at least 2."""
    return views_of(sum_up(values)).p


def standard_errors(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard errors of the mean of values (..., S, M), and their degrees of freedom: (3, ...)."""
    views = views_of(sum_up(values))
    return views.errors, views.df


def views_of(sums: Sums) -> Views:
    """The mean over the pairs, seen over seeds, over messages, and over both.

    One standard error is for other seeds on these messages, one for other messages with these
    seeds, and one for both, in which what seeds and messages share is counted once, as in a model
    with crossed effects. S is at least 2; of one message, nothing is known of others.

    Sources: R. Baayen, D. Davidson and D. Bates, "Mixed-effects modeling with crossed random
    effects for subjects and items", Journal of Memory and Language 59 (2008); for the degrees of
    freedom, F. Satterthwaite, "An approximate distribution of estimates of variance components",
    Biometrics Bulletin 2 (1946).
    """
    *leading, n_seeds = sums.by_seed.shape
    n_messages, total = sums.n_messages, sums.by_seed.sum(axis=-1)
    n, df_seeds, df_messages = n_seeds * n_messages, n_seeds - 1, n_messages - 1
    mean = total / (n * sums.n_pairs)
    if n_messages == 1:
        unknown, df = np.full((3, *leading), np.inf), np.ones((3, *leading))
        return Views(mean, unknown, df, sums.leaning, n_messages)
    # Mean squares: each is an estimate of n times the variance of the mean. A value is made of two
    # counts for each pair, and each count is rounded.
    hidden = 2 * sums.n_pairs * ROUNDING
    seeds = np.maximum(sums.by_seed.var(axis=-1, ddof=1), hidden) / n_messages
    messages = (sums.message_squares - total**2 / n_messages) / df_messages / n_seeds
    rest = sums.squares - total**2 / n - df_seeds * seeds - df_messages * messages
    shared = np.maximum(0, rest) / (df_seeds * df_messages)
    both = np.maximum(seeds + messages - shared, np.maximum(seeds, messages))
    scale = (seeds**2 + shared**2 / df_messages) / df_seeds + messages**2 / df_messages
    df_both = np.divide(both**2, scale, out=np.ones_like(both), where=both > 0)
    df = [np.full_like(both, df_seeds), np.full_like(both, df_messages), df_both]
    errors = np.sqrt(np.stack([seeds, messages, both]) / n) / sums.n_pairs
    return Views(mean, errors, np.stack(df), sums.leaning, n_messages)


# ---------------------------------------------------------------- what is said of them


def detectable_points(difference: Difference, alpha: float) -> float | None:
    """The difference, in points, from which on two configurations that vary as much as these
    would have been told apart at ``alpha``; none if no difference would have been."""
    if difference.views:
        fewest = smallest_difference(alpha) / difference.n_messages
        share = max(fewest, difference.views.half_width(alpha))
    else:
        n_discordant = int(np.count_nonzero(difference.values))
        share = smallest_difference(alpha, n_discordant) / difference.n_messages
    return 100 * share if share <= 1 else None


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for how many they are.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian
    Journal of Statistics 6 (1979).
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    stepped = np.minimum(1, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    return stepped[np.argsort(order)].tolist()


def accuracy_interval(correct: np.ndarray) -> tuple[float, float]:
    """95 % interval of the accuracy, in percent: with one seed for other messages, with several
    for other seeds as well.

    Clopper and Pearson's at the mean count, which knows nothing of seeds; with several seeds the
    widest, on each side, of this, the intervals of :func:`standard_errors`, and one over seeds
    that knows of the ceiling: seeds near 100 % vary downwards, so it is a t-interval where they
    vary evenly, of the accuracies' normal quantiles, taken back to the mean accuracy of such seeds.
    """
    n_seeds, n_messages = correct.shape
    mean = float(correct.mean())
    intervals = [exact_interval(mean * n_messages, n_messages)]
    if n_seeds > 1:
        half = views_of(sum_up(correct.astype(np.int8))).half_width(ALPHA)
        quantiles = stats.norm.ppf((correct.sum(axis=1) + 0.5) / (n_messages + 1))
        deviation = quantiles.std(ddof=1)
        half_quantiles = stats.t.isf(ALPHA / 2, n_seeds - 1) * deviation / math.sqrt(n_seeds)
        ends = quantiles.mean() + np.array([-half_quantiles, half_quantiles])
        ceiling = stats.norm.cdf(ends / math.sqrt(1 + deviation**2)).tolist()
        intervals += [(mean - half, mean + half), tuple(ceiling)]
    lows, highs = zip(*intervals, strict=True)
    return 100 * max(0.0, min(lows)), 100 * min(1.0, max(highs))


def prediction_interval(counts: Sequence[int]) -> tuple[float, float]:
    """95 % prediction interval of the count of one more run, from those of S runs, S at least 2.

    mean ± t · s · √(1 + 1/S); whole numbers that are all the same leave s unknown below what
    rounding takes.
    """
    n = len(counts)
    deviation = math.sqrt(max(np.var(counts, ddof=1), ROUNDING))
    half = stats.t.isf(ALPHA / 2, n - 1) * deviation * math.sqrt(1 + 1 / n)
    return float(np.mean(counts) - half), float(np.mean(counts) + half)
