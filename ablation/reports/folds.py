"""Two configurations on the folds of one data set: each text is tested once with each seed, by a
run that was trained on the other folds.

``docs/statistics.md`` says why this test, and what it cannot see.
"""

import numpy as np

from ablation.finetuning.metrics import ALPHA, exact_interval
from ablation.reports.comparisons import ROUNDING, Difference, Views, decide


def compare_folds(a: np.ndarray, b: np.ndarray, fold: np.ndarray) -> Difference:
    """Compare two configurations over all texts; also with one seed it is one of configurations,
    because each fold has a run of its own.

    Args:
        a, b: (S, N): whether each text was classified correctly with each seed.
        fold: (N,): the number of the fold in which a text is tested; at least two folds.
    """
    values = b.astype(np.int8) - a.astype(np.int8)
    return decide(values, fold_views(values, fold))


def compare_pairs_of_folds(a: np.ndarray, b: np.ndarray, fold: np.ndarray) -> Difference:
    """The same of the mean difference over several pairs of configurations, which speaks of these.

    Args:
        a, b: (C, S, N); no configuration stands in two pairs.
    """
    values = (b.astype(np.int32) - a).sum(axis=0, dtype=np.int32)
    return decide(values, fold_views(values, fold, n_pairs=len(a)))


def fold_views(values: np.ndarray, fold: np.ndarray, n_pairs: int = 1) -> Views:
    """The mean of values (..., S, N), seen over folds, over texts, and over folds and seeds; where
    values are sums over ``n_pairs``, the mean of these.

    Folds share most of their training texts, so the variance over them is too small: it is taken
    times 1 + K · n_test / n_train, which is 1 + K / (K - 1). Seeds add what their runs have in
    common over all folds.

    Source: C. Nadeau and Y. Bengio, "Inference for the generalization error", Machine Learning 52
    (2003).
    """
    n_seeds, n_texts = values.shape[-2:]
    numbers, sizes = np.unique(fold, return_counts=True)
    n_folds, n = len(numbers), n_seeds * n_texts
    counts = np.stack(
        [values[..., fold == number].sum(axis=-1, dtype=np.int64) for number in numbers], axis=-1
    )  # (..., S, K)
    by_text = values.sum(axis=-2, dtype=np.int64)
    mean = by_text.sum(axis=-1) / n
    # Mean squares: each is an estimate of n times a variance of the mean.
    by_fold = counts.sum(axis=-2) / (n_seeds * sizes)
    folds = n_seeds * (sizes * (by_fold - mean[..., None]) ** 2).sum(axis=-1) / (n_folds - 1)
    folds = np.maximum(folds, 2 * ROUNDING * n_pairs * n_folds / n_texts)
    corrected = folds * (1 + n_folds / (n_folds - 1))
    texts = by_text.var(axis=-1, ddof=1) / n_seeds
    both, df_both = corrected, np.full_like(corrected, n_folds - 1)
    if n_seeds > 1:
        by_seed = counts.sum(axis=-1) / n_texts
        seeds = n_texts * by_seed.var(axis=-1, ddof=1)
        rest = counts / sizes - by_fold[..., None, :] - by_seed[..., None] + mean[..., None, None]
        df_rest = (n_seeds - 1) * (n_folds - 1)
        shared = (sizes * rest**2).sum(axis=(-2, -1)) / df_rest
        extra = np.maximum(0, seeds - shared)
        both = corrected + extra
        scale = corrected**2 / (n_folds - 1)
        scale += (extra > 0) * (seeds**2 / (n_seeds - 1) + shared**2 / df_rest)
        df_both = both**2 / scale
    df = [np.full_like(both, n_folds - 1), np.full_like(both, n_texts - 1), df_both]
    errors = np.sqrt(np.stack([corrected, texts, both]) / n) / n_pairs
    return Views(mean / n_pairs, errors, np.stack(df), np.count_nonzero(by_text, axis=-1), n_texts)


def accuracy_interval_of_folds(correct: np.ndarray, fold: np.ndarray) -> tuple[float, float]:
    """95 % interval of the accuracy, in percent, for other texts and other runs.

    The wider, on each side, of Clopper and Pearson's at the mean count and of the three views'.

    Args:
        correct: (S, N): whether each text was classified correctly with each seed.
        fold: (N,): the fold of each text.
    """
    views = fold_views(correct.astype(np.int8), fold)
    mean, half = float(views.mean), views.half_width(ALPHA)
    low, high = exact_interval(mean * correct.shape[1], correct.shape[1])
    return 100 * max(0.0, min(low, mean - half)), 100 * min(1.0, max(high, mean + half))
