"""How many seeds and test texts it takes until a difference shows, simulated with the test that
the report uses. ``docs/statistics.md`` says what is simulated, and how well it holds."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import brentq

from ablation.reports.comparisons import ALPHA, Sums, views_of

POWER = 0.8
SEEDS = (2, 3, 5, 10, 20)
N_REPEATS = 1000
MOST_TEXTS = 10_000
FEWEST_TEXTS, GROWTH = 20, 1.05  # of the numbers of texts that are tried
CHUNK = 10**7  # random numbers at once
# So much is taken as known of the spread over seeds before any run: as from five runs.
DEFAULT_DF = 4


@dataclass(frozen=True)
class Spread:
    """How the runs of two configurations vary, on a scale on which a text is classified correctly
    where a normal variable of variance 1 exceeds a limit.

    That variance is shared out: ``between`` is what all runs have in common on a text, ``within``
    the same for the runs of one configuration (more than ``between`` by what the configuration
    makes of the text), ``seed`` what a run has in common on all texts. The rest is its own.
    """

    accuracy: float = 0.95
    between: float = 0.943
    within: float = 0.953
    seed: float = 0.0094

    @property
    def points(self) -> float:
        """The standard deviation over seeds, in points, of the accuracy on endlessly many texts."""
        limit = stats.norm.ppf(self.accuracy)
        return 100 * float(np.sqrt(max(0.0, _covariance(self.seed, limit, limit))))


DEFAULT = Spread()  # "common" in benchmarks/false_findings.py


# ---------------------------------------------------------------- from records


def estimate_spread(configurations: Sequence[np.ndarray]) -> Spread:
    """The spread that fits some configurations, by the moments of what they get right.

    The accuracy is their mean. What they do not tell stays as in :data:`DEFAULT`: everything else
    with one seed, and with few, most of the spread over seeds.

    Args:
        configurations: a (S, M) matrix of each, on the same M messages.
    """
    n_messages = configurations[0].shape[1]
    end = 0.5 / n_messages
    accuracy = float(np.clip(np.mean([c.mean() for c in configurations]), end, 1 - end))
    # Of one that is always right, or always wrong, the moments say nothing.
    varied = [c for c in configurations if len(c) > 1 and 0 < c.mean() < 1]
    if not varied or n_messages < 2:
        return replace(DEFAULT, accuracy=accuracy)
    df = sum(len(c) - 1 for c in varied)
    seed, within = np.average([_own_shares(c) for c in varied], axis=0, weights=[*map(len, varied)])
    # With few texts an estimate may be far below 0, and would outweigh the default.
    seed = (df * max(0.0, seed) + DEFAULT_DF * DEFAULT.seed) / (df + DEFAULT_DF)
    seed = float(min(seed, 0.9))
    within = float(np.clip(within, 0.05, 0.999 - seed))
    pairs = [(a, b) for i, a in enumerate(varied) for b in varied[:i]]
    between = within * DEFAULT.between / DEFAULT.within
    if pairs:
        between = float(np.clip(np.mean([_common_share(*p) for p in pairs]), 0.05, within))
    return Spread(accuracy, between, within, seed)


def _own_shares(correct: np.ndarray) -> tuple[float, float]:
    """Shares of a configuration (S, M): what a run has in common, and what its runs have."""
    n_seeds, n_messages = correct.shape
    mean = correct.mean()
    rows, columns = correct.mean(axis=1), correct.mean(axis=0)
    rest = ((correct - rows[:, None] - columns + mean) ** 2).sum()
    rest /= (n_seeds - 1) * (n_messages - 1)
    by_seed = rows.var(ddof=1) - rest / n_messages
    by_message = columns.var(ddof=1) - rest / n_seeds
    limit = stats.norm.ppf(mean)
    return _correlation(by_seed, limit, limit), _correlation(by_message, limit, limit)


def _common_share(a: np.ndarray, b: np.ndarray) -> float:
    """What two configurations (S, M) have in common on a text."""
    limits = (stats.norm.ppf(part.mean()) for part in (a, b))
    return _correlation(np.cov(a.mean(axis=0), b.mean(axis=0))[0, 1], *limits)


def _covariance(correlation: float, limit: float, other: float) -> float:
    """Of two normal variables' being below their limits."""
    cov = [[1, correlation], [correlation, 1]]
    both = stats.multivariate_normal.cdf([limit, other], cov=cov, allow_singular=True)
    return float(both - stats.norm.cdf(limit) * stats.norm.cdf(other))


