"""How often tests call two equal configurations different, and two different ones so.

    python benchmarks/false_findings.py

prints the tables in docs/statistics.md: candidates for the test that decides, simulated. The slow
tests hold the one that was chosen to its promise with the same functions.

Runs are simulated by latent normal effects: a message is classified correctly where the sum of
its own ease, the luck of the seed, what the configuration makes of it, and the rest exceed a
limit, which is set by the accuracy. Two configurations share the messages' ease and nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import digamma, polygamma

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ablation.reports import planning
from ablation.reports.comparisons import ALPHA, accuracy_interval, p_values, standard_errors
from ablation.reports.folds import fold_views

N_COMPARISONS = 18  # in the whole table of rows
ALPHAS = (ALPHA, ALPHA / N_COMPARISONS)
N_SEEDS = (2, 3, 5, 10)
N_MESSAGES = 300
CHUNK = 500  # pairs at once


@dataclass(frozen=True)
class Effects:
    """Standard deviations of what decides of a message, beside its own ease of 1."""

    seed: float  # the luck of a run, the same for all messages
    message: float  # what the configuration makes of a message, the same in all runs
    rest: float


QUIET = Effects(0.05, 0.0, 0.15)  # its accuracy varies over seeds by 0.6 points
COMMON = Effects(0.1, 0.1, 0.2)  # 1.1
LIVELY = Effects(0.15, 0.2, 0.3)  # 1.6
NOISY = Effects(0.5, 0.2, 0.3)  # 4.7

# Pairs of equal worth: effects of both, and their accuracy.
REGIMES = {
    "quiet": (QUIET, QUIET, 0.95),
    "common": (COMMON, COMMON, 0.95),
    "lively": (LIVELY, LIVELY, 0.95),
    "noisy": (NOISY, NOISY, 0.95),
    "seeds alone": (Effects(0.5, 0.0, 0.0), Effects(0.5, 0.0, 0.0), 0.95),
    "messages alone": (Effects(0.0, 0.5, 0.05), Effects(0.0, 0.5, 0.05), 0.95),
    "quiet, at 75 %": (QUIET, QUIET, 0.75),
    "noisy, at 75 %": (NOISY, NOISY, 0.75),
    "common, at 99 %": (COMMON, COMMON, 0.99),
    # Row 2 beside row 1: as published at 75 %, and as measured varying by 4.5 points.
    "mixed, at 75 %": (QUIET, Effects(0.152, 0.2, 0.3), 0.75),
}
# Where one of two varies much and mostly upwards to a ceiling, what a few seeds show is skewed.
SKEWED = {"mixed, at 95 %": (QUIET, NOISY, 0.95)}
# Ten comparisons as they are met in one table.
TABLE = (*["quiet"] * 4, *["common"] * 3, *["lively"] * 2, "noisy")


def simulate(
    effects: Effects, accuracy: float, ease: np.ndarray, n_seeds: int, rng: np.random.Generator
) -> np.ndarray:
    """Whether runs (R, S, M) are right, on messages of some ease (R, 1, M)."""
    n_pairs, _, n_messages = ease.shape

    def draw(deviation: float, *shape: int) -> np.ndarray:
        return np.float32(deviation) * rng.standard_normal(shape, dtype=np.float32)

    spread = np.sqrt(1 + effects.seed**2 + effects.message**2 + effects.rest**2)
    latent = draw(effects.rest, n_pairs, n_seeds, n_messages)
    latent += ease + draw(effects.message, n_pairs, 1, n_messages)
    latent += draw(effects.seed, n_pairs, n_seeds, 1)
    return latent > -stats.norm.ppf(accuracy) * spread


def simulate_pairs(
    regime: tuple[Effects, Effects, float],
    n_seeds: int,
    n_pairs: int,
    rng: np.random.Generator,
    gain: float = 0.0,
    n_messages: int = N_MESSAGES,
) -> Iterator[np.ndarray]:
    """Differences (R, S, M) of pairs, the second better by ``gain``, in chunks."""
    *both, accuracy = regime
    for start in range(0, n_pairs, CHUNK):
        shape = (min(CHUNK, n_pairs - start), 1, n_messages)
        ease = rng.standard_normal(shape, dtype=np.float32)
        a, b = (
            simulate(effects, level, ease, n_seeds, rng).view(np.int8)
            for effects, level in zip(both, (accuracy, accuracy + gain), strict=True)
        )
        yield b - a


# ---------------------------------------------------------------- candidates


def _two_sided(mean: np.ndarray, errors: np.ndarray, df: np.ndarray) -> np.ndarray:
    t = np.divide(np.abs(mean), errors, out=np.full_like(errors, np.inf), where=errors > 0)
    return np.where(mean == 0, 1.0, 2 * stats.t.sf(t, df))


def welch(values: np.ndarray) -> np.ndarray:
    """P-values (...) where the variances over seeds and over messages add up (Welch 1947)."""
    (seeds, messages, _), (df_seeds, df_messages, _) = standard_errors(values)
    both = seeds**2 + messages**2
    scale = seeds**4 / df_seeds + messages**4 / df_messages
    df = np.divide(both**2, scale, out=np.ones_like(both), where=scale > 0)
    return _two_sided(values.mean(axis=(-2, -1)), np.sqrt(both), df)


def cautious(values: np.ndarray) -> np.ndarray:
    """The same, with no more degrees of freedom than there are seeds, less one."""
    (seeds, messages, _), (df_seeds, *_) = standard_errors(values)
    return _two_sided(values.mean(axis=(-2, -1)), np.hypot(seeds, messages), df_seeds)


def views(values: np.ndarray) -> np.ndarray:
    """P-values (3, ...) of t-tests over seeds, over messages, and over both, crossed."""
    return _two_sided(values.mean(axis=(-2, -1)), *standard_errors(values))


CHOSEN = "the largest of seeds, messages, crossed"
CANDIDATES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "seeds": lambda values: views(values)[0],
    "messages": lambda values: views(values)[1],
    "crossed": lambda values: views(values)[2],
    "Welch": welch,
    "Welch, S - 1 degrees of freedom": cautious,
    "the larger of seeds, messages": lambda values: views(values)[:2].max(axis=0),
    "the largest of seeds, messages, Welch": lambda values: np.maximum(
        views(values)[:2].max(axis=0), welch(values)
    ),
    CHOSEN: p_values,
}


def shrunken(errors: np.ndarray, df: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """P-values (T, K) of K comparisons in each of T tables, the variances over seeds shrunk
    towards one that they have in common.

    Source: G. Smyth, "Linear models and empirical Bayes methods for assessing differential
    expression in microarray experiments", Statistical Applications in Genetics and Molecular
    Biology 3 (2004).

    Args:
        errors, df: (3, T, K), as :func:`standard_errors` has them.
        mean: (T, K).
    """
    (seeds, messages, _), (df_seeds, df_messages, _) = errors**2, df
    d = df_seeds[0, 0]
    logs = np.log(seeds) - digamma(d / 2) + np.log(d / 2)
    excess = logs.var(axis=1, ddof=1) - polygamma(1, d / 2)
    prior = np.array([_inverse_trigamma(value) for value in excess])[:, None]
    centre = np.exp(logs.mean(axis=1, keepdims=True) + digamma(prior / 2) - np.log(prior / 2))
    shrunk = (prior * centre + d * seeds) / (prior + d)
    both = shrunk + messages
    freedom = both**2 / (shrunk**2 / (d + prior) + messages**2 / df_messages)
    return _two_sided(mean, np.sqrt(both), freedom)


def _inverse_trigamma(value: float) -> float:
    """Twice the number whose trigamma is ``value``, and much where there is none."""
    if value <= 1e-3:
        return 2e3
    return 2 * float(brentq(lambda x: polygamma(1, x) - value, 1e-3, 1e4))


# ---------------------------------------------------------------- rates


def measure(
    regime: tuple[Effects, Effects, float],
    n_seeds: int,
    n_pairs: int,
    names: Sequence[str] = (CHOSEN,),
    gain: float = 0.0,
) -> dict[str, np.ndarray]:
    """How often, as shares, each candidate is below each of ``ALPHAS``."""
    rng = np.random.default_rng(n_seeds)
    found = {name: np.zeros(len(ALPHAS)) for name in names}
    for values in simulate_pairs(regime, n_seeds, n_pairs, rng, gain):
        for name in names:
            p = CANDIDATES[name](values)
            found[name] += [(p < alpha).sum() for alpha in ALPHAS]
    return {name: counts / n_pairs for name, counts in found.items()}


def measure_table(n_seeds: int, n_tables: int) -> dict[str, np.ndarray]:
    """Of tables of ten comparisons, for the chosen test and for shrinking: how often the noisy
    one is below each of ``ALPHAS``, and how often any is found, corrected for ten."""
    rng = np.random.default_rng(n_seeds)
    parts = [
        np.concatenate([*simulate_pairs(REGIMES[name], n_seeds, n_tables, rng)]) for name in TABLE
    ]
    views_of = [standard_errors(values) for values in parts]
    errors, df = (np.stack(part, axis=-1) for part in zip(*views_of, strict=True))
    mean = np.stack([values.mean(axis=(1, 2)) for values in parts], axis=-1)
    found = {
        CHOSEN: np.stack([p_values(values) for values in parts], axis=-1),
        "shrunken": shrunken(errors, df, mean),
    }
    return {
        name: np.array(
            [
                *((p[:, -1] < alpha).mean() for alpha in ALPHAS),
                (p.min(axis=1) < ALPHA / len(TABLE)).mean(),
            ]
        )
        for name, p in found.items()
    }


def measure_single(regime: tuple[Effects, Effects, float], n_pairs: int) -> np.ndarray:
    """How often an exact McNemar test of one seed is below each of ``ALPHAS``."""
    counts = np.zeros(len(ALPHAS))
    for values in simulate_pairs(regime, 1, n_pairs, np.random.default_rng(1)):
        one, other = ((values == sign).sum(axis=(1, 2)) for sign in (1, -1))
        p = np.minimum(1, 2 * stats.binom.cdf(np.minimum(one, other), one + other, 0.5))
        counts += [(p < alpha).sum() for alpha in ALPHAS]
    return counts / n_pairs


def measure_coverage(regime: tuple[Effects, Effects, float], n_seeds: int, n_runs: int) -> float:
    """How often the interval of an accuracy holds it."""
    effects, _, accuracy = regime
    rng = np.random.default_rng(n_seeds)
    ease = rng.standard_normal((n_runs, 1, N_MESSAGES), dtype=np.float32)
    runs = simulate(effects, accuracy, ease, n_seeds, rng)
    inside = (low <= 100 * accuracy <= high for low, high in map(accuracy_interval, runs))
    return sum(inside) / n_runs


# ---------------------------------------------------------------- plans


def spread_of(effects: Effects, accuracy: float) -> planning.Spread:
    """Effects as shares of the variance that they add up to."""
    total = 1 + effects.seed**2 + effects.message**2 + effects.rest**2
    within = (1 + effects.message**2) / total
    return planning.Spread(accuracy, 1 / total, within, effects.seed**2 / total)


def share_found(
    effects: Effects,
    middle: float,
    points: float,
    size: tuple[int, int],
    alpha: float,
    n_pairs: int,
) -> float:
    """How often so many seeds and texts find a difference around an accuracy, by drawing whole
    matrices; the plan draws sums."""
    pair, rng, found = (effects, effects, middle - points / 200), np.random.default_rng(77), 0
    for values in simulate_pairs(pair, size[0], n_pairs, rng, points / 100, size[1]):
        found += ((p_values(values) < alpha) & (values.mean(axis=(1, 2)) > 0)).sum()
    return found / n_pairs


# ---------------------------------------------------------------- folds

FOLD_TEXTS = 1000  # of one's own data, all of which are tested
FOLD_SHAPES = ((1, 5), (1, 10), (3, 5), (3, 10))  # seeds, folds


def simulate_folds(
    effects: Effects,
    accuracy: float,
    ease: np.ndarray,
    shape: tuple[int, int],
    rng: np.random.Generator,
    shared: float,
    data: float,
) -> np.ndarray:
    """Whether runs on folds (R, S, N) are right, on texts of some ease (R, 1, N).

    Args:
        shape: seeds and folds; text i is tested in fold i % K.
        shared: of the variance of a run's luck, the part that a seed has in all folds.
        data: deviation of what the training texts of a fold bring: the mean of what each other
            fold brings, so that two folds share all but one part of K - 1.
    """
    n_seeds, n_folds = shape
    n_pairs, _, n_texts = ease.shape
    luck = np.sqrt(shared) * rng.standard_normal((n_pairs, n_seeds, 1))
    luck = luck + np.sqrt(1 - shared) * rng.standard_normal((n_pairs, n_seeds, n_folds))
    parts = rng.standard_normal((n_pairs, 1, n_folds))
    brought = (parts.sum(axis=-1, keepdims=True) - parts) / np.sqrt(n_folds - 1)
    by_run = (effects.seed * luck + data * brought)[..., np.arange(n_texts) % n_folds]
    latent = ease + by_run + effects.message * rng.standard_normal((n_pairs, 1, n_texts))
    latent += effects.rest * rng.standard_normal(latent.shape)
    spread = np.sqrt(1 + effects.seed**2 + effects.message**2 + effects.rest**2 + data**2)
    return latent > -stats.norm.ppf(accuracy) * spread


def measure_folds(
    regime: tuple[Effects, Effects, float],
    n_seeds: int,
    n_folds: int,
    n_pairs: int,
    gain: float = 0.0,
    shared: float = 0.0,
    data: float = 0.0,
) -> np.ndarray:
    """How often the test over folds is below each of ``ALPHAS``."""
    rng, counts = np.random.default_rng((n_seeds, n_folds)), np.zeros(len(ALPHAS))
    *both, accuracy = regime
    for start in range(0, n_pairs, CHUNK // 5):
        ease = rng.standard_normal((min(CHUNK // 5, n_pairs - start), 1, FOLD_TEXTS))
        a, b = (
            simulate_folds(e, level, ease, (n_seeds, n_folds), rng, shared, data).view(np.int8)
            for e, level in zip(both, (accuracy - gain / 2, accuracy + gain / 2), strict=True)
        )
        p = fold_views(b - a, np.arange(FOLD_TEXTS) % n_folds).p
        counts += [(p < alpha).sum() for alpha in ALPHAS]
    return counts / n_pairs


# ---------------------------------------------------------------- the document's tables

N_PAIRS = 20_000
N_POWER = 4_000
GAIN = 0.03


def _percent(shares: np.ndarray) -> str:
    return f"{100 * shares[0]:.1f} ({100 * shares[1]:.2f})"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def sizes_table(names: Sequence[str] = tuple(CANDIDATES)) -> str:
    """False findings of each candidate, in each regime."""
    lines = []
    for regime, pair in {**REGIMES, **SKEWED}.items():
        for n_seeds in N_SEEDS:
            shares = measure(pair, n_seeds, N_PAIRS, names)
            lines.append((regime, str(n_seeds), *(_percent(shares[name]) for name in names)))
    return _table(("regime", "S", *names), lines)


def power_table(names: Sequence[str] = tuple(CANDIDATES)) -> str:
    """How often each candidate finds 3 points."""
    lines = []
    for regime in ("quiet", "common", "lively", "noisy", "quiet, at 75 %"):
        for n_seeds in N_SEEDS:
            shares = measure(REGIMES[regime], n_seeds, N_POWER, names, GAIN)
            lines.append((regime, str(n_seeds), *(_percent(shares[name]) for name in names)))
    return _table(("regime", "S", *names), lines)


def mixed_table() -> str:
    """False findings in tables of ten comparisons of which one is noisy."""
    lines = []
    for n_seeds in N_SEEDS:
        for name, shares in measure_table(n_seeds, N_POWER).items():
            lines.append((name, str(n_seeds), _percent(shares), f"{100 * shares[2]:.1f}"))
    return _table(("test", "S", "the noisy one", "any, corrected"), lines)


def single_table() -> str:
    """False findings of McNemar's test of one seed."""
    lines = ((name, _percent(measure_single(pair, N_PAIRS))) for name, pair in REGIMES.items())
    return _table(("regime", "McNemar, one seed"), lines)