def _correlation(covariance: float, limit: float, other: float) -> float:
    """The correlation of two normal variables whose being below their limits has a covariance;
    inverts :func:`_covariance`."""
    low, high = -0.99, 0.999
    for end in (low, high):
        if (_covariance(end, limit, other) - covariance) * end <= 0:
            return end
    return float(brentq(lambda r: _covariance(r, limit, other) - covariance, low, high, xtol=1e-5))


# ---------------------------------------------------------------- the plan


@dataclass(frozen=True)
class Need:
    """What a difference of ``points`` takes with a number of seeds."""

    points: float
    n_seeds: int
    n_texts: float  # with which it shows with probability POWER; nan: more than were tried;
    # infinite: other seeds alone vary too much for it
    power_at_hand: float  # with the texts at hand; nan if it was not asked for

    @property
    def texts(self) -> str:
        """Their number as it is printed."""
        if np.isnan(self.n_texts):
            return f"over {MOST_TEXTS:,}"
        return f"{self.n_texts:,.0f}" if np.isfinite(self.n_texts) else "not reachable"


@lru_cache(maxsize=64)
def plan(
    spread: Spread,
    points: tuple[float, ...],
    alpha: float = ALPHA,
    at_hand: int | None = None,
    n_repeats: int = N_REPEATS,
    most_texts: int = MOST_TEXTS,
) -> list[Need]:
    """For each difference and number of seeds, the test texts with which it shows at ``alpha``.

    The accuracies of the two lie around that of ``spread``; close to 100 %, the better one lies
    halfway to it, and the other so many points below. The same random numbers serve for all
    differences, seeds and texts, and they are always the same.

    Args:
        points: each above 0 and at most 50.
        at_hand: test texts for which the power is wanted as well, at most ``most_texts``.
    """
    # Below 50 % everything is as above it, with right and wrong exchanged.
    middle, gains = max(spread.accuracy, 1 - spread.accuracy), np.array(points) / 100
    better = np.minimum(middle + gains / 2, (1 + middle) / 2)
    limits = stats.norm.ppf([better - gains, better])  # (2, P)
    ceilings = _power_of_seeds(spread, limits, alpha)
    needed = np.where(ceilings < POWER, np.inf, np.nan)  # (P, len(SEEDS)); nan: not found yet
    at_hand_power = np.full(needed.shape, np.nan)
    tried = {_round(FEWEST_TEXTS * GROWTH**i) for i in range(200)} | {most_texts}
    sizes = sorted(n for n in tried | {at_hand or most_texts} if n <= most_texts)
    simulated = _simulate(spread, limits, sizes, n_repeats)
    for n_texts, sums_of in zip(sizes, simulated, strict=True):
        for j, sums in enumerate(sums_of):
            views = views_of(sums)
            power = ((views.p < alpha) & (views.mean > 0)).mean(axis=1)
            if n_texts in tried:
                needed[np.isnan(needed[:, j]) & (power >= POWER), j] = n_texts
            if n_texts == at_hand:
                at_hand_power[:, j] = power
        if not np.isnan(needed).any() and n_texts >= (at_hand or 0):
            break
    return [
        Need(points[i], SEEDS[j], float(needed[i, j]), float(at_hand_power[i, j]))
        for i, j in np.ndindex(needed.shape)
    ]


def _round(n_texts: float) -> int:
    return 5 * round(n_texts / 5) if n_texts < 200 else int(float(f"{n_texts:.2g}"))


def tabulate_plan(
    spread: Spread,
    points: tuple[float, ...],
    counts: Sequence[int],
    n_texts: int,
    n_repeats: int = N_REPEATS,
) -> pd.DataFrame:
    """The test texts that differences take, a line for each number of seeds, texts as they are
    printed; in brackets, with which probability they show with the texts at hand.

    Args:
        counts: of comparisons; a difference is to show as the first of so many, corrected.
        n_texts: at hand; of more than ``MOST_TEXTS``, so many count.
    """
    table = {"seeds": [*map(str, SEEDS)]}
    for count in counts:
        place = f", first of {count}" if len(counts) > 1 and count > 1 else ""
        needs = plan(spread, points, ALPHA / count, min(n_texts, MOST_TEXTS), n_repeats)
        for size in points:
            name = f"{size:g} point{'' if size == 1 else 's'}{place}"
            table[name] = [
                f"{need.texts} ({100 * need.power_at_hand:.0f} %)"
                for need in needs
                if need.points == size
            ]
    return pd.DataFrame(table)


def describe_spread(spread: Spread) -> str:
    """What a plan takes for granted, in words."""
    limit = stats.norm.ppf(spread.accuracy)
    agree = 2 * (_covariance(spread.between, limit, limit) + spread.accuracy**2)
    apart = 100 * (2 * spread.accuracy - agree)
    return (
        f"a test accuracy of {100 * spread.accuracy:.1f} %, which varies by {spread.points:.1f} "
        f"points over seeds, and two configurations that disagree on {apart:.1f} % of the texts"
    )


def _power_of_seeds(spread: Spread, limits: np.ndarray, alpha: float) -> np.ndarray:
    """The power (P, len(SEEDS)) with endlessly many texts, where only seeds vary."""
    rng = np.random.default_rng(1)
    luck = np.sqrt(spread.seed) * rng.standard_normal((2, 4000, SEEDS[-1]))
    own = np.sqrt(1 - spread.seed)
    power = np.empty((limits.shape[1], len(SEEDS)))
    for i, pair in enumerate(limits.T):
        a, b = stats.norm.cdf((pair[:, None, None] + luck) / own)
        for j, n in enumerate(SEEDS):
            values = (b - a)[:, :n]
            error = values.std(axis=1, ddof=1) / np.sqrt(n)
            power[i, j] = (stats.t.isf(alpha / 2, n - 1) * error < values.mean(axis=1)).mean()
    return power


def _simulate(
    spread: Spread, limits: np.ndarray, sizes: Sequence[int], n_repeats: int
) -> Iterator[list[Sums]]:
    """For each number of texts, what the test knows of pairs of configurations, by the number of
    seeds: sums of shape (P, R, S). Texts are drawn one after another, and added to those before.
    """
    generators = [np.random.default_rng((2, i)) for i in range(6)]

    def draw(i: int, share: float, *shape: int) -> np.ndarray:
        deviation = np.float32(np.sqrt(share))
        return deviation * generators[i].standard_normal(shape, dtype=np.float32)

    shape = (limits.shape[1], n_repeats)
    luck = draw(0, spread.seed, 2, n_repeats, SEEDS[-1])
    by_seed, squares = np.zeros((2, *shape, SEEDS[-1]), dtype=np.int64)
    message_squares, leaning = np.zeros((2, len(SEEDS), *shape), dtype=np.int64)
    at_once = max(1, CHUNK // (2 * n_repeats * SEEDS[-1]))
    n_texts = 0
    for size in sizes:
        while n_texts < size:
            n_new = min(at_once, size - n_texts)
            n_texts += n_new
            ease = draw(1, spread.between, n_new, n_repeats, 1)
            a, b = (
                luck[i]
                + (ease + draw(2 + i, spread.within - spread.between, n_new, n_repeats, 1))
                + draw(4 + i, 1 - spread.within - spread.seed, n_new, n_repeats, SEEDS[-1])
                for i in range(2)
            )
            for i, (worse, better) in enumerate(limits.T.astype(np.float32)):
                values = (b > -better).view(np.int8) - (a > -worse).view(np.int8)
                by_seed[i] += values.sum(axis=0, dtype=np.int64)
                squares[i] += np.count_nonzero(values, axis=0)
                by_message = np.zeros((n_new, n_repeats), dtype=np.int16)
                for j, (first, last) in enumerate(itertools.pairwise((0, *SEEDS))):
                    by_message += values[..., first:last].sum(axis=-1, dtype=np.int16)
                    message_squares[j, i] += np.square(by_message).sum(axis=0, dtype=np.int64)
                    leaning[j, i] += np.count_nonzero(by_message, axis=0)
        yield [
            Sums(
                n_texts,
                by_seed[..., :n],
                squares[..., :n].sum(axis=-1),
                message_squares[j],
                leaning[j],
            )
            for j, n in enumerate(SEEDS)
        ]