def coverage_table() -> str:
    """How often the interval of an accuracy holds it, in percent."""
    names = ("quiet", "common", "lively", "noisy", "noisy, at 75 %")
    lines = (
        (name, *(f"{100 * measure_coverage(REGIMES[name], n, 2000):.1f}" for n in (1, *N_SEEDS)))
        for name in names
    )
    return _table(("regime", *(f"S = {n}" for n in (1, *N_SEEDS))), lines)


def folds_table() -> str:
    """False findings over folds, and power for 3 points."""
    cases = {"false findings": {}, "with shared luck": {"shared": 0.5}}
    cases |= {"with luck of the data": {"data": 0.05}, "power for 3 points": {"gain": GAIN}}
    lines = []
    for name in ("quiet", "common", "lively", "noisy"):
        for shape in FOLD_SHAPES:
            found = [measure_folds(REGIMES[name], *shape, N_POWER, **kw) for kw in cases.values()]
            lines.append((name, *map(str, shape), *map(_percent, found)))
    return _table(("regime", "S", "folds", *cases), lines)


def plan_table() -> str:
    """What a plan says, and how often as many seeds and texts find the difference."""
    lines = []
    for name in ("quiet", "common", "lively"):
        effects, _, accuracy = REGIMES[name]
        for points in (2.0, 3.0, 5.0):
            for alpha, count in ((ALPHA, 1), (ALPHA / N_COMPARISONS, N_COMPARISONS)):
                needs = planning.plan(spread_of(effects, accuracy), (points,), alpha)
                cells = []
                for need in needs:
                    if np.isfinite(need.n_texts):
                        size = (need.n_seeds, int(need.n_texts))
                        found = share_found(effects, accuracy, points, size, alpha, N_POWER)
                        cells.append(f"{need.texts}: {100 * found:.0f} %")
                    else:
                        cells.append(need.texts)
                lines.append((name, f"{points:g}", str(count), *cells))
    seeds = (f"{n} seeds" for n in planning.SEEDS)
    return _table(("regime", "points", "comparisons", *seeds), lines)


TABLES = (single_table, sizes_table, power_table, mixed_table, coverage_table)
if __name__ == "__main__":
    for part in (*TABLES, folds_table, plan_table):
        print(part(), end="\n\n", flush=True)
